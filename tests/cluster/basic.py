"""Three nodes, three etcd members and a gateway: many transfers, then the same state everywhere."""
import os

from lib import cluster as c
from lib import scenario
from lib.process import wait_until

TRANSFERS = int(os.environ.get("MRN_TRANSFERS", 100000))


def basic(cluster):
    cluster.start(nodes=3, gateways=1)
    cluster.leader()
    result = cluster.load(count=TRANSFERS, connections=64, timeout=400)
    assert result["ok"] + result["refused"] == TRANSFERS, result
    assert cluster.total() == result["deposited"], "money is neither made nor lost"
    seq, _ = cluster.wait_equal()
    assert seq > 0
    for index in range(3):
        wait_until(lambda: cluster.metric(index, "maroon_transactions_executed_total") >= TRANSFERS, 60, f"n{index} executed all")


if __name__ == "__main__":
    scenario.main(basic, programs=(c.NODE, c.GATEWAY, c.LOAD))
