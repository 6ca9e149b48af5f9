"""The disk of one node fills up: it stops, and says why; the others go on; nothing acknowledged is missing. With room again
the node starts from what it had and catches up."""
import re
import subprocess

from lib import cluster as c
from lib import scenario
from lib.process import wait_until

SEGMENT = 1 << 20
DISK_MIB = 8


def mount(path, *options):
    subprocess.run(["mount", "-t", "tmpfs", "-o", ",".join(options), "maroon-test", str(path)], check=True)


def disk_full(cluster):
    disk = None
    try:
        cluster.start_network()
        disk = cluster.workdir / "n2.data"
        disk.mkdir()
        mount(disk, f"size={DISK_MIB}m")
        # Without snapshots nothing is cut, so the journal needs more and more segments.
        cluster.start_rest(nodes=3, gateways=1, node_keys={
            "durability": "disk", "segment-bytes": SEGMENT, "snapshot-bytes": 1 << 40})
        load = cluster.start_load(seconds=120, connections=32, timeout=180)
        wait_until(lambda: not cluster.nodes[2].alive(), 120, "the node with the full disk ends")
        load.popen.send_signal(2)
        result = load.wait()
        assert cluster.nodes[2].popen.returncode == 1, cluster.nodes[2].popen.returncode
        why = [line for line in cluster.nodes[2].tail().splitlines() if "fail_stop" in line]
        assert why and re.search(rf"journal \S+: disk full: no room for segment-[0-9a-f]{{16}} \({SEGMENT} bytes\); "
                                 "free space on this volume, then restart the node", why[0]), cluster.nodes[2].tail()
        print(why[0], flush=True)
        assert result["longest_gap_ms"] < 10000, result  # a take-over, and other users of the machine; not: until it has room again
        assert cluster.total() == result["deposited"]
        subprocess.run(["mount", "-o", f"remount,size={16 * DISK_MIB}m", str(disk)], check=True)
        cluster.nodes[2].start()
        cluster.wait_equal(60)
    finally:
        for node in cluster.nodes:
            node.kill()
        if disk:
            subprocess.run(["umount", str(disk)], check=False, stderr=subprocess.DEVNULL)


if __name__ == "__main__":
    scenario.main(disk_full, programs=(c.NODE, c.GATEWAY, c.LOAD))
