"""etcd behind a proxy that delays every answer: commits are as fast as before, a take-over takes one answer more.

The amount, from protocol.md section 6 ("a slow etcd" in docs/protocol.md), in the moments that the new leader itself notes:

    last frame -> next commit = wait + asking + rest + ANSWERS x delay        ANSWERS = 1, the transaction that takes the key
    wait = slice + (distance - 1) x turn, turn = max(slice, 2 x etcd's answer)
    asking the others: a quarter of a slice at most, as the node that asks notes it

`rest` (PREPARE, adoption, the first epoch, etcd's own time) has no etcd in it that was slowed: it is measured without a delay first,
and has to stay what it was.

    etcd_slow.py [--delays 20,50,200] [--rounds 3] [--tries 3]

--tries: take-overs are measured again, with and without the delay, when the amount is not that: other users of the machine change one
series, what the nodes do wrong all of them."""
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
parser.add_argument("--tries", type=int, default=3)
arguments = parser.parse_args()
PORT = 2379
ANSWERS = 1
SLICE = {"slice-floor-us": 100000, "slice-max-us": 1000000}  # greater than most pauses
SPREAD_MS = 10  # of `rest` on shared cores, unless the take-overs without a delay show more


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
    what neither the wait nor the asking nor the answers explain (without the pauses of its own loop)."""
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
    asking = (noted.at_us["alone"] - noted.at_us["silent"]) / 1e3
    return took, answer, took - wait - asking - noted.paused_ms - ANSWERS * delay


def measured(cluster, delay):
    """Every node knows how slow etcd is."""
    return all(int(cluster.status(index)["etcd"]["latencyUs"]) >= 900 * delay for index in range(3))


def take_overs(cluster, delay):
    """Three lists, one value a take-over: ms in all, etcd's answer, what is beyond wait, asking and answers."""
    cluster.delay_file.write_text(str(delay))
    rounds = []
    while len(rounds) < arguments.rounds:
        wait_until(lambda: measured(cluster, delay), 60, "the nodes measure it")
        one = take_over(cluster, delay)
        rounds += [one] if one else []
    took, answers, rest = zip(*rounds)
    print(f"{delay:4d} ms: take-over p50 {statistics.median(took):.1f} ms "
          f"({' '.join(f'{ms:.1f}' for ms in took)}), of it etcd's answer {' '.join(f'{ms:.1f}' for ms in answers)}, "
          f"beyond wait, asking and answers {' '.join(f'{ms:.1f}' for ms in rest)}", flush=True)
    assert all(ms >= ANSWERS * delay for ms in answers), f"sooner than an answer: {answers}"
    return took, answers, rest


def commits(cluster, delay):
    """Their p50 in ms."""
    cluster.delay_file.write_text(str(delay))
    for _ in range(arguments.tries):  # a pause changes one, slowness all
        wait_until(lambda: measured(cluster, delay), 60, "the nodes measure it")
        leader, before = cluster.leader(), cluster.status(0)["term"]
        p50 = statistics.median(cluster.load(seconds=1, connections=1)["p50_ms"] for _ in range(3))
        if cluster.leader() == leader and cluster.status(0)["term"] == before:
            break
    else:
        raise AssertionError("slowness alone changes no term")
    print(f"{delay:4d} ms: commit p50 {p50:.3f} ms", flush=True)
    return p50


def as_stated(cluster, delay, base):
    """Whether a take-over takes the stated amount more; what it was, if not. base: the rest without a delay."""
    rest = take_overs(cluster, delay)[2]
    allowed = min(max(SPREAD_MS, max(base) - min(base)) + delay / 20, delay / 2)  # an answer more would be `delay`
    more = statistics.median(rest) - statistics.median(base)
    return None if abs(more) <= allowed else f"{more:.1f} ms more, allowed are {allowed:.1f}: {rest}, was {base}"


def slow(cluster):
    cluster.start_network()
    from lib.etcd import Etcd
    cluster.etcd = Etcd(cluster.network, cluster.workdir, 3)
    cluster.etcd.start()
    endpoints = add_proxies(cluster)
    cluster.node_addresses = [cluster.network.add_host(f"n{index}", 10 + index) for index in range(3)]
    for index in range(3):
        cluster.nodes.append(cluster._node(index, {"etcd-endpoints": endpoints, **SLICE}))
        cluster.nodes[index].start()
    for index in range(3):
        cluster.wait_node_ready(index)
    cluster.add_gateway()
    p50, base = commits(cluster, 0), take_overs(cluster, 0)[2]
    for delay in [int(word) for word in arguments.delays.split(",")]:
        assert commits(cluster, delay) < 1.5 * p50 + delay / 4, "commits do not wait for etcd"
        missed = []
        while len(missed) < arguments.tries and (wrong := as_stated(cluster, delay, base)):
            print(wrong, flush=True)
            missed.append(wrong)
            base = take_overs(cluster, 0)[2]
        assert len(missed) < arguments.tries, f"not the amount stated: {missed}"
    cluster.wait_equal()


if __name__ == "__main__":
    scenario.main(slow, programs=(c.NODE, c.GATEWAY, c.LOAD))
