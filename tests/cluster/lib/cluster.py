"""A whole maroon cluster of real processes: etcd members, nodes and gateways, each in a network namespace on one bridge.

    with Cluster() as cluster:           # everything is removed on every way out
        cluster.start(nodes=3, gateways=1)
        cluster.load(count=100000)
        cluster.wait_equal()

The thread that starts the cluster moves into the namespace of a client host on the same bridge."""
import atexit
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time

from . import http
from .cpu_groups import CpuGroups
from .etcd import Etcd
from .network import Network, enter
from .process import Process, wait_until

ROOT = pathlib.Path(__file__).resolve().parents[3]
BUILD = (ROOT / os.environ.get("BUILD", "build")).resolve()
NODE = pathlib.Path(os.environ.get("NODE", BUILD / "maroon-node"))
GATEWAY = pathlib.Path(os.environ.get("GATEWAY", BUILD / "maroon-gateway"))
CTL = pathlib.Path(os.environ.get("CTL", BUILD / "controlplane/ctl/maroonctl"))
LOAD = BUILD / "tests/cluster/cluster-load"
DIVERGING = BUILD / "tests/cluster/cluster-node-diverging"
BLASTER = BUILD / "tests/cluster/cluster-blaster"

PORT = 3000
ADMIN_PORT = 9100
HTTP_PORT = 5000
# A dozen processes share two cores here: the scheduler may let a leader stand still for longer than the default slice floor (five
# heartbeats: 10 ms), and followers are right to replace it then. The slice follows the leader's usual gap (docs/protocol.md), so
# it grows where this happens often; the first pauses, and rare ones, cost a term on purpose: a floor that outlasts every pause
# would make each take-over as long (target F1). Scenarios that ask whether something *else* costs a term take this cause away.
# Nothing else depends on the floor. What pauses do is crash.py's and failover.py's, with the default.
CALM = {"slice-floor-us": 500000, "slice-max-us": 1000000}
BANK = "bank.v1.Bank"
ECHO = "echo.v1.Echo"


def absolute(path):
    return path if path.is_absolute() else (ROOT / path).resolve()


class Cluster:
    def __init__(self, cpu_groups=False):
        """cpu_groups: every program in a scheduling group of its own, as in containers (cpu_groups.py)."""
        self.workdir = None
        self.network = None
        self.with_groups = cpu_groups
        self.groups = None
        self.etcd = None
        self.nodes = []
        self.node_programs = {}  # index: another program than NODE
        self.gateways = []
        self.others = []
        self.node_addresses = []
        self.gateway_addresses = []
        self.loads = []
        self.host_network = None

    # ---- start and end ----

    def __enter__(self):
        atexit.register(self.stop)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda number, frame: sys.exit(128 + number))
        self.workdir = pathlib.Path(tempfile.mkdtemp(prefix=f"maroon-cluster-{os.getpid()}-"))
        return self

    def __exit__(self, kind, error, trace):
        if kind is not None and kind is not SystemExit:
            self.print_logs(error)
        self.stop()

    def start_network(self):
        """The bridge and the client host; the caller's thread moves into it."""
        self.host_network = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        self.network = Network()
        self.network.start()
        if self.with_groups:
            self.groups = CpuGroups(self.network.base)
        self.network.add_host("client", 60)
        enter(self.network.namespace("client"))

    def start(self, nodes=3, gateways=1, etcd=3, node_keys=None, gateway_keys=None, key_ranges=None,
              etcd_arguments=()):
        """Starts everything and waits until each process is ready."""
        self.start_network()
        return self.start_rest(nodes, gateways, etcd, node_keys, gateway_keys, key_ranges, etcd_arguments)

    def start_rest(self, nodes=3, gateways=1, etcd=3, node_keys=None, gateway_keys=None, key_ranges=None,
                   etcd_arguments=(), before_nodes=None):
        """What start() does once there is a network. before_nodes(): between etcd and the nodes."""
        self.etcd = Etcd(self.network, self.workdir, etcd, arguments=etcd_arguments)
        for member in self.etcd.members:
            member.cpu_group = self._group(member.name)
        self.etcd.start()
        if before_nodes:
            before_nodes()
        self.node_addresses = [self.network.add_host(f"n{index}", 10 + index) for index in range(nodes)]
        for index in range(nodes):
            self.nodes.append(self._node(index, node_keys or {}))
        for node in self.nodes:
            node.start()
        for index in range(nodes):
            self.wait_node_ready(index)
        for index in range(gateways):
            key_range = key_ranges[index] if key_ranges else None
            self.add_gateway(key_range=key_range, keys=gateway_keys)
        return self

    def _environment(self, name):
        runtime = self.workdir / f"{name}.run"
        runtime.mkdir(mode=0o700, exist_ok=True)
        return {"XDG_RUNTIME_DIR": str(runtime)}

    def _group(self, name):
        return self.groups.make(name) if self.groups else None

    def _node(self, index, keys):
        name = f"n{index}"
        address = self.node_addresses[index]
        values = {
            "cluster": "test",
            "index": index,
            "nodes": ",".join(f"/ip4/{a}/udp/{PORT}" for a in self.node_addresses),
            "fabric": "af_packet",
            "interface": "eth0",
            "address": f"{address}/24",
            "etcd-endpoints": self.etcd.endpoints,
            "durability": "memory",
            "data-dir": self.workdir / f"{name}.data",
            "admin": f"{address}:{ADMIN_PORT}",
            **keys,
        }
        program = self.node_programs.get(index, NODE)
        return Process(name, [absolute(program)] + flags(values), self.workdir, self.network.namespace(name),
                       environment=self._environment(name), cpu_group=self._group(name))

    def add_gateway(self, key_range=None, keys=None, wait=True):
        """Starts one more gateway. Returns its HTTP address."""
        index = len(self.gateways)
        name = f"g{index}"
        address = self.network.add_host(name, 40 + index)
        values = {
            "fabric": "af_packet",
            "interface": "eth0",
            "address": f"{address}/24",
            "node-urls": ",".join(f"/ip4/{a}/udp/{PORT}" for a in self.node_addresses),
            "http-address": "0.0.0.0",
            "http-port": HTTP_PORT,
            **({} if key_range is None else {"key-range": key_range}),
            **(keys or {}),
        }
        process = Process(name, [absolute(GATEWAY)] + flags(values), self.workdir, self.network.namespace(name),
                          environment=self._environment(name), cpu_group=self._group(name))
        self.gateways.append(process.start())
        self.gateway_addresses.append(f"{address}:{HTTP_PORT}")
        if wait:
            wait_until(lambda: http.request(self.gateway_addresses[index], "/readyz", timeout=2).status == 200, 60,
                       f"{name} is ready", alive=[process])
        return self.gateway_addresses[index]

    def stop(self):
        """Ends and removes everything. May be called again."""
        atexit.unregister(self.stop)
        for load in self.loads:
            load.kill()
        for process in self.gateways + self.nodes + self.others:
            process.kill()
        if self.etcd:
            self.etcd.stop()
        if self.host_network is not None:
            import ctypes
            ctypes.CDLL(None).setns(self.host_network, 0x40000000)
            os.close(self.host_network)
            self.host_network = None
        if self.network:
            self.network.stop()
            self.network = None
        if self.groups:
            self.groups.stop()
            self.groups = None
        if self.workdir:
            if os.environ.get("MRN_KEEP"):
                print(f"kept: {self.workdir}")
            else:
                shutil.rmtree(self.workdir, ignore_errors=True)
            self.workdir = None

    def print_logs(self, error):
        """What is likely to say why goes last, next to the traceback: who shows the end of a long output shows that."""
        print(f"failed: {error!r}", file=sys.stderr)
        etcd = [(member, 5) for member in self.etcd.members] if self.etcd else []
        for process, lines in etcd + [(process, 40) for process in self.others + self.nodes + self.gateways]:
            state = "runs" if process.alive() else f"ended, status {process.popen.returncode if process.popen else '-'}"
            text = "\n".join(line[:400] for line in process.tail(lines).splitlines())
            print(f"--- {process.name} ({state}), end of its log\n{text}", file=sys.stderr)

    # ---- what the nodes say ----

    def admin(self, index):
        return f"{self.node_addresses[index]}:{ADMIN_PORT}"

    def status(self, index):
        answer = http.request(self.admin(index), "/v1/status")
        if answer.status != 200:
            raise OSError(f"n{index}: {answer}")
        status = answer.json()
        for key in ("term", "incarnation", "commitSeq", "execSeq", "lastSeq", "stateHashSeq"):
            status[key] = int(status[key])  # 64-bit numbers travel as strings
        return status

    def metrics(self, index):
        return http.metrics(self.admin(index))

    def metric(self, index, name):
        return http.metric_sum(self.metrics(index), name)

    def wait_node_ready(self, index, seconds=60):
        wait_until(lambda: http.request(self.admin(index), "/readyz", timeout=2).status == 200, seconds,
                   f"n{index} is ready", alive=[self.nodes[index]])

    def leader(self, seconds=60):
        """Index of the node that leads."""
        def found():
            leaders = [index for index, node in enumerate(self.nodes)
                       if node.alive() and self.status(index)["role"] == "leader"]
            return leaders if len(leaders) == 1 else None
        return wait_until(found, seconds, "one node leads")[0]

    def wait_equal(self, seconds=60, indexes=None):
        """Waits until the nodes have executed all that is committed, up to the same epoch, with the same result chain and
        the same hash of the state at that epoch. Returns (exec_seq, state hash)."""
        indexes = range(len(self.nodes)) if indexes is None else indexes

        def equal():
            states = [self.status(index) for index in indexes]
            for state in states:
                if state["role"] == "quarantined":
                    raise AssertionError(f"quarantined: {state}")
            for seq, value in (("execSeq", "resultHash"), ("stateHashSeq", "stateHash")):
                at = {}
                for state in states:
                    first = at.setdefault(state[seq], state[value])
                    if first != state[value]:
                        raise AssertionError(f"different {value} at the same {seq}: {states}")
            places = {(state["execSeq"], state["commitSeq"], state["stateHashSeq"], state["stateHash"]) for state in states}
            executed, committed, hashed, state_hash = places.pop()
            return (executed, state_hash) if not places and executed == committed == hashed else None
        return wait_until(equal, seconds, "all nodes at the same place", alive=[self.nodes[i] for i in indexes])

    # ---- work ----

    def bank(self, method, message, gateway=0, **options):
        return http.call(self.gateway_addresses[gateway], BANK, method, message, **options)

    def total(self, gateway=0):
        answer = self.bank("Total", {}, gateway)
        assert answer.status == 200, answer
        return int(answer.json()["total"])

    def start_load(self, gateway=0, **options):
        """Starts the load generator; options are its flags. Returns a Load."""
        load = Load(self.gateway_addresses[gateway], options)
        self.loads.append(load)
        return load

    def load(self, gateway=0, **options):
        return self.start_load(gateway, **options).wait()


class Load:
    """One run of the load generator (load.c) against a gateway."""

    def __init__(self, address, options):
        self.popen = subprocess.Popen([str(LOAD), "--address", address] + flags(options), stdin=subprocess.DEVNULL,
                                      stdout=subprocess.PIPE, text=True)

    def wait(self, check=True):
        """Its result (see load.c). check: every answer was as expected and none is missing."""
        output, _ = self.popen.communicate()
        result = self.result = json.loads(output)
        print("load:", json.dumps({key: value for key, value in result.items() if key not in ("gaps", "balances")}), flush=True)
        if check:
            assert self.popen.returncode == 0 and result["wrong"] == 0 and result["errors"] == 0, result
        return result

    def end(self):
        """No new requests; the result once the last answers are there."""
        self.popen.send_signal(signal.SIGINT)
        return self.wait()

    def kill(self):
        if self.popen.poll() is None:
            self.popen.kill()
            self.popen.wait()


def flags(values):
    return [f"--{key.replace('_', '-')}={value}" for key, value in values.items()]


def sleep_until(moment):
    time.sleep(max(0.0, moment - time.monotonic()))
