#!/bin/sh
# Run from the workspace: sh tests/run.sh
# The hidden tests become integration tests of a copy of the crate.
set -eu
work=$(mktemp -d /tmp/verify.XXXXXX)
trap 'rm -rf "$work"' EXIT
mkdir "$work/crate" "$work/crate/tests"
cp -R src/Cargo.toml src/src "$work/crate/"
cp tests/*.rs "$work/crate/tests/"
export HOME="$work" CARGO_HOME="$work/cargo" CARGO_TARGET_DIR="$work/target" CARGO_NET_OFFLINE=true CARGO_INCREMENTAL=0 \
  CARGO_PROFILE_TEST_DEBUG=0 CARGO_PROFILE_DEV_DEBUG=0 CARGO_PROFILE_TEST_OPT_LEVEL=1 CARGO_PROFILE_DEV_OPT_LEVEL=1
cd "$work/crate"
cargo test --offline --no-fail-fast --jobs 2 -- --test-threads=2
