"""etcd behind a proxy that delays every answer: commits are as fast as before, a take-over is slower by a few answers.

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


def take_over(cluster):
    """Kills the leader; ms until another one has committed under its term."""
    leader = cluster.leader()
    cluster.nodes[leader].kill()
    began = time.monotonic()
    wait_until(lambda: [i for i in range(3) if i != leader and cluster.status(i)["role"] == "leader"], 20, "a new leader",
               interval=0.005)
    took = (time.monotonic() - began) * 1000
    cluster.nodes[leader].start()
    cluster.wait_node_ready(leader)
    return took


def slow(cluster):
    cluster.start_network()
    from lib.etcd import Etcd
    cluster.etcd = Etcd(cluster.network, cluster.workdir, 3)
    cluster.etcd.start()
    endpoints = add_proxies(cluster)
    cluster.node_addresses = [cluster.network.add_host(f"n{index}", 10 + index) for index in range(3)]
    for index in range(3):
        cluster.nodes.append(cluster._node(index, {"etcd-endpoints": endpoints}))
        cluster.nodes[index].start()
    for index in range(3):
        cluster.wait_node_ready(index)
    cluster.add_gateway()
    lines, base_p50, base_took = [], None, None
    for delay in [0] + [int(word) for word in arguments.delays.split(",")]:
        cluster.delay_file.write_text(str(delay))
        time.sleep(1.5)  # the nodes measure it
        leader, before = cluster.leader(), cluster.status(0)["term"]
        loads = [cluster.load(seconds=2, connections=1) for _ in range(arguments.rounds + 1)]
        assert cluster.leader() == leader and cluster.status(0)["term"] == before, "slowness alone changes no term"
        p50 = min(load["p50_ms"] for load in loads)
        took = statistics.median(take_over(cluster) for _ in range(arguments.rounds))
        lines.append(f"{delay:4d} ms: commit p50 {p50:.3f} ms, take-over {took:.0f} ms")
        print(lines[-1], flush=True)
        if base_p50 is None:
            base_p50, base_took = p50, took
        assert p50 < 1.5 * base_p50 + 0.5, "commits do not wait for etcd"
        # Stated in protocol.md: a slice is 2 answers of etcd at least; the next in the ring waits one, the other two, and two
        # more where one held more; the transaction is one answer. A rival's key costs one round more.
        assert delay < took < base_took + (2 * 4 + 1) * delay + 500, lines
    cluster.wait_equal()


if __name__ == "__main__":
    scenario.main(slow, programs=(c.NODE, c.GATEWAY, c.LOAD))
