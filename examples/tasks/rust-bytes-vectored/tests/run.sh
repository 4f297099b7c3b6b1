#!/bin/sh
# Run from the workspace: sh tests/run.sh
# Of src only the sources of the crate are used. Manifest, tests and dependencies are
# those that setup has put into /opt/bytes, which nobody but root can write to. The
# hidden tests become one more integration test of the crate.
set -eu

# In a function, so that the shell has read everything before the tests begin.
verify() {
  work=$(mktemp -d "$PWD/.verify.XXXXXX") # not in /tmp, which is memory
  trap 'rm -rf "$work"' EXIT
  cp -R /opt/bytes/crate "$work/crate"
  cp -R src/src "$work/crate/src"
  cp tests/vectored.rs "$work/crate/tests/"
  printf '\n[[test]]\nname = "vectored"\npath = "tests/vectored.rs"\n' >> "$work/crate/Cargo.toml"
  export HOME="$work" CARGO_HOME="$work/cargo" CARGO_TARGET_DIR="$work/target" CARGO_INCREMENTAL=0 \
    CARGO_PROFILE_TEST_DEBUG=0 CARGO_PROFILE_DEV_DEBUG=0
  cd "$work/crate"
  status=0
  cargo test --locked --offline --no-fail-fast --jobs 2 --features serde --tests -- --test-threads=2 > "$work/log" 2>&1 || status=$?
  grep -v '^test .*\.\.\. ok$' "$work/log" | tail -n 200
  # A test that ends the process early would hide those after it.
  passed=$(awk '/^test result: ok\. [0-9]+ passed; 0 failed;/ { sum += $4 } END { print sum + 0 }' "$work/log")
  echo "$passed tests passed"
  [ "$status" -eq 0 ] && [ "$passed" -ge 185 ]
}

verify
