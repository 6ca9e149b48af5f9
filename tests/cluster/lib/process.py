"""Child processes of a test: started with a log each, ended for certain."""
import os
import pathlib
import shutil
import signal
import subprocess
import time


class Process:
    """One program. `namespace`: network namespace to run in, or None. `user`: user name to run as, or None. `cpu_group`: the
    cgroup.procs of a scheduling group to join, or None. own_session = False: it shares the caller's session, so that on a
    kernel that schedules by session (sched_autogroup) a poller which yields lets the others run."""

    def __init__(self, name, command, workdir, namespace=None, user=None, environment=None, cpu_group=None):
        self.name = name
        self.command = [str(word) for word in command]
        self.workdir = pathlib.Path(workdir)
        self.log_path = self.workdir / f"{name}.log"
        self.namespace = namespace
        self.user = user
        self.cpu_group = cpu_group
        self.environment = environment or {}
        self.own_session = True
        self.popen = None

    def start(self):
        assert not self.alive(), f"{self.name} runs already"
        command = self.command
        if self.user:
            command = ["setpriv", f"--reuid={self.user}", "--regid=nogroup", "--clear-groups", "--inh-caps=-all",
                       "--bounding-set=-all", "--no-new-privs"] + command
        if self.namespace:
            command = ["ip", "netns", "exec", self.namespace] + command
        if self.cpu_group:
            command = ["sh", "-c", 'echo $$ >"$0" && exec "$@"', str(self.cpu_group)] + command
        # Nothing of the caller's own settings may change what is tested.
        environment = {key: value for key, value in os.environ.items()
                       if not key.startswith("MAROON_")
                       and key not in ("PORT", "CONSENSUS_NODES", "GATEWAY_PORT", "KEY_RANGE", "NODE_URLS")}
        environment.update(self.environment)
        with open(self.log_path, "ab") as log:
            log.write(f"--- {' '.join(command)}\n".encode())
            log.flush()
            self.popen = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.workdir,
                                          env=environment, start_new_session=self.own_session,
                                          process_group=None if self.own_session else 0)
        return self

    @property
    def pid(self):
        return self.popen.pid

    def alive(self):
        return self.popen is not None and self.popen.poll() is None

    def signal(self, number):
        """To the program and its children: each program is the leader of its own process group."""
        if self.alive():
            os.killpg(self.pid, number)

    def kill(self):
        self.signal(signal.SIGKILL)
        if self.popen is not None:
            self.popen.wait()
            # What EAL leaves of a process that was killed, as root.
            shutil.rmtree(f"/var/run/dpdk/maroon-{self.pid}", ignore_errors=True)

    def pause(self):
        """Returns once it stands still: the signal alone takes effect some time later."""
        self.signal(signal.SIGSTOP)
        if self.alive():
            os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def resume(self):
        self.signal(signal.SIGCONT)

    def stop(self, seconds=60.0):
        """Asks it to end, then makes it. Returns the exit status."""
        if self.popen is None:
            return None
        self.resume()
        self.signal(signal.SIGTERM)
        try:
            self.popen.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
        return self.popen.returncode

    def tail(self, lines=40):
        try:
            return "\n".join(self.log_path.read_text(errors="replace").splitlines()[-lines:] if lines else [])
        except OSError as error:
            return str(error)


def wait_until(condition, seconds, what, interval=0.05, alive=()):
    """Calls `condition` until it returns something true, and returns that. Fails after `seconds`, or at once when one of
    the processes `alive` has ended. How long something takes is not what is asserted so: `seconds` is for a machine that
    is slow and busy, 60 if nothing else is known."""
    end = time.monotonic() + seconds
    last = None
    while True:
        try:
            value = condition()
            if value:
                return value
            last = value
        except (OSError, ValueError, KeyError) as error:
            last = error
        for process in alive:
            if not process.alive():
                raise AssertionError(f"{process.name} ended (status {process.popen.returncode}) while waiting: {what}")
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds} s: {what} (last: {last!r})")
        time.sleep(interval)


def wait_passes(check, seconds, what):
    """Calls `check` until it raises no AssertionError, and returns what it returns: for what several processes say, each a
    little later than the other."""
    def passes():
        try:
            return [check()]
        except AssertionError as error:
            raise ValueError(str(error)) from error  # wait_until shows the last one
    return wait_until(passes, seconds, what)[0]
