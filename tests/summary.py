"""Adds up meson's test logs in a directory: what each test that failed said last (meson shows a hundred lines, of a cluster that is
one log of a dozen), one line per test that failed or was skipped, then "N passed, N failed, N skipped". A file NAME.broken counts as
one failure (a build). Exit status 1 if any failed."""
import json
import pathlib
import sys

PASSED = {"OK", "EXPECTEDFAIL"}
SKIPPED = {"SKIP", "IGNORED"}
BEGIN_LINES, END_LINES = 60, 400


def reason(test):
    """The last line that a skipped test wrote."""
    lines = (test.get("stdout", "") + "\n" + test.get("stderr", "")).strip().splitlines()
    return lines[-1] if lines else ""


def show(name, test):
    """Of a long output the begin, where a scenario says how far it came, and the end."""
    lines = (test.get("stdout", "") + "\n" + test.get("stderr", "")).strip().splitlines()
    if len(lines) > BEGIN_LINES + END_LINES:
        lines = lines[:BEGIN_LINES] + [f"... {len(lines) - BEGIN_LINES - END_LINES} lines ..."] + lines[-END_LINES:]
    print("\n".join(["", f"=== {name}", *(line[:500] for line in lines)]))


def without_s3(test):
    """Says whether the test had to do without the S3 server that it wants."""
    said = test.get("stdout", "") + test.get("stderr", "")
    return "THERE IS NO S3 SERVER HERE" in said or "no node or npm here" in said or "could not install s3rver" in said


def main():
    directory = pathlib.Path(sys.argv[1])
    counts = {"passed": 0, "failed": 0, "skipped": 0}
    notes, blind = [], []
    for log in sorted(directory.glob("*.json")):
        for line in log.read_text(errors="replace").splitlines():
            test = json.loads(line)
            result = test["result"]
            name = f"{log.stem}: {test['name']}"
            if without_s3(test):
                blind.append(name)
            if result in PASSED:
                counts["passed"] += 1
            elif result in SKIPPED:
                counts["skipped"] += 1
                notes.append(f"skipped  {name}  {reason(test)}")
            else:
                counts["failed"] += 1
                notes.append(f"FAILED   {name}  ({result}, {test.get('duration', 0):.1f} s)")
                show(name, test)
    for broken in sorted(directory.glob("*.broken")):
        counts["failed"] += 1
        notes.append(f"FAILED   {broken.stem}  (did not build)")
    if sum(counts.values()) == 0:
        counts["failed"] = 1
        notes.append("FAILED   no test ran")
    print("\n".join([""] + notes))
    if blind:
        line = "!" * 100
        print(f"{line}\nS3 WAS NOT TESTED: npm could not install s3rver here. These ran on a directory, or not at all:\n"
              f"{', '.join(blind)}\n{line}")
    print("{passed} passed, {failed} failed, {skipped} skipped".format(**counts), flush=True)
    return 1 if counts["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
