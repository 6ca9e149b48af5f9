#!/bin/sh
# make bench-check: the instruction budget. Arguments: --update writes a new budget, --show lists functions.
set -eu
cd "$(dirname "$0")/.."
exec python3 perf/check.py "${BUILD:-build}/perf/maroon-perf-probe" "$@"
