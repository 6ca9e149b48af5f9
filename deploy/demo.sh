#!/bin/bash
# make demo: a node and a gateway on this machine, a few calls with their answers, then it keeps running.
# Ctrl-C, or any other end, ends all of it. DEMO_ONCE=1 ends after the calls.
set -u
node=${NODE:-build/maroon-node}
gateway=${GATEWAY:-build/maroon-gateway}
port=${PORT:-3000}
http_port=${GATEWAY_PORT:-5000}
admin=${ADMIN:-127.0.0.1:9100}
dir=$(mktemp -d "${TMPDIR:-/tmp}/maroon-demo.XXXXXX")
node_pid= gateway_pid=

end() {
    trap - EXIT INT TERM HUP
    for pid in $gateway_pid $node_pid; do kill "$pid" 2>/dev/null; done
    for _ in $(seq 50); do
        alive=
        for pid in $gateway_pid $node_pid; do kill -0 "$pid" 2>/dev/null && alive=$pid; done
        [ -z "$alive" ] && break
        sleep 0.1
    done
    for pid in $gateway_pid $node_pid; do kill -9 "$pid" 2>/dev/null; done
    wait 2>/dev/null
    rm -rf "$dir"
}
trap end EXIT
trap 'exit 0' INT
trap 'exit 143' TERM HUP

fail() {
    echo "demo: $1" >&2
    for log in node gateway; do
        [ -s "$dir/$log.log" ] && { echo "--- end of $log.log" >&2; tail -n 20 "$dir/$log.log" >&2; }
    done
    exit 1
}

# Waits until a URL answers 200, as long as the process lives.
await() { # name pid url
    for _ in $(seq 300); do
        curl -sf -o /dev/null --max-time 2 "$3" && return 0
        kill -0 "$2" 2>/dev/null || fail "the $1 ended"
        sleep 0.1
    done
    fail "the $1 is not ready after 30 s: $3"
}

for program in "$node" "$gateway"; do
    [ -x "$program" ] || fail "$program is not built"
done

# No short names of the environment: they are read here and given as flags.
unset ADMIN PORT GATEWAY_PORT KEY_RANGE NODE_URLS CONSENSUS_NODES
"$node" --port "$port" --admin "$admin" --data-dir "$dir/node" >"$dir/node.log" 2>&1 &
node_pid=$!
await node "$node_pid" "http://$admin/readyz"
"$gateway" --http-port "$http_port" --node-urls "/ip4/127.0.0.1/udp/$port" >"$dir/gateway.log" 2>&1 &
gateway_pid=$!
await gateway "$gateway_pid" "http://127.0.0.1:$http_port/readyz"

call() { # method json [headers-file]
    echo
    echo "\$ curl -s localhost:$http_port/bank.v1.Bank/$1 -H 'content-type: application/json' -d '$2'"
    curl -sS --max-time 10 -D "$dir/headers" "127.0.0.1:$http_port/bank.v1.Bank/$1" \
        -H 'content-type: application/json' -d "$2" || fail "the call failed"
    echo
}

call Deposit '{"account":"1","amount":"100"}'
call Transfer '{"from":"1","to":"2","amount":"30"}'
id=$(tr -d '\r' <"$dir/headers" | sed -n 's/^[Mm]aroon-[Tt]x-[Ii]d: //p')
call Transfer '{"from":"1","to":"2","amount":"1000"}'
call Balance '{"account":"2"}'
call Total '{}'
[ -n "$id" ] || fail "the answer has no Maroon-Tx-Id header"
echo
echo "\$ curl -s localhost:$http_port/v1/tx/$id        # the first transfer again, by its Maroon-Tx-Id"
curl -sS --max-time 10 "127.0.0.1:$http_port/v1/tx/$id" || fail "the call failed"
echo
echo
echo "gateway   http://127.0.0.1:$http_port   (/v1/status, /metrics)"
echo "node      http://$admin   (/v1/status, /metrics, /v1/epochs)"
[ -n "${DEMO_ONCE:-}" ] && exit 0
echo "running; Ctrl-C ends all of it"
wait -n "$node_pid" "$gateway_pid"
fail "a process ended by itself"
