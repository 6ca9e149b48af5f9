"""What happens to a disk while its node is down, through real nodes: a torn tail is cut, a bit that flipped in the middle and a
segment that is missing are refused with file and offset, by the node and by `maroonctl verify` alike. The others go on. With
an empty directory the node has no memory, recovers from its peers, and holds the same state again."""
import re
import subprocess
import time

from lib import cluster as c
from lib import http, scenario
from lib.process import wait_until

BLOCK = 4096
KEYS = {"durability": "disk", "segment-bytes": 1 << 18, "snapshot-bytes": 1 << 40}
REBUILD = "rebuild this node from its peers in an empty directory"
VICTIM = 2


def journal_of(cluster):
    return next(path.parent for path in (cluster.workdir / f"n{VICTIM}.data").rglob("store") if path.is_file())


def verify(directory):
    return subprocess.run([str(c.absolute(c.CTL)), "verify", str(directory)], capture_output=True, text=True, timeout=120)


def stop(cluster):
    cluster.nodes[VICTIM].kill()
    directory = journal_of(cluster)
    segments = sorted(path for path in directory.iterdir() if path.name.startswith("segment-"))
    return directory, segments


def refused(cluster, directory, expected):
    """Neither the node nor maroonctl takes this journal, and both say the same."""
    told = verify(directory)
    assert told.returncode == 1 and re.search(expected, told.stderr), told
    node = cluster.nodes[VICTIM].start()
    wait_until(lambda: not node.alive(), 60, "the node refuses its journal")
    assert node.popen.returncode == 1, node.popen.returncode
    log = node.tail()
    assert re.search(expected, log), log
    print([line for line in log.splitlines() if re.search(expected, line)][-1], flush=True)


def back(cluster):
    cluster.nodes[VICTIM].start()
    cluster.wait_node_ready(VICTIM)
    cluster.wait_equal(60)


def positions(directory):
    told = verify(directory)
    assert told.returncode == 0, told
    return tuple(int(re.search(pattern, told.stdout).group(1)) for pattern in (
        r"positions +\d+ to (\d+)", r"known stable below +(\d+)"))


def torn_tail(cluster):
    """The last written block is half there, and no later record says that it was stable."""
    directory, segments = stop(cluster)
    before, _ = positions(directory)
    used = [path for path in segments if path.read_bytes()[BLOCK:].strip(b"\0")]
    data = bytearray(used[-1].read_bytes())
    last = max(at for at in range(BLOCK, len(data), BLOCK) if data[at:at + BLOCK].strip(b"\0"))
    half = last + len(bytes(data[last:last + BLOCK]).rstrip(b"\0")) // 2
    data[half:last + BLOCK] = bytes(last + BLOCK - half)
    used[-1].write_bytes(data)
    after, floor = positions(directory)
    assert floor <= after < before, (floor, after, before)
    where = f"file {used[-1].name}, offset {last}"
    told = verify(directory).stdout.splitlines()[-1]
    assert re.fullmatch(rf"journal {directory}: good: \d+ records at positions \d+ to {after} \(exclusive\), \d+ segments, "
                        rf"stable below {floor}; torn tail: {where}, cut at the next start", told), told
    print(told, flush=True)
    back(cluster)
    log = cluster.nodes[VICTIM].log_path.read_text(errors="replace")
    assert re.search(rf"next={after} generation=\d+ cut_bytes=\d+; torn tail cut: {where}\b", log), log


def flipped_bit(cluster):
    directory, segments = stop(cluster)
    victim = segments[len(segments) // 2 - 1]
    good = victim.read_bytes()
    at = 3 * BLOCK + 24
    victim.write_bytes(good[:at] + bytes([good[at] ^ 4]) + good[at + 1:])
    refused(cluster, directory, rf"journal \S+: file {victim.name}, offset {3 * BLOCK}: bad block \(checksum or order\), but "
                                rf"positions below \d+ were stable and the log is readable only below \d+; {REBUILD}")
    victim.write_bytes(good)
    back(cluster)


def missing_segment(cluster):
    directory, segments = stop(cluster)
    victim = segments[1]
    good = victim.read_bytes()
    victim.unlink()
    refused(cluster, directory, rf"journal \S+: file {victim.name} is missing \(segments [0-9a-f]+ to [0-9a-f]+ must be there\); "
                                rf"put it back, or {REBUILD}")
    victim.write_bytes(good)
    back(cluster)


def empty_directory(cluster):
    """A replaced disk: a new incarnation without a memory, which takes no part until it has recovered."""
    old = cluster.status(VICTIM)["incarnation"]
    cluster.nodes[VICTIM].kill()
    subprocess.run(["rm", "-rf", str(cluster.workdir / f"n{VICTIM}.data")], check=True)
    cluster.nodes[VICTIM].start()
    cluster.wait_node_ready(VICTIM)
    wait_until(lambda: cluster.status(VICTIM)["role"] in ("follower", "leader"), 60, "it has recovered")
    assert cluster.status(VICTIM)["incarnation"] > old
    cluster.wait_equal(60)
    print("an empty directory: recovered from its peers", flush=True)


def damage(cluster):
    cluster.start(nodes=3, gateways=1, node_keys=KEYS)
    deposited = 0
    while cluster.metric(VICTIM, "maroon_log_bytes") < 8 * KEYS["segment-bytes"]:  # so that the middle ones are full
        deposited += cluster.load(seconds=2, connections=16, timeout=120, first_account=1000 + deposited, seed=deposited + 1)["deposited"]
    for step in (torn_tail, flipped_bit, missing_segment, empty_directory):
        load = cluster.start_load(seconds=3, connections=16, timeout=180, first_account=1000 + deposited, seed=deposited + 1)
        time.sleep(1.5)
        step(cluster)
        deposited += load.wait()["deposited"]
    assert cluster.total() == deposited
    assert http.metric_sum(cluster.metrics(VICTIM), "maroon_divergence_total") == 0


if __name__ == "__main__":
    scenario.main(damage, programs=(c.NODE, c.GATEWAY, c.LOAD, c.CTL))
