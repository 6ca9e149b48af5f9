#!/bin/sh
# See drill.py, or --help.
exec python3 "$(dirname "$0")/drill.py" delay-etcd "$@"
