"""All nodes and their disks are gone at once; the S3 store is left, with a state of some size. The way back is timed against a plain
download of the same bytes; every transaction up to the dump is there, what was after it is said to be lost by epoch number. First an
object of the newest dump is damaged: the restore says so, takes the dump before, and counts what lies between among the lost.

    lost_all.py [--mib N] [--state DIRECTORY]    a state that dump_kills.py left"""
import argparse
import json
import pathlib
import shutil
import time

from bootstrap import fill, plain_download
from dump_kills import is_state, node_keys, restored
from lib import cluster as c
from lib import scenario
from lib.process import wait_until
from lib.store import Store
from restore import balances, deposit, dump_now, get


def restore(cluster, store, *words, timeout=230):
    """maroonctl restore, timed: (what it says as JSON, its other words, seconds)."""
    began = time.monotonic()
    done = store.ctl("restore", *words, "--json", direct=True, timeout=timeout, keys={"etcd-endpoints": cluster.etcd.endpoints})
    return json.loads(done.stdout), done.stderr, time.monotonic() - began


def published(cluster):
    return int(json.loads(get(cluster, "latest"))["seq"])


def start_again(cluster, keys):
    began = time.monotonic()
    for index in range(3):
        cluster.nodes[index] = cluster._node(index, keys).start()
    for index in range(3):
        cluster.wait_node_ready(index, 120)
    ready = time.monotonic() - began
    wait_until(lambda: cluster.bank("Total", {}, timeout=2).status == 200, 60, "the gateway, which was not restarted, has a range of the "
               "new cluster", alive=cluster.gateways)
    return ready, time.monotonic() - began


def chunk_of_newest_only(store, before):
    """A chunk that the newest dump brought: the file of it."""
    after = {name: path for name, path in store.files().items() if name.startswith("chunks/")}
    return after[sorted(set(after) - before)[0]]


def memory_is_refused(cluster, keys):
    """A restore makes disks; a node that keeps nothing on one says why it does not begin from that."""
    node = cluster._node(0, {**keys, "durability": "memory", "data-dir": cluster.workdir / "memory.data"}).start()
    wait_until(lambda: not node.alive(), 60, "a node with durability = memory is refused")
    said = [line for line in node.log_path.read_text().splitlines() if "configuration_mismatch" in line]
    assert said and "what=durable ours=0 cluster=1" in said[-1], node.tail()
    print(f"durability = memory: {said[-1][28:]}", flush=True)


def main(arguments):
    store = Store(arguments.directory)

    def lost_all(cluster):
        keys = node_keys(arguments, interval=0)
        cluster.start_network()
        store.start(cluster)
        known = is_state(arguments)
        cluster.start_rest(nodes=3, gateways=1, node_keys={**keys, **store.keys(direct=True)},
                           before_nodes=(lambda: restored(cluster, store, arguments)) if known else None)
        if not known:
            fill(cluster, arguments.mib)
        deposit(cluster, 100)
        first = dump_now(cluster, 120)
        first_hash = json.loads(store.path("latest").read_text())["stateHash"]
        first_balances, first_total = balances(cluster), cluster.total()
        chunks = {name for name in store.files() if name.startswith("chunks/")}
        deposit(cluster, 1000)
        cluster.load(count=3000, connections=16)
        second = dump_now(cluster, 120)
        second_hash = json.loads(store.path("latest").read_text())["stateHash"]
        second_balances, second_total = balances(cluster), cluster.total()
        deposit(cluster, 7)
        last, _ = cluster.wait_equal()
        wait_until(lambda: published(cluster) >= last, 60, "the last epoch is published")
        plain = plain_download(store) if store.s3 else None
        for index, node in enumerate(cluster.nodes):  # the gateway stays
            node.kill()
            shutil.rmtree(cluster.workdir / f"n{index}.data")
        dirs = [cluster.workdir / f"n{i}.data" for i in range(3)]
        wait_until(lambda: not get(cluster, "leader"), 60, "the dead leader's lease has ended")

        # As far as it goes, when the newest dump and the epochs that lead to it are damaged.
        newest = max((path for name, path in store.files().items() if name.startswith("stretches/")), key=lambda p: p.stat().st_mtime)
        harmed = [chunk_of_newest_only(store, chunks), newest]
        whole = [path.read_bytes() for path in harmed]
        for path, data in zip(harmed, whole):
            path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        made, said, took = restore(cluster, store, "--cluster", "other", "--store-tries=2", *[cluster.workdir / f"x{i}" for i in range(3)])
        assert int(made["epoch"]) >= first and int(made["epoch"]) < second, made
        assert f"from the dump of epoch {second}" in said and "taking the one before" in said, said
        assert int(made["lost"]["first"]) == int(made["epoch"]) + 1 and int(made["lost"]["last"]) >= last, made
        if int(made["epoch"]) == first:
            assert made["stateHash"] == first_hash, made
        print(f"the newest dump damaged: back to epoch {made['epoch']} of {first}, {second} in {took:.1f} s; "
              f"{[line for line in said.splitlines() if 'taking' in line][0][:200]}", flush=True)
        for path, data in zip(harmed, whole):
            path.write_bytes(data)
        for i in range(3):
            shutil.rmtree(cluster.workdir / f"x{i}")

        # The way back.
        made, said, took = restore(cluster, store, "--cluster", "test", "--replace", *dirs)
        assert int(made["epoch"]) == second and made["stateHash"] == second_hash, made
        assert int(made["lost"]["first"]) == second + 1 and int(made["lost"]["last"]) >= last, made
        memory_is_refused(cluster, keys)
        ready, answers = start_again(cluster, keys)
        assert balances(cluster) == second_balances and cluster.total() == second_total, "every transaction up to the dump"
        assert first_balances != second_balances and first_total != second_total
        deposit(cluster, 1)
        cluster.wait_equal()
        size = arguments.mib << 20
        line = f"{arguments.mib} MiB, all lost: restored to epoch {second} in {took:.1f} s ({size / 1e6 / took:.0f} MB/s, three directories), " \
               f"nodes ready {ready:.1f} s later, the old gateway answers after {answers:.1f} s; lost: epochs {made['lost']['first']} to {made['lost']['last']}"
        if plain:
            line += f"; a plain download of the chunks: {plain[0]:.1f} s, {plain[1] / 1e6 / plain[0]:.0f} MB/s"
        print(line, flush=True)
    scenario.main(lost_all, programs=(c.NODE, c.GATEWAY, c.LOAD, c.CTL))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--mib", type=int, default=64)
    parser.add_argument("--directory", action="store_true")
    parser.add_argument("--state", type=pathlib.Path)
    main(parser.parse_args())
