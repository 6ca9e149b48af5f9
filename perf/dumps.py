"""Row S2: a node's start from a dump in a local S3 server, beside plain GETs of the same objects in the same call.

    dumps.py [--mib N] [--kind random|accounts] [--repeat N] [--directory D]    without the rest of maroon-perf"""
import argparse
import os
import pathlib
import socket
import statistics
import subprocess
import tempfile

import bench

BUCKET, ACCESS, SECRET = "dumps", "S3RVER", "S3RVER/secret+key"  # the only keys that s3rver knows


class Server:
    """s3rver on the loopback, its objects below `root`. Ends with the block."""

    def __init__(self, root):
        self.root = pathlib.Path(root)
        place = bench.BUILD / "s3rver"
        subprocess.run(["sh", bench.ROOT / "tests/store/install.sh", place], check=True)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        (self.root / BUCKET).mkdir(parents=True)
        self.command = ["node", "--openssl-legacy-provider", place / "node_modules/s3rver/bin/s3rver.js", "--directory", self.root,
                        "--address", "127.0.0.1", "--port", self.port, "--silent", "--service-endpoint", "localhost"]

    def __enter__(self):
        os.environ.update(AWS_ACCESS_KEY_ID=ACCESS, AWS_SECRET_ACCESS_KEY=SECRET)
        self.process = subprocess.Popen([str(word) for word in self.command], stdout=subprocess.PIPE, text=True)
        while "listening" not in (line := self.process.stdout.readline()):
            assert line, "s3rver does not start"
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()

    def cpu_s(self):
        words = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")

    def options(self, prefix):
        return {"url": f"s3://{BUCKET}/{prefix}", "endpoint": f"http://127.0.0.1:{self.port}"}

    def base(self, prefix):
        return f"http://127.0.0.1:{self.port}/{BUCKET}/{prefix}"


def timed(server, measurement, **options):
    before = server.cpu_s()
    result = bench.probe(bench.PROBE, measurement, **options)
    assert result, measurement
    result["server_cpu_ns"] = (server.cpu_s() - before) * 1e9
    return result


def measure(directory, mib, kind, repeat):
    """A dump made once; then plain GETs, GETs with hash and unpacking, and a node's start, in turn."""
    with tempfile.TemporaryDirectory(prefix="maroon-perf-", dir=directory) as home, Server(pathlib.Path(home) / "store") as server:
        store = server.options(kind)
        found = {"make": timed(server, "dump-make", file=f"{home}/state", kind=kind, bytes=mib << 20, **store)}
        os.unlink(f"{home}/state")
        for _ in range(repeat):
            for name, run in (("plain", lambda: timed(server, "dump-floor", base=server.base(kind), work=0, **store)),
                              ("floor", lambda: timed(server, "dump-floor", base=server.base(kind), work=1, **store)),
                              ("start", lambda: timed(server, "dump-fetch", file=f"{home}/fetched", **store))):
                os.sync()
                found.setdefault(name, []).append(run())
    return found


def seconds(results, key):
    return statistics.median(result[key] for result in results) / 1e9


def show(kind, found):
    make, start = found["make"], found["start"][0]
    print(f"{kind}: {make['page_bytes'] / 1e6:.0f} MB of pages in {start['object_bytes'] / 1e6:.0f} MB of objects; written in "
          f"{make['ns'] / 1e9:.2f} s, {make['page_bytes'] * 1e3 / make['ns']:.0f} MB/s of pages (CPU {make['cpu_ns'] / 1e9:.2f} s, "
          f"server {make['server_cpu_ns'] / 1e9:.2f} s)")
    for name, key in (("plain", "ns"), ("floor", "ns"), ("start", "fetch_ns")):
        for result in found[name]:
            rest = f", restored in {result['restore_ns'] / 1e9:.2f} s, all {result['all_ns'] / 1e9:.2f} s" if name == "start" else ""
            cpu = result["fetch_cpu_ns" if name == "start" else "cpu_ns"] / 1e9
            print(f"  {name}: {result[key] / 1e9:.2f} s, {start['object_bytes'] * 1e3 / result[key]:.0f} MB/s of objects, "
                  f"{make['page_bytes'] * 1e3 / result[key]:.0f} MB/s of pages (CPU {cpu:.2f} s, server "
                  f"{result['server_cpu_ns'] / 1e9:.2f} s){rest}")
    plain, floor = seconds(found["plain"], "ns"), seconds(found["floor"], "ns")
    fetch, everything = seconds(found["start"], "fetch_ns"), seconds(found["start"], "all_ns")
    print(f"  share of plain download: fetch {plain / fetch:.0%}, with restore {plain / everything:.0%}; of the floor: fetch "
          f"{floor / fetch:.0%}, with restore {floor / everything:.0%}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--mib", type=int, default=1024)
    parser.add_argument("--kind", default="random,accounts")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--directory", default=None)
    arguments = parser.parse_args()
    for kind in arguments.kind.split(","):
        show(kind, measure(arguments.directory, arguments.mib, kind, arguments.repeat))
