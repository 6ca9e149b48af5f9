"""Mutated packets at a node's three ports for some seconds, under load: it survives and counts each drop by its reason."""
import json
import os
import subprocess

from lib import cluster as c
from lib import http, scenario

SECONDS = int(os.environ.get("MRN_SECONDS", 15))
REASONS = ("short", "magic", "version", "checksum", "session_unknown", "frame_length", "frame_kind")


def drops(cluster, index):
    return {key.split('reason="')[1].split('"')[0]: value for key, value in cluster.metrics(index).items()
            if key.startswith("maroon_rx_dropped_total{")}


def bad_input(cluster):
    cluster.start(nodes=3, gateways=1)
    cluster.network.add_host("x", 70)
    before = drops(cluster, 0)
    load = cluster.start_load(seconds=SECONDS, connections=8, timeout=SECONDS + 60)
    blaster = subprocess.run(["ip", "netns", "exec", cluster.network.namespace("x"), str(c.BLASTER), "--address",
                              cluster.node_addresses[0], "--port", str(c.PORT), "--seconds", str(SECONDS)],
                             capture_output=True, text=True, timeout=SECONDS + 30)
    assert blaster.returncode == 0, blaster.stderr
    sent = json.loads(blaster.stdout)
    result = load.wait()
    after = drops(cluster, 0)
    counted = {reason: after[reason] - before.get(reason, 0) for reason in after}
    print(f"blaster: {sent}; drops: { {reason: int(count) for reason, count in counted.items() if count} }")
    assert cluster.nodes[0].alive() and http.request(cluster.admin(0), "/healthz").status == 200
    assert sent["sent"] >= 1000 * SECONDS, "the run was worth something"
    assert sent["sessions"] > 0, "the node answered HELLO, so mutated frames came behind its sessions"
    for reason in REASONS:
        assert counted.get(reason, 0) > 0, f"nothing was dropped as {reason}: {counted}"
    assert cluster.total() == result["deposited"]
    cluster.wait_equal()


if __name__ == "__main__":
    scenario.main(bad_input, programs=(c.NODE, c.GATEWAY, c.LOAD, c.BLASTER))
