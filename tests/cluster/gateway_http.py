"""The gateway's HTTP, all of interfaces: codes and statuses, asynchronous requests, idempotency keys, transactions by id at
any gateway, the WebSocket of events, deadlines, a full window, no node. One node and two gateways, without privileges."""
import re
import socket
import threading
import time

import local
from lib import cluster as c
from lib import http, scenario
from lib.process import Process, wait_until
from lib.websocket import WebSocket

JSON = {"content-type": "application/json"}


def second_gateway(cluster, address):
    """Another gateway of the same node, with a small window. Returns its address."""
    first = cluster.others[1]
    port = int(address.split(":")[1])
    home = first.workdir
    gateway = Process("gateway2", [home / c.GATEWAY.name, "--results-kept=16", "--request-timeout-ms=700"], home,
                      user=first.user, environment={**first.environment, "KEY_RANGE": "2", "GATEWAY_PORT": str(port + 2)})
    cluster.others.append(gateway.start())
    wait_until(lambda: http.request(f"127.0.0.1:{port + 2}", "/readyz").status == 200, 60, "it is ready", alive=[gateway])
    return f"127.0.0.1:{port + 2}"


def check_refusals(address):
    def post(path, body, headers=JSON):
        answer = http.request(address, path, "POST", body, headers)
        assert answer.headers["content-type"] == "application/json" and "code" in answer.json(), (body[:40], answer)
        return answer.status, answer.json()["code"], answer

    deposit = "/bank.v1.Bank/Deposit"
    for body in (b"{", b"[]", b"{\"account\":-1}", b"{\"account\":\"1\",\"amount\":1e30}", b"{\"nonsense\":1}", b"\xff\xfe"):
        status, code, answer = post(deposit, body)
        assert (status, code) == (400, "invalid_argument"), (body, answer)
        assert answer.json()["message"], answer
    assert post(deposit, b"\x0a", {"content-type": "application/proto"})[:2] == (400, "invalid_argument")
    assert post("/bank.v1.Bank/Nonsense", b"{}")[:2] == (404, "unimplemented")
    assert post("/bank.v2.Bank/Deposit", b"{}")[:2] == (404, "unimplemented")
    assert post("/nonsense", b"{}")[:2] == (404, "unimplemented")
    assert post(deposit, b"{}", {"content-type": "text/plain"})[0] == 415
    assert post(deposit, b"{}", {**JSON, "content-encoding": "gzip"})[:2] == (501, "unimplemented")
    assert post(deposit, b"{}", {**JSON, "connect-protocol-version": "2"})[:2] == (400, "invalid_argument")
    assert post(deposit, b"{}", {**JSON, "connect-timeout-ms": "soon"})[:2] == (400, "invalid_argument")
    assert post(deposit, b"{}", {**JSON, "idempotency-key": "x" * 65})[:2] == (400, "invalid_argument")
    status, code, answer = post(deposit, b" " * (2 << 20))
    assert (status, code) == (429, "resource_exhausted") and "retry-after" not in answer.headers, "it would never fit"
    got = http.request(address, deposit)
    assert got.status == 405 and got.headers["allow"] == "POST", got
    assert http.request(address, deposit, "PUT", b"{}", JSON).status == 405
    assert http.request(address, "/v1/tx/12x").status == 400
    assert http.request(address, "/v1/tx/99999999999999999999").status == 400
    for owner in ("", "0", "x1", "1234567", "-1"):
        assert http.request(address, f"/v1/tx/1?owner={owner}").status == 400, owner
    ok = http.request(address, deposit, "POST", b'{"account":"7","amount":"1"}',
                      {"content-type": "application/json; charset=utf-8", "connect-protocol-version": "1"})
    assert ok.status == 200, ok


def state_of(address, number, wanted, seconds=60):  # number: perhaps with ?owner=
    def asked():
        answer = http.request(address, f"/v1/tx/{number}")
        assert answer.status == 200, answer
        return answer.json() if answer.json()["state"] == wanted else None
    return wait_until(asked, seconds, f"{number} is {wanted}")


def check_async(one, two):
    answer = http.call(one, c.BANK, "Deposit", {"account": "50", "amount": "9"}, headers={"prefer": "wait=1, respond-async"})
    assert answer.status == 202 and answer.headers["preference-applied"] == "respond-async", answer
    number = answer.headers["maroon-tx-id"]
    place = answer.headers["location"]
    assert re.fullmatch(rf"/v1/tx/{number}\?owner=[0-9a-f]{{6}}", place) and answer.json()["id"] == number, answer.headers
    for address in (one, two):
        for asked in (number, place.removeprefix("/v1/tx/")):
            told = state_of(address, asked, "executed")
            assert told["id"] == number and told["result"] == {"balance": "9"} and int(told["epoch"]) > 0, told
        another = f"{number}?owner={int(place[-6:], 16) ^ 1 or 2:06x}"
        assert state_of(address, another, "unknown") == {"id": number, "state": "unknown", "epoch": "0"}, "another owner's"
    refused = http.call(one, c.BANK, "Withdraw", {"account": "50", "amount": "10"}, headers={"prefer": "respond-async"})
    told = state_of(two, refused.headers["maroon-tx-id"], "executed")
    assert told["code"] == "failed_precondition" and told["message"] and "result" not in told, told
    assert http.request(one, f"/v1/tx/{(1 << 30) + 5000000}").json()["state"] == "unknown"
    bad = http.request(one, "/bank.v1.Bank/Deposit", "POST", b"{", {**JSON, "prefer": "respond-async"})
    assert bad.status == 400, "what cannot be sent is refused at once"


def check_keys(one, two):
    def deposit(address, amount, key):
        return http.call(address, c.BANK, "Deposit", {"account": "60", "amount": amount}, headers={"idempotency-key": key})

    first = deposit(one, "5", "order 1")
    assert first.json() == {"balance": "5"}
    assert deposit(one, "5", "order 1").json() == {"balance": "5"}, "a repeat gets the first result"
    assert deposit(two, "5", "order 1").json() == {"balance": "5"}, "also through another gateway"
    proto = http.request(two, "/bank.v1.Bank/Deposit", "POST", b"\x08\x3c\x10\x05",
                         {"content-type": "application/proto", "idempotency-key": "order 1"})
    assert proto.status == 200 and proto.body == b"\x08\x05", "also as protobuf"
    other = deposit(two, "6", "order 1")
    assert other.status == 400 and other.json()["code"] == "failed_precondition", "another request under the same key"
    assert deposit(one, "5", "order 2").json() == {"balance": "10"}
    assert http.call(one, c.BANK, "Balance", {"account": "60"}).json() == {"balance": "10"}


def check_full_keys(one, admin):
    """The node remembers 64 keys for a day. It says so before they are all taken; then new ones are refused, and nothing else."""
    def deposit(key=None):
        return http.call(one, c.BANK, "Deposit", {"account": "61", "amount": "1"}, headers={"idempotency-key": key} if key else {})

    def taken():
        return int(http.metric_sum(http.metrics(admin), "maroon_idempotency_keys"))
    before = wait_until(lambda: (count := taken()) == 2 and count, 60, "order 1 and order 2 are counted")
    assert not http.request(admin, "/v1/status").json()["alarms"]
    for number in range(64 - before):
        assert deposit(f"fill {number}").status == 200
    wait_until(lambda: taken() == 64 == int(http.metric_sum(http.metrics(admin), "maroon_idempotency_keys_max")), 60, "all are taken")
    wait_until(lambda: any("idempotency keys" in alarm for alarm in http.request(admin, "/v1/status").json()["alarms"]), 60, "it is said")
    full = deposit("one more")
    assert full.status == 429 and full.json()["code"] == "resource_exhausted" and "maroon-tx-id" in full.headers, full
    assert "idempotency-keys" in full.json()["message"] and "idempotency-span-s" in full.json()["message"], full
    balance = http.call(one, c.BANK, "Balance", {"account": "61"}).json()["balance"]
    assert deposit("fill 0").json() == {"balance": "1"}, "what is remembered is repeated"
    assert http.call(one, c.BANK, "Balance", {"account": "61"}).json()["balance"] == balance == str(64 - before)
    assert deposit().status == 200, "without a key nothing is remembered"


def collect(watch, count, seconds=60):
    """Messages until `count` transactions are executed: {id: [events in their order]}."""
    seen = {}
    executed = 0
    end = time.monotonic() + seconds
    while executed < count and time.monotonic() < end:
        event = watch.message()
        seen.setdefault(event.get("id"), []).append(event)
        executed += event["event"] == "executed"
    return seen


def check_monitor(address):
    for headers, status in (({}, 426), ({"upgrade": "websocket", "connection": "upgrade"}, 426),
                            ({"upgrade": "websocket", "connection": "upgrade", "sec-websocket-version": "13",
                              "sec-websocket-key": "short"}, 426)):
        answer = http.request(address, "/v1/monitor", headers=headers)
        assert answer.status == status and answer.headers["sec-websocket-version"] == "13", answer
    watch, other = WebSocket(address, "/v1/monitor"), WebSocket(address, "/v1/monitor")
    wait_until(lambda: http.metrics(address)["maroon_monitor_watchers"] == 2, 60, "both watch")
    one = http.call(address, c.BANK, "Deposit", {"account": "70", "amount": "1"})
    two = http.call(address, c.BANK, "Withdraw", {"account": "70", "amount": "2"})
    for socket_ in (watch, other):
        seen = collect(socket_, 2)
        for answer, code in ((one, "ok"), (two, "failed_precondition")):
            events = seen[answer.headers["maroon-tx-id"]]
            assert [event["event"] for event in events] == ["sent", "committed", "executed"], events
            assert events[2]["epoch"] == answer.headers["maroon-epoch"] and events[2]["code"] == code, events
            assert int(events[2]["latencyUs"]) > 0
    other.send_close()
    assert other.message() is None, "a close is answered"
    wait_until(lambda: http.metrics(address)["maroon_monitor_watchers"] == 1, 60, "one left")

    load = c.Load(address, {"count": 20000, "connections": 16})  # while nobody reads: nothing waits for it
    load.wait()
    lost = http.metrics(address)["maroon_monitor_events_lost_total"]
    stored, told, executed = 0, 0, 0
    watch.socket.settimeout(1)
    for _ in range(20):
        try:
            while True:
                event = watch.message()
                told += event["count"] if event["event"] == "lost" else 0
                stored += event["event"] != "lost"
                executed += event["event"] == "executed"
        except TimeoutError:
            pass
        if told == lost:
            break
        http.call(address, c.BANK, "Total", {})  # what was lost is told before the next event
    watch.socket.settimeout(60)
    print(f"slow watcher: {stored} events read, {told} told as lost, {lost:.0f} counted as lost")
    assert lost > 0 and told == lost and executed > 0, "a slow one loses events, and hears how many"
    return watch


def check_deadline(cluster, address):
    node = cluster.others[0]
    node.pause()
    try:
        began = time.monotonic()
        late = http.call(address, c.BANK, "Deposit", {"account": "80", "amount": "1"}, headers={"connect-timeout-ms": "300"})
        assert late.status == 504 and late.json()["code"] == "deadline_exceeded", late
        assert 0.25 < time.monotonic() - began < 20  # its own deadline, not the gateway's of 30 s
        number = late.headers["maroon-tx-id"]
        assert late.headers["location"].startswith(f"/v1/tx/{number}?owner="), late.headers
        answer = http.request(address, f"/v1/tx/{number}")
        assert answer.status == 503 and answer.headers["retry-after"], "no node answers"
    finally:
        node.resume()
    assert state_of(address, number, "executed")["result"] == {"balance": "1"}, "it went on"


def check_full_window(cluster, address):
    """With 16 in flight that nobody answers, the others wait, and are pushed back: 429 with Retry-After."""
    node = cluster.others[0]
    answers = []

    def ask(number):
        answers.append(http.call(address, c.BANK, "Deposit", {"account": "90", "amount": "1"}))

    node.pause()
    try:
        threads = [threading.Thread(target=ask, args=(number,)) for number in range(24)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert http.request(address, "/v1/status").json()["window"] == 0
    finally:
        node.resume()
    statuses = sorted(answer.status for answer in answers)
    assert statuses == [429] * 8 + [504] * 16, statuses
    for answer in answers:
        assert (answer.status == 429) == ("retry-after" in answer.headers), answer.headers
        assert (answer.status == 429) == ("maroon-tx-id" not in answer.headers), "what was pushed back has no id"
    for answer in answers:
        if answer.status == 504:
            state_of(address, answer.headers["maroon-tx-id"], "executed")
    assert http.call(address, c.BANK, "Balance", {"account": "90"}).json() == {"balance": "16"}, "each once, the others never"
    wait_until(lambda: http.metrics(address)["maroon_window_full_total"] > 0, 60, "it is counted")
    wait_until(lambda: http.request(address, "/v1/status").json()["window"] > 0, 60, "the window is open again")


def check_no_node(cluster, address):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as nobody:
        nobody.bind(("127.0.0.1", 0))
        port = int(address.split(":")[1]) + 3
        first = cluster.others[1]
        gateway = Process("gateway3", [first.workdir / c.GATEWAY.name, "--request-timeout-ms=300"], first.workdir,
                          user=first.user, environment={**first.environment, "GATEWAY_PORT": str(port), "KEY_RANGE": "3",
                                                        "NODE_URLS": f"/ip4/127.0.0.1/udp/{nobody.getsockname()[1]}"})
        cluster.others.append(gateway.start())
        lonely = f"127.0.0.1:{port}"
        wait_until(lambda: http.request(lonely, "/healthz").status == 200, 60, "it serves", alive=[gateway])
        assert http.request(lonely, "/readyz").status == 503
        answer = http.call(lonely, c.BANK, "Total", {})
        assert answer.status == 503 and answer.json()["code"] == "unavailable" and answer.headers["retry-after"], answer
        assert "no node" in answer.json()["message"] and "maroon-tx-id" not in answer.headers
        answer = http.request(lonely, "/v1/tx/5")
        assert answer.status == 503 and answer.json()["code"] == "unavailable", answer


def ask_until_closed(address, requests):
    """On one connection that is kept, as fast as it answers."""
    host, port = address.split(":")
    try:
        with socket.create_connection((host, int(port)), timeout=60) as connection:
            while True:
                connection.sendall(requests)
                if not connection.recv(65536):
                    return
    except OSError:
        pass


def ask_telemetry_until_closed(process, commands):
    """DPDK's own commands, which read the memory that it would give back."""
    path = process.workdir / f"dpdk/maroon-{process.pid}/dpdk_telemetry.v2"  # where local.start puts it
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        connection.settimeout(60)
        connection.connect(str(path))
        connection.recv(16384)  # its greeting
        try:
            while True:
                for command in commands:
                    connection.send(command.encode())
                    if not connection.recv(65536):
                        return
        except OSError:
            pass


def asked_all_the_time(process, address, paths):
    """Threads that ask until nobody answers, 2 for each path and 2 over telemetry."""
    commands = ["/eal/heap_list", "/eal/memzone_list", "/mempool/list", "/maroon/status"]
    threads = [threading.Thread(target=ask_telemetry_until_closed, args=(process, commands)) for _ in range(2)]
    for path in paths:
        one = (f"POST {path} HTTP/1.1\r\nHost: g\r\nContent-Type: application/json\r\nContent-Length: 30\r\n\r\n"
               '{"account":"77","amount":"1" }' if path.startswith("/bank") else f"GET {path} HTTP/1.1\r\nHost: g\r\n\r\n")
        threads += [threading.Thread(target=ask_until_closed, args=(address, one.encode() * 8)) for _ in range(2)]
    for thread in threads:
        thread.start()
    return threads


def check_end_while_asked(cluster, address):
    """A program ends cleanly while it is asked. Some of what its pages are made of is freed before its HTTP server ends."""
    first = cluster.others[1]
    port = int(address.split(":")[1]) + 4
    home = first.workdir
    for number in range(6):
        gateway = Process(f"gateway4.{number}", [home / c.GATEWAY.name], home, user=first.user,
                          environment={**first.environment, "KEY_RANGE": str(10 + number), "GATEWAY_PORT": str(port)})
        cluster.others.append(gateway.start())
        wait_until(lambda: http.request(f"127.0.0.1:{port}", "/readyz").status == 200, 60, "it is ready", alive=[gateway])
        threads = asked_all_the_time(gateway, f"127.0.0.1:{port}", ["/bank.v1.Bank/Deposit", "/v1/status", "/v1/tx/5", "/metrics"])
        time.sleep(0.1)
        assert gateway.stop() == 0, f"{gateway.name} ends cleanly while it is asked"
        for thread in threads:
            thread.join()
        cluster.others.remove(gateway)


def check_metrics(address):
    metrics = http.metrics(address)
    for name in ("transaction_latency_seconds_count", "window_full_total", "rx_packets_total", "tx_packets_total",
                 'rx_dropped_total{reason="checksum"}'):
        assert f"maroon_{name}" in metrics, name
    buckets = [value for key, value in metrics.items() if key.startswith("maroon_transaction_latency_seconds_bucket")]
    assert buckets == sorted(buckets) and buckets[-1] == metrics["maroon_transaction_latency_seconds_count"] > 0
    assert http.request(address, "/v1/status").json()["nodes"] == 1


def gateway_http(cluster):
    one = local.start(cluster, ["--idempotency-keys=64"])
    host, port = one.split(":")
    two = second_gateway(cluster, one)
    check_refusals(one)
    check_async(one, two)
    check_keys(one, two)
    watch = check_monitor(one)
    check_deadline(cluster, one)
    check_full_window(cluster, two)
    check_no_node(cluster, one)
    check_metrics(one)
    check_end_while_asked(cluster, one)
    check_full_keys(one, f"{host}:{int(port) + 1}")  # where local.start puts it
    node, *gateways = cluster.others
    for process in gateways[::-1]:
        assert process.stop() == 0, f"{process.name} ends cleanly on SIGTERM, also while it is watched"
    threads = asked_all_the_time(node, f"{host}:{int(port) + 1}", ["/v1/status", "/readyz", "/metrics", "/v1/epochs?from=1&wait_ms=100"])
    time.sleep(0.1)
    assert node.stop() == 0, "the node ends cleanly while it is asked"
    for thread in threads:
        thread.join()
    try:
        while watch.message() is not None:
            pass
    except EOFError:
        pass


if __name__ == "__main__":
    scenario.main(gateway_http, programs=(c.NODE, c.GATEWAY, c.LOAD), root=False)
