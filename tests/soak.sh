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

soak crash_disk crash.py --durability disk --rounds "$rounds" --seed 101 --p50-ms 500 --max-ms 2000
soak crash_memory crash.py --durability memory --rounds "$rounds" --seed 102 --p50-ms 500 --max-ms 2000
soak handover_memory handover.py --count 20
soak handover_disk handover.py --count 20 --durability disk
soak failover failover.py --rounds "$((rounds / 2 + 1))" --quiet-seconds 60 # asserts the target: p50 30 ms, max 150 ms
soak etcd_away etcd_away.py --seconds 60 --return-seconds 2 --member-gap-ms 500
soak etcd_slow etcd_slow.py --delays 20,50,200 --rounds 5
soak etcd_trouble etcd_trouble.py
soak drills drills.py --rounds 20
soak bootstrap_1gib bootstrap.py --mib 1024 --kills 3 --interval 10
soak bootstrap_directory bootstrap.py --directory
soak store_faults store_faults.py --seconds 20
soak store_away store_faults.py --only --faults away --away 600 --control 60 --interval 5 --mib 64
soak dump_kills dump_kills.py --mib 64 --kills 10
# 30 kills at 1 GiB, five a time; the first run fills the state and leaves its dump to the others to begin with.
state=$(mktemp -d)
for seed in 1 2 3 4 5 6; do
    soak "dump_kills_1gib_$seed" dump_kills.py --mib 1024 --kills 5 --interval 5 --seed "$seed" --state "$state"
done
soak lost_all_1gib lost_all.py --mib 1024 --state "$state"
rm -rf "$state"
soak incremental_1gib incremental.py --mib 1024
soak lost_all_directory lost_all.py --directory
echo "=== one hour of publication ticks: etcd stays flat"
if MAROON_TICKS=57600 "$BUILD/tests/unit/controlplane/test_controlplane_arbiter_publish"; then
    summary="$summary
passed  etcd_flat"
else
    summary="$summary
FAILED  etcd_flat"
    status=1
fi
echo "$summary"
exit $status
