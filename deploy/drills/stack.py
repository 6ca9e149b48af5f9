"""The cluster a drill works on: containers of docker-compose.yml, or the network namespaces of `make cluster`.

Both offer: nodes (how many), admin (address of each node), gateways (addresses), and for node i: pause, resume, kill, stop,
start, isolate; heal; disk (a directory where their journals are); delay_etcd(ms), ms 0 takes it back. kill and stop leave the node down until start."""
import json
import os
import pathlib
import shutil
import signal
import subprocess
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
STATE = pathlib.Path(os.environ.get("CLUSTER_STATE") or ROOT / ".maroon")
NODES = 3


class Trouble(Exception):
    """What stands in the way of a drill, in words."""


def run(*command, check=True):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if check and done.returncode != 0:
        raise Trouble(f"{' '.join(map(str, command))}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout.strip()


def need_root(what):
    if os.geteuid() != 0:
        raise Trouble(f"{what} needs root")


def delay(in_namespace, interface, ms):
    """netem on an interface. in_namespace: how a command gets into its network namespace."""
    run(*in_namespace, "tc", "qdisc", "del", "dev", interface, "root", check=False)
    if not ms:
        return
    done = subprocess.run([*in_namespace, "tc", "qdisc", "add", "dev", interface, "root", "netem", "delay", f"{ms}ms"],
                          capture_output=True, text=True)
    if done.returncode != 0:
        raise Trouble(f"this kernel adds no netem queue to {interface} ({done.stderr.strip()}). It is CONFIG_NET_SCH_NETEM, a module "
                      "sch_netem of most distributions (Debian: linux-image; modprobe sch_netem). Without it, "
                      "tests/cluster/etcd_slow.py delays etcd's answers by a proxy")


class Compose:
    name = "compose"

    def __init__(self):
        self.settings = {}
        for line in (ROOT / ".env").read_text().splitlines():
            if line and not line.startswith("#"):
                key, value = line.split("=", 1)
                self.settings[key] = os.environ.get(key, value)
        self.docker = os.environ.get("DOCKER", "docker").split()
        host = self.settings["PUBLISH_ADDRESS"]
        host = "127.0.0.1" if host == "0.0.0.0" else host
        self.nodes = NODES
        self.admin = [f"{host}:{self.settings[f'NODE_{i}_ADMIN_PORT']}" for i in range(NODES)]
        self.gateways = [f"{host}:{self.settings[f'GATEWAY_{i}_PORT']}" for i in range(2)]
        self.containers = {}
        for line in self._docker("ps", "-a", "--filter", f"label=com.docker.compose.project={self.settings['COMPOSE_PROJECT_NAME']}",
                                 "--format", '{{.ID}} {{.Label "com.docker.compose.service"}}').splitlines():
            container, service = line.split()
            self.containers[service] = container
        if "node-0" not in self.containers:
            raise Trouble("no container of node-0 exists; make run-compose starts them")

    def _docker(self, *arguments):
        return run(*self.docker, *arguments)

    def disk(self):
        """A directory on the disk of the volumes, or of this machine's temporary files."""
        path = self._docker("info", "--format", "{{.DockerRootDir}}")
        return path if os.access(path, os.W_OK) else tempfile.gettempdir()

    def _node(self, index):
        return self.containers[f"node-{index}"]

    def pause(self, index):
        self._docker("pause", self._node(index))

    def resume(self, index):
        self._docker("unpause", self._node(index))

    def kill(self, index):
        self._docker("kill", self._node(index))

    def stop(self, index):
        self._docker("stop", self._node(index))

    def start(self, index):
        self._docker("start", self._node(index))

    def _pid(self, service):
        return self._docker("inspect", "--format", "{{.State.Pid}}", self.containers[service])

    def _bridge_port(self, service):
        """The host's end of a container's interface."""
        index = self._docker("exec", self.containers[service], "cat", "/sys/class/net/eth0/iflink")
        for path in pathlib.Path("/sys/class/net").glob("*/ifindex"):
            if path.read_text().strip() == index:
                return path.parent.name
        raise Trouble(f"no interface of this machine belongs to {service}: the daemon runs on another one")

    def isolate(self, index):
        need_root("a partition of containers (nftables on their bridge)")
        if not shutil.which("nft"):
            raise Trouble("a partition of containers takes nft (Debian package nftables)")
        port = self._bridge_port(f"node-{index}")
        run("nft", f"""add table bridge maroon_drill
            add chain bridge maroon_drill cuts {{ type filter hook forward priority 0; policy accept; }}
            add rule bridge maroon_drill cuts iifname "{port}" drop
            add rule bridge maroon_drill cuts oifname "{port}" drop""")

    def heal(self):
        if os.geteuid() == 0 and shutil.which("nft"):
            run("nft", "delete", "table", "bridge", "maroon_drill", check=False)

    def delay_etcd(self, ms):
        need_root("delaying etcd (tc in its containers' network)")
        for index in range(3):
            delay(["nsenter", "-t", self._pid(f"etcd-{index}"), "-n"], "eth0", ms)


class Namespaces:
    name = "netns"

    def __init__(self):
        need_root("a drill on network namespaces")
        try:
            facts = json.loads((STATE / "cluster.json").read_text())
        except OSError:
            raise Trouble("no cluster of network namespaces runs; make cluster starts one") from None
        if not pathlib.Path(f"/proc/{facts['pid']}").exists():
            raise Trouble("the cluster of network namespaces has ended; make stop-cluster, then make cluster")
        self.base = facts["base"]
        self.nodes = len(facts["admin"])
        self.admin = facts["admin"]
        self.gateways = facts["gateways"]

    def disk(self):
        return tempfile.gettempdir()

    def _pids(self, index):
        return [int(pid) for pid in run("ip", "netns", "pids", f"{self.base}-n{index}").split()]

    def _signal(self, index, number):
        pids = self._pids(index)
        for pid in pids:
            os.kill(pid, number)
        return pids

    def _until(self, pids, done, seconds=60):
        end = time.monotonic() + seconds
        while not all(done(pid) for pid in pids):
            if time.monotonic() > end:
                raise Trouble(f"processes {pids} do not follow their signal; their threads: {self._threads(pids)}")
            time.sleep(0.001)

    @staticmethod
    def _threads(pids):
        """Name, state and where in the kernel each waits: R without a place turns in the program."""
        said = []
        for task in (task for pid in pids for task in pathlib.Path(f"/proc/{pid}/task").glob("*")):
            try:
                state = (task / "stat").read_text().rsplit(")", 1)[1].split()[0]
                said.append(f"{(task / 'comm').read_text().strip()} {state} {(task / 'wchan').read_text()}")
            except OSError:
                pass  # it ended
        return said

    @staticmethod
    def _state(pid):
        try:
            return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except OSError:
            return "Z"

    def pause(self, index):
        self._until(self._signal(index, signal.SIGSTOP), lambda pid: self._state(pid) in "TZ")

    def resume(self, index):
        self._signal(index, signal.SIGCONT)

    def _down(self, index):
        return STATE / f"cluster.down-n{index}"

    def _end(self, index, number):
        self._down(index).touch()
        self._until(self._signal(index, number), lambda pid: self._state(pid) == "Z")

    def kill(self, index):
        self._end(index, signal.SIGKILL)

    def stop(self, index):
        self._end(index, signal.SIGTERM)

    def start(self, index):
        self._down(index).unlink(missing_ok=True)  # the cluster's owner sees it

    def isolate(self, index):
        self._switch("nft", f'add rule bridge maroon cuts iifname "p-n{index}" oifname != "p-client" drop\n'
                            f'add rule bridge maroon cuts oifname "p-n{index}" iifname != "p-client" drop')

    def heal(self):
        self._switch("nft", "flush chain bridge maroon cuts")

    def _switch(self, *command):
        run("ip", "netns", "exec", f"{self.base}-sw", *command)

    def delay_etcd(self, ms):
        for index in range(3):
            delay(["ip", "netns", "exec", f"{self.base}-e{index}"], "eth0", ms)


def find(which):
    """The stack named "compose" or "netns"; None: whichever runs."""
    if which:
        return {"compose": Compose, "netns": Namespaces}[which]()
    if (STATE / "cluster.json").exists() and os.geteuid() == 0:
        return Namespaces()
    if shutil.which(os.environ.get("DOCKER", "docker").split()[0]):
        return Compose()
    raise Trouble("neither a cluster of network namespaces nor Docker is here: make cluster, or make run-compose")
