#!/bin/sh
# docker-compose on our file, with the daemon and the fabric that were chosen.
#   compose.sh up|down|clean|logs|status|OTHER...     (OTHER goes to docker-compose as it is)
# environment: FABRIC=vhost or memif (deploy/docker/FABRIC.yml goes over docker-compose.yml), DOCKER, and all that .env sets
set -eu
cd "$(dirname "$0")/../.."
. deploy/docker/environment.sh

if [ -z "${DOCKER_HOST:-}" ]; then
    DOCKER_HOST=$(sh deploy/docker/daemon.sh host)
    if [ -n "$DOCKER_HOST" ]; then export DOCKER_HOST; else unset DOCKER_HOST; fi
fi
if ! command -v "$DOCKER" >/dev/null; then
    echo "compose: no Docker here; on Debian: sh deploy/install-deps.sh compose" >&2
    exit 1
fi
if ! $DOCKER version >/dev/null 2>&1; then
    echo "compose: no Docker daemon answers; start yours, or one by hand: sudo sh deploy/docker/daemon.sh start" >&2
    exit 1
fi

compose() {
    files="-f docker-compose.yml"
    case ${FABRIC:-} in
    memif | vhost) files="$files -f deploy/docker/$FABRIC.yml" ;;
    '' | af_packet) ;;
    *) echo "compose: FABRIC is af_packet, memif or vhost, not $FABRIC" >&2 && exit 2 ;;
    esac
    if $DOCKER compose version >/dev/null 2>&1; then
        $DOCKER compose $files "$@"
    else
        docker-compose $files "$@"
    fi
}

healthy() { # how many containers are, of how many
    $DOCKER ps -a --filter "label=com.docker.compose.project=$COMPOSE_PROJECT_NAME" --format '{{.Status}}' |
        awk '/\(healthy\)/ { n++ } END { print n + 0, NR }'
}

case "${1:-}" in
up)
    compose up -d 2>&1 | grep -vE '^(Creating|Starting) .*\.\.\. *$' || true
    for _ in $(seq 120); do
        set -- $(healthy)
        if [ "$1" -gt 0 ] && [ "$1" = "$2" ]; then
            echo "gateways   http://$PUBLISH_ADDRESS:$GATEWAY_0_PORT http://$PUBLISH_ADDRESS:$GATEWAY_1_PORT"
            echo "nodes      http://$PUBLISH_ADDRESS:$NODE_0_ADMIN_PORT/v1/status, $NODE_1_ADMIN_PORT, $NODE_2_ADMIN_PORT"
            echo "prometheus http://$PUBLISH_ADDRESS:$PROMETHEUS_PORT   s3 http://$PUBLISH_ADDRESS:$S3_PORT"
            exit 0
        fi
        sleep 1
    done
    compose ps
    echo "compose: not all containers are healthy after 120 s; make compose-logs" >&2
    exit 1
    ;;
down) compose down --remove-orphans 2>&1 | grep -v '\.\.\. *$' || true ;;
clean) compose down --remove-orphans --volumes 2>&1 | grep -v '\.\.\. *$' || true ;;
logs) shift && compose logs --tail "${LINES_EACH:-200}" "$@" ;;
status) # all nodes side by side; maroonctl of the image, in a container that is there
    compose exec -T gateway-0 maroonctl status --admin "$NODE_0:9100,$NODE_1:9100,$NODE_2:9100"
    ;;
cpu) # share of one core that the containers of nodes and gateways take together, health checks and all, over so many seconds
    seconds=${2:-20}
    spent_us() { # of a container, by the pid of its program
        if path=$(sed -n 's/^[0-9]*:[^:]*cpuacct[^:]*://p' "/proc/$1/cgroup") && [ -n "$path" ]; then
            echo $(($(cat "/sys/fs/cgroup/cpuacct$path/cpuacct.usage") / 1000))
        else
            sed -n 's/^usage_usec //p' "/sys/fs/cgroup$(sed -n 's/^0:://p' "/proc/$1/cgroup")/cpu.stat"
        fi
    }
    sum() {
        for service in node-0 node-1 node-2 gateway-0 gateway-1; do
            pid=$($DOCKER inspect --format '{{.State.Pid}}' "$($DOCKER ps -q --filter "label=com.docker.compose.project=$COMPOSE_PROJECT_NAME" \
                --filter "label=com.docker.compose.service=$service")")
            echo "$service $(date +%s%N | cut -c1-16) $(spent_us "$pid")"
        done
    }
    before=$(sum)
    sleep "$seconds"
    after=$(sum)
    printf '%s\n%s\n' "$before" "$after" | awk '
        $1 in spent { cpu = ($3 - spent[$1]) / ($2 - at[$1]) * 100; total += cpu; printf "%-10s %5.1f %% of a core\n", $1, cpu; next }
        { at[$1] = $2; spent[$1] = $3 }
        END { printf "%-10s %5.1f %% of a core\n", "together", total }'
    ;;
'') echo "usage: $0 up|down|clean|logs|status|cpu [SECONDS]|OTHER..." >&2; exit 2 ;;
*) compose "$@" ;;
esac
