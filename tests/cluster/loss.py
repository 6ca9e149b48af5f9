"""5 % of the packets lost and some reordered; then the same with a gateway that reaches one node only. Everything commits,
by fetching."""
import os

from lib import cluster as c
from lib import scenario
from lib.process import wait_until

TRANSFERS = int(os.environ.get("MRN_TRANSFERS", 100000))


def fetched(cluster):
    return (sum(cluster.metric(index, "maroon_fetch_requests_total") for index in range(3)),
            sum(cluster.metric(index, "maroon_fetched_bodies_total") for index in range(3)))


def loss(cluster):
    cluster.start(nodes=3, gateways=1)
    cluster.leader()
    cluster.network.lose(5)
    cluster.network.reorder(5)
    first = cluster.load(count=TRANSFERS, connections=256, timeout=400)
    requests, bodies = fetched(cluster)
    print(f"lost {cluster.network.counted('loss')}, late {cluster.network.counted('reorder')}, "
          f"fetches {requests:.0f}, fetched bodies {bodies:.0f}")
    assert cluster.network.counted("loss") > 0 and cluster.network.counted("reorder") > 0
    assert requests > 0 and bodies > 0, "what was lost was fetched"
    assert cluster.total() == first["deposited"]
    cluster.wait_equal()

    for node in ("n1", "n2"):
        cluster.network.cut("g0", node, protocol="udp", one_way=True)
    second = cluster.load(count=TRANSFERS, connections=256, timeout=400, first_account=1000000)
    assert cluster.network.counted("cuts") > 0
    cluster.network.lose(0)
    cluster.network.reorder(0)
    assert cluster.total() == first["deposited"] + second["deposited"]
    cluster.wait_equal()
    bodies = wait_until(lambda: (more := fetched(cluster)[1] - bodies) >= 2 * TRANSFERS and more, 60,
                        "n1 and n2 got all bodies from others")
    print(f"to one node only: fetched bodies {bodies:.0f}")


if __name__ == "__main__":
    scenario.main(loss, programs=(c.NODE, c.GATEWAY, c.LOAD))
