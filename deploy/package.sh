#!/bin/bash
# package.sh build DIRECTORY   the Debian packages, built from this tree, into DIRECTORY
# package.sh test              builds them, looks at them with lintian, installs them in a clean root made by debootstrap, starts
#                              a single node and a gateway there as the units would, asks them with curl; boots that root with
#                              systemd as its process 1, which starts the units; hangs the node until the watchdog ends it;
#                              starts them with shared-cores.conf; purges them.
#                              Root, and a Debian archive that can be reached. Leaves no file, mount or process behind.
set -euo pipefail
cd "$(dirname "$0")/.."
suite=${SUITE:-bookworm}
work=$(mktemp -d "${TMPDIR:-/tmp}/maroon-package.XXXXXX")
root=$work/root
space=                      # the process that holds the root's namespaces
net=maroon-package-$$       # its network, loopback only

end() {
    trap - EXIT INT TERM HUP
    if [ -n "$space" ]; then # with it go its processes and mounts
        kill -9 "$space" 2>/dev/null || true
        wait "$space" 2>/dev/null || true
    fi
    if [ -n "${boot:-}" ]; then
        kill -9 "$boot" 2>/dev/null || true
        wait "$boot" 2>/dev/null || true
    fi
    for group in /sys/fs/cgroup/*/"$net"; do # systemd's, empty once its processes are gone
        for _ in 1 2 3 4 5 6 7 8 9 10; do
            [ -d "$group" ] || break
            find "$group" -depth -type d -exec rmdir {} + 2>/dev/null || sleep 0.2
        done
    done
    ip netns del "$net" 2>/dev/null || true
    if grep -qF " $work/" /proc/mounts; then
        echo "package: mounts are left in $work; it is not removed" >&2
        exit 1
    fi
    rm -rf "$work"
}
trap end EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

fail() { echo "package: $1" >&2; exit 1; }

# Builds in a copy: dpkg-buildpackage writes beside and into its tree.
build() {
    mkdir "$work/maroon"
    if git rev-parse --is-inside-work-tree >/dev/null 2>&1; then
        git ls-files -z --cached --others --exclude-standard | tar -c --null --files-from=- --ignore-failed-read | tar -x -C "$work/maroon"
    else
        tar -c --exclude='./build*' --exclude=./.maroon . | tar -x -C "$work/maroon"
    fi
    echo "package: building"
    (cd "$work/maroon" && nice dpkg-buildpackage -us -uc -b) >"$work/build.log" 2>&1 || {
        tail -n 40 "$work/build.log" >&2
        fail "the build failed"
    }
    ls -l "$work"/*.deb | awk '{ print "package:", $5, "bytes", $9 }' | sed "s|$work/||"
}

# A process in namespaces of its own keeps them; enter() runs something there, in the root.
open_space() {
    unshare --mount --pid --fork --kill-child --propagation private sleep infinity &
    space=$!
    for _ in $(seq 50); do
        inner=$(pgrep -P "$space" sleep || true)
        [ -n "$inner" ] && break
        sleep 0.1
    done
    [ -n "$inner" ] || fail "no namespaces: is this root?"
    mkdir -p "$root/proc" "$root/dev" "$root/sys"
    nsenter -t "$inner" -m -p sh -ec "mount -t proc proc '$root/proc'; mount --rbind /dev '$root/dev'; mount -t sysfs -o ro sysfs '$root/sys'; mount -t tmpfs tmpfs '$root/run'"
}
enter() { nsenter -t "$inner" -m -p chroot "$root" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C DEBIAN_FRONTEND=noninteractive "$@"; }

make_root() {
    mirror=${MIRROR:-$(apt-get indextargets --format '$(REPO_URI) $(RELEASE)' 'Identifier: Packages' 2>/dev/null |
        awk -v suite="$suite" '$2 == suite { print $1; exit }')}
    echo "package: debootstrap of $suite"
    debootstrap --variant=minbase "$suite" "$root" ${mirror:+"$mirror"} >"$work/debootstrap.log" 2>&1 || {
        tail -n 20 "$work/debootstrap.log" >&2
        fail "debootstrap failed"
    }
    # The machine's own way to the archive: proxies, sources, resolver.
    cp -L /etc/resolv.conf "$root/etc/resolv.conf"
    cp -rL /etc/apt/apt.conf.d/. "$root/etc/apt/apt.conf.d/"
    if [ -f /etc/apt/apt.conf ]; then cp -L /etc/apt/apt.conf "$root/etc/apt/apt.conf"; fi
    printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d" # no service starts in a chroot
    chmod 755 "$root/usr/sbin/policy-rc.d"
}

install_packages() {
    cp "$work"/maroon_*.deb "$work"/libmaroon*.deb "$root/tmp/"
    echo "package: apt-get install"
    enter sh -c 'apt-get update -q && apt-get install -y -q --no-install-recommends /tmp/*.deb' >"$work/install.log" 2>&1 || {
        tail -n 20 "$work/install.log" >&2
        fail "the packages do not install"
    }
    rm "$root"/tmp/*.deb
    enter dpkg -V maroon libmaroon0 libmaroon-dev || fail "installed files differ from the package's"
    for program in maroon-node maroon-gateway; do
        enter "$program" --version
        enter "$program" --check-config --config "/etc/maroon/${program#maroon-}.conf" >/dev/null
    done
    enter maroon-hugepages plan --config /etc/maroon/node.conf | tail -n 1
    [ -s "$root/lib/systemd/system/maroon-node.service" ] || fail "the unit is not installed"
}

# As the unit says: its user, its directories, no privileges, its command; the network is a loopback of its own.
as_unit() { # name
    command=$(sed -n 's/^ExecStart=//p' "$root/lib/systemd/system/$1.service")
    enter install -d -m 700 -o maroon -g maroon "/run/$1"
    nsenter -t "$inner" -m -p --net="/run/netns/$net" chroot "$root" env -i PATH=/usr/bin:/bin "XDG_RUNTIME_DIR=/run/$1" \
        setpriv --reuid=maroon --regid=maroon --clear-groups --inh-caps=-all --bounding-set=-all --no-new-privs \
        $command >>"$work/$1.log" 2>&1 &
}
stop() { # signal, name: of our namespace only
    for pid in $(pgrep -x "$(echo "$2" | cut -c-15)"); do
        [ "$(readlink "/proc/$pid/ns/pid")" != "$(readlink "/proc/$inner/ns/pid")" ] || kill "-$1" "$pid"
    done
    sleep 0.5
}
ask() { nsenter --net="/run/netns/$net" curl -sS --max-time 10 "$@"; }
call() { ask -H 'content-type: application/json' -d "$2" "http://127.0.0.1:5000/bank.v1.Bank/$1"; }
await() { # name, URL
    for _ in $(seq 150); do
        ask -f -o /dev/null "$2" 2>/dev/null && return
        sleep 0.2
    done
    cat "$work/$1.log" >&2
    fail "$1 is not ready"
}

try() {
    ip netns add "$net"
    nsenter --net="/run/netns/$net" ip link set lo up
    as_unit maroon-node
    await maroon-node http://127.0.0.1:9100/readyz
    as_unit maroon-gateway
    await maroon-gateway http://127.0.0.1:5000/readyz
    echo "\$ curl localhost:5000/bank.v1.Bank/Deposit -H 'content-type: application/json' -d '{\"account\":\"1\",\"amount\":\"100\"}'"
    answer=$(call Deposit '{"account":"1","amount":"100"}')
    echo "$answer"
    [ "$answer" = '{"balance":"100"}' ] || fail "the deposit was answered with: $answer"
    [ "$(stat -c %a "$root/var/lib/maroon")" = 700 ] || fail "/var/lib/maroon is open to others"
    stop KILL maroon-node 2>/dev/null # and started again, the state is still there: durability = disk
    as_unit maroon-node
    await maroon-node http://127.0.0.1:9100/readyz
    answer=$(call Balance '{"account":"1"}')
    echo "after kill -9 and a start: $answer"
    [ "$answer" = '{"balance":"100"}' ] || fail "the balance after a restart is: $answer"
    stop TERM maroon-gateway
    stop TERM maroon-node
    grep -q 'stopped why=signal' "$work/maroon-node.log" || { cat "$work/maroon-node.log" >&2; fail "the node did not end cleanly"; }
}

# The root with systemd as process 1: namespaces and a control group of its own, /sys for reading, devices that are none.
boot() {
    if [ ! -d /sys/fs/cgroup/systemd ]; then
        echo "package: no hierarchy of control groups (version 1) for a second systemd here; its part is left out"
        return
    fi
    enter apt-get install -y -q --no-install-recommends systemd curl >"$work/systemd.log" 2>&1 || { tail "$work/systemd.log" >&2; fail "systemd does not install"; }
    mkdir -p "/sys/fs/cgroup/systemd/$net"
    cat >"$work/boot.sh" <<'BOOT'
set -e
mount --bind "$1" "$1"
cd "$1"
mount -t proc proc proc
mount -t sysfs -o ro sysfs sys
mount -t tmpfs -o mode=755 tmpfs sys/fs/cgroup
mkdir sys/fs/cgroup/systemd
mount -t cgroup -o none,name=systemd cgroup sys/fs/cgroup/systemd
mount -t tmpfs -o mode=755 tmpfs dev
for device in null zero full random urandom tty; do cp -a "/dev/$device" dev/; done
mkdir dev/shm dev/pts
ln -s /proc/self/fd dev/fd
ln -s pts/ptmx dev/ptmx
mount -t tmpfs tmpfs dev/shm
mount -t tmpfs -o mode=755 tmpfs run
ip link set lo up
mkdir -p old
pivot_root . old
cd /
umount -l /old
rmdir /old
exec env -i container=maroon PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --unit=multi-user.target
BOOT
    sh -c 'echo $$ >"/sys/fs/cgroup/systemd/$0/cgroup.procs"; exec "$@"' "$net" \
        unshare --mount --uts --ipc --net --pid --cgroup --fork --kill-child --propagation private sh "$work/boot.sh" "$root" >"$work/boot.log" 2>&1 &
    boot=$!
    for _ in $(seq 100); do
        one=$(pgrep -P "$boot" systemd || true)
        [ -n "$one" ] && [ "$(booted systemctl is-system-running 2>/dev/null)" = running ] && break
        sleep 0.2
    done
    [ "$(booted systemctl is-system-running)" = running ] || { cat "$work/boot.log" >&2; fail "systemd does not come up"; }
    booted systemctl start maroon-node maroon-gateway || { booted journalctl --no-pager -n 30 >&2; fail "the units do not start"; }
    booted systemctl status --no-pager -n 0 maroon-node
    for _ in $(seq 50); do
        answer=$(booted curl -sS -H 'content-type: application/json' -d '{"account":"1"}' localhost:5000/bank.v1.Bank/Balance || true)
        [ "$answer" = '{"balance":"100"}' ] && break
        sleep 0.2
    done
    echo "under systemd $(booted systemctl --version | head -n 1): $answer"
    [ "$answer" = '{"balance":"100"}' ] || fail "under systemd the balance is: $answer"
    hang
    shared_cores
    booted systemctl stop maroon-gateway maroon-node
    [ "$(booted systemctl show --value -p Result maroon-node)" = success ] || fail "the node does not stop cleanly"
    kill -9 "$boot"
    wait "$boot" 2>/dev/null || true
    boot=
}
booted() { nsenter -t "$one" -m -u -i -n -p -C -r -w env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C "$@"; }

# A thread of the dataplane is held still: the node withholds the watchdog, and systemd ends it and starts it again.
hang() {
    node=
    for pid in $(pgrep -x maroon-node); do
        [ "$(readlink "/proc/$pid/ns/pid")" != "$(readlink "/proc/$one/ns/pid")" ] || node=$pid
    done
    python3 - "$node" <<'HOLD'
import ctypes, os, pathlib, sys, time
SEIZE, INTERRUPT, ALL = 0x4206, 0x4207, 0x40000000
pid = int(sys.argv[1])
thread = next(int(p.name) for p in pathlib.Path(f"/proc/{pid}/task").iterdir() if (p / "comm").read_text() == "stage-0\n")
ptrace = ctypes.CDLL(None, use_errno=True).ptrace
if ptrace(SEIZE, thread, None, None) or ptrace(INTERRUPT, thread, None, None):
    sys.exit("ptrace is not possible here")
began = time.monotonic()
while pathlib.Path(f"/proc/{pid}").exists() and time.monotonic() < began + 30:
    try:
        os.waitpid(thread, ALL | os.WNOHANG)
    except ChildProcessError:
        break
    time.sleep(0.05)
print(f"a thread of the dataplane was held still: the node was ended after {time.monotonic() - began:.1f} s")
HOLD
    for _ in $(seq 100); do
        answer=$(booted curl -sS -m 5 -H 'content-type: application/json' -d '{"account":"1"}' localhost:5000/bank.v1.Bank/Balance || true)
        [ "$answer" = '{"balance":"100"}' ] && break
        sleep 0.2
    done
    restarts=$(booted systemctl show --value -p NRestarts maroon-node)
    echo "restarts by systemd: $restarts; then: $answer"
    booted journalctl --no-pager -u maroon-node | grep -E 'watchdog_withheld|Watchdog timeout' || fail "no word of the watchdog"
    [ "$restarts" = 1 ] && [ "$answer" = '{"balance":"100"}' ] || fail "the node did not come back"
}

# The drop-in for cores that are shared, put where its README says: both units start with it, at its weight.
shared_cores() {
    for unit in maroon-node maroon-gateway; do
        mkdir -p "$root/etc/systemd/system/$unit.service.d"
        cp "$root/usr/share/doc/maroon/systemd/shared-cores.conf" "$root/etc/systemd/system/$unit.service.d/"
    done
    booted systemctl daemon-reload
    booted systemctl restart maroon-node maroon-gateway || { booted journalctl --no-pager -n 30 >&2; fail "the units do not start with shared-cores.conf"; }
    for unit in maroon-node maroon-gateway; do
        nice=$(booted cut -d ' ' -f 19 "/proc/$(booted systemctl show --value -p MainPID "$unit")/stat")
        echo "with shared-cores.conf $unit runs at nice $nice"
        [ "$nice" = -15 ] || fail "$unit runs at nice $nice"
        rm -r "$root/etc/systemd/system/$unit.service.d"
    done
    booted systemctl daemon-reload
}

purge() {
    enter apt-get purge -y -q maroon libmaroon0 libmaroon-dev >"$work/purge.log" 2>&1 || { cat "$work/purge.log" >&2; fail "purge failed"; }
    left=$(find "$root" -xdev -name '*maroon*' -not -path '*/var/log/*' -not -path '*/var/cache/*' -not -path '*/run/*')
    [ -z "$left" ] || fail "after purge there are still: $left"
}

case ${1:-} in
build)
    build
    mkdir -p "${2:-build-package}"
    cp "$work"/*.deb "${2:-build-package}/"
    ;;
test)
    [ "$(id -u)" = 0 ] || fail "needs root: debootstrap and namespaces"
    build
    # The project has no mail address.
    lintian --allow-root --suppress-tags bogus-mail-host,bogus-mail-host-in-debian-changelog --fail-on error,warning "$work"/*.changes || fail "lintian complains"
    make_root
    open_space
    install_packages
    try
    boot
    purge
    echo "package: ok"
    ;;
*) echo "usage: $0 build DIRECTORY | test" >&2; exit 2 ;;
esac
