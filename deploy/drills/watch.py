"""What the nodes say, all the time: one thread asks each for its status. Notes when a node's role or term changed, and what
would show two leaders: two nodes that lead one term, or two commits of different content at one place."""
import http.client
import json
import threading
import time


class Admin:
    """One kept connection to an admin address."""

    def __init__(self, address, timeout_s=1.0):
        host, port = address.rsplit(":", 1)
        self.connection = http.client.HTTPConnection(host, int(port), timeout=timeout_s)

    def get(self, path):
        """The body, or None when it does not answer."""
        try:
            self.connection.request("GET", path)
            response = self.connection.getresponse()
            body = response.read()
            return body if response.status == 200 else None
        except (OSError, http.client.HTTPException):
            self.connection.close()
            return None

    def status(self):
        body = self.get("/v1/status")
        try:
            return json.loads(body) if body else None
        except ValueError:
            return None


SLOW_SYNC_S = 0.134217728  # a bound of the nodes' histogram


def slow_syncs(address):
    """How many journal syncs took longer than SLOW_SYNC_S, by a node's own histogram."""
    admin = Admin(address)
    text = (admin.get("/metrics") or b"").decode()
    admin.connection.close()
    below = total = 0
    for line in text.splitlines():
        if line.startswith("maroon_log_sync_seconds_bucket"):
            bound, value = line.split('le="')[1].split('"')[0], int(line.rsplit(" ", 1)[1])
            total = value
            if bound != "+Inf" and float(bound) <= 1.001 * SLOW_SYNC_S:
                below = value
    return total - below


class Watch:
    def __init__(self, addresses, interval_s=0.02):
        self.addresses = addresses
        self.interval_s = interval_s
        self.lock = threading.Lock()
        self.ending = threading.Event()
        self.changes = []    # (moment, node, words)
        self.last = [None] * len(addresses)
        self.last_at = [0.0] * len(addresses)
        self.led = {}        # term -> nodes seen leading it
        self.content = {}    # seq -> {hash: a node that had committed up to there with it}
        self.split = []      # what must never be seen
        self.threads = [threading.Thread(target=self._run, args=(index,), daemon=True) for index in range(len(addresses))]

    def start(self):
        for thread in self.threads:
            thread.start()
        return self

    def stop(self):
        self.ending.set()
        for thread in self.threads:
            thread.join()
        return self

    def status(self, index, newer_than=0.0):
        """The newest status asked for after a moment, or None."""
        with self.lock:
            return self.last[index] if self.last_at[index] > newer_than else None

    def _run(self, index):
        said = None
        admin = Admin(self.addresses[index])
        while not self.ending.is_set():
            asked = time.monotonic()
            status = admin.status()
            with self.lock:
                self.last[index], self.last_at[index] = status, asked
                if status:
                    self._check(index, status)
                words = f"{status['role']}, term {status['term']}" if status else "does not answer"
                if words != said:
                    self.changes.append((time.monotonic(), index, words))
                    said = words
            time.sleep(self.interval_s)
        admin.connection.close()

    def _check(self, index, status):
        if status["role"] == "leader":
            nodes = self.led.setdefault(status["term"], set())
            if index not in nodes:
                nodes.add(index)
                if len(nodes) > 1:
                    self.split.append(f"nodes {sorted(nodes)} both led term {status['term']}")
        if status["commitSeq"] == "0":
            return  # nothing yet; one that is still to learn where it begins says so with zeros
        at = self.content.setdefault(status["commitSeq"], {})
        at.setdefault(status["commitHash"], index)
        if len(at) > 1:
            self.split.append(f"different commits at seq {status['commitSeq']}: {at}")
        if len(self.content) > 100_000:
            self.content.pop(next(iter(self.content)))
