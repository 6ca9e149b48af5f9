#!/bin/sh
# Builds the checker three times and runs the lists below, one run at a time: about 20 minutes, under 6 GB.
# usage: run.sh [bugs|readings|design|all] [DIRECTORY for programs and outputs, default build/model]    CXX (g++)
# Every run has limits of states and of seconds of CPU (CAPPED: not exhaustive). Ends with status 1 when a run differs from what is expected.
set -u
cd "$(dirname "$0")" || exit 2
what=${1:-all}
out=${2:-../../build/model}
mkdir -p "$out" || exit 2

build() { # program, flags
    # shellcheck disable=SC2086
    ${CXX:-g++} -O3 -march=native -w -std=c++17 $2 check.cpp -o "$out/$1" || exit 2
}
build check3 "-DN=3"
build check3m "-DN=3 -DMEM"
build check5m "-DN=5 -DMEM"

# name of the run (begins with its switch, if it has one) | program | arguments
bugs='
B_ACK_NOBODY|3|T=2 E=1 C=1 B1=1 weak nomono
B_ACK_BODY_UNSYNCED|3|T=2 E=1 C=1 B1=1 weak nomono
B_ACK_LOG_UNSYNCED|3|T=2 E=1 C=1 B1=0 weak nomono nolost
B_OLDTERM|3|eager T=4 E=2 C=0 B1=0 weak nomono nolost nolive
B_PROMISE_VOLATILE|3|T=2 E=1 C=1 B1=0 weak nomono nolost
B_AMNESIA_VOTES|3m|mem T=2 E=1 C=1 B1=0 weak nolost
B_LONGEST|3|eager T=3 E=2 C=0 B1=0 weak nomono nolost nolive
B_CUT_COMMITTED|3|T=2 E=3 C=0 B1=0 weak nolost
B_ACCEPT_OLD|3|T=2 E=1 C=0 B1=0 weak nomono nolost
B_OLDINC|3m|mem T=2 E=2 C=1 B1=0 weak nolost
B_ACK_LAST|3|T=3 E=2 C=0 B1=0 weak nomono nolost nolive
B_ASSUME_WIN|3|T=2 E=1 C=0 B1=0 weak nomono
B_PROMISE_K1|3|T=2 E=1 C=0 B1=0 weak
B_ACK_AFTER_PROMISE|3|T=2 E=1 C=0 B1=1 weak nomono
B_STALE_VECTOR|3|eager T=2 E=2 C=0 B1=2 weak nolost
B_STRETCH_NOPROM|3|X_STRETCH T=3 E=2 C=1 B1=0 weak nolost
B_STRETCH_REPLACED|3|X_STRETCH T=3 E=2 C=1 B1=0 weak nolost
B_STRETCH_LEADER|3|X_STRETCH T=3 E=2 C=1 B1=0 weak nolost
'
readings='
L_CUT_GAP|3|T=3 E=3 C=1 B1=0 weak nolost nolive
L_CUT_DIFF|3|eager T=3 E=3 C=2 B1=0 weak nolost nolive
L_ADOPT_CUT|3|T=3 E=1 C=1 B1=0 weak nolost
L_PROMISE_ALL|3|T=2 E=1 C=1 B1=1
L_NORAISE|3|T=3 E=1 C=0 B1=0 weak nomono nolost
L_COMMIT_NOCHECK|3|T=2 E=1 C=0 B1=0 weak
L_RESUME|3|T=2 E=1 C=1 B1=0 weak
L_RESUME2|3|T=1 E=1 C=1 B1=0 weak
L_REC_NOPROM|3m|mem T=2 E=2 C=1 B1=0 weak nolost pre1 eager
L_REC_NOBODIES|3m|mem T=2 E=1 C=1 B1=1 weak
L_REC_ANYLEADER|3m|mem eager T=3 E=2 C=1 B1=0 weak nolost
L_ANS_STALE|3m|mem eager T=2 E=2 C=2 B1=0 weak nolost
L_INC_LOCAL|5m|mem pre1 eager T=2 E=2 C=1 B1=0 weak nolost nolive taker=1 crasher=2
L_DIGEST_OUT|3|variants T=2 E=1 C=0 B1=1 weak nolost
L_SEAL_COMMITTED|3|seal T=1 E=2 C=0 B1=1 weak
COLD_START|3m|mem cold T=2 E=1 C=0 B1=0 stuckclass=1
'
design='
L_PROMISE_ALL.gwalive|3|gwalive eager nomono T=2 E=2 C=1 B1=1 nolost
X_PROM_UNORDERED|3|eager nomono nolost T=2 E=2 C=2 B1=1 secs=60 maxstates=20000000
X_NOSEEN|3m|mem eager nomono T=2 E=2 C=1 B1=1 nolost
X_STRETCH|3|nomono T=3 E=2 C=1 B1=0 nolost secs=100 maxstates=60000000
X_STRETCH.bodies|3|eager nomono T=3 E=2 C=1 B1=1 nolost secs=100 maxstates=60000000
X_STRETCH.mem|3m|mem eager nomono T=3 E=2 C=1 B1=0 nolost secs=60 maxstates=30000000
X_ADOPT_STEPS|3|eager nomono T=3 E=3 C=1 B1=0 nolost secs=60 maxstates=30000000
X_ADOPT_STEPS.all|3|X_STRETCH eager nomono T=3 E=3 C=2 B1=0 nolost secs=100 maxstates=60000000
X_ADOPT_STEPS.mem|3m|X_STRETCH mem eager nomono T=3 E=3 C=1 B1=0 nolost secs=60 maxstates=30000000
disk-3-2-2-1|3|eager nomono T=3 E=2 C=2 B1=1 nolost secs=400 maxstates=92000000
disk-3-2-1-1|3|eager nomono T=3 E=2 C=1 B1=1 nolost secs=200 maxstates=92000000
disk-3-3-2-0|3|eager nomono T=3 E=3 C=2 B1=0 nolost secs=150 maxstates=92000000
disk-4-2-1-0|3|eager nomono T=4 E=2 C=1 B1=0 nolost secs=60 maxstates=40000000
disk-lostput|3|eager nomono T=3 E=1 C=2 B1=1 secs=60 maxstates=40000000
disk-noreduction|3|nosym T=2 E=2 C=1 B1=1 secs=120 maxstates=40000000
disk-mono|3|T=2 E=2 C=1 B1=1 secs=60 maxstates=40000000
disk-livedfs|3|eager nomono nolost T=2 E=2 C=1 B1=1 livedfs secs=60
variants-livedfs|3|variants nolost T=2 E=1 C=1 B1=1 livedfs secs=60
disk-2bodies|3|eager nomono T=2 E=2 C=1 B1=2 nolost secs=150 maxstates=60000000
disk-2ranges|3|eager nomono T=2 E=1 C=2 B1=1 B2=1 nolost secs=60 maxstates=40000000
disk-outoforder|3|eager nomono ooo T=2 E=2 C=0 B1=2 nolost secs=60 maxstates=40000000
variants-2-2-1|3|eager nomono variants T=2 E=2 C=1 B1=1 nolost secs=60 maxstates=40000000
variants-2-1-2|3|eager nomono variants T=2 E=1 C=2 B1=1 nolost secs=60 maxstates=40000000
seal-2-2-1|3|eager nomono seal T=2 E=2 C=1 B1=1 nolost secs=60 maxstates=40000000
mem-3-2-1-1|3m|eager nomono mem T=3 E=2 C=1 B1=1 nolost secs=200 maxstates=28000000
mem-3-2-2-0|3m|eager nomono mem T=3 E=2 C=2 B1=0 nolost secs=60 maxstates=30000000
mem-3-3-1-0|3m|eager nomono mem T=3 E=3 C=1 B1=0 nolost secs=60 maxstates=30000000
mem-2-2-2-1|3m|eager nomono mem T=2 E=2 C=2 B1=1 nolost secs=60 maxstates=30000000
mem-livedfs|3m|mem T=2 E=1 C=1 B1=1 livedfs secs=60
mem-3-2-2-1|3m|eager nomono mem T=3 E=2 C=2 B1=1 nolost secs=300 maxstates=88000000
n5-mem-etcdread|5m|L_INC_LOCAL F_ETCD_INC mem pre1 eager nomono T=2 E=2 C=1 B1=0 nolost secs=60 maxstates=12000000
n5-mem-2-2-1|5m|eager nomono mem pre1 T=2 E=2 C=1 B1=0 nolost secs=100 maxstates=12000000
'
different=0
go() { # expected result, list
    while IFS='|' read -r name program arguments; do
        [ -n "$name" ] || continue
        case $name in
        B_* | L_* | X_*) switch=${name%%.*} ;;
        *) switch= ;;
        esac
        # shellcheck disable=SC2086
        "$out/check$program" $switch $arguments >"$out/$name.txt" 2>&1
        result=$(grep -oE '^(PASS|FAIL|CAPPED)|initial state is stuck' "$out/$name.txt" | head -n 1)
        printf '%-22s %-8s trace %-3s %9s states %7s s  %s\n' "$name" "${result%% *}" \
            "$(sed -n 's/.*trace length \([0-9]*\).*/\1/p' "$out/$name.txt")" \
            "$(sed -n 's/^  states \([0-9]*\).*/\1/p' "$out/$name.txt")" \
            "$(sed -n 's/.* \([0-9.]*\) s\( .*\)*$/\1/p' "$out/$name.txt" | head -n 1)" \
            "$(sed -n 's/^  \(10\..*\)/\1/p' "$out/$name.txt" | head -n 1)"
        case $1:$result in
        FAIL:FAIL | FAIL:initial* | PASS:PASS) ;;
        *)
            echo "    expected $1"
            different=1
            ;;
        esac
    done <<EOF_LIST
$2
EOF_LIST
}
case $what in bugs | all) echo "== planted bugs: each must FAIL" && go FAIL "$bugs" ;; esac
case $what in readings | all) echo "== readings that an earlier wording permitted: each must FAIL" && go FAIL "$readings" ;; esac
case $what in design | all) echo "== the design: each must PASS" && go PASS "$design" ;; esac
exit $different
