#!/bin/sh
# Installs the S3 server for tests, s3rver of the lock file, into a directory, once, with npm.
#   install.sh DIRECTORY
# Exit status 77: there is no node or npm here, or the package cannot be had now.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
directory=$1
command -v node >/dev/null && command -v npm >/dev/null || { echo "store: no node or npm here" >&2; exit 77; }
mkdir -p "$directory"
exec 9>"$directory/lock"
flock 9
cmp -s "$here/package-lock.json" "$directory/installed" && exit 0
cp "$here/package.json" "$here/package-lock.json" "$directory/"
npm ci --prefix "$directory" --ignore-scripts --no-audit --no-fund --loglevel=error >"$directory/log" 2>&1 9>&- || {
    tail -n 5 "$directory/log" >&2
    echo "store: npm could not install s3rver" >&2
    exit 77
}
cp "$here/package-lock.json" "$directory/installed"
