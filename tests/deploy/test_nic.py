"""maroon-nic on a made-up PCI bus: what it lists, what it refuses, and the writes of bind and unbind in their order. No port is
bound for real: the machines this is built on have none to give."""
import fake

TOOL = fake.ROOT / "deploy/nic/maroon-nic"
FIRST, SECOND, DISK, TWIN = "0000:81:00.0", "0000:81:00.1", "0000:03:00.0", "0000:81:00.2"
BUS = "sys/bus/pci"
ROUTE = "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT\n"
DEFAULT = "{} 00000000 0100000A 0003 0 0 0 00000000 0 0 0\n"
SUBNET = "{} 0000A8C0 00000000 0001 0 0 0 00FFFFFF 0 0 0\n"


def device(tree, address, kind="0x020000", driver="ixgbe", interface=None, group=None):
    path = f"{BUS}/devices/{address}"
    tree.write(f"{path}/class", kind)
    tree.write(f"{path}/vendor", "0x8086")
    tree.write(f"{path}/device", "0x10fb")
    tree.write(f"{path}/numa_node", 1)
    tree.write(f"{path}/driver_override", "(null)")
    tree.write(f"{BUS}/drivers/{driver}/unbind", "")
    tree.write(f"{BUS}/drivers/{driver}/bind", "")
    tree.link(f"{path}/driver", f"../../drivers/{driver}")
    if interface:
        tree.write(f"{path}/net/{interface}/address", "")
        tree.write(f"sys/class/net/{interface}/address", "")
    if group is not None:
        tree.link(f"{path}/iommu_group", f"../../../../kernel/iommu_groups/{group}")
        tree.write(f"sys/kernel/iommu_groups/{group}/devices/{address}", "")


def machine(tree, group=7):
    device(tree, FIRST, interface="eth0", group=None if group is None else 6)
    device(tree, SECOND, interface="eth1", group=group)
    device(tree, DISK, kind="0x010802", driver="nvme", group=None if group is None else 3)
    tree.write(f"{BUS}/drivers_probe", "")
    tree.write(f"{BUS}/drivers/vfio-pci/bind", "")
    tree.write(f"{BUS}/drivers/vfio-pci/unbind", "")
    tree.write("sys/module/vfio/parameters/enable_unsafe_noiommu_mode", "N")
    tree.write("proc/net/route", ROUTE + DEFAULT.format("eth0"))


def nic(tree, *words, status=0):
    return fake.run([TOOL, "--root", tree.path, *words], status)


def untouched(tree):
    for address in (FIRST, SECOND):
        assert tree.read(f"{BUS}/devices/{address}/driver_override") == "(null)"
    assert tree.read(f"{BUS}/drivers/ixgbe/unbind") == "" and tree.read(f"{BUS}/drivers_probe") == ""
    assert not (tree.path / "run/maroon-nic").exists()


def lists(tree):
    machine(tree)
    text = nic(tree, "list")
    rows = {line.split()[0]: line for line in text.splitlines()[2:]}
    assert text.startswith("IOMMU: on; vfio-pci: loaded") and set(rows) == {FIRST, SECOND}, text
    assert rows[SECOND].split() == [SECOND, "8086:10fb", "ixgbe", "1", "7", "eth1"], rows
    assert "(default route: eth0)" in rows[FIRST]


def binds(tree):
    machine(tree)
    nic(tree, "bind", "eth1")
    assert tree.read(f"{BUS}/devices/{SECOND}/driver_override") == "vfio-pci"
    assert tree.read(f"{BUS}/drivers/ixgbe/unbind") == SECOND and tree.read(f"{BUS}/drivers_probe") == SECOND
    assert tree.read(f"run/maroon-nic/{SECOND}") == "ixgbe"
    assert tree.read("sys/module/vfio/parameters/enable_unsafe_noiommu_mode") == "N"

    link = tree.path / f"{BUS}/devices/{SECOND}/driver"  # what the kernel would have done
    link.unlink()
    link.symlink_to("../../drivers/vfio-pci")
    assert "already" in nic(tree, "bind", SECOND)
    nic(tree, "unbind", SECOND[5:])  # without the domain
    assert tree.read(f"{BUS}/devices/{SECOND}/driver_override") == ""
    assert tree.read(f"{BUS}/drivers/vfio-pci/unbind") == SECOND and tree.read(f"{BUS}/drivers/ixgbe/bind") == SECOND
    assert not list((tree.path / "run/maroon-nic").iterdir())


def dry_run(tree):
    machine(tree)
    text = nic(tree, "bind", "eth1", "--dry-run")
    writes = [line.split("'")[1] for line in text.splitlines()]
    assert writes == ["vfio-pci", SECOND, SECOND], text
    assert text.index("driver_override") < text.index("driver/unbind") < text.index("drivers_probe")
    untouched(tree)


def default_route(tree):
    for words in (("bind", "eth0"), ("bind", FIRST), ("bind", FIRST, "--dry-run")):
        machine_anew(tree)
        assert "default route (eth0)" in nic(tree, *words, status=1)
        untouched(tree)
    # Over IPv6 alone; below a VLAN on a bridge.
    tree.write("proc/net/route", ROUTE)
    zero = "0" * 32
    tree.write("proc/net/ipv6_route", f"{zero} 00 {zero} 00 fe800000000000000000000000000001 400 1 0 3 eth0\n"
                                      f"{zero} 00 {zero} 00 {zero} ffffffff 1 0 200200 lo")
    assert "default route (eth0)" in nic(tree, "bind", "eth0", status=1)
    assert "would write" in nic(tree, "bind", "eth1", "--dry-run")
    tree.write("proc/net/ipv6_route", "")
    tree.write("proc/net/route", ROUTE + DEFAULT.format("br0.5"))
    tree.link("sys/class/net/eth0/upper_br0", "../br0")
    tree.link("sys/class/net/br0/upper_br0.5", "../br0.5")
    assert "default route (br0.5)" in nic(tree, "bind", "eth0", status=1)
    assert "(default route: br0.5)" in nic(tree, "list")
    untouched(tree)


def machine_anew(tree):
    for address in (FIRST, SECOND, DISK):
        for link in ("driver", "iommu_group"):
            (tree.path / f"{BUS}/devices/{address}/{link}").unlink(missing_ok=True)
    machine(tree)


def other_guards(tree):
    machine(tree)
    tree.write("proc/net/route", ROUTE + SUBNET.format("eth1"))
    assert "ip link set eth1 down" in nic(tree, "bind", "eth1", status=1)
    assert "no network port" in nic(tree, "bind", DISK, status=1)
    assert "there is no port eth9" in nic(tree, "bind", "eth9", status=1)
    assert "not vfio-pci" in nic(tree, "unbind", "eth1", status=1)
    tree.write("proc/net/route", ROUTE)
    device(tree, TWIN, interface="eth2", group=7)
    assert f"shares IOMMU group 7 with {TWIN}" in nic(tree, "bind", "eth1", status=1)
    tree.write(f"{BUS}/devices/{TWIN}/class", "0x060400")  # a bridge is no hindrance
    nic(tree, "bind", "eth1", "--dry-run")
    untouched(tree)
    fake.run([TOOL], 2)
    nic(tree, "bind", status=2)
    nic(tree, "list", "--nonsense", status=2)


def without_iommu(tree):
    machine(tree, group=None)
    assert nic(tree, "list").startswith("IOMMU: off")
    assert "intel_iommu=on" in nic(tree, "bind", "eth1", status=1)
    untouched(tree)
    nic(tree, "bind", "eth1", "--no-iommu")
    assert tree.read("sys/module/vfio/parameters/enable_unsafe_noiommu_mode") == "Y"
    assert nic(tree, "list").startswith("IOMMU: unsafe")


def here(tree):
    """This machine's own: reads only."""
    del tree
    assert fake.run([TOOL, "list"]).startswith("IOMMU:")


fake.main(lists, binds, dry_run, default_route, other_guards, without_iommu, here)
