"""The instruction budget: instructions of a transaction, counted by callgrind on fixed workloads, against perf/budget.json.

    check.py PROBE [--update] [--show]

Time stands still but when told and random numbers are fixed, so two runs of one build count the same to the instruction:
this can be a test, where wall-clock time on a shared machine can't. Fails when a workload, or one function of it that
matters, needs over 10 % more than its budget, and names the functions that grew most. --update writes a new budget: do it
in the commit that explains why. Another compiler makes other code: then only the totals count, with twice the room."""
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

BUDGET = pathlib.Path(__file__).resolve().parent / "budget.json"
GROWTH = 0.10
FUNCTION_SHARE = 0.03  # of the workload: smaller functions count by the total only
KEPT_SHARE = 0.002  # functions listed in the budget
MEASURED = "perf_inproc_measured"
WARM_UP = 2000

# name: (transactions, options of the probe). What each stands for is said in perf/README.md.
WORKLOADS = {
    "one_in_flight": (1500, {"flight": 1, "virtual-step-ns": 700}),
    "loaded": (10000, {"flight": 256, "virtual-step-ns": 20000}),
    "loaded_1024_bytes": (4000, {"app": "echo", "size": 1024, "flight": 128, "virtual-step-ns": 20000}),
    "16_gateways": (6000, {"app": "echo", "gateways": 16, "flight": 256, "virtual-step-ns": 20000}),
}


def functions_of(path):
    """Instructions of each function itself, from callgrind's file (its format: the valgrind manual, chapter 'Callgrind
    Format Specification'): cost lines are 'position cost'; the one after calls= is what the called function took."""
    names, costs, current, called = {}, {}, None, False

    def name_of(text):
        number, _, name = text.partition(" ")
        if name:
            names[number] = name
        return names[number]

    with open(path) as lines:
        for line in lines:
            if line.startswith("fn="):
                current = name_of(line[3:].strip())
            elif line.startswith("cfn="):
                name_of(line[4:].strip())
            elif line.startswith("calls="):
                called = True
            elif line[:1].isdigit() or line[:1] in "+-*":
                words = line.split()
                if called:
                    called = False
                elif len(words) > 1:
                    costs[current] = costs.get(current, 0) + int(words[1])
    merged = {}
    for name, cost in costs.items():
        name = re.sub(r"'\d+$", "", name)  # levels of recursion
        name = "libsodium, functions without a name" if re.fullmatch(r"0x[0-9a-f]+", name) else name
        merged[name] = merged.get(name, 0) + cost
    return merged


def callgrind(probe, measurement, measured, options, out):
    """Instructions by function of one run of the probe, within the function `measured`."""
    command = ["valgrind", "-q", "--tool=callgrind", f"--toggle-collect={measured}", f"--callgrind-out-file={out}", probe,
               measurement] + [f"--{key}={value}" for key, value in options.items()]
    # Which of several variants of a libc function is chosen depends on the processor.
    environment = {**os.environ, "GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX512F,-AVX512VL,-ERMS,-FSRM"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode != 0:
        sys.exit(f"{measurement}: status {done.returncode}: {done.stderr.strip()}")
    return functions_of(out)


def count(probe, name, workdir):
    transactions, options = WORKLOADS[name]
    found = callgrind(probe, "inproc", MEASURED, {"count": transactions, "warm-up": WARM_UP, **options},
                      pathlib.Path(workdir) / f"{name}.callgrind")
    functions = {key: value / transactions for key, value in found.items()}
    return sum(functions.values()), functions


def floor(probe, name, workdir):
    """Instructions of one empty packet through the fabric of the same probe ("hops"), or one copy of 64 bytes ("memcpy")."""
    times, per = 2000, {"hops": 4, "memcpy": 8}[name]
    found = callgrind(probe, name, f"perf_{name}_measured", {"count": times}, pathlib.Path(workdir) / f"{name}.callgrind")
    if not found:
        sys.exit(f"{name}: callgrind collected nothing")
    return sum(found.values()) / times / per


def backlog(probe):
    """4,096 transfers under way at once, as after a stall: what is executed must be let go as fast as it comes, or the pool
    of bodies runs full, bodies are refused, and the backlog never drains."""
    flight = 4096
    done = subprocess.run([probe, "inproc", f"--flight={flight}", "--parts=8192", f"--warm-up={flight}", "--count=400000",
                           "--virtual-step-ns=100000"], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"backlog: status {done.returncode}: {done.stderr.strip()}")
    node = json.loads(done.stdout)["node0"]
    print(f"{'backlog':20} {node['slots_used']:8} bodies held with {flight} under way")
    complaints = [f"backlog: {count} bodies refused: {reason}" for reason, count in node["drops"].items()]
    # Twice that are held as a matter of course: those under way, and those executed that a peer may still ask for.
    if node["slots_used"] > 3 * flight:
        complaints.append(f"backlog: {node['slots_used']} bodies held")
    if node["fetches"]:
        complaints.append(f"backlog: {node['fetches']} fetches of what was refused")
    return complaints


def compiler(probe):
    done = subprocess.run(["readelf", "-p", ".comment", probe], capture_output=True, text=True)
    found = re.search(r"(GCC|clang)[^\n]*", done.stdout)
    return found.group(0).strip() if found else "unknown"


def growth_list(before, after):
    """The functions that grew most: name, budget, now."""
    grown = sorted(((after[name] - before.get(name, 0), name) for name in after), reverse=True)
    return [(name, before.get(name, 0), after[name]) for grew, name in grown[:5] if grew > 1]


def compare(name, budget, total, functions, same_compiler):
    """Complaints about a workload."""
    room = GROWTH if same_compiler else 2 * GROWTH
    complaints = []
    if total > budget["total"] * (1 + room):
        complaints.append(f"{name}: {total:.0f} instructions a transaction, budget {budget['total']:.0f} "
                          f"(+{total / budget['total'] * 100 - 100:.1f} %)")
    for function, before in budget["functions"].items():
        after = functions.get(function, 0)
        if same_compiler and before > FUNCTION_SHARE * budget["total"] and after > before * (1 + GROWTH):
            complaints.append(f"{name}: {function}: {after:.0f} instructions a transaction, budget {before:.0f} "
                              f"(+{after / before * 100 - 100:.1f} %)")
    if complaints:
        complaints += [f"    grew: {function}: {before:.0f} -> {after:.0f}"
                       for function, before, after in growth_list(budget["functions"], functions)]
    return complaints


def main(arguments):
    update, show = "--update" in arguments, "--show" in arguments
    words = [word for word in arguments if not word.startswith("--")]
    if len(words) != 1:
        sys.exit(__doc__)
    if not shutil.which("valgrind"):
        print("skipped: valgrind is not installed")
        sys.exit(77)
    probe = words[0]
    budget = json.loads(BUDGET.read_text()) if BUDGET.exists() else {"workloads": {}}
    now = compiler(probe)
    same = budget.get("compiler") == now
    fresh, complaints = {"compiler": now, "workloads": {}}, backlog(probe)
    with tempfile.TemporaryDirectory(prefix="maroon-perf-") as workdir:
        for name in WORKLOADS:
            total, functions = count(probe, name, workdir)
            known = budget["workloads"].get(name)
            print(f"{name:20} {total:8.0f} instructions a transaction"
                  + (f", budget {known['total']:8.0f} ({total / known['total'] * 100 - 100:+.1f} %)" if known else ""))
            if show:
                for function, cost in sorted(functions.items(), key=lambda item: -item[1])[:40]:
                    print(f"    {cost:8.1f} {cost / total * 100:5.1f} % {function}")
            listed = {key: round(value, 1) for key, value in sorted(functions.items(), key=lambda item: -item[1])
                      if value > KEPT_SHARE * total}
            fresh["workloads"][name] = {"total": round(total, 1), "functions": listed}
            if not known:
                complaints.append(f"{name}: has no budget: check.py --update")
            else:
                complaints += compare(name, known, total, functions, same)
    if update:
        BUDGET.write_text(json.dumps(fresh, indent=1) + "\n")
        print(f"written: {BUDGET.name}")
        return 0
    for complaint in complaints:
        print(complaint)
    if complaints:
        print("if the growth is meant: perf/check.sh --update, and say why in the commit")
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
