"""A store for dumps: a real S3 server (s3rver) on a host of its own, behind the proxy that does harm; a directory where
s3rver cannot be had, and then everybody is told so."""
import json
import os
import pathlib
import subprocess
import sys

from . import cluster as c
from .process import Process, wait_until

BUCKET = "dumps"
ACCESS, SECRET = "S3RVER", "S3RVER/secret+key"  # the only ones that s3rver knows
SERVER_PORT, PROXY_PORT = 4568, 4569
HOST_NUMBER = 80
TESTS = pathlib.Path(__file__).resolve().parents[2]


class Store:
    """Made before the network: npm needs the machine's own. Then start(cluster)."""

    def __init__(self, directory=False):
        self.place = c.BUILD / "s3rver"
        self.s3 = not directory and subprocess.run(["sh", TESTS / "store" / "install.sh", self.place]).returncode == 0
        if not self.s3 and not directory:
            line = "!" * 100
            print(f"{line}\nTHERE IS NO S3 SERVER HERE (npm could not install s3rver): THIS RUNS ON A DIRECTORY, AND WITHOUT THE "
                  f"FAULTS\nOF A STORE. What is said below says nothing about S3.\n{line}", flush=True)
        self.cluster = self.proxy = self.root = None

    def start(self, cluster):
        self.cluster = cluster
        self.root = cluster.workdir / "store"
        (self.root / BUCKET).mkdir(parents=True)
        if not self.s3:
            return self
        self.address = cluster.network.add_host("s3", HOST_NUMBER)
        self.server = Process("s3rver", [
            "node", "--openssl-legacy-provider", self.place / "node_modules/s3rver/bin/s3rver.js", "--directory", self.root,
            "--address", "0.0.0.0", "--port", SERVER_PORT, "--silent", "--service-endpoint", "localhost"],
            cluster.workdir, cluster.network.namespace("s3")).start()
        cluster.others.append(self.server)
        wait_until(lambda: "listening" in self.server.tail(), 60, "s3rver listens", alive=[self.server])
        self.proxy = subprocess.Popen(
            ["ip", "netns", "exec", cluster.network.namespace("s3"), sys.executable, TESTS / "store" / "s3_proxy.py",
             "--server", str(SERVER_PORT), "--address", self.address, "--port", str(PROXY_PORT), "--key", f"{ACCESS}:{SECRET}",
             "--uploads", self.root], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.proxy.stdout.readline()  # ends with our end of the pipe
        self.credentials = cluster.workdir / "credentials"
        self.write_credentials(SECRET)
        return self

    def write_credentials(self, secret):
        self.credentials.write_text(f"[default]\naws_access_key_id = {ACCESS}\naws_secret_access_key = {secret}\n")

    def keys(self, direct=False, bucket=BUCKET):
        """Configuration of nodes and of maroonctl. direct: past the proxy, which is slow."""
        if not self.s3:
            return {"store-url": f"dir:{self.root / bucket}"}
        return {"store-url": f"s3://{bucket}/cluster", "store-endpoint": f"http://{self.address}:{SERVER_PORT if direct else PROXY_PORT}",
                "store-credentials-file": self.credentials}

    def command(self, line):
        self.proxy.stdin.write(line + "\n")
        self.proxy.stdin.flush()
        answer = self.proxy.stdout.readline()
        assert answer.startswith("ok"), (line, answer)
        return answer[2:].strip()

    def fault(self, kind, **options):
        self.command(" ".join(["fault", kind] + [f"{name}={value}" for name, value in options.items()]))

    def clear(self):
        self.command("clear")

    def stats(self):
        return json.loads(self.command("stats"))

    def path(self, name):
        """Where the object of that name lies on the server's disk, if it is there."""
        return self.root / BUCKET / (f"cluster/{name}._S3rver_object" if self.s3 else name)

    def files(self):
        """name -> path of every object, as it lies on the server's disk."""
        top = self.root / BUCKET / ("cluster" if self.s3 else "")
        suffix = "._S3rver_object" if self.s3 else ""
        return {str(path.relative_to(top))[:-len(suffix) or None]: path for path in top.rglob("*")
                if path.is_file() and path.name.endswith(suffix)} if top.exists() else {}

    def ctl(self, *words, direct=False, check=True, keys=None, timeout=120):
        """Runs maroonctl on the store. Returns the finished process."""
        done = subprocess.run([str(c.absolute(c.CTL)), *map(str, words)] + c.flags({**self.keys(direct), **(keys or {})}),
                              capture_output=True, text=True, timeout=timeout, env=dict(os.environ))
        assert not check or done.returncode == 0, (words, done)
        return done
