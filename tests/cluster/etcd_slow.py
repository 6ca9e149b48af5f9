"""etcd behind a proxy that delays every answer: commits are as fast as before, a take-over takes one answer more.

The amount (docs/protocol.md, "a slow etcd"): the next node of the ring waits a slice, in which etcd has no part, asks the
others a quarter of a slice later at most, and takes the key by one answer. Those behind it wait two answers for it. Rounds are
held to it from both sides.

    etcd_slow.py [--delays 20,50,200] [--rounds 3]"""
import argparse
import statistics
import sys
import time

from lib import cluster as c
from lib import scenario
from lib.process import Process, wait_until

parser = argparse.ArgumentParser()
parser.add_argument("--delays", default="50,200")
parser.add_argument("--rounds", type=int, default=1)
arguments = parser.parse_args()
PORT = 2379
NOISE_MS = 80  # a status that is polled, a core that is shared


def add_proxies(cluster):
    """One in front of each member, in the client's namespace; the nodes get these as endpoints."""
    cluster.delay_file = cluster.workdir / "delay-ms"
    cluster.delay_file.write_text("0")
    address = cluster.network.hosts["client"]
    script = c.ROOT / "tests/cluster/lib/delay.py"
    for index, member in enumerate(cluster.etcd.addresses):
        cluster.others.append(Process(f"proxy{index}", [sys.executable, script, address, PORT + index, member, PORT,
                                                        cluster.delay_file], cluster.workdir,
                                      cluster.network.namespace("client")).start())
    return ",".join(f"http://{address}:{PORT + index}" for index in range(len(cluster.etcd.addresses)))


def take_over(cluster, delay):
    """Kills the leader. Returns ms until another one leads, and what of it is not explained: beyond the wait of the one that
    waits least (its distance in the ring times its slice) and one answer of etcd."""
    leader = cluster.leader()
    others = [index for index in range(3) if index != leader]
    states = [cluster.status(index) for index in others]
    wait_ms = min(int(state["takeoverDelayUs"]) for state in states) / 1000
    began = time.monotonic()
    cluster.nodes[leader].kill()
    wait_until(lambda: [i for i in others if cluster.status(i)["role"] == "leader"], 20, "a new leader", interval=0.005)
    took = (time.monotonic() - began) * 1000
    cluster.nodes[leader].start()
    cluster.wait_node_ready(leader)
    return took, took - wait_ms - delay


def measured(cluster, delay):
    """Every node knows how slow etcd is."""
    return all(int(cluster.status(index)["etcd"]["latencyUs"]) >= 900 * delay for index in range(3))


def slow(cluster):
    cluster.start_network()
    from lib.etcd import Etcd
    cluster.etcd = Etcd(cluster.network, cluster.workdir, 3)
    cluster.etcd.start()
    endpoints = add_proxies(cluster)
    cluster.node_addresses = [cluster.network.add_host(f"n{index}", 10 + index) for index in range(3)]
    for index in range(3):
        cluster.nodes.append(cluster._node(index, {"etcd-endpoints": endpoints, **c.CALM}))
        cluster.nodes[index].start()
    for index in range(3):
        cluster.wait_node_ready(index)
    cluster.add_gateway()
    base_p50 = None
    for delay in [0] + [int(word) for word in arguments.delays.split(",")]:
        cluster.delay_file.write_text(str(delay))
        leader, before = cluster.leader(), cluster.status(0)["term"]
        wait_until(lambda: measured(cluster, delay), 30, "the nodes measure it")
        p50 = statistics.median(cluster.load(seconds=1, connections=1)["p50_ms"] for _ in range(arguments.rounds + 2))
        assert cluster.leader() == leader and cluster.status(0)["term"] == before, "slowness alone changes no term"
        took, rest = [], []
        for _ in range(arguments.rounds):
            wait_until(lambda: measured(cluster, delay), 30, "the nodes measure it")
            one, unexplained = take_over(cluster, delay)
            took.append(one)
            rest.append(unexplained)
        base_p50 = base_p50 or p50
        print(f"{delay:4d} ms: commit p50 {p50:.3f} ms; take-over p50 {statistics.median(took):.0f} ms "
              f"({' '.join(f'{ms:.0f}' for ms in took)}), beyond slice and answer: {' '.join(f'{ms:.0f}' for ms in rest)}",
              flush=True)
        assert p50 < 1.5 * base_p50 + 0.3, "commits do not wait for etcd"
        assert all(ms >= delay for ms in took), f"sooner than an answer: {took}"
        # Above it comes what the machine adds; a duel or a node that stood still lets one round wait for the next in the ring.
        middle = statistics.median(rest)
        assert middle <= delay / 5 + NOISE_MS and max(rest) <= 4 * delay + 3 * NOISE_MS, f"not the amount stated: {rest}"
    cluster.wait_equal()


if __name__ == "__main__":
    scenario.main(slow, programs=(c.NODE, c.GATEWAY, c.LOAD))
