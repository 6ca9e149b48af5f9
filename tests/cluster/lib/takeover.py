"""How long take-overs take, by what the new leader itself noted (`takeover` of /v1/status): monotonic moments, shared by all
processes of one machine, so that no poll of a test is in the figure."""
from .process import wait_until

STEPS = ("silent", "alone", "campaign", "won", "promised", "established", "committed")
NONE_ENDED = object()
PARTS = ("sliceFloor", "sliceRtt", "sliceEtcd", "sliceGap")


class Takeover:
    """One leader's end (`ended_us`, CLOCK_MONOTONIC) and what came of it."""

    def __init__(self, node, ended_us, noted):
        self.node = node
        self.term = int(noted["term"])
        self.heard_us = int(noted["heardAtUs"]) - ended_us  # last frame of the old leader: mostly just before its end
        self.at_us = {step: self.heard_us + int(noted[f"{step}Us"]) for step in STEPS}
        self.committed_ms = self.at_us["committed"] / 1e3
        self.distance = noted["distance"]
        self.paused_ms = int(noted["pausedUs"]) / 1e3
        self.slice_ms = int(noted["sliceUs"]) / 1e3
        self.longest_gap_ms = int(noted["longestGapUs"]) / 1e3
        self.parts_ms = {part: int(noted[f"{part}Us"]) / 1e3 for part in PARTS}

    def __str__(self):
        steps = " ".join(f"{step} {self.at_us[step] / 1e3:.1f}" for step in STEPS)
        parts = ", ".join(f"{part[5:].lower()} {value:.1f}" for part, value in self.parts_ms.items())
        return (f"committed after {self.committed_ms:.1f} ms by n{self.node} (distance {self.distance}); heard "
                f"{self.heard_us / 1e3:.1f} {steps}; own pauses {self.paused_ms:.1f}; slice {self.slice_ms:.1f} ({parts}; longest gap "
                f"{self.longest_gap_ms:.1f})")


def wait_next(cluster, indexes, term, ended_us, seconds=60):
    """The take-over of the first term above `term` that one of the nodes leads and commits in; False when that was before
    `ended_us`, so that it was no leader that ended."""
    def found():
        noted = []
        for index in indexes:
            try:
                takeover = cluster.status(index)["takeover"]
            except OSError:
                continue
            if takeover and int(takeover["term"]) > term:
                noted.append(Takeover(index, ended_us, takeover))
        first = min(noted, key=lambda t: t.term) if noted else None
        return first and (first if first.committed_ms > 0 else NONE_ENDED)
    found_one = wait_until(found, seconds, "an epoch committed under a new term", interval=0.02)
    return found_one is not NONE_ENDED and found_one


def spread(takeovers):
    """One line: how many, p50 and max of the time to the next committed epoch, and of each step."""
    def of(values):
        values = sorted(values)
        return f"p50 {values[len(values) // 2]:.1f} max {values[-1]:.1f}"
    lines = [f"leader's end -> next epoch committed, ms: {len(takeovers)} times, {of([t.committed_ms for t in takeovers])}"]
    before = "heard"
    for step in STEPS:
        taken = [(t.at_us[step] - (t.at_us[before] if before in t.at_us else t.heard_us)) / 1e3 for t in takeovers]
        lines.append(f"  {before} -> {step}: {of(taken)}")
        before = step
    lines.append(f"  slice: {of([t.slice_ms for t in takeovers])}; " + "; ".join(
        f"{part[5:].lower()} {of([t.parts_ms[part] for t in takeovers])}" for part in PARTS))
    return "\n".join(lines)


def median_and_max_ms(takeovers):
    values = sorted(t.committed_ms for t in takeovers)
    return values[len(values) // 2], values[-1]
