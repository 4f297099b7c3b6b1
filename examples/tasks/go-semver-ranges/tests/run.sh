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
go vet ./semver ./pick ./cmd/modres
go build -o "$work/modres" ./cmd/modres
MODRES="$work/modres" go test -vet=off -count=1 ./...
