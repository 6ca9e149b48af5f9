"""Transfers through the gateways, each answer checked. Every connection owns two accounts and has one request under way, so
each balance is known beforehand: what is lost, done twice or out of order shows as a wrong answer. A request that failed is
sent again under its Idempotency-Key, at the next gateway, until it is answered: then it took effect once.

It runs as a process of its own, so that what a drill does meanwhile does not hold it up."""
import json
import pathlib
import random
import socket
import subprocess
import sys
import threading
import time
import uuid

BANK = "bank.v1.Bank"
FIRST = 1_000_000


class Http:
    """One keep-alive connection; answers of known length, as maroon's gateway sends them."""

    def __init__(self, address, timeout_s):
        host, port = address.rsplit(":", 1)
        self.socket = socket.create_connection((host, int(port)), timeout=timeout_s)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.rest = b""

    def call(self, method, message, key=None):
        """(status, body). OSError when the connection fails, ValueError when the answer is not HTTP."""
        body = json.dumps(message).encode()
        head = f"POST /{BANK}/{method} HTTP/1.1\r\nHost: maroon\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        if key:
            head += f"Idempotency-Key: {key}\r\n"
        self.socket.sendall(head.encode() + b"\r\n" + body)
        data = self.rest
        while (end := data.find(b"\r\n\r\n")) < 0:
            data += self._more()
        lines = data[:end].decode("latin-1").split("\r\n")
        status = int(lines[0].split(" ")[1])
        length = next(int(line.split(":")[1]) for line in lines[1:] if line.lower().startswith("content-length:"))
        data = data[end + 4:]
        while len(data) < length:
            data += self._more()
        self.rest = data[length:]
        return status, data[:length]

    def _more(self):
        data = self.socket.recv(65536)
        if not data:
            raise ConnectionError("the gateway closed the connection")
        return data

    def close(self):
        self.socket.close()


class Worker:
    """The connections. start() ... stop() or wait()."""

    def __init__(self, gateways, connections, pause_s, count, timeout_s=10, give_up_s=60):
        self.gateways = gateways
        self.pause_s = pause_s
        self.timeout_s = timeout_s
        self.give_up_s = give_up_s
        self.left = count
        self.counted = count > 0
        self.lock = threading.Lock()
        self.ending = threading.Event()
        self.answers = []
        self.failures = []
        self.wrong = []
        self.accounts = {}
        base = random.getrandbits(40) << 10
        self.threads = [threading.Thread(target=self._run, args=(number, base + 2 * number), daemon=True)
                        for number in range(connections)]

    def start(self):
        for thread in self.threads:
            thread.start()

    def wait(self):
        for thread in self.threads:
            thread.join()

    # ---- one connection ----

    def _run(self, number, account):
        state = {"http": None, "gateway": number % len(self.gateways)}
        a, b = account, account + 1
        generator = random.Random(account)
        try:
            for each in (a, b):
                self._ask(state, "Deposit", {"account": str(each), "amount": str(FIRST)}, {"balance": str(FIRST)})
                self.accounts[each] = FIRST
            while self._one_more():
                source, target = (a, b) if generator.random() < 0.5 else (b, a)
                amount = generator.randrange(1, 1000)
                if self.accounts[source] < amount:
                    source, target = target, source
                self._ask(state, "Transfer", {"from": str(source), "to": str(target), "amount": str(amount)},
                          {"fromBalance": str(self.accounts[source] - amount),
                           "toBalance": str(self.accounts[target] + amount)})
                self.accounts[source] -= amount
                self.accounts[target] += amount
                time.sleep(self.pause_s)
        except TimeoutError as error:
            with self.lock:
                self.wrong.append(str(error))
        if state["http"]:
            state["http"].close()

    def _one_more(self):
        if self.ending.is_set():
            return False
        if not self.counted:
            return True
        with self.lock:
            self.left -= 1
            return self.left >= 0

    def _ask(self, state, method, message, expected):
        """Until it is answered."""
        key = uuid.uuid4().hex
        began = time.monotonic()
        while True:
            try:
                if not state["http"]:
                    state["http"] = Http(self.gateways[state["gateway"]], self.timeout_s)
                status, body = state["http"].call(method, message, key)
                if status == 200:
                    break
                what = f"{method}: status {status}: {body[:200].decode(errors='replace').strip()}"
            except (OSError, ValueError, StopIteration) as error:
                what = f"{method}: {error!r}"
                if state["http"]:
                    state["http"].close()
                state["http"] = None
            now = time.monotonic()
            with self.lock:
                self.failures.append((now, what))
            if now - began > self.give_up_s:
                raise TimeoutError(f"not answered within {self.give_up_s} s: {what}")
            if not state["http"]:
                state["gateway"] = (state["gateway"] + 1) % len(self.gateways)
            time.sleep(0.02)
        now = time.monotonic()
        answer = json.loads(body)
        with self.lock:
            self.answers.append(now)
            if answer != expected:
                self.wrong.append(f"{method} {message}: {answer}, expected {expected}")


class Load:
    """A running load. started(), stop() or wait(), then: `answers` (moments of all answers, sorted), `failures` [(moment,
    words)] of every request that was not answered 200 at once, `wrong` [words], `accounts` {account: acknowledged balance}."""

    def __init__(self, gateways, connections=8, pause_s=0.004, count=0):
        self.gateways = gateways
        options = {"gateways": gateways, "connections": connections, "pause_s": pause_s, "count": count}
        self.process = subprocess.Popen([sys.executable, str(pathlib.Path(__file__)), json.dumps(options)], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True)
        self.answers = []

    def stop(self):
        """No new requests; waits for the last answers."""
        return self._take(self.process.communicate("stop\n")[0])

    def wait(self):
        """Until `count` transfers are made."""
        return self._take(self.process.stdout.read())

    def _take(self, output):
        self.process.stdin.close()
        self.process.wait()
        result = json.loads(output)
        self.answers = sorted(result["answers"])
        self.failures, self.wrong, self.accounts = result["failures"], result["wrong"], result["accounts"]
        return self

    def gaps(self, begin=None, end=None):
        """(a, b) of every two answers in a row of which the time between reaches into begin..end."""
        return [(a, b) for a, b in zip(self.answers, self.answers[1:]) if (begin is None or b >= begin) and (end is None or a <= end)]

    def longest_gap(self, begin=None, end=None):
        """(seconds, its beginning) of the longest of them."""
        return max(((b - a, a) for a, b in self.gaps(begin, end)), default=(0.0, 0.0))

    def check_accounts(self):
        """Reads every account through every gateway; adds what is not as acknowledged to `wrong`. Returns how many."""
        for address in self.gateways:
            http = Http(address, 10)
            for account, balance in self.accounts.items():
                status, body = http.call("Balance", {"account": account})
                said = json.loads(body).get("balance") if status == 200 else body
                if said != str(balance):
                    self.wrong.append(f"account {account} holds {said} at {address}, acknowledged were {balance}")
            http.close()
        return len(self.accounts)


def main():
    worker = Worker(**json.loads(sys.argv[1]))
    worker.start()

    def listen():
        sys.stdin.readline()
        worker.ending.set()
    threading.Thread(target=listen, daemon=True).start()
    worker.wait()
    json.dump({"answers": worker.answers, "failures": worker.failures, "wrong": worker.wrong, "accounts": worker.accounts}, sys.stdout)


if __name__ == "__main__":
    main()
