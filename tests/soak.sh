#!/bin/sh
# make soak: the scenarios at full size, one after the other. Argument: rounds of crashes (default 50).
# Goes on after a failure; ends with one line per scenario, and a status that says whether all passed.
set -u
rounds=${1:-50}
here=$(dirname "$0")
export BUILD=${BUILD:-build} PYTHONDONTWRITEBYTECODE=1
summary=
status=0

soak() { # name, script and its arguments
    name=$1
    shift
    echo "=== $name: $*"
    if python3 "$here/cluster/$@"; then
        summary="$summary
passed  $name"
    else
        summary="$summary
FAILED  $name"
        status=1
    fi
}

soak crash_disk crash.py --durability disk --rounds "$rounds" --seed 101
soak crash_memory crash.py --durability memory --rounds "$rounds" --seed 102
echo "$summary"
exit $status
