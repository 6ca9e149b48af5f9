"""Planned hand-overs under load: how long no transaction is answered around each, and how long otherwise.

    handover.py [--count 20] [--most-ms 10] [--durability memory|disk]

The load generator lists the times without an answer; its clock (CLOCK_MONOTONIC) is every process's. A hand-over's gap is
the longest of them that touches the time from the command until the clients have been answered by the new leader for a
while. Windows of equal length without a hand-over say what the machine does by itself."""
import argparse
import statistics
import subprocess
import time

from lib import cluster as c
from lib import scenario
from lib.process import wait_until

parser = argparse.ArgumentParser()
parser.add_argument("--count", type=int, default=5)
parser.add_argument("--most-ms", type=float, default=10)  # target F2
parser.add_argument("--durability", default="memory")
parser.add_argument("--connections", type=int, default=4)
arguments = parser.parse_args()
WINDOW_S = 0.2
LEAST_US = 1000


def longest_ms(gaps, since, until):
    return max((ms for at, ms in gaps if at + ms / 1000 > since and at < until), default=LEAST_US / 1000)


def hand_over(cluster):
    """Asks the leader. Returns when that was."""
    leader = cluster.leader()
    began = time.monotonic()
    done = subprocess.run([str(c.absolute(c.CTL)), "leader", "--handover", "--admin", cluster.admin(leader)],
                          capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    wait_until(lambda: cluster.leader() != leader, 5, f"another leads than node {leader}", interval=0.02)
    return began


def scene(cluster):
    cluster.start(nodes=3, gateways=1, node_keys={"durability": arguments.durability})
    cluster.load(seconds=1, connections=arguments.connections)
    load = cluster.start_load(seconds=2 + int(arguments.count * 1.2), connections=arguments.connections, gaps_us=LEAST_US)
    time.sleep(0.5)
    moments, still = [], []
    for _ in range(arguments.count):
        still.append(time.monotonic())
        time.sleep(WINDOW_S + 0.1)
        moments.append(hand_over(cluster))
        time.sleep(WINDOW_S + 0.1)
    with_one = [longest_ms(gaps, at, at + WINDOW_S) for gaps in [load.wait()["gaps"]] for at in moments]
    without = [longest_ms(gaps, at, at + WINDOW_S) for gaps in [load.result["gaps"]] for at in still]
    for name, samples in (("hand-over", with_one), ("without", without)):
        print(f"{name}: p50 {statistics.median(samples):.1f} max {max(samples):.1f} ms of {len(samples)}: "
              f"{' '.join(f'{ms:.1f}' for ms in samples)}", flush=True)
    cluster.wait_equal()


if __name__ == "__main__":
    scenario.main(scene, programs=(c.NODE, c.GATEWAY, c.CTL))
