"""maroonctl and the metrics, telemetry and logs behind it: tables for people, JSON for tools, every name that is promised.
And who may join: a second process under a live node's index, and one with another configuration, are refused in words."""
import base64
import datetime
import json
import re
import socket
import subprocess

from lib import cluster as c
from lib import http, scenario
from lib.process import Process, wait_until

# Names that dashboards are written against.
NODE_METRICS = """epochs_committed_total transactions_committed_total transactions_executed_total epoch_latency_seconds term
is_leader takeovers_total leader_gap_seconds takeover_gap_seconds fetch_requests_total fetched_bodies_total rx_packets_total rx_dropped_total
tx_packets_total log_sync_seconds log_bytes etcd_requests_total etcd_request_seconds publications_total ranges_active ranges_retired
window_full_total divergence_total lcore_busy_ratio""".split()
GATEWAY_METRICS = ["transaction_latency_seconds", "rx_packets_total", "tx_packets_total", "window_full_total"]
LABELS = {"rx_dropped_total": {"reason"}, "etcd_requests_total": {"op", "outcome"}, "lcore_busy_ratio": {"lcore"}}
TELEMETRY = ["/maroon/status", "/maroon/counters", "/maroon/drops", "/maroon/latency", "/maroon/ranges"]
LOG_LINE = re.compile(r'^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z (debug|info|warning|error) [a-z0-9_]+'
                      r'( [a-z][a-z0-9_]*=("([^"\\]|\\.)*"|[^ "]*))*$')


def check_metrics(address, names):
    """Each metric is there with its type, each histogram with all its series, and labels where they are promised."""
    text = http.request(address, "/metrics").body.decode()
    families = {re.sub(r"_(bucket|sum|count)$", "", name) if re.search(rf"^# TYPE {name} ", text, re.M) is None else name
                for name in re.findall(r"^(maroon_\w+)", text, re.M)}
    for family in families:  # all there are, also those that nobody promised
        assert re.search(rf"^# HELP {family} \S", text, re.M), f"{family} has no HELP at {address}"
        assert re.search(rf"^# TYPE {family} (counter|gauge|histogram)$", text, re.M), f"{family} has no TYPE at {address}"
    for name in names:
        series = re.findall(rf"^maroon_{name}(_bucket|_sum|_count)?(\{{[^}}]*\}})? (\S+)$", text, re.M)
        assert series, f"maroon_{name} is missing at {address}"
        if name.endswith("_seconds"):
            assert {"_bucket", "_sum", "_count"} <= {part for part, _, _ in series}, f"{name} is no histogram"
            assert '{le="+Inf"}' in {labels for part, labels, _ in series if part == "_bucket"}, name
        for _, labels, value in series:
            float(value)
            assert set(re.findall(r"(\w+)=\"", labels)) >= LABELS.get(name, set()), (name, labels)


def telemetry(process, command):
    """What dpdk-telemetry.py would show."""
    path = f"/var/run/dpdk/maroon-{process.pid}/dpdk_telemetry.v2"  # where root's is
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        connection.settimeout(60)
        connection.connect(path)
        connection.recv(16384)  # its greeting
        connection.send(command.encode())
        return json.loads(connection.recv(65536))[command]


def check_telemetry(cluster):
    for process, commands in [(node, TELEMETRY) for node in cluster.nodes] + [(cluster.gateways[0], TELEMETRY[:-1])]:
        for command in commands:
            assert telemetry(process, command), f"{process.name}: {command} says nothing"
        assert set(commands) <= set(telemetry(process, "/")), "they are listed"
    leader = cluster.leader()
    counters = telemetry(cluster.nodes[leader], "/maroon/counters")
    assert counters["transactions_executed_total"] == cluster.metric(leader, "maroon_transactions_executed_total"), counters
    answered = http.metrics(cluster.gateway_addresses[0])["maroon_transactions_answered_total"]
    assert telemetry(cluster.gateways[0], "/maroon/counters")["transactions_answered_total"] == answered > 0


def check_tables(run, leader):
    people = run("status")
    assert people.count("leader") >= 1 and people.count("follower") == 2, people
    nodes = json.loads(run("status", "--json"))
    assert [node["role"] == "leader" for node in nodes] == [index == leader for index in range(3)], nodes
    shown = run("leader")
    assert "RING" in shown and "SLICE" in shown and re.search(r"next to try\D+\d", shown), shown
    nodes = json.loads(run("leader", "--json"))
    assert len({node["ringPosition"] for node in nodes}) == 3, nodes
    shown = run("ranges")
    assert "RANGE" in shown and len(shown.splitlines()) >= 2, shown
    assert any(node["ranges"] for node in json.loads(run("ranges", "--json"))), "the gateway's range"
    shown = run("epochs")
    assert re.search(r"^\d+ +\d+ +\d+ +[0-9a-f]{16} +[0-9a-f]{16}", shown, re.M), shown
    epochs = json.loads(run("epochs", "--json"))["epochs"]
    assert len(epochs[-1]["hash"]) == 64 and int(epochs[-1]["seq"]) > 0, epochs[-1]
    assert "EPOCHS/S" in run("top", "--count", "1")
    assert len(json.loads(run("top", "--count", "1", "--json").splitlines()[0])) == 3


def start_on(cluster, name, index, keys):
    """One more node process, of host `name`."""
    process = cluster._node(index, {**c.CALM, **keys})
    newcomer = Process(name, process.command, cluster.workdir, cluster.network.namespace(name),
                       environment=cluster._environment(name)).start()
    cluster.others.append(newcomer)
    return newcomer


def refused(cluster, name, index, keys, words):
    """One more node under an index that is in use; it must end, and say why."""
    newcomer = start_on(cluster, name, index, keys)
    wait_until(lambda: not newcomer.alive(), 60, f"{name} ends")
    log = newcomer.log_path.read_text()
    assert newcomer.popen.returncode not in (0, -6, -11), (newcomer.popen.returncode, log)
    for word in words:
        assert word in log, (word, log)


def host_keys(cluster, name, number):
    """A new host, and what a node on it is told besides."""
    address = cluster.network.add_host(name, number)
    return {"address": f"{address}/24", "admin": f"{address}:{c.ADMIN_PORT}", "data-dir": cluster.workdir / f"{name}.data"}


def check_keys(cluster):
    """What interfaces.md and controlplane/README.md say of the keys in etcd: readable JSON, and which of them have a lease."""
    owner = json.loads(http.request(cluster.gateway_addresses[0], "/v1/status").body)["owner"]

    def key(name):
        found = cluster.etcd.get(cluster.etcd.addresses[0], f"/maroon/test/{name}")["kvs"][0]
        return json.loads(base64.b64decode(found["value"])), "lease" in found and found["lease"] != "0"
    leader, leased = key("leader")
    assert leased and leader["node"] == cluster.leader() and int(leader["token"]) and "termBase" in leader, leader
    record, leased = key("ranges/1")
    assert not leased and record["owner"] == owner, "an owner is for ever"
    assert key("range-leases/1") == ({"owner": owner}, True), "its liveness is not"
    for name in ("genesis", "config", "term_base", "nodes/0", "nodes/1", "nodes/2", "ranges/next", "latest"):
        value, leased = key(name)
        assert value and not leased, name
    latest, _ = key("latest")
    assert {"seq", "term", "hash", "logicalTimeUs", "resultHash", "vector"} <= set(latest), latest
    revision = int(cluster.etcd.get(cluster.etcd.addresses[0], "/maroon/test/leader")["kvs"][0]["mod_revision"])
    assert cluster.status(leader["node"])["term"] == int(key("term_base")[0]["termBase"]) + revision, "what a term is"


def check_membership(cluster):
    before = [cluster.status(index)["incarnation"] for index in range(3)]
    own = {name: host_keys(cluster, name, number) for name, number in (("x0", 50), ("x1", 51))}
    # By the dataplane's PING: the admin addresses, which other hosts need not reach, are out of reach.
    cluster.network.cut("x0", "n1", protocol="tcp")
    refused(cluster, "x0", 1, own["x0"], ["index_taken", f"held_by={cluster.node_addresses[1]}:{c.PORT}", "do="])
    cluster.network.heal()
    # On a host that has the address of another: nobody but that one can say so. It is asked before anything else is sent.
    number = int(cluster.node_addresses[1].rpartition(".")[2])
    refused(cluster, "x2", 1, host_keys(cluster, "x2", number), ["another host has our address", cluster.node_addresses[1], "MAC"])
    cluster.nodes[2].kill()  # its host, with a name that its peers do not have
    refused(cluster, "n2", 2, {"cluster": "tset", "data-dir": cluster.workdir / "tset.data"},
            ["what=cluster", "ours=tset", "cluster=test", "from=10.", "do="])
    cluster.nodes[2].start()
    cluster.wait_node_ready(2)
    before[2] = cluster.status(2)["incarnation"]
    refused(cluster, "x1", 2, {**own["x1"], "results-kept": 2048}, ["what=results-kept", "ours=2048", "cluster=4096", "do="])
    assert [cluster.status(index)["incarnation"] for index in range(3)] == before, "nobody was disturbed"
    assert all(node.alive() for node in cluster.nodes)


def check_other_cluster(cluster):
    """Two nodes of another cluster take our node 2 for their third; a gateway is told of nodes of both. Whoever refuses a
    HELLO says the two configuration ids, and counts."""
    keys = {name: host_keys(cluster, name, number) for name, number in (("y0", 52), ("y1", 53))}
    hosts = [cluster.network.hosts["y0"], cluster.network.hosts["y1"], cluster.node_addresses[2]]
    urls = ",".join(f"/ip4/{host}/udp/{c.PORT}" for host in hosts)
    for name in keys:  # or they would be told that ours is of another cluster, and end
        cluster.network.cut(name, "n2")
    theirs = [start_on(cluster, name, index, {**keys[name], "cluster": "other", "nodes": urls})
              for index, name in enumerate(keys)]
    joined = re.compile(r" joined cluster=other .*configuration_id=([0-9a-f]+) ")
    wait_until(lambda: joined.search(theirs[0].log_path.read_text()), 60, "the other cluster begins", alive=theirs)
    cluster.network.heal()
    other_id = int(joined.search(theirs[0].log_path.read_text()).group(1), 16)
    own_id = int(cluster.status(2)["configurationId"])
    line = re.compile(rf" hello_refused reason=configuration from=({hosts[0]}:\d+ at=\w+ theirs_cluster=other peer=node-0|"
                      rf"{hosts[1]}:\d+ at=\w+ theirs_cluster=other peer=node-1) "
                      rf"theirs={other_id:016x} ours={own_id:016x} ours_cluster=test do=")
    wait_until(lambda: line.search(cluster.nodes[2].log_path.read_text()), 60, "it is logged with the two values")
    wait_until(lambda: cluster.metrics(2)['maroon_rx_dropped_total{reason="configuration"}'] > 0, 60, "and counted")
    told = {}
    for text in cluster.nodes[2].log_path.read_text().splitlines():
        if " hello_refused " in text:
            told.setdefault(re.search(r" at=(\w+) ", text).group(1), []).append(datetime.datetime.fromisoformat(text.split("Z")[0]))
    assert len(told) <= 3 and all((b - a).total_seconds() > 59 for moments in told.values() for a, b in zip(moments, moments[1:])), \
        f"once a minute for each port, however many come: {told}"

    nodes = ",".join(f"/ip4/{host}/udp/{c.PORT}" for host in (cluster.node_addresses[0], hosts[0]))
    # Ours is heard first: the other's node hears only HELLOs that it refuses, and its answer to one is all that tells why.
    name = f"g{len(cluster.gateways)}"
    cluster.network.cut("y0", name)
    address = cluster.add_gateway(keys={"node-urls": nodes}, wait=False)
    gateway = cluster.gateways[-1]
    wait_until(lambda: http.request(address, "/v1/status").json()["configurationId"] == str(own_id), 60,
               "the gateway is of our cluster", alive=[gateway])
    cluster.network.heal()
    said = re.compile(r" node_refused reason=configuration from=\S+ theirs=([0-9a-f]{16}) ours=([0-9a-f]{16}) do=")
    wait_until(lambda: said.search(gateway.log_path.read_text()), 60, "the gateway says it", alive=[gateway])
    ids = said.search(gateway.log_path.read_text()).groups()
    assert tuple(int(text, 16) for text in ids) == (other_id, own_id), ids
    for process in theirs + [gateway]:
        process.kill()


def check_logs(cluster):
    for index in range(3):
        lines = cluster.nodes[index].log_path.read_text().splitlines()
        ours = [line for line in lines if re.match(r"^\d{4}-\d\d-\d\dT", line)]
        assert any(" start " in line or " started " in line for line in ours), ours[:5]
        for line in ours:
            assert LOG_LINE.match(line), f"not key=value: {line}"


def ctl(cluster):
    cluster.start(nodes=3, gateways=1, node_keys=c.CALM)
    cluster.load(count=2000, connections=4)
    leader = cluster.leader()
    admins = ",".join(cluster.admin(index) for index in range(3))

    def run(*words, status=0):
        done = subprocess.run([str(c.absolute(c.CTL)), *words, "--admin", admins], capture_output=True, text=True, timeout=120)
        assert done.returncode == status, (words, done)
        return done.stdout if status == 0 else done.stderr

    wait_until(lambda: all(int(cluster.status(i)["publishedSeq"]) for i in range(3)), 60, "publications are heard")
    check_tables(run, leader)
    assert "nonsense" in run("nonsense", status=2), "an unknown command is refused by name"
    assert "status" in run("--help")
    for index in range(3):
        check_metrics(cluster.admin(index), NODE_METRICS)
    check_metrics(cluster.gateway_addresses[0], GATEWAY_METRICS)
    check_telemetry(cluster)
    check_keys(cluster)
    check_membership(cluster)
    check_other_cluster(cluster)
    check_logs(cluster)


if __name__ == "__main__":
    scenario.main(ctl, programs=(c.NODE, c.GATEWAY, c.CTL, c.LOAD))
