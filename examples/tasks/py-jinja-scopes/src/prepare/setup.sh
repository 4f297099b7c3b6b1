#!/bin/sh
# Run from the workspace as root: sh src/prepare/setup.sh
# Fetches the source of Jinja, puts a fault into it, and keeps its tests where the
# agent cannot change them. The source without the fault stays nowhere.
set -eu
export PIP_ROOT_USER_ACTION=ignore PIP_DISABLE_PIP_VERSION_CHECK=1

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# What Jinja needs is installed into the image; pip checks what it fetches against
# the hashes.
python3 -m pip install --no-cache-dir --no-deps --require-hashes -r src/prepare/runtime.txt
python3 -m pip download --no-cache-dir --no-deps --require-hashes --no-binary=jinja2 -d "$work" -r src/prepare/source.txt

tar -xzf "$work/jinja2-3.1.4.tar.gz" -C "$work" --no-same-owner
tree="$work/jinja2-3.1.4"
mkdir -p /opt/jinja
cp -R "$tree/tests" "$tree/LICENSE.txt" /opt/jinja/
chmod -R go-w,a+rX /opt/jinja

patch -p1 -d "$tree" --batch --forward --no-backup-if-mismatch < src/prepare/fault.patch
rm -rf src/prepare
cp -R "$tree/." src/
