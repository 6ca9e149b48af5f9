"""Profile compose: the stack that `make run-compose` started. Over HTTP through its published port; and, as root, with measuring
clients of their own on its bridge: latency with one in flight, open loops, failover. Durability is what the stack has: disk."""
import json
import os
import subprocess
import sys

import bench
import cluster
import plot
from guests import Guests

sys.path.insert(0, str(bench.ROOT / "deploy/drills"))
import stack  # noqa: E402
from lib import http  # noqa: E402
from lib.network import remove_namespace, run  # noqa: E402
from lib.process import wait_until  # noqa: E402

PARTS = ("http", "epoch", "throughput", "failover")
RATES = (1000, 10000, 50000, 100000, 200000)
FIRST_GUEST = 200  # last byte of an address: Docker hands out the low ones
HTTP_FLOOR_PORT = 5890
SYNC = cluster.SYNC


class Node:
    def __init__(self, compose, index):
        self.pause, self.resume = lambda: compose.pause(index), lambda: compose.resume(index)
        self.kill, self.start = lambda: compose.kill(index), lambda: compose.start(index)


class Stack(Guests):
    """The containers, and guests in namespaces whose interfaces are ports of the containers' bridge."""

    def __init__(self):
        super().__init__()
        self.compose = stack.Compose()
        self.settings = self.compose.settings
        self.nodes = [Node(self.compose, index) for index in range(self.compose.nodes)]
        self.namespaces = []

    def docker(self, *arguments):
        return stack.run(*self.compose.docker, *arguments)

    def inspect(self, service, template):
        return self.docker("inspect", "--format", template, self.compose.containers[service])

    def __enter__(self):
        project = f"label=com.docker.compose.project={self.settings['COMPOSE_PROJECT_NAME']}"
        network = self.docker("network", "ls", "-q", "--no-trunc", "--filter", project).split()[0]
        name = self.docker("network", "inspect", "--format", '{{index .Options "com.docker.network.bridge.name"}}', network)
        self.bridge = name or f"br-{network[:12]}"
        return self

    def __exit__(self, *_):
        for name in self.namespaces:
            remove_namespace(name)

    def is_packets(self):
        return "MAROON_FABRIC=af_packet" in self.inspect("node-0", "{{json .Config.Env}}")

    def namespace(self, name):
        return f"mrnperf-{os.getpid()}-{name}"

    def host(self):
        number = len(self.namespaces)
        name, address = f"p{number}", f"{self.settings['SUBNET'].rsplit('.', 1)[0]}.{FIRST_GUEST + number}"
        namespace, port = self.namespace(name), f"mp{os.getpid()}-{number}"
        self.namespaces.append(namespace)
        run("ip", "netns", "add", namespace)
        run("ip", "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", namespace)
        run("ip", "link", "set", port, "master", self.bridge, "up")
        run("ip", "-n", namespace, "addr", "add", f"{address}/{self.settings['PREFIX_BITS']}", "dev", "eth0")
        run("ip", "-n", namespace, "link", "set", "eth0", "up")
        run("ip", "netns", "exec", namespace, "ethtool", "-K", "eth0", "tx", "off")
        return name, address

    def guest_environment(self, name):
        return {"XDG_RUNTIME_DIR": os.environ.get("XDG_RUNTIME_DIR", "/run")}

    def node_list(self):
        return ",".join(f"{self.settings[f'NODE_{index}']}:3000" for index in range(len(self.nodes)))

    def etcd_address(self):
        return self.inspect("etcd-0", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}")

    def admin(self, index):
        return self.compose.admin[index]

    def status(self, index):
        answer = http.request(self.admin(index), "/v1/status", timeout=3)
        if answer.status != 200:
            raise OSError(f"node-{index}: {answer}")
        status = answer.json()
        return {**status, "commitSeq": int(status["commitSeq"]), "execSeq": int(status["execSeq"])}

    def leader(self):
        def found():
            leaders = [index for index in range(len(self.nodes)) if self.status(index)["role"] == "leader"]
            return leaders if len(leaders) == 1 else None
        return wait_until(found, 60, "one node leads")[0]

    def wait_node_ready(self, index):
        wait_until(lambda: http.request(self.admin(index), "/readyz", timeout=3).status == 200, 60, f"node-{index} is ready")

    def sync(self):
        return bench.probe(bench.PROBE, "sync", count=500, directory=self.compose.disk())


def through_http(options, directory):
    """A call that changes nothing, beside the HTTP library alone and the kernel's UDP echo."""
    rows, seconds = bench.Rows(options.repeat), 2 if options.quick else 4
    call = {"path": "/echo.v1.Echo/Echo", "body": json.dumps({"payload": "bWFyb29uIG1hcm9vbiBtYXJvb24gbWFyb29uIG1hcm9vbg=="})}
    alone = subprocess.Popen([str(bench.PROBE), "http-floor", f"--port={HTTP_FLOOR_PORT}", "--seconds=600"], stdout=subprocess.DEVNULL)
    try:
        wait_until(lambda: http.request(f"127.0.0.1:{HTTP_FLOOR_PORT}", "/", "POST", "{}", timeout=1), 30, "the HTTP library answers")
        for flight in (1, 64):
            rows.add(f"floor: HTTP library, {flight} connections", lambda flight=flight: bench.probe(
                bench.PROBE, "http", port=HTTP_FLOOR_PORT, flight=flight, seconds=seconds, path="/", body="{}"))
            rows.add(f"compose, {flight} connections", lambda flight=flight: bench.probe(
                bench.PROBE, "http", port=options.compose_port, flight=flight, seconds=seconds, **call))
        rows.add(SYNC, lambda: bench.probe(bench.PROBE, "sync", count=500, directory=directory))
        rows.add("floor: UDP echo, blocking", lambda: bench.probe(bench.PROBE, "udp", count=5000))
        rows.measure()
    finally:
        alone.kill()
        alone.wait()
    library, sync = rows.median("floor: HTTP library, 1 connections", "latency.p50"), rows.median(SYNC, "latency.p50")
    floor = library + sync if library and sync else None
    bench.table("Through compose's published HTTP port; floor: the HTTP library with one connection, and one sync",
                bench.LATENCY_HEAD + ["k/s"],
                [bench.latency_row(rows, name, floor) + [f"{(rows.median(name, 'per_s') or 0) / 1000:.1f}" if "connections" in name else ""]
                 for name in rows.plans])
    bench.save("compose", rows)
    plot.lines(bench.OUT / "compose.svg", "Latency through compose", "share of calls", "us", bench.curves(rows, list(rows.plans)),
               True, True, bench.NINES)


def trips_of(options, running, guest, servers):
    return bench.Rows(options.repeat).add(cluster.TRIPS, lambda: running.echo(guest, servers, count=3000))


def floor_of(rows):
    trip, sync = rows.median(cluster.TRIPS, "latency.p50"), rows.median(SYNC, "latency.p50")
    return 2 * trip + sync if trip and sync else None


def epoch(options, running, guest, servers):
    rows = trips_of(options, running, guest, servers)
    count = 3000 if options.quick else 10000
    rows.add(SYNC, running.sync)
    rows.add("compose, one in flight", lambda: running.client(guest, flight=1, count=count, seconds=20))
    rows.add("the same, echo", lambda: running.client(guest, flight=1, count=count, seconds=20, app="echo"))
    rows.add("floor: three syncs at once", lambda: cluster.syncs_at_once(running.compose.disk(), 500, 3))
    rows.add("peer: etcd transaction", lambda: cluster.etcd_transactions(running))
    rows.measure()
    bench.table("A gateway on compose's bridge; floor: two round trips and one sync", bench.LATENCY_HEAD,
                [bench.latency_row(rows, name, floor_of(rows)) for name in rows.plans])
    bench.save("epoch_compose", rows)
    plot.lines(bench.OUT / "epoch_compose.svg", "Latency, one in flight, compose", "share of transactions", "us",
               bench.curves(rows, list(rows.plans)), True, True, bench.NINES)


def throughput(options, running, guest, servers):
    floors = trips_of(options, running, guest, servers).add(SYNC, running.sync).measure()
    rows = cluster.sweep(options, running, guest, RATES)
    cluster.show_sweep(rows, floors, RATES, "throughput_compose", "af_packet on compose's bridge, disk", floor_of(floors),
                       "two round trips and one sync")


def failover(options, running, guest, servers):
    trips = trips_of(options, running, guest, servers).measure().results.get(cluster.TRIPS, [])
    gaps = cluster.gaps_around(running, guest, 3 if options.quick else 10)
    cluster.show_failover(options, {"gaps_ns": gaps, "etcd": cluster.etcd_transactions(running), "trips": trips},
                          "failover_compose", "Compose: without an answer around a fault")


def compose(options):
    port = options.compose_port
    parts = options.parts.split(",") if options.parts else PARTS
    unknown = [part for part in parts if part not in PARTS]
    if unknown:
        sys.exit(f"--parts: {unknown[0]} is none of {', '.join(PARTS)}")
    if subprocess.run(["curl", "-sf", "-m", "3", f"http://127.0.0.1:{port}/readyz"], capture_output=True).returncode:
        bench.not_measured("compose", f"no gateway is ready at 127.0.0.1:{port}; start one: make run-compose (--compose-port says another port)")
        return
    if "http" in parts:
        through_http(options, options.directory)
    parts = [part for part in parts if part != "http"]
    if not parts or not options.cluster:
        return
    try:
        with Stack() as running:
            if not running.is_packets():
                bench.not_measured("compose", f"{', '.join(parts)}: their clients need a bridge; this stack's frames go through shared memory")
                return
            guest, servers = running.host(), [running.host() for _ in range(3)]
            for part in parts:
                {"epoch": epoch, "throughput": throughput, "failover": failover}[part](options, running, guest, servers)
    except stack.Trouble as trouble:
        bench.not_measured("compose", str(trouble))
