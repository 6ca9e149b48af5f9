"""The dumping node is killed at random points of a dump, under load: every pointer that anybody could ever see leads to a dump that can
be restored, no half dump is taken for whole, and a prune leaves nothing that no dump needs.

    dump_kills.py [--mib N] [--kills N] [--interval N] [--seed N] [--directory] [--state DIRECTORY]

--state: when there is a dump in the directory the cluster begins with its state (maroonctl restore); else the first dump is left there."""
import argparse
import base64
import http.client
import importlib.util
import json
import pathlib
import random
import shutil
import threading
import time

from bootstrap import fill, no_orphans, pointed
from lib import cluster as c
from lib import scenario
from lib.etcd import CLIENT_PORT
from lib.process import wait_until
from lib.store import BUCKET, Store

spec = importlib.util.spec_from_file_location("read_dump", c.ROOT / "tests/store/read_dump.py")
read_dump = importlib.util.module_from_spec(spec)
spec.loader.exec_module(read_dump)

SMALL_MIB = 128  # up to here every pointer is verified as soon as it is seen


def is_whole(path, size):
    """The test's server writes an object in place: while another node puts the same chunk again, its file is short.
    Whether the bytes are right is for `verify`."""
    ends = time.monotonic() + 2
    while path.stat().st_size != size:
        if time.monotonic() > ends:
            return False
        time.sleep(0.01)
    return True


class Pointers(threading.Thread):
    """Every pointer that can be seen, in the store and in etcd. What each names is looked for at once, whether it is there."""

    def __init__(self, cluster, store):
        super().__init__(daemon=True)
        self.cluster, self.store, self.seen, self.wrong, self.ends = cluster, store, {}, [], False
        self.lock = threading.Lock()
        self.watcher = threading.Thread(target=self.watch, daemon=True)

    def take(self, text, where):
        try:
            manifest = json.loads(text)["manifest"]
        except ValueError:
            return  # a file of the test's server that is being written: its own readers never see it so
        with self.lock:
            if manifest in self.seen:
                return
            self.seen[manifest] = where
        for problem in self.missing(manifest):
            self.wrong.append(f"{manifest}, first seen in {where}: {problem}")

    def missing(self, manifest):
        """What of it is not in the store, or has another size."""
        path = self.store.path(manifest)
        if not path.exists():
            return ["the manifest is not there"]
        inner = read_dump.fields(read_dump.one(read_dump.fields(path.read_bytes()[16:]), 1))
        wanted = []
        for chunk in map(read_dump.fields, inner.get(6, [])):
            wanted += [("chunks", read_dump.one(chunk, 1), read_dump.one(chunk, 5)),
                       ("indexes", read_dump.one(chunk, 2), read_dump.one(chunk, 6))]
        for stretch in map(read_dump.fields, inner.get(12, [])):
            wanted.append(("stretches", read_dump.one(stretch, 1), read_dump.one(stretch, 6)))
        problems = []
        for folder, name, size in wanted:
            path = self.store.path(f"{folder}/{name.hex()[:2]}/{name.hex()}")
            if not path.exists():
                problems.append(f"{folder}/{name.hex()} is not there")
            elif not is_whole(path, size):
                problems.append(f"{folder}/{name.hex()} is not whole")
        return problems

    def watch(self):
        """etcd tells each value that the key ever had."""
        key = base64.b64encode(b"/maroon/test/dump/latest").decode()
        while not self.ends:
            try:
                connection = http.client.HTTPConnection(self.cluster.etcd.addresses[0], CLIENT_PORT, timeout=5)
                connection.request("POST", "/v3/watch", json.dumps({"create_request": {"key": key, "start_revision": "1"}}))
                answer = connection.getresponse()
                while not self.ends and (line := answer.readline()):
                    for event in json.loads(line)["result"].get("events", []):
                        if "value" in event["kv"]:
                            self.take(base64.b64decode(event["kv"]["value"]).decode(), "etcd")
            except (OSError, ValueError, KeyError, http.client.HTTPException):
                time.sleep(0.05)

    def run(self):
        self.watcher.start()
        while not self.ends:
            try:
                self.take(self.store.path("latest").read_text(), "the store")
            except OSError:
                pass
            time.sleep(0.02)

    def names(self):
        with self.lock:
            return sorted(self.seen)


def dumping(cluster):
    """Index of a node that dumps now, and something: [index], or None."""
    for index in range(3):
        if cluster.nodes[index].alive() and cluster.status(index)["dumps"]["dumping"]:
            return [index]
    return None


def verify(store, manifests):
    for manifest in manifests:
        epoch = int(manifest.split("/")[1].split("-")[0], 16)
        done = store.ctl("dump", "verify", "--epoch", epoch, direct=True)
        assert f"epoch {epoch}" in done.stdout and "sound" in done.stdout, done


def durations_ms(cluster):
    return {int(cluster.status(i)["dumps"]["lastDurationMs"]) for i in range(3) if cluster.nodes[i].alive()} - {0}


def newest_commit(cluster):
    return max(cluster.status(i)["commitSeq"] for i in range(3) if cluster.nodes[i].alive())


def changed_mib(arguments):
    """What is put between two kills."""
    return max(2, arguments.mib // 128)


def leader_rests(cluster, leader):
    """The leader has taken no snapshot for a dump: others could dump, also while one took longer than the interval."""
    if cluster.leader() != leader or cluster.status(leader)["term"] != cluster.status((leader + 1) % 3)["term"]:
        return
    took = cluster.nodes[leader].log_path.read_text().count(" snapshot_taken ")
    others = sum(int(cluster.status(i)["dumps"]["dumps"]) for i in range(3) if i != leader)
    assert others >= 1 and not took, f"the leader n{leader} dumped as well: {took} snapshots, others {others} dumps"
    print(f"{others} dumps, none by the leader", flush=True)


def killed(cluster, store, arguments):
    rng = random.Random(arguments.seed)
    pointers = Pointers(cluster, store)
    pointers.start()
    load = cluster.start_load(seconds=3600, connections=4, timeout=3700, first_account=9000000)
    checked, interrupted, typical = set(), 0, []
    for kill in range(arguments.kills):
        # One dump comes through, the next one is struck, anywhere from its first page to its pointer and a little later.
        fill(cluster, changed_mib(arguments), first=100000 + 2000 * kill)
        pointed(cluster, newest_commit(cluster))
        typical += sorted(durations_ms(cluster))[:1]
        fill(cluster, changed_mib(arguments), first=101000 + 2000 * kill)
        victim = wait_until(lambda: dumping(cluster), 60, "a node dumps", interval=0.005)[0]
        time.sleep(rng.uniform(0, 1.2 * (sorted(typical)[len(typical) // 2] if typical else 1000) / 1000))
        interrupted += cluster.status(victim)["dumps"]["dumping"]
        cluster.nodes[victim].kill()
        began = time.monotonic()
        if arguments.mib <= SMALL_MIB:
            fresh = set(pointers.names()) - checked
            verify(store, sorted(fresh))
            checked |= fresh
        cluster.nodes[victim].start()
        cluster.wait_node_ready(victim, 120)
        assert not pointers.wrong, pointers.wrong
        print(f"kill {kill + 1} of {arguments.kills}: n{victim}, ready again after {time.monotonic() - began:.1f} s; "
              f"{len(pointers.names())} pointers seen so far", flush=True)
    load.end()
    pointed(cluster, cluster.wait_equal(120)[0])
    pointers.ends = True
    pointers.join()
    assert not pointers.wrong, pointers.wrong
    for node in cluster.nodes:
        node.kill()
    began = time.monotonic()
    rest = [name for name in pointers.names() if name not in checked]
    verify(store, rest)
    print(f"{len(pointers.names())} pointers seen, {interrupted} of {arguments.kills} kills in the middle of a dump; each pointer led to what "
          f"it names when it was first seen, and to a sound dump ({len(rest)} verified at the end in {time.monotonic() - began:.1f} s)",
          flush=True)


def pruned(store):
    print(store.ctl("dump", "prune", "--keep", 1, "--grace-s", 0, direct=True).stdout.strip())
    no_orphans(store)
    uploads = store.root / BUCKET / "._S3rver_uploads"
    assert not uploads.exists() or not list(uploads.iterdir()), "an upload that nobody ends"
    assert "sound" in store.ctl("dump", "verify", direct=True).stdout
    print("nothing is orphaned", flush=True)


def is_state(arguments):
    return arguments.state and (arguments.state / "latest").exists()


def filled(cluster, arguments):
    began = time.monotonic()
    fill(cluster, arguments.mib)
    print(f"{arguments.mib} MiB put in {time.monotonic() - began:.1f} s", flush=True)


def restored(cluster, store, arguments):
    began = time.monotonic()
    done = store.ctl("restore", "--cluster", "test", *[cluster.workdir / f"n{i}.data" for i in range(3)], timeout=200,
                     keys={"store-url": f"dir:{arguments.state}", "etcd-endpoints": cluster.etcd.endpoints})
    print(f"restored in {time.monotonic() - began:.1f} s: {done.stdout.splitlines()[0]}", flush=True)


def keep_state(store, arguments):
    """Copies the dump, the pointer last."""
    files = store.files()
    for name in sorted(files, key=lambda name: name == "latest"):
        (arguments.state / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(files[name], arguments.state / name)


def node_keys(arguments, interval):
    return {"durability": "disk", "dump-interval-s": interval, "state-bytes": 16 << 20, "segment-bytes": 16 << 20,
            "snapshot-bytes": max(16, arguments.mib // 4) << 20, "retain-bytes": 4 * arguments.mib << 20,
            "idempotency-bytes": 2 * arguments.mib + 32 << 20}


def main(arguments):
    store = Store(arguments.directory)

    def dump_kills(cluster):
        cluster.start_network()
        store.start(cluster)
        known = is_state(arguments)
        cluster.start_rest(nodes=3, gateways=1, node_keys={**node_keys(arguments, arguments.interval), **store.keys(direct=True)},
                           before_nodes=(lambda: restored(cluster, store, arguments)) if known else None)
        leader = cluster.leader()
        began = time.monotonic()
        if not known:
            filled(cluster, arguments)
        assert cluster.bank("Deposit", {"account": 1, "amount": 1}).status == 200
        pointed(cluster, cluster.wait_equal(60)[0])
        sizes = max((cluster.status(i)["dumps"] for i in range(3)), key=lambda dumps: int(dumps["lastSeq"]))
        print(f"in a dump after {time.monotonic() - began:.1f} s: {sizes['lastPages']} pages; the last dump took "
              f"{sizes['lastDurationMs']} ms", flush=True)
        if arguments.state and not known:
            keep_state(store, arguments)
        leader_rests(cluster, leader)
        killed(cluster, store, arguments)
        pruned(store)
    scenario.main(dump_kills, programs=(c.NODE, c.GATEWAY, c.LOAD, c.CTL))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--mib", type=int, default=64)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--interval", type=int, default=1, help="seconds between dumps")
    parser.add_argument("--directory", action="store_true")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--state", type=pathlib.Path)
    main(parser.parse_args())
