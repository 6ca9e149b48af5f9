#!/bin/sh
# Does docs/drops.md have a row for every reason of proto/wire_drops.def, and none besides?
# usage: drops.sh PROJECT_ROOT
set -u
cd "${1:?project root}" || exit 2
reasons=$(sed -n 's/^WIRE_DROP([A-Z_0-9]*, "\([a-z_0-9]*\)".*/\1/p' proto/wire_drops.def | sort)
# shellcheck disable=SC2016
listed=$(sed -n 's/^| `\([a-z_0-9]*\)` |.*/\1/p' docs/drops.md | sort)
[ -n "$reasons" ] || { echo "no reason found in proto/wire_drops.def"; exit 2; }
status=0
for reason in $reasons; do
    echo "$listed" | grep -qx "$reason" || { echo "docs/drops.md has no row for $reason"; status=1; }
done
for reason in $listed; do
    echo "$reasons" | grep -qx "$reason" || { echo "docs/drops.md names $reason, which proto/wire_drops.def does not"; status=1; }
done
[ "$(echo "$listed" | uniq -d)" = "" ] || { echo "docs/drops.md has a reason twice"; status=1; }
exit $status
