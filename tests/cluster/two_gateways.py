"""Two gateways with ranges of their own at once; a range that is taken is refused."""
import threading
import time

from lib import cluster as c
from lib import http, scenario
from lib.process import wait_until

TRANSFERS = 20000
RANGE_TTL_S = 3


def two_gateways(cluster):
    cluster.start(nodes=3, gateways=2, key_ranges=[1, 2], node_keys={"range-ttl-s": RANGE_TTL_S, "seal-after-ms": 1000})
    loads = [cluster.start_load(gateway=index, count=TRANSFERS, connections=32, timeout=120, seed=index,
                                first_account=1000 + 1000000 * index) for index in range(2)]
    results = [load.wait() for load in loads]
    deposited = sum(result["deposited"] for result in results)
    assert cluster.total(0) == cluster.total(1) == deposited
    cluster.wait_equal()

    one = cluster.bank("Deposit", {"account": "1", "amount": "5"}, gateway=0)
    two = cluster.bank("Balance", {"account": "1"}, gateway=1)
    assert two.json() == {"balance": "5"}, "what one gateway was told, the other sees"
    other = http.request(cluster.gateway_addresses[1], f"/v1/tx/{one.headers['maroon-tx-id']}").json()
    assert other["state"] == "executed" and other["result"] == one.json(), "any gateway tells a result"

    cluster.add_gateway(key_range=1, wait=False)
    third = cluster.gateways[2]
    wait_until(lambda: not third.alive(), 60, "a gateway whose pinned range is taken ends")
    assert third.popen.returncode > 0 and "range" in third.tail(), third.tail()
    address = cluster.add_gateway()  # not pinned: gets one of its own
    assert http.call(address, c.BANK, "Total", {}).json() == {"total": str(deposited + 5)}
    restarts(cluster, address)
    unheard_by_the_leader(cluster)
    lost(cluster)


def unheard_by_the_leader(cluster):
    """Its range's lease is renewed through the others: nothing is sealed, and it is served."""
    cluster.network.cut("g0", f"n{cluster.leader()}")
    end = time.monotonic() + 2 * RANGE_TTL_S + 1
    while time.monotonic() < end:
        assert cluster.bank("Deposit", {"account": "3", "amount": "1"}, gateway=0, timeout=60).status == 200
        time.sleep(0.2)
    cluster.network.heal()
    status = http.request(cluster.gateway_addresses[0], "/v1/status").json()
    assert status["range"] == "1", status
    assert http.metrics(cluster.gateway_addresses[0])["maroon_ranges_sealed_total"] == 0


def add_heir(cluster):
    """One more gateway with range 9; while that is another's it ends, and is started again. Returns its address."""
    address = cluster.add_gateway(key_range=9, wait=False)
    process = cluster.gateways[-1]

    def ready():
        if not process.alive():
            process.start()
            return False
        return http.request(address, "/readyz", timeout=2).status == 200
    wait_until(ready, 60, "the heir has the range", interval=0.3)
    return address


def lost(cluster):
    """Cut off for so long that its pinned range went through two others: nobody can say SEALED to it any more. It
    gives the range up, says so, ends what was sent with an error that tells that nobody knows, and goes on with
    another range."""
    index = len(cluster.gateways)
    address = cluster.add_gateway(key_range=9, keys={"request-timeout-ms": 60000})
    assert http.call(address, c.BANK, "Deposit", {"account": "4", "amount": "1"}).status == 200
    cluster.network.isolate(f"g{index}", protocol="udp")
    answers = []
    client = threading.Thread(
        target=lambda: answers.append(http.call(address, c.BANK, "Deposit", {"account": "4", "amount": "100"}, timeout=120)))
    client.start()
    for last in (False, True):
        time.sleep(RANGE_TTL_S + 2)  # before that it is taken, and not waited for
        other = add_heir(cluster)
        assert http.call(other, c.BANK, "Deposit", {"account": "4", "amount": "10"}).status == 200
        assert http.request(other, "/v1/status").json()["range"] == "9"
        if not last:
            cluster.gateways[-1].kill()
    cluster.network.heal()
    client.join(90)
    answer = answers[0]
    assert answer.status == 500 and answer.json()["code"] == "unknown" and "another" in answer.json()["message"], answer
    wait_until(lambda: http.request(address, "/v1/status").json()["range"] not in (None, "9"), 60, "another range")
    facts = http.request(address, "/v1/status").json()
    assert facts["rangesLost"] == "1" and facts["inDoubt"] == "1", facts
    assert http.metrics(address)["maroon_ranges_lost_total"] == 1
    assert http.metrics(address)["maroon_transactions_in_doubt_total"] == 1
    assert http.call(address, c.BANK, "Balance", {"account": "4"}).json() == {"balance": "21"}, "and was not executed"
    assert " range_lost " in cluster.gateways[index].tail(), cluster.gateways[index].tail()


def restarts(cluster, address):
    """A gateway that comes again gets a range that nobody ever held: no id is used twice."""
    process = cluster.gateways[-1]
    seen = set()
    for _ in range(3):
        ids = {int(http.call(address, c.BANK, "Total", {}).headers["maroon-tx-id"]) for _ in range(20)}
        assert len(ids) == 20 and not ids & seen, "ids are new"
        assert not {number >> 30 for number in ids} & {number >> 30 for number in seen}, "and of a range of their own"
        seen |= ids
        process.kill()
        process.start()
        wait_until(lambda: http.request(address, "/readyz", timeout=2).status == 200, 60, "the gateway is back", alive=[process])
    owners = {}
    for index in range(3):
        for entry in cluster.status(index)["ranges"]:
            assert owners.setdefault(entry["range"], entry["owner"]) == entry["owner"], "one range, one owner, on every node"
    assert len(set(owners.values())) == len(owners) >= 6, owners


if __name__ == "__main__":
    scenario.main(two_gateways, programs=(c.NODE, c.GATEWAY, c.LOAD))
