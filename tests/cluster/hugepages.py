"""Hugepages for real: plan, reserve, a node that insists on them and answers, release; afterwards nothing is left."""
import os
import pathlib
import subprocess

import local
from lib import cluster as c
from lib import http, scenario

TOOL = c.BUILD / "hugepages/maroon-hugepages"
POOL = pathlib.Path("/sys/kernel/mm/hugepages/hugepages-2048kB")
RECORD = pathlib.Path("/run/maroon-hugepages")


def tool(*words, status=0):
    done = subprocess.run([str(c.absolute(TOOL)), *words], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=120)
    print(done.stdout, end="", flush=True)
    assert done.returncode == status, f"{words}: status {done.returncode}"
    return done.stdout


def pool(name):
    return int((POOL / f"{name}_hugepages").read_text())


def refused_without(cluster):
    """A node that insists does not start without pages, and says so."""
    node = c.Process("insists", [c.absolute(c.NODE), "--hugepages", "on", "--data-dir", cluster.workdir / "insists"],
                     cluster.workdir).start()
    assert node.popen.wait(60) == 1 and "network_refused" in node.tail(), node.tail()


def hugepages(cluster):
    if not POOL.exists() or not os.access(POOL / "nr_hugepages", os.W_OK):
        scenario.skip("this kernel has no hugepages to give")
    if RECORD.exists() or pool("free"):
        scenario.skip("somebody has reserved hugepages on this machine")
    before, mount = pool("nr"), cluster.workdir / "huge"
    refused_without(cluster)
    tool("check", status=1)
    try:
        if subprocess.run([str(c.absolute(TOOL)), "reserve"], stdout=subprocess.DEVNULL).returncode:
            scenario.skip("the kernel finds no pages now")  # the tool has said why
        tool("reserve", "--mount", str(mount))
        reserved = pool("nr") - before
        assert "they can be had" in tool("check") and os.path.ismount(mount)
        address = local.start(cluster, ["--hugepages", "on"])
        node = cluster.others[0]
        assert "hugepages=on" in node.tail(), node.tail()
        # All that was planned is used but the one page that `auto` tries with: the sums are the node's.
        assert pool("free") == 1, f"{pool('free')} of {reserved} pages are free"
        assert http.call(address, c.BANK, "Deposit", {"account": "1", "amount": "100"}).json() == {"balance": "100"}
        result = c.Load(address, {"count": 2000, "connections": 16}).wait()
        total = http.call(address, c.BANK, "Total", {}).json()
        assert total == {"total": str(100 + result["deposited"])}, total
        assert "stop maroon-node" in tool("release", status=1)
        for process in reversed(cluster.others):
            assert process.stop() == 0, process.tail()
        assert pool("free") == reserved
    finally:
        for process in cluster.others:
            process.kill()
        tool("release")
    assert pool("nr") == before and not RECORD.exists() and not mount.exists(), "nothing is left"
    assert "nothing of this tool's" in tool("release")


if __name__ == "__main__":
    scenario.main(hugepages, programs=(c.NODE, c.GATEWAY, c.LOAD, TOOL))
