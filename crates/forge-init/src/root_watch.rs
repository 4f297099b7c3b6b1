//! Watches what a sandbox with a writable root writes outside of its workspace.
//!
//! The root is the engine's, and its file system the whole machine's: no limit holds there but this
//! one. What counts is every file and folder whose state changed since the sandbox was claimed. The
//! kernel alone writes that time, so it cannot be forged, and no picture of the beginning is needed:
//! a file of the image that is changed is copied whole by the engine's file system, and counts whole.
//!
//! Files that are deleted but still open are found where processes hold them. Not seen are those of
//! processes that PID 1 may not look into (of another user), those that are only mapped or on their
//! way through a socket, and what is written and removed between two looks. A look is taken when
//! the machine's disk lost room, or [`RARELY`], and when a program ends. So a task may be past its
//! limit for a moment, by what it writes meanwhile.
//!
//! Whoever fills the machine's disk, everything here ends before it is full: see [`reserve`].

use std::collections::BTreeSet;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use forge_wire::message::Ending;
use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::sys::stat::{FileStat, SFlag, fstatat, stat};
use nix::sys::statvfs::{FsFlags, Statvfs, statvfs};

use crate::beneath::{Listing, MAX_DEPTH};
use crate::disk_watch::{allocated, is_folder, widen};
use crate::mounts;

/// Bytes that the machine's disk must have lost for a look.
const LOST_BYTES: u64 = 64 * 1024 * 1024;
/// Files that it must have gained instead.
const GAINED_FILES: u64 = 65_536;
/// Looks are not closer together than this, as long as the disk loses less than the limit.
const OFTEN: Duration = Duration::from_secs(2);
/// Looks are never closer together than this.
const PAUSE: Duration = Duration::from_millis(100);
/// What others free on the machine's disk may hide what the task takes: so often it is looked anyway.
const RARELY: Duration = Duration::from_secs(30);
/// A look may take this part of the time at most.
const SHARE: u32 = 20;
/// And this part where the disk has lost the limit since the last one.
const HASTY_SHARE: u32 = 3;
/// The least that a file counts: what it takes of the file system's own lists is not in its size.
const LEAST: u64 = 4096;
/// How far the kernel's clock for files may be behind.
const CLOCK: Duration = Duration::from_millis(20);
/// Deleted files that are kept apart in one look.
const MAX_DELETED: usize = 65_536;
/// What stays free of a machine's disk, whoever asks for more: the larger of this many bytes and
/// one [`RESERVED_PART`], up to [`MOST_RESERVED`]; of a small disk a tenth.
const LEAST_RESERVED: u64 = 1 << 30;
const MOST_RESERVED: u64 = 4 << 30;
const RESERVED_PART: u64 = 50;
const SMALL_PART: u64 = 10;

/// Bytes of a disk of `total` bytes that must stay free, because everything on the machine fails
/// when its disk is full, the engine first.
pub(crate) fn reserve(total: u64) -> u64 {
    let reserve = (total / RESERVED_PART).clamp(LEAST_RESERVED, MOST_RESERVED);
    reserve.min(total / SMALL_PART)
}

/// Whether only the reserve is left of a disk.
fn has_reserve_only(found: &Statvfs) -> bool {
    let unit = widen(found.fragment_size());
    let available = widen(found.blocks_available()).saturating_mul(unit);
    available < reserve(widen(found.blocks()).saturating_mul(unit))
}

/// Files that engines keep on the machine's disk and mount over those of the image.
const OF_ENGINE: [&str; 3] = ["/etc/hostname", "/etc/hosts", "/etc/resolv.conf"];

/// The root, since the beginning.
#[derive(Debug)]
pub(crate) struct RootWatch {
    /// Seconds and nanoseconds of the beginning.
    since: (i64, i64),
    /// What is not the root's, and the workspace, wherever that is.
    mounts: BTreeSet<Vec<u8>>,
    /// Most that was free since the last look.
    room: (u64, u64),
    /// What was free when this was asked last, and by how much that rose and fell since the last look.
    last: (u64, u64),
    moved: (u64, u64),
    /// What the last look found.
    known: u64,
    looked: Instant,
    /// What the last look cost.
    cost: Duration,
}

impl RootWatch {
    /// Begins now; none where the root cannot be written to.
    pub(crate) fn begin(workspace: &str) -> Option<Self> {
        let found = statvfs("/").ok()?;
        if found.flags().contains(FsFlags::ST_RDONLY) {
            return None;
        }
        let since = SystemTime::now().checked_sub(CLOCK)?;
        let since = since.duration_since(UNIX_EPOCH).ok()?;
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
        let mut mounts = foreign(&mounts);
        mounts.insert(workspace.trim_end_matches('/').as_bytes().to_vec());
        Some(Self {
            since: (
                i64::try_from(since.as_secs()).ok()?,
                i64::from(since.subsec_nanos()),
            ),
            mounts,
            room: room(&found),
            last: room(&found),
            moved: (0, 0),
            known: 0,
            looked: Instant::now(),
            cost: Duration::ZERO,
        })
    }

    /// Whether it has to end: more than `limit` bytes were written, or the machine's disk is about
    /// to be full. Costs microseconds as long as the disk loses nothing.
    pub(crate) fn check(&mut self, limit: u64) -> Option<Ending> {
        let found = statvfs("/").ok()?;
        if has_reserve_only(&found) {
            return Some(Ending::EngineDiskFull);
        }
        let (bytes, files) = self.note_room(&found);
        let lost = self.lost(bytes, files);
        let pause = if lost.0 >= limit {
            (self.cost * HASTY_SHARE).max(PAUSE)
        } else if lost.0 >= LOST_BYTES || lost.1 >= GAINED_FILES {
            (self.cost * SHARE).max(OFTEN)
        } else {
            (self.cost * SHARE).max(RARELY)
        };
        if self.looked.elapsed() < pause {
            // What is freed must be lost again before it counts.
            self.room = (self.room.0.max(bytes), self.room.1.max(files));
            return None;
        }
        self.look(limit, (bytes, files))
    }

    /// The same when a program has ended: whatever it wrote is there by now. A look at every file
    /// takes up to a second, so it is taken only where the disk moved enough for the limit to be
    /// near. What others free counts as well: it may hide as much of the task's.
    pub(crate) fn check_at_end(&mut self, limit: u64) -> Option<Ending> {
        let found = statvfs("/").ok()?;
        if has_reserve_only(&found) {
            return Some(Ending::EngineDiskFull);
        }
        let room = self.note_room(&found);
        let most = self.known.saturating_add(self.moved.0);
        if most <= limit / 2 && self.moved.1 < GAINED_FILES {
            return None;
        }
        self.look(limit, room)
    }

    fn note_room(&mut self, found: &Statvfs) -> (u64, u64) {
        let (bytes, files) = room(found);
        self.moved.0 = self.moved.0.saturating_add(self.last.0.abs_diff(bytes));
        self.moved.1 = self.moved.1.saturating_add(self.last.1.abs_diff(files));
        self.last = (bytes, files);
        (bytes, files)
    }

    fn lost(&self, bytes: u64, files: u64) -> (u64, u64) {
        (
            self.room.0.saturating_sub(bytes),
            self.room.1.saturating_sub(files),
        )
    }

    fn look(&mut self, limit: u64, room: (u64, u64)) -> Option<Ending> {
        let begin = Instant::now();
        self.room = room;
        self.moved = (0, 0);
        self.known = self.grown(limit);
        self.looked = Instant::now();
        self.cost = begin.elapsed();
        (self.known > limit).then_some(Ending::RootFull)
    }

    /// Bytes of what changed, as far as needed to see that they are more than `limit`.
    fn grown(&self, limit: u64) -> u64 {
        let grown = self.grown_below(b"/", limit).unwrap_or(0);
        if grown > limit {
            return grown;
        }
        let deleted = stat("/").map_or(0, |root| deleted_but_open(Path::new("/proc"), root.st_dev));
        grown.saturating_add(deleted)
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

/// Bytes of the files of device `device` that have no name any more and that processes hold open,
/// as far as this one may see.
pub(crate) fn deleted_but_open(processes: &Path, device: u64) -> u64 {
    let mut seen = BTreeSet::new();
    let mut bytes = 0_u64;
    for process in std::fs::read_dir(processes).into_iter().flatten().flatten() {
        let is_process = |name: &str| name.bytes().all(|byte| byte.is_ascii_digit());
        if !process.file_name().to_str().is_some_and(is_process) {
            continue;
        }
        let open = std::fs::read_dir(process.path().join("fd"));
        for file in open.into_iter().flatten().flatten() {
            // The link leads to the open file itself, whatever is at its name.
            let Ok(found) = stat(&file.path()) else {
                continue;
            };
            let is_file = found.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFREG.bits();
            let is_deleted = is_file && found.st_nlink == 0 && found.st_dev == device;
            if is_deleted && seen.len() < MAX_DELETED && seen.insert(found.st_ino) {
                bytes = bytes.saturating_add(allocated(&found).max(LEAST));
            }
        }
    }
    bytes
}

/// Free bytes and files.
fn room(found: &Statvfs) -> (u64, u64) {
    let bytes = widen(found.blocks_free()).saturating_mul(widen(found.fragment_size()));
    (bytes, widen(found.files_free()))
}

/// Where something is mounted that does not count as the root's; `mounts` is the kernel's list.
fn foreign(mounts: &str) -> BTreeSet<Vec<u8>> {
    let points = mounts::parse(mounts).into_iter().map(|mount| mount.point);
    points
        .filter(|point| !OF_ENGINE.contains(&point.as_str()))
        .map(String::into_bytes)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStrExt;

    fn since(seconds: i64, mounts: &[&Path]) -> RootWatch {
        RootWatch {
            since: (seconds, 0),
            mounts: mounts
                .iter()
                .map(|path| path.as_os_str().as_bytes().to_vec())
                .collect(),
            room: (0, 0),
            last: (0, 0),
            moved: (0, 0),
            known: 0,
            looked: Instant::now(),
            cost: Duration::ZERO,
        }
    }

    #[test]
    fn a_file_that_the_engine_mounts_counts_as_the_root_s() {
        let mounts = "1 0 0:1 / / rw - overlay overlay rw\n\
             2 1 8:1 /var/lib/x/hosts /etc/hosts rw - ext4 /dev/sda rw\n\
             3 1 0:3 / /tmp rw - tmpfs tmpfs rw\n";
        let expected = [b"/".to_vec(), b"/tmp".to_vec()];
        assert_eq!(foreign(mounts), expected.into());
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

    #[test]
    fn a_deleted_file_that_is_open_twice_counts_once() {
        use std::io::Write;
        let folder = tempfile::tempdir().unwrap();
        let device = stat(folder.path()).unwrap().st_dev;
        let before = deleted_but_open(Path::new("/proc"), device);
        let path = folder.path().join("file");
        let mut file = std::fs::File::create(&path).unwrap();
        file.write_all(&vec![1; 64 << 20]).unwrap();
        file.sync_all().unwrap();
        let _second = file.try_clone().unwrap();
        std::fs::remove_file(&path).unwrap();
        let after = deleted_but_open(Path::new("/proc"), device);
        // Other programs of this machine hold such files as well, and let go of them.
        let grown = after.saturating_sub(before);
        assert!((32 << 20..100 << 20).contains(&grown), "{grown}");
        assert_eq!(deleted_but_open(&path, device), 0);
    }

    #[test]
    fn the_reserve_is_a_part_of_the_disk_within_bounds() {
        let gibibyte = 1_u64 << 30;
        assert_eq!(reserve(150 << 20), 15 << 20);
        assert_eq!(reserve(20 * gibibyte), gibibyte);
        assert_eq!(reserve(100 * gibibyte), 2 * gibibyte);
        assert_eq!(reserve(4096 * gibibyte), 4 * gibibyte);
    }
}
