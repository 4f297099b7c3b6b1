#!/bin/sh
# Run from the workspace as root: sh src/prepare/setup.sh
# Fetches the crate bytes and what its tests need, puts a fault into it, and keeps its
# tests where the agent cannot change them. The source without the fault stays nowhere.
set -eu

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# cargo compares what it fetches with the digests of its index and writes them down.
mkdir -p /opt/bytes
CARGO_HOME="$work/cargo" cargo vendor --quiet --manifest-path src/prepare/Cargo.toml "$work/vendor" > "$work/config.toml"
while read -r name sha256; do
  grep -q "\"package\":\"$sha256\"" "$work/vendor/$name/.cargo-checksum.json" || {
    echo "$name is not what it should be" >&2
    exit 1
  }
done < src/prepare/sha256

tree="$work/bytes"
mv "$work/vendor/bytes" "$tree"
rm "$tree/.cargo-checksum.json"
mv "$work/vendor" /opt/bytes/vendor
# Only the tests with a model checker need loom; they are not run here.
sed -i '/^\[target\."cfg(loom)"/,$d' "$tree/Cargo.toml"
# Where cargo finds the dependencies without a network.
mkdir "$tree/.cargo"
cat > "$tree/.cargo/config.toml" <<'END'
[source.crates-io]
replace-with = "vendored"

[source.vendored]
directory = "/opt/bytes/vendor"

[net]
offline = true
END
(cd "$tree" && CARGO_HOME="$work/cargo" cargo generate-lockfile --quiet --offline)
mkdir /opt/bytes/crate
cp -R "$tree/Cargo.toml" "$tree/Cargo.lock" "$tree/.cargo" "$tree/tests" "$tree/benches" "$tree/LICENSE" /opt/bytes/crate/
chmod -R go-w,a+rX /opt/bytes

patch -p1 -d "$tree" --batch --forward --no-backup-if-mismatch < src/prepare/fault.patch
rm -rf src/prepare
cp -R "$tree/." src/
