"""etcd behind a proxy that delays every answer: commits are as fast as before, a take-over takes one answer more.

The amount, from protocol.md section 6 ("a slow etcd" in docs/protocol.md), in the moments that the new leader itself notes:

    last frame -> next commit = wait + rest + ANSWERS x delay        ANSWERS = 1, the transaction that takes the key
    wait = slice + (distance - 1) x turn, turn = max(slice, 2 x etcd's answer)

`rest` (asking the others for at most a quarter of a slice, PREPARE, adoption, the first epoch, etcd's own time) has no etcd in it
that was slowed: it is measured without a delay first, and has to stay what it was.

    etcd_slow.py [--delays 20,50,200] [--rounds 3]"""
import argparse
import statistics
import sys
import time

from lib import cluster as c
from lib import scenario, takeover
from lib.process import Process, wait_until

parser = argparse.ArgumentParser()
parser.add_argument("--delays", default="50,200")
parser.add_argument("--rounds", type=int, default=3)
arguments = parser.parse_args()
PORT = 2379
ANSWERS = 1
SPREAD_MS = 10  # of `rest` on shared cores, unless the rounds without a delay show more


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
    """Kills the leader. Returns what the next one noted: ms from the last frame to its first commit, of them etcd's answer, and
    what neither the wait nor the answers explain (without the pauses of its own loop)."""
    leader = cluster.leader()
    term = cluster.status(leader)["term"]
    ended_us = time.monotonic_ns() // 1000
    cluster.nodes[leader].kill()
    noted = takeover.wait_next(cluster, [index for index in range(3) if index != leader], term, ended_us)
    cluster.nodes[leader].start()
    cluster.wait_node_ready(leader)
    if not noted:
        return None  # the one that was killed had just been replaced
    took = noted.committed_ms - noted.heard_us / 1e3
    answer = (noted.at_us["won"] - noted.at_us["campaign"]) / 1e3
    turn = max(noted.slice_ms, 2 * noted.parts_ms["sliceEtcd"])
    wait = noted.slice_ms + (noted.distance - 1) * turn
    return took, answer, took - wait - noted.paused_ms - ANSWERS * delay


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
    base = None
    for delay in [0] + [int(word) for word in arguments.delays.split(",")]:
        cluster.delay_file.write_text(str(delay))
        leader, before = cluster.leader(), cluster.status(0)["term"]
        wait_until(lambda: measured(cluster, delay), 30, "the nodes measure it")
        p50 = statistics.median(cluster.load(seconds=1, connections=1)["p50_ms"] for _ in range(3))
        assert cluster.leader() == leader and cluster.status(0)["term"] == before, "slowness alone changes no term"
        rounds = []
        while len(rounds) < arguments.rounds:
            wait_until(lambda: measured(cluster, delay), 30, "the nodes measure it")
            one = take_over(cluster, delay)
            rounds += [one] if one else []
        took, answers, rest = zip(*rounds)
        print(f"{delay:4d} ms: commit p50 {p50:.3f} ms; take-over p50 {statistics.median(took):.1f} ms "
              f"({' '.join(f'{ms:.1f}' for ms in took)}), of it etcd's answer {' '.join(f'{ms:.1f}' for ms in answers)}, "
              f"beyond wait and answers {' '.join(f'{ms:.1f}' for ms in rest)}", flush=True)
        base = base or (p50, statistics.median(rest), max(SPREAD_MS, max(rest) - min(rest)))
        assert p50 < 1.5 * base[0] + 0.3, "commits do not wait for etcd"
        assert all(ms >= ANSWERS * delay for ms in answers), f"sooner than an answer: {answers}"
        assert abs(statistics.median(rest) - base[1]) <= base[2] + delay / 20, f"not the amount stated: {rest}, was {base[1]:.1f}"
    cluster.wait_equal()


if __name__ == "__main__":
    scenario.main(slow, programs=(c.NODE, c.GATEWAY, c.LOAD))
