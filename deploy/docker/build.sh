#!/bin/sh
# Builds the images that .env names and that are ours to build: those named *:local. Another name (ETCD_IMAGE=...) is taken
# as it is, and docker-compose pulls it.
#   build.sh            environment: DOCKER, BUILD_NETWORK, and all that .env sets
set -eu
cd "$(dirname "$0")/../.."
. deploy/docker/environment.sh

# What images are made of: our sources, without tests, measurements and what was built here; the builder's certificates.
context=$(mktemp -d "${TMPDIR:-/tmp}/maroon-images.XXXXXX")
trap 'rm -rf "$context"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
mkdir "$context/tree"
for entry in *; do
    case $entry in
    tests | perf | deploy | docker-compose.yml | build*) ;;
    *) cp -R "$entry" "$context/tree" ;;
    esac
done
mkdir -p "$context/tree/deploy"
for entry in deploy/*; do
    case $entry in
    deploy/docker | deploy/drills) ;;
    *) cp -R "$entry" "$context/tree/deploy" ;;
    esac
done
cp deploy/docker/Dockerfile "$context"
mkdir "$context/s3"
cp tests/store/package.json tests/store/package-lock.json "$context/s3"
cat /etc/ssl/certs/ca-certificates.crt >"$context/ca-certificates.crt" 2>/dev/null || true

sh deploy/docker/base-image.sh "$BASE_IMAGE" "$DEBIAN_SUITE"
for pair in "maroon $MAROON_IMAGE" "etcd $ETCD_IMAGE" "s3 $S3_IMAGE" "prometheus $PROMETHEUS_IMAGE"; do
    target=${pair%% *}
    image=${pair#* }
    case $image in
    *:local) ;;
    *) continue ;;
    esac
    began=$(date +%s)
    # The host's network: over a bridge whose MTU is larger than that of the way out, downloads stall.
    $DOCKER build --network "${BUILD_NETWORK:-host}" --build-arg BASE_IMAGE="$BASE_IMAGE" \
        --target "$target" -t "$image" "$context" >"$context/log" 2>&1 || {
        tail -n 40 "$context/log" >&2
        echo "build: $image failed" >&2
        exit 1
    }
    echo "build: $image, $(($($DOCKER image inspect --format '{{.Size}}' "$image") / 1000000)) MB, $(($(date +%s) - began)) s"
done
