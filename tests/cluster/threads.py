"""The stages on threads of their own: the same answers and the same state as on one, with loss, in both durabilities."""
from lib import cluster as c
from lib import scenario

LAYOUTS = [
    {"lcore-ingress": 0, "lcore-gossip": 0, "lcore-fetch": 0, "lcore-execute": 1, "durability": "disk"},
    {"lcore-ingress": 0, "lcore-gossip": 1, "lcore-fetch": 2, "lcore-execute": 3, "durability": "memory"},
]


def threads(layout):
    def run(cluster):
        cluster.start(nodes=3, gateways=1, node_keys={**layout, "segment-bytes": 1 << 20})
        cluster.network.lose(2)
        result = cluster.load(count=10000, connections=64, timeout=120)
        cluster.network.lose(0)
        assert cluster.total() == result["deposited"]
        cluster.wait_equal(60)
    return run


if __name__ == "__main__":
    for layout in LAYOUTS:
        scenario.main(threads(layout), programs=(c.NODE, c.GATEWAY, c.LOAD))
