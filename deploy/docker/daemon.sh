#!/bin/sh
# A Docker daemon by hand, for machines where none runs. All it has lies in one directory, and stop takes away what it left
# in the machine's network.
#   daemon.sh start    does nothing if one answers already
#   daemon.sh stop     ends the one that start began, with its images, containers and volumes
#   daemon.sh host     prints the DOCKER_HOST of the one that start began; nothing if there is none
# environment: DOCKER_DIR (default .maroon/docker)
set -eu
cd "$(dirname "$0")/../.."
directory=${DOCKER_DIR:-$PWD/.maroon/docker}
socket=/run/maroon-docker.sock # short: containerd's paths below are limited to 108 bytes
run=/run/maroon-docker

ours() { [ -f "$run/pid" ] && kill -0 "$(cat "$run/pid")" 2>/dev/null; }

start() {
    if ! ours && docker info >/dev/null 2>&1; then
        return 0
    fi
    ours && return 0
    [ "$(id -u)" = 0 ] || { echo "daemon: no Docker daemon answers, and starting one takes root" >&2; exit 1; }
    command -v dockerd >/dev/null || { echo "daemon: no dockerd; sh deploy/install-deps.sh compose" >&2; exit 1; }
    mkdir -p "$directory" "$run"
    # How the network was, to put it back.
    cat /proc/sys/net/ipv4/ip_forward >"$run/ip_forward"
    iptables -S FORWARD | sed -n 's/^-P FORWARD //p' >"$run/forward_policy"
    [ -e /sys/class/net/docker0 ] && touch "$run/docker0_was_there"
    setsid dockerd --data-root "$directory/data" --exec-root "$run/exec" --pidfile "$run/pid" -H "unix://$socket" \
        >"$directory/log" 2>&1 </dev/null &
    child=$!
    for _ in $(seq 120); do
        if DOCKER_HOST=unix://$socket docker info >/dev/null 2>&1; then
            return 0
        fi
        kill -0 "$child" 2>/dev/null || break
        sleep 0.25
    done
    tail -n 20 "$directory/log" >&2
    echo "daemon: dockerd does not start; its log is $directory/log" >&2
    exit 1
}

# Rules and chains that dockerd made and does not remove.
clear_network() {
    for table in nat filter; do
        iptables -t $table -S | grep -E '^-A .*(DOCKER|docker0)' | sed 's/^-A/-D/' | while read -r rule; do
            eval "iptables -t $table $rule" 2>/dev/null || true
        done
        for chain in $(iptables -t $table -S | sed -n 's/^-N \(DOCKER.*\)/\1/p'); do
            iptables -t $table -F "$chain"
        done
        for chain in $(iptables -t $table -S | sed -n 's/^-N \(DOCKER.*\)/\1/p'); do
            iptables -t $table -X "$chain"
        done
    done
    iptables -P FORWARD "$(cat "$run/forward_policy")"
    cat "$run/ip_forward" >/proc/sys/net/ipv4/ip_forward
    [ -e "$run/docker0_was_there" ] || ip link delete docker0 2>/dev/null || true
}

stop() {
    [ -d "$run" ] || return 0
    if ours; then
        pid=$(cat "$run/pid")
        DOCKER_HOST=unix://$socket docker ps -q | xargs -r env DOCKER_HOST=unix://$socket docker kill >/dev/null 2>&1 || true
        kill "$pid"
        for _ in $(seq 120); do
            kill -0 "$pid" 2>/dev/null || break
            sleep 0.25
        done
        if kill -0 "$pid" 2>/dev/null; then
            echo "daemon: dockerd ($pid) does not end" >&2
            exit 1
        fi
    fi
    clear_network
    for mount in $(awk -v a="$run/" -v b="$directory/" 'index($2, a) == 1 || index($2, b) == 1 { print $2 }' /proc/mounts | sort -r); do
        umount "$mount" || umount -l "$mount"
    done
    for group in /sys/fs/cgroup/*/docker /sys/fs/cgroup/docker; do
        [ ! -d "$group" ] || find "$group" -depth -type d -exec rmdir {} + 2>/dev/null || true
    done
    rm -rf --one-file-system "$run" "$directory" "$socket"
}

case "${1:-}" in
start) start ;;
stop) stop ;;
host) ! ours || echo "unix://$socket" ;;
*) echo "usage: $0 start|stop|host" >&2; exit 2 ;;
esac
