#!/bin/sh
# Is the simulator any good? Runs sim-mutant once for every planted bug of dataplane/replica/mutants.def, until a checker
# objects, and prints a line each: caught, by which check, after how many seeds. A seed that fails without the bug as well
# does not count. First the seeds as they come, then rough ones, which keep logs unequal.
# usage: mutants.sh [name...]    SEEDS (default 6000, then 24000 rough ones), SECONDS_EACH (at most 400, twice), JOBS (2), BUILD (build)
# Ends with status 1 when a bug lives, or when the same seeds fail without one.
set -u
cd "$(dirname "$0")/../.." || exit 2
seconds=${SECONDS_EACH:-400}
seeds=${SEEDS:-6000}
jobs=${JOBS:-2}
program=${BUILD:-build}/tests/sim/sim-mutant
all=$(sed -n 's/^MUTANT_DEF(\([a-z0-9_]*\),.*/\1/p' dataplane/replica/mutants.def)
[ -n "$all" ] && [ -x "$program" ] || {
    echo "mutants: no list, or no $program" >&2
    exit 2
}

run() { # name: sets ran (seeds), failed (check and seed) and message
    ran=0
    for base in 1 1000000000; do
        [ $base = 1 ] && count=$seeds || count=$((4 * seeds))
        output=$("$program" --mutant "$1" --first tests/sim/seeds.txt --seeds $count --seed-base $base \
            --seconds "$seconds" --jobs "$jobs" --no-shrink 2>&1)
        count=$(echo "$output" | sed -n 's/^\([0-9]*\) seeds, .* failed;.*/\1/p')
        ran=$((ran + ${count:-0}))
        failed=$(echo "$output" | sed -n 's/^FAILED seed \([0-9]*\) at [0-9.]* ms: \(.*\)/\2 (seed \1)/p' | head -n 1)
        message=$(echo "$output" | sed -n '/^FAILED seed/{n;s/^ *//;p;q;}' | cut -c 1-110)
        [ -z "$failed" ] || return
    done
}

living=0
SEEDS_ALL=$seeds
seeds=$((seeds / 6)) # the test proper runs many more of these
run none
seeds=$SEEDS_ALL
if [ -n "$failed" ]; then
    echo "without a bug: FAILS by $failed: $message"
    living=1
else
    echo "without a bug: $ran seeds pass"
fi
planted=0
caught=0
for name in ${*:-$all}; do
    planted=$((planted + 1))
    run "$name"
    if [ -n "$failed" ]; then
        caught=$((caught + 1))
        echo "$name: caught by $failed after $ran seeds: $message"
    else
        echo "$name: LIVES after $ran seeds"
        living=1
    fi
done
echo "$caught of $planted planted bugs caught"
exit $living
