"""Incremental dumps on a cluster, measured by the proxy in front of the S3 server: about 1 % of the pages changed sends about 1 % of the
bytes of the state, whoever dumps, and also after the dumping node was restarted. Nothing changed sends next to nothing.

    incremental.py [--mib N]    size of the state"""
import argparse

from bootstrap import fill
from lib import cluster as c
from lib import http, scenario
from lib.process import wait_until
from lib.store import Store


def dump_now(cluster, index, epoch):
    """A dump by this node of this epoch or a later one; returns its status. A node's status may be older than an answer."""
    wait_until(lambda: int(cluster.status(index)["execSeq"]) >= epoch, 60, f"the node executed epoch {epoch}")
    seq, _ = cluster.wait_equal()
    answer = http.request(cluster.admin(index), "/v1/dump", method="POST")
    assert answer.status == 202, answer

    def dumped():
        status = cluster.status(index)["dumps"]
        assert not status["error"], status
        return status if int(status["lastSeq"]) >= seq else None
    return wait_until(dumped, 300, "the dump is made", alive=cluster.nodes)


def put_bytes(store):
    """Bytes that the server was given: of the state, and of the epochs that lead to it."""
    put = store.stats()["put_bytes"]
    return put.get("chunks", 0) + put.get("indexes", 0), put.get("stretches", 0)


def measured(cluster, store, index, mib, first):
    """Changes that much, dumps, and returns how many parts of the pages and of the state's bytes that was."""
    before = put_bytes(store)
    status = dump_now(cluster, index, fill(cluster, mib, first=first))
    state, epochs = (after - was for after, was in zip(put_bytes(store), before))
    pages, changed = int(status["lastPages"]), int(status["lastChangedPages"])
    print(f"n{index}: {changed} of {pages} pages, {100 * changed / pages:.2f} %: {state} bytes of state "
          f"({100 * state / (pages * 4096):.2f} % of {pages * 4096}), {epochs} of epochs, {status['lastDurationMs']} ms", flush=True)
    return changed / pages, state / (pages * 4096), epochs


def main(arguments):
    store = Store()
    if not store.s3:
        scenario.skip("no S3 server, and the proxy counts its bytes")

    def incremental(cluster):
        cluster.start_network()
        store.start(cluster)
        cluster.start_rest(nodes=3, gateways=1, node_keys={
            **store.keys(), "durability": "disk", "dump-interval-s": 0, "state-bytes": 16 << 20, "segment-bytes": 16 << 20,
            "retain-bytes": 4 * arguments.mib << 20, "idempotency-bytes": arguments.mib + arguments.mib // 8 << 20})
        whole = measured(cluster, store, 0, arguments.mib, 0)
        assert whole[1] > 0.9, "random bytes do not pack"
        percent = arguments.mib / 200  # an answer is remembered under its key, and kept for resends
        measured(cluster, store, 0, percent, 900000)  # the state has been full of new pages so far
        for number, index in enumerate([0, 1, 2, 0]):
            if number == 3:  # knows nothing of earlier dumps any more
                cluster.nodes[0].stop()
                cluster.nodes[0].start()
                cluster.wait_node_ready(0)
            pages, state, epochs = measured(cluster, store, index, percent, 1000000 * (number + 1))
            assert 0.005 < pages < 0.03, pages
            assert state < 1.25 * pages + 0.001, "more than what changed was sent"
            assert epochs < 1.25 * percent * (1 << 20), "the epochs are the bytes of the requests"
        for _ in range(2):  # with the first one goes what was kept of the answers before
            before = put_bytes(store)
            answer = cluster.bank("Deposit", {"account": 1, "amount": 1})
            status = dump_now(cluster, 1, int(answer.headers["maroon-epoch"]))
            least = sum(put_bytes(store)) - sum(before)
            print(f"one deposit: {status['lastChangedPages']} pages, {least} bytes", flush=True)
        assert 0 < least < 100000, "next to nothing has changed"
        assert "sound" in store.ctl("dump", "verify", direct=True).stdout
    scenario.main(incremental, programs=(c.NODE, c.GATEWAY, c.LOAD, c.CTL))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--mib", type=int, default=64)
    main(parser.parse_args())
