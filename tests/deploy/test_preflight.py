"""maroon-node --preflight on a made-up machine: each subject once good and once bad, and the exit status."""
import fake

NODE = fake.BUILD / "maroon-node"
PINNED = ["--poll", "busy", "--cpus", "2,3", "--lcore-execute", "1"]
PCI = ["--fabric", "pci", "--interface", "0000:81:00.0", "--address", "10.0.0.1/24", "--hugepages", "on"]
LIMITS = """Limit                     Soft Limit           Hard Limit           Units
Max open files            {files}                65536                files
Max locked memory         {locked}            unlimited            bytes"""


def machine(tree):
    """Prepared for a node on CPUs 2 and 3, with a port on NUMA node 0."""
    cpu = "sys/devices/system/cpu"
    tree.write(f"{cpu}/isolated", "2-3")
    tree.write(f"{cpu}/nohz_full", "2-3")
    tree.write(f"{cpu}/smt/active", 1)
    for number in range(8):
        tree.write(f"{cpu}/cpu{number}/cpufreq/scaling_governor", "performance")
        tree.write(f"{cpu}/cpu{number}/topology/thread_siblings_list", number)
    tree.write("proc/irq/24/effective_affinity_list", "0")
    tree.write("proc/irq/25/smp_affinity_list", "0-1,4-7")
    tree.write("proc/irq/default_smp_affinity", "ff")
    tree.write("sys/devices/system/clocksource/clocksource0/current_clocksource", "tsc")
    for node in range(2):
        base = f"sys/devices/system/node/node{node}"
        tree.write(f"{base}/cpulist", f"{4 * node}-{4 * node + 3}")
        tree.write(f"{base}/hugepages/hugepages-2048kB/nr_hugepages", 100)
        tree.write(f"{base}/hugepages/hugepages-2048kB/free_hugepages", 100)
    tree.write("sys/bus/pci/devices/0000:81:00.0/numa_node", 0)
    tree.link("sys/bus/pci/devices/0000:81:00.0/driver", "../../drivers/vfio-pci")
    tree.write("sys/class/net/eth1/operstate", "up")
    tree.write("proc/meminfo", "MemTotal: 9000000 kB\nMemAvailable: 8000000 kB")
    tree.write("proc/self/status", "Name:\tx\nCapEff:\t0000000000003000\nCpus_allowed:\tff\nCpus_allowed_list:\t0-7")
    tree.write("proc/self/limits", LIMITS.format(files=65536, locked="unlimited"))


def preflight(tree, *arguments, status=0):
    text = fake.run([NODE, f"--preflight={tree.path}", *arguments], status)
    lines = {line[6:19].strip(): (line[:4].strip(), line[20:]) for line in text.splitlines()[:-1]}
    counts = {level: sum(1 for seen, _ in lines.values() if seen == level) for level in ("ok", "warn", "fail")}
    assert text.splitlines()[-1] == "{ok} ok, {warn} warn, {fail} fail".format(**counts), text
    return lines


def prepared(tree):
    machine(tree)
    lines = preflight(tree, *PINNED, *PCI)
    assert len(lines) == 12 and all(level == "ok" for level, _ in lines.values()), lines
    assert "vfio-pci" in lines["port"][1] and "node 0" in lines["numa"][1]
    lines = preflight(tree)  # the default config, which pins nothing
    assert [name for name, (level, _) in lines.items() if level != "ok"] == ["numa"], lines


def each_subject(tree):
    """What is broken, the subject that says so, how badly, and a word of what to do."""
    cases = (
        ("sys/devices/system/cpu/isolated", "2", "isolcpus", "warn", "isolcpus=2,3"),
        ("sys/devices/system/cpu/nohz_full", "(null)", "isolcpus", "warn", "nohz_full=2,3"),
        ("sys/devices/system/cpu/cpu3/cpufreq/scaling_governor", "powersave", "governor", "warn", "CPU 3: powersave"),
        ("sys/devices/system/cpu/cpu2/topology/thread_siblings_list", "2,6", "hyper-threads", "warn", "2,6"),
        ("proc/irq/25/smp_affinity_list", "0-7", "interrupts", "warn", "(25)"),
        ("proc/irq/24/effective_affinity_list", "3", "interrupts", "warn", "smp_affinity_list"),
        ("sys/devices/system/clocksource/clocksource0/current_clocksource", "hpet", "clock source", "warn", "clocksource=tsc"),
        ("sys/bus/pci/devices/0000:81:00.0/numa_node", "1", "numa", "warn", "node1/cpulist"),
        ("sys/devices/system/node/node0/hugepages/hugepages-2048kB/free_hugepages", "3", "hugepages", "fail", "reserve"),
        ("proc/meminfo", "MemAvailable: 100000 kB", "memory", "warn", "state-bytes"),
        ("proc/self/status", "Cpus_allowed_list:\t0-2", "cpus", "fail", "CPU 3"),
        ("proc/self/limits", LIMITS.format(files=256, locked="unlimited"), "nofile", "warn", "LimitNOFILE"),
        ("proc/self/limits", LIMITS.format(files=65536, locked=65536), "memlock", "fail", "LimitMEMLOCK"),
    )
    for path, text, subject, level, word in cases:
        machine_anew(tree)
        tree.write(path, text)
        lines = preflight(tree, *PINNED, *PCI, status=1 if level == "fail" else 0)
        assert lines[subject][0] == level and word in lines[subject][1], (path, text, lines[subject])
        others = [name for name, (seen, _) in lines.items() if seen != "ok" and name != subject]
        assert not others, (path, others)


def machine_anew(tree):
    (tree.path / "sys/bus/pci/devices/0000:81:00.0/driver").unlink(missing_ok=True)
    machine(tree)


def ports(tree):
    machine(tree)
    packet = ["--fabric", "af_packet", "--interface", "eth1", "--address", "10.0.0.1/24"]
    assert preflight(tree, *packet)["port"][0] == "ok"
    tree.write("sys/class/net/eth1/operstate", "down")
    assert "ip link set eth1 up" in preflight(tree, *packet, status=1)["port"][1]
    tree.write("proc/self/status", "CapEff:\t0000000000001000\nCpus_allowed_list:\t0-7")  # NET_ADMIN alone
    assert "NET_RAW" in preflight(tree, *packet, status=1)["port"][1]
    assert "no interface" in preflight(tree, "--fabric", "af_packet", "--interface", "eth9", "--address", "10.0.0.1/24",
                                       status=1)["port"][1]
    (tree.path / "sys/bus/pci/devices/0000:81:00.0/driver").unlink()
    tree.link("sys/bus/pci/devices/0000:81:00.0/driver", "../../drivers/ixgbe")
    assert "maroon-nic bind 0000:81:00.0" in preflight(tree, *PCI, status=1)["port"][1]
    assert "needs them" in preflight(tree, *PCI, "--hugepages", "off", status=1)["hugepages"][1]


def empty(tree):
    """Where nothing can be read every line says so, and nothing crashes."""
    lines = preflight(tree, *PINNED, *PCI, status=1)
    assert lines["port"][0] == "fail" and lines["hugepages"][0] == "fail" and len(lines) == 11, lines
    fake.run([fake.BUILD / "maroon-gateway", "--preflight"], 2)


def here(tree):
    """And on this machine, whatever it is."""
    del tree
    text = fake.run([NODE, "--preflight"])
    assert text.splitlines()[-1].endswith("0 fail"), text


fake.main(prepared, each_subject, ports, empty, here)
