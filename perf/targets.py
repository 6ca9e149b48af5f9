"""Profile `targets`: every row of the table in docs/performance.md, each beside its floor of the same call.

A row is measured by the group that names it; --rows L1,B2 measures only those groups, and the others keep what an earlier
call wrote to perf/out/targets.json, with the commit that was measured then. The table there is printed, and written as
Markdown to perf/out/targets.md. What could not be measured is said, and makes the exit status 1."""
import json
import os
import pathlib
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time

import bench
import check
import machine
import plot

repeated = 3  # --repeat
NICE = -15  # of nodes and client beside etcd, for comparison


class Row:
    """What a row says: value and floor with their units, and whether the target is met. `reach`: what was measured, as a share
    of what the target allows; up to 1 is met. Not for what was not measured."""

    def __init__(self, name, target, value, floor="", ratio=None, reach=None, note=""):
        self.name, self.target, self.value, self.floor = name, target, value, floor
        self.ratio, self.reach, self.note = ratio, reach, note

    @property
    def met(self):
        return None if self.reach is None else self.reach <= 1

    def cells(self, since=""):
        """since: the commit that was measured, where that is not this one."""
        met = {True: "met", False: "short", None: "not measured"}[self.met] + (f", at {since}" if since else "")
        return [self.name, self.target, self.value, self.floor, "" if self.ratio is None else f"{self.ratio:.2f}", met]


def spread(values, unit="us"):
    """Median and, in brackets, least and most."""
    values = [value for value in values if value is not None]
    if not values:
        return "-"
    text = f"{statistics.median(values):.4g}"
    if len(values) > 1:
        text += f" ({min(values):.4g}-{max(values):.4g})"
    return f"{text} {unit}"


def runs(function, count=None):
    return [result for result in (function() for _ in range(count or repeated)) if result]


def median(results, path):
    values = [bench.value_at(result, path) for result in results]
    return statistics.median(values) if values else None


def values(results, path, scale=1000):
    return [bench.value_at(result, path) / scale for result in results]


def away(hiccups):
    """What the machine itself does to a loop that only looks at the clock, in the same call."""
    return (f"a loop that does nothing is kept from its core over 50 us for {spread(values(hiccups, 'lost_percent', 1), '%')} "
            f"of the time, at most {max(values(hiccups, 'longest_ns', 1e6)):.1f} ms")


def stalls(results):
    """The longest pass of the measuring thread in each run, what of it the machine took, and what the p99 of that run was."""
    each = []
    for result in results:
        found = result["stalls"]
        each.append(f"{found['longest_ns'] / 1e6:.2f} ms ({found['longest_away_ns'] / 1e6:.2f} away from its core, "
                    f"{found['longest_faults']} page faults; away {found['away_percent']:.2f} % of the time)")
    return "longest pass of each run: " + "; ".join(each)


# ---- in one process ----

def inproc(options):
    count = 50000 if options.quick else 200000
    alone, hops, full, half, memcpy = [], [], [], [], []
    for _ in range(repeated):
        alone += runs(lambda: bench.probe(bench.NET, "inproc", flight=1, count=count), 1)
        hops += runs(lambda: bench.probe(bench.NET, "hops", count=count), 1)
        full += runs(lambda: bench.probe(bench.NET, "inproc", flight=256, parts=4096, warm_up=100000, count=5 * count), 1)
        memcpy += runs(lambda: bench.probe(bench.PROBE, "memcpy", count=1000000), 1)
    rate = int(median(full, "per_s") / 2)
    half, hiccups = [], []
    for _ in range(repeated):
        hiccups += runs(lambda: bench.probe(bench.PROBE, "hiccups", seconds=1), 1)
        half += runs(lambda: bench.probe(bench.NET, "inproc", flight=8000, parts=8192, rate=rate, warm_up=rate // 4,
                                         count=rate // 2 if options.quick else 2 * rate), 1)
    floor, p50, p999 = (median(hops, "latency.p50") / 1000, median(alone, "latency.p50") / 1000,
                        median(alone, "latency.p999") / 1000)
    loaded = median(half, "latency.p99") / 1000
    cpu, copy = median(full, "cpu_ns_per_tx"), median(memcpy, "cpu_ns_per_tx")
    return [
        Row("L1 p50", "<= 3 us", spread(values(alone, "latency.p50")), f"4 hops {floor:.2f} us", p50 / floor, p50 / 3),
        Row("L1 p99.9", "<= 30 us", spread(values(alone, "latency.p999")), f"4 hops {floor:.2f} us", p999 / floor, p999 / 30),
        Row("L5 rings p99", "<= 10 x unloaded p50", spread(values(half, "latency.p99")), f"unloaded p50 {p50:.2f} us",
            loaded / p50, loaded / (10 * p50), f"at {rate / 1000:.0f} k/s, half of saturation; {stalls(half)}; {away(hiccups)}"),
        Row("B1", ">= 1.0 M/s", spread(values(full, "per_s", 1e6), "M/s"), f"memcpy {copy:.0f} ns", cpu / copy,
            1e6 / median(full, "per_s"), f"256 in flight; {cpu:.0f} ns of CPU a transaction"),
    ], {"alone": alone, "hops": hops, "full": full, "half": half, "hiccups": hiccups}


def inclusive(path, name):
    """Instructions of a function with all that it calls, from callgrind's file."""
    total, current, called, names = 0, None, False, {}

    def name_of(text):
        number, _, rest = text.partition(" ")
        names[number] = rest or names.get(number)
        return names[number]

    with open(path) as lines:
        for line in lines:
            if line.startswith("fn="):
                current = name_of(line[3:].strip())
            elif line.startswith("cfn="):
                called_name = name_of(line[4:].strip())
            elif line.startswith("calls="):
                called = True
            elif line[:1].isdigit() or line[:1] in "+-*":
                words = line.split()
                if re.sub(r"'\d+$", "", current or "") == name and len(words) > 1 and not (called and called_name == name):
                    total += int(words[1])
                called = False
    return total


def instructions(options):
    """B2: of the loaded workload of bench-check; the time by each part's share of the CPU time."""
    with tempfile.TemporaryDirectory(prefix="maroon-perf-") as workdir:
        total, _ = check.count(str(bench.PROBE), "loaded", workdir)
        transactions = check.WORKLOADS["loaded"][0]
        path = pathlib.Path(workdir) / "loaded.callgrind"
        node, replica = (inclusive(path, name) / transactions / 3 for name in ("stage_poll", "replica_step"))
    timed = runs(lambda: bench.probe(bench.PROBE, "inproc", flight=256, parts=4096, warm_up=100000, count=400000))
    cpu = median(timed, "cpu_ns_per_tx")
    node_ns, replica_ns = cpu * node / total, cpu * replica / total
    note = "time by share of instructions, in memory fabric"
    return [
        Row("B2 node", "<= 250 ns", f"{node_ns:.0f} ns, {node:.0f} instructions", f"all {cpu:.0f} ns, {total:.0f}", None,
            node_ns / 250, note),
        Row("B2 replica", "<= 80 ns", f"{replica_ns:.0f} ns, {replica:.0f} instructions", "", None, replica_ns / 80, note),
    ], {"instructions": {"all": total, "node": node, "replica": replica}, "timed": timed}


def flat(options):
    """G1, G2 by instructions: the same on a busy machine. History by CPU time, in parts of one run."""
    def growth(points):
        return (max(y for _, y in points) / points[0][1] - 1) * 100

    def text(points):
        return ", ".join(f"{x}: {y:.0f}" for x, y in points)

    ranges_max = {"key0": "--ranges-max=16384"}
    ranges = [(n, bench.instructions(6000, flight=256, app="echo", ranges=n, **ranges_max)) for n in (1, 100, 10000)]
    gateways = [(n, bench.instructions(6000, gateways=n, flight=256, app="echo")) for n in (1, 4, 16, 64)]
    nodes = [(n, bench.instructions(4000, nodes=n, flight=256, app="echo") / n) for n in (3, 5)]
    result = [Row(f"G1 {name}", "within +10 %", f"{growth(points):+.1f} %", text(points), 1 + growth(points) / 100,
                  growth(points) / 10, f"instructions; fitted {bench.slope(points) * 100:+.2f} % for each doubling")
              for name, points in (("open ranges", ranges), ("gateways", gateways))]
    result.append(Row("G2 nodes 3 -> 5, per node", "within +25 %", f"{growth(nodes):+.1f} %", text(nodes),
                      1 + growth(nodes) / 100, growth(nodes) / 25, "instructions"))
    return result, {"ranges": ranges, "gateways": gateways, "nodes": nodes}


def history(options):
    count = options.history
    bench.PROBE_SECONDS = max(bench.PROBE_SECONDS, count // 250000)
    run = bench.probe(bench.NET, "inproc", flight=256, parts=4096, warm_up=100000, count=count, windows=20)
    if not run:
        return [Row("G1 history", "within +10 %", "-")], {}
    parts = run["windows"]
    first, last = statistics.median(parts[:3]), statistics.median(parts[-3:])
    points = [((i + 1) * count / len(parts), part) for i, part in enumerate(parts)]
    return [Row("G1 history", "within +10 %", f"{(last / first - 1) * 100:+.1f} %", f"first {first:.0f} ns, last {last:.0f} ns",
                last / first, (last / first - 1) / 0.1,
                f"0 to {count:.0e} transactions; fitted {bench.slope(points) * 100:+.2f} % for each doubling")], {"run": run}


# ---- processes ----

def veth(options):
    import cluster
    count = 5000 if options.quick else 20000
    with cluster.Bench() as running:
        running.start_network()
        host, servers = running.host(), [running.host() for _ in range(3)]
        trips = runs(lambda: running.echo(host, servers, count=count))
        running.start_rest(nodes=3, gateways=0)
        running.leader()
        alone = runs(lambda: running.client(host, flight=1, count=count, seconds=10))
        full = runs(lambda: running.client(host, flight=1024, seconds=3))
        rate = int(median(full, "per_s") / 2)
        half, favoured, hiccups = [], [], []
        for _ in range(repeated):
            hiccups += runs(lambda: bench.probe(bench.PROBE, "hiccups", seconds=1), 1)
            half += runs(lambda: running.client(host, flight=4096, rate=rate, seconds=4), 1)
            running.renice(NICE)
            favoured += runs(lambda: running.client(host, flight=4096, rate=rate, seconds=4), 1)
            running.renice(0)
        peer = runs(lambda: cluster.etcd_transactions(running, 200))
    floor, p50, p99 = (2 * median(trips, "latency.p50") / 1000, median(alone, "latency.p50") / 1000,
                       median(alone, "latency.p99") / 1000)
    loaded, etcd = median(half, "latency.p99") / 1000, median(peer, "latency.p50") / 1000
    udp = runs(lambda: bench.probe(bench.PROBE, "udp", count=5000))
    blocking = median(udp, "latency.p50") / 1000
    shown = f"2 round trips {floor:.1f} us"
    return [
        Row("L3 p50", "<= 2 x floor", spread(values(alone, "latency.p50")), shown, p50 / floor, p50 / (2 * floor),
            f"one etcd transaction {etcd:.0f} us ({etcd / p50:.0f} x); kernel UDP echo {blocking:.1f} us"),
        Row("L3 p99", "<= 4 x floor", spread(values(alone, "latency.p99")), shown, p99 / floor, p99 / (4 * floor)),
        Row("L5 af_packet p99", "<= 10 x unloaded p50", spread(values(half, "latency.p99")), f"unloaded p50 {p50:.1f} us",
            loaded / p50, loaded / (10 * p50), f"at {rate / 1000:.0f} k/s, half of {2 * rate / 1000:.0f} k/s; at nice {NICE} "
            f"{spread(values(favoured, 'latency.p99'))}; frames lost at the client's port: {max(run['port_full'] for run in half)}; "
            f"client's {stalls(half)}; {away(hiccups)}"),
    ], {"favoured": favoured, "hiccups": hiccups, "trips": trips, "alone": alone, "full": full, "half": half, "etcd": peer, "udp": udp}


def disk(options):
    import cluster
    count = 3000 if options.quick else 10000
    with cluster.Bench() as running:
        running.start_network()
        host, servers = running.host(), [running.host() for _ in range(3)]
        trips = runs(lambda: running.echo(host, servers, count=5000), 2)
        running.start_rest(nodes=3, gateways=0, node_keys={"durability": "disk"})
        running.leader()
        alone, syncs, together = [], [], []
        for _ in range(repeated):
            together += [cluster.syncs_at_once(running.workdir, 1000, 3)]
            syncs += runs(lambda: bench.probe(bench.PROBE, "sync", count=1000, directory=str(running.workdir)), 1)
            alone += runs(lambda: running.client(host, flight=1, count=count, seconds=8), 1)
    trip, sync, p50 = (2 * median(trips, "latency.p50") / 1000, median(syncs, "latency.p50") / 1000,
                       median(alone, "latency.p50") / 1000)
    three = median(together, "latency.p50") / 1000
    return [Row("L4 p50", "<= 1.3 x floor", spread(values(alone, "latency.p50")),
                f"2 round trips {trip:.1f} us + sync {sync:.1f} us", p50 / (trip + sync), p50 / (1.3 * (trip + sync)),
                f"three syncs at once, as the nodes' on this one device: {three:.1f} us each, ratio {p50 / (trip + three):.2f}")], \
        {"trips": trips, "alone": alone, "syncs": syncs, "together": together}


def point(options):
    import cluster
    rows, results = [], {}
    for fabric in ("memif", "vhost"):
        with cluster.Bench(fabric=fabric, etcd_members=1) as running:
            running.start_network()
            host, servers = running.host(), [running.host() for _ in range(3)]
            trips = runs(lambda: running.echo(host, servers, count=20000))
            running.start_rest(nodes=3, gateways=0, etcd=running.etcd_members)
            running.leader()
            alone = runs(lambda: running.client(host, flight=1, count=20000, seconds=8))
        if not trips or not alone:
            rows.append(Row(f"L2 {fabric}", "<= 3 x floor", "-"))
            continue
        floor, p50 = 2 * median(trips, "latency.p50") / 1000, median(alone, "latency.p50") / 1000
        rows.append(Row(f"L2 {fabric} p50", "<= 3 x floor", spread(values(alone, "latency.p50")), f"2 round trips {floor:.2f} us",
                        p50 / floor, p50 / (3 * floor)))
        results[fabric] = {"trips": trips, "alone": alone}
    return rows, results


def failover(options):
    import cluster
    rounds = 4 if options.quick else 10
    measured = cluster.failover_gaps(rounds, (cluster.NOTHING, "leader handed over", "leader killed"))
    gaps, etcd = measured["gaps_ns"], measured["etcd"]["latency"]["p50"] / 1000
    killed = sorted(gap / 1e6 for gap in gaps["leader killed"])
    handed = sorted(gap / 1e6 for gap in gaps["leader handed over"])
    nothing = sorted(gap / 1e6 for gap in gaps[cluster.NOTHING])
    assert killed[0] > 0, f"no take-over is that fast: the client did not see one: {killed}"
    median_ms = statistics.median(killed)
    return [
        Row("F1 killed p50", "<= 30 ms", spread(killed, "ms"), f"etcd transaction {etcd:.0f} us", median_ms * 1000 / etcd,
            median_ms / 30, f"{len(killed)} rounds; gaps under 2 ms count as 0"),
        Row("F1 killed max", "<= 150 ms", f"{killed[-1]:.0f} ms", f"etcd transaction {etcd:.0f} us", killed[-1] * 1000 / etcd,
            killed[-1] / 150),
        Row("F2 hand-over", "<= 10 ms", spread(handed, "ms"), f"etcd transaction {etcd:.0f} us", handed[-1] * 1000 / etcd,
            handed[-1] / 10, f"by the worst of the rounds; gaps under 2 ms count as 0; where nothing is done {spread(nothing, 'ms')}"),
    ], measured


# ---- disk, HTTP, memory ----

def journals(options):
    with tempfile.TemporaryDirectory(prefix="maroon-perf-", dir=options.directory) as directory:
        done = subprocess.run([str(bench.BUILD / "perf/bench-journal"), directory, "1" if options.quick else "2", "--three"],
                              capture_output=True, text=True, timeout=120, check=True)
        print(done.stdout)
        end_to_end = runs(lambda: bench.probe(bench.NET, "inproc", flight=1024, parts=4096, count=300000, warm_up=20000,
                                              data_dir=tempfile.mkdtemp(dir=directory)), 2)
    found = dict(re.findall(r"^three journals, (\S+) B bodies: (.*)$", done.stdout, re.M))
    share, small = (float(re.search(r"= ([\d.]+) %", found[size]).group(1)) for size in ("1024", "64"))
    rate = float(re.search(r"([\d.]+) records/s each", found["64"]).group(1))
    floor = re.search(r"floor: sequential.*?(\d+) MB/s", done.stdout).group(1)
    cluster_rate = median(end_to_end, "per_s") or 0
    return [
        Row("B3 bandwidth", ">= 70 %", f"{share:.0f} %", f"sequential direct write {floor} MB/s", share / 100, 70 / share,
            found["1024"]),
        Row("B3 64 B", ">= 300 k/s", f"{rate / 1000:.0f} k/s each", f"sequential direct write {floor} MB/s", small / 100,
            300000 / max(1, min(rate, cluster_rate)),
            f"three nodes and a gateway on one thread, disk: {cluster_rate / 1000:.0f} k/s"),
    ], {"text": done.stdout, "cluster": end_to_end}


def pinned(cpu, command):
    return ["taskset", "-c", str(cpu)] + [str(word) for word in command]


def http(options):
    """One node and a gateway over kernel sockets; gateway, or the library alone, on core 0, the rest on core 1."""
    seconds, rows = 2 if options.quick else 4, {}
    floor_port, port, node_port, admin = 5900 + os.getpid() % 50, 5950 + os.getpid() % 50, 13000 + os.getpid() % 500, 9900
    with tempfile.TemporaryDirectory(prefix="maroon-perf-") as home:
        environment = {**os.environ, "XDG_RUNTIME_DIR": home}
        started = []

        def start(cpu, *command):
            started.append(subprocess.Popen(pinned(cpu, command), env=environment, stdout=subprocess.DEVNULL,
                                            stderr=open(f"{home}/{len(started)}.log", "w"), cwd=home))

        def client(to, flight, path="/", body="{}"):
            return bench.probe(bench.PROBE, "http", port=to, flight=flight, seconds=seconds, path=path, body=body)

        try:
            start(0, bench.PROBE, "http-floor", f"--port={floor_port}", "--seconds=100")
            start(1, bench.BUILD / "maroon-node", f"--port={node_port}", "--consensus-nodes=1", f"--data-dir={home}/data",
                  f"--admin=127.0.0.1:{admin}")
            start(0, bench.BUILD / "maroon-gateway", f"--node-urls=/ip4/127.0.0.1/udp/{node_port}", f"--http-port={port}")
            for _ in range(100):
                time.sleep(0.2)
                ready = subprocess.run(["curl", "-sf", f"http://127.0.0.1:{port}/readyz"], capture_output=True)
                if ready.returncode == 0:
                    break
            call = {"path": "/bank.v1.Bank/Deposit", "body": '{"account":"1","amount":"1"}'}
            os.sched_setaffinity(0, {1} if os.cpu_count() > 1 else {0})
            for _ in range(repeated):
                for flight in (1, 64):
                    rows.setdefault(f"floor {flight}", []).append(client(floor_port, flight))
                    rows.setdefault(f"gateway {flight}", []).append(client(port, flight, **call))
            os.sched_setaffinity(0, range(os.cpu_count()))
        finally:
            for process in reversed(started):
                process.send_signal(signal.SIGTERM)
            for process in started:
                try:
                    process.wait(5)
                except subprocess.TimeoutExpired:
                    process.kill()
    rows = {name: [run for run in found if run] for name, found in rows.items()}
    if not all(rows.get(f"{name} {flight}") for name in ("floor", "gateway") for flight in (1, 64)):
        return [Row("B4", ">= 60 %", "-")], rows
    rate, own = median(rows["floor 64"], "per_s"), median(rows["gateway 64"], "per_s")
    added = (median(rows["gateway 1"], "latency.p50") - median(rows["floor 1"], "latency.p50")) / 1000
    return [
        Row("B4 rate", ">= 60 % of the library's", spread(values(rows["gateway 64"], "per_s"), "k/s"), f"{rate / 1000:.1f} k/s",
            own / rate, 0.6 * rate / own, "64 connections; one node, kernel sockets, memory"),
        Row("B4 latency", "adds <= 60 us", f"{added:.0f} us", f"library {median(rows['floor 1'], 'latency.p50') / 1000:.0f} us", None, added / 60,
            "with the transaction itself"),
    ], rows


def rest(options):
    from importlib import import_module
    import cluster
    sys.path.insert(0, str(bench.ROOT / "tests/cluster"))
    idle, local = import_module("idle"), import_module("local")

    def take(processes):
        time.sleep(2)
        before = [idle.cpu_s(process.pid) for process in processes]
        time.sleep(6)
        return [(process.name, (idle.cpu_s(process.pid) - then) / 6 * 100, idle.rss_mib(process.pid))
                for process, then in zip(processes, before)]

    with cluster.c.Cluster() as running:
        local.start(running)
        running.others[1].stop()
        single = take(running.others[:1])
    with cluster.c.Cluster() as running:
        running.start(nodes=3, gateways=0)
        running.leader()
        three = take(running.nodes)
    rss, members = max(found[2] for found in single + three), [found[1] for found in three]
    return [
        Row("M1 memory", "<= 200 MiB", f"{rss:.0f} MiB", "", None, rss / 200),
        Row("M1 single node", "<= 1 % of a core", f"{single[0][1]:.1f} %", "", None, single[0][1]),
        Row("M1 member of three", "<= 4 % of a core", spread(members, "%"), "", None, max(members) / 4, "the leader is the most"),
    ], {"single": single, "three": three}


def memory(options):
    ranges = bench.probe(bench.PROBE, "ranges")
    chunk = 720  # of the pool of chunks that holds bodies of all ranges; one is counted for each
    active = ranges["replica_bytes"] - chunk + ranges["runtime_bytes"]
    retired = ranges["replica_retired_bytes"]
    steps = runs(lambda: bench.probe(bench.PROBE, "snapshot"))
    stop = [max(run["begin_ns"], run["longest_step_ns"]) / 1e6 for run in steps]
    copy = statistics.median(run["memcpy_ns"] for run in steps) / 1e6
    return [
        Row("M2 at rest", "<= 256 B", f"{active:.0f} B", "", None, active / 256,
            f"replica {ranges['replica_bytes'] - chunk:.0f} B, state {ranges['runtime_bytes']:.1f} B; beside them {chunk} B of shared "
            f"chunks, and {ranges['shadow_bytes']:.1f} B of address space that a snapshot's copies may fill"),
        Row("M2 retired", "<= 16 B", f"{max(retired, ranges['runtime_retired_bytes']):.1f} B", "", None,
            max(retired, ranges["runtime_retired_bytes"]) / 16,
            f"{ranges['runtime_retired_bytes']:.1f} B in the state, {retired:.1f} B in the replica; beside the state as much address space for a "
            f"snapshot's copies"),
        Row("S1", "<= 5 ms", spread(stop, "ms"), f"memcpy of it {copy:.1f} ms", statistics.median(stop) / copy,
            statistics.median(stop) / 5, "64 MiB; the longest of begin and steps of 16 pages"),
    ], {"ranges": ranges, "snapshot": steps}


def start_from_dump(options):
    """S2, on two states: random bytes, which no packing helps, and a table of accounts."""
    import dumps
    rows, results = [], {}
    for kind in ("random", "accounts"):
        found = results[kind] = dumps.measure(options.directory, 128 if options.quick else 1024, kind, 1 if options.quick else repeated)
        floor, plain = dumps.seconds(found["floor"], "ns"), dumps.seconds(found["plain"], "ns")
        fetch, everything = dumps.seconds(found["start"], "fetch_ns"), dumps.seconds(found["start"], "all_ns")
        size, objects = found["make"]["page_bytes"], found["start"][0]["object_bytes"]
        took = spread([run["all_ns"] / 1e9 for run in found["start"]], "s")
        rows.append(Row(f"S2 {kind}", ">= 70 % of floor", f"{floor / everything:.0%}: {took}, {size / everything / 1e6:.0f} MB/s of pages",
                        f"GETs, hash, unpacking {floor:.2f} s", floor / everything, 0.7 * everything / floor,
                        f"{size / 1e6:.0f} MB of pages in {objects / 1e6:.0f} MB; fetched, checked, on disk {fetch:.2f} s ({floor / fetch:.0%}), "
                        f"then in the runtime {everything - fetch:.2f} s; GETs alone {plain:.2f} s ({plain / fetch:.0%} of that rate)"))
    return rows, results


GROUPS = {
    "L1": (inproc, ("L1", "L5 rings", "B1")), "B2": (instructions, ("B2",)), "L2": (point, ("L2",)),
    "L3": (veth, ("L3", "L5 af_packet")), "L4": (disk, ("L4",)), "B3": (journals, ("B3",)), "B4": (http, ("B4",)),
    "F": (failover, ("F1", "F2")), "G": (flat, ("G1 open", "G1 gate", "G2")), "history": (history, ("G1 history",)),
    "M1": (rest, ("M1",)), "M2": (memory, ("M2", "S1")), "S2": (start_from_dump, ("S2",)),
}
NEEDS_ROOT = ("L2", "L3", "L4", "F", "M1")
ORDER = ["L1", "L2", "L3", "L4", "L5", "B1", "B2", "B3", "B4", "F1", "F2", "G1", "G2", "M1", "M2", "S1", "S2"]


def markdown(rows):
    """rows: [(Row, since)]."""
    lines = ["| row | target | measured | floor or peer of the same call | ratio | | |", "|---|---|---|---|---|---|---|"]
    lines += ["| " + " | ".join(row.cells(since) + [row.note]) + " |" for row, since in rows]
    return "\n".join(lines) + "\n"


def rows_of(groups, commit):
    """[(Row, commit where it is another than this one)], in the table's order."""
    rows = [(Row(**row), "" if group["machine"]["commit"] == commit else group["machine"]["commit"])
            for group in groups.values() for row in group["rows"]]
    return sorted(rows, key=lambda pair: ORDER.index(pair[0].name.split()[0]))


def targets(options):
    global repeated
    repeated = options.repeat
    path = bench.OUT / "targets.json"
    fresh = {}
    wanted = options.rows.split(",") if options.rows else list(GROUPS)
    unknown = [name for name in wanted if name not in GROUPS]
    if unknown:
        sys.exit(f"--rows: {unknown[0]} is none of {', '.join(GROUPS)}")
    for name in wanted:
        if name in NEEDS_ROOT and not options.cluster:
            bench.not_measured(name, "needs root and processes in namespaces")
            continue
        try:
            rows, results = GROUPS[name][0](options)
        except (AssertionError, OSError, subprocess.SubprocessError, TypeError, KeyError, AttributeError) as error:
            bench.not_measured(name, f"{type(error).__name__}: {error}")
            continue
        fresh[name] = {"machine": machine.describe(), "rows": [vars(row) for row in rows], "results": results}
    bench.OUT.mkdir(exist_ok=True)
    kept = {**(json.loads(path.read_text()) if path.exists() else {}), **fresh}
    path.write_text(json.dumps(kept, indent=1) + "\n")
    rows = rows_of(kept, machine.commit())
    bench.table("Targets", ["", "target", "measured", "floor", "ratio", ""], [row.cells(since) for row, since in rows])
    (bench.OUT / "targets.md").write_text(markdown(rows))
    plot.bars(bench.OUT / "targets.svg", "Targets: what was measured, as a share of what is allowed", "1: the target; less is better",
              [(row.name, max(row.reach, 0.01)) for row, _ in rows if row.reach is not None])
