#!/bin/sh
# Run from the workspace as root: sh src/prepare/setup.sh
# Fetches the package qs and what its tests need, puts a fault into it, and keeps its
# tests where the agent cannot change them. The source without the fault stays nowhere.
set -eu
sha256=abffeabbdedc8e466c1bd75227e14ceb76e77f61be475dfcee0d3bbe6dd608fd

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export npm_config_cache="$work/cache" npm_config_update_notifier=false npm_config_audit=false npm_config_fund=false

# npm checks what it fetches against the digests of the lock file.
mkdir -p /opt/qs
cp src/prepare/package.json src/prepare/package-lock.json /opt/qs/
npm ci --prefix /opt/qs --ignore-scripts

(cd "$work" && npm pack --silent qs@6.13.0)
echo "$sha256  $work/qs-6.13.0.tgz" | sha256sum -c -
tar -xzf "$work/qs-6.13.0.tgz" -C "$work" --no-same-owner
tree="$work/package"
cp -R "$tree/test" "$tree/LICENSE.md" /opt/qs/
chmod -R go-w,a+rX /opt/qs

patch -p1 -d "$tree" --batch --forward --no-backup-if-mismatch < src/prepare/fault.patch
rm -rf src/prepare
# dist is the whole package in one file, as it was released.
rm -rf "$tree/dist"
cp -R "$tree/." src/
ln -s /opt/qs/node_modules src/node_modules
