"""Drills on a running cluster: something is done to it under load, and what clients and nodes saw is judged.

    drill.py pause-leader | kill-node | partition | rolling-restart | delay-etcd | transfers   (each has --help)

Exit status: 0 all well; 1 something acknowledged is missing or wrong, two leaders committed, a limit was passed; 2 not run."""
import argparse
import json
import statistics
import sys
import time

import stack as stacks
from disk import Disk
from load import Load
from watch import SLOW_SYNC_S, Watch, slow_syncs

WARM_S = 1.5


class Failed(Exception):
    """The cluster did not do what it must."""


class Drill:
    """One run: load and watch around what is done; a timeline; a verdict."""

    def __init__(self, stack, arguments):
        self.stack = stack
        self.arguments = arguments
        self.began = time.monotonic()
        self.events = []
        self.facts = {}
        self.done_at = None
        self.taken_over_at = None
        self.role_back = "-"

    # ---- what happens ----

    def note(self, words, moment=None):
        self.events.append((time.monotonic() if moment is None else moment, words))

    def until(self, condition, seconds, what):
        end = time.monotonic() + seconds
        while True:
            value = condition()
            if value is not None and value is not False:
                return value
            if time.monotonic() > end:
                raise Failed(f"not within {seconds} s: {what}")
            time.sleep(0.005)

    def leader(self, without=(), above=-1, newer_than=0.0):
        """Index of the node that says it leads a term above `above`, or None."""
        found = {}
        for index in range(self.stack.nodes):
            status = self.watch.status(index, newer_than)
            if index not in without and status and status["role"] == "leader" and int(status["term"]) > above:
                found[int(status["term"])] = index
        return found[max(found)] if found else None

    def victim(self):
        """The node that --node names; by default the leader."""
        leader = self.until(lambda: self.leader(newer_than=self.began), 30, "a node leads")
        self.term = int(self.watch.status(leader)["term"])
        chosen = self.arguments.node
        index = leader if chosen == "leader" else (leader + 1) % self.stack.nodes if chosen == "follower" else int(chosen)
        if not 0 <= index < self.stack.nodes:
            raise stacks.Trouble(f"there is no node {index}")
        self.note(f"node {leader} leads, term {self.term}" + ("" if index == leader else f"; the drill takes node {index}"))
        return index, index == leader

    def take_over(self, victim, since):
        """Waits until another node leads a later term and has committed under it."""
        new = self.until(lambda: self.leader(without=(victim,), above=self.term, newer_than=since), 30, "a new leader")
        first = self.watch.status(new)
        term, seq = int(first["term"]), int(first["commitSeq"])
        self.until(lambda: (s := self.watch.status(new)) and int(s["commitSeq"]) > seq, 30, "a commit under the new term")
        self.note(f"node {new} leads, term {term}, and has committed")
        self.taken_over_at = time.monotonic()

    def back(self, index, since, was):
        """Waits until a node takes part again and is not behind; says what it did on the way."""
        def whole():
            status = self.watch.status(index, since)
            if not status or not status["ready"] or (was == "leader" and int(status["term"]) <= self.term):
                return None  # a leader that was away does not know at once that it leads no more
            return status
        status = self.until(whole, 60, f"node {index} takes part again")
        self.note(f"node {index} takes part again: {status['role']}, term {status['term']}")
        self.role_back = status["role"]
        if was == "leader" and status["role"] != "follower":
            raise Failed(f"node {index} was away, another took over, and it comes back as {status['role']}")
        return status

    # ---- around it ----

    def run(self, action):
        """Returns True when all was well; the timeline and the verdict are printed."""
        arguments = self.arguments
        trouble = []
        self.watch = Watch(self.stack.admin).start()
        self.load = None
        self.disk = Disk(self.stack.disk()).start()
        try:
            self.until(lambda: all(s and s["ready"] for s in map(self.watch.status, range(self.stack.nodes))), 60,
                       "every node is ready before the drill")
            syncs = [slow_syncs(address) for address in self.stack.admin]
            self.load = Load(self.stack.gateways, connections=arguments.connections)
            time.sleep(WARM_S)
            action(self)
            time.sleep(1)
        except Failed as error:
            trouble.append(str(error))
        finally:
            if self.load:
                self.load.stop()
        self.disk.stop()
        if not self.load:
            self.watch.stop()
            raise Failed("; ".join(trouble))
        self.slow_syncs = 0
        for index, address in enumerate(self.stack.admin):
            slow = slow_syncs(address)
            # A node that was started again counts from zero.
            slow = slow - syncs[index] if slow >= syncs[index] else slow
            self.slow_syncs += slow
            if slow:
                self.note(f"node {index}: {slow} journal syncs took longer than 134 ms (log_sync_seconds)")
        self.trouble = trouble
        self.judge()
        self.watch.stop()
        self.report()
        return not self.trouble

    def judge(self):
        load, trouble = self.load, self.trouble
        longest_s, at = load.longest_gap(begin=self.done_at)
        gap_s = longest_s
        if self.taken_over_at:
            gap_s, gap_at = load.longest_gap(begin=self.done_at, end=self.taken_over_at)
            self.note(f"no answer for {self.words(gap_s, gap_at)}: the change of leader", gap_at)
        if not self.taken_over_at or at != gap_at:
            self.note(f"no answer for {self.words(longest_s, at)}: the longest of all", at)
        self.facts = {"stack": self.stack.name, "gap_ms": round(gap_s * 1000, 1), "longest_ms": round(longest_s * 1000, 1),
                      "disk_ms": round(self.disk.overlap(at, at + longest_s) * 1000, 1), "slow_syncs": self.slow_syncs,
                      "disk_stalls": sum(b - a > SLOW_SYNC_S for a, b in self.disk.stalls), "answered": len(load.answers),
                      "failed": len(load.failures), "wrong": len(load.wrong), "back": self.role_back}
        try:
            accounts = load.check_accounts()
            self.note(f"{len(load.answers)} acknowledged transactions; {accounts} accounts read back at each gateway")
        except (OSError, ValueError) as error:
            trouble.append(f"accounts cannot be read back: {error}")
        trouble += [f"acknowledged and wrong: {what}" for what in load.wrong[:5]]
        if load.failures:
            self.note(f"{len(load.failures)} requests had to be sent again, the first: {load.failures[0][1]}", load.failures[0][0])
        if self.arguments.no_failures and load.failures:
            trouble.append(f"{len(load.failures)} requests failed at the gateways, the first: {load.failures[0][1]}")
        if not load.answers:
            trouble.append("the gateways answered nothing")
        limit = self.arguments.max_gap_ms
        if limit and longest_s * 1000 > limit:
            trouble.append(f"{longest_s * 1000:.0f} ms without an answer, {limit:g} are allowed")
        try:
            self.until(self.equal, 60, "all nodes at one place with one state")
        except Failed as error:
            trouble.append(f"{error}: {self.watch.last}")
        trouble += self.watch.split[:5]

    def words(self, gap_s, at):
        stood_s = self.disk.overlap(at, at + gap_s)
        return f"{gap_s * 1000:.0f} ms" + (f" (for {stood_s * 1000:.0f} of them the disk stood still)" if stood_s else "")

    def equal(self):
        """All nodes have executed all that is committed, and all say the same of it."""
        states = [self.watch.status(index) for index in range(self.stack.nodes)]
        if not all(states):
            return False
        keys = ("commitSeq", "execSeq", "commitHash", "resultHash", "stateHashSeq", "stateHash")
        if len({tuple(state[key] for key in keys) for state in states}) != 1 or states[0]["execSeq"] != states[0]["commitSeq"]:
            return False
        self.note(f"all nodes equal at epoch {states[0]['execSeq']}, state {states[0]['stateHash'][:16]}")
        return True

    def report(self):
        if self.arguments.json:
            print(json.dumps({**self.facts, "trouble": self.trouble}), flush=True)
            return
        zero = self.done_at if self.done_at is not None else self.began
        seen = [(moment, f"  node {node}: {words}") for moment, node, words in self.watch.changes]
        print(f"--- {self.arguments.drill} on {self.stack.name}; ms from what was done")
        for moment, words in sorted(self.events + seen):
            print(f"{(moment - zero) * 1000:10.1f}  {words}")
        for words in self.trouble:
            print(f"FAILED: {words}")
        print(f"gap {self.facts['gap_ms']} ms, longest {self.facts['longest_ms']} ms, {self.facts['answered']} acknowledged, "
              f"{self.facts['failed']} sent again, {'nothing lost' if not self.trouble else 'see above'}", flush=True)


# ---- the drills ----

def for_a_while(drill, take, give, taken, given, was=None):
    """Takes a node from the others for --seconds, and gives it back; `was`: as what it comes back, when not as itself."""
    victim, leads = drill.victim()
    drill.done_at = since = time.monotonic()
    take(victim)
    try:
        drill.note(taken.format(victim))
        if leads:
            drill.take_over(victim, since)
        time.sleep(drill.arguments.seconds)
    finally:
        since = time.monotonic()
        give(victim)
    drill.note(given.format(victim))
    drill.back(victim, since, was or ("leader" if leads else "follower"))


def pause_leader(drill):
    for_a_while(drill, drill.stack.pause, drill.stack.resume, "node {} stands still", "node {} goes on")


def kill_node(drill):
    for_a_while(drill, drill.stack.kill, drill.stack.start, "node {} was killed", "node {} is started", "gone")


def partition(drill):
    for_a_while(drill, drill.stack.isolate, lambda victim: drill.stack.heal(), "node {} is cut off from all others, and from etcd",
                "the cut is healed")


def rolling_restart(drill):
    """Followers first, the leader last: one change of leadership."""
    leader = drill.until(lambda: drill.leader(newer_than=drill.began), 30, "a node leads")
    drill.done_at = time.monotonic()
    for index in [i for i in range(drill.stack.nodes) if i != leader] + [leader]:
        role = (drill.watch.status(index) or {}).get("role", "?")
        drill.note(f"node {index} ({role}) is stopped")
        drill.stack.stop(index)
        drill.note(f"node {index} has ended")
        since = time.monotonic()
        drill.stack.start(index)
        drill.back(index, since, "gone")
        time.sleep(drill.arguments.seconds)


DRILLS = {"pause-leader": pause_leader, "kill-node": kill_node, "partition": partition, "rolling-restart": rolling_restart}


def rounds(stack, arguments):
    gaps, longest, back, well = [], [], [], True
    for number in range(arguments.rounds):
        if arguments.rounds > 1 and not arguments.json:
            print(f"=== round {number + 1} of {arguments.rounds}")
        drill = Drill(stack, arguments)
        well = drill.run(DRILLS[arguments.drill]) and well
        gaps.append(drill.facts["gap_ms"])
        longest.append(drill.facts["longest_ms"])
        back.append(drill.facts.get("back", "-"))
    if arguments.rounds > 1:
        print(f"{arguments.drill} on {stack.name}, {len(gaps)} rounds: gap p50 {statistics.median(gaps):.0f} ms, max {max(gaps):.0f} ms; "
              f"longest time without an answer at all {max(longest):.0f} ms; came back as {', '.join(sorted(set(back)))}; "
              f"{'nothing lost in any' if well else 'FAILED in some'}")
    return well


def transfers(stack, arguments):
    began = time.monotonic()
    load = Load(stack.gateways[arguments.gateway:][:1], connections=arguments.connections, pause_s=0, count=arguments.count)
    load.wait()
    took = time.monotonic() - began
    load.check_accounts()
    print(f"{len(load.answers)} transactions at {load.gateways[0]} in {took:.1f} s, {len(load.failures)} sent again, {len(load.wrong)} wrong")
    for words in load.wrong[:5]:
        print(f"FAILED: {words}")
    return not load.wrong and len(load.answers) >= arguments.count


def parse():
    parser = argparse.ArgumentParser(prog="drill")
    commands = parser.add_subparsers(dest="drill", required=True)

    def command(name, words):
        each = commands.add_parser(name, help=words, description=words)
        each.add_argument("--on", choices=("compose", "netns"), help="the stack; default: the one that runs")
        return each
    for name, words, seconds in (
            ("pause-leader", "stops the leader where it stands, lets it go on after another has taken over", 1.0),
            ("kill-node", "kills a node and starts it again", 1.0),
            ("partition", "cuts a node off from all others and heals the cut", 2.0),
            ("rolling-restart", "stops and starts one node after the other", 0.5)):
        each = command(name, words)
        if name != "rolling-restart":
            each.add_argument("--node", default="leader", help="leader, follower or an index")
        each.add_argument("--seconds", type=float, default=seconds, help=f"it stays so, or between two nodes ({seconds})")
        each.add_argument("--rounds", type=int, default=1)
        each.add_argument("--connections", type=int, default=8)
        each.add_argument("--max-gap-ms", type=float, default=500 if name == "rolling-restart" else 0, help="0: no limit")
        each.add_argument("--no-failures", action="store_true", default=name == "rolling-restart",
                          help="a request that had to be sent again is a failure")
        each.add_argument("--json", action="store_true")
    each = command("transfers", "makes transfers through one gateway and reads the accounts back")
    each.add_argument("count", type=int)
    each.add_argument("--gateway", type=int, default=0)
    each.add_argument("--connections", type=int, default=32)
    each = command("delay-etcd", "delays what etcd's members send")
    each.add_argument("action", choices=("add", "remove"))
    each.add_argument("ms", type=float, nargs="?", default=50)
    return parser.parse_args()


def main():
    arguments = parse()
    try:
        stack = stacks.find(arguments.on)
        if arguments.drill == "delay-etcd":
            stack.delay_etcd(arguments.ms if arguments.action == "add" else 0)
            print(f"etcd answers {arguments.ms:g} ms later" if arguments.action == "add" else "the delay is taken back")
            return 0
        return 0 if (transfers if arguments.drill == "transfers" else rounds)(stack, arguments) else 1
    except Failed as error:
        print(f"FAILED: {error}")
        return 1
    except stacks.Trouble as error:
        print(f"{arguments.drill}: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
