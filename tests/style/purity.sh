#!/bin/sh
# Are the replica and the gateway's core pure (protocol: the replica's contract)? Compiles them by themselves, without sanitizers or
# hardening, links each into one object, and looks at it: undefined symbols, writable statics, instructions that ask the machine.
# usage: purity.sh PROJECT_ROOT [room...]    CC (cc)
set -u
cd "${1:?project root}" || exit 2
shift
directory=$(mktemp -d "${TMPDIR:-/tmp}/maroon-purity.XXXXXX") || exit 2
trap 'rm -rf "$directory"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

allowed='memcpy|memset|memmove|memcmp|__assert_fail|wire_[a-z0-9_]+'
impure=0
[ $# -gt 0 ] || set -- dataplane/replica gateway/core
for room in "$@"; do
    name=$(echo "$room" | tr / _)
    for source in "$room"/*.c; do
        ${CC:-cc} -std=gnu11 -O2 -D_GNU_SOURCE -march=x86-64-v2 -fno-stack-protector -U_FORTIFY_SOURCE -w -I. -Iinclude \
            -c "$source" -o "$directory/$name-$(basename "$source" .c).o" || exit 2
    done
    ld -r -o "$directory/$name" "$directory/$name"-*.o || exit 2
    foreign=$(nm -u "$directory/$name" | awk '{print $NF}' | grep -vxE "$allowed")
    writable=$(nm "$directory/$name" | awk '$2 ~ /^[bBdDsSC]$/ {print $3}')
    # shellcheck disable=SC2016
    asked=$(objdump -d --no-show-raw-insn "$directory/$name" | grep -oE '\b(rdtscp?|rdrand|rdseed|syscall|sysenter|cpuid|int +\$0x80)\b' | sort -u)
    for word in $foreign; do echo "$room: calls $word"; done
    for word in $writable; do echo "$room: writable static $word"; done
    for word in $asked; do echo "$room: instruction $word"; done
    [ -n "$foreign$writable$asked" ] && impure=1
done
[ $impure = 0 ] && echo "pure: $*"
exit $impure
