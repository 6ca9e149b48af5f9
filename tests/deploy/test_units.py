"""The units: systemd finds no mistake in them, and they stay as hard as they are."""
import re
import shutil
import subprocess
import sys

import fake

DEPLOY = fake.BUILD / "deploy"
EXPOSURE_MAX = {"maroon-node": 2.0, "maroon-gateway": 2.0, "maroon-hugepages": 2.5}
DROP_INS = {"af_packet": 2.5, "af_xdp": 2.5, "pci": 2.5}  # exposure with each, allowed


def units(tree, name, drop_in=None):
    """A copy with programs that exist here, so that only the unit is judged."""
    text = (DEPLOY / f"{name}.service").read_text()
    for program, path in (("maroon-node", "maroon-node"), ("maroon-gateway", "maroon-gateway"),
                          ("maroon-hugepages", "hugepages/maroon-hugepages")):
        text = re.sub(rf"(Exec\w+=)\S*/{program} ", rf"\g<1>{fake.BUILD / path} ", text)
    text = re.sub(r"^Documentation=.*\n", "", text, flags=re.M)  # man pages are not installed here
    tree.write(f"units/{name}.service", text)
    if drop_in:
        tree.write(f"units/{name}.service.d/{drop_in}.conf",
                   (fake.ROOT / f"deploy/systemd/maroon-node.service.d/{drop_in}.conf").read_text())
    return tree.path / "units" / f"{name}.service"


def exposure(path):
    text = fake.run(["systemd-analyze", "security", "--no-pager", "--offline=yes", path])
    return float(re.search(r"exposure level for \S+: ([\d.]+)", text).group(1))


def verify(tree):
    for name in EXPOSURE_MAX:
        text = fake.run(["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", units(tree, name)])
        assert not text, text


def security(tree):
    for name, most in EXPOSURE_MAX.items():
        level = exposure(units(tree, name))
        print(f"{name}: exposure {level}")
        assert level <= most, f"{name}: exposure {level}, at most {most}"


def drop_ins(tree):
    for name, most in DROP_INS.items():
        path = units(tree, "maroon-node", name)
        assert not fake.run(["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", path])
        shutil.rmtree(tree.path / "units")


def keys_exist(tree):
    """The config files are right for their programs, also with every line that is commented out."""
    for program, name in (("maroon-node", "node.conf"), ("maroon-gateway", "gateway.conf")):
        text = (fake.ROOT / "deploy/etc" / name).read_text()
        fake.run([fake.BUILD / program, "--check-config", "--config", tree.write(name, text)])
        whole = re.sub(r"^# (?=[a-z-]+ = )", "", text, flags=re.M)
        fake.run([fake.BUILD / program, "--check-config", "--config", tree.write(name, whole)])


if not shutil.which("systemd-analyze") or subprocess.run(["systemd-analyze", "--version"], stdout=subprocess.DEVNULL).returncode:
    print("skipped: no systemd-analyze")
    sys.exit(77)
fake.main(verify, security, drop_ins, keys_exist)
