#!/bin/sh
# Run from the workspace: sh tests/run.sh
set -u
export PYTHONDONTWRITEBYTECODE=1 PYTHONPATH="$PWD/src"
exec python3 -m pytest -q -p no:cacheprovider tests
