"""Three real etcd members, each in a namespace of its own."""
import base64
import json

from . import http
from .process import Process, wait_until

CLIENT_PORT = 2379
PEER_PORT = 2380


class Etcd:
    def __init__(self, network, workdir, count=3, first_number=20, arguments=()):
        self.network = network
        self.workdir = workdir
        self.names = [f"e{index}" for index in range(count)]
        self.addresses = [network.add_host(name, first_number + index) for index, name in enumerate(self.names)]
        cluster = ",".join(f"{name}=http://{address}:{PEER_PORT}"
                           for name, address in zip(self.names, self.addresses))
        self.members = [Process(name, [
            "etcd", "--name", name, "--data-dir", workdir / f"{name}.data", "--log-level", "warn",
            "--listen-client-urls", f"http://{address}:{CLIENT_PORT}",
            "--advertise-client-urls", f"http://{address}:{CLIENT_PORT}",
            "--listen-peer-urls", f"http://{address}:{PEER_PORT}",
            "--initial-advertise-peer-urls", f"http://{address}:{PEER_PORT}",
            "--initial-cluster", cluster, "--initial-cluster-state", "new",
            "--initial-cluster-token", network.base, *arguments,
        ], workdir, namespace=network.namespace(name)) for name, address in zip(self.names, self.addresses)]

    @property
    def endpoints(self):
        return ",".join(f"http://{address}:{CLIENT_PORT}" for address in self.addresses)

    def start(self):
        for member in self.members:
            member.start()
        self.wait_healthy()

    def wait_healthy(self, seconds=60):
        """Each member answers a read that needs the quorum, through the HTTP gateway that maroon uses."""
        for member, address in zip(self.members, self.addresses):
            wait_until(lambda: self.get(address, "health-check", 3) is not None, seconds, f"{member.name} serves reads",
                       alive=[member])

    def get(self, address, key, timeout=10):
        """The answer to a linearizable range request for one key, or None."""
        return self._ask(address, "range", key, timeout)

    def delete(self, key):
        assert int(self._ask(self.addresses[0], "deleterange", key)["deleted"]) == 1, key

    def _ask(self, address, call, key, timeout=10):
        body = json.dumps({"key": base64.b64encode(key.encode()).decode()})
        answer = http.request(f"{address}:{CLIENT_PORT}", f"/v3/kv/{call}", "POST", body, timeout=timeout)
        return answer.json() if answer.status == 200 else None

    def stop(self):
        for member in self.members:
            member.kill()
