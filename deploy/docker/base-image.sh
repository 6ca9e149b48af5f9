#!/bin/sh
# Makes the image that all others begin with: a minimal Debian, by debootstrap, for machines that can pull no image.
# Does nothing when the image is there: built before, pulled, or tagged by hand.
#   base-image.sh NAME [SUITE]        environment: DOCKER, MIRROR (default: where this machine's apt gets the suite)
set -eu

name=${1:?usage: $0 NAME [SUITE]}
suite=${2:-bookworm}
source_of() { # suite: the archive this machine's apt gets it from, or nothing
    apt-get indextargets --format '$(REPO_URI) $(RELEASE)' 'Identifier: Packages' 2>/dev/null |
        awk -v suite="$1" '$2 == suite { print $1; exit }'
}
mirror=${MIRROR:-$(source_of "$suite")}
security=$(source_of "$suite-security")
docker=${DOCKER:-docker}

if $docker image inspect "$name" >/dev/null 2>&1; then
    exit 0
fi
if [ "$(id -u)" != 0 ]; then
    echo "base-image: making $name takes root (debootstrap); or pull one and set BASE_IMAGE, for example debian:$suite-slim" >&2
    exit 1
fi

root=$(mktemp -d "${TMPDIR:-/tmp}/maroon-base.XXXXXX")
# A debootstrap that is interrupted leaves its mounts of /proc and /sys.
clean() {
    for mount in $(awk -v root="$root/" 'index($2, root) == 1 { print $2 }' /proc/mounts | sort -r); do
        umount "$mount" || umount -l "$mount"
    done
    rm -rf --one-file-system "$root"
}
trap clean EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

echo "base-image: $name from debootstrap of $suite"
debootstrap --variant=minbase --include=ca-certificates "$suite" "$root" ${mirror:+"$mirror"} >"$root.log" 2>&1 || {
    tail -n 20 "$root.log" >&2
    echo "base-image: debootstrap failed" >&2
    exit 1
}
rm -f "$root.log"

# Security updates are a suite of their own; images take them.
if [ -z "${MIRROR:-}" ] && [ -n "$security" ]; then
    echo "deb $security $suite-security main" >>"$root/etc/apt/sources.list"
fi

# What a container has no use for. Packages that come later leave it out too.
cat >"$root/etc/dpkg/dpkg.cfg.d/container" <<'RULES'
force-unsafe-io
path-exclude /usr/share/doc/*
path-include /usr/share/doc/*/copyright
path-exclude /usr/share/man/*
path-exclude /usr/share/info/*
path-exclude /usr/share/locale/*
path-exclude /usr/share/lintian/*
RULES
printf '%s\n' 'APT::Install-Recommends "false";' 'Acquire::Languages "none";' \
    'Dir::Cache::pkgcache ""; Dir::Cache::srcpkgcache "";' 'DPkg::Post-Invoke { "rm -f /var/cache/apt/archives/*.deb || true"; };' >"$root/etc/apt/apt.conf.d/container"
printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d" # packages start no service
chmod 755 "$root/usr/sbin/policy-rc.d"
find "$root/usr/share/doc" -mindepth 2 ! -name copyright -type f -delete
rm -rf "$root/usr/share/man" "$root/usr/share/info" "$root/usr/share/locale" "$root/usr/share/lintian" \
    "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root"/var/log/* "$root"/var/cache/debconf/*-old
mkdir -p "$root/var/cache/apt/archives/partial" "$root/var/lib/apt/lists/partial"

tar -C "$root" --one-file-system -c . |
    $docker import --change 'CMD ["bash"]' --message "debootstrap $suite" - "$name" >/dev/null
