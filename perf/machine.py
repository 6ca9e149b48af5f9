"""What was measured on: a dictionary for the head of every result."""
import os
import pathlib
import platform
import subprocess


def _first(path, key):
    try:
        for line in pathlib.Path(path).read_text().splitlines():
            if line.startswith(key):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return "unknown"


def _text(path):
    try:
        return pathlib.Path(path).read_text().strip()
    except OSError:
        return "unknown"


def commit():
    """Of this tree, wherever it is called from."""
    done = subprocess.run(["git", "-C", pathlib.Path(__file__).resolve().parent, "describe", "--always", "--dirty"],
                          capture_output=True, text=True)
    return done.stdout.strip() or "unknown"


def describe():
    return {
        "cpu": _first("/proc/cpuinfo", "model name"),
        "cores": len(os.sched_getaffinity(0)),
        "memory": _first("/proc/meminfo", "MemTotal"),
        "kernel": platform.release(),
        "sched_autogroup": _text("/proc/sys/kernel/sched_autogroup_enabled"),
        "load_at_start": [round(value, 2) for value in os.getloadavg()],
        "commit": commit(),
    }


def steal():
    """Ticks that the machine's owner took away, and ticks in all: a run with much of it says little."""
    words = [int(word) for word in pathlib.Path("/proc/stat").read_text().splitlines()[0].split()[1:]]
    return words[7] if len(words) > 7 else 0, sum(words[:8])
