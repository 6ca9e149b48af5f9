"""maroon-perf: the profiles. Each prints a table and writes perf/out/PROFILE.json and PROFILE*.svg.

    bench.py [--repeat N] [--quick] [epoch] [throughput] [failover] [scale] [floor] [compose] [targets]      default: floor epoch throughput

Every figure is the median of N runs (spread: least and greatest), beside a floor measured in the same call. Runs of a
profile alternate, so that a neighbour who comes and goes spoils a row, not a column. CPU time a transaction (the measuring
thread's own clock) does not count time in which somebody else had the core; wall-clock latency does."""
import argparse
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile

import machine
import plot

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent
BUILD = (ROOT / os.environ.get("BUILD", "build")).resolve()
PROBE, NET = BUILD / "perf/maroon-perf-probe", BUILD / "perf/maroon-perf-net"
OUT = HERE / "out"
PROBE_SECONDS = 120
missing = []  # what was asked for and not measured: then the exit status is 1


def probe_options(options):
    return [f"--{key.replace('_', '-')}={value}" for key, value in options.items()]


def run_probe(command, name):
    """What the command, called `name`, prints as JSON, or None with the reason on stderr."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PROBE_SECONDS)
    except subprocess.TimeoutExpired:
        return not_measured(name, f"no result in {PROBE_SECONDS} s")
    if done.returncode != 0:
        return not_measured(name, f"status {done.returncode} {done.stderr.strip()[-300:]}")
    return json.loads(done.stdout)


def not_measured(name, why):
    print(f"  {name}: {why}", file=sys.stderr)
    missing.append(name)


def probe(program, measurement, **options):
    """One run: the probe's JSON, or None with the reason on stderr."""
    command = [str(program), measurement, *probe_options(options)]
    return run_probe(command, " ".join(command[1:]))


def value_at(result, path):
    for key in path.split("."):
        result = result[key]
    return result


class Rows:
    """Measurements by name, repeated in turn."""

    def __init__(self, repeat):
        self.repeat = repeat
        self.plans, self.results = {}, {}

    def add(self, name, run):
        self.plans[name] = run
        return self

    def measure(self):
        for _ in range(self.repeat):
            for name, run in self.plans.items():
                result = run()
                if result is not None:
                    self.results.setdefault(name, []).append(result)
        return self

    def median(self, name, path):
        values = [value_at(result, path) for result in self.results.get(name, [])]
        return statistics.median(values) if values else None

    def spread(self, name, path):
        values = [value_at(result, path) for result in self.results.get(name, [])]
        return (min(values), max(values)) if values else (None, None)

    def typical(self, name, path):
        """The run in the middle, whole."""
        results = sorted(self.results.get(name, []), key=lambda result: value_at(result, path))
        return results[len(results) // 2] if results else None


def us(ns):
    return "-" if ns is None else f"{ns / 1000:.2f}" if ns < 100000 else f"{ns / 1000:.0f}"


def ratio(a, b):
    return "-" if not a or not b else f"{a / b:.2f}"


def table(title, head, rows):
    print(f"\n{title}")
    widths = [max(len(str(row[i])) for row in [head] + rows) for i in range(len(head))]
    for row in [head] + rows:
        print("  " + "  ".join(str(cell).ljust(width) if i == 0 else str(cell).rjust(width)
                               for i, (cell, width) in enumerate(zip(row, widths))))
    sys.stdout.flush()


def latency_row(rows, name, floor):
    low, high = rows.spread(name, "latency.p50")
    p50 = rows.median(name, "latency.p50")
    return [name, us(p50), f"{us(low)}-{us(high)}"] + [us(rows.median(name, f"latency.{p}")) for p in ("p90", "p99", "p999")] \
        + [ratio(p50, floor)]


LATENCY_HEAD = ["", "p50 us", "spread", "p90", "p99", "p99.9", "p50 / floor"]


def save(profile, rows, extra=None):
    OUT.mkdir(exist_ok=True)
    result = {"profile": profile, "machine": machine.describe(), "repeat": rows.repeat, "runs": rows.results,
              **(extra or {})}
    (OUT / f"{profile}.json").write_text(json.dumps(result, indent=1) + "\n")


def curves(rows, names):
    """Percentile curves: x = 1 / (1 - share), so that each nine is as wide as the last."""
    series = {}
    for name in names:
        middle = rows.typical(name, "latency.p50")
        if middle:
            series[name] = [(1 / (1 - share), ns / 1000) for share, ns in middle["latency"]["curve"] if share < 1]
    return series


NINES = {1: "0", 2: "50 %", 10: "90 %", 100: "99 %", 1000: "99.9 %", 10000: "99.99 %", 100000: ""}


def floors(rows, directory):
    rows.add("floor: 4 hops, rings", lambda: probe(NET, "hops", count=200000))
    rows.add("floor: 4 hops, in memory", lambda: probe(PROBE, "hops", count=200000))
    rows.add("floor: UDP echo, blocking", lambda: probe(PROBE, "udp", count=5000))
    rows.add("floor: UDP echo, yielding", lambda: probe(PROBE, "udp", count=5000, spin=1))
    rows.add("floor: write + fdatasync", lambda: probe(PROBE, "sync", count=500, directory=directory))
    rows.add("floor: io_uring, RWF_DSYNC", lambda: probe(PROBE, "sync", count=500, directory=directory, uring=1))


def floor(options):
    rows = Rows(options.repeat)
    floors(rows, options.directory)
    rows.add("memcpy of 64 B, 8 times", lambda: probe(PROBE, "memcpy", count=1000000))
    rows.measure()
    names = [name for name in rows.plans if name.startswith("floor")]
    table("Floors", LATENCY_HEAD[:-1], [latency_row(rows, name, None)[:-1] for name in names])
    print(f"  memcpy of 64 B, 8 times: {rows.median('memcpy of 64 B, 8 times', 'cpu_ns_per_tx'):.1f} ns "
          f"({rows.median('memcpy of 64 B, 8 times', 'gb_per_s'):.1f} GB/s)")
    save("floor", rows)
    plot.lines(OUT / "floor.svg", "Floors", "share of round trips", "us", curves(rows, names), True, True, NINES)


def epoch(options):
    """L1: one in flight; L5: half of saturation. L3 and the hops as far as they can be had here."""
    rows = Rows(options.repeat)
    count = 20000 if options.quick else 100000
    rows.add("one lcore, rings", lambda: probe(NET, "inproc", flight=1, count=count))
    rows.add("one lcore, in memory", lambda: probe(PROBE, "inproc", flight=1, count=count))
    rows.add("the same, echo", lambda: probe(PROBE, "inproc", flight=1, count=count, app="echo"))
    rows.add("at 500 k/s, rings", lambda: probe(NET, "inproc", flight=4096, parts=8192, rate=500000, count=5 * count))
    floors(rows, options.directory)
    rows.measure()
    floor_of = rows.median("floor: 4 hops, rings", "latency.p50")
    names = list(rows.plans)[:4]
    table("Latency from submission to result, three nodes and a gateway on one thread, memory", LATENCY_HEAD,
          [latency_row(rows, name, floor_of) for name in names + ["floor: 4 hops, rings", "floor: UDP echo, yielding"]])
    save("epoch", rows)
    plot.lines(OUT / "epoch.svg", "Latency, one in flight", "share of transactions", "us",
               curves(rows, names + ["floor: 4 hops, rings", "floor: UDP echo, yielding"]), True, True, NINES)
    hops(options)
    if options.cluster:
        import cluster
        cluster.epoch(options)


def marks_build(*programs):
    """The build with marks, made by run.sh; None, and said, when it has not got these programs."""
    build = (ROOT / os.environ.get("MARKS", "build-marks")).resolve()
    if all((build / program).exists() for program in programs):
        return build
    return not_measured("breakdown by hop", "meson setup build-marks -Dperf_marks=true && ninja -C build-marks")


def hops(options):
    """The breakdown by hop of one process. Under load one transaction at a time is watched."""
    build = marks_build("perf/maroon-perf-probe")
    if not build:
        return
    marked, rows = build / "perf/maroon-perf-probe", Rows(options.repeat)
    rows.add("one in flight", lambda: probe(marked, "inproc", flight=1, count=20000))
    rows.add("64 in flight", lambda: probe(marked, "inproc", flight=64, count=100000))
    rows.add("at 500 k/s", lambda: probe(marked, "inproc", flight=4096, parts=8192, rate=500000, count=500000))
    rows.add("floor: 4 hops, in memory", lambda: probe(PROBE, "hops", count=200000))
    rows.measure()
    show_hops(rows, list(rows.plans)[:-1], (rows.median("floor: 4 hops, in memory", "latency.p50") or 0) / 4,
              "one thread, in memory", "hops")


def show_hops(rows, names, floor_ns, where, file):
    """floor_ns: of an empty packet to another host on the same fabric."""
    middle = {name: rows.typical(name, "latency.p50") for name in names}
    middle = {name: run["hops"] for name, run in middle.items() if run and run["hops"]}
    if not middle:
        not_measured(f"breakdown by hop, {where}", "no transaction was seen at every mark")
        return
    first = next(iter(middle.values()))
    table(f"By hop ({where}; medians of each hop); floor: an empty packet to another host, {us(floor_ns)} us",
          [""] + [column if column != "p50 us" else f"{name}: {column}" for name in middle for column in ("p50 us", "p99", "/ floor")],
          [[hop["hop"]] + [cell for found in middle.values() for cell in
                           (us(found[i]["p50_ns"]), us(found[i]["p99_ns"]), ratio(found[i]["p50_ns"], floor_ns))]
           for i, hop in enumerate(first)])
    save(file, rows)
    plot.bars(OUT / f"{file}.svg", f"Where a transaction's time goes, {where}", "us, median of the hop",
              [(f"{hop['hop']}, {name}", hop["p50_ns"] / 1000) for name, found in middle.items() for hop in found], None)


def throughput(options):
    rows = Rows(options.repeat)
    count = 100000 if options.quick else 400000
    flights = (1, 16, 64, 256, 1024, 4096)
    for flight in flights:
        rows.add(f"bank, {flight} in flight", lambda flight=flight: probe(
            NET, "inproc", flight=flight, parts=8192, count=min(count, 20000 * flight)))
    for size in (64, 256, 1024):
        rows.add(f"echo of {size} B, 256 in flight", lambda size=size: probe(
            NET, "inproc", app="echo", size=size, flight=256, count=count // 2))
    ranges = (1, 4, 16, 64)
    for number in ranges:  # the in-memory fabric links that many gateways, each with its range
        rows.add(f"echo of 64 B, {number} ranges, 256 in flight", lambda number=number: probe(
            PROBE, "inproc", app="echo", size=64, flight=256, gateways=number, count=count // 2))
    rates = (50000, 100000, 200000, 400000, 600000, 800000, 1000000)
    for rate in rates:
        rows.add(f"bank, open loop at {rate / 1000:g} k/s", lambda rate=rate: probe(
            NET, "inproc", flight=8192, parts=8192, rate=rate, count=min(count, rate)))
    rows.add("floor: memcpy", lambda: probe(PROBE, "memcpy", count=1000000))
    rows.add("floor: 4 hops, rings", lambda: probe(NET, "hops", count=200000))
    rows.measure()
    floor_ns, hops_ns = rows.median("floor: memcpy", "cpu_ns_per_tx"), rows.median("floor: 4 hops, rings", "latency.p50")
    shown = []
    for name in list(rows.plans)[:-2]:
        cpu = rows.median(name, "cpu_ns_per_tx")
        low, high = rows.spread(name, "per_s")
        if cpu:
            shown.append([name, f"{rows.median(name, 'per_s') / 1000:.0f}", f"{low / 1000:.0f}-{high / 1000:.0f}", f"{cpu:.0f}",
                          f"{1e6 / cpu:.0f}", us(rows.median(name, "latency.p50")), us(rows.median(name, "latency.p99")),
                          ratio(cpu, floor_ns), ratio(rows.median(name, "latency.p50"), hops_ns)])
    table("Throughput, three nodes and a gateway on one thread over rings, memory",
          ["", "k/s", "spread", "CPU ns/tx", "k/s by CPU", "p50 us", "p99 us", "CPU / memcpy", "p50 / 4 hops"], shown)
    print(f"  memcpy of 64 B, 8 times: {floor_ns:.0f} ns; 4 hops of empty packets {us(hops_ns)} us")
    save("throughput", rows)
    plot.lines(OUT / "throughput.svg", "Latency against throughput, open loop", "transactions/s", "us",
               {p: [(rows.median(f"bank, open loop at {rate / 1000:g} k/s", "per_s") or 0,
                     (rows.median(f"bank, open loop at {rate / 1000:g} k/s", f"latency.{p}") or 0) / 1000) for rate in rates]
                for p in ("p50", "p99", "p999")}, False, True)
    if options.cluster:
        import cluster
        cluster.throughput(options)


def slope(points):
    """Least squares of y over log2 x: the growth for each doubling, as a share of the mean."""
    import math
    xs, ys = [math.log2(x) for x, _ in points], [y for _, y in points]
    mean_x, mean_y = statistics.mean(xs), statistics.mean(ys)
    below = sum((x - mean_x) ** 2 for x in xs)
    return sum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys)) / below / mean_y if below else 0.0


def instructions(transactions, warm_up=3000, **options):
    """Instructions of a transaction by callgrind: the same on a busy machine."""
    import check
    check.WORKLOADS["scale"] = (transactions, {"virtual-step-ns": 20000, **options})
    check.WARM_UP = warm_up
    with tempfile.TemporaryDirectory(prefix="maroon-perf-") as workdir:
        return check.count(str(PROBE), "scale", workdir)[0]


def floor_instructions(name):
    import check
    with tempfile.TemporaryDirectory(prefix="maroon-perf-") as workdir:
        return check.floor(str(PROBE), name, workdir)


def scale(options):
    """G1, G2: lines that should be flat. Floor: empty packets through the same fabric, as many as n nodes take at least: the
    body to each, and one answer."""
    def short(full, quick):
        return quick if options.quick else full

    def transaction(**more):  # a backlog is there before it counts, and is gone through twice
        options_of = {"flight": 256, "warm_up": max(3000, more.get("flight", 0)), **more}
        return lambda: instructions(max(short(6000, 3000), 2 * options_of["flight"]), app="echo", **options_of)

    plan = {  # name: [(x, nodes, the run)]
        "gateways, a range each": [(n, 3, transaction(gateways=n)) for n in (1, 4, 16, 64)],
        "open ranges": [(n, 3, transaction(ranges=n, key0="--ranges-max=16384")) for n in (1, 100, 10000)],
        "nodes (per node)": [(n, n, transaction(nodes=n)) for n in (1, 3, 5)],
        "backlog (in flight)": [(n, 3, transaction(flight=n, parts=8192)) for n in (64, 256, 1024, 4096)],
        "history (transactions)": [(n, 3, transaction(warm_up=n)) for n in (5000, 50000, short(500000, 200000))],
    }
    rows = Rows(options.repeat)
    for name in ("hops", "memcpy"):
        rows.add(f"floor: {name}", lambda name=name: {"instructions": floor_instructions(name)})
    rows.add("one point again", lambda: {"instructions": plan["gateways, a range each"][0][2]()})
    rows.measure()
    packet = rows.median("floor: hops", "instructions")
    lines, ratios, shown = {}, {}, []
    for name, points in plan.items():
        per_node = name == "nodes (per node)"
        lines[name] = [(n, run() / (n if per_node else 1)) for n, _, run in points]
        least = [packet * (nodes + 1) / (nodes if per_node else 1) for _, nodes, _ in points]
        ratios[name] = [(n, y / floor_of) for (n, y), floor_of in zip(lines[name], least)]
        values = [y for _, y in lines[name]]
        shown.append([name, ", ".join(f"{x}: {y:.0f}" for x, y in lines[name]), f"{slope(lines[name]) * 100:+.1f} %",
                      f"{(values[-1] / values[0] - 1) * 100:+.1f} %", f"{(max(values) / min(values) - 1) * 100:.1f} %",
                      f"{ratios[name][0][1]:.1f}-{ratios[name][-1][1]:.1f}"])
    table("Instructions of a transaction (callgrind; echo of 64 B, three nodes unless said)",
          ["", "at", "slope per doubling", "first to last", "greatest over least", "first-last / floor"], shown)
    low, high = rows.spread("one point again", "instructions")
    print(f"  floor: {packet:.0f} instructions a packet, empty, through the same fabric; four for three nodes: {4 * packet:.0f}. "
          f"memcpy of 64 B: {rows.median('floor: memcpy', 'instructions'):.0f}\n"
          f"  one gateway, counted {options.repeat} times: {low:.0f}-{high:.0f}")
    save("scale", rows, {"instructions": lines, "by_floor": ratios})
    plot.lines(OUT / "scale.svg", "Instructions of a transaction", "times the first", "instructions",
               {**{name: [(x / points[0][0], y) for x, y in points] for name, points in lines.items()},
                "floor: four packets": [(1, 4 * packet), (10000, 4 * packet)]}, True, False)


def failover(options):
    import cluster
    cluster.failover(options)


def compose(options):
    import compose as running_stack
    running_stack.compose(options)


def targets(options):
    import targets as table_of_targets
    table_of_targets.targets(options)


def main():
    profiles = {"floor": floor, "epoch": epoch, "throughput": throughput, "scale": scale, "failover": failover,
                "compose": compose, "targets": targets}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("profiles", nargs="*", default=[])
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="fewer transactions")
    parser.add_argument("--no-cluster", dest="cluster", action="store_false",
                        help="only what runs in one process: no namespaces, no etcd (also when not root)")
    parser.add_argument("--directory", default=str(ROOT), help="where the floor of the disk is measured")
    parser.add_argument("--compose-port", type=int, default=int(os.environ.get("GATEWAY_0_PORT", 5000)),
                        help="profile compose: the gateway's published port")
    parser.add_argument("--parts", help="profile compose: only these of http,epoch,throughput,failover")
    parser.add_argument("--rows", help="profile targets: only these groups, e.g. L1,B2")
    parser.add_argument("--history", type=int, default=20000000, help="profile targets: transactions of history")
    options = parser.parse_args()
    unknown = [name for name in options.profiles if name not in profiles]
    if unknown:
        parser.error(f"no profile {unknown[0]}: {', '.join(profiles)}")
    if os.geteuid() != 0:
        options.cluster = False
    described = machine.describe()
    print(", ".join(f"{key}: {value}" for key, value in described.items()))
    stolen, ticks = machine.steal()
    for name in options.profiles or ["floor", "epoch", "throughput"]:
        profiles[name](options)
    stolen_after, ticks_after = machine.steal()
    print(f"\nload at the end {os.getloadavg()[0]:.1f}, stolen by the host "
          f"{(stolen_after - stolen) / max(1, ticks_after - ticks) * 100:.1f} % of the time; results in {OUT.relative_to(ROOT)}/")
    if missing:
        print(f"not measured: {len(missing)}, first {missing[0]}", file=sys.stderr)
    return 1 if missing else 0


if __name__ == "__main__":
    sys.modules["bench"] = sys.modules["__main__"]  # cluster.py and targets.py import it by its name
    sys.exit(main())
