"""Removes what tests that died (kill -9) left behind: namespaces with all that runs in them, scheduling groups, work directories.
cleanup.py --check only lists; exit status 1 when there is something."""
import pathlib
import re
import shutil
import sys
import tempfile

from lib import cpu_groups, network


def directories():
    for path in pathlib.Path(tempfile.gettempdir()).glob("maroon-cluster-*"):
        match = re.match(r"maroon-cluster-(\d+)-", path.name)
        if match and not pathlib.Path(f"/proc/{match.group(1)}").exists():
            yield path


def main():
    check = "--check" in sys.argv[1:]
    names, groups, paths = network.leftovers(), cpu_groups.leftovers(network.PREFIX), list(directories())
    for name in names:
        print(f"namespace {name}")
        if not check:
            network.remove_namespace(name)
    for group in groups:
        print(f"group {group}")
        if not check:
            cpu_groups.remove(group)
    for path in paths:
        print(f"directory {path}")
        if not check:
            shutil.rmtree(path, ignore_errors=True)
    return 1 if check and (names or groups or paths) else 0


if __name__ == "__main__":
    sys.exit(main())
