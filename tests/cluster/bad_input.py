"""Mutated packets at a node's three ports for some seconds, under load: it survives and counts each drop by its reason. Then
it stands still while they come: what its port's ring has no room for is counted too."""
import json
import os
import subprocess

from lib import cluster as c
from lib import http, scenario
from lib.process import wait_until

SECONDS = int(os.environ.get("MRN_SECONDS", 15))
REASONS = ("short", "magic", "version", "checksum", "session_unknown", "frame_length", "frame_kind")


def drops(cluster, index):
    return {key.split('reason="')[1].split('"')[0]: value for key, value in cluster.metrics(index).items()
            if key.startswith("maroon_rx_dropped_total{")}


def blast(cluster, seconds):
    blaster = subprocess.run(["ip", "netns", "exec", cluster.network.namespace("x"), str(c.BLASTER), "--address",
                              cluster.node_addresses[0], "--port", str(c.PORT), "--seconds", str(seconds)],
                             capture_output=True, text=True, timeout=seconds + 120)
    assert blaster.returncode == 0, blaster.stderr
    return json.loads(blaster.stdout)


def overflow(cluster):
    before = drops(cluster, 0)["port_full"]
    cluster.nodes[0].pause()
    sent = blast(cluster, 2)["sent"]
    cluster.nodes[0].resume()
    wait_until(lambda: drops(cluster, 0)["port_full"] > before, 60, f"frames that did not fit are counted ({sent} sent)")


def bad_input(cluster):
    cluster.start(nodes=3, gateways=1)
    cluster.network.add_host("x", 70)
    before = drops(cluster, 0)
    load = cluster.start_load(seconds=SECONDS, connections=8, timeout=SECONDS + 120)
    sent = blast(cluster, SECONDS)
    result = load.wait()
    after = drops(cluster, 0)
    counted = {reason: after[reason] - before.get(reason, 0) for reason in after}
    print(f"blaster: {sent}; drops: { {reason: int(count) for reason, count in counted.items() if count} }")
    assert cluster.nodes[0].alive() and http.request(cluster.admin(0), "/healthz").status == 200
    assert sent["sent"] >= 200 * SECONDS, "the run was worth something"
    assert sent["sessions"] > 0, "the node answered HELLO, so mutated frames came behind its sessions"
    for reason in REASONS:
        assert counted.get(reason, 0) > 0, f"nothing was dropped as {reason}: {counted}"
    overflow(cluster)
    assert cluster.total() == result["deposited"]
    cluster.wait_equal()


if __name__ == "__main__":
    scenario.main(bad_input, programs=(c.NODE, c.GATEWAY, c.LOAD, c.BLASTER))
