"""Removes what tests that died (kill -9) left behind: namespaces with all that runs in them, and work directories.
cleanup.py --check only lists; exit status 1 when there is something."""
import pathlib
import re
import shutil
import sys
import tempfile

from lib import network


def directories():
    for path in pathlib.Path(tempfile.gettempdir()).glob("maroon-cluster-*"):
        match = re.match(r"maroon-cluster-(\d+)-", path.name)
        if match and not pathlib.Path(f"/proc/{match.group(1)}").exists():
            yield path


def main():
    check = "--check" in sys.argv[1:]
    names, paths = network.leftovers(), list(directories())
    for name in names:
        print(f"namespace {name}")
        if not check:
            network.remove_namespace(name)
    for path in paths:
        print(f"directory {path}")
        if not check:
            shutil.rmtree(path, ignore_errors=True)
    return 1 if check and (names or paths) else 0


if __name__ == "__main__":
    sys.exit(main())
