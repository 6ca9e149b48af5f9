"""Scheduling groups (cgroups, controller cpu): each program in one of its own, two levels deep, as Docker puts containers.
The kernel shares CPUs among groups first, so a program that yields gives way to its own group's others only."""
import pathlib
import time

CGROUPS = pathlib.Path("/sys/fs/cgroup")


def place():
    """Directory under which groups can be made, or None where this machine has none for the CPU."""
    if (CGROUPS / "cgroup.controllers").exists():  # version 2
        controllers = (CGROUPS / "cgroup.subtree_control").read_text().split()
        return CGROUPS if "cpu" in controllers else None
    version_1 = CGROUPS / "cpu"
    return version_1 if (version_1 / "cgroup.procs").exists() else None


class CpuGroups:
    """make(name) gives the file into which a process writes itself; stop() removes all groups once they are empty."""

    def __init__(self, base):
        root = place()
        assert root, "no CPU groups here"
        self.directory = root / base
        self.directory.mkdir()
        if root == CGROUPS:
            (self.directory / "cgroup.subtree_control").write_text("+cpu")

    def make(self, name):
        group = self.directory / name
        group.mkdir(exist_ok=True)
        return group / "cgroup.procs"

    def stop(self):
        remove(self.directory)


def remove(directory):
    groups = [path for path in sorted(directory.glob("**/"), reverse=True) if path != directory] + [directory]
    for group in groups:
        for _ in range(100):
            try:
                group.rmdir()
                break
            except FileNotFoundError:
                break
            except OSError:  # the last process is on its way out
                time.sleep(0.02)


def leftovers(prefix):
    """Groups of tests whose process is gone."""
    root = place()
    found = root.glob(f"{prefix}-*") if root else []
    return [path for path in found if not pathlib.Path(f"/proc/{path.name.split('-')[1]}").exists()]
