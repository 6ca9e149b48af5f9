"""What the tests of the tools for bare metal share: a made-up tree of /sys and /proc, and running a tool on it."""
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import threading

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = (ROOT / os.environ.get("BUILD", "build")).resolve()


class Tree:
    """A directory that is removed at the end; write() makes files below it."""

    def __enter__(self):
        self.path = pathlib.Path(tempfile.mkdtemp(prefix=f"maroon-tree-{os.getpid()}-"))
        (self.path / "run").mkdir()
        return self

    def __exit__(self, *_):
        shutil.rmtree(self.path)

    def write(self, name, text):
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
        return path

    def read(self, name):
        return (self.path / name).read_text().strip()

    def link(self, name, target):
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(target)


class Scripted:
    """A file that answers as the kernel would: `steps` is a list of ("read", text) and ("write", None), in the order in which
    the tool opens it. What was written is kept in `written`."""

    def __init__(self, path, steps):
        self.path, self.steps, self.written = path, steps, []
        path.unlink(missing_ok=True)
        os.mkfifo(path)
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    def serve(self):
        for kind, text in self.steps:
            if kind == "read":
                self.path.write_text(f"{text}\n")
            else:
                self.written.append(self.path.read_text().strip())

    def done(self):
        self.thread.join(5)
        assert not self.thread.is_alive(), f"{self.path.name} was not used as expected; written: {self.written}"
        return self.written


def run(command, status=0, **options):
    """Runs a tool; its output, after the exit status was checked."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MAROON_") and key != "PORT"}
    done = subprocess.run([str(word) for word in command], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          timeout=120, env=environment, **options)
    assert done.returncode == status, f"{command}: status {done.returncode}, not {status}\n{done.stdout}"
    return done.stdout


def main(*tests):
    for test in tests:
        with Tree() as tree:
            test(tree)
        print(f"ok {test.__name__}", flush=True)
    sys.exit(0)
