# Functions shared by the commands.

usage() {
  echo "usage: photo-archive import CARD ARCHIVE | checksum ARCHIVE | verify ARCHIVE | prune ARCHIVE DAYS" >&2
  exit 2
}

die() {
  echo "photo-archive: $1" >&2
  exit 1
}

# month_of FILE: the month of its last change, as YYYY-MM
month_of() {
  date -r $1 +%Y-%m
}

# free_name FOLDER NAME FILE: the path in FOLDER under which FILE can be kept,
# which either is free or holds the same content
free_name() {
  stem=${2%.*}
  ext=${2##*.}
  candidate=$1/$2
  n=0
  while [ -e $candidate ] && ! cmp -s $candidate $3; do
    n=$((n + 1))
    candidate=$1/$stem~$n.$ext
  done
  echo $candidate
}
