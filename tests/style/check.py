"""Style as a program: what the compiler does not see. Each complaint says what to do instead.
check.py [ROOT]; exit status 1 when there are complaints, 77 when clang-format is missing and all else is well."""
import pathlib
import re
import shutil
import subprocess
import sys

ROOT = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ".").resolve()
ROOMS = ("proto", "config", "dataplane", "controlplane", "runtime", "gateway", "hugepages", "include", "examples", "perf",
         "tests")
LINES_MAX = 900

# (pattern, what to do instead, pattern of paths it holds for)
RULES = (
    (r"^\s*typedef\s+(struct|enum|union)\b[^(]*$", "name it with its tag: struct x", r"\.[ch]$"),
    (r"[ \t]+$", "no blanks at the end of a line", r"\.(c|h|def|py|sh|md|build)$"),
    (r"\t", "indent with spaces", r"\.(c|h|def|py|build)$"),
    (r"\b(sprintf|vsprintf|gets|strcat|atoi|atol)\s*\(", "use snprintf, strtoul", r"\.[ch]$"),
    (r"\bs?rand\s*\(", "use a seeded generator of one's own: libc's has one state for the whole process",
     r"^(?!tests/).*\.[ch]$"),
    (r"^\s*default:(?!.*/\*)", "list every value of an enum; over something else, say so in a comment on this line",
     r"^(proto|config|dataplane|controlplane|runtime|gateway)/.*\.[ch]$"),
    (r"\bassert\(!\w+ [&|=<>]", "assert(!(a op b)): the ! binds to the first operand only", r"\.[ch]$"),
    (r"#pragma once", "an include guard MAROON_…_H", r"\.h$"),
)


def files():
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*")):
            if path.is_file() and not path.name.endswith((".pb-c.c", ".pb-c.h")):
                yield path


def check_lines(path, name, text):
    for pattern, instead, where in RULES:
        if not re.search(where, name) or path.name == "check.py":
            continue
        for number, line in enumerate(text.splitlines(), 1):
            if re.search(pattern, line):
                yield f"{name}:{number}: {line.strip()[:60]!r}: {instead}"


def check_file(path, name, text):
    if path.suffix in (".c", ".h") and len(text.splitlines()) > LINES_MAX:
        yield f"{name}: more than {LINES_MAX} lines: a file has one purpose; split it"
    if path.suffix == ".h":
        if not re.search(r"^#ifndef MAROON_\w+_H$", text, re.M):
            yield f"{name}: needs an include guard MAROON_…_H"
        if not text.startswith("/*"):
            yield f"{name}: a header begins with its contract: what it is, threads, ownership, errors, invariants"
    if text and not text.endswith("\n"):
        yield f"{name}: needs a newline at its end"


def check_rooms():
    for room in ("proto", "config", "dataplane", "controlplane", "runtime", "gateway", "hugepages", "deploy", "tests"):
        if (ROOT / room).is_dir() and not (ROOT / room / "README.md").exists():
            yield f"{room}/README.md: missing: say in a few lines what the room does and which file does what"


def literals(text, call):
    """The strings that `call` is given, each joined from its pieces."""
    for found in re.finditer(call + r'((?:\s*(?:"[^"]*"|PRI\w+))+)', text):
        yield re.sub(r'"\s*(?:PRI\w+)?\s*"', "", found.group(1)).strip().strip('"')


def check_operations():
    """Every alarm has a row that says what to do, every row an alarm; every metric a page names is there."""
    page = (ROOT / "docs/operations.md").read_text()
    rows = re.findall(r"^\| `([^`(]+)", re.search(r"^## Alarms$(.*?)^## ", page, re.M | re.S).group(1), re.M)
    sources = {path: path.read_text() for room in ("controlplane", "gateway") for path in sorted((ROOT / room).rglob("*.c"))}
    alarms = list(literals(sources[ROOT / "controlplane/admin_epochs.c"], r"add\(array,"))
    alarms += list(literals(sources[ROOT / "controlplane/admin_dumps.c"], "ret_text, ADMIN_ALARM_BYTES,"))
    for alarm in alarms:
        if not any(row.strip() in alarm for row in rows):
            yield f"docs/operations.md: no row for the alarm {alarm!r}"
    for row in rows:
        if not any(row.strip() in alarm for alarm in alarms):
            yield f"docs/operations.md: nobody raises {row!r}"
    names = set(re.findall(r'(?:"maroon_|"|maroon_)([a-z_]+)', "".join(sources.values())))
    for path in sorted((ROOT / "docs").glob("*.md")):
        for metric in re.findall(r"\bmaroon_([a-z_]+[a-z])\b", path.read_text()):
            if re.sub(r"_(bucket|sum|count)$", "", metric) not in names and metric not in names:
                yield f"{path.name}: there is no metric maroon_{metric}"


def check_format(paths):
    """Complaints of clang-format; None when it is not installed."""
    if not shutil.which("clang-format"):
        return None
    complaints = []
    for path in paths:
        done = subprocess.run(["clang-format", "--dry-run", "-Werror", "--ferror-limit=1", str(path)], capture_output=True,
                              text=True, cwd=ROOT)
        if done.returncode != 0:
            line = done.stderr.split(":", 3)[1] if done.stderr.count(":") > 2 else "?"
            complaints.append(f"{path.relative_to(ROOT)}:{line}: not formatted; run make format")
    return complaints


def main():
    complaints = list(check_rooms()) + list(check_operations())
    code = []
    for path in files():
        if path.suffix not in (".c", ".h", ".def", ".py", ".sh", ".md") and path.name != "meson.build":
            continue
        name = path.relative_to(ROOT).as_posix()
        text = path.read_text(errors="replace")
        complaints += check_lines(path, name, text)
        complaints += check_file(path, name, text)
        if path.suffix in (".c", ".h"):
            code.append(path)
    formatted = check_format(code)
    complaints += formatted or []
    for complaint in complaints:
        print(complaint)
    if complaints:
        print(f"{len(complaints)} complaints")
        return 1
    if formatted is None:
        print("skipped: clang-format is not installed")
        return 77
    print(f"{len(code)} C files")
    return 0


if __name__ == "__main__":
    sys.exit(main())
