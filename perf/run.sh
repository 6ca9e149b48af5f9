#!/bin/sh
# make bench: maroon-perf. Arguments: profiles and options of bench.py, also as PROFILES="epoch failover".
set -eu
cd "$(dirname "$0")/.."
build=${BUILD:-build} marks=${MARKS:-build-marks}
ninja -C "$build" --quiet
[ -f "$marks/build.ninja" ] || meson setup "$marks" -Dperf_marks=true >/dev/null
ninja -C "$marks" --quiet maroon-node perf/maroon-perf-probe perf/maroon-perf-net
# shellcheck disable=SC2086
exec "$build/maroon-perf" ${PROFILES:-} "$@"
