#!/bin/sh
# Run from the workspace: sh tests/run.sh
set -u
export PYTHONDONTWRITEBYTECODE=1
exec python3 tests/check.py
