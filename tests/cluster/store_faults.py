"""A store in trouble, under load: away, slow, answering 503, cutting connections, losing answers, damaging bytes. Commits do not
notice, dumps resume by themselves, damage is found. One that does not keep what it is given: nothing is pointed to, no journal is
cut. Wrong credentials, a missing bucket, a full one: one line each, and an alarm.

    store_faults.py [--seconds N] [--away N] [--mib N]    seconds of each fault, of the store's absence"""
import argparse
import shutil
import time

from bootstrap import fill, no_orphans, pointed, takes_part
from lib import cluster as c
from lib import scenario
from lib.process import wait_until
from lib.store import Store

SEGMENT_MIB, SNAPSHOT_MIB, RETAIN_MIB = 4, 16, 40
# Of the rate without a fault, under one and under all: neighbours on the machine make it vary. Who waits for the store waits for its
# time limits, which are seconds.
SLOWEST, SLOWEST_MEAN = 0.1, 0.25
P99_TIMES, P99_MORE_MS = 4, 100  # a window's p99 is at most this many times that without a fault, and this much more


def newest_commit(cluster):
    return max(cluster.status(i)["commitSeq"] for i in range(3) if cluster.nodes[i].alive())


FAULTS = {
    "away": {},
    "slow": {"bytes_per_s": 20000},
    "status": {"code": 503, "s3code": "SlowDown"},
    "cut_up": {"bytes": 1000, "count": 6},
    "lose_answer": {"count": 4, "method": "PUT"},
    "wrong_up": {"count": 4, "method": "PUT"},
}


class Windows:
    """Load in windows, one after the other: a window with a fault is judged by those without one in the same run."""

    def __init__(self, cluster, connections):
        self.cluster, self.connections, self.count, self.plain = cluster, connections, 0, []

    def run(self, name, seconds):
        self.count += 1
        result = self.cluster.load(seconds=seconds, connections=self.connections, timeout=seconds + 60,
                                   first_account=5000000 + 1000 * self.count)  # asserts: nothing wrong, no error
        assert result["unanswered"] == 0 and result["reconnects"] == 0, result
        print(f"{name}: {result['per_second']:.0f}/s, p50 {result['p50_ms']} ms, p99 {result['p99_ms']} ms, longest gap "
              f"{result['longest_gap_ms']} ms", flush=True)
        return result

    def control(self, seconds):
        self.plain.append(self.run("without a fault", seconds))

    def judge(self, results):
        """Commits never notice: rate and latency are those of the windows without a fault, as far as neighbours let that be seen."""
        rates = [plain["per_second"] for plain in self.plain]
        p99 = max(plain["p99_ms"] for plain in self.plain)
        for kind, result in results.items():
            assert result["per_second"] > SLOWEST * min(rates), f"{kind}: commits noticed: {result['per_second']}/s of {rates}"
            assert result["p99_ms"] < P99_TIMES * p99 + P99_MORE_MS, f"{kind}: commits noticed: p99 {result['p99_ms']} ms, else {p99} ms"
        mean = sum(result["per_second"] for result in results.values()) / len(results)
        assert mean > SLOWEST_MEAN * sum(rates) / len(rates), "commits noticed"


def troubled(cluster, store, arguments):
    windows, results = Windows(cluster, arguments.connections), {}
    windows.control(arguments.control or arguments.seconds)
    for kind in arguments.faults.split(","):
        store.fault(kind, **FAULTS[kind])
        results[kind] = windows.run(kind, int(arguments.away if kind == "away" else arguments.seconds))
        worst = "; ".join({text for i in range(3) for text in cluster.status(i)["alarms"] if "dumps fail" in text})
        store.clear()
        began = time.monotonic()
        pointed(cluster, newest_commit(cluster), 60)
        print(f"{kind}: a new dump {time.monotonic() - began:.1f} s after its end{'; said: ' + worst[:150] if worst else ''}", flush=True)
        assert not any(cluster.status(i)["dumps"]["lastGap"] for i in range(3)), "an epoch is in no dump"
    windows.control(arguments.control or arguments.seconds)
    windows.judge(results)
    cluster.wait_equal(60)
    store.fault("wrong_down", method="GET", match="chunks")
    done = store.ctl("dump", "verify", check=False, keys={"store-tries": 2})
    assert done.returncode == 1 and "checksum" in done.stderr, done
    print(f"wrong bytes are found: {done.stderr.strip().splitlines()[-1][:150]}", flush=True)
    store.clear()
    assert "sound" in store.ctl("dump", "verify").stdout


def snapshots_of(cluster, index):
    return [int(path.name[9:], 16) for path in (cluster.workdir / f"n{index}.data/snapshots").glob("snapshot-*")]


def lied_to(cluster, store):
    """A store that takes objects and keeps others: no pointer, no cut, an alarm. Once it is honest again the dump is put anew."""
    for kind in ("lie_up", "drop_up"):
        pointed(cluster, newest_commit(cluster), 60)  # so that no dump is under way
        store.fault(kind, method="PUT", match="chunks")
        pointer = max(int(cluster.status(i)["dumps"]["pointerSeq"]) for i in range(3))
        fill(cluster, SNAPSHOT_MIB + 2, first=700000 if kind == "lie_up" else 710000)  # room for journals to be cut
        wait_until(lambda: any("dumps fail (CORRUPT)" in text for i in range(3) for text in cluster.status(i)["alarms"]), 60,
                   "the lie is told", alive=cluster.nodes)
        wait_until(lambda: all(max(snapshots_of(cluster, i)) > pointer for i in range(3)), 60, "each has a snapshot to cut by")
        said = next(text for i in range(3) for text in cluster.status(i)["alarms"] if "dumps fail (CORRUPT)" in text)
        for i in range(3):
            status = cluster.status(i)
            snapshots = snapshots_of(cluster, i)
            assert max(snapshots) > pointer >= int(status["journal"]["cutSeq"]), (snapshots, pointer, status["journal"])
        assert pointer == max(int(cluster.status(i)["dumps"]["pointerSeq"]) for i in range(3)), "pointed to what was not read back"
        store.clear()
        pointed(cluster, newest_commit(cluster), 60)
        assert "sound" in store.ctl("dump", "verify").stdout
        print(f"{kind}: nothing pointed to, nothing cut; {said[:170]}", flush=True)
    store.fault("drop_up", method="PUT", match="chunks", count=1)
    fill(cluster, 1, first=720000)
    mended = wait_until(lambda: [text for i in range(3) for text in cluster.status(i)["alarms"] if "does not keep" in text], 60,
                        "one lie is told", alive=cluster.nodes)[0]
    assert sum(int(cluster.metric(i, "maroon_dump_lies_total")) for i in range(3)) >= 3
    assert "sound" in store.ctl("dump", "verify").stdout
    store.clear()
    print(f"one lie: {mended[:170]}", flush=True)


def damaged(cluster, store):
    """Every chunk of the newest dump rotted, and a node lost its disk: it takes a peer's snapshot. The next dump sends all pages anew."""
    pointed(cluster, cluster.wait_equal(60)[0])
    victim = (cluster.leader() + 1) % 3
    for name, path in store.files().items():
        if name.startswith("chunks/"):
            data = path.read_bytes()
            path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    cluster.nodes[victim].kill()
    shutil.rmtree(cluster.workdir / f"n{victim}.data")
    cluster.nodes[victim].start()
    takes_part(cluster, victim)
    cluster.wait_equal(60)
    boot = cluster.status(victim)["bootstrap"]
    assert int(boot["fromPeers"]) >= 1 and int(boot["fromStore"]) == 0, boot
    assert store.ctl("dump", "verify", direct=True, check=False, keys={"store-tries": 1}).returncode == 1
    answer = cluster.bank("Deposit", {"account": 1, "amount": 1})
    pointed(cluster, int(answer.headers["maroon-epoch"]), 90)
    assert "sound" in store.ctl("dump", "verify", direct=True).stdout
    print("all chunks damaged: a node without a disk came back by a peer's snapshot, and the next dump is whole", flush=True)


def one_line(cluster, store, word, error, begin, end):
    """While it lasts: an alarm and a metric that name it, one line in a node's log. Afterwards dumps go on."""
    marks = [node.log_path.stat().st_size for node in cluster.nodes]
    begin()
    index = wait_until(lambda: [i for i in range(3) if cluster.status(i)["dumps"]["error"] == error], 60, f"{error} is told",
                       alive=cluster.nodes)[0]
    # An answer to HEAD has no body that says why: the next request does.
    wait_until(lambda: any(error in text and word in text for text in cluster.status(index)["alarms"]), 60, f"an alarm says {word}",
               alive=cluster.nodes)
    wait_until(lambda: cluster.metric(index, "maroon_dump_error") == 1, 60, "the metric tells it", alive=cluster.nodes)
    time.sleep(3)
    lines = [line for line in cluster.nodes[index].log_path.read_bytes()[marks[index]:].decode().splitlines()
             if f"error={error}" in line]
    assert 1 <= len(lines) <= 2, lines  # of the look, of the dump
    assert all(node.alive() for node in cluster.nodes)
    end()
    cluster.bank("Deposit", {"account": 1, "amount": 1})
    pointed(cluster, newest_commit(cluster), 90)
    wait_until(lambda: not any("dumps fail" in text for i in range(3) for text in cluster.status(i)["alarms"]), 60,
               "the alarm is over", alive=cluster.nodes)
    print(f"{error}: {lines[0][28:190]}", flush=True)


def bounded(cluster, store):
    """No store for longer than the journal may wait for it: it is cut all the same, and that is said."""
    hidden = store.root / "hidden"
    (store.root / "dumps").rename(hidden)
    fill(cluster, 2 * RETAIN_MIB, first=500000)
    said = "the journal was cut above the newest dump"
    wait_until(lambda: any(int(cluster.status(i)["journal"]["cutSeq"]) > int(cluster.status(i)["dumps"]["pointerSeq"])
                           for i in range(3)), 60, "the journal is cut", alive=cluster.nodes)
    most = max(int(cluster.metric(i, "maroon_log_reserved_bytes")) for i in range(3)) >> 20
    hidden.rename(store.root / "dumps")
    wait_until(lambda: any(said in text for i in range(3) for text in cluster.status(i)["alarms"]) or
               any(cluster.status(i)["dumps"]["lastGap"] for i in range(3)), 60, "it is said", alive=cluster.nodes)
    limit = RETAIN_MIB + SNAPSHOT_MIB + 6 * SEGMENT_MIB  # ahead and spare files count
    assert most <= limit, f"{most} MiB of journal"
    pointed(cluster, newest_commit(cluster), 60)
    print(f"journals without a store: {most} MiB at most, {limit} allowed", flush=True)


def refused(cluster, store):
    hidden = store.root / "hidden"
    if store.s3:
        one_line(cluster, store, "wrong credentials", "DENIED", lambda: store.fault("status", code=403, s3code="SignatureDoesNotMatch"),
                 store.clear)
    one_line(cluster, store, "", "NO_STORE", lambda: (store.root / "dumps").rename(hidden),
             lambda: hidden.rename(store.root / "dumps"))
    if store.s3:
        one_line(cluster, store, "full", "NO_SPACE",
                 lambda: store.fault("status", code=507, s3code="QuotaExceeded", method="PUT"), store.clear)


def pruned(cluster, store):
    for node in cluster.nodes:
        node.kill()
    print(store.ctl("dump", "prune", "--keep", 1, "--grace-s", 0, direct=True).stdout.strip())
    no_orphans(store)
    assert "sound" in store.ctl("dump", "verify", direct=True).stdout
    print("nothing is orphaned", flush=True)


def main(arguments):
    store = Store(arguments.directory)

    def store_faults(cluster):
        cluster.start_network()
        store.start(cluster)
        cluster.start_rest(nodes=3, gateways=1, node_keys={
            **store.keys(), "durability": "disk", "dump-interval-s": arguments.interval, "state-bytes": 16 << 20,
            "segment-bytes": SEGMENT_MIB << 20, "snapshot-bytes": SNAPSHOT_MIB << 20,
            "retain-bytes": RETAIN_MIB + (arguments.away if arguments.only else 0) << 20,
            "idempotency-bytes": arguments.mib + 3 * RETAIN_MIB + 2 * SNAPSHOT_MIB + 4 << 20,
            "store-tries": 3})
        fill(cluster, arguments.mib)
        pointed(cluster, cluster.wait_equal(60)[0])
        if store.s3 and arguments.faults:
            troubled(cluster, store, arguments)
        if store.s3 and not arguments.only:
            lied_to(cluster, store)
            damaged(cluster, store)
        if not arguments.only:
            refused(cluster, store)
            bounded(cluster, store)
            pruned(cluster, store)
    scenario.main(store_faults, programs=(c.NODE, c.GATEWAY, c.LOAD, c.CTL))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=int, default=2)
    parser.add_argument("--away", type=int, default=4)
    parser.add_argument("--control", type=int, default=0, help="seconds of each window without a fault; 0: as --seconds")
    parser.add_argument("--faults", default=",".join(FAULTS))
    parser.add_argument("--only", action="store_true", help="the faults named, nothing else")
    parser.add_argument("--mib", type=int, default=16)
    parser.add_argument("--connections", type=int, default=4, help="of the load while the store is in trouble")
    parser.add_argument("--interval", type=int, default=1, help="seconds between dumps")
    parser.add_argument("--directory", action="store_true")
    main(parser.parse_args())
