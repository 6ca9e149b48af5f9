#!/bin/bash
# make test-compose: the whole profile, from nothing and back to nothing. Starts a Docker daemon by hand where none answers.
#   test.sh            environment: ROUNDS (of the drill, 1), KEEP=1 (leave the daemon with its images), FABRIC;
#                      BUILD_BY, DRILL_BY: commands put before builds and before what is timed, for machines that are shared
# What it makes is named maroon-test, and its ports are its own, so it does not touch a stack that runs.
set -euo pipefail
cd "$(dirname "$0")/../.."
export COMPOSE_PROJECT_NAME=maroon-test SUBNET=172.30.78.0/24
export NODE_0=172.30.78.10 NODE_1=172.30.78.11 NODE_2=172.30.78.12 GATEWAY_0=172.30.78.40 GATEWAY_1=172.30.78.41
export GATEWAY_0_PORT=15000 GATEWAY_1_PORT=15001 NODE_0_ADMIN_PORT=19100 NODE_1_ADMIN_PORT=19101 NODE_2_ADMIN_PORT=19102
export S3_PORT=19000 PROMETHEUS_PORT=19090
export BASE_IMAGE=maroon-test-debian:bookworm MAROON_IMAGE=maroon-test:local ETCD_IMAGE=maroon-test-etcd:local
export S3_IMAGE=maroon-test-s3:local PROMETHEUS_IMAGE=maroon-test-prometheus:local
export PYTHONDONTWRITEBYTECODE=1
compose="sh deploy/docker/compose.sh"
began=$SECONDS
step() { printf '=== %3d s  %s\n' $((SECONDS - began)) "$*"; }

left() { # what of this test is there
    docker ps -aq --filter label=com.docker.compose.project=$COMPOSE_PROJECT_NAME | sed 's/^/container /'
    docker volume ls -q --filter label=com.docker.compose.project=$COMPOSE_PROJECT_NAME | sed 's/^/volume /'
    docker network ls -q --filter label=com.docker.compose.project=$COMPOSE_PROJECT_NAME | sed 's/^/network /'
}

end() {
    status=$?
    trap - EXIT
    set +e
    if [ $status != 0 ] && [ -n "${up:-}" ]; then
        $compose ps
        LINES_EACH=30 $compose logs --no-color
    fi
    $compose clean >/dev/null 2>&1
    if [ -n "${own:-}" ] && [ "${KEEP:-}" != 1 ]; then
        sh deploy/docker/daemon.sh stop || status=1
        unset DOCKER_HOST
        pgrep -f "dockerd --data-root $PWD" && { echo "a dockerd is left" >&2; status=1; }
        ip link show docker0 >/dev/null 2>&1 && [ ! -n "${docker0:-}" ] && { echo "docker0 is left" >&2; status=1; }
        grep -q "$PWD/.maroon/docker\|/run/maroon-docker" /proc/mounts && { echo "mounts are left" >&2; status=1; }
    elif [ -z "${own:-}" ]; then # a daemon that was there: only what is ours
        docker image rm -f "$MAROON_IMAGE" "$ETCD_IMAGE" "$S3_IMAGE" "$PROMETHEUS_IMAGE" "$BASE_IMAGE" >/dev/null 2>&1
    fi
    [ $status = 0 ] && step "passed" || step "FAILED"
    exit $status
}
trap end EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

step "daemon"
[ ! -e /sys/class/net/docker0 ] || docker0=there
if ! docker info >/dev/null 2>&1; then
    own=1
    sh deploy/docker/daemon.sh start
    DOCKER_HOST=$(sh deploy/docker/daemon.sh host)
    export DOCKER_HOST
fi
echo "Docker $(docker version --format '{{.Server.Version}}'), $(docker images -q | wc -l) images"

step "images"
${BUILD_BY:-} sh deploy/docker/build.sh

step "up"
up=1
$compose clean >/dev/null
$compose up

step "status of all nodes"
$compose status

step "10,000 transfers through the published port $GATEWAY_0_PORT"
${DRILL_BY:-} python3 deploy/drills/drill.py transfers 10000 --on compose

step "Prometheus scrapes every target"
prometheus() { curl -fsS "http://127.0.0.1:$PROMETHEUS_PORT/api/v1/$1"; }
for _ in $(seq 30); do
    targets=$(prometheus targets | jq -r '.data.activeTargets[] | "\(.health) \(.labels.job) \(.labels.instance)"' | sort)
    echo "$targets" | grep -qv '^up ' || break
    sleep 1
done
echo "$targets"
[ "$(echo "$targets" | grep -c '^up ')" = 8 ] && [ "$(echo "$targets" | wc -l)" = 8 ]
for _ in $(seq 15); do # what was done just now comes with the next scrape
    led=$(prometheus 'query?query=sum(maroon_is_leader)' | jq -r '.data.result[0].value[1]')
    answered=$(prometheus 'query?query=sum(maroon_transaction_latency_seconds_count)' | jq -r '.data.result[0].value[1]')
    [ "$answered" -le 10000 ] || break
    sleep 1
done
echo "by its numbers $led node leads, and $answered transactions were answered"
[ "$led" = 1 ] && [ "$answered" -gt 10000 ]

step "a dump of the state in the S3 store"
$compose exec -T gateway-0 maroonctl dump now --admin "$NODE_1:9100"
for _ in $(seq 60); do
    dumped=$(curl -fsS "http://127.0.0.1:$NODE_1_ADMIN_PORT/v1/status" | jq -r '.dumps.lastSeq')
    [ "$dumped" = 0 ] || break
    sleep 0.5
done
$compose exec -T node-0 maroonctl dump list
$compose exec -T node-2 maroonctl dump verify
[ "$dumped" -gt 0 ]

step "at rest"
rest=$(${DRILL_BY:-} $compose cpu 15) # /dev/stderr opened again would cut off a file that all of this goes to
echo "$rest"
echo "$rest" | awk '/^together/ { exit !($2 < 15) }' || { echo "nodes and gateways take more than 15 % of a core at rest"; exit 1; }

step "the leader is paused"
${DRILL_BY:-} deploy/drills/pause-leader.sh --on compose --rounds "${ROUNDS:-1}"

step "a node is killed; the leader is cut off"
${DRILL_BY:-} deploy/drills/kill-node.sh --on compose
[ -n "${FABRIC:-}" ] || # its frames cross no bridge that could be cut
    ${DRILL_BY:-} deploy/drills/partition.sh --on compose

step "delay of etcd, where the kernel has netem"
if deploy/drills/delay-etcd.sh --on compose add 50; then
    python3 deploy/drills/drill.py transfers 1000 --on compose
    deploy/drills/delay-etcd.sh --on compose remove
fi

step "rolling restart under load"
${DRILL_BY:-} deploy/drills/rolling-restart.sh --on compose

step "all down and up again: what is on the volumes is still there"
total=$(curl -fsS "http://127.0.0.1:$GATEWAY_0_PORT/bank.v1.Bank/Total" -H 'content-type: application/json' -d '{}')
$compose down
$compose up >/dev/null
again=$(curl -fsS "http://127.0.0.1:$GATEWAY_1_PORT/bank.v1.Bank/Total" -H 'content-type: application/json' -d '{}')
echo "total before $total, after $again"
[ "$total" = "$again" ]
$compose status

if [ -z "${FABRIC:-}" ]; then
    step "one connection on this fabric, then all of it on shared memory (virtio-user to vhost), its connecting node killed"
    ${DRILL_BY:-} python3 deploy/drills/drill.py transfers 1000 --connections 1 --on compose
    $compose clean
    export FABRIC=vhost
    $compose up >/dev/null
    $compose status
    ${DRILL_BY:-} python3 deploy/drills/drill.py transfers 1000 --connections 1 --on compose
    ${DRILL_BY:-} deploy/drills/pause-leader.sh --on compose
    ${DRILL_BY:-} deploy/drills/kill-node.sh --on compose --node 2
fi

step "down"
$compose clean
[ -z "$(left)" ] || { echo "left:"; left; exit 1; }
