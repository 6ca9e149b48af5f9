"""A node at rest, default config: CPU and memory of a single node (no privileges, kernel sockets), of the members of three
(af_packet), and of their gateways. Prints the figures beside target M1; the limits asserted are wider, for busy machines."""
import os
import pathlib
import time

import local
from lib import cluster as c
from lib import scenario

SECONDS = float(os.environ.get("MRN_IDLE_SECONDS", 8))
SETTLE_S = 2
RSS_MAX_MIB = 200


def cpu_s(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rss_mib(pid):
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise AssertionError(f"process {pid} has no VmRSS")


def sleeps(pid):
    """How often its threads went to sleep."""
    total = 0
    for status in pathlib.Path(f"/proc/{pid}/task").glob("*/status"):
        total += sum(int(line.split()[1]) for line in status.read_text().splitlines()
                     if line.startswith("voluntary_ctxt_switches:"))
    return total


def measure(processes, target, allowed):
    time.sleep(SETTLE_S)
    before = {p.name: (cpu_s(p.pid), sleeps(p.pid)) for p in processes}
    time.sleep(SECONDS)
    for p in processes:
        cpu = (cpu_s(p.pid) - before[p.name][0]) / SECONDS * 100
        rate = (sleeps(p.pid) - before[p.name][1]) / SECONDS
        print(f"{p.name:8} {cpu:5.1f} % of a core (target {target} %), {rate:6.0f} sleeps/s, RSS {rss_mib(p.pid):6.1f} MiB "
              f"(target {RSS_MAX_MIB})", flush=True)
        assert cpu <= allowed, f"{p.name}: {cpu:.1f} % of a core at rest"
        assert rss_mib(p.pid) <= RSS_MAX_MIB, f"{p.name}: {rss_mib(p.pid):.0f} MiB"


def single(cluster):
    local.start(cluster)
    measure(cluster.others, 1, 10)
    cluster.others[1].stop()
    print("without its gateway:", flush=True)
    measure(cluster.others[:1], 1, 5)


def three(cluster):
    cluster.start(nodes=3, gateways=1)
    print(f"leader: n{cluster.leader()}", flush=True)
    measure(cluster.nodes + cluster.gateways, 4, 20)


if __name__ == "__main__":
    scenario.main(single, programs=(c.NODE, c.GATEWAY), root=False)
    scenario.main(three, programs=(c.NODE, c.GATEWAY))
