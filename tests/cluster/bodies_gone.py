"""A node that knows epochs but not their bodies, which its peers have executed and let go of from memory: only journals have them.

The gateway's and the peers' bodies are kept from one node (cuts of its two ports for them), while epochs still reach it. Once its
peers have let go, the cuts are healed: as a follower, and as the leader that took over in this state, it must get the bodies out
of a peer's journal, and no snapshot is needed."""
from lib import cluster as c
from lib import scenario
from lib.process import wait_until

LOG_EPOCHS = 512  # of more than half of it a node lets go, whether all have executed it or not
EPOCHS = 480      # so many are missed: they still fit into the node's own log
KEYS = {"durability": "disk", "lease-ttl-s": 2, "log-epochs": LOG_EPOCHS}
BODIES = (c.PORT, c.PORT + 20000)


def miss_bodies(cluster, victim):
    """EPOCHS epochs of a body each are committed without the victim."""
    before = cluster.status(victim)["execSeq"]
    cluster.network.cut_ports(f"n{victim}", BODIES)
    cluster.load(count=EPOCHS, connections=1, seed=before, first_account=1000 + before)
    status = cluster.status(victim)
    assert status["execSeq"] < before + 20, (before, status)
    assert status["lastSeq"] > before + EPOCHS - LOG_EPOCHS // 2, (before, status)  # it knows what its peers let go of
    return status


def stretches(cluster, index):
    boot = cluster.status(index)["bootstrap"]
    assert int(boot["fromStore"]) + int(boot["fromPeers"]) == 0, boot
    return int(boot["stretches"])


def follower(cluster):
    victim = (cluster.leader() + 1) % 3
    status = miss_bodies(cluster, victim)
    cluster.network.heal()
    wait_until(lambda: cluster.status(victim)["execSeq"] >= status["lastSeq"], 20, "the follower executes what it lacked",
               alive=cluster.nodes)
    assert stretches(cluster, victim) >= 1
    cluster.wait_equal(20)
    print(f"n{victim} follows: {EPOCHS} bodies out of a peer's journal", flush=True)


def leader(cluster):
    old = cluster.leader()
    victim, other = (old + 1) % 3, (old + 2) % 3
    before = stretches(cluster, victim)
    status = miss_bodies(cluster, victim)
    cluster.network.isolate(f"n{other}", "tcp")  # it cannot take the key, nor give of its journal
    cluster.nodes[old].kill()
    cluster.network.heal_ports()
    wait_until(lambda: cluster.status(victim)["role"] == "leader", 20, "who lacks the bodies leads", alive=[cluster.nodes[victim]])
    assert cluster.status(victim)["execSeq"] < status["lastSeq"] - 100, cluster.status(victim)
    cluster.network.heal()
    wait_until(lambda: cluster.status(victim)["execSeq"] >= status["lastSeq"] + EPOCHS // 4, 20, "it executes what it lacked",
               alive=[cluster.nodes[victim], cluster.nodes[other]])
    assert stretches(cluster, victim) > before
    cluster.load(count=100, connections=1, seed=1, first_account=900000)
    cluster.nodes[old].start()
    cluster.wait_equal(20)
    print(f"n{victim} leads: {EPOCHS} bodies out of a peer's journal", flush=True)


def bodies_gone(cluster):
    cluster.start(nodes=3, gateways=1, node_keys=KEYS)
    follower(cluster)
    leader(cluster)


if __name__ == "__main__":
    scenario.main(bodies_gone, programs=(c.NODE, c.GATEWAY, c.LOAD))
