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
soak handover_memory handover.py --count 20
soak handover_disk handover.py --count 20 --durability disk
soak failover failover.py --rounds "$((rounds / 2 + 1))" --quiet-seconds 60 # asserts the target: p50 30 ms, max 150 ms
soak etcd_away etcd_away.py --seconds 60
soak etcd_slow etcd_slow.py --delays 20,50,200 --rounds 5
soak etcd_trouble etcd_trouble.py
soak drills drills.py --rounds 20
soak bootstrap_1gib bootstrap.py --mib 1024 --kills 3 --interval 10
soak bootstrap_directory bootstrap.py --directory
soak store_faults store_faults.py --kills 30 --seconds 20 --away 600 --mib 64
soak store_faults_1gib store_faults.py --kills 30 --seconds 20 --away 20 --mib 1024 --interval 3 --spread 4
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
