"""Adds up meson's test logs in a directory: one line per test that failed or was skipped, then
"N passed, N failed, N skipped". A file NAME.broken counts as one failure (a build). Exit status 1 if any failed."""
import json
import pathlib
import sys

PASSED = {"OK", "EXPECTEDFAIL"}
SKIPPED = {"SKIP", "IGNORED"}


def reason(test):
    """The last line that a skipped test wrote."""
    lines = (test.get("stdout", "") + "\n" + test.get("stderr", "")).strip().splitlines()
    return lines[-1] if lines else ""


def main():
    directory = pathlib.Path(sys.argv[1])
    counts = {"passed": 0, "failed": 0, "skipped": 0}
    notes = []
    for log in sorted(directory.glob("*.json")):
        for line in log.read_text(errors="replace").splitlines():
            test = json.loads(line)
            result = test["result"]
            name = f"{log.stem}: {test['name']}"
            if result in PASSED:
                counts["passed"] += 1
            elif result in SKIPPED:
                counts["skipped"] += 1
                notes.append(f"skipped  {name}  {reason(test)}")
            else:
                counts["failed"] += 1
                notes.append(f"FAILED   {name}  ({result}, {test.get('duration', 0):.1f} s)")
    for broken in sorted(directory.glob("*.broken")):
        counts["failed"] += 1
        notes.append(f"FAILED   {broken.stem}  (did not build)")
    if sum(counts.values()) == 0:
        counts["failed"] = 1
        notes.append("FAILED   no test ran")
    print("\n".join([""] + notes))
    print("{passed} passed, {failed} failed, {skipped} skipped".format(**counts), flush=True)
    return 1 if counts["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
