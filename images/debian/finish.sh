#!/bin/sh
# Runs inside the new root file system when all packages are installed, as the last step before it
# is packed. Its inputs are put into /tmp/swe-forge by the builder, which reads packages.tsv back.
set -eu
cd /tmp/swe-forge

# shellcheck disable=SC2016 # dpkg-query expands these, not the shell
dpkg-query --show --showformat '${binary:Package}\t${Version}\n' >packages.tsv

mkdir -p /workspace
chmod 0777 /workspace

# The files of the build hold the paths, proxies and perhaps credentials of the machine it ran on.
rm -f /etc/apt/sources.list /etc/apt/sources.list.d/* /etc/apt/apt.conf.d/99mmdebstrap
rm -f /etc/hostname /etc/resolv.conf
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
if [ -e "$keyring" ]; then
    cp image.sources /etc/apt/sources.list.d/debian.sources
else
    grep -v '^Signed-By:' image.sources >/etc/apt/sources.list.d/debian.sources
fi
cat >/etc/apt/apt.conf.d/01-swe-forge <<'END'
APT::Install-Recommends "0";
APT::Install-Suggests "0";
Acquire::Languages "none";
END

if ! command -v vim >/dev/null; then
    update-alternatives --install /usr/bin/vim vim /usr/bin/vim.tiny 10
fi

# A task's repository often belongs to another user than the one the task runs as.
git config --system --add safe.directory '*'

# There is nothing to protect from pip in a throw-away container, and the official images have no
# such mark either.
rm -f /usr/lib/python3*/EXTERNALLY-MANAGED

# Packages that were unpacked before dpkg.cfg was read.
find /usr/share/doc -mindepth 2 ! -type d ! -name copyright -delete
find /usr/share/doc -mindepth 1 -type d -empty -delete
rm -rf /usr/share/bug/* /usr/share/doc-base/* /usr/share/info/* /usr/share/lintian/* \
    /usr/share/locale/* /usr/share/man/*
rm -rf /var/cache/debconf/*-old /var/cache/man /var/lib/dpkg/*-old /var/log/*
