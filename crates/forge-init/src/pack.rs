//! Packs a file or folder as a tar stream, never following a link.
//!
//! Names in the stream are relative: to the folder when a folder is packed, else the file's own.
//! What cannot be read is left out and counted: one file must not keep all others from the client.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd};

use forge_wire::message::{TransferError, TransferLimits, TransferSummary};
use nix::dir::Type;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, readlinkat};
use nix::sys::stat::{FileStat, SFlag, fstat, fstatat};
use std::os::unix::ffi::OsStrExt;
use tar::{EntryType, Header};

use crate::beneath::{Listing, MAX_DEPTH, open_parent, too_deep};
use crate::failure::Failure;
use crate::rights::{self, in_folder};

const BLOCK: usize = 512;
/// Longest name, or target of a link, that a header takes itself.
const SHORT: usize = 100;

/// Where the stream goes.
pub(crate) trait Sink {
    /// Takes bytes of the stream that are at hand.
    fn write(&mut self, bytes: &[u8]) -> Result<(), Failure>;
    /// Takes bytes that `fill` puts in place; it says how many of the room it was given.
    fn write_with(
        &mut self,
        limit: usize,
        fill: &mut dyn FnMut(&mut [u8]) -> std::io::Result<usize>,
    ) -> Result<std::io::Result<usize>, Failure>;
}

/// Packs what is at `path`, an absolute name.
pub(crate) fn pack(
    path: &str,
    limits: TransferLimits,
    sink: &mut impl Sink,
) -> Result<TransferSummary, Failure> {
    let mut packer = Packer {
        limits,
        summary: TransferSummary::default(),
        sink,
        name: Vec::new(),
    };
    let (parent, name) = open_parent(path.as_bytes())?;
    let name = name.unwrap_or_else(|| b".".to_vec());
    let found =
        stat_of(parent.as_fd(), &name).map_err(|errno| Failure::kernel(errno, path.as_bytes()))?;
    if kind_of(&found) == Some(Type::Directory) {
        let top = Listing::open_closed(parent.as_fd(), &name)
            .map_err(|errno| Failure::kernel(errno, path.as_bytes()))?;
        packer.tree(top)?;
    } else {
        packer.name.clone_from(&name);
        packer.entry(parent.as_fd(), &name, kind_of(&found))?;
    }
    packer.sink.write(&[0; 2 * BLOCK])?;
    Ok(packer.summary)
}

struct Packer<'a, S> {
    limits: TransferLimits,
    summary: TransferSummary,
    sink: &'a mut S,
    /// Name of the current entry in the stream.
    name: Vec<u8>,
}

impl<S: Sink> Packer<'_, S> {
    fn tree(&mut self, top: Listing) -> Result<(), Failure> {
        // Each level with the length of the name that leads to it.
        let mut levels = vec![(top, 0)];
        while let Some((listing, length)) = levels.last_mut() {
            self.name.truncate(*length);
            let Some(entry) = listing.next_entry() else {
                levels.pop();
                continue;
            };
            let entry = match entry {
                Ok(entry) => entry,
                Err(Errno::EINTR) => continue,
                // The rest of this folder cannot be known.
                Err(_) => {
                    self.summary.skipped += 1;
                    levels.pop();
                    continue;
                }
            };
            if !self.name.is_empty() {
                self.name.push(b'/');
            }
            self.name.extend_from_slice(&entry.name);
            let kind = match entry.kind {
                Some(kind) => Some(kind),
                None => match stat_of(listing.as_fd(), &entry.name) {
                    // It is gone, like a file that was never there.
                    Err(Errno::ENOENT) => continue,
                    found => found.ok().as_ref().and_then(kind_of),
                },
            };
            if kind != Some(Type::Directory) {
                self.entry(listing.as_fd(), &entry.name, kind)?;
                continue;
            }
            let below = Listing::open_closed(listing.as_fd(), &entry.name)
                .and_then(|below| Ok((fstat(&below)?, below)));
            let (found, below) = match below {
                Ok(below) => below,
                Err(Errno::ENOENT) => continue,
                Err(_) => {
                    self.summary.skipped += 1;
                    continue;
                }
            };
            if levels.len() >= MAX_DEPTH {
                return Err(too_deep(&self.name));
            }
            self.header(EntryType::Directory, &found, 0, &[])?;
            levels.push((below, self.name.len()));
        }
        Ok(())
    }

    /// Packs anything but a folder.
    fn entry(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &[u8],
        kind: Option<Type>,
    ) -> Result<(), Failure> {
        let packed = match kind {
            Some(Type::File) => self.file(parent, name)?,
            Some(Type::Symlink) => self.link(parent, name)?,
            _ => false,
        };
        if !packed {
            self.summary.skipped += 1;
        }
        Ok(())
    }

    fn file(&mut self, parent: BorrowedFd<'_>, name: &[u8]) -> Result<bool, Failure> {
        // Not waiting: what was a file a moment ago may be a pipe with no writer by now.
        let Ok(file) = rights::open(parent, name, OFlag::O_RDONLY | OFlag::O_NONBLOCK) else {
            return Ok(false);
        };
        let Ok(found) = fstat(&file) else {
            return Ok(false);
        };
        if kind_of(&found) != Some(Type::File) {
            return Ok(false);
        }
        let size = u64::try_from(found.st_size).unwrap_or(0);
        let total = self.summary.bytes.saturating_add(size);
        if total > self.limits.bytes {
            let what = format_args!("{total} bytes so far; {} are allowed", self.limits.bytes);
            return Err(Failure::about(TransferError::Limit, &self.name, what));
        }
        self.header(EntryType::Regular, &found, size, &[])?;
        self.contents(File::from(file), size)?;
        self.summary.bytes = total;
        Ok(true)
    }

    /// Sends exactly `size` bytes, whatever becomes of the file meanwhile.
    fn contents(&mut self, mut file: File, size: u64) -> Result<(), Failure> {
        let mut left = size;
        while left > 0 {
            let limit = usize::try_from(left).unwrap_or(usize::MAX);
            let read = self.sink.write_with(limit, &mut |room| file.read(room))?;
            match read {
                Ok(0) => break,
                Ok(count) => left -= count as u64,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                // Its size is promised already; the count says that not all of it came.
                Err(_) => {
                    self.summary.skipped += 1;
                    break;
                }
            }
        }
        while left > 0 {
            let limit = usize::try_from(left).unwrap_or(usize::MAX);
            let mut zeros = |room: &mut [u8]| {
                room.fill(0);
                Ok(room.len())
            };
            left -= self.sink.write_with(limit, &mut zeros)?.unwrap_or(0) as u64;
        }
        self.pad(size)
    }

    fn link(&mut self, parent: BorrowedFd<'_>, name: &[u8]) -> Result<bool, Failure> {
        let (Ok(found), Ok(target)) = (stat_of(parent, name), readlinkat(parent, name)) else {
            return Ok(false);
        };
        self.header(EntryType::Symlink, &found, 0, target.as_bytes())?;
        Ok(true)
    }

    fn header(
        &mut self,
        kind: EntryType,
        found: &FileStat,
        size: u64,
        target: &[u8],
    ) -> Result<(), Failure> {
        if self.summary.entries >= self.limits.entries {
            let what = format_args!("more than {} entries", self.limits.entries);
            return Err(Failure::about(TransferError::Limit, &self.name, what));
        }
        self.summary.entries += 1;
        if target.len() > SHORT {
            self.long(EntryType::GNULongLink, target)?;
        }
        // A folder's name ends with a slash, which readers without types go by.
        let length = self.name.len();
        if kind == EntryType::Directory {
            self.name.push(b'/');
        }
        let name = std::mem::take(&mut self.name);
        if name.len() > SHORT {
            self.long(EntryType::GNULongName, &name)?;
        }
        let mut header = Header::new_gnu();
        put(&mut header, &name, target);
        self.name = name;
        self.name.truncate(length);
        header.set_entry_type(kind);
        header.set_mode(found.st_mode & 0o777);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(u64::try_from(found.st_mtime).unwrap_or(0));
        header.set_size(size);
        header.set_cksum();
        self.sink.write(header.as_bytes())
    }

    /// The GNU extension for a name that a header is too short for.
    fn long(&mut self, kind: EntryType, name: &[u8]) -> Result<(), Failure> {
        let size = name.len() as u64 + 1;
        let mut header = Header::new_gnu();
        put(&mut header, b"././@LongLink", &[]);
        header.set_entry_type(kind);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(size);
        header.set_cksum();
        self.sink.write(header.as_bytes())?;
        self.sink.write(name)?;
        self.sink.write(&[0])?;
        self.pad(size)
    }

    /// Fills the last block of `size` bytes.
    fn pad(&mut self, size: u64) -> Result<(), Failure> {
        let over = usize::try_from(size % BLOCK as u64).unwrap_or(0);
        if over == 0 {
            return Ok(());
        }
        let zeros = [0; BLOCK];
        self.sink.write(zeros.get(over..).unwrap_or(&[]))
    }
}

/// Puts a name and a target into a header exactly as they are, as far as they fit.
fn put(header: &mut Header, name: &[u8], target: &[u8]) {
    let Some(fields) = header.as_gnu_mut() else {
        return;
    };
    let count = name.len().min(SHORT);
    fields.name[..count].copy_from_slice(&name[..count]);
    let count = target.len().min(SHORT);
    fields.linkname[..count].copy_from_slice(&target[..count]);
}

fn stat_of(parent: BorrowedFd<'_>, name: &[u8]) -> Result<FileStat, Errno> {
    in_folder(parent, || {
        fstatat(parent, name, AtFlags::AT_SYMLINK_NOFOLLOW)
    })
}

/// The kind of file, where it is one that is packed.
fn kind_of(found: &FileStat) -> Option<Type> {
    let kind = SFlag::from_bits_truncate(found.st_mode) & SFlag::S_IFMT;
    match kind {
        SFlag::S_IFDIR => Some(Type::Directory),
        SFlag::S_IFREG => Some(Type::File),
        SFlag::S_IFLNK => Some(Type::Symlink),
        _ => None,
    }
}

#[cfg(test)]
#[path = "pack_tests.rs"]
mod tests;
