"""Crashes under load, round after round: kill -9, SIGSTOP past the lease, a partition of the leader, and power loss of all.

Two gateways run bank transfers whose every answer is checked (load.c knows each balance), so what is lost, done twice or
out of order shows. In the end, in disk mode after another power loss, all answers are there, every account has what the last
answer about it said, the money is what was put in, and all nodes hold the same state. crash_checks.py: can these fail?

    crash.py [--durability disk|memory] [--rounds N] [--seed N]

In memory mode power loss is left out, and at most a minority is away at once: a node counts as back when it takes part."""
import argparse
import random
import time

from lib import cluster as c
from lib import scenario, takeover
from lib.process import wait_until

LEASE_S = 2
KEYS = {
    "lease-ttl-s": LEASE_S,
    "segment-bytes": 1 << 20,   # so that segments end and snapshots cut within the run
    "snapshot-bytes": 4 << 20,
}


class Crashes:
    def __init__(self, cluster, arguments):
        self.cluster = cluster
        self.disk = arguments.durability == "disk"
        self.random = random.Random(arguments.seed)
        self.takeovers = []  # of leaders that were killed
        self.kinds = ["kill", "pause", "partition"] + (["power"] if self.disk else [])
        self.limits_ms = (arguments.p50_ms, arguments.max_ms)
        self.rounds = arguments.rounds or 3 * len(self.kinds)

    def others(self, index):
        return [i for i in range(len(self.cluster.nodes)) if i != index]

    def leading(self):
        """The node that leads the highest term, or None. A deposed one may not know it yet."""
        found = {}
        for index in range(len(self.cluster.nodes)):
            try:
                status = self.cluster.status(index)
            except OSError:
                continue
            if status["role"] == "leader":
                found[status["term"]] = index
        return found[max(found)] if found else None

    def wait_leading(self):
        return wait_until(lambda: (index := self.leading()) is not None and [index], 60, "a node leads")[0]

    def wait_whole(self):
        """Every node takes part and none is far behind."""
        def whole():
            states = [self.cluster.status(i) for i in range(len(self.cluster.nodes))]
            seqs = [state["execSeq"] for state in states]
            return all(s["role"] in ("leader", "follower") for s in states) and max(seqs) - min(seqs) < 2000
        wait_until(whole, 120, "all nodes take part", alive=self.cluster.nodes)

    def kill(self):
        leader = self.wait_leading()
        victim = self.random.choice([leader, leader, self.random.randrange(len(self.cluster.nodes))])
        term = self.cluster.status(leader)["term"]
        ended_us = time.monotonic_ns() // 1000
        self.cluster.nodes[victim].kill()
        if victim == leader:
            found = takeover.wait_next(self.cluster, self.others(victim), term, ended_us)
            self.takeovers += [found] if found else []
        time.sleep(self.random.uniform(0.1, 1.0))
        self.cluster.nodes[victim].start()
        return f"kill -9 of n{victim}{' (leads)' if victim == leader else ''}"

    def pause(self):
        leader = self.wait_leading()
        victim = self.random.choice([leader, self.random.randrange(len(self.cluster.nodes))])
        self.cluster.nodes[victim].pause()
        time.sleep(LEASE_S + self.random.uniform(0.5, 1.5))
        self.cluster.nodes[victim].resume()
        return f"SIGSTOP of n{victim}{' (leads)' if victim == leader else ''} past its lease"

    def partition(self):
        leader = self.wait_leading()
        fabric_only = self.random.random() < 0.5
        self.cluster.network.isolate(f"n{leader}", "udp" if fabric_only else None)
        time.sleep(self.random.uniform(0.5, LEASE_S + 1))
        self.cluster.network.heal()
        return f"n{leader} (leads) cut off from {'the fabric' if fabric_only else 'everything'}"

    def power(self):
        for node in self.cluster.nodes:
            node.kill()
        for node in self.cluster.nodes:
            node.start()
            time.sleep(self.random.uniform(0, 0.2))
        return "power loss of all nodes"

    def run(self):
        schedule = [kind for i in range(0, self.rounds, len(self.kinds)) for kind in self.kinds][:self.rounds]
        self.random.shuffle(schedule)
        for number, kind in enumerate(schedule):
            self.wait_whole()
            time.sleep(self.random.uniform(0.3, 1.0))
            what = getattr(self, kind)()
            began = time.monotonic()
            wait_until(lambda: self.leading() is not None, 60, "a leader again", interval=0.01, alive=self.cluster.nodes)
            print(f"round {number + 1} of {self.rounds}: {what}; a leader {time.monotonic() - began:.2f} s later", flush=True)
        self.wait_whole()

    def report(self):
        if self.takeovers:
            print(takeover.spread(self.takeovers), flush=True)
            median, worst = takeover.median_and_max_ms(self.takeovers)
            assert median <= self.limits_ms[0] and worst <= self.limits_ms[1], \
                f"p50 {median:.1f} ms (at most {self.limits_ms[0]}), max {worst:.1f} ms (at most {self.limits_ms[1]})"


def check_state(cluster, results):
    """Is what was acknowledged in the state, once, and the same state everywhere? Returns (exec_seq, state hash)."""
    for gateway, result in enumerate(results):
        assert not result["uncertain"] and not result["unanswered"], result
        for account, balance in result["balances"].items():
            answer = cluster.bank("Balance", {"account": account}, 1 - gateway)  # the gateway that did not change it
            assert answer.status == 200, answer
            assert int(answer.json()["balance"]) == balance, f"account {account}: {answer.json()}, {balance} was acknowledged"
    total, deposited = cluster.total(), sum(result["deposited"] for result in results)
    assert total == deposited, f"{total} in all accounts, {deposited} were deposited"
    place = cluster.wait_equal(60)
    for index in range(len(cluster.nodes)):
        assert cluster.metric(index, "maroon_divergence_total") == 0
    return place


def main(arguments):
    def crash(cluster):
        cluster.start(nodes=3, gateways=2, node_keys={**KEYS, "durability": arguments.durability})
        crashes = Crashes(cluster, arguments)
        seconds = arguments.seconds or 8 * crashes.rounds
        loads = [cluster.start_load(gateway=i, seconds=seconds, connections=8, timeout=seconds + 120,
                                    first_account=1000 + 100000 * i, seed=arguments.seed + i) for i in range(2)]
        try:
            crashes.run()
        finally:
            for load in loads:
                if load.popen.poll() is None:
                    load.popen.send_signal(2)  # the run is over: the last answers are waited for
        results = [load.wait() for load in loads]
        crashes.report()
        if crashes.disk:
            crashes.power()  # at rest: what was answered last is in no later answer
            crashes.wait_whole()
        seq, state_hash = check_state(cluster, results)
        print(f"{sum(r['ok'] + r['refused'] for r in results)} transfers answered as they had to be, "
              f"{sum(len(r['balances']) for r in results)} balances; all nodes at epoch {seq}, state {state_hash[:16]}; longest time "
              f"without an answer {max(r['longest_gap_ms'] for r in results):.0f} ms", flush=True)
    scenario.main(crash, programs=(c.NODE, c.GATEWAY, c.LOAD))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--durability", choices=("disk", "memory"), default="disk")
    parser.add_argument("--rounds", type=int, default=0, help="0: three of each kind")
    parser.add_argument("--seconds", type=int, default=0, help="of load; 0: as long as the rounds may take")
    parser.add_argument("--p50-ms", type=float, default=1000, help="of take-overs from a killed leader; the target is 30")
    parser.add_argument("--max-ms", type=float, default=10000, help="the target is 150")
    parser.add_argument("--seed", type=int, default=1)
    main(parser.parse_args())
