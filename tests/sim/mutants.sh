#!/bin/sh
# Is the simulator any good? Runs sim-mutant for every planted bug of dataplane/replica/mutants.def, until a checker objects,
# and prints a line each: caught, by which check, after how many seeds. A seed that fails without the bug as well does not
# count. Seeds are mixed (sim --mixed). All bugs get a short run first; those that live get longer ones, so that the many
# cheap ones are known soon and the budget goes to the few. A bug that needs a state which one kind of seeds is made for
# (README.md) gets that kind in its short run.
# usage: mutants.sh [name...]    SEEDS_EACH (default "300 1500 6000": of the rounds), JOBS (2), BUILD (build), PROGRAM
# Rounds are counted in seeds, so that a busy machine gives the same table, only later.
# Ends with status 1 when a bug lives, or when the same seeds fail without one.
set -u
cd "$(dirname "$0")/../.." || exit 2
rounds=${SEEDS_EACH:-300 1500 6000}
jobs=${JOBS:-2}
program=${PROGRAM:-${BUILD:-build}/tests/sim/sim-mutant}
all=$(sed -n 's/^MUTANT_DEF(\([a-z0-9_]*\),.*/\1/p' dataplane/replica/mutants.def)
[ -n "$all" ] && [ -x "$program" ] || {
    echo "mutants: no list, or no $program" >&2
    exit 2
}
counts=$(mktemp -d)
trap 'rm -rf "$counts"' EXIT
trap 'exit 130' INT TERM

# Where the kind of seeds begins that a bug wants; empty: mixed.
kind_of() {
    case $1 in
    recovery_any_leader | recovery_too_few | recovery_stale_answers) echo 3000000000 ;;
    peer_owner_ignored) echo 2000000000 ;;
    bodies_gone_waited_for) echo 6000000000 ;;
    commit_unnoted) echo 7000000000 ;;
    claimant_unasked) echo 8000000000 ;;
    esac
}

# name, seeds: goes on where the last round of it ended. Sets ran (seeds), failed (check and seed) and message.
run() {
    before=$(cat "$counts/$1" 2>/dev/null || echo 0)
    first=
    kind=
    [ "$before" != 0 ] || first="--first tests/sim/seeds.txt"
    [ "$before" != 0 ] || kind=$(kind_of "$1")
    mixed=--mixed
    [ -z "$kind" ] || mixed=
    # shellcheck disable=SC2086
    output=$("$program" --mutant "$1" $first $mixed --seeds "$2" --seed-base $((${kind:-0} + before + 1)) \
        --jobs "$jobs" --no-shrink 2>&1)
    count=$(echo "$output" | sed -n 's/^\([0-9]*\) seeds, .* failed;.*/\1/p')
    ran=$((before + ${count:-0}))
    echo "$ran" >"$counts/$1"
    failed=$(echo "$output" | sed -n 's/^FAILED seed \([0-9]*\) at [0-9.]* ms: \(.*\)/\2 (seed \1)/p' | head -n 1)
    message=$(echo "$output" | sed -n '/^FAILED seed/{n;s/^ *//;p;q;}' | cut -c 1-110)
}

status=0
run none "${rounds%% *}"
if [ -n "$failed" ]; then
    echo "without a bug: FAILS by $failed: $message"
    status=1
else
    echo "without a bug: $ran seeds pass"
fi
left=${*:-$all}
planted=0
for name in $left; do planted=$((planted + 1)); done
caught=0
for seeds in $rounds; do
    alive=
    for name in $left; do
        run "$name" "$seeds"
        if [ -n "$failed" ]; then
            caught=$((caught + 1))
            echo "$name: caught by $failed after $ran seeds: $message"
        else
            alive="$alive $name"
        fi
    done
    left=$alive
done
for name in $left; do
    echo "$name: LIVES after $(cat "$counts/$name") seeds"
    status=1
done
echo "$caught of $planted planted bugs caught"
exit $status
