"""A node with a store dumps its state; maroonctl reads the store without the node, and finds damage in it."""
import subprocess

import local
from lib import cluster as c
from lib import http, scenario
from lib.process import wait_until


def dump(cluster):
    home = cluster.workdir / "home"
    store = home / "store"
    address = local.start(cluster, ["--durability", "disk", "--data-dir", str(home / "data"), "--store-url", f"dir:{store}",
                                    "--dump-interval-s", "1"])
    host, port = address.split(":")
    admin = f"{host}:{int(port) + 1}"

    def dumps():
        return http.request(admin, "/v1/status").json()["dumps"]

    def ctl(*words, status=0):
        done = subprocess.run([c.absolute(c.CTL), *words, "--store-url", f"dir:{store}", "--admin", admin],
                              capture_output=True, text=True, timeout=60)
        assert done.returncode == status, (words, done)
        return done.stdout + done.stderr

    wait_until(lambda: dumps()["error"] == "NO_STORE", 20, "a store that is not there is named", alive=cluster.others)
    store.mkdir()
    store.chmod(0o777)

    for account in range(1, 201):
        answer = http.call(address, c.BANK, "Deposit", {"account": str(account), "amount": "5"})
        assert answer.status == 200, answer
    epoch = int(answer.headers["maroon-epoch"])
    assert "asked" in ctl("dump", "now")
    wait_until(lambda: int(dumps()["latestSeq"]) >= epoch, 20, "the newest deposit is in a dump", alive=cluster.others)
    assert dumps()["error"] is None, dumps()
    assert f"epoch {dumps()['latestSeq']}" in ctl("dump", "verify"), "the newest dump is whole"
    listed = ctl("dump", "list")
    ctl("dump", "fetch", str(cluster.workdir / "snapshot"))
    assert (cluster.workdir / "snapshot").stat().st_size > 4096

    metrics = http.request(admin, "/metrics").body.decode()
    assert "maroon_dump_error 0" in metrics and "maroon_dump_failures_total 0" not in metrics, "the store that was away is counted"
    cluster.others[0].stop()
    chunk = max((path for path in (store / "chunks").rglob("*") if path.is_file()), key=lambda path: path.stat().st_mtime)
    data = bytearray(chunk.read_bytes())
    data[len(data) // 2] ^= 1
    chunk.write_bytes(data)
    said = ctl("dump", "verify", status=1)
    assert "stored bytes fail their checksum" in said, said
    print(f"{len(listed.splitlines()) - 1} dumps, the newest at an epoch >= {epoch}; a flipped bit is found: {said.splitlines()[-1]}")


if __name__ == "__main__":
    scenario.main(dump, programs=(c.NODE, c.GATEWAY, c.CTL), root=False)
