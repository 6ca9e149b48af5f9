"""Exactly once, by clients and gateways that come again: an idempotency key over two gateways, over a take-over and over a power
loss; the key with another request; the pinned range of a gateway that died is sealed, and its heir goes on where it ended."""
from lib import cluster as c
from lib import http, scenario
from lib.process import wait_until

KEYS = {"durability": "disk", "lease-ttl-s": 2, "seal-after-ms": 1000, "segment-bytes": 1 << 20}


def keyed(cluster, gateway, key, message, method="Deposit"):
    return cluster.bank(method, message, gateway, headers={"idempotency-key": key})


def idempotency(cluster):
    first = keyed(cluster, 0, "order-17", {"account": "7", "amount": "40"})
    assert first.status == 200, first

    def again(when):
        for gateway in range(2):
            answer = keyed(cluster, gateway, "order-17", {"account": "7", "amount": "40"})
            assert answer.status == 200 and answer.json() == first.json(), (when, gateway, answer)
        other = keyed(cluster, 1, "order-17", {"account": "7", "amount": "41"})
        assert other.status == 400 and other.json()["code"] == "failed_precondition", (when, other)
        assert cluster.bank("Balance", {"account": "7"}, 1).json() == {"balance": "40"}, when
        print(f"{when}: the same key gets the first result, another request under it is refused", flush=True)

    again("over two gateways")
    leader = cluster.leader()
    cluster.nodes[leader].kill()
    cluster.leader()
    again("after the leader was killed")
    cluster.nodes[leader].start()
    cluster.wait_node_ready(leader)
    for node in cluster.nodes:
        node.kill()
    for node in cluster.nodes:
        node.start()
    for index in range(3):
        cluster.wait_node_ready(index)
    for address in cluster.gateway_addresses:
        wait_until(lambda: http.request(address, "/readyz", timeout=2).status == 200, 60, "a leader is heard")
    again("after all nodes lost power")


def offset(answer):
    return int(answer.headers["maroon-tx-id"]) & ((1 << 30) - 1)


def heir(cluster):
    """g0 holds range 1. It is killed; who pins that range gets it only once it is sealed, and from its end on."""
    last = [cluster.bank("Deposit", {"account": "8", "amount": "1"}, 0) for _ in range(20)][-1]
    cluster.gateways[0].kill()
    process, address = cluster.gateways[0], cluster.gateway_addresses[0]

    def ready():
        if not process.alive():  # refused: the range is not sealed yet
            process.start()
            return False
        return http.request(address, "/readyz", timeout=2).status == 200
    wait_until(ready, 60, "the heir has the range", interval=0.3)
    seals = [line for line in cluster.nodes[0].log_path.read_text().splitlines() if "range=1 " in line]
    first = cluster.bank("Deposit", {"account": "8", "amount": "1"}, 0)
    ids = [int(answer.headers["maroon-tx-id"]) for answer in (last, first)]
    assert [number >> 30 for number in ids] == [1, 1], ids
    assert offset(first) > offset(last), (ids, seals)
    assert cluster.bank("Balance", {"account": "8"}, 1).json() == {"balance": "21"}
    print(f"the dead gateway's range was sealed: its last offset {offset(last)}, its heir's first {offset(first)}", flush=True)


def exactly_once(cluster):
    cluster.start(nodes=3, gateways=2, node_keys=KEYS, key_ranges=[1, 2])
    idempotency(cluster)
    heir(cluster)
    assert cluster.total(1) == 40 + 21
    cluster.wait_equal()


if __name__ == "__main__":
    scenario.main(exactly_once, programs=(c.NODE, c.GATEWAY))
