"""etcd's database runs full and is freed; etcd is restored from an older snapshot, and term_base is raised."""
import os
import shutil
import subprocess

from lib import cluster as c
from lib import scenario
from lib.etcd import CLIENT_PORT, PEER_PORT
from lib.process import wait_until

QUOTA_BYTES = 8 << 20


def etcdctl(cluster, *words, check=True):
    endpoint = f"http://{cluster.etcd.addresses[0]}:{CLIENT_PORT}"
    done = subprocess.run(["etcdctl", "--endpoints", endpoint, *[str(word) for word in words]], capture_output=True, text=True,
                          timeout=60, env={**os.environ, "ETCDCTL_API": "3"})
    assert not check or done.returncode == 0, f"etcdctl {words[0]}: {done.stderr}"
    return done


def ctl(cluster, *words):
    admins = ",".join(cluster.admin(index) for index in range(len(cluster.nodes)))
    return subprocess.run([str(c.absolute(c.CTL)), *words, "--admin", admins], capture_output=True, text=True, timeout=120)


def wait_alarm(cluster, text):
    wait_until(lambda: all(any(text in alarm for alarm in cluster.status(i)["alarms"]) for i in range(3)), 60,
               f"all nodes say: {text}")


def wait_no_alarm(cluster):
    wait_until(lambda: not any(cluster.status(i)["alarms"] for i in range(3)), 60, "no alarm is left")


def full(cluster):
    before = cluster.status(0)["term"]
    for number in range(200):
        filled = etcdctl(cluster, "put", f"/junk/{number}", "x" * 120_000, check=False)
        if filled.returncode != 0:
            assert "space exceeded" in filled.stderr, filled.stderr
            break
    else:
        raise AssertionError("etcd did not run full")
    wait_alarm(cluster, "etcd is full")
    assert all(cluster.metric(i, "maroon_etcd_full") == 1 for i in range(3))
    assert "etcd_full" in cluster.nodes[0].log_path.read_text()
    assert "ALARM" in ctl(cluster, "status").stdout
    published = cluster.status(0)["publishedSeq"]
    result = cluster.load(seconds=2, connections=8)
    assert result["ok"] > 0 and cluster.status(0)["term"] == before, "commits go on"
    assert cluster.status(0)["publishedSeq"] == published

    etcdctl(cluster, "del", "--prefix", "/junk/")
    revision = etcdctl(cluster, "get", "none", "-w", "fields").stdout
    revision = [line.split(":")[1].strip() for line in revision.splitlines() if "Revision" in line][0]
    etcdctl(cluster, "compact", revision)
    etcdctl(cluster, "defrag")
    etcdctl(cluster, "alarm", "disarm")
    wait_no_alarm(cluster)
    wait_until(lambda: int(cluster.status(0)["publishedSeq"]) == cluster.status(0)["execSeq"], 60, "publications resume")
    print("etcd was full and is free again: commits went on, publications resumed", flush=True)


def restore(cluster, snapshot):
    """The documented way: docs/operations.md."""
    member = cluster.etcd.members[0]
    member.kill()
    data = cluster.workdir / "e0.data"
    shutil.rmtree(data)
    subprocess.run(["etcdctl", "snapshot", "restore", str(snapshot), "--data-dir", str(data), "--name", "e0",
                    "--initial-cluster", f"e0=http://{cluster.etcd.addresses[0]}:{PEER_PORT}",
                    "--initial-cluster-token", cluster.network.base,
                    "--initial-advertise-peer-urls", f"http://{cluster.etcd.addresses[0]}:{PEER_PORT}"],
                   check=True, capture_output=True, env={**os.environ, "ETCDCTL_API": "3"})
    member.start()
    cluster.etcd.wait_healthy()


def went_back(cluster, snapshot):
    term, leader = cluster.status(0)["term"], cluster.leader()
    load = cluster.start_load(seconds=6, connections=8)
    restore(cluster, snapshot)
    wait_alarm(cluster, "restored from an older snapshot")
    wait_until(lambda: any("was refused" in alarm for alarm in cluster.status(leader)["alarms"]), 60,
               "the leader does not take an older term")
    logs = cluster.nodes[leader].log_path.read_text()
    assert "etcd_went_back" in logs and "term_goes_back" in logs
    assert cluster.leader() == leader and cluster.status(leader)["term"] == term, "it goes on under its own"
    load.wait()

    raised = ctl(cluster, "term-base", "--raise")
    assert raised.returncode == 0, raised.stderr
    wait_no_alarm(cluster)
    wait_until(lambda: min(cluster.status(i)["term"] for i in range(3)) > term, 60, "a new term above all before")
    # The range of the first gateway was granted after that snapshot: etcd does not know it any more, the nodes do.
    cluster.add_gateway()
    cluster.load(seconds=1, connections=4)
    cluster.load(gateway=1, seconds=1, connections=4, first_account=5000)
    owners = {}
    for entry in cluster.status(0)["ranges"]:
        assert owners.setdefault(entry["range"], entry["owner"]) == entry["owner"]
    assert len(owners) >= 2, owners
    leader = cluster.leader()
    cluster.nodes[leader].kill()
    wait_until(lambda: any(cluster.status(i)["role"] == "leader" for i in range(3) if i != leader), 60, "a take-over works")
    cluster.nodes[leader].start()
    cluster.wait_node_ready(leader)
    cluster.wait_equal()
    print("etcd went back: refused, said, and repaired by raising term_base", flush=True)


def trouble(cluster):
    cluster.start(nodes=3, gateways=0, etcd=1, node_keys=c.CALM, etcd_arguments=["--quota-backend-bytes", QUOTA_BYTES])
    snapshot = cluster.workdir / "snapshot.db"
    etcdctl(cluster, "snapshot", "save", snapshot)
    cluster.add_gateway()
    cluster.load(seconds=2, connections=8)
    leader = cluster.leader()
    assert ctl(cluster, "leader", "--handover").returncode == 0
    wait_until(lambda: cluster.leader() != leader, 60, "another leads: not the one in the snapshot")
    full(cluster)
    went_back(cluster, snapshot)


if __name__ == "__main__":
    if not shutil.which("etcdctl"):
        scenario.skip("needs etcdctl (Debian: etcd-client)")
    scenario.main(trouble, programs=(c.NODE, c.GATEWAY, c.CTL))
