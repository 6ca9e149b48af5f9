"""maroon-hugepages on a made-up machine: sums, NUMA nodes, refusals in words, what is given back."""
import re

import fake

TOOL = fake.BUILD / "hugepages/maroon-hugepages"
SIZES = {"2M": "hugepages-2048kB", "1G": "hugepages-1048576kB"}


def machine(tree, nodes=2):
    for node in range(nodes):
        base = f"sys/devices/system/node/node{node}"
        tree.write(f"{base}/cpulist", f"{4 * node}-{4 * node + 3}")
        tree.write(f"{base}/meminfo", f"Node {node} MemTotal: 16777216 kB\nNode {node} MemFree: 8388608 kB\n"
                                      f"Node {node} Active(file): 1024 kB\nNode {node} Inactive(file): 1024 kB")
        for size in SIZES.values():
            tree.write(f"{base}/hugepages/{size}/nr_hugepages", 0)
            tree.write(f"{base}/hugepages/{size}/free_hugepages", 0)
    tree.write("proc/mounts", "proc /proc proc rw 0 0")
    tree.write("proc/buddyinfo", "Node 0, zone   Normal  2000000  100000  0  0  0  0  0  0  0  3  0\n"
                                 "Node 1, zone   Normal  0  0  0  0  0  0  0  0  0  0  2000")
    tree.write("proc/sys/vm/compact_memory", "")


def pool(tree, node, size="2M"):
    return tree.path / f"sys/devices/system/node/node{node}/hugepages/{SIZES[size]}"


def tool(tree, command, *arguments, status=0):
    return fake.run([TOOL, command, "--root", tree.path, *arguments], status)


def arithmetic(tree):
    machine(tree)
    text = tool(tree, "plan", "--memory-mb", "100")
    assert "+ 1 to try with) x 1 = 51" in text and "(100 / 1024, rounded up) x 1 = 1" in text, text
    text = tool(tree, "plan", "--memory-mb", "101", "--processes", "3")
    assert "x 3 = 156" in text, text
    few, many = (tool(tree, "plan", "--queue-packets", count, "--fabric", "af_packet", "--interface", "e0", "--address",
                      "10.0.0.1/24") for count in
                 ("64", "4096"))
    heap = [int(text.split("x 1 = ")[1].split()[0]) for text in (few, many)]
    assert heap[1] > heap[0] + 15, "longer queues need more buffers"
    gateway = tool(tree, "plan", "--for", "gateway")
    assert "bodies" not in gateway and gateway.startswith("maroon-gateway"), gateway
    tree.write("node.conf", "memory-mb = 7")
    assert "x 1 = 5" in tool(tree, "plan", "--config", tree.path / "node.conf")


def parts(text):
    """The parts of ordinary memory and their sum, in MiB."""
    found = {name.strip(): float(mib) for name, mib in re.findall(r"^(?:#|  ) ?([a-z, ]+?) +([0-9.]+) MiB   ", text, re.M)}
    first = list(found).index("bodies")
    return {name: found[name] for name in list(found)[first:]}


def ordinary_memory(tree):
    """The node and the tool add up the same, whole; and what the node prints is a config."""
    machine(tree)
    node = fake.BUILD / "maroon-node"
    plan = parts(tool(tree, "plan"))
    printed = fake.run([node, "--check-config"])
    assert parts(printed) == plan, (parts(printed), plan)
    total = plan.pop("sum")
    assert abs(sum(plan.values()) - total) < 1, (plan, total)
    assert {"kept results", "idempotency keys", "state", "bodies"} <= set(plan), plan
    more = parts(tool(tree, "plan", "--idempotency-bytes", str(256 << 20), "--idempotency-keys", "2097152"))
    assert more["idempotency keys"] > plan["idempotency keys"] + 192 + 80, more
    assert more["sum"] > total + 2 * (192 + 80), "and its copies"
    printed_again = fake.run([node, "--check-config", "--config", tree.write("printed.conf", printed)])
    assert parts(printed_again) == parts(printed)


def numa(tree):
    machine(tree)
    where = "NUMA node: {} (".format
    assert where(0) in tool(tree, "plan")
    assert where(1) in tool(tree, "plan", "--cpus", "6")
    tree.write("sys/bus/pci/devices/0000:81:00.0/numa_node", 1)
    assert where(1) in tool(tree, "plan", "--fabric", "pci", "--interface", "0000:81:00.0", "--cpus", "0", "--address",
                                  "10.0.0.1/24")
    tree.write("sys/class/net/eth7/device/numa_node", -1)  # the firmware does not say
    assert where(1) in tool(tree, "plan", "--fabric", "af_packet", "--interface", "eth7", "--cpus", "5", "--address", "10.0.0.1/24")
    assert where(0) in tool(tree, "plan", "--cpus", "6", "--numa-node", "0")


def reserve_and_release(tree):
    machine(tree)
    nr = "sys/devices/system/node/node1/hugepages/hugepages-2048kB/nr_hugepages"
    free = nr.replace("nr_", "free_")
    tree.write(nr, 10)  # somebody else's
    tree.write(free, 4)
    config = ["--memory-mb", "100", "--numa-node", "1"]
    tool(tree, "check", *config, status=1)
    assert "reserved 47 pages" in tool(tree, "reserve", *config)  # 51, and 4 are free
    assert tree.read(nr) == "57"
    tree.write(free, 51)
    assert "there" in tool(tree, "check", *config)
    assert "there already" in tool(tree, "reserve", *config)
    tree.write(free, 1)  # the node runs
    assert "stop maroon-node" in tool(tree, "release", status=1) and tree.read(nr) == "57"
    tree.write(free, 51)
    assert "gave back 47" in tool(tree, "release") and tree.read(nr) == "10"
    assert not (tree.path / "run/maroon-hugepages").exists()
    assert "nothing" in tool(tree, "release")


def running_node_is_not_counted_twice(tree):
    machine(tree)
    base = "sys/devices/system/node/node0/hugepages/hugepages-2048kB"
    tool(tree, "reserve", "--memory-mb", "100")
    tree.write(f"{base}/free_hugepages", 1)  # a node took 50 of the 51
    assert "there already" in tool(tree, "reserve", "--memory-mb", "100")
    assert "reserved 51 pages" in tool(tree, "reserve", "--memory-mb", "100", "--processes", "2")
    assert tree.read(f"{base}/nr_hugepages") == "102"


def fragmented(tree):
    """The kernel finds 12 of 51, and after compacting 20: refused, and given back."""
    machine(tree)
    nr = fake.Scripted(pool(tree, 0) / "nr_hugepages",
                       [("read", 3), ("write", None), ("read", 15), ("write", None), ("read", 23), ("write", None),
                        ("read", 3)])
    text = tool(tree, "reserve", "--memory-mb", "100", status=1)
    assert nr.done() == ["54", "54", "3"], nr.written
    assert tree.read("proc/sys/vm/compact_memory") == "1"
    assert "too fragmented" in text and "found 20" in text and "only 6 MiB" in text and "maroon-hugepages.service" in text, text
    assert not (tree.path / "run/maroon-hugepages").exists()


def compacting_helps(tree):
    machine(tree)
    nr = fake.Scripted(pool(tree, 0) / "nr_hugepages",
                       [("read", 0), ("write", None), ("read", 15), ("write", None), ("read", 51)])
    assert "reserved 51" in tool(tree, "reserve", "--memory-mb", "100")
    assert nr.done() == ["51", "51"]


def too_little(tree):
    machine(tree)
    nr = fake.Scripted(pool(tree, 1) / "nr_hugepages",
                       [("read", 0), ("write", None), ("read", 4000), ("write", None), ("read", 4000), ("write", None),
                        ("read", 0)])
    text = tool(tree, "reserve", "--memory-mb", "20000", "--numa-node", "1", status=1)
    assert nr.done()[-1] == "0"
    assert "too little memory" in text and "8194 MiB are available" in text and "20002 MiB were asked" in text, text


def one_gib(tree):
    machine(tree)
    nr = fake.Scripted(pool(tree, 0, "1G") / "nr_hugepages",
                       [("read", 0), ("write", None), ("read", 1), ("write", None), ("read", 1), ("write", None), ("read", 0)])
    text = tool(tree, "reserve", "--memory-mb", "2000", "--page", "1G", status=1)
    assert nr.done() == ["2", "2", "0"] and "hugepagesz=1G hugepages=2" in text, text


def refusals(tree):
    machine(tree, nodes=1)
    assert "node 1 has no pages" in tool(tree, "reserve", "--numa-node", "1", status=1).lower().replace("numa ", "")
    for wrong in (["--page", "4K"], ["--processes", "0"], ["--no-such-key", "1"], ["--mount", "relative"], ["--page"],
                  ["--fabric", "af_packet"]):
        tool(tree, "plan", *wrong, status=2)
    fake.run([TOOL], 2)
    fake.run([TOOL, "nonsense"], 2)
    assert fake.run([TOOL, "--help"]).startswith("usage:")


fake.main(arithmetic, ordinary_memory, numa, reserve_and_release, running_node_is_not_counted_twice, fragmented, compacting_helps, too_little,
          one_gib, refusals)
