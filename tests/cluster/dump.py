"""A node with a store dumps its state, sealed; maroonctl, and a reader that knows docs/dump-format.md only, read the store without the
node, and find damage in it. Without its disk it goes on as a new cluster, although the restore was killed again and again."""
import importlib.util
import json
import os
import random
import re
import shutil
import subprocess

import local
from lib import cluster as c
from lib import http, scenario
from lib.process import Process, wait_until

spec = importlib.util.spec_from_file_location("read_dump", c.ROOT / "tests/store/read_dump.py")
read_dump = importlib.util.module_from_spec(spec)
spec.loader.exec_module(read_dump)


def restore_killed(words, directory):
    """maroonctl restore, killed at a random point, until it comes through. Returns how often it was, and what the last one said."""
    killed = 0
    for delay in [random.uniform(0.02, 0.04) * (i + 1) for i in range(12)] + [120]:
        process = subprocess.Popen([c.absolute(c.CTL), "restore", directory, *words], stdout=subprocess.PIPE,
                                   stderr=subprocess.STDOUT, text=True)
        try:
            said, _ = process.communicate(timeout=delay)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            killed += 1
            if (directory / "embedded.json").exists() and not (directory / "restore.unfinished").exists():
                shutil.rmtree(directory)  # it had come through, and was killed at its last words
            continue
        assert process.returncode == 0, said
        return killed, said
    raise AssertionError("never came through")


def on_terminal(words):
    """What a program that comes to a good end shows on a terminal."""
    master, slave = os.openpty()
    process = subprocess.Popen(words, stdin=slave, stdout=slave, stderr=slave)
    os.close(slave)
    shown = b""
    while True:
        try:
            shown += os.read(master, 4096)
        except OSError:  # the other side is closed
            break
    os.close(master)
    assert process.wait(timeout=60) == 0, shown
    return shown.decode()


def reads_alike(store, seal, ctl):
    """The independent reader and maroonctl."""
    found = read_dump.read(store, seal)
    said = ctl("dump", "verify")
    assert f"epoch {found['seq']}:" in said and f"state hash {found['stateHash']}, signed by {found['signer']}" in said, said
    assert found["epochs"] == found["seq"] - found["previousSeq"] and found["applications"] == {"bank": 1, "echo": 1}, found
    state = json.loads(ctl("dump", "cat", "--json"))["state"]
    assert state["stateHash"] == found["stateHash"] and state["tables"]["bank/totals"] == {"0": "1000"}, state
    return found


def begin_anew(cluster, address, store, sealed, found, ctl):
    """The disk is gone. Restores die at any point; the one that comes through is whole."""
    old = cluster.others[0]
    data = old.workdir / "restored"
    shutil.rmtree(old.workdir / "data")
    killed, said = restore_killed(["--store-url", f"dir:{store}", "--cluster", "new", *sealed], data)
    assert f"epoch {found['seq']}," in said and not list(old.workdir.glob("restored.dump-*")), said
    assert "not empty" in ctl("restore", str(data), "--cluster", "new", status=1)
    if old.user:
        subprocess.run(["chown", "-R", old.user, data], check=True)
    command = [str(data) if word == str(old.workdir / "data") else word for word in old.command] + ["--cluster", "new", "--store-url", ""]
    node = cluster.others[0] = Process("node-restored", command, old.workdir, user=old.user, environment=old.environment).start()

    cluster.others[1].stop()  # its sessions are with the old cluster
    cluster.others[1].start()

    def answers():
        return http.call(address, c.BANK, "Total", {}, timeout=3).status == 200
    wait_until(answers, 9, "the new cluster answers; a pinned range goes on at its end at once", alive=cluster.others)
    assert http.call(address, c.BANK, "Total", {}).json() == {"total": "1000"}
    assert http.call(address, c.BANK, "Deposit", {"account": "7", "amount": "1"}).json() == {"balance": "6"}
    node.stop()
    return killed


def dump(cluster):
    home = cluster.workdir / "home"
    store = home / "store"
    seal = cluster.workdir / "seal"
    seal.write_text(os.urandom(32).hex() + "\n")
    sealed = ["--dump-key-file", str(seal)]
    address = local.start(cluster, ["--durability", "disk", "--data-dir", str(home / "data"), "--store-url", f"dir:{store}",
                                    "--dump-interval-s", "1", *sealed])
    host, port = address.split(":")
    admin = f"{host}:{int(port) + 1}"

    def dumps():
        return http.request(admin, "/v1/status").json()["dumps"]

    def ctl(*words, status=0):
        done = subprocess.run([c.absolute(c.CTL), *words, "--store-url", f"dir:{store}", "--admin", admin, *sealed],
                              capture_output=True, text=True, timeout=120)
        assert done.returncode == status, (words, done)
        return done.stdout + done.stderr

    wait_until(lambda: dumps()["error"] == "NO_STORE", 60, "a store that is not there is named", alive=cluster.others)
    store.mkdir()
    store.chmod(0o777)

    for account in range(1, 201):
        answer = http.call(address, c.BANK, "Deposit", {"account": str(account), "amount": "5"})
        assert answer.status == 200, answer
    epoch = int(answer.headers["maroon-epoch"])
    assert "asked" in ctl("dump", "now")
    wait_until(lambda: int(dumps()["latestSeq"]) >= epoch, 60, "the newest deposit is in a dump", alive=cluster.others)
    assert dumps()["error"] is None, dumps()
    assert f"epoch {dumps()['latestSeq']}" in ctl("dump", "verify"), "the newest dump is whole"
    listed = ctl("dump", "list")
    count = len(listed.splitlines()) - 1
    assert f"{count} of {count} dumps are sound" in ctl("dump", "verify", "--all")
    ctl("dump", "fetch", str(cluster.workdir / "snapshot"))
    shown = on_terminal([c.absolute(c.CTL), "dump", "fetch", str(cluster.workdir / "snapshot-2"), "--store-url", f"dir:{store}", *sealed])
    assert re.search(r"\r\[#{40}\] 100 %  +[0-9.]+ MB/s", shown) and "progress pages=" not in shown, shown
    assert (cluster.workdir / "snapshot").stat().st_size > 4096

    metrics = http.request(admin, "/metrics").body.decode()
    assert "maroon_dump_error 0" in metrics and "maroon_dump_failures_total 0" not in metrics, "the store that was away is counted"
    cluster.others[0].stop()
    found = reads_alike(store, seal, ctl)
    killed = begin_anew(cluster, address, store, sealed, found, ctl)

    chunk = max((path for path in (store / "chunks").rglob("*") if path.is_file()), key=lambda path: path.stat().st_mtime)
    data = bytearray(chunk.read_bytes())
    data[len(data) // 2] ^= 1
    chunk.write_bytes(data)
    said = ctl("dump", "verify", status=1)
    assert "damaged: manifests/" in ctl("dump", "verify", "--all", status=1)
    again = ctl("restore", str(home / "again"), "--cluster", "again")
    assert "taking the one before" in again and f"state hash {found['stateHash']}" in again, again
    manifest = store / json.loads((store / "latest").read_text())["manifest"]
    manifest.write_bytes(manifest.read_bytes()[:-1])
    assert manifest.name in ctl("dump", "list", status=1), "a manifest that cannot be read is named"
    for path in (store / "manifests").rglob("*"):  # on a slow machine there are more than two
        if path.is_file():
            path.write_bytes(path.read_bytes()[:-1])
    ctl("restore", str(home / "third"), "--cluster", "again", status=1)  # nothing is left that could be believed
    assert "sealed with another key, or damaged" in said, said
    print(f"{len(listed.splitlines()) - 1} dumps, the newest at epoch {found['seq']}; restored after {killed} kills; a flipped bit is found: {said.splitlines()[-1]}")


if __name__ == "__main__":
    scenario.main(dump, programs=(c.NODE, c.GATEWAY, c.CTL), root=False)
