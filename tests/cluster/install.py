"""meson install into a directory of its own: all that belongs there is there, a program outside the tree builds with pkg-config
and talks to an installed node, man pages name every key."""
import os
import pathlib
import re
import shutil
import subprocess

import local
from lib import cluster as c
from lib import http, scenario
from lib.process import Process, wait_until

HERE = pathlib.Path(__file__).resolve().parent


def installed(root, *patterns):
    for pattern in patterns:
        assert list(root.glob(f"**/{pattern}")), f"{pattern} is not installed"


def man_pages(root):
    """Each key, and each line of what a tool says of itself."""
    for program, page in (("maroon-node", "man8/maroon-node.8"), ("maroon-gateway", "man8/maroon-gateway.8"),
                          ("maroonctl", "man1/maroonctl.1"), ("maroon-hugepages", "man8/maroon-hugepages.8")):
        (path,) = root.glob(f"**/{page}")
        text = path.read_text().replace("\\-", "-")
        (binary,) = root.glob(f"**/*bin/{program}")
        shown = subprocess.run([binary, "--help"], check=True, stdout=subprocess.PIPE, text=True).stdout
        keys = re.findall(r"^  (--[a-z-]+)(?=$|  \[)", shown, re.M) if "bin/maroon-" in str(binary) else []
        for wanted in [f"\\fB{key}\\fR" for key in keys] or shown.splitlines():
            assert wanted.replace("'", "") in text.replace("'", ""), f"{wanted!r} is not in {page}"
        assert keys or program not in ("maroon-node", "maroon-gateway")
        if shutil.which("man"):
            done = subprocess.run(["man", "--warnings", "-l", path], check=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                  text=True, env={**os.environ, "MANWIDTH": "150"})
            assert not done.stderr, done.stderr


def client(cluster, root, port):
    (directory,) = root.glob("**/pkgconfig")
    environment = {**os.environ, "PKG_CONFIG_LIBDIR": str(directory), "PKG_CONFIG_SYSROOT_DIR": str(root)}
    flags = subprocess.run(["pkg-config", "--cflags", "--libs", "maroon"], check=True, stdout=subprocess.PIPE, text=True,
                           env=environment).stdout.split()
    program = cluster.workdir / "client"
    subprocess.run(["cc", "-Wall", "-Wextra", "-Werror", "-o", program, HERE / "install_client.c", *flags, "-pthread"], check=True)
    (library,) = root.glob("**/libmaroon.so.0")
    environment = {**os.environ, "LD_LIBRARY_PATH": str(library.parent)}

    def run(setting, status):
        done = subprocess.run([program, setting], env=environment, timeout=120, stdout=subprocess.PIPE, text=True)
        assert done.returncode == status, (setting, done)
        return done.stdout
    for balance in (100, 500):  # one deposit by callback, three by polls
        polled = "".join(f"polled balance={balance + more}\n" for more in (100, 200, 300))
        assert run(f"node-urls=/ip4/127.0.0.1/udp/{port}", 0) == f"error=0 code=0 balance={balance}\n{polled}"
    assert "no-such-key" in run("no-such-key=1", 2)
    names = subprocess.run(["nm", "-D", "--defined-only", library], check=True, stdout=subprocess.PIPE, text=True).stdout
    foreign = [line for line in names.splitlines() if " T " in line and " T mrn_" not in line]
    assert not foreign, f"names that are not ours to give: {foreign}"


def install(cluster):
    root = cluster.workdir / "root"
    subprocess.run(["meson", "install", "-C", c.absolute(c.BUILD), "--no-rebuild", "--quiet", "--destdir", root], check=True,
                   stdout=subprocess.DEVNULL)
    installed(root, "bin/maroon-node", "bin/maroon-gateway", "bin/maroonctl", "sbin/maroon-hugepages", "sbin/maroon-nic",
              "include/maroon/gateway.h", "include/maroon/error.def", "maroon.pc", "maroon-node.service", "maroon/node.conf",
              "man8/maroon-nic.8", "man8/maroon-hugepages.8")
    man_pages(root)
    port = local.free_port()
    (binary,) = root.glob("**/bin/maroon-node")
    node = Process("node", [binary, "--port", port, "--admin", f"127.0.0.1:{port + 1}", "--data-dir", cluster.workdir / "data"],
                   cluster.workdir).start()
    cluster.others.append(node)
    wait_until(lambda: http.request(f"127.0.0.1:{port + 1}", "/readyz").status == 200, 60, "the node is ready", alive=[node])
    client(cluster, root, port)
    assert node.stop() == 0


if __name__ == "__main__":
    scenario.main(install, programs=(c.NODE, c.GATEWAY), root=False)
