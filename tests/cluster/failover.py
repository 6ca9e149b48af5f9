"""The leader is killed under bank load from two gateways, round after round: how long until the next epoch is committed,
and where that time goes (target F1). Afterwards every answer was right, the money is there, all nodes hold one state.

    failover.py [--durability disk|memory] [--rounds N] [--p50-ms N] [--max-ms N] [--seed N]

Also counts leaders lost for no reason: under the same load, without a fault, for --quiet-seconds, with --contenders processes
that do nothing but use the processors."""
import argparse
import random
import subprocess
import sys
import time

from lib import cluster as c
from lib import scenario, takeover
from lib.process import wait_until


class Contenders:
    """Processes that only burn cycles."""

    def __init__(self, count, nice):
        self.popens = [subprocess.Popen(["nice", "-n", str(nice), sys.executable, "-c", "while True: pass"])
                       for _ in range(count)]

    def stop(self):
        for popen in self.popens:
            popen.kill()
            popen.wait()


def highest_term(cluster):
    return max(cluster.status(index)["term"] for index in range(len(cluster.nodes)))


def wait_whole(cluster):
    def whole():
        states = [cluster.status(i) for i in range(len(cluster.nodes))]
        seqs = [state["execSeq"] for state in states]
        return all(s["ready"] for s in states) and max(seqs) - min(seqs) < 2000
    wait_until(whole, 120, "all nodes take part", alive=cluster.nodes)


def kill_leader(cluster, rng):
    leader = cluster.leader()
    term = cluster.status(leader)["term"]
    ended_us = time.monotonic_ns() // 1000
    cluster.nodes[leader].kill()
    found = takeover.wait_next(cluster, [i for i in range(len(cluster.nodes)) if i != leader], term, ended_us)
    time.sleep(rng.uniform(0.1, 0.5))
    cluster.nodes[leader].start()
    return found


def gaps(cluster, index):
    """Gaps between frames of the leader that the node has seen, by the upper bound in ms (powers of two)."""
    values = cluster.metrics(index)
    prefix = 'maroon_leader_gap_seconds_bucket{le="'
    below = sorted((float(name[len(prefix):-2]) * 1e3, value) for name, value in values.items()
                   if name.startswith(prefix) and "Inf" not in name)
    return {bound: value - (below[at - 1][1] if at else 0) for at, (bound, value) in enumerate(below)}


def quiet(cluster, arguments):
    """Terms begun while nothing was broken."""
    contenders = Contenders(arguments.contenders, arguments.contenders_nice)
    try:
        before = highest_term(cluster)
        leader = cluster.leader()
        followers = [i for i in range(len(cluster.nodes)) if i != leader]
        gaps_before = [gaps(cluster, i) for i in followers]
        time.sleep(arguments.quiet_seconds)
        slices = [int(cluster.status(i)["sliceUs"]) / 1e3 for i in range(len(cluster.nodes))]
        gained = [node.log_path.read_text().count(" takeover ") for node in cluster.nodes]
        resigned = [node.log_path.read_text().count(" resigned ") for node in cluster.nodes]
        after = highest_term(cluster)
        longer = [{f"{bound:.0f}": int(count - was[bound]) for bound, count in gaps(cluster, i).items()
                   if bound > 3 and count > was[bound]} for i, was in zip(followers, gaps_before)]
    finally:
        contenders.stop()
    print(f"{arguments.quiet_seconds} s without a fault, {arguments.contenders} contenders: terms from {before} to {after}, "
          f"take-overs logged {gained}, resigned {resigned}, slices {slices} ms; "
          f"gaps of the leader by upper bound in ms: {longer}", flush=True)


def main(arguments):
    def failover(cluster):
        cluster.start(nodes=3, gateways=2, node_keys={"durability": arguments.durability, **dict(key.split("=") for key in arguments.key)})
        rng = random.Random(arguments.seed)
        seconds = 18 * arguments.rounds + 60 + arguments.quiet_seconds
        loads = [cluster.start_load(gateway=i, seconds=seconds, connections=8, timeout=seconds + 120,
                                    first_account=1000 + 100000 * i, seed=arguments.seed + i) for i in range(2)]
        found = []
        try:
            time.sleep(2)
            if arguments.quiet_seconds:
                quiet(cluster, arguments)
            for number in range(3 * arguments.rounds):  # some find a leader that had just been replaced
                if len(found) == arguments.rounds:
                    break
                wait_whole(cluster)
                time.sleep(rng.uniform(0.5, 1.5))
                one = kill_leader(cluster, rng)
                found += [one] if one else []
                print(f"{len(found)} of {arguments.rounds}: {one or 'it had just been replaced'}", flush=True)
            wait_whole(cluster)
        finally:
            for load in loads:
                if load.popen.poll() is None:
                    load.popen.send_signal(2)
        results = [load.wait() for load in loads]
        assert cluster.total() == sum(result["deposited"] for result in results)
        seq, state_hash = cluster.wait_equal(60)
        print(f"all nodes at epoch {seq}, state {state_hash[:16]}")
        assert len(found) == arguments.rounds, f"only {len(found)} of {arguments.rounds} take-overs could be measured"
        print(takeover.spread(found), flush=True)
        median, worst = takeover.median_and_max_ms(found)
        assert median <= arguments.p50_ms and worst <= arguments.max_ms, \
            f"p50 {median:.1f} ms (at most {arguments.p50_ms}), max {worst:.1f} ms (at most {arguments.max_ms})"
    scenario.main(failover, programs=(c.NODE, c.GATEWAY, c.LOAD))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--durability", choices=("disk", "memory"), default="disk")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--p50-ms", type=float, default=30)
    parser.add_argument("--max-ms", type=float, default=150)
    parser.add_argument("--quiet-seconds", type=int, default=0)
    parser.add_argument("--contenders", type=int, default=0)
    parser.add_argument("--contenders-nice", type=int, default=0)
    parser.add_argument("--key", action="append", default=[], help="KEY=VALUE of the nodes")
    parser.add_argument("--seed", type=int, default=1)
    main(parser.parse_args())
