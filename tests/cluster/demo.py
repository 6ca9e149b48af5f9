"""The README's first command, ended after its calls: it shows them with their answers and leaves nothing."""
import os
import subprocess

from lib import cluster as c
from lib import scenario
from local import free_port


def demo(cluster):
    port = free_port()
    temporary = cluster.workdir / "tmp"
    temporary.mkdir()
    environment = {**os.environ, "NODE": str(c.absolute(c.NODE)), "GATEWAY": str(c.absolute(c.GATEWAY)),
                   "DEMO_ONCE": "1", "PORT": str(port), "GATEWAY_PORT": str(port), "ADMIN": f"127.0.0.1:{port + 1}",
                   "TMPDIR": str(temporary)}
    done = subprocess.run(["bash", str(c.ROOT / "deploy/demo.sh")], env=environment, capture_output=True, text=True,
                          timeout=240, stdin=subprocess.DEVNULL)
    print(done.stdout)
    assert done.returncode == 0, done.stderr
    for expected in ('{"balance":"100"}', '"fromBalance":"70"', "failed_precondition", '{"total":"100"}', '"executed"'):
        assert expected in done.stdout.replace(" ", ""), f"{expected} is not shown"
    left = subprocess.run(["pgrep", "-f", f"--port {port}|--http-port {port}"], capture_output=True, text=True).stdout
    assert not left.strip(), f"left running: {left}"
    assert not list(temporary.iterdir()), "files are left"


if __name__ == "__main__":
    scenario.main(demo, root=False)
