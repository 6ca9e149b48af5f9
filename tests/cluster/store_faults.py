"""A store in trouble, under load: away, slow, answering 503, cutting connections, losing answers, damaging bytes. Commits do not
notice, dumps resume by themselves, damage is found. The dumping node killed at random points: every pointer that anybody could see
leads to a whole dump, and a prune leaves no orphan. Wrong credentials, a missing bucket, a full one: one line each, and an alarm.

    store_faults.py [--kills N] [--seconds N] [--away N] [--mib N]    seconds of each fault, of the store's absence"""
import argparse
import base64
import json
import random
import threading
import time

from bootstrap import fill, no_orphans, pointed
from lib import cluster as c
from lib import scenario
from lib.process import wait_until
from lib.store import Store

SEGMENT_MIB, SNAPSHOT_MIB, RETAIN_MIB = 4, 16, 24
SLOWEST, SLOWEST_MEAN = 0.25, 0.5  # of the rate without a fault, under one and under all: neighbours on the machine make it vary


def committed(cluster):
    return max(int(cluster.status(i)["transactionsCommitted"]) for i in range(3) if cluster.nodes[i].alive())


def rate(cluster, seconds):
    began, before = time.monotonic(), committed(cluster)
    time.sleep(seconds)
    return (committed(cluster) - before) / (time.monotonic() - began)


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


def troubled(cluster, store, arguments):
    load = cluster.start_load(seconds=3600, connections=arguments.connections, timeout=3700, first_account=5000000)
    plain = rate(cluster, arguments.seconds)
    print(f"without a fault {plain:.0f}/s", flush=True)
    rates = []
    for kind, options in FAULTS.items():
        store.fault(kind, **options)
        under = rate(cluster, arguments.away if kind == "away" else arguments.seconds)
        worst = "; ".join({text for i in range(3) for text in cluster.status(i)["alarms"] if "dumps fail" in text})
        store.clear()
        began = time.monotonic()
        pointed(cluster, newest_commit(cluster), 60)
        print(f"{kind}: {under:.0f}/s, {100 * under / plain:.0f} %; a new dump {time.monotonic() - began:.1f} s after its end"
              f"{'; said: ' + worst[:150] if worst else ''}", flush=True)
        rates.append(under)
        assert under > SLOWEST * plain, "commits noticed"
    assert sum(rates) / len(rates) > SLOWEST_MEAN * plain, "commits noticed"
    load.popen.send_signal(2)
    load.wait()
    cluster.wait_equal(60)
    store.fault("wrong_down", method="GET", match="chunks")
    done = store.ctl("dump", "verify", check=False, keys={"store-tries": 2})
    assert done.returncode == 1 and "checksum" in done.stderr, done
    print(f"wrong bytes are found: {done.stderr.strip().splitlines()[-1][:150]}", flush=True)
    store.clear()
    assert "sound" in store.ctl("dump", "verify").stdout


class Pointers(threading.Thread):
    """Notes every pointer that can be seen, in the store and in etcd."""

    def __init__(self, cluster, store):
        super().__init__(daemon=True)
        self.cluster, self.store, self.seen, self.ends = cluster, store, set(), False

    def run(self):
        etcd = self.cluster.etcd
        while not self.ends:
            texts = []
            try:
                texts.append(self.store.files()["latest"].read_text())
            except (KeyError, OSError):
                pass
            try:
                answer = etcd.get(etcd.addresses[0], "/maroon/test/dump/latest")
                texts += [base64.b64decode(kv["value"]).decode() for kv in answer.get("kvs", [])]
            except (OSError, AttributeError):
                pass
            for text in texts:
                try:
                    self.seen.add(json.loads(text)["manifest"])
                except ValueError:
                    pass  # a file of the test's server that is being written: its own readers never see it so
            time.sleep(0.02)


def dumping(cluster):
    """Index of a node that dumps now, and something: [index], or None."""
    for index in range(3):
        if cluster.nodes[index].alive() and cluster.status(index)["dumps"]["dumping"]:
            return [index]
    return None


def killed(cluster, store, arguments):
    rng = random.Random(arguments.seed)
    pointers = Pointers(cluster, store)
    pointers.start()
    load = cluster.start_load(seconds=3600, connections=4, timeout=3700, first_account=9000000)
    checked = set()
    for kill in range(arguments.kills):
        fill(cluster, max(1, arguments.mib // 16), first=100000 + 1000 * kill)  # so that a dump takes a while
        victim = wait_until(lambda: dumping(cluster), 60, "a node dumps", interval=0.005)[0]
        time.sleep(rng.uniform(0, arguments.spread))
        cluster.nodes[victim].kill()
        for manifest in sorted(pointers.seen - checked):
            epoch = int(manifest.split("/")[1].split("-")[0], 16)
            done = store.ctl("dump", "verify", "--epoch", epoch, direct=True)
            assert f"epoch {epoch}" in done.stdout and "sound" in done.stdout, done
            checked.add(manifest)
        cluster.nodes[victim].start()
        cluster.wait_node_ready(victim)
        print(f"kill {kill + 1} of {arguments.kills}: n{victim}; {len(checked)} pointers seen so far, each leads to a whole dump",
              flush=True)
    load.popen.send_signal(2)
    load.wait()
    pointed(cluster, cluster.wait_equal(60)[0])
    pointers.ends = True
    pointers.join()


def one_line(cluster, store, word, error, begin, end):
    """While it lasts: an alarm and a metric that name it, one line in a node's log. Afterwards dumps go on."""
    marks = [node.log_path.stat().st_size for node in cluster.nodes]
    begin()
    index = wait_until(lambda: [i for i in range(3) if cluster.status(i)["dumps"]["error"] == error], 60, f"{error} is told",
                       alive=cluster.nodes)[0]
    alarm = next(text for text in cluster.status(index)["alarms"] if error in text)
    assert word in alarm and cluster.metric(index, "maroon_dump_error") == 1, alarm
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
            "segment-bytes": SEGMENT_MIB << 20, "snapshot-bytes": SNAPSHOT_MIB << 20, "retain-bytes": RETAIN_MIB << 20,
            "idempotency-bytes": arguments.mib + 2 * RETAIN_MIB + 4 + arguments.kills * max(1, arguments.mib // 16) << 20,
            "store-tries": 3})
        fill(cluster, arguments.mib)
        pointed(cluster, cluster.wait_equal(60)[0])
        if store.s3:
            troubled(cluster, store, arguments)
        if arguments.kills:
            killed(cluster, store, arguments)
        refused(cluster, store)
        bounded(cluster, store)
        pruned(cluster, store)
    scenario.main(store_faults, programs=(c.NODE, c.GATEWAY, c.LOAD, c.CTL))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2)
    parser.add_argument("--away", type=float, default=4)
    parser.add_argument("--mib", type=int, default=16)
    parser.add_argument("--connections", type=int, default=4, help="of the load while the store is in trouble")
    parser.add_argument("--interval", type=int, default=1, help="seconds between dumps")
    parser.add_argument("--spread", type=float, default=0.3, help="seconds into a dump at which its node is killed")
    parser.add_argument("--directory", action="store_true")
    parser.add_argument("--seed", type=int, default=1)
    main(parser.parse_args())
