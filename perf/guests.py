"""Measuring clients and echo servers in network namespaces beside running nodes: what the fabrics of processes share."""
import json
import subprocess
import time

import bench

ECHO_PORT = 4000


class Guests:
    """Mixed into a cluster. A guest is (name, address). The cluster has: namespace(name), guest_environment(name), node_list(),
    and host(), which makes a guest; `links` says how one is reached where the fabric is no af_packet."""

    build = bench.BUILD
    fabric = "af_packet"
    nice = 0

    def __init__(self):
        super().__init__()
        self.guests = []

    def links(self, own, count, what="link"):
        return {}

    def client_links(self):
        return {}

    def command(self, guest, measurement, **options):
        name, address = guest
        environment = [f"{key}={value}" for key, value in self.guest_environment(name).items()]
        if "links" not in options:
            options = {"fabric": "af_packet", "interface": "eth0", "address": f"{address}/24", **options}
        return ["nice", "-n", str(self.nice), "ip", "netns", "exec", self.namespace(name), "env", *environment,
                str(self.build / "perf/maroon-perf-net"), measurement, *bench.probe_options(options)]

    def run(self, guest, measurement, **options):
        """One run: the probe's JSON, or None with the reason on stderr."""
        return bench.run_probe(self.command(guest, measurement, **options), measurement)

    def client_command(self, guest, **options):
        return self.command(guest, "client", nodes=self.node_list(), **self.client_links(), **options)

    def client(self, guest, **options):
        return self.run(guest, "client", nodes=self.node_list(), **self.client_links(), **options)

    def clients(self, count, **options):
        """So many gateways at once, each a process of its own: rates added up, latencies of the slowest."""
        while len(self.guests) < count:
            self.guests.append(self.host())
        running = [subprocess.Popen(self.client_command(guest, **options), stdout=subprocess.PIPE, text=True)
                   for guest in self.guests[:count]]
        found = [json.loads(output) for output in (process.communicate(timeout=bench.PROBE_SECONDS)[0] for process in running) if output]
        if len(found) < count:
            return None
        slowest = max(found, key=lambda result: result["latency"]["p50"])
        return {**slowest, "per_s": sum(result["per_s"] for result in found)}

    def echo(self, guest, servers, **options):
        """The floor: a round trip of empty packets, with as many processes polling and yielding as the cluster has."""
        links, to = [{}] * (len(servers) + 1), servers[0][1]
        if self.fabric != "af_packet":
            self.echoes = getattr(self, "echoes", 0) + 1
            links, to = [self.links(i, len(servers) + 1, f"echo{self.echoes}") for i in range(len(servers) + 1)], "10.99.0.1"
        running = [subprocess.Popen(self.command(server, "echo", server=1, seconds=30, port=ECHO_PORT, **links[i]),
                                    stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for i, server in enumerate(servers)]
        time.sleep(1.0)
        try:
            found = self.run(guest, "echo", to=f"{to}:{ECHO_PORT}", port=ECHO_PORT, **links[-1], **options)
            return found if all(process.poll() is None for process in running) else None  # with fewer pollers it is another floor
        finally:
            for process in running:
                process.kill()
                process.wait()
