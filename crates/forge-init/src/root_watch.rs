//! Watches what a sandbox with a writable root writes outside of its workspace.
//!
//! The root is the engine's, and its file system the whole machine's: no limit holds there but this
//! one. What counts is every file and folder whose state changed since the sandbox was claimed. The
//! kernel alone writes that time, so it cannot be forged, and no picture of the beginning is needed:
//! a file of the image that is changed is copied whole by the engine's file system, and counts whole.
//!
//! Imprecise: files that are deleted but still open are not seen; what is written and removed
//! between two looks is not either; and a look is taken only when the machine's disk lost room, or
//! [`RARELY`]. So a task may be past its limit for some seconds, by what it writes meanwhile.

use std::collections::BTreeSet;
use std::os::fd::AsFd;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::sys::stat::{FileStat, fstatat};
use nix::sys::statvfs::{FsFlags, Statvfs, statvfs};

use crate::beneath::{Listing, MAX_DEPTH};
use crate::disk_watch::{allocated, is_folder, widen};
use crate::mounts;

/// Bytes that the machine's disk must have lost for a look.
const LOST_BYTES: u64 = 64 * 1024 * 1024;
/// Files that it must have gained instead.
const GAINED_FILES: u64 = 65_536;
/// Looks are never closer together than this.
const OFTEN: Duration = Duration::from_secs(2);
/// What others free on the machine's disk may hide what the task takes: so often it is looked anyway.
const RARELY: Duration = Duration::from_secs(30);
/// A look may take this part of the time at most.
const SHARE: u32 = 20;
/// The least that a file counts: what it takes of the file system's own lists is not in its size.
const LEAST: u64 = 4096;
/// How far the kernel's clock for files may be behind.
const CLOCK: Duration = Duration::from_millis(20);

/// The root, since the beginning.
#[derive(Debug)]
pub(crate) struct RootWatch {
    /// Seconds and nanoseconds of the beginning.
    since: (i64, i64),
    mounts: BTreeSet<Vec<u8>>,
    room: (u64, u64),
    looked: Instant,
    pause: Duration,
}

impl RootWatch {
    /// Begins now; none where the root cannot be written to.
    pub(crate) fn begin() -> Option<Self> {
        let found = statvfs("/").ok()?;
        if found.flags().contains(FsFlags::ST_RDONLY) {
            return None;
        }
        let since = SystemTime::now().checked_sub(CLOCK)?;
        let since = since.duration_since(UNIX_EPOCH).ok()?;
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
        let points = mounts::parse(&mounts).into_iter().map(|mount| mount.point);
        Some(Self {
            since: (
                i64::try_from(since.as_secs()).ok()?,
                i64::from(since.subsec_nanos()),
            ),
            mounts: points.map(String::into_bytes).collect(),
            room: room(&found),
            looked: Instant::now(),
            pause: OFTEN,
        })
    }

    /// Whether more than `limit` bytes were written.
    pub(crate) fn outgrew(&mut self, limit: u64) -> bool {
        let now = Instant::now();
        let passed = now.duration_since(self.looked);
        if passed < self.pause {
            return false;
        }
        let Ok(found) = statvfs("/") else {
            return false;
        };
        let (bytes, files) = room(&found);
        let lost = self.room.0.saturating_sub(bytes) >= LOST_BYTES
            || self.room.1.saturating_sub(files) >= GAINED_FILES;
        if !lost && passed < RARELY {
            // What is freed must be lost again before it counts.
            self.room = (self.room.0.max(bytes), self.room.1.max(files));
            return false;
        }
        self.room = (bytes, files);
        let grown = self.grown(limit);
        self.looked = Instant::now();
        self.pause = (now.elapsed() * SHARE).max(OFTEN);
        grown > limit
    }

    /// Bytes of what changed, as far as needed to see that they are more than `limit`.
    fn grown(&self, limit: u64) -> u64 {
        self.grown_below(b"/", limit).unwrap_or(0)
    }

    fn grown_below(&self, top: &[u8], limit: u64) -> Option<u64> {
        let mut path = top.to_vec();
        let mut grown = 0_u64;
        // With each folder, where its own name begins in `path`.
        let mut levels = vec![(Listing::open_absolute(top).ok()?, 0)];
        while let Some((listing, begin)) = levels.last_mut() {
            let entry = match listing.next_entry() {
                Some(Ok(entry)) => entry,
                Some(Err(Errno::EINTR)) => continue,
                Some(Err(_)) | None => {
                    path.truncate(*begin);
                    levels.pop();
                    continue;
                }
            };
            let flags = AtFlags::AT_SYMLINK_NOFOLLOW;
            let Ok(found) = fstatat(listing.as_fd(), entry.name.as_slice(), flags) else {
                continue;
            };
            let length = path.len();
            if path.last() != Some(&b'/') {
                path.push(b'/');
            }
            path.extend_from_slice(&entry.name);
            let is_mount = self.mounts.contains(&path);
            if !is_mount && self.is_new(&found) {
                grown = grown.saturating_add(allocated(&found).max(LEAST));
                if grown > limit {
                    break;
                }
            }
            let below = (!is_mount && is_folder(&found) && levels.len() < MAX_DEPTH)
                .then(|| levels.last())
                .flatten()
                .and_then(|(listing, _)| Listing::open(listing.as_fd(), &entry.name).ok());
            match below {
                Some(below) => levels.push((below, length)),
                None => path.truncate(length),
            }
        }
        Some(grown)
    }

    fn is_new(&self, found: &FileStat) -> bool {
        (found.st_ctime, found.st_ctime_nsec) >= self.since
    }
}

/// Free bytes and files.
fn room(found: &Statvfs) -> (u64, u64) {
    let bytes = widen(found.blocks_free()).saturating_mul(widen(found.fragment_size()));
    (bytes, widen(found.files_free()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStrExt;

    fn since(seconds: i64, mounts: &[&std::path::Path]) -> RootWatch {
        RootWatch {
            since: (seconds, 0),
            mounts: mounts
                .iter()
                .map(|path| path.as_os_str().as_bytes().to_vec())
                .collect(),
            room: (0, 0),
            looked: Instant::now(),
            pause: OFTEN,
        }
    }

    #[test]
    fn what_changed_counts_and_what_is_mounted_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let top = folder.path().canonicalize().unwrap();
        for (name, bytes) in [
            ("a/b/large", 1 << 20),
            ("mounted/large", 1 << 20),
            ("a/empty", 0),
        ] {
            let path = top.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, vec![1; bytes]).unwrap();
        }
        let grown = |watch: &RootWatch, limit| {
            watch
                .grown_below(top.as_os_str().as_bytes(), limit)
                .unwrap()
        };
        let watch = since(0, &[&top.join("mounted")]);
        let all = grown(&watch, u64::MAX);
        // The file, two folders and an empty file.
        assert!((1 << 20..(1 << 20) + 4 * 16_384).contains(&all), "{all}");
        assert!(grown(&watch, 1000) > 1000);
        assert_eq!(grown(&since(i64::MAX, &[]), u64::MAX), 0);
    }
}
