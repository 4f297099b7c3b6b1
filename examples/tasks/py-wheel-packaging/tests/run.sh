#!/bin/sh
# Run from the workspace: sh tests/run.sh
set -u
unset PYTHONPATH SOURCE_DATE_EPOCH
export PYTHONDONTWRITEBYTECODE=1
exec python3 -m pytest -q -p no:cacheprovider tests
