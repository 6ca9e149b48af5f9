#!/bin/sh
# Installs the Debian or Ubuntu packages that maroon needs, and only those that are missing.
#   install-deps.sh run    to build and run a node and a gateway
#   install-deps.sh test   the same, and what the tests need (default)
#   install-deps.sh package  what builds run, and what makes and tries the Debian package
#   install-deps.sh compose  what docker-compose.yml, its images and the drills on it need
# Silent, fast and offline when nothing is missing. Uses sudo only when something is. Starts no service.
set -eu

run_packages="gcc libc6-dev make meson ninja-build pkg-config python3 curl
  libdpdk-dev libnuma-dev libbsd-dev libsodium-dev liburing-dev
  libprotobuf-c-dev protobuf-c-compiler protobuf-compiler
  libcurl4-openssl-dev libjansson-dev libmicrohttpd-dev libwslay-dev libexpat1-dev libmd-dev libzstd-dev"
test_packages="clang libclang-rt-14-dev clang-format clang-tidy libcmocka-dev valgrind jq util-linux procps
  etcd-server etcd-client iproute2 nftables ethtool openssl systemd"
# For the S3 server of the tests; a node that came another way serves as well.
command -v node >/dev/null && command -v npm >/dev/null || test_packages="$test_packages nodejs npm"
compose_packages="docker.io docker-compose debootstrap iptables python3 curl jq iproute2 nftables util-linux procps"

package_packages="debhelper dpkg-dev fakeroot lintian debootstrap util-linux iproute2 procps"

case "${1:-test}" in
run) packages=$run_packages ;;
package) packages="$run_packages $package_packages" ;;
test) packages="$run_packages $test_packages" ;;
compose)
    packages=$compose_packages
    if ! dpkg-query -W docker.io >/dev/null 2>&1 && docker info >/dev/null 2>&1; then # another Docker serves as well
        packages=$(echo $packages | sed 's/docker.io//')
        ! docker compose version >/dev/null 2>&1 || packages=$(echo $packages | sed 's/docker-compose//')
    fi
    ;;
*) echo "usage: $0 run|test|package|compose" >&2; exit 2 ;;
esac

if ! command -v dpkg-query >/dev/null; then
    echo "install-deps: this is not Debian or Ubuntu; install what these packages hold, then go on: $(echo $packages)" >&2
    exit 1
fi

installed=$(dpkg-query -W -f='${db:Status-Status} ${binary:Package} ${Provides}\n' | sed -n 's/^installed //p' | tr ' ,' '\n\n' | sed 's/:.*//' | sort -u)
missing=
for package in $packages; do
    printf '%s\n' "$installed" | grep -qxF "$package" || missing="$missing $package"
done
[ -n "$missing" ] || exit 0
echo "install-deps: missing:$missing"

if [ "$(id -u)" != 0 ]; then
    if ! command -v sudo >/dev/null; then
        echo "install-deps: not root and no sudo; as root run: apt-get install$missing" >&2
        exit 1
    fi
    exec sudo -- sh "$0" "${1:-test}"
fi

# A package must not start its service here (etcd-server would): the packaging scripts ask policy-rc.d.
guard=/usr/sbin/policy-rc.d
if [ ! -e "$guard" ]; then
    trap 'rm -f "$guard"' EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    printf '#!/bin/sh\nexit 101\n' >"$guard"
    chmod 755 "$guard"
fi

export DEBIAN_FRONTEND=noninteractive
install() { apt-get install -y -q --no-install-recommends $missing </dev/null; }

known=yes
for package in $missing; do
    apt-cache show "$package" >/dev/null 2>&1 || known=no
done
[ "$known" = yes ] || apt-get update -q
if ! install; then # the lists may be older than the archive
    apt-get update -q
    install
fi
