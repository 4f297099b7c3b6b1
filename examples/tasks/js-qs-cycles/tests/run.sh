#!/bin/sh
# Run from the workspace: sh tests/run.sh
exec node tests/verify.js
