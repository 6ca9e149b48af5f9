"""Network namespaces on one Linux bridge, and the faults of that bridge.

Each host is a namespace with one interface eth0; the bridge has a namespace of its own (the switch), so nothing touches
the machine's own network. All names are PREFIX-<pid of the test>-<host>, so leftovers of a dead test can be found."""
import ctypes
import os
import pathlib
import re
import subprocess
import time

PREFIX = os.environ.get("MRN_PREFIX", "mrn")
SUBNET = "10.77.0"
NETNS = pathlib.Path("/run/netns")
CLONE_NEWNET = 0x40000000


def run(*command, check=True, input=None):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, input=input, timeout=120)
    if check and done.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, command))}: status {done.returncode}: {done.stderr.strip()}")
    return done.stdout


def enter(namespace):
    """Moves the calling thread, and what it starts from now on, into a namespace."""
    fd = os.open(NETNS / namespace, os.O_RDONLY | os.O_CLOEXEC)
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.setns(fd, CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "setns")
    finally:
        os.close(fd)


class Network:
    """The switch and its hosts. A host's number is the last byte of its address."""

    def __init__(self):
        self.base = f"{PREFIX}-{os.getpid()}"
        self.switch = f"{self.base}-sw"
        self.hosts = {}  # name -> address
        self.namespaces = []
        self.reordering = False

    def start(self):
        self._namespace(self.switch)
        self._switch("ip", "link", "add", "br0", "type", "bridge", "forward_delay", "0", "mcast_snooping", "0")
        self._switch("ip", "link", "set", "br0", "up")
        # Where Docker has run, each bridged frame would pass iptables, too: a third of what a frame costs.
        self._switch("sysctl", "-q", "-w", "net.bridge.bridge-nf-call-iptables=0", check=False)
        self._nft("""
            add table bridge maroon
            add chain bridge maroon cuts
            add chain bridge maroon ports
            add chain bridge maroon loss
            add chain bridge maroon reorder
            add chain bridge maroon forward { type filter hook forward priority 0; policy accept; }
            add rule bridge maroon forward jump cuts
            add rule bridge maroon forward jump ports
            add rule bridge maroon forward jump loss
            add rule bridge maroon forward jump reorder
        """)

    def _namespace(self, name):
        self.namespaces.append(name)  # before it exists: stop() may be called in between
        run("ip", "netns", "add", name)
        run("ip", "-n", name, "link", "set", "lo", "up")

    def _switch(self, *command, check=True):
        return run("ip", "netns", "exec", self.switch, *command, check=check)

    def _nft(self, text):
        run("ip", "netns", "exec", self.switch, "nft", "-f", "-", input=text + "\n")

    def namespace(self, host):
        return f"{self.base}-{host}"

    def add_host(self, host, number):
        """A namespace with eth0 at SUBNET.number. Returns the address."""
        name = self.namespace(host)
        port = f"p-{host}"
        self._namespace(name)
        self._switch("ip", "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", name)
        self._switch("ip", "link", "set", port, "master", "br0", "up")
        address = f"{SUBNET}.{number}"
        run("ip", "-n", name, "addr", "add", f"{address}/24", "dev", "eth0")
        run("ip", "-n", name, "link", "set", "eth0", "up")
        # Kernel-sent UDP would carry unfinished checksums over a veth.
        run("ip", "netns", "exec", name, "ethtool", "-K", "eth0", "tx", "off")
        self.hosts[host] = address
        return address

    # Faults. Loss and reordering concern UDP only: TCP here is the test's own HTTP, and etcd.

    def lose(self, percent, hosts=None):
        """Drops this share of the UDP packets between all hosts, or of those that come from or go to `hosts`."""
        self._nft("flush chain bridge maroon loss")
        if percent == 0:
            return
        rule = f"ip protocol udp numgen random mod 1000 < {int(percent * 10)} counter drop"
        lines = [f"add rule bridge maroon loss {rule}"] if hosts is None else [
            f'add rule bridge maroon loss {way} "p-{host}" {rule}' for host in hosts for way in ("iifname", "oifname")]
        self._nft("\n".join(lines))

    def reorder(self, percent):
        """Sends this share of the UDP packets through a slow class of each port, so later ones overtake them."""
        self._nft("flush chain bridge maroon reorder")
        for host in self.hosts if self.reordering != (percent > 0) else ():
            port = f"p-{host}"
            if percent == 0:
                self._switch("tc", "qdisc", "del", "dev", port, "root", check=False)
                continue
            self._switch("tc", "qdisc", "add", "dev", port, "root", "handle", "1:", "htb", "default", "10")
            self._switch("tc", "class", "add", "dev", port, "parent", "1:", "classid", "1:10", "htb", "rate", "10gbit",
                         "burst", "1m")
            self._switch("tc", "class", "add", "dev", port, "parent", "1:", "classid", "1:20", "htb", "rate", "2mbit",
                         "burst", "200")
            # A short queue: late by some milliseconds, not by seconds; what does not fit is lost.
            self._switch("tc", "qdisc", "add", "dev", port, "parent", "1:20", "pfifo", "limit", "16")
        self.reordering = percent > 0
        if percent > 0:
            self._nft(f"add rule bridge maroon reorder ip protocol udp numgen random mod 1000 < {int(percent * 10)} "
                      "counter meta priority set 1:20")

    def cut(self, source, target, protocol=None, one_way=False):
        """Stops what goes from one host to another (and back, unless `one_way`). protocol: "udp", "tcp" or None for all."""
        match = f"ip protocol {protocol} " if protocol else ""
        for a, b in ((source, target),) if one_way else ((source, target), (target, source)):
            self._nft(f'add rule bridge maroon cuts iifname "p-{a}" oifname "p-{b}" {match}counter drop')

    def isolate(self, host, protocol=None):
        """Cuts a host off from all others."""
        match = f"ip protocol {protocol} " if protocol else ""
        self._nft(f'add rule bridge maroon cuts iifname "p-{host}" {match}counter drop\n'
                  f'add rule bridge maroon cuts oifname "p-{host}" {match}counter drop')

    def cut_ports(self, host, ports):
        """Stops the UDP packets to these ports that come from or go to a host; the rest of its traffic goes on."""
        match = f"ip protocol udp udp dport {{ {', '.join(map(str, ports))} }} counter drop"
        for way in ("iifname", "oifname"):
            self._nft(f'add rule bridge maroon ports {way} "p-{host}" {match}')

    def heal_ports(self):
        self._nft("flush chain bridge maroon ports")

    def heal(self):
        """Takes all cuts back."""
        self._nft("flush chain bridge maroon cuts")
        self.heal_ports()

    def counted(self, chain):
        """Packets that the rules of a chain (cuts, loss, reorder) have hit."""
        text = self._switch("nft", "list", "chain", "bridge", "maroon", chain)
        return sum(int(number) for number in re.findall(r"counter packets (\d+)", text))

    def stop(self):
        for name in reversed(self.namespaces):
            remove_namespace(name)
        self.namespaces = []


def remove_namespace(name):
    if not (NETNS / name).exists():
        return
    for _ in range(20):
        pids = run("ip", "netns", "pids", name, check=False).split()
        for pid in pids:
            if int(pid) != os.getpid():
                try:
                    os.kill(int(pid), 9)
                except ProcessLookupError:
                    pass
        if not [pid for pid in pids if int(pid) != os.getpid()]:
            break
        time.sleep(0.05)
    run("ip", "netns", "del", name, check=False)


def leftovers(prefix=PREFIX):
    """Namespaces of tests whose process is gone."""
    found = []
    for path in sorted(NETNS.glob(f"{prefix}-*")) if NETNS.exists() else []:
        match = re.fullmatch(re.escape(prefix) + r"-(\d+)-[a-z0-9]+", path.name)
        if match and not pathlib.Path(f"/proc/{match.group(1)}").exists():
            found.append(path.name)
    return found
