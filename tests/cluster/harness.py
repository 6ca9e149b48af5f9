"""The harness itself: do the faults happen, does the load generator see a lie, is everything removed?"""
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import responder as responder_program
from lib import network, scenario
from lib.cluster import LOAD, Load
from lib.etcd import Etcd
from lib.process import Process, wait_until

HERE = pathlib.Path(__file__).parent
ECHO_PORT = 7000


def responder(cluster, host, *arguments):
    process = Process(f"{host}-{arguments[0]}-{arguments[1]}", [sys.executable, HERE / "responder.py", *arguments],
                      cluster.workdir, cluster.network.namespace(host)).start()
    cluster.others.append(process)
    wait_until(lambda: "ready" in process.tail(), 60, f"{process.name} is ready", alive=[process])


def echoes(address, count, gap=0.0002, lost=lambda: 0):
    """Sends numbered datagrams to an echo server; returns the numbers that came back, in their order. lost(): how many are known not
    to come back; the others are waited for, however slow the machine is, and then a little for some too many."""
    back = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.setsockopt(socket.SOL_SOCKET, responder_program.SO_RCVBUFFORCE, 16 << 20)
        udp.setblocking(False)

        def take():
            try:
                while True:
                    back.append(int(udp.recv(2048)[:8]))
            except BlockingIOError:
                pass
        for number in range(count):
            udp.sendto(b"%08d" % number + bytes(200), (address, ECHO_PORT))
            take()
            time.sleep(gap)
        end = time.monotonic() + 20
        while len(back) + lost() < count and time.monotonic() < end:
            time.sleep(0.05)
            take()
        time.sleep(0.3)
        take()
    return back


def check_faults(cluster):
    net = cluster.network
    address = net.add_host("a", 70)
    net.add_host("b", 71)
    responder(cluster, "a", "udp", ECHO_PORT)
    whole = echoes(address, 1000)
    assert whole == list(range(1000)), f"{len(whole)} of 1000 on a healthy bridge"

    net.lose(5)
    back = echoes(address, 2000, lost=lambda: net.counted("loss"))
    assert 1600 < len(back) < 1950, f"{len(back)} of 2000 with 5 % loss each way"
    assert net.counted("loss") == 2000 - len(back)
    net.lose(0)

    net.reorder(5)
    back = echoes(address, 3000, gap=0, lost=lambda: 150)  # of the slow class some, as its queue is short
    late = sum(1 for a, b in zip(back, back[1:]) if b < a)
    print(f"reordering: {late} late of {len(back)}")
    assert late >= 3 and net.counted("reorder") > 0
    net.reorder(0)

    net.cut("client", "b")
    assert len(echoes(address, 100)) == 100, "a cut between others concerns nobody else"
    net.cut("a", "client", protocol="tcp")
    assert len(echoes(address, 100)) == 100, "a cut of TCP does not concern UDP"
    net.heal()
    net.cut("a", "client", one_way=True)
    assert echoes(address, 100, lost=lambda: net.counted("cuts")) == []
    cut = net.counted("cuts")
    assert 100 <= cut <= 110, f"requests arrive, answers do not: {cut} were cut"  # an answer to ARP may be among them
    net.heal()
    net.isolate("a")
    assert echoes(address, 100, lost=lambda: 100) == []
    net.heal()
    assert len(echoes(address, 100)) == 100


def check_etcd(cluster):
    cluster.etcd = etcd = Etcd(cluster.network, cluster.workdir)
    etcd.start()
    etcd.members[0].kill()
    wait_until(lambda: etcd.get(etcd.addresses[1], "x", 3), 60, "two of three members serve")
    cluster.network.isolate("e1")
    wait_until(lambda: not answers(etcd, 2), 60, "one of three members does not")
    cluster.network.heal()
    etcd.members[0].start()
    etcd.wait_healthy()


def answers(etcd, index):
    try:
        return etcd.get(etcd.addresses[index], "x", 3) is not None
    except OSError:
        return False


def check_load(cluster):
    responder(cluster, "b", "bank", 8000)
    responder(cluster, "b", "bank", 8001, 500)
    host = cluster.network.hosts["b"]
    result = Load(f"{host}:8000", {"count": 5000, "connections": 16}).wait()
    assert result["ok"] + result["refused"] == 5000 and result["refused"] > 0, result
    assert result["deposited"] == 16 * 4 * 1000
    lied = Load(f"{host}:8001", {"count": 5000, "connections": 16}).wait(check=False)
    assert lied["wrong"] > 0, "a wrong balance is seen"
    nobody = Load(f"{host}:8002", {"count": 10, "timeout": 1}).wait(check=False)
    assert nobody["unanswered"] > 0 and nobody["errors"] == 0, nobody


def check_cleanup(cluster):
    """A test that dies by kill -9 leaves things; cleanup.py finds and removes them, and only them."""
    child = subprocess.Popen([sys.executable, __file__, "--die"], stdout=subprocess.PIPE, text=True)
    assert child.stdout.readline().strip() == "up"
    child.kill()
    child.wait()
    names = [name for name in network.leftovers() if f"-{child.pid}-" in name]
    assert len(names) == 3, names
    subprocess.run([sys.executable, HERE / "cleanup.py"], check=True, stdout=subprocess.DEVNULL)
    assert not [name for name in network.leftovers() if f"-{child.pid}-" in name]
    assert not list(cluster.workdir.parent.glob(f"maroon-cluster-{child.pid}-*"))
    assert subprocess.run(["pgrep", "-f", f"sleep 86{child.pid}"], stdout=subprocess.DEVNULL).returncode == 1
    assert cluster.network.hosts and network.NETNS.joinpath(cluster.network.switch).exists()

    child = subprocess.Popen([sys.executable, __file__, "--die"], stdout=subprocess.PIPE, text=True)
    assert child.stdout.readline().strip() == "up"
    child.send_signal(signal.SIGTERM)
    assert child.wait(60) == 128 + signal.SIGTERM
    assert not list(network.NETNS.glob(f"*-{child.pid}-*")), "SIGTERM cleans up"


def die():
    from lib.cluster import Cluster
    with Cluster() as cluster:
        cluster.start_network()
        cluster.network.add_host("x", 90)
        cluster.others.append(Process("sleep", ["sleep", f"86{os.getpid()}"], cluster.workdir,
                                      cluster.network.namespace("x")).start())
        print("up", flush=True)
        time.sleep(600)


def harness(cluster):
    cluster.start_network()
    check_faults(cluster)
    check_load(cluster)
    check_etcd(cluster)
    check_cleanup(cluster)


if __name__ == "__main__":
    if sys.argv[1:] == ["--die"]:
        die()
    else:
        scenario.main(harness, programs=[LOAD])
