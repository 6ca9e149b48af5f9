"""A node's disk is wiped under load: it starts from the newest dump in the store, fetches the rest from its peers, recovers,
and reaches the same state. Rate against a plain download of the same bytes. Then maroonctl bootstrap and prune on the same dumps.

    bootstrap.py [--mib N] [--kills N]     size of the state, kill -9 of the node while it bootstraps"""
import argparse
import concurrent.futures
import os
import random
import shutil
import subprocess
import time

from echo_1mib import message
from lib import cluster as c
from lib import http, scenario
from lib.process import wait_until
from lib.store import Store

def fill(cluster, mib, gateway=0):
    """Echoes of random bytes under idempotency keys: what is remembered under them is state."""
    size = 256 << 10

    def echo(number):
        answer = http.request(cluster.gateway_addresses[gateway], f"/{c.ECHO}/Echo", "POST", message(os.urandom(size)),
                              {"content-type": "application/proto", "idempotency-key": f"fill {number}"}, timeout=60)
        assert answer.status == 200, answer
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        list(pool.map(echo, range((mib << 20) // size)))


def dumped(cluster, epoch, nodes):
    def newest():
        return max(int(cluster.status(i)["dumps"]["pointerSeq"]) for i in nodes) >= epoch
    wait_until(newest, 120, f"a dump of epoch {epoch} or later is pointed to", alive=[cluster.nodes[i] for i in nodes])


def wipe(cluster, store, arguments):
    victim = (cluster.leader() + 1) % 3
    others = [i for i in range(3) if i != victim]
    node = cluster.nodes[victim]
    load = cluster.start_load(seconds=arguments.seconds, connections=8, timeout=120, first_account=5000000)
    node.kill()
    shutil.rmtree(cluster.workdir / f"n{victim}.data")
    began = time.monotonic()
    node.start()
    rng = random.Random(arguments.seed)
    for kill in range(arguments.kills):
        wait_until(lambda: cluster.status(victim)["bootstrap"]["stage"] in ("store", "restoring") or
                   int(cluster.status(victim)["bootstrap"]["fromStore"]), 30, "the node bootstraps", interval=0.01, alive=[node])
        time.sleep(rng.uniform(0, 0.5))
        node.kill()
        node.start()
    wait_until(lambda: cluster.status(victim)["role"] in ("follower", "leader"), 120, "the node takes part", alive=[node])
    took = time.monotonic() - began
    boot = cluster.status(victim)["bootstrap"]
    print(f"wiped n{victim}: takes part after {took:.2f} s; {boot}", flush=True)
    load.popen.send_signal(2)
    load.wait()
    seq, state_hash = cluster.wait_equal(60)
    log = node.log_path.read_text()
    assert "dump_fetched" in log, "the dump was used"
    for line in log.splitlines():
        if any(word in line for word in ("dump_fetched", "snapshot_restored", "snapshot_needed", "bootstrap ", "stretch")):
            print("   ", line[11:200])
    print(f"equal at epoch {seq}, state {state_hash[:16]}", flush=True)


def main(arguments):
    store = Store()

    def bootstrap(cluster):
        cluster.start_network()
        store.start(cluster)
        cluster.start_rest(nodes=3, gateways=1, node_keys={
            **store.keys(direct=True), "durability": "disk", "dump-interval-s": 2, "segment-bytes": 4 << 20,
            "snapshot-bytes": 16 << 20, "state-bytes": 16 << 20, "idempotency-bytes": arguments.mib + 2 << 20})
        fill(cluster, arguments.mib)
        seq, _ = cluster.wait_equal(60)
        dumped(cluster, seq, range(3))
        print({k: v for k, v in cluster.status(0)["dumps"].items()})
        wipe(cluster, store, arguments)
    scenario.main(bootstrap, programs=(c.NODE, c.GATEWAY, c.LOAD, c.CTL))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--mib", type=int, default=16)
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    main(parser.parse_args())
