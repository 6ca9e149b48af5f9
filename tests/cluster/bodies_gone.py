"""A node that knows epochs but not their bodies, which its peers have executed and let go of from memory: only journals have them.

The gateway's and the peers' bodies are kept from one node (cuts of its two ports for them), while epochs still reach it. Once its
peers have let go, the cuts are healed: as a follower, and as the leader that took over in this state, it must get the bodies out
of a peer's journal, and no snapshot is needed. In memory mode a snapshot is. Then a node comes back from which a peer's journal has gone,
too, and one whose disk was wiped.

    bodies_gone.py [--durability disk|memory]"""
import argparse
import shutil
import time

from lib import cluster as c
from lib import http, scenario
from lib.process import wait_until

LOG_EPOCHS = 512  # of more than half of it a node lets go, whether all have executed it or not
EPOCHS = 480      # so many are missed: they still fit into the node's own log
KEYS = {"lease-ttl-s": 2, "log-epochs": LOG_EPOCHS}
SMALL = {"segment-bytes": 1 << 16, "snapshot-bytes": 1 << 18, "retain-bytes": 1 << 20}
BODIES = (c.PORT, c.PORT + 20000)


def miss_bodies(cluster, victim):
    """EPOCHS epochs of a body each are committed without the victim. Returns its status then, and how to see what helps it."""
    for _ in range(6):
        helped = Helped(cluster, victim)
        status = try_to_miss_bodies(cluster, victim)
        if status:
            return status, helped
        # It stood still for a moment and missed more epochs at once than its peers still have: to ask for them, that way is cut.
        print(f"n{victim} does not hear of the epochs, once more", flush=True)
        cluster.network.heal()
        cluster.wait_equal(60)
    raise AssertionError("the epochs reach who lacks their bodies")


def try_to_miss_bodies(cluster, victim):
    before = cluster.status(victim)["execSeq"]
    cluster.network.cut_ports(f"n{victim}", BODIES)
    cluster.load(count=EPOCHS, connections=1, seed=before, first_account=1000 + before)

    let_go = max(cluster.status(index)["commitSeq"] for index in range(3)) - LOG_EPOCHS // 2

    end = time.monotonic() + 15
    while time.monotonic() < end:  # for what its peers let go of; a status may be older than an answer
        status = cluster.status(victim)
        if status["lastSeq"] >= max(let_go, before + 100):
            assert status["execSeq"] < before + 20, (before, status)
            return status
        time.sleep(0.05)
    return None


class Helped:
    """How often a node was helped, and by what, since this was made."""

    def __init__(self, cluster, index):
        self.cluster = cluster
        self.index = index
        self.before = self.now()

    def now(self):
        boot = self.cluster.status(self.index)["bootstrap"]
        return int(boot["stretches"]), int(boot["fromPeers"])

    def check(self, disk):
        stretches, snapshots = (now - before for now, before in zip(self.now(), self.before))
        assert (stretches >= 1 and snapshots == 0) if disk else (stretches == 0 and snapshots >= 1), (stretches, snapshots)
        return "out of a peer's journal" if disk else "covered by a snapshot"


def follower(cluster, disk):
    victim = (cluster.leader() + 1) % 3
    status, helped = miss_bodies(cluster, victim)
    cluster.network.heal()
    wait_until(lambda: cluster.status(victim)["execSeq"] >= status["lastSeq"], 60, "the follower executes what it lacked",
               alive=cluster.nodes)
    cluster.wait_equal(60)
    print(f"n{victim} follows: {EPOCHS} bodies {helped.check(disk)}", flush=True)


def leader(cluster, disk):
    old = cluster.leader()
    victim, other = (old + 1) % 3, (old + 2) % 3
    status, helped = miss_bodies(cluster, victim)
    cluster.network.isolate(f"n{other}", "tcp")  # it cannot take the key, nor give of its journal
    cluster.nodes[old].kill()
    cluster.network.heal_ports()
    wait_until(lambda: cluster.status(victim)["role"] == "leader", 60, "who lacks the bodies leads", alive=[cluster.nodes[victim]])
    assert cluster.status(victim)["execSeq"] < status["lastSeq"] - 100, cluster.status(victim)
    cluster.network.heal()
    wait_until(lambda: cluster.status(victim)["execSeq"] >= status["lastSeq"] + EPOCHS // 4, 60, "it executes what it lacked",
               alive=[cluster.nodes[victim], cluster.nodes[other]])
    how = helped.check(disk)
    cluster.load(count=100, connections=1, seed=1, first_account=900000)
    cluster.nodes[old].start()
    cluster.wait_equal(60)
    print(f"n{victim} leads: {EPOCHS} bodies {how}", flush=True)


def away_for_too_long(cluster):
    victim = (cluster.leader() + 1) % 3
    behind = cluster.status(victim)["execSeq"]
    cluster.nodes[victim].kill()
    load = cluster.start_load(seconds=600, connections=16, first_account=700000)
    others = [index for index in range(3) if index != victim]
    wait_until(lambda: all(int(cluster.status(i)["journal"]["cutSeq"]) > behind + LOG_EPOCHS for i in others), 120,
               "the others' journals begin later")
    cluster.nodes[victim].start()
    wait_until(lambda: int(cluster.status(victim)["bootstrap"]["fromPeers"]), 60, "a snapshot is restored", alive=cluster.nodes)
    load.end()
    cluster.wait_equal(60)
    print(f"n{victim} was away until no journal had what it lacked: a snapshot", flush=True)


def wiped(cluster):
    victim = (cluster.leader() + 1) % 3
    cluster.nodes[victim].kill()
    shutil.rmtree(cluster.workdir / f"n{victim}.data")
    cluster.load(count=EPOCHS, connections=1, seed=3, first_account=800000)
    cluster.nodes[victim].start()
    cluster.wait_node_ready(victim)
    cluster.wait_equal(60)
    print(f"n{victim} lost its disk: {cluster.status(victim)['bootstrap']}", flush=True)


def one_away(cluster, disk):
    """The third node stands still: its kernel takes connections, and nobody answers them. It must not be the one that is asked, for
    without the victim nothing is committed."""
    def moved():
        leader = cluster.leader()
        if leader == 0:
            http.request(cluster.admin(leader), "/v1/handover", "POST")
        return leader
    leader = wait_until(moved, 60, "n0 does not lead", interval=0.5, alive=cluster.nodes)
    victim, away = 3 - leader, 0  # lowest number first, if nothing else decides
    status, helped = miss_bodies(cluster, victim)
    cluster.nodes[away].pause()
    cluster.network.heal()
    began = time.monotonic()
    wait_until(lambda: cluster.status(victim)["execSeq"] >= status["lastSeq"], 60, "the other one is asked", alive=cluster.nodes)
    took = time.monotonic() - began
    cluster.nodes[away].resume()
    print(f"n{away} stands still: n{victim} has {EPOCHS} bodies {helped.check(disk)} after {took:.2f} s", flush=True)
    assert took < 12  # what is not answered is given up after 15 s
    cluster.wait_equal(60)


def main(arguments):
    def bodies_gone(cluster):
        disk = arguments.durability == "disk"
        cluster.start(nodes=3, gateways=1, node_keys={**KEYS, **c.CALM, **(SMALL if disk else {}), "durability": arguments.durability})
        follower(cluster, disk)
        leader(cluster, disk)
        one_away(cluster, disk)
        if disk:
            away_for_too_long(cluster)
            wiped(cluster)
    scenario.main(bodies_gone, programs=(c.NODE, c.GATEWAY, c.LOAD))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--durability", choices=("disk", "memory"), default="disk")
    main(parser.parse_args())
