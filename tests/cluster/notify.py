"""The service manager's side: a node says READY when its dataplane runs, feeds the watchdog only while that gets on (one of its
threads is held still here), shows its role, and says STOPPING."""
import ctypes
import os
import pathlib
import signal
import socket
import time

import local
from lib import cluster as c
from lib import scenario
from lib.process import Process

WATCHDOG_US = 1000000
PTRACE_DETACH, PTRACE_SEIZE, PTRACE_INTERRUPT = 17, 0x4206, 0x4207
libc = ctypes.CDLL(None, use_errno=True)


def ptrace(request, thread):
    if libc.ptrace(request, thread, None, None) != 0:
        raise OSError(ctypes.get_errno(), f"ptrace {request:#x}")


class Manager:
    """What systemd does: a datagram socket, and the environment that names it."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        path.chmod(0o666)
        self.environment = {"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": str(WATCHDOG_US)}

    def listen(self, seconds, until=None):
        """Messages of the next `seconds`, or up to and with one that begins with `until`."""
        end, heard = time.monotonic() + seconds, []
        while time.monotonic() < end:
            self.socket.settimeout(max(0.001, end - time.monotonic()))
            try:
                heard.append(self.socket.recv(4096).decode())
            except TimeoutError:
                break
            if until and heard[-1].startswith(until):
                return heard
        assert not until, f"{until} was not heard within {seconds} s: {heard}"
        return heard

    def drain(self):
        self.socket.setblocking(False)
        try:
            while self.socket.recv(4096):
                pass
        except BlockingIOError:
            pass


def thread_named(pid, name):
    for path in pathlib.Path(f"/proc/{pid}/task").iterdir():
        if (path / "comm").read_text().strip() == name:
            return int(path.name)
    raise AssertionError(f"no thread {name}")


def hold_still(manager, node, thread):
    """A dataplane that hangs: the rest of the process goes on, and must not feed the watchdog for it."""
    try:
        ptrace(PTRACE_SEIZE, thread)
    except OSError as error:
        print(f"cannot hold a thread still here ({error}); that part is not tested")
        return
    try:  # a thread that stays traced keeps its process from ending
        ptrace(PTRACE_INTERRUPT, thread)
        os.waitpid(thread, 0x40000000)  # __WALL
        time.sleep(WATCHDOG_US / 1e6)
        manager.drain()
        heard = manager.listen(1.5 * WATCHDOG_US / 1e6)
    finally:
        ptrace(PTRACE_DETACH, thread)
    assert "WATCHDOG=1" not in heard, heard
    assert "watchdog_withheld" in node.tail(), node.tail()
    manager.listen(60, until="WATCHDOG=1")


def notify(cluster):
    manager = Manager(cluster.workdir / "notify")
    port = local.free_port()
    command = [c.absolute(c.NODE), "--port", port, "--admin", f"127.0.0.1:{port + 1}", "--data-dir", cluster.workdir / "node",
               "--lcore-execute", "1"]
    node = Process("node", command, cluster.workdir, environment=manager.environment).start()
    cluster.others.append(node)
    heard = manager.listen(60, until="READY=1")
    assert len(heard) == 1, f"ready is said first: {heard}"
    manager.listen(60, until="STATUS=leader, node 0, term 1")
    manager.drain()
    began = time.monotonic()
    for _ in range(4):
        manager.listen(60, until="WATCHDOG=1")
    took = time.monotonic() - began
    assert took > 0.5 * WATCHDOG_US / 1e6, f"fed 4 times in {took:.2f} s, each quarter of {WATCHDOG_US} us"
    assert took < 4 * WATCHDOG_US / 1e6, f"fed 4 times in {took:.2f} s: a service manager would have ended it"
    for name in ("stage-0", "stage-1"):  # each of the dataplane's threads counts
        hold_still(manager, node, thread_named(node.pid, name))
    node.signal(signal.SIGTERM)
    manager.listen(60, until="STOPPING=1")
    assert node.popen.wait(60) == 0

    elsewhere = Process("other", command, cluster.workdir,
                        environment={**manager.environment, "WATCHDOG_PID": "1"}).start()
    cluster.others.append(elsewhere)
    manager.listen(60, until="READY=1")
    assert "WATCHDOG=1" not in manager.listen(0.5), "the watchdog is another process's"
    assert elsewhere.stop() == 0


if __name__ == "__main__":
    scenario.main(notify, programs=(c.NODE,), root=False)
