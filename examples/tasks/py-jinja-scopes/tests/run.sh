#!/bin/sh
# Run from the workspace: sh tests/run.sh
exec python3 -I tests/verify.py
