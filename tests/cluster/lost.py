"""Nodes whose memory is gone. One of three (memory): so far behind that its peers no longer keep what it lacks, it takes a
snapshot, and recovers. All three at once: nobody can say any more what was promised, every node says `lost`, and none guesses."""
import time

from lib import cluster as c
from lib import scenario
from lib.process import wait_until


def bootstrap(cluster):
    leader = cluster.leader()
    victim = (leader + 1) % 3
    cluster.nodes[victim].kill()
    cluster.load(seconds=4, connections=32, timeout=60)
    behind = cluster.status(leader)["commitSeq"]
    cluster.nodes[victim].start()
    wait_until(lambda: cluster.status(victim)["role"] == "follower", 60, "it has recovered", alive=[cluster.nodes[victim]])
    log = cluster.nodes[victim].log_path.read_text()
    assert "snapshot_needed" in log and "snapshot_restored" in log, log[-2000:]
    seq, _ = cluster.wait_equal(60)
    assert seq >= behind > 64, (seq, behind)
    print(f"a new memory, {behind} epochs behind, of which peers keep 64: snapshot, recovered at {seq}", flush=True)


def all_lost(cluster):
    for node in cluster.nodes:
        node.kill()
    for node in cluster.nodes:
        node.start()
    wait_until(lambda: all(cluster.status(i)["role"] == "lost" for i in range(3)), 60, "all say that they are lost",
               alive=cluster.nodes)
    time.sleep(3)
    states = [cluster.status(i) for i in range(3)]
    assert all(s["role"] == "lost" and s["commitSeq"] == 0 for s in states), states
    assert all(any("memories are lost" in alarm for alarm in s["alarms"]) for s in states), states
    print("three memories lost: every node says so, none guesses", flush=True)


def lost(cluster):
    cluster.start(nodes=3, gateways=1, node_keys={"durability": "memory", "log-epochs": 64, "epochs-in-flight": 8})
    bootstrap(cluster)
    all_lost(cluster)


if __name__ == "__main__":
    scenario.main(lost, programs=(c.NODE, c.GATEWAY, c.LOAD))
