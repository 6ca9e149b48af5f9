"""The profiles' parts with real processes: nodes and the measuring client in network namespaces on one bridge, real etcd
(the harness of tests/cluster). Needs root."""
import base64
import http.client
import json
import os
import pathlib
import signal
import statistics
import subprocess
import sys
import time

import bench
import plot
from guests import Guests

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "tests/cluster"))
from lib import cluster as c  # noqa: E402
from lib import http as admin  # noqa: E402
from lib.process import wait_until  # noqa: E402

RATES = (1000, 10000, 50000, 100000, 200000, 400000, 600000, 800000)
DISK_RATES = (1000, 10000, 50000, 100000, 200000, 400000)
TRIPS = "floor: round trip, 4 pollers"
SYNC = "floor: write + fdatasync"
NAMES = {"memory": "af_packet over veth, memory", "disk": "af_packet over veth, disk"}


class Bench(Guests, c.Cluster):
    """A cluster with hosts for clients and echo servers. `build`: its programs; `fabric`: af_packet, or a point-to-point one
    (memif, vhost), whose links are sockets in the work directory: net namespaces then carry only etcd and admin HTTP."""

    def __init__(self, build=None, fabric="af_packet", etcd_members=3):
        super().__init__()
        self.build = build or bench.BUILD
        self.fabric, self.etcd_members = fabric, etcd_members
        self.marks = None
        self.hosts = 0

    def __enter__(self):
        super().__enter__()
        self.marks = self.workdir / "marks"
        self.marks.write_bytes(bytes(4096))
        return self

    def _environment(self, name):
        return {**super()._environment(name), "PERF_MARKS_FILE": str(self.marks)}

    def links(self, own, count, what="link"):
        """Flags of host `own` (nodes first) with a link to each of `count` hosts. Host i has 10.99.0.(i + 1). `what`: sockets
        of another name, since who finds one that a dead process left cannot connect."""
        peers = []
        for peer in range(count):
            low, high = min(own, peer), max(own, peer)
            if peer != own:
                peers.append(f"10.99.0.{peer + 1}={self.workdir}/{what}-{low}-{high}.sock{':server' if own == low else ''}")
        fabric = "virtio_user" if self.fabric == "vhost" else self.fabric
        return {"fabric": fabric, "links": ",".join(peers), "address": f"10.99.0.{own + 1}/24"}

    def _node(self, index, keys):
        if self.fabric != "af_packet":
            count = len(self.node_addresses)
            keys = {**keys, **self.links(index, count + 1), "interface": "",
                    "nodes": ",".join(f"/ip4/10.99.0.{i + 1}/udp/{c.PORT}" for i in range(count))}
        process = super()._node(index, keys)
        process.command[0] = str(self.build / "maroon-node")
        process.own_session = False
        return process

    def host(self):
        self.hosts += 1
        name = f"p{self.hosts}"
        return name, self.network.add_host(name, 100 + self.hosts)

    def namespace(self, name):
        return self.network.namespace(name)

    def guest_environment(self, name):
        return self._environment(name)

    def renice(self, nice):
        """The nodes' threads, and the clients started from now on."""
        self.nice = nice
        for node in self.nodes:
            for thread in os.listdir(f"/proc/{node.pid}/task"):
                os.setpriority(os.PRIO_PROCESS, int(thread), nice)

    def node_list(self):
        if self.fabric != "af_packet":
            return ",".join(f"10.99.0.{i + 1}:{c.PORT}" for i in range(len(self.node_addresses)))
        return ",".join(f"{address}:{c.PORT}" for address in self.node_addresses)

    def client_links(self):
        count = len(self.node_addresses)
        return {} if self.fabric == "af_packet" else self.links(count, count + 1)

    def etcd_address(self):
        return self.etcd.addresses[0]


def syncs_at_once(directory, count, writers):
    """The floor of three journals on one device: all write and sync at the same time. The one in the middle."""
    running = [subprocess.Popen([str(bench.PROBE), "sync", f"--count={count}", f"--directory={directory}"],
                                stdout=subprocess.PIPE, text=True) for _ in range(writers)]
    found = [json.loads(process.communicate(timeout=bench.PROBE_SECONDS)[0]) for process in running]
    return sorted(found, key=lambda result: result["latency"]["p50"])[writers // 2]


def etcd_transactions(cluster, count=300):
    """One put in a transaction per epoch: what committing every epoch through etcd would cost."""
    connection = http.client.HTTPConnection(cluster.etcd_address(), 2379, timeout=10)
    key, took = base64.b64encode(b"/perf").decode(), []
    for number in range(count):
        value = base64.b64encode(f"{number:064}".encode()).decode()
        body = json.dumps({"success": [{"requestPut": {"key": key, "value": value}}]})
        before = time.monotonic_ns()
        connection.request("POST", "/v3/kv/txn", body)
        connection.getresponse().read()
        took.append(time.monotonic_ns() - before)
    connection.close()
    took.sort()
    at = lambda share: took[min(len(took) - 1, int(share * len(took)))]  # noqa: E731
    shares = (0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999)
    return {"latency": {"count": count, "p50": at(0.5), "p90": at(0.9), "p99": at(0.99), "p999": at(0.999), "max": took[-1],
                        "curve": [[share, at(share)] for share in shares]}}


def epoch(options):
    """L3, L4."""
    rows = bench.Rows(options.repeat)
    count = 3000 if options.quick else 20000
    for durability in ("memory", "disk"):
        with Bench() as cluster:
            cluster.start_network()
            host, servers = cluster.host(), [cluster.host() for _ in range(3)]
            part = bench.Rows(options.repeat)
            if durability == "memory":
                part.add(TRIPS, lambda: cluster.echo(host, servers, count=count))
            part.measure()
            rows.results.update(part.results)
            cluster.start_rest(nodes=3, gateways=0, node_keys={"durability": durability})
            cluster.leader()
            part = bench.Rows(options.repeat)
            part.add(NAMES[durability], lambda: cluster.client(host, flight=1, count=count, seconds=20))
            if durability == "memory":
                part.add("peer: etcd transaction", lambda: etcd_transactions(cluster))
            else:
                part.add(SYNC, lambda: bench.probe(bench.PROBE, "sync", count=500, directory=str(cluster.workdir)))
            part.measure()
            rows.results.update(part.results)
    for fabric in ("memif", "vhost"):
        with Bench(fabric=fabric, etcd_members=1) as cluster:
            cluster.start_network()
            host, servers = cluster.host(), [cluster.host() for _ in range(3)]
            part = bench.Rows(options.repeat)
            part.add(f"floor: round trip, 4 pollers, {fabric}", lambda: cluster.echo(host, servers, count=count)).measure()
            cluster.start_rest(nodes=3, gateways=0, etcd=cluster.etcd_members)
            cluster.leader()
            part.plans.clear()
            part.add(f"{fabric}, memory", lambda: cluster.client(host, flight=1, count=count, seconds=20)).measure()
            rows.results.update(part.results)
    trip = rows.median(TRIPS, "latency.p50")
    floor = 2 * trip if trip else None
    sync = rows.median(SYNC, "latency.p50")
    shown = [bench.latency_row(rows, NAMES["memory"], floor),
             bench.latency_row(rows, NAMES["disk"], floor + sync if floor and sync else None)]
    for fabric in ("memif", "vhost"):
        trip_of = rows.median(f"floor: round trip, 4 pollers, {fabric}", "latency.p50")
        shown.append(bench.latency_row(rows, f"{fabric}, memory", 2 * trip_of if trip_of else None))
    shown += [bench.latency_row(rows, name, floor) for name in
              (TRIPS, SYNC, "peer: etcd transaction")]
    bench.table("Three nodes, client and etcd as processes in namespaces; floor: two round trips (disk: and one sync)",
                bench.LATENCY_HEAD, shown)
    bench.save("epoch_processes", rows)
    plot.lines(bench.OUT / "epoch_processes.svg", "Latency, one in flight, processes in namespaces", "share of transactions",
               "us", bench.curves(rows, list(rows.results)), True, True, bench.NINES)
    hops(options)


def hops(options):
    """The breakdown over processes, whose marks are in a file that all of them map."""
    build = bench.marks_build("maroon-node", "perf/maroon-perf-net")
    if not build:
        return
    with Bench(build=build) as cluster:
        cluster.start_network()
        host, servers = cluster.host(), [cluster.host() for _ in range(3)]
        rows = bench.Rows(options.repeat).add(TRIPS, lambda: cluster.echo(host, servers, count=3000)).measure()
        cluster.start_rest(nodes=3, gateways=0)
        cluster.leader()
        rows.plans.clear()
        rows.add("one in flight", lambda: cluster.client(host, flight=1, count=3000 if options.quick else 20000, seconds=20))
        rows.add("64 in flight", lambda: cluster.client(host, flight=64, seconds=3)).measure()
    bench.show_hops(rows, list(rows.plans), (rows.median(TRIPS, "latency.p50") or 0) / 2, "af_packet over veth, memory", "hops_processes")


def throughput(options):
    for durability, rates in (("memory", RATES), ("disk", DISK_RATES)):
        with Bench() as cluster:
            cluster.start_network()
            host, servers = cluster.host(), [cluster.host() for _ in range(3)]
            floors = bench.Rows(options.repeat).add(TRIPS, lambda: cluster.echo(host, servers, count=3000))
            floors.add(SYNC, lambda: bench.probe(bench.PROBE, "sync", count=500, directory=str(cluster.workdir))).measure()
            cluster.start_rest(nodes=3, gateways=0, node_keys={"durability": durability})
            cluster.leader()
            rows = sweep(options, cluster, host, rates)
        trip, sync = floors.median(TRIPS, "latency.p50") or 0, floors.median(SYNC, "latency.p50") or 0
        if durability == "memory":
            show_sweep(rows, floors, rates, "throughput_processes", NAMES[durability])
        else:
            show_sweep(rows, floors, rates, "throughput_disk", NAMES[durability], 2 * trip + sync, "two round trips and one sync")


def sweep(options, cluster, host, rates):
    """Open loops at these rates; sizes; ranges."""
    rows, seconds = bench.Rows(options.repeat), 3 if options.quick else 6
    for rate in rates:
        rows.add(f"{rate / 1000:g} k/s", lambda rate=rate: cluster.client(host, flight=4096, rate=rate, seconds=seconds))
    rows.add("256 in flight", lambda: cluster.client(host, flight=256, seconds=seconds))
    for size in (64, 256, 1024):
        rows.add(f"echo of {size} B, 256 in flight", lambda size=size: cluster.client(
            host, app="echo", size=size, flight=256, seconds=seconds))
    for count in (1, 2, 4):
        rows.add(f"{count} gateways, a range each, 256 in flight together",
                 lambda count=count: cluster.clients(count, flight=256 // count, seconds=seconds))
    return rows.measure()


def show_sweep(rows, trips, rates, name, title, floor_ns=None, floor_name="two round trips"):
    floor_ns = floor_ns or 2 * (trips.median(TRIPS, "latency.p50") or 0)
    shown = []
    for plan in rows.plans:
        low, high = rows.spread(plan, "per_s")
        if low is None:
            continue
        shown.append([plan, f"{rows.median(plan, 'per_s') / 1000:.1f}", f"{low / 1000:.1f}-{high / 1000:.1f}"]
                     + [bench.us(rows.median(plan, f"latency.{p}")) for p in ("p50", "p99", "p999")]
                     + [bench.ratio(rows.median(plan, "latency.p50"), floor_ns)])
    rows.results.update(trips.results)
    bench.table(f"{title}; bank in an open loop unless said otherwise; floor: {floor_name}, {bench.us(floor_ns)} us",
                ["", "answered k/s", "spread", "p50 us", "p99 us", "p99.9 us", "p50 / floor"], shown)
    bench.save(name, rows)
    plot.lines(bench.OUT / f"{name}.svg", f"Latency against throughput, {title}", "transactions/s", "us",
               {p: [(rows.median(f"{rate / 1000:g} k/s", "per_s") or 0,
                     (rows.median(f"{rate / 1000:g} k/s", f"latency.{p}") or 0) / 1000) for rate in rates]
                for p in ("p50", "p99", "p999")}, False, True)


def kill(cluster, leader):
    cluster.nodes[leader].kill()
    return lambda: cluster.nodes[leader].start()


def pause(cluster, leader):
    cluster.nodes[leader].pause()
    return cluster.nodes[leader].resume


def hand_over(cluster, leader):
    answer = admin.request(cluster.admin(leader), "/v1/handover", "POST", "{}", timeout=3)
    assert answer.status < 300, f"a hand-over was refused: {answer.status}"
    return lambda: None


def nothing(cluster, leader):
    """What the machine itself keeps the answers waiting, seen in the same way."""
    return lambda: None


def newest_term(cluster):
    return max(int(cluster.status(index)["term"]) for index in range(len(cluster.nodes)))


NOTHING = "nothing done"
FAULTS = {NOTHING: nothing, "leader handed over": hand_over, "leader paused": pause, "leader killed": kill}


def failover_gaps(rounds, faults=tuple(FAULTS)):
    """Gaps of a cluster of namespaces; etcd's transactions, and round trips of empty packets on the same fabric."""
    with Bench() as cluster:
        cluster.start_network()
        host, servers = cluster.host(), [cluster.host() for _ in range(3)]
        trips = [cluster.echo(host, servers, count=3000) for _ in range(3)]
        cluster.start_rest(nodes=3, gateways=0)
        cluster.leader()
        gaps = gaps_around(cluster, host, rounds, faults)
        return {"gaps_ns": gaps, "etcd": etcd_transactions(cluster), "trips": [trip for trip in trips if trip]}


def gaps_around(cluster, host, rounds, faults=tuple(FAULTS)):
    """The longest time without an answer around each fault, under 2,000 transactions/s. A round begins when the node of the last
    one has executed what was committed meanwhile: without it there would be no quorum beside the next. A fault that moved
    nothing would look like a short gap: each has to end in a new term."""
    gaps = {}
    for name in faults:
        pause_s = 0.1 if name == NOTHING else 2
        client = subprocess.Popen(cluster.client_command(host, rate=2000, flight=4096, seconds=600), stdout=subprocess.PIPE, text=True)
        times = []
        try:
            time.sleep(3)
            for _ in range(rounds):
                leader, term = cluster.leader(), newest_term(cluster)
                before = time.monotonic_ns()
                undo = FAULTS[name](cluster, leader)
                times.append((before, time.monotonic_ns()))
                time.sleep(pause_s)
                undo()
                cluster.wait_node_ready(leader)
                if name != NOTHING:
                    wait_until(lambda: newest_term(cluster) > term, 60, f"a new term: {name}")
                committed = max(cluster.status(index)["commitSeq"] for index in range(len(cluster.nodes)))
                wait_until(lambda: cluster.status(leader)["execSeq"] >= committed, 60, f"node {leader} has caught up")
                time.sleep(1)
        finally:
            client.send_signal(signal.SIGINT)  # it tells what it has
            output, _ = client.communicate(timeout=bench.PROBE_SECONDS)
        found = json.loads(output)["gaps"]
        gaps[name] = [max([length for at, length in found if before - 50e6 < at + length and at < after + 50e6],
                          default=0) for before, after in times]
    return gaps


def failover(options):
    """F1, F2."""
    show_failover(options, failover_gaps(3 if options.quick else 10), "failover")


def show_failover(options, measured, file, title="Without an answer around a fault"):
    gaps, peer = measured["gaps_ns"], measured["etcd"]
    floors = bench.Rows(options.repeat).add("UDP echo, blocking", lambda: bench.probe(bench.PROBE, "udp", count=5000)).measure()
    floors.results["round trip, 4 pollers"] = measured.pop("trips")
    etcd, trip = peer["latency"]["p50"], floors.median("round trip, 4 pollers", "latency.p50")

    def row(name, least, p50, most, count):
        return [name, bench.us(least), bench.us(p50), bench.us(most), count, bench.ratio(p50, etcd), bench.ratio(p50, trip)]

    rows = [row(name, min(values), statistics.median(values), max(values), len(values)) for name, values in gaps.items()]
    rows.append(row("peer: etcd transaction", None, etcd, peer["latency"]["max"], peer["latency"]["count"]))
    rows += [row(f"floor: {name}", floors.spread(name, "latency.min")[0], floors.median(name, "latency.p50"),
                 floors.spread(name, "latency.max")[1], sum(run["latency"]["count"] for run in found))
             for name, found in floors.results.items() if found]
    bench.table(f"{title} (gaps under 2 ms count as 0)",
                ["", "least us", "p50 us", "max us", "rounds", "p50 / etcd", "p50 / round trip"], rows)
    bench.save(file, floors, measured)
    plot.lines(bench.OUT / f"{file}.svg", "Time without an answer, by round (sorted)", "round", "ms",
               {name: [(i + 1, value / 1e6) for i, value in enumerate(sorted(values))] for name, values in gaps.items()})
