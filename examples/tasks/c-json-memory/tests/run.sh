#!/bin/sh
# Run from the workspace: sh tests/run.sh
# Builds a copy of src and links its library with an allocator that puts every
# block next to a page that must not be touched.
set -eu
work=$(mktemp -d /tmp/verify.XXXXXX)
trap 'rm -rf "$work"' EXIT
cp -R src "$work/src"
make -s -C "$work/src" clean
make -s -C "$work/src" > "$work/log" 2>&1 || { cat "$work/log"; echo "the build failed"; exit 1; }
if grep -q warning "$work/log"; then
  cat "$work/log"
  echo "the build has warnings"
  exit 1
fi
gcc -std=gnu11 -O1 -g -Wall -I"$work/src/include" -Itests tests/check.c tests/guard.c "$work/src/libjdoc.a" -lm \
  -Wl,--wrap=malloc,--wrap=calloc,--wrap=realloc,--wrap=free -o "$work/check"
status=0
"$work/check" || status=1

# The tool.
expect() {
  if [ "$1" != "$2" ]; then
    echo "FAILED: the tool printed '$1' instead of '$2'"
    status=1
  fi
}
expect "$(printf '{"b": [1, 2.50], "a": "\\u00fc"}' | "$work/src/jdoc" 2>&1)" '{"b":[1,2.5],"a":"ü"}'
expect "$(printf '{"b": [1, 2.50], "a": "x"}' | "$work/src/jdoc" b 1 2>&1)" '2.5'
expect "$(printf '[1,' | "$work/src/jdoc" 2>&1)" 'jdoc: error 2 at byte 3'
exit $status
