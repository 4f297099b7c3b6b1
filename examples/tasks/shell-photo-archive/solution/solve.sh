#!/bin/sh
# Quote everything and never pass names through text streams.
set -eu
cat > src/bin/photo-archive <<'E'
#!/bin/sh
# photo-archive - copy photos from memory cards into a folder per month

unset IFS
here=$(dirname -- "$0"; echo x)
here=${here%?x}
. "$here/../lib/common.sh"

do_import() {
  card=$(as_path "$1"; echo x)
  card=${card%x}
  archive=$(as_path "$2"; echo x)
  archive=${archive%x}
  [ -n "$1" ] && [ -d "$card" ] || die "no such folder: $1"
  mkdir -p "$archive" || die "cannot create $2"
  # find hands the names over as arguments; each batch prints a line of counts
  counts=$(find "$card/" -type f \
    \( -name '*.[jJ][pP][gG]' -o -name '*.[jJ][pP][eE][gG]' -o -name '*.[rR][aA][wW]' \) \
    -exec sh -c '
      . "$1"
      archive=$2
      shift 2
      import_photos "$@"
    ' import "$here/../lib/common.sh" "$archive" {} +) || die "not all photos could be imported"
  imported=0
  skipped=0
  while read -r new old; do
    imported=$((imported + ${new:-0}))
    skipped=$((skipped + ${old:-0}))
  done <<EOF
$counts
EOF
  echo "imported $imported, skipped $skipped"
}

do_checksum() {
  enter "$1"
  trap 'rm -f ./SHA256SUMS.new.$$ ./SHA256SUMS.names.$$' EXIT
  list_files > "./SHA256SUMS.names.$$" || exit 1
  if [ -s "./SHA256SUMS.names.$$" ]; then
    xargs -0 sha256sum -- < "./SHA256SUMS.names.$$" > "./SHA256SUMS.new.$$" || exit 1
  else
    : > "./SHA256SUMS.new.$$"
  fi
  mv -f "./SHA256SUMS.new.$$" ./SHA256SUMS
}

do_verify() {
  enter "$1"
  [ -f ./SHA256SUMS ] || die "there is no SHA256SUMS in $1"
  if [ -s ./SHA256SUMS ]; then
    sha256sum -c --strict --quiet ./SHA256SUMS || exit 1
  fi
  # sha256sum writes one line per file, whatever its name
  listed=$(wc -l < ./SHA256SUMS)
  present=$(list_files | tr -dc '\000' | wc -c)
  [ "$listed" -eq "$present" ] || die "files are missing from SHA256SUMS"
}

do_prune() {
  case $2 in
    '' | *[!0-9]*) usage ;;
  esac
  enter "$1"
  find . -type f -name '*.tmp' -mmin "+$(($2 * 1440))" -exec rm -f {} + || exit 1
  find . -depth -mindepth 1 -type d -empty -exec rmdir {} \; || exit 1
}

case ${1-} in
  import) [ $# -eq 3 ] || usage; do_import "$2" "$3" ;;
  checksum) [ $# -eq 2 ] || usage; do_checksum "$2" ;;
  verify) [ $# -eq 2 ] || usage; do_verify "$2" ;;
  prune) [ $# -eq 3 ] || usage; do_prune "$2" "$3" ;;
  *) usage ;;
esac
E
cat > src/lib/common.sh <<'E'
# Functions shared by the commands.

usage() {
  echo "usage: photo-archive import CARD ARCHIVE | checksum ARCHIVE | verify ARCHIVE | prune ARCHIVE DAYS" >&2
  exit 2
}

die() {
  printf 'photo-archive: %s\n' "$1" >&2
  exit 1
}

# as_path NAME: NAME in a form no command takes for an option
as_path() {
  case $1 in
    /*) printf %s "$1" ;;
    *) printf %s "./$1" ;;
  esac
}

# enter FOLDER: make it the current folder
enter() {
  target=$(as_path "$1"; echo x)
  [ -n "$1" ] && CDPATH= cd "${target%x}" || die "no such folder: $1"
}

# list_files: the files of the current folder, sorted, each followed by a NUL
list_files() {
  find . -type f ! -path ./SHA256SUMS ! -path "./SHA256SUMS.new.$$" ! -path "./SHA256SUMS.names.$$" -print0 |
    LC_ALL=C sort -z
}

# month_of FILE: the month of its last change in UTC, as YYYY-MM
month_of() {
  date -u -r "$1" +%Y-%m
}

# free_name FOLDER NAME FILE: sets $target to the path in FOLDER under which
# FILE can be kept, which either is free or holds the same content
free_name() {
  stem=${2%.*}
  ext=${2##*.}
  target=$1/$2
  n=0
  while [ -e "$target" ] || [ -L "$target" ]; do
    [ -f "$target" ] && cmp -s "$target" "$3" && return
    n=$((n + 1))
    target=$1/$stem~$n.$ext
  done
}

# import_photos FILE...: copy to $archive; prints 'copied skipped'
import_photos() {
  imported=0
  skipped=0
  for photo do
    month=$(month_of "$photo") || exit 1
    mkdir -p "$archive/$month" || exit 1
    free_name "$archive/$month" "${photo##*/}" "$photo"
    if [ -e "$target" ]; then
      skipped=$((skipped + 1))
    else
      cp -p "$photo" "$target" || exit 1
      imported=$((imported + 1))
    fi
  done
  echo "$imported $skipped"
}
E
