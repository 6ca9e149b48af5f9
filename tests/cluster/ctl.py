"""maroonctl status shows the cluster to people and to tools."""
import json
import subprocess

from lib import cluster as c
from lib import scenario


def ctl(cluster):
    cluster.start(nodes=3, gateways=1)
    leader = cluster.leader()
    admins = ",".join(cluster.admin(index) for index in range(3))

    def run(*words):
        return subprocess.run([str(c.absolute(c.CTL)), *words], capture_output=True, text=True, timeout=30)

    people = run("status", "--admin", admins)
    assert people.returncode == 0, people.stderr
    assert people.stdout.count("leader") >= 1 and "follower" in people.stdout, people.stdout

    tools = run("status", "--json", "--admin", admins)
    nodes = json.loads(tools.stdout)
    nodes = nodes["nodes"] if isinstance(nodes, dict) else nodes
    assert [node["role"] == "leader" for node in nodes] == [index == leader for index in range(3)], nodes

    wrong = run("nonsense")
    assert wrong.returncode != 0 and "nonsense" in wrong.stderr, "an unknown command is refused by name"
    assert "status" in run("--help").stdout


if __name__ == "__main__":
    scenario.main(ctl, programs=(c.NODE, c.GATEWAY, c.CTL))
