#!/bin/sh
# make test: build, style, unit, fuzz, simulation and cluster tests; the unit tests again under ASan and UBSan.
# Ends with one summary over all of them, after what the failed ones said. Arguments: meson suites to run (default all).
# Each test is given three times the seconds that it is given elsewhere: it costs nothing unless one hangs.
set -u
build=${BUILD:-build}
asan=${BUILD_ASAN:-build-asan}
results=$(mktemp -d "${TMPDIR:-/tmp}/maroon-test.XXXXXX")
trap 'rm -rf "$results"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

prepare() { # directory, options of meson setup
    directory=$1
    shift
    [ ! -f "$directory/build.ninja" ] || set -- --reconfigure "$@" # a room that is new is not noticed otherwise
    meson setup "$directory" "$@" >"$results/log" 2>&1 || {
        tail -n 30 "$results/log"
        return 1
    }
    ninja -C "$directory" >"$results/log" 2>&1 || {
        grep -A 8 -E 'error|FAILED' "$results/log" | head -n 80
        return 1
    }
}

run() { # directory, name, options of meson test
    directory=$1
    name=$2
    shift 2
    rm -f "$directory/meson-logs/testlog.json"
    meson test -C "$directory" --no-rebuild --print-errorlogs "$@"
    [ ! -f "$directory/meson-logs/testlog.json" ] || cp "$directory/meson-logs/testlog.json" "$results/$name.json"
}

suites=
for suite in "$@"; do suites="$suites --suite $suite"; done

if prepare "$build"; then
    run "$build" all --timeout-multiplier 3 $suites
else
    echo "tests: the build failed" >&2
    touch "$results/build.broken"
fi
if [ $# = 0 ]; then
    if prepare "$asan" -Db_sanitize=address,undefined -Db_lundef=false -Dbuildtype=debugoptimized; then
        ASAN_OPTIONS=${ASAN_OPTIONS:-detect_leaks=1} UBSAN_OPTIONS=${UBSAN_OPTIONS:-halt_on_error=1:print_stacktrace=1} \
            run "$asan" asan --suite unit --suite asan --timeout-multiplier 8
    else
        echo "tests: the build with sanitizers failed" >&2
        touch "$results/asan.broken"
    fi
fi
python3 tests/summary.py "$results"
