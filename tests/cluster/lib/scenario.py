"""What every scenario shares: skip when it can't run here, one line at the end."""
import os
import sys
import time

from . import cluster, network

SKIP = 77


def skip(reason):
    print(f"skipped: {reason}")
    sys.exit(SKIP)


def need_root():
    if os.geteuid() != 0:
        skip("needs root (network namespaces)")


def need_programs(*paths):
    missing = [str(path) for path in paths if not os.access(cluster.absolute(path), os.X_OK)]
    if missing:  # not a reason to skip: a build that lacks a program would pass everything
        sys.exit("not built: " + ", ".join(missing))


def main(scenario, programs=(cluster.NODE, cluster.GATEWAY), root=True):
    """Runs scenario(cluster) with a new Cluster, and checks that nothing of it is left."""
    if root:
        need_root()
    need_programs(*programs)
    for name in network.leftovers() if root else ():
        print(f"removing a leftover of a dead test: {name}", flush=True)
        network.remove_namespace(name)
    began = time.monotonic()
    with cluster.Cluster() as running:
        scenario(running)
        workdir = running.workdir
    assert os.environ.get("MRN_KEEP") or not workdir.exists(), f"{workdir} is left"
    mine = [path.name for path in network.NETNS.glob(f"{network.PREFIX}-{os.getpid()}-*")]
    assert not mine, f"namespaces left: {mine}"
    print(f"ok, {time.monotonic() - began:.1f} s")
