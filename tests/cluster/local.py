"""One node and one gateway as a user without root, started as `make run-local` and `make run-gateway` start them."""
import os
import shutil
import socket

from lib import cluster as c
from lib import http, scenario
from lib.process import Process, wait_until


def free_port():
    """A port P with P, P + 10000 and P + 20000 free for UDP."""
    for port in range(12000 + os.getpid() % 300, 12700):
        try:
            for step in (0, 10000, 20000):
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
                    udp.bind(("127.0.0.1", port + step))
            with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as tcp:
                tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                tcp.bind(("127.0.0.1", port))
            return port
        except OSError:
            continue
    raise AssertionError("no free port")


def start(cluster, arguments=()):
    """Node (with `arguments`) and gateway, as nobody when we are root. Returns the gateway's address."""
    root = os.geteuid() == 0
    home = cluster.workdir / "home"
    home.mkdir()
    for program in (c.NODE, c.GATEWAY):  # nobody may be unable to reach the build directory
        shutil.copy(c.absolute(program), home)
    if root:
        cluster.workdir.chmod(0o755)
        shutil.chown(home, "nobody", "nogroup")
    user = "nobody" if root else None
    port = free_port()
    node = Process("node", [home / c.NODE.name, "--admin", f"127.0.0.1:{port + 1}", *arguments], home, user=user,
                   environment={"PORT": str(port), "CONSENSUS_NODES": "1", "HOME": str(home), "XDG_RUNTIME_DIR": str(home)})
    gateway = Process("gateway", [home / c.GATEWAY.name], home, user=user,
                      environment={"KEY_RANGE": "1", "NODE_URLS": f"/ip4/127.0.0.1/tcp/{port}",
                                   "GATEWAY_PORT": str(port), "HOME": str(home), "XDG_RUNTIME_DIR": str(home)})
    cluster.others += [node.start(), gateway]
    wait_until(lambda: http.request(f"127.0.0.1:{port + 1}", "/readyz").status == 200, 60, "the node is ready", alive=[node])
    gateway.start()
    wait_until(lambda: http.request(f"127.0.0.1:{port}", "/readyz").status == 200, 60, "the gateway is ready",
               alive=[node, gateway])
    return f"127.0.0.1:{port}"


def check_ends_of_starts(cluster):
    """A start that does not get through, and one that is stopped before it does."""
    node, gateway = cluster.others
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("0.0.0.0", 0))
        gateway.command.append(f"--udp-port={taken.getsockname()[1]}")
        gateway.start()
        assert gateway.popen.wait(60) == 1 and "network_refused" in gateway.tail(1), gateway.tail(1)
    node.command += ["--arbiter=etcd", "--etcd-endpoints=http://127.0.0.1:1"]
    node.start()
    wait_until(lambda: "etcd_unavailable" in node.tail(), 60, "it waits for etcd", alive=[node])
    assert node.stop() == 0 and "info stopped why=signal" in node.tail(1), node.tail()


def local(cluster):
    address = start(cluster)

    def bank(method, message, status=200):
        answer = http.call(address, c.BANK, method, message)
        assert answer.status == status, (method, message, answer)
        return answer

    assert bank("Deposit", {"account": "1", "amount": "100"}).json() == {"balance": "100"}
    moved = bank("Transfer", {"from": 1, "to": 2, "amount": 30})  # numbers are taken as well as strings
    assert moved.json() == {"fromBalance": "70", "toBalance": "30"}
    assert bank("Balance", {"account": "2"}).json() == {"balance": "30"}
    assert bank("Balance", {"account": "99"}).json() == {"balance": "0"}, "zeros are printed"

    refused = bank("Withdraw", {"account": "2", "amount": "31"}, status=400)
    assert refused.json()["code"] == "failed_precondition" and refused.json()["message"], refused
    assert bank("Balance", {"account": "2"}).json() == {"balance": "30"}, "a refusal changes nothing"
    assert bank("Total", {}).json() == {"total": "100"}

    for _ in range(2):
        again = http.request(address, f"/v1/tx/{moved.headers['maroon-tx-id']}").json()
        assert again["state"] == "executed" and str(again["epoch"]) == moved.headers["maroon-epoch"], again
        assert again["result"] == moved.json(), again
    again = http.request(address, f"/v1/tx/{refused.headers['maroon-tx-id']}")
    assert b"failed_precondition" in again.body, again

    assert bank("Deposit", {"account": "1", "amount": "x"}, status=400).json()["code"] == "invalid_argument"
    assert bank("Nonsense", {}, status=404).json()["code"] == "unimplemented"
    for path in ("/healthz", "/readyz", "/metrics", "/v1/status"):
        assert http.request(address, path).status == 200, path

    result = c.Load(address, {"count": 5000, "connections": 16}).wait()
    assert bank("Total", {}).json() == {"total": str(100 + result["deposited"])}
    for process in cluster.others:
        assert process.stop() == 0, f"{process.name} ends cleanly on SIGTERM"
    check_ends_of_starts(cluster)
    assert not list((cluster.workdir / "home/dpdk").iterdir()), "of DPDK's directories none is left"


if __name__ == "__main__":
    scenario.main(local, programs=(c.NODE, c.GATEWAY, c.LOAD), root=False)
