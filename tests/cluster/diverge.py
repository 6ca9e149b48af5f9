"""One node of three computes something else (a build with a wrong bank): it is quarantined and says so, the others go on and
say so too. Once as the leader, once as a follower after a restart. Restarted with the right program it is whole again: its journal holds the
order, not the results."""
from lib import cluster as c
from lib import http, scenario
from lib.process import wait_until

WRONG_ACCOUNT = 13
WRONG = 2  # the node


def check_said(cluster, before):
    def quarantined():
        status = cluster.status(WRONG)
        return status if status["role"] == "quarantined" and status["alarms"] and not status["ready"] else None
    status = wait_until(quarantined, 60, "the wrong node is quarantined", alive=cluster.nodes)
    assert int(status["quarantinedSeq"]) > before, status
    assert "this node's results differ from those of k others" in status["alarms"], status["alarms"]
    wait_until(lambda: cluster.metric(WRONG, "maroon_divergence_total") >= 2, 60, "both others differ from it")
    said = (f' quarantined epoch={status["quarantinedSeq"]} why="the results of this node differ from those of a quorum" '
            'do="keep a copy of its data directory, then restart it"')
    wait_until(lambda: said in cluster.nodes[WRONG].log_path.read_text(), 60, f"its log says:{said}")
    for index in (0, 1):
        def differs():
            peers = {peer["node"]: peer for peer in cluster.status(index)["peers"]}
            return peers[WRONG]["differs"]
        wait_until(differs, 60, f"n{index} says that n{WRONG} differs")
        wait_until(lambda: f" results_differ node={WRONG} " in cluster.nodes[index].log_path.read_text(), 60, "its log says so")
        assert cluster.status(index)["quarantinedSeq"] is None


def deposit_wrong(cluster):
    """The balance that is answered."""
    answer = cluster.bank("Deposit", {"account": str(WRONG_ACCOUNT), "amount": "10"})
    assert answer.status == 200, answer
    return int(answer.json()["balance"])


def lead(cluster, wanted):
    """Hands over until the wrong node leads, or does not."""
    def moved():
        leader = cluster.leader()
        if (leader == WRONG) == wanted:
            return True
        if wanted:  # the follower that has the most is chosen, of equals the lowest: the third is to have less
            cluster.network.isolate(f"n{1 - leader}")
            assert cluster.bank("Deposit", {"account": "7000000", "amount": "1"}).status == 200
        http.request(cluster.admin(leader), "/v1/handover", "POST")
        cluster.network.heal()
        return False
    wait_until(moved, 60, "leadership has moved", interval=0.5, alive=cluster.nodes)


def restart(cluster, program):
    node = cluster.nodes[WRONG]
    node.kill()
    node.command[0] = str(c.absolute(program))
    node.start()


def diverge(cluster):
    cluster.node_programs = {WRONG: c.DIVERGING}
    cluster.start(nodes=3, gateways=1, node_keys={"durability": "disk", **c.CALM})
    cluster.load(count=2000, connections=4)
    before, _ = cluster.wait_equal()  # right but for one account

    lead(cluster, True)
    term = cluster.status(WRONG)["term"]
    answered = deposit_wrong(cluster)
    check_said(cluster, before)
    new = cluster.leader()
    assert new != WRONG and cluster.status(new)["term"] > term
    cluster.load(count=2000, connections=4, first_account=5000)
    cluster.wait_equal(indexes=(0, 1))
    assert cluster.status(WRONG)["execSeq"] < cluster.status(new)["execSeq"], "it executes nothing more"
    print(f"a leader that differed answered {answered} once, before it could know; now n{new} leads", flush=True)
    restart(cluster, c.NODE)
    cluster.wait_node_ready(WRONG)
    seq, state_hash = cluster.wait_equal()
    print(f"restarted right: all at epoch {seq}, state {state_hash[:16]}", flush=True)

    restart(cluster, c.DIVERGING)  # the replay of its journal comes to another state
    check_said(cluster, 0)
    cluster.load(count=2000, connections=4, first_account=9000)
    assert deposit_wrong(cluster) == 20, "the others are right"
    restart(cluster, c.NODE)
    cluster.wait_node_ready(WRONG)
    seq, state_hash = cluster.wait_equal()
    print(f"a follower that differed after its restart, restarted right: all at epoch {seq}, state {state_hash[:16]}", flush=True)


if __name__ == "__main__":
    scenario.main(diverge, programs=(c.NODE, c.DIVERGING, c.GATEWAY, c.LOAD))
