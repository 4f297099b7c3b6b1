#!/bin/sh
# Run from the workspace: sh tests/run.sh
# The hidden tests become a package of a copy of the module.
set -eu
work=$(mktemp -d /tmp/verify.XXXXXX)
trap 'rm -rf "$work"' EXIT
cp -R src "$work/src"
mkdir "$work/src/verify"
cp tests/*_test.go "$work/src/verify/"
export HOME="$work" GOPATH="$work/gopath" GOCACHE=/tmp/gocache GOFLAGS=-mod=mod GOPROXY=off GOSUMDB=off \
  GOTOOLCHAIN=local GOWORK=off CGO_ENABLED=0 GOMAXPROCS=2
cd "$work/src"
go vet ./batch ./cmd/batchcat
go build -o "$work/batchcat" ./cmd/batchcat
go test -vet=off -count=1 -timeout 500s ./verify
lines=$(i=0; while [ $i -lt 50 ]; do echo "line $i"; i=$((i + 1)); done)
copied=$(printf '%s\n' "$lines" | timeout 20 "$work/batchcat" | sort)
if [ "$copied" != "$(printf '%s\n' "$lines" | sort)" ]; then
  echo "batchcat lost or changed lines"
  exit 1
fi
