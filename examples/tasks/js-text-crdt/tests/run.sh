#!/bin/sh
# Run from the workspace: sh tests/run.sh
# One process after the other: the sandbox allows few of them.
set -u
status=0
for file in tests/*.test.js; do
  node "$file" || status=1
done
exit $status
