"""All nodes and their disks are gone; the S3 store is left. First a point in time: a new cluster with the state of an exact epoch
between two dumps. Then the newest state under the old cluster's name, and what was after it is said to be lost, by number."""
import base64
import importlib.util
import json
import shutil

from lib import cluster as c
from lib import http, scenario
from lib.process import wait_until
from lib.store import BUCKET, Store

spec = importlib.util.spec_from_file_location("read_dump", c.ROOT / "tests/store/read_dump.py")
read_dump = importlib.util.module_from_spec(spec)
spec.loader.exec_module(read_dump)

KEYS = {"durability": "disk", "dump-interval-s": 0, "segment-bytes": 4 << 20}
ACCOUNTS = 20


def place(store, name):
    """Keys of a store of its own for each cluster: a prefix of the bucket, or a directory."""
    keys = store.keys(direct=True)
    if store.s3:
        return {**keys, "store-url": f"s3://{BUCKET}/{name}"}
    (store.root / BUCKET / name).mkdir(exist_ok=True)
    return {**keys, "store-url": f"dir:{store.root / BUCKET / name}"}


def ctl(cluster, *words, status=0, name="cluster", json_out=False):
    done = cluster.store.ctl(*words, *(["--json"] if json_out else []), check=False,
                             keys={**place(cluster.store, name), "etcd-endpoints": cluster.etcd.endpoints})
    assert done.returncode == status, (words, done)
    return json.loads(done.stdout) if json_out else done.stdout + done.stderr


def copy(cluster):
    """The objects of the store as files, for the reader that knows only the page."""
    directory = cluster.workdir / "copy"
    for name, path in cluster.store.files().items():
        name = name.removeprefix("cluster/")
        if not name.startswith(("chunks", "indexes", "stretches", "manifests", "latest")):
            continue
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, directory / name)
    return directory


def get(cluster, name):
    """Value of a key of the old cluster, or None."""
    answer = cluster.etcd.get(cluster.etcd.addresses[0], f"/maroon/test/{name}")
    kvs = answer.get("kvs", [])
    return base64.b64decode(kvs[0]["value"]).decode() if kvs else None


def deposit(cluster, amount):
    for account in range(1, ACCOUNTS + 1):
        answer = cluster.bank("Deposit", {"account": account, "amount": amount + account})
        assert answer.status == 200, answer


def balances(cluster):
    return {str(a): cluster.bank("Balance", {"account": a}).json()["balance"] for a in range(1, ACCOUNTS + 1)}


def dump_now(cluster, seconds=120):
    """Returns the epoch of a dump that holds all that was answered."""
    seq, _ = cluster.wait_equal()
    answer = http.request(cluster.admin(0), "/v1/dump", method="POST")
    assert answer.status == 202, answer

    def dumped():
        status = cluster.status(0)["dumps"]
        assert not status["error"], status
        return int(status["lastSeq"]) if int(status["lastSeq"]) >= seq else 0
    return wait_until(dumped, seconds, "the dump is made", alive=cluster.nodes)


def order(cluster, key, amount):
    """A deposit to an account of its own, under an idempotency key."""
    answer = cluster.bank("Deposit", {"account": 900, "amount": amount}, headers={"idempotency-key": key}, timeout=60)
    assert answer.status == 200, answer
    return answer.json()


def end_all(cluster):
    """kill -9 of everything, and the disks are wiped."""
    for process in cluster.gateways + cluster.nodes:
        process.kill()
    for index in range(len(cluster.nodes)):
        shutil.rmtree(cluster.workdir / f"n{index}.data")


def start_again(cluster, keys, indexes=(0, 1, 2)):
    for index in indexes:
        cluster.nodes[index] = cluster._node(index, keys).start()
    for index in indexes:
        cluster.wait_node_ready(index)
    for gateway, address in zip(cluster.gateways, cluster.gateway_addresses):
        if not gateway.alive():
            gateway.start()
        wait_until(lambda: http.request(address, "/readyz", timeout=2).status == 200, 60, "the gateway is ready",
                   alive=[gateway])


def restore(cluster):
    dirs = [cluster.workdir / f"n{i}.data" for i in range(3)]
    cluster.store = STORE
    cluster.start_network()
    STORE.start(cluster)
    cluster.start_rest(nodes=3, gateways=1, node_keys={**KEYS, **place(STORE, "cluster")})

    # Two dumps, a point between them, and what no dump holds.
    deposit(cluster, 100)
    cluster.load(count=3000, connections=16)
    first = dump_now(cluster)
    deposit(cluster, 1000)
    cluster.load(count=3000, connections=16)
    point, point_hash = cluster.wait_equal()
    deposit(cluster, 5)
    first_order = order(cluster, "order 1", 9)
    second = dump_now(cluster)
    assert first < point < second, (first, point, second)
    at_second = balances(cluster)  # reads: they change epochs, not balances
    total = cluster.total()
    deposit(cluster, 7)
    assert first_order == {"balance": "9"} and order(cluster, "order 2", 4) == {"balance": "13"}
    last, _ = cluster.wait_equal()
    wait_until(lambda: int(json.loads(get(cluster, "latest"))["seq"]) >= last, 60, "the last epoch is published")
    said = ctl(cluster, "dump", "verify", "--cluster", "test")
    assert "one chain" in said and "the key is that of node 0 of cluster test" in said, said
    found = read_dump.read(copy(cluster))
    assert found["seq"] == second and found["epochs"] == second - first and found["bodies"] >= 3000 + 2 * ACCOUNTS, found
    gap = "gap" in ctl(cluster, "dump", "list")
    assert not gap, "the journal held every epoch"

    # What is in the store is read without a cluster.
    epoch = ctl(cluster, "dump", "cat", "--epoch", point, "--from", first + 1, json_out=True)
    assert epoch["state"]["stateHash"] == point_hash, "the state at that epoch, as the nodes had it"
    calls = [t for e in epoch["epochs"] for t in e["transactions"]]
    assert sum(t["request"] == {"account": "3", "amount": "1003"} and t["code"] == "ok" for t in calls) == 1, calls[:5]
    assert len(calls) >= 3000 + ACCOUNTS
    accounts = epoch["state"]["tables"]["bank/accounts"]
    at_point = {str(a): accounts[str(a)] for a in range(1, ACCOUNTS + 1)}
    assert at_point == {a: str(int(b) - 5 - int(a)) for a, b in at_second.items()}

    assert "has a leader" in ctl(cluster, "restore", "--cluster", "test", "--replace", *[f"{d}.x" for d in dirs], status=1)
    end_all(cluster)

    # To the point in time, as a new cluster beside.
    made = ctl(cluster, "restore", "--cluster", "pit", "--to-epoch", point, *dirs, json_out=True)
    assert made["epoch"] == str(point) and made["stateHash"] == point_hash, made
    assert made["leftOut"] == {"first": str(point + 1), "last": str(second)}, made
    assert int(made["lost"]["first"]) == second + 1 and int(made["lost"]["last"]) >= last, made
    keys = {**KEYS, "cluster": "pit", **place(STORE, "pit")}
    start_again(cluster, keys)
    assert balances(cluster) == at_point
    deposit(cluster, 1)
    seq, _ = cluster.wait_equal()
    assert seq > point and all(cluster.status(i)["term"] > int(made["term"]) for i in range(3))
    # It lives as any other: a node without a disk comes back, dumps begin, and are checked from its first epoch on.
    cluster.nodes[2].kill()
    shutil.rmtree(dirs[2])
    start_again(cluster, keys, indexes=[2])
    cluster.wait_equal()
    dump_now(cluster)
    assert "one chain" in ctl(cluster, "dump", "verify", "--cluster", "pit", name="pit")
    assert "registered another key" in ctl(cluster, "dump", "verify", "--cluster", "pit", status=1), "a dump of another cluster"
    end_all(cluster)

    # The newest state, under the name that all configurations have.
    wait_until(lambda: not get(cluster, "leader"), 60, "the dead leader's lease has ended")
    assert "--replace" in ctl(cluster, "restore", *dirs, "--cluster", "test", status=1)
    said = ctl(cluster, "restore", "--cluster", "test", "--replace", *dirs)
    assert f"epoch {second}," in said and f"lost: epochs {second + 1} to " in said, said
    start_again(cluster, {**KEYS, **place(STORE, "new")})
    assert balances(cluster) == at_second and cluster.total() == total, "every transaction up to the dump is there"
    # Clients that never heard, or ask again: what is in the dump is done once, what was lost is done now.
    assert order(cluster, "order 1", 9) == first_order and cluster.total() == total, "keys are in the dump, with their results"
    assert order(cluster, "order 2", 4) == {"balance": "13"} and order(cluster, "order 2", 4) == {"balance": "13"}
    assert cluster.total() == total + 4
    cluster.load(count=2000, connections=16)
    deposit(cluster, 1)
    cluster.wait_equal()
    assert balances(cluster) == {a: str(int(b) + 1 + int(a)) for a, b in at_second.items()}
    print(f"dumps at {first} and {second}; restored to {point} exactly, and to {second}; {second + 1} to {last} said to be lost")


if __name__ == "__main__":
    STORE = Store()
    scenario.main(restore, programs=(c.NODE, c.GATEWAY, c.CTL, c.LOAD))
