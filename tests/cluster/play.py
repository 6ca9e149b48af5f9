"""make cluster: three nodes, three etcd members and a gateway, left running to play with. make stop-cluster ends it.

A background process owns the cluster and forwards ports of 127.0.0.1 into its namespaces, so the machine's own network
is not touched and everything ends with that process. A program that ends is started again, as an init system would; drills
(deploy/drills) find it by cluster.json, and hold a node down by a file cluster.down-n<index>.

Environment: GATEWAY_PORT, DURABILITY (memory or disk), GATEWAYS (1), CLUSTER_STATE (directory of its files), CPU_GROUPS (1: each
program in a scheduling group of its own, as containers are)."""
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading
import time

from lib import cluster as c
from lib import network, scenario

HERE = pathlib.Path(__file__).resolve().parent
STATE = pathlib.Path(os.environ.get("CLUSTER_STATE") or c.ROOT / ".maroon")
FACTS_FILE = STATE / "cluster.json"
PID_FILE = STATE / "cluster.pid"
LOG_FILE = STATE / "cluster.log"
NODES = 3
GATEWAYS = int(os.environ.get("GATEWAYS") or 1)


def forward(listener, target):
    """Copies bytes between each connection and `target`. The caller's thread stays in the client namespace."""
    def copy(source, sink):
        try:
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def serve(connection):
        with connection:
            try:
                with socket.create_connection(target, timeout=5) as onward:
                    onward.settimeout(None)
                    back = threading.Thread(target=copy, args=(onward, connection), daemon=True)
                    back.start()
                    copy(connection, onward)
                    back.join()
            except OSError:
                pass

    def accept():
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=serve, args=(connection,), daemon=True).start()
    threading.Thread(target=accept, daemon=True).start()


def listen(port):
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen()
    return listener


def write_facts(cluster, http_port):
    facts = {"pid": os.getpid(), "base": cluster.network.base, "admin": [f"127.0.0.1:{c.ADMIN_PORT + i}" for i in range(NODES)],
             "gateways": [f"127.0.0.1:{http_port + i}" for i in range(GATEWAYS)]}
    FACTS_FILE.write_text(json.dumps(facts))


def revive(processes):
    """Starts again what has ended, unless a drill holds it down."""
    for process in processes:
        if not process.alive() and not (STATE / f"cluster.down-{process.name}").exists():
            print(f"{process.name} ended (status {process.popen.returncode}) and is started again", flush=True)
            process.start()


def clear():
    for path in [FACTS_FILE, PID_FILE, *STATE.glob("cluster.down-*")]:
        path.unlink(missing_ok=True)


def run():
    http_port = int(os.environ.get("GATEWAY_PORT") or c.HTTP_PORT)
    # In the machine's namespace; the cluster's start leaves it.
    http_listeners = [listen(http_port + index) for index in range(GATEWAYS)]
    admin_listeners = [listen(c.ADMIN_PORT + index) for index in range(NODES)]
    with c.Cluster(cpu_groups=os.environ.get("CPU_GROUPS") == "1") as cluster:
        cluster.start(nodes=NODES, gateways=GATEWAYS, node_keys={"durability": os.environ.get("DURABILITY") or "memory"})
        for index, listener in enumerate(http_listeners):
            forward(listener, (cluster.gateway_addresses[index].split(":")[0], c.HTTP_PORT))
            print(f"gateway   http://127.0.0.1:{http_port + index}")
        for index, listener in enumerate(admin_listeners):
            forward(listener, (cluster.node_addresses[index], c.ADMIN_PORT))
        for index in range(NODES):
            print(f"node {index}    http://127.0.0.1:{c.ADMIN_PORT + index}/v1/status    "
                  f"namespace {cluster.network.namespace(f'n{index}')}")
        print(f"etcd      ip netns exec {cluster.network.namespace('client')} etcdctl --endpoints {cluster.etcd.endpoints} "
              "get --prefix /maroon/")
        print(f"logs      {cluster.workdir}")
        write_facts(cluster, http_port)
        print("ready", flush=True)
        while True:
            revive(cluster.nodes + cluster.gateways + cluster.etcd.members)
            time.sleep(0.1)


def running():
    """Pid of the cluster's owner, or None."""
    try:
        pid = int(PID_FILE.read_text())
        if b"play.py" in pathlib.Path(f"/proc/{pid}/cmdline").read_bytes():
            return pid
    except (OSError, ValueError):
        pass
    return None


def start():
    if os.geteuid() != 0:
        sys.exit("make cluster needs root (network namespaces); make demo does not")
    scenario.need_programs(c.NODE, c.GATEWAY)
    if running():
        sys.exit("a cluster runs already; make stop-cluster ends it")
    subprocess.run([sys.executable, str(HERE / "cleanup.py")], check=True)
    STATE.mkdir(exist_ok=True)
    clear()
    with open(LOG_FILE, "wb") as log:
        owner = subprocess.Popen([sys.executable, str(HERE / "play.py"), "run"], stdin=subprocess.DEVNULL, stdout=log,
                                 stderr=log, start_new_session=True)
    PID_FILE.write_text(str(owner.pid))
    while owner.poll() is None:
        lines = LOG_FILE.read_text().splitlines()
        if lines and lines[-1] == "ready":
            print("\n".join(lines[:-1]))
            print("make stop-cluster ends it")
            return
        time.sleep(0.1)
    clear()
    sys.exit(LOG_FILE.read_text() + "the cluster did not start")


def stop():
    pid = running()
    if pid:
        os.kill(pid, signal.SIGTERM)
        end = time.monotonic() + 20
        while running() and time.monotonic() < end:
            time.sleep(0.1)
        if running():
            os.kill(pid, signal.SIGKILL)
            time.sleep(0.2)
    clear()
    if os.geteuid() == 0 and network.NETNS.exists():
        subprocess.run([sys.executable, str(HERE / "cleanup.py")], check=True)
    print("stopped" if pid else "no cluster was running")


if __name__ == "__main__":
    actions = {"start": start, "stop": stop, "run": run}
    if sys.argv[1:2] and sys.argv[1] in actions:
        actions[sys.argv[1]]()
    else:
        sys.exit("usage: play.py start|stop")
