#!/bin/sh
# Quick check with tame names.
set -eu
top=$(cd "$(dirname "$0")/.." && pwd)
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
mkdir "$dir/card"
echo one > "$dir/card/a.jpg"
TZ=UTC touch -t 202405011200 "$dir/card/a.jpg"
sh "$top/bin/photo-archive" import "$dir/card" "$dir/archive"
test -f "$dir/archive/2024-05/a.jpg"
sh "$top/bin/photo-archive" checksum "$dir/archive"
sh "$top/bin/photo-archive" verify "$dir/archive"
echo ok
