"""The drills of deploy/drills on the cluster of `make cluster`: the leader is paused, then all nodes are restarted one by one.
Both as a person runs them; in a network namespace of its own, so that no port of the machine is taken.

    drills.py [--rounds N]"""
import argparse
import os
import pathlib
import subprocess
import sys
import tempfile
import time

from lib import cluster as c
from lib import network, scenario

parser = argparse.ArgumentParser()
parser.add_argument("--rounds", type=int, default=1)
parser.add_argument("--inside", action="store_true")
arguments = parser.parse_args()
PLAY = c.ROOT / "tests/cluster/play.py"
DRILLS = c.ROOT / "deploy/drills"


def drill(name, *arguments, expect=0):
    print(f"=== {name} {' '.join(arguments)}", flush=True)
    status = subprocess.run([DRILLS / f"{name}.sh", "--on", "netns", *arguments]).returncode
    assert status == expect, f"{name}: status {status}, expected {expect}"


def drills():
    network.run("ip", "link", "set", "lo", "up")
    try:
        subprocess.run([sys.executable, PLAY, "start"], check=True)
        drill("pause-leader", "--seconds", "0.5", "--rounds", str(arguments.rounds))
        drill("rolling-restart", "--seconds", "0.2")
        # A judge that cannot say no is none: no cluster changes its leader in a microsecond.
        drill("pause-leader", "--seconds", "0.1", "--max-gap-ms", "0.001", "--json", expect=1)
    finally:
        subprocess.run([sys.executable, PLAY, "stop"], check=True)


def main():
    scenario.need_root()
    scenario.need_programs(c.NODE, c.GATEWAY)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix=f"maroon-cluster-{os.getpid()}-") as state:
        inside = subprocess.run(["unshare", "--net", sys.executable, __file__, "--inside", "--rounds", str(arguments.rounds)],
                                env={**os.environ, "CLUSTER_STATE": state, "GATEWAYS": "2", "DURABILITY": "memory"})
        left = list(pathlib.Path(state).iterdir())
    assert inside.returncode == 0, f"status {inside.returncode}"
    assert [path.name for path in left] == ["cluster.log"], f"left: {left}"
    print(f"ok, {time.monotonic() - began:.1f} s")


if __name__ == "__main__":
    drills() if arguments.inside else main()
