"""A node's disk is wiped under load: it starts from the newest dump in the store, takes the epochs since out of a peer's journal,
recovers, and reaches the same state; also when it is killed on the way. Time and rate against a plain download of the same bytes.
Then maroonctl bootstrap does the same beforehand, killed once; a snapshot of another format is refused; and maroonctl dump prune leaves
nothing that no dump needs.

    bootstrap.py [--mib N] [--kills N] [--directory]    size of the state; kill -9 of the node on the way; no S3 server"""
import argparse
import concurrent.futures
import hashlib
import os
import random
import re
import shutil
import subprocess
import time

from echo_1mib import message
from lib import cluster as c
from lib import http, scenario
from lib.process import wait_until
from lib.store import Store

ECHO_BYTES = 256 << 10


def fill(cluster, mib, first=0):
    """Echoes of random bytes under idempotency keys: what is remembered under them is state. Returns the last epoch of them."""
    def echo(number):
        answer = http.request(cluster.gateway_addresses[0], f"/{c.ECHO}/Echo", "POST", message(os.urandom(ECHO_BYTES)),
                              {"content-type": "application/proto", "idempotency-key": f"fill {number}"}, timeout=60)
        assert answer.status == 200, answer
        return int(answer.headers["maroon-epoch"])
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        return max(pool.map(echo, range(first, first + int(mib * (1 << 20)) // ECHO_BYTES)))


def pointed(cluster, epoch, seconds=180):
    """Until dump/latest names a dump that has this epoch."""
    def newest():
        return max(int(cluster.status(i)["dumps"]["pointerSeq"]) for i in range(3) if cluster.nodes[i].alive()) >= epoch
    wait_until(newest, seconds, f"a dump of epoch {epoch} or later is pointed to")


def plain_download(store):
    """Seconds that curl takes for all chunks, eight at a time, and their bytes."""
    names = [name for name in store.files() if name.startswith("chunks/")]
    size = sum(store.files()[name].stat().st_size for name in names)
    url = f"http://{store.address}:4568/dumps/cluster/"
    lines = "".join(f'url = "{url}{name}"\noutput = "/dev/null"\n' for name in names)
    began = time.monotonic()
    subprocess.run(["curl", "--no-progress-meter", "--fail", "--parallel", "--parallel-max", "8", "--config", "-"], input=lines, text=True,
                   check=True, timeout=300)
    return time.monotonic() - began, size


def takes_part(cluster, index, seconds=180):
    wait_until(lambda: cluster.status(index)["role"] in ("follower", "leader"), seconds, f"n{index} takes part", interval=0.02,
               alive=[cluster.nodes[index]])


def check_costs(cluster, index, mib, began):
    """Where the time of the newest dump went is in the status, the metrics and maroonctl status, and adds up: no phase is missing, none
    longer than what it is part of, bytes as many as the pages have."""
    def ended():
        fetch = cluster.status(index)["bootstrap"]["fetches"]["store"]
        return fetch if fetch["ended"] else None
    fetch = wait_until(ended, 60, "the fetch has ended", alive=[cluster.nodes[index]])
    took, metrics = time.monotonic() - began, cluster.metrics(index)
    cost = {phase: (int(both["us"]) / 1e6, int(both["bytes"])) for phase, both in fetch["phases"].items()}
    assert list(cost) == ["indexes", "chunks", "gets", "unpack", "end", "runtime"] and not fetch["error"], fetch
    seconds = {phase: both[0] for phase, both in cost.items()}
    pages = cost["chunks"][1]
    assert pages > mib << 20 and pages % 4096 == 0, cost
    assert all(both[1] > 0 for phase, both in cost.items() if phase != "gets") and all(seconds[p] > 0 for p in cost if p != "gets"), cost
    assert cost["unpack"][1] == cost["end"][1] == pages, (cost, pages)
    assert pages < cost["runtime"][1] < pages * 1.01 + 100000, (cost, pages)
    assert (seconds["gets"] > 0) == (cost["gets"][1] > 0) and cost["gets"][1] < 3 * pages + (8 << 20), cost  # pages that live no more, too
    assert seconds["gets"] <= 12 * seconds["chunks"] and seconds["unpack"] <= 5 * seconds["chunks"], cost
    one_by_one = sum(seconds[phase] for phase in ("indexes", "chunks", "end", "runtime"))
    assert one_by_one <= int(fetch["us"]) / 1e6 <= took, (cost, fetch, took)
    for phase, (spent, size) in cost.items():
        assert abs(metrics[f'maroon_bootstrap_phase_seconds{{source="store",phase="{phase}"}}'] - spent) < 1e-5, (phase, metrics)
        assert metrics[f'maroon_bootstrap_phase_bytes{{source="store",phase="{phase}"}}'] == size, phase
    run = subprocess.run([str(c.absolute(c.CTL)), "status", "--admin", cluster.admin(index)], capture_output=True, text=True,
                         timeout=60)
    said = [line for line in run.stdout.splitlines() if line.startswith(f"node {index}, fetched from store up to epoch {fetch['seq']}, ")]
    assert len(said) == 1 and all(f"{phase} {spent:.2f} s {size / 1e6:.1f} MB" in said[0] for phase, (spent, size) in cost.items()), run
    print(said[0], flush=True)


def wiped_under_load(cluster, store, arguments):
    victim = (cluster.leader() + 1) % 3
    node = cluster.nodes[victim]
    load = cluster.start_load(seconds=600, connections=4, timeout=700, first_account=5000000)
    rng = random.Random(arguments.seed)
    node.kill()
    shutil.rmtree(cluster.workdir / f"n{victim}.data")
    for _ in range(arguments.kills):
        node.start()
        wait_until(lambda: cluster.status(victim)["bootstrap"]["stage"] != "idle", 60, "it fetches", interval=0.01, alive=[node])
        time.sleep(rng.uniform(0, 0.007 * arguments.mib))  # 1 GiB is here after 7 s
        node.kill()
    began = time.monotonic()
    node.start()
    takes_part(cluster, victim)
    took = time.monotonic() - began
    boot = cluster.status(victim)["bootstrap"]
    if boot["fetches"]["store"]:
        check_costs(cluster, victim, arguments.mib, began)
    load.popen.send_signal(2)
    load.wait()
    seq, state_hash = cluster.wait_equal(60)
    assert int(boot["fromStore"]) >= 1 or arguments.kills, boot
    log = node.log_path.read_text()
    fetched = [line for line in log.splitlines() if "dump_fetched" in line]
    print("\n".join(line[11:180] for line in log.splitlines()
                    if any(word in line for word in (" snapshot_", "stretch_learned", "dump_fetched"))))
    for other in cluster.nodes:
        print("\n".join(f"{other.name} {line[11:180]}" for line in other.log_path.read_text().splitlines() if "info stretch after" in line))
    assert fetched, "the dump was used"
    pages, milliseconds = (int(re.search(rf" {name}=(\d+)", fetched[-1])[1]) for name in ("pages", "ms"))
    rate = pages * 4096 / 1e6 / max(milliseconds, 1) * 1e3
    print(f"wiped n{victim}, killed {arguments.kills} times on the way: takes part {took:.2f} s after its last start; equal at epoch "
          f"{seq}, state {state_hash[:16]}; dump fetched, checked and written in {milliseconds} ms, {rate:.0f} MB/s of pages")
    if store.s3:
        seconds, size = plain_download(store)
        print(f"plain download of all chunks, {size / 1e6:.0f} MB: {seconds:.2f} s, {size / 1e6 / seconds:.0f} MB/s", flush=True)
    metrics = cluster.metrics(victim)
    assert metrics["maroon_bootstraps_from_store_total"] + metrics["maroon_bootstrap_stretches_total"] >= 1


def away_for_a_while(cluster, arguments):
    """A voter whose disk is whole, but whose peers have let go of the epochs it lacks from memory: their journals have them."""
    victim = (cluster.leader() + 1) % 3
    node = cluster.nodes[victim]
    node.kill()
    before = cluster.status((victim + 1) % 3)["commitSeq"]
    load = cluster.start_load(seconds=600, connections=4, timeout=700, first_account=7000000)
    wait_until(lambda: cluster.status((victim + 1) % 3)["commitSeq"] > before + 2500, 180, "more epochs than memory holds")
    pointed(cluster, before + 1)
    for other in {0, 1, 2} - {victim}:  # a newer dump is known, and all the same the journal is kept for who is behind
        wait_until(lambda: int(cluster.status(other)["dumps"]["pointerSeq"]) > before, 60, "the newer dump is known", alive=[cluster.nodes[other]])
        journal = cluster.status(other)["journal"]
        assert int(journal["cutSeq"]) <= int(journal["floorSeq"]) <= before, (journal, before)
    node.start()
    takes_part(cluster, victim)
    wait_until(lambda: int(cluster.status(victim)["bootstrap"]["stretches"]), 60, "a stretch is learned", alive=[node])
    load.popen.send_signal(2)
    load.wait()
    cluster.wait_equal(60)
    boot = cluster.status(victim)["bootstrap"]
    assert int(boot["fromStore"]) + int(boot["fromPeers"]) == 0, boot
    print(f"away for 2,500 epochs, under load: {boot['stretches']} stretches of a peer's journal, no snapshot", flush=True)


def bootstrapped_by_hand(cluster, store):
    victim = (cluster.leader() + 1) % 3
    node, data = cluster.nodes[victim], cluster.workdir / f"n{victim}.data"
    node.kill()
    shutil.rmtree(data)
    command = [str(c.absolute(c.CTL)), "bootstrap", str(data)] + c.flags(store.keys(direct=True))
    first = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_until(lambda: list((data / "snapshots").glob("fetch-*")) or first.poll() is not None, 60, "it fetches", interval=0.002)
    first.kill()
    first.wait()
    done = store.ctl("bootstrap", data, direct=True)
    assert "start the node" in done.stdout or "is there already" in done.stdout, done
    assert "progress pages=" in done.stderr or "is there already" in done.stdout, done
    node.start()
    takes_part(cluster, victim)
    assert int(cluster.status(victim)["bootstrap"]["fromStore"]) == 0, "the dump was there already"
    cluster.wait_equal(60)
    print("maroonctl bootstrap, killed once: the node goes on from it", flush=True)


def change_format(snapshot, by):
    head = bytearray(snapshot.read_bytes()[:256])
    version = int.from_bytes(head[8:12], "little")
    head[8:12] = (version + by).to_bytes(4, "little")
    with open(snapshot, "r+b") as file:
        file.write(head + hashlib.blake2b(head, digest_size=32).digest())
    return version


def of_another_format(cluster):
    """A node whose snapshot another program wrote, with a state that is laid out otherwise, says so and ends; it loses nothing."""
    def kept(index):
        return list((cluster.workdir / f"n{index}.data" / "snapshots").glob("snapshot-*"))
    victim = next(i for i in range(3) if kept(i))
    node = cluster.nodes[victim]
    node.stop()
    snapshots = kept(victim)
    version = [change_format(snapshot, -1) for snapshot in snapshots][0]
    node.start()
    wait_until(lambda: not node.alive(), 60, "the node refuses the snapshot and ends")
    why = f"the snapshot is of format version {version - 1}, this program reads {version}: start the program that wrote it"
    assert node.popen.returncode == 1 and why in node.tail(), node.tail()
    for snapshot in snapshots:
        change_format(snapshot, 1)
    node.start()
    takes_part(cluster, victim)
    cluster.wait_equal(60)
    print(f"a snapshot of another format is refused: {why}", flush=True)


def pruned(cluster, store):
    pointed(cluster, cluster.wait_equal(60)[0])  # prune keeps the dump that etcd names, be it not the newest yet
    before = len(store.files())
    for node in cluster.nodes:
        node.stop()
    said = store.ctl("dump", "prune", "--keep", 1, "--grace-s", 0, direct=True, keys={"etcd-endpoints": cluster.etcd.endpoints,
                                                                                       "cluster": "test"}).stdout.strip()
    no_orphans(store)
    assert "sound" in store.ctl("dump", "verify", direct=True).stdout
    print(f"{said}; of {before} objects {len(store.files())} are left, each named by the one manifest", flush=True)


def no_orphans(store):
    """One dump is left, and nothing that its manifest does not name."""
    files = store.files()
    manifests = [name for name in files if name.startswith("manifests/")]
    assert len(manifests) == 1, manifests
    manifest = files[manifests[0]].read_bytes()
    orphans = [name for name in files if name not in ("latest", *manifests) and bytes.fromhex(name.rsplit("/", 1)[1]) not in manifest]
    assert not orphans, orphans
    assert manifests[0] in files["latest"].read_text()


def main(arguments):
    store = Store(arguments.directory)

    def bootstrap(cluster):
        cluster.start_network()
        store.start(cluster)
        cluster.start_rest(nodes=3, gateways=1, node_keys={
            **store.keys(direct=True), "durability": "disk", "dump-interval-s": arguments.interval, "segment-bytes": 4 << 20,
            "snapshot-bytes": max(16, arguments.mib // 4) << 20, "state-bytes": 16 << 20,
            "idempotency-bytes": arguments.mib + 2 << 20})
        fill(cluster, arguments.mib)
        pointed(cluster, cluster.wait_equal(60)[0])
        wiped_under_load(cluster, store, arguments)
        away_for_a_while(cluster, arguments)
        bootstrapped_by_hand(cluster, store)
        of_another_format(cluster)
        pruned(cluster, store)
    scenario.main(bootstrap, programs=(c.NODE, c.GATEWAY, c.LOAD, c.CTL))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--mib", type=int, default=32)
    parser.add_argument("--kills", type=int, default=1)
    parser.add_argument("--interval", type=int, default=2, help="seconds between dumps")
    parser.add_argument("--directory", action="store_true")
    parser.add_argument("--seed", type=int, default=1)
    main(parser.parse_args())
