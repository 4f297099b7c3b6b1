#!/bin/sh
# Run from the workspace as root: sh src/prepare/setup.sh
# Fetches the source of cmark, puts a fault into it, and keeps the tests and build
# files where the agent cannot change them. The source without the fault stays nowhere.
set -eu
archive=cmark_0.30.2.orig.tar.gz
sha256=6c7d2bcaea1433d977d8fed0b55b71c9d045a7cdf616e3cd2dce9007da753db3

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Sources come from where the image's packages come from.
for file in /etc/apt/sources.list.d/*.sources; do
  if [ -e "$file" ]; then
    sed -i 's/^Types:.*/Types: deb deb-src/' "$file"
  fi
done
for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.list; do
  if [ -e "$file" ]; then
    sed -n 's/^deb /deb-src /p' "$file"
  fi
done > "$work/list"
if [ -s "$work/list" ]; then
  cp "$work/list" /etc/apt/sources.list.d/sources.list
fi
apt-get -q update
apt-get -q install -y --no-install-recommends cmake

# The revision of the distribution may change; the text of the authors may not.
chmod 755 "$work"
(cd "$work" && apt-get -q source --download-only cmark)
echo "$sha256  $work/$archive" | sha256sum -c -
rm -rf /var/lib/apt/lists/*
apt-get clean

tar -xzf "$work/$archive" -C "$work" --no-same-owner
tree="$work/cmark-0.30.2"
mkdir -p /opt/cmark/src
cp -R "$tree/CMakeLists.txt" "$tree/FindAsan.cmake" "$tree/COPYING" "$tree/api_test" "$tree/test" "$tree/man" /opt/cmark/
cp "$tree/src/CMakeLists.txt" "$tree"/src/*.in "$tree"/src/*.inc "$tree/src/scanners.re" /opt/cmark/src/
chmod -R go-w,a+rX /opt/cmark

patch -p1 -d "$tree" --batch --forward --no-backup-if-mismatch < src/prepare/fault.patch
rm -rf src/prepare
cp -R "$tree/." src/
