//! Unpacks a tar stream below one folder and never outside of it.
//!
//! The `tar` crate reads the headers; every file is made here, next to an open folder that was
//! reached without following a link.

use std::cell::Cell;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::rc::Rc;
use std::time::Duration;

use forge_wire::message::{TransferError, TransferLimits, TransferSummary};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{FchmodatFlags, Mode, SFlag, fchmod, fchmodat, fstatat, futimens, mkdirat};
use nix::sys::time::TimeSpec;
use nix::unistd::{LinkatFlags, UnlinkatFlags, linkat, symlinkat, unlinkat};
use tar::EntryType;

use crate::beneath::{Descent, open_folder};
use crate::failure::Failure;
use crate::names::split_relative;
use crate::rights::in_folder;

/// Bytes of headers before one entry, long names and PAX records included.
const MAX_HEAD: u64 = 1024 * 1024;
/// Longest target of a symbolic link.
const MAX_TARGET: usize = 4096;
/// Bytes of names of folders whose final mode must wait until everything is in them.
const MAX_DEFERRED: usize = 4 * 1024 * 1024;
/// Bytes that are copied at a time.
const COPY: usize = 256 * 1024;
/// The write bits that the umask takes away and must be given by hand.
const UMASKED: u32 = 0o022;

/// Unpacks `stream` into `directory`, an absolute name of an existing folder.
pub(crate) fn unpack(
    directory: &str,
    limits: TransferLimits,
    stream: impl Read,
) -> Result<TransferSummary, Failure> {
    let top = open_folder(directory.as_bytes())?;
    let budget = Rc::new(Cell::new(MAX_HEAD));
    let mut archive = tar::Archive::new(Guarded {
        stream,
        budget: Rc::clone(&budget),
    });
    let mut unpacker = Unpacker {
        descent: Descent::new(top),
        limits,
        summary: TransferSummary::default(),
        deferred: Vec::new(),
        deferred_bytes: 0,
        buffer: vec![0; COPY],
    };
    let malformed = |error: std::io::Error| {
        Failure::new(
            TransferError::Malformed,
            format!("not a tar stream: {error}"),
        )
    };
    let mut entries = archive.entries().map_err(malformed)?;
    loop {
        budget.set(MAX_HEAD);
        let Some(entry) = entries.next() else { break };
        let entry = entry.map_err(malformed)?;
        budget.set(u64::MAX);
        unpacker.entry(entry)?;
    }
    unpacker.finish()
}

/// Bounds what is read while the `tar` crate collects headers, which it does in memory.
struct Guarded<R> {
    stream: R,
    budget: Rc<Cell<u64>>,
}

impl<R: Read> Read for Guarded<R> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        let left = self.budget.get();
        let longest = usize::try_from(left).unwrap_or(usize::MAX).min(into.len());
        if longest == 0 && !into.is_empty() {
            return Err(std::io::Error::other("headers too long"));
        }
        let count = self
            .stream
            .read(into.get_mut(..longest).unwrap_or(&mut []))?;
        self.budget.set(left - count as u64);
        Ok(count)
    }
}

/// What is left to do with a file while it is unpacked.
struct Target<'a> {
    parent: BorrowedFd<'a>,
    name: &'a [u8],
    /// The whole name, for a person.
    path: &'a [u8],
}

struct Unpacker {
    descent: Descent,
    limits: TransferLimits,
    summary: TransferSummary,
    /// Folders that would lock us out, with the mode they get at the end.
    deferred: Vec<(Vec<u8>, u32)>,
    deferred_bytes: usize,
    buffer: Vec<u8>,
}

impl Unpacker {
    fn entry<R: Read>(&mut self, mut entry: tar::Entry<'_, R>) -> Result<(), Failure> {
        let kind = entry.header().entry_type();
        if kind.is_pax_global_extensions() {
            return self.skip(&mut entry);
        }
        let path = entry.path_bytes().into_owned();
        let components = split_relative(&path).map_err(|error| Failure::name(error, &path))?;
        if self.summary.entries + self.summary.skipped >= self.limits.entries {
            let what = format_args!("more than {} entries", self.limits.entries);
            return Err(Failure::about(TransferError::Limit, &path, what));
        }
        let Some((name, parents)) = components.split_last() else {
            // The folder itself: it is there already and stays as it is.
            return self.skip(&mut entry);
        };
        let is_folder = kind.is_dir() || (kind.is_file() && path.last() == Some(&b'/'));
        let known = is_folder || kind.is_symlink() || kind.is_hard_link() || has_contents(kind);
        if !known {
            self.summary.skipped += 1;
            return self.skip(&mut entry);
        }
        let mode = entry.header().mode().unwrap_or(0o644) & 0o777;
        if kind.is_hard_link() {
            self.hard_link(&entry, name, parents, &path)?;
        } else if is_folder {
            self.folder(name, parents, &path, mode)?;
            self.skip(&mut entry)?;
        } else if kind.is_symlink() {
            let linked = entry.link_name_bytes().unwrap_or_default().into_owned();
            self.symlink(&linked, name, parents, &path)?;
        } else {
            self.file(&mut entry, name, parents, &path, mode)?;
        }
        self.summary.entries += 1;
        Ok(())
    }

    /// Reads past what an entry holds.
    fn skip(&mut self, entry: &mut impl Read) -> Result<(), Failure> {
        let mut left = MAX_HEAD;
        loop {
            let count = entry
                .read(&mut self.buffer)
                .map_err(|error| broken(&error))?;
            if count == 0 {
                return Ok(());
            }
            left = left.checked_sub(count as u64).ok_or_else(|| {
                Failure::new(TransferError::Malformed, "contents where none belong")
            })?;
        }
    }

    fn file<R: Read>(
        &mut self,
        entry: &mut tar::Entry<'_, R>,
        name: &[u8],
        parents: &[&[u8]],
        path: &[u8],
        mode: u32,
    ) -> Result<(), Failure> {
        let size = entry.size();
        let total = self.summary.bytes.saturating_add(size);
        if total > self.limits.bytes {
            let what = format_args!("{total} bytes so far; {} are allowed", self.limits.bytes);
            return Err(Failure::about(TransferError::Limit, path, what));
        }
        let parent = open_parent(&mut self.descent, parents, path)?;
        let target = Target { parent, name, path };
        let flags =
            OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let bits = Mode::from_bits_truncate(mode);
        let created = target.place(|| openat(target.parent, name, flags, bits))?;
        let mut file = File::from(created);
        copy(entry, &mut file, size, &mut self.buffer, path)?;
        let failed = |errno| Failure::kernel(errno, path);
        if mode & UMASKED != 0 {
            fchmod(&file, bits).map_err(failed)?;
        }
        let modified = Duration::from_secs(entry.header().mtime().unwrap_or(0).min(1 << 40));
        futimens(
            &file,
            &TimeSpec::UTIME_OMIT,
            &TimeSpec::from_duration(modified),
        )
        .map_err(failed)?;
        self.summary.bytes = total;
        Ok(())
    }

    fn folder(
        &mut self,
        name: &[u8],
        parents: &[&[u8]],
        path: &[u8],
        mode: u32,
    ) -> Result<(), Failure> {
        // Without these the files that follow could not be made.
        let usable = mode | 0o700;
        let bits = Mode::from_bits_truncate(usable);
        let parent = open_parent(&mut self.descent, parents, path)?;
        let target = Target { parent, name, path };
        let made = match in_folder(parent, || mkdirat(parent, name, bits)) {
            Err(Errno::EEXIST) if target.is_folder() => false,
            Err(Errno::EEXIST) => {
                target.place(|| mkdirat(parent, name, bits))?;
                true
            }
            other => other.map(|()| true).map_err(|e| Failure::kernel(e, path))?,
        };
        if !made || usable & UMASKED != 0 {
            fchmodat(parent, name, bits, FchmodatFlags::NoFollowSymlink)
                .map_err(|errno| Failure::kernel(errno, path))?;
        }
        if usable != mode {
            self.deferred_bytes += path.len() + size_of::<(Vec<u8>, u32)>();
            if self.deferred_bytes > MAX_DEFERRED {
                let what = "too many folders that are closed to their owner";
                return Err(Failure::about(TransferError::Limit, path, what));
            }
            self.deferred.push((path.to_vec(), mode));
        }
        Ok(())
    }

    fn symlink(
        &mut self,
        linked: &[u8],
        name: &[u8],
        parents: &[&[u8]],
        path: &[u8],
    ) -> Result<(), Failure> {
        if linked.is_empty() || linked.len() > MAX_TARGET || linked.contains(&0) {
            let what = "a link to no possible name";
            return Err(Failure::about(TransferError::Malformed, path, what));
        }
        let parent = open_parent(&mut self.descent, parents, path)?;
        let target = Target { parent, name, path };
        target.place(|| symlinkat(linked, parent, name))
    }

    fn hard_link<R: Read>(
        &mut self,
        entry: &tar::Entry<'_, R>,
        name: &[u8],
        parents: &[&[u8]],
        path: &[u8],
    ) -> Result<(), Failure> {
        let linked = entry.link_name_bytes().unwrap_or_default().into_owned();
        let refused = |what: &str| Failure::about(TransferError::Malformed, path, what);
        let components = split_relative(&linked).map_err(|error| Failure::name(error, &linked))?;
        let (old_name, old_parents) = components
            .split_last()
            .ok_or_else(|| refused("a hard link to nothing"))?;
        if components.split_last() == Some((&name, parents)) {
            return Err(refused("a hard link to itself"));
        }
        let old_parent = open_parent(&mut self.descent, old_parents, &linked)?
            .try_clone_to_owned()
            .map_err(|error| Failure::io(&error, &linked))?;
        let old = in_folder(old_parent.as_fd(), || {
            fstatat(&old_parent, *old_name, AtFlags::AT_SYMLINK_NOFOLLOW)
        });
        if !old.is_ok_and(|old| is_kind(old.st_mode, SFlag::S_IFREG)) {
            return Err(refused("a hard link to what is not an earlier file"));
        }
        let parent = open_parent(&mut self.descent, parents, path)?;
        let target = Target { parent, name, path };
        target.place(|| linkat(&old_parent, *old_name, parent, name, LinkatFlags::empty()))
    }

    fn finish(mut self) -> Result<TransferSummary, Failure> {
        // The innermost first: an outer one may close the way to it.
        for (path, mode) in self.deferred.drain(..).rev() {
            let failed = |errno| Failure::kernel(errno, &path);
            let components = split_relative(&path).map_err(|error| Failure::name(error, &path))?;
            let Some((name, parents)) = components.split_last() else {
                continue;
            };
            let parent = self.descent.folder(parents, false).map_err(failed)?;
            let bits = Mode::from_bits_truncate(mode);
            fchmodat(parent, *name, bits, FchmodatFlags::NoFollowSymlink).map_err(failed)?;
        }
        Ok(self.summary)
    }
}

impl Target<'_> {
    /// Makes a file, after removing what is in its place; a folder is never removed.
    fn place<T>(&self, make: impl Fn() -> Result<T, Errno>) -> Result<T, Failure> {
        let unlink = || unlinkat(self.parent, self.name, UnlinkatFlags::NoRemoveDir);
        let made = match in_folder(self.parent, &make) {
            Err(Errno::EEXIST) => match in_folder(self.parent, unlink) {
                Ok(()) | Err(Errno::ENOENT) => make(),
                Err(errno) => Err(errno),
            },
            other => other,
        };
        made.map_err(|errno| match errno {
            Errno::EISDIR => {
                Failure::about(TransferError::Io, self.path, "a folder is in its place")
            }
            errno => Failure::kernel(errno, self.path),
        })
    }

    fn is_folder(&self) -> bool {
        fstatat(self.parent, self.name, AtFlags::AT_SYMLINK_NOFOLLOW)
            .is_ok_and(|found| is_kind(found.st_mode, SFlag::S_IFDIR))
    }
}

fn is_kind(mode: u32, kind: SFlag) -> bool {
    mode & SFlag::S_IFMT.bits() == kind.bits()
}

fn has_contents(kind: EntryType) -> bool {
    kind.is_file() || kind.is_contiguous() || kind.is_gnu_sparse()
}

fn open_parent<'a>(
    descent: &'a mut Descent,
    parents: &[&[u8]],
    path: &[u8],
) -> Result<BorrowedFd<'a>, Failure> {
    descent.folder(parents, true).map_err(|errno| match errno {
        // A link, or a file, where a folder belongs: following it would leave the tree.
        Errno::ENOTDIR | Errno::ELOOP => {
            let what = "leads through something that is not a folder";
            Failure::about(TransferError::Malformed, path, what)
        }
        errno => Failure::kernel(errno, path),
    })
}

fn broken(error: &std::io::Error) -> Failure {
    Failure::new(
        TransferError::Malformed,
        format!("a broken tar stream: {error}"),
    )
}

fn copy(
    entry: &mut impl Read,
    file: &mut File,
    size: u64,
    buffer: &mut [u8],
    path: &[u8],
) -> Result<(), Failure> {
    let mut left = size;
    while left > 0 {
        let count = entry.read(buffer).map_err(|error| broken(&error))?;
        if count == 0 {
            return Err(broken(&std::io::ErrorKind::UnexpectedEof.into()));
        }
        file.write_all(buffer.get(..count).unwrap_or(&[]))
            .map_err(|error| Failure::io(&error, path))?;
        left = left.saturating_sub(count as u64);
    }
    Ok(())
}

#[cfg(test)]
#[path = "unpack_tests.rs"]
mod tests;
