"""One row for each fabric: packets to and fro between two processes, every byte checked; what goes wrong is counted.

udp: as a user without any privilege. af_packet: on veth, in network namespaces of their own, in one subnet and through a
router; no ICMP answers of the kernel, damaged packets dropped and counted, little CPU while nothing comes. memif, and
virtio-user with vhost: over a socket in a directory. ring: in one process."""
import os
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "cluster"))
from lib import network, scenario  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parents[2]
ECHO = (ROOT / os.environ.get("BUILD", "build")).resolve() / "tests/net/net-echo"
COUNT = 20000
RSS_MAX_KIB = 200 * 1024


class Row:
    """Two processes; whatever happens, they end."""

    def __init__(self, workdir):
        self.workdir = workdir
        self.processes = []

    def start(self, role, *arguments, namespace=None, user=None):
        command = [ECHO, role, *arguments]
        if user:
            command = ["setpriv", f"--reuid={user}", "--regid=nogroup", "--clear-groups", "--inh-caps=-all",
                       "--bounding-set=-all", "--no-new-privs", *command]
        if namespace:
            command = ["ip", "netns", "exec", namespace, *command]
        runtime = self.workdir / f"run-{len(self.processes)}"
        runtime.mkdir(mode=0o700)
        if user:
            shutil.chown(runtime, user)
        process = subprocess.Popen([str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                   text=True, env={**os.environ, "XDG_RUNTIME_DIR": str(runtime)})
        self.processes.append(process)
        return process

    def server(self, *arguments, **options):
        process = self.start("server", *arguments, **options)
        line = process.stdout.readline()
        if line.strip() != "ready":
            raise AssertionError(f"server: {line}{process.stderr.read()}")
        return process

    def client(self, *arguments, **options):
        process = self.start("client", "--count", COUNT, "--seconds", 120, *arguments, **options)
        output, errors = process.communicate(timeout=240)
        if process.returncode != 0:
            raise AssertionError(f"client: status {process.returncode}: {output}{errors}")
        return values(output)

    def end(self, process):
        process.terminate()
        output, errors = process.communicate(timeout=60)
        assert process.returncode == 0, f"{output}{errors}"
        return values(output)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.wait()


def values(text):
    return {key: int(value) for key, value in re.findall(r"([a-z0-9_]+)=(\d+)", text)}


def show(fabric, client, server):
    print(f"{fabric:24} round trip p50 {client['rtt_p50_ns'] / 1000:8.1f} us   RSS {client['rss_kib'] / 1024:5.1f} MiB   "
          f"lost {client['lost']}   {server}", flush=True)
    assert client["echoed"] == COUNT and client["wrong"] == 0
    assert client["rss_kib"] < RSS_MAX_KIB
    assert client["lost"] < COUNT / 10  # not back after 200 ms: a process that gets no processor for longer counts here, too


def udp(workdir):
    with Row(workdir / "udp") as row:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        user = "nobody" if os.geteuid() == 0 else None
        server = row.server("--fabric", "udp", "--port", port, user=user)
        client = row.client("--fabric", "udp", "--port", 0, "--peer", f"127.0.0.1:{port}", user=user)
        show("udp, no privileges", client, row.end(server))


def ring(workdir):
    with Row(workdir / "ring") as row:
        process = row.start("ring", "--count", COUNT)
        output, errors = process.communicate(timeout=240)
        assert process.returncode == 0, f"{output}{errors}"
        show("ring, one thread", values(output), {"held": values(output)["held"]})


def over_sockets(workdir, name, server_fabric, client_fabric):
    directory = workdir / name
    with Row(directory) as row:
        link = directory / "link.sock"
        server = row.server("--fabric", server_fabric, "--device", link, "--server", "--own", "10.0.0.1",
                            "--peer", "10.0.0.2:3000")
        client = row.client("--fabric", client_fabric, "--device", link, "--own", "10.0.0.2",
                            "--peer", "10.0.0.1:3000", "--seconds", 120)
        show(name, client, row.end(server))


def memif_again(workdir):
    """The serving side of a memif link is killed and comes back, and packets go on."""
    directory = workdir / "again"
    with Row(directory) as row:
        link = directory / "link.sock"
        serve = ("--fabric", "memif", "--device", link, "--server", "--own", "10.0.0.1", "--peer", "10.0.0.2:3000")
        ask = ("--fabric", "memif", "--device", link, "--own", "10.0.0.2", "--peer", "10.0.0.1:3000", "--seconds", 120)
        server = row.server(*serve)
        for count in (8 * COUNT, 32 * COUNT, 128 * COUNT):  # until it was in the midst of it: a quick client may have ended, or nearly
            client = row.start("client", "--count", count, *ask)
            assert client.stdout.readline() == "begun\n", "packets go to and fro"
            time.sleep(0.1)
            server.kill()
            server.wait()
            time.sleep(0.3)
            server = row.server(*serve)
            output, errors = client.communicate(timeout=240)
            assert client.returncode == 0, f"the server came back: {output}{errors}"
            first = values(output)
            assert first["echoed"] == count and first["wrong"] == 0, first
            if first["lost"] > 0:
                break
        assert first["lost"] > 0, first
        print(f"memif, server again      {first}", flush=True)
        row.end(server)


def snmp(namespace, name):
    """A counter of /proc/net/snmp ("Icmp.OutDestUnreachs")."""
    group, field = name.split(".")
    text = network.run("ip", "netns", "exec", namespace, "cat", "/proc/net/snmp")
    head, numbers = [line.split()[1:] for line in text.splitlines() if line.startswith(f"{group}: ")]
    return int(numbers[head.index(field)])


def send_damaged(namespace, target):
    """Datagrams with headers that lie, through a raw socket of a host on the same bridge."""
    script = r"""
import socket, struct, sys
target = sys.argv[1]
raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
own = sys.argv[2]
def packet(udp_length, port=3000, payload=b"x" * 32):
    udp = struct.pack("!4H", 4000, port, udp_length, 0) + payload
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 1, 0, 64, 17, 0, socket.inet_aton(own),
                       socket.inet_aton(target))
    return head + udp
for i in range(100):
    raw.sendto(packet(40), (target, 0))               # in order: what the server must answer
    raw.sendto(packet(4000), (target, 0))             # longer than the datagram
    raw.sendto(packet(4), (target, 0))                # shorter than its own header
"""
    network.run("ip", "netns", "exec", namespace, sys.executable, "-c", script, target, "10.77.0.52")


def af_packet(workdir):
    net = network.Network()
    try:
        net.start()
        addresses = {host: net.add_host(host, 50 + i) for i, host in enumerate(("a", "b", "c"))}
        with Row(workdir / "af_packet") as row:
            common = ("--fabric", "af_packet", "--device", "eth0", "--prefix", 24)
            server = row.server(*common, "--own", addresses["a"], "--adaptive", namespace=net.namespace("a"))
            client = row.client(*common, "--own", addresses["b"], "--peer", f"{addresses['a']}:3000",
                                namespace=net.namespace("b"))
            icmp = snmp(net.namespace("a"), "Icmp.OutDestUnreachs") + snmp(net.namespace("b"), "Icmp.OutDestUnreachs")
            assert icmp == 0, f"the kernel answered {icmp} packets with ICMP errors"
            send_damaged(net.namespace("c"), addresses["a"])
            time.sleep(0.5)
            pid = server.pid
            before = cpu_s(pid)
            time.sleep(2)
            idle = (cpu_s(pid) - before) / 2
            result = row.end(server)
            show("af_packet, one subnet", client, result)
            assert result["drop_ip_malformed"] == 200, result
            assert result["rx"] >= COUNT + 100, result
            print(f"{'':24} idle {idle * 100:.1f} % of a core", flush=True)
            assert idle < 0.2, f"idle: {idle:.2f} of a core"
    finally:
        net.stop()


def cpu_s(pid):
    """CPU time of a process and its children (ip netns exec became the program itself)."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def routed(workdir):
    """The peer is in another subnet, behind a router that is this kernel in a namespace of its own."""
    base = f"{network.PREFIX}-{os.getpid()}"
    hosts = {name: f"{base}-{name}" for name in ("left", "router", "right")}
    try:
        for name in hosts.values():
            network.run("ip", "netns", "add", name)
        for side, subnet in (("left", "10.78.1"), ("right", "10.78.2")):
            network.run("ip", "-n", hosts["router"], "link", "add", side, "type", "veth", "peer", "name", "eth0", "netns",
                        hosts[side])
            network.run("ip", "-n", hosts["router"], "addr", "add", f"{subnet}.1/24", "dev", side)
            network.run("ip", "-n", hosts["router"], "link", "set", side, "up")
            network.run("ip", "-n", hosts[side], "addr", "add", f"{subnet}.2/24", "dev", "eth0")
            network.run("ip", "-n", hosts[side], "link", "set", "eth0", "up")
            network.run("ip", "netns", "exec", hosts[side], "ethtool", "-K", "eth0", "tx", "off")
            network.run("ip", "netns", "exec", hosts["router"], "ethtool", "-K", side, "tx", "off")
        network.run("ip", "netns", "exec", hosts["router"], "sysctl", "-q", "net.ipv4.ip_forward=1")
        with Row(workdir / "routed") as row:
            common = ("--fabric", "af_packet", "--device", "eth0", "--prefix", 24)
            server = row.server(*common, "--own", "10.78.1.2", "--next-hop", "10.78.1.1", namespace=hosts["left"])
            client = row.client(*common, "--own", "10.78.2.2", "--next-hop", "10.78.2.1", "--peer", "10.78.1.2:3000",
                                namespace=hosts["right"])
            show("af_packet, routed", client, row.end(server))
    finally:
        for name in hosts.values():
            network.remove_namespace(name)


def main():
    workdir = pathlib.Path(tempfile.mkdtemp(prefix=f"maroon-net-{os.getpid()}-"))
    workdir.chmod(0o755)
    rows = {"udp": udp, "ring": ring}
    if os.geteuid() == 0:
        rows.update({
            "memif": lambda workdir: over_sockets(workdir, "memif", "memif", "memif"),
            "again": memif_again,
            "vhost": lambda workdir: over_sockets(workdir, "vhost", "vhost", "virtio_user"),
            "af_packet": af_packet,
            "routed": routed,
        })
    wanted = sys.argv[1:] or list(rows)
    try:
        for name in wanted:
            (workdir / name).mkdir()
            rows[name](workdir)
    finally:
        shutil.rmtree(workdir, ignore_errors=True)
    if os.geteuid() != 0:
        scenario.skip("the other fabrics need root")


if __name__ == "__main__":
    main()
