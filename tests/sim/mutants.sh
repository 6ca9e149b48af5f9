#!/bin/sh
# Is the simulator any good? Builds it once for every bug planted in the replica (REPLICA_MUTANT(name) in
# dataplane/replica, chosen by -DMUTANT=name), runs seeds until a checker objects, and prints a line each.
# usage: mutants.sh [name...]    SECONDS_EACH (default 60), SEEDS (20000), JOBS (2), CC (cc)
# Ends with status 1 when a mutant lives, or when the replica without a mutant fails the same seeds.
set -u
cd "$(dirname "$0")/../.." || exit 2
seconds=${SECONDS_EACH:-60}
seeds=${SEEDS:-20000}
jobs=${JOBS:-2}
directory=$(mktemp -d "${TMPDIR:-/tmp}/maroon-mutants.XXXXXX") || exit 2
trap 'rm -rf "$directory"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

names=${*:-$(grep -ho 'REPLICA_MUTANT([a-z0-9_]*)' dataplane/replica/*.c dataplane/replica/*.h |
    sed 's/.*(\(.*\))/\1/' | grep -v '^name$' | sort -u)}
if [ -z "$names" ]; then
    echo "no REPLICA_MUTANT(name) in dataplane/replica" >&2
    exit 1
fi

flags="-O2 -g -std=gnu11 -D_GNU_SOURCE -march=x86-64-v2 -I. -Iinclude -w"
build() { # output, flags: the replica; everything else was compiled before
    # shellcheck disable=SC2086
    ${CC:-cc} $flags $2 -o "$1" dataplane/replica/*.c "$directory"/*.o -lsodium
}
for source in tests/sim/*.c gateway/core/*.c proto/*.c; do
    object=$directory/$(echo "$source" | tr / _).o
    # shellcheck disable=SC2086
    ${CC:-cc} $flags -c -o "$object" "$source" || exit 2
done

living=0
run() { # name, program: prints the line
    output=$(timeout $((seconds * 3)) "$2" --first tests/sim/seeds.txt --seeds "$seeds" --seconds "$seconds" \
        --jobs "$jobs" --no-shrink 2>&1)
    ran=$(echo "$output" | sed -n 's/^\([0-9]*\) seeds, .* failed;.*/\1/p')
    failed=$(echo "$output" | sed -n 's/^FAILED seed \([0-9]*\) at [0-9.]* ms: \(.*\)/\2 (seed \1)/p' | head -n 1)
    message=$(echo "$output" | sed -n '/^FAILED seed/{n;p;q;}' | cut -c 1-110)
}

build "$directory/sim" "" || exit 2
run none "$directory/sim"
if [ -n "$failed" ]; then
    echo "without a mutant: FAILS by $failed:$message"
    living=1
else
    echo "without a mutant: ${ran:-0} seeds pass"
fi
for name in $names; do
    build "$directory/mutant" "-DMUTANT=$name" || exit 2
    run "$name" "$directory/mutant"
    if [ -n "$failed" ]; then
        echo "$name: caught by $failed after ${ran:-?} seeds:$message"
    else
        echo "$name: LIVES after ${ran:-?} seeds"
        living=1
    fi
done
exit $living
