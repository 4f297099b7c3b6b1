//! Watches what a sandbox with a writable root writes outside of its workspace.
//!
//! The root is the engine's, and its file system the whole machine's: no limit holds there but this
//! one. What counts is every file and folder whose state changed since the sandbox was claimed. The
//! kernel alone writes that time, so it cannot be forged, and no picture of the beginning is needed:
//! a file of the image that is changed is copied whole by the engine's file system, and counts whole.
//!
//! Only folders that the sandbox has a copy of can hold such files: where the engine's file system
//! has layers, the copy is made when something below is changed first, and the kernel notes when. A
//! look so takes as long as what was changed is large, not as long as the image is.
//!
//! Files that are deleted but still open are found where processes hold them. Not seen are those of
//! processes that PID 1 may not look into (of another user, or closed to all by
//! `PR_SET_DUMPABLE`), those that are only mapped or on their way through a socket, and what is
//! written and removed between two looks. A look is taken when the machine's disk lost room, or
//! [`RARELY`], and when a program ends. So a task may be past its limit for a moment, by what it
//! writes meanwhile, and without end by what is not seen.
//!
//! What bounds all of that is the reserve: whoever fills the machine's disk, everything here ends
//! before it is full, see [`has_reserve_only`]. The main loop asks for that, which no look holds up.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use forge_wire::message::Ending;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat, lstat, stat};
use nix::sys::statvfs::{FsFlags, Statvfs, statvfs};

use crate::beneath::{Listing, MAX_DEPTH};
use crate::disk_watch::{allocated, is_folder, widen};
use crate::mounts::{self, Mount};

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
/// How far the machine's clock may have been set back since the sandbox's layer was made, without
/// hiding folders that are younger.
const SET_BACK: Duration = Duration::from_secs(60);
/// A file system of layers whose changed files all lie in changed folders.
const LAYERED: &str = "overlay";
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

/// Whether only the reserve is left of a disk: of its bytes, or of its files, without which nothing
/// can be made either. Some file systems have no count of files.
pub(crate) fn has_reserve_only(found: &Statvfs) -> bool {
    let unit = widen(found.fragment_size());
    let available = widen(found.blocks_available()).saturating_mul(unit);
    available < reserve(widen(found.blocks()).saturating_mul(unit))
        || widen(found.files_available()) < widen(found.files()) / RESERVED_PART
}

/// Whether the root can be written to, and with it the machine's disk filled.
pub(crate) fn is_writable() -> bool {
    statvfs("/").is_ok_and(|found| !found.flags().contains(FsFlags::ST_RDONLY))
}

/// Files that engines keep on the machine's disk and mount over those of the image.
const OF_ENGINE: [&str; 3] = ["/etc/hostname", "/etc/hosts", "/etc/resolv.conf"];

/// The root, since the beginning.
#[derive(Debug)]
pub(crate) struct RootWatch {
    /// Seconds and nanoseconds of the beginning.
    since: (i64, i64),
    /// When the sandbox's own layer was made, before which no folder in it was; none where every
    /// folder may hold something new.
    made: Option<(i64, i64)>,
    /// What is not the root's, and the workspace. Not by their names: those go with the folders above.
    foreign: BTreeSet<(u64, u64)>,
    /// Files of the engine's, which are its root's and in no layer.
    engines: Vec<OwnedFd>,
    /// Most that was free since the last look.
    room: (u64, u64),
    /// What was free when this was asked last, and by how much that rose and fell since the last look.
    last: (u64, u64),
    moved: (u64, u64),
    /// The same since the last look at the end of a program: others miss what is renamed meanwhile.
    unseen: (u64, u64),
    /// What the last look found.
    known: u64,
    looked: Instant,
    /// What the last look cost.
    cost: Duration,
}

impl RootWatch {
    /// Begins now; none where the root cannot be written to. Nothing of the task may run yet.
    pub(crate) fn begin(workspace: &str) -> Option<Self> {
        if !is_writable() {
            return None;
        }
        let found = statvfs("/").ok()?;
        let since = time(SystemTime::now().checked_sub(CLOCK)?)?;
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
        let mounts = mounts::parse(&mounts);
        let engines: Vec<OwnedFd> = mounts
            .iter()
            .filter(|mount| OF_ENGINE.contains(&mount.point.as_str()))
            .filter_map(|mount| {
                let place = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
                open(mount.point.as_str(), place, Mode::empty()).ok()
            })
            .collect();
        let elsewhere = foreign(&mounts).chain([workspace]);
        let elsewhere = elsewhere.filter_map(|point| lstat(point).ok());
        let held = engines.iter().filter_map(|file| fstat(file).ok());
        Some(Self {
            since,
            // A clock that was set back says that the layer is to come.
            made: layer_made(&mounts).map(|made| made.min(since)),
            foreign: elsewhere
                .chain(held)
                .map(|found| identity(&found))
                .collect(),
            engines,
            room: room(&found),
            last: room(&found),
            moved: (0, 0),
            unseen: (0, 0),
            known: 0,
            looked: Instant::now(),
            cost: Duration::ZERO,
        })
    }

    /// Whether it has to end: more than `limit` bytes were written. Costs microseconds as long as the
    /// disk loses nothing.
    pub(crate) fn check(&mut self, limit: u64) -> Option<Ending> {
        let found = statvfs("/").ok()?;
        let (bytes, files) = self.note_room(&found);
        let lost = self.lost(bytes, files);
        let pause = if lost.0 >= limit {
            (self.cost * HASTY_SHARE).max(PAUSE)
        } else if lost.0 >= LOST_BYTES || lost.1 >= GAINED_FILES {
            (self.cost * SHARE).max(OFTEN)
        } else {
            (self.cost * SHARE).max(RARELY)
        };
        // Where the kernel's own layers are, the count of what is free is true as well.
        let has_moved = self.moved != (0, 0) || self.made.is_none();
        if !has_moved || self.looked.elapsed() < pause {
            // What is freed must be lost again before it counts.
            self.room = (self.room.0.max(bytes), self.room.1.max(files));
            return None;
        }
        self.look(limit, (bytes, files))
    }

    /// The same when a program has ended: whatever it wrote is there by now. A look is taken only
    /// where the disk moved enough for the limit to be near. What others free counts as well: it may
    /// hide as much of the task's.
    pub(crate) fn check_at_end(&mut self, limit: u64) -> Option<Ending> {
        let found = statvfs("/").ok()?;
        let room = self.note_room(&found);
        if self.is_due_at_end(limit, self.looked.elapsed()) {
            self.unseen = (0, 0);
            return self.look(limit, room);
        }
        // What was found at the very end of a program was too late to end it, and is so still.
        self.verdict(limit)
    }

    /// Whether the limit may be passed by now, other than was known, and a look does not cost much of
    /// the time since the last one. This is not the last look at what setup wrote: its image is
    /// weighed as well.
    fn is_due_at_end(&self, limit: u64, since_look: Duration) -> bool {
        let files = self.unseen.1.saturating_mul(LEAST);
        let unseen = self.unseen.0.saturating_add(files);
        let most = self.known.saturating_add(unseen);
        let must_be = self.known > limit || unseen > limit;
        let is_cheap = since_look >= self.cost * HASTY_SHARE;
        unseen > 0 && most > limit - limit / 4 && (must_be || is_cheap)
    }

    fn verdict(&self, limit: u64) -> Option<Ending> {
        (self.known > limit).then_some(Ending::RootFull)
    }

    fn note_room(&mut self, found: &Statvfs) -> (u64, u64) {
        let (bytes, files) = room(found);
        let (by_bytes, by_files) = (self.last.0.abs_diff(bytes), self.last.1.abs_diff(files));
        for sum in [&mut self.moved, &mut self.unseen] {
            *sum = (
                sum.0.saturating_add(by_bytes),
                sum.1.saturating_add(by_files),
            );
        }
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
        self.verdict(limit)
    }

    /// Bytes of what changed, as far as needed to see that they are more than `limit`.
    fn grown(&self, limit: u64) -> u64 {
        let grown = self.grown_of_engines();
        let left = limit.saturating_sub(grown);
        let below = self.grown_below(b"/", left, MAX_DEPTH).unwrap_or(0);
        let grown = grown.saturating_add(below);
        if grown > limit {
            return grown;
        }
        let deleted = stat("/").map_or(0, |root| deleted_but_open(Path::new("/proc"), root.st_dev));
        grown.saturating_add(deleted)
    }

    fn grown_of_engines(&self) -> u64 {
        let files = self.engines.iter().filter_map(|file| fstat(file).ok());
        let new = files.filter(|found| self.is_new(found));
        new.map(|found| taken(&found)).fold(0, u64::saturating_add)
    }

    /// The same of what can be reached below a folder. More than `deepest` folders inside each other
    /// count for more than any limit.
    fn grown_below(&self, top: &[u8], limit: u64, deepest: usize) -> Option<u64> {
        let mut grown = 0_u64;
        let mut levels = vec![Listing::open_absolute(top).ok()?];
        while let Some(listing) = levels.last_mut() {
            let entry = match listing.next_entry() {
                Some(Ok(entry)) => entry,
                Some(Err(Errno::EINTR)) => continue,
                Some(Err(_)) | None => {
                    levels.pop();
                    continue;
                }
            };
            let flags = AtFlags::AT_SYMLINK_NOFOLLOW;
            let Ok(found) = fstatat(listing.as_fd(), entry.name.as_slice(), flags) else {
                continue;
            };
            if self.foreign.contains(&identity(&found)) {
                continue;
            }
            if self.is_new(&found) {
                grown = grown.saturating_add(taken(&found));
                if grown > limit {
                    break;
                }
            }
            if !is_folder(&found) || !self.may_hold_news(&found) {
                continue;
            }
            match Listing::open(listing.as_fd(), &entry.name) {
                Ok(below) if levels.len() < deepest => levels.push(below),
                Ok(_) | Err(Errno::EMFILE) => return Some(u64::MAX),
                // What vanishes or cannot be read is not there for the sum.
                Err(_) => {}
            }
        }
        Some(grown)
    }

    fn is_new(&self, found: &FileStat) -> bool {
        (found.st_ctime, found.st_ctime_nsec) >= self.since
    }

    /// Whether something in a folder, or below, may be new.
    fn may_hold_news(&self, folder: &FileStat) -> bool {
        self.made
            .is_none_or(|made| (folder.st_ctime, folder.st_ctime_nsec) >= made)
    }
}

/// What a file takes of a disk, its own entry in the lists of the file system included.
fn taken(found: &FileStat) -> u64 {
    allocated(found).max(LEAST)
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
                bytes = bytes.saturating_add(taken(&found));
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

/// Where something is mounted that does not count as the root's.
fn foreign(mounts: &[Mount]) -> impl Iterator<Item = &str> {
    let points = mounts.iter().map(|mount| mount.point.as_str());
    points.filter(|point| *point != "/" && !OF_ENGINE.contains(point))
}

/// Which file something is, whatever its name is by now.
fn identity(found: &FileStat) -> (u64, u64) {
    (found.st_dev, found.st_ino)
}

/// When the kernel began the sandbox's own layer of the root, with a margin; none where the root has
/// none, or does not tell.
fn layer_made(mounts: &[Mount]) -> Option<(i64, i64)> {
    let root = mounts.iter().rfind(|mount| mount.point == "/")?;
    if root.kind != LAYERED {
        return None;
    }
    let made = std::fs::metadata("/").ok()?.created().ok()?;
    time(made.checked_sub(SET_BACK)?)
}

/// Seconds and nanoseconds, as files have them.
fn time(time: SystemTime) -> Option<(i64, i64)> {
    let since = time.duration_since(UNIX_EPOCH).ok()?;
    let seconds = i64::try_from(since.as_secs()).ok()?;
    Some((seconds, i64::from(since.subsec_nanos())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStrExt;

    fn since(seconds: i64, elsewhere: &[&Path]) -> RootWatch {
        let elsewhere = elsewhere
            .iter()
            .map(|path| identity(&lstat(*path).unwrap()));
        RootWatch {
            since: (seconds, 0),
            made: None,
            foreign: elsewhere.collect(),
            engines: Vec::new(),
            room: (0, 0),
            last: (0, 0),
            moved: (0, 0),
            unseen: (0, 0),
            known: 0,
            looked: Instant::now(),
            cost: Duration::ZERO,
        }
    }

    fn grown(watch: &RootWatch, top: &Path, limit: u64) -> u64 {
        let top = top.canonicalize().unwrap();
        watch
            .grown_below(top.as_os_str().as_bytes(), limit, MAX_DEPTH)
            .unwrap()
    }

    /// Makes files of a mebibyte, and the folders that they are in.
    fn make(top: &Path, names: &[&str]) {
        for name in names {
            let path = top.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, vec![1; 1 << 20]).unwrap();
        }
    }

    /// So many files of a mebibyte, with some folders and empty files.
    fn mebibytes(count: u64) -> std::ops::Range<u64> {
        count << 20..(count << 20) + 8 * 16_384
    }

    #[test]
    fn a_file_that_the_engine_mounts_counts_as_the_root_s() {
        let mounts = "1 0 0:1 / / rw - overlay overlay rw\n\
             2 1 8:1 /var/lib/x/hosts /etc/hosts rw - ext4 /dev/sda rw\n\
             3 1 0:3 / /tmp rw - tmpfs tmpfs rw\n";
        let mounts = mounts::parse(mounts);
        assert_eq!(foreign(&mounts).collect::<Vec<_>>(), ["/tmp"]);
        // Also where the folder that it is mounted in has another name by now.
        let folder = tempfile::tempdir().unwrap();
        make(folder.path(), &["etc/hosts"]);
        let mut watch = since(0, &[]);
        let held = open(
            &folder.path().join("etc/hosts"),
            OFlag::O_PATH,
            Mode::empty(),
        );
        watch.engines.push(held.unwrap());
        std::fs::rename(folder.path().join("etc"), folder.path().join("other")).unwrap();
        let found = watch.grown_of_engines();
        assert!(mebibytes(1).contains(&found), "{found}");
        watch.since = (i64::MAX, 0);
        assert_eq!(watch.grown_of_engines(), 0);
    }

    #[test]
    fn what_changed_counts_and_what_is_mounted_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let top = folder.path();
        make(top, &["a/b/large", "mounted/large"]);
        std::fs::write(top.join("a/empty"), "").unwrap();
        let watch = since(0, &[&top.join("mounted")]);
        let all = grown(&watch, top, u64::MAX);
        assert!(mebibytes(1).contains(&all), "{all}");
        assert!(grown(&watch, top, 1000) > 1000);
        assert_eq!(grown(&since(i64::MAX, &[]), top, u64::MAX), 0);
    }

    #[test]
    fn what_is_mounted_is_known_wherever_it_is_moved_and_its_name_is_nobody_s() {
        let folder = tempfile::tempdir().unwrap();
        let top = folder.path();
        make(top, &["volume/data/large"]);
        let watch = since(0, &[&top.join("volume/data")]);
        std::fs::rename(top.join("volume"), top.join("moved")).unwrap();
        make(top, &["volume/data/one", "volume/data/two"]);
        let all = grown(&watch, top, u64::MAX);
        assert!(mebibytes(2).contains(&all), "{all}");
    }

    #[test]
    fn what_lies_too_deep_to_be_looked_at_is_more_than_any_limit() {
        let folder = tempfile::tempdir().unwrap();
        let top = folder.path().canonicalize().unwrap();
        make(&top, &["a/b/c/large"]);
        let watch = since(0, &[]);
        let below = |deepest| watch.grown_below(top.as_os_str().as_bytes(), 1 << 30, deepest);
        assert!(mebibytes(1).contains(&below(4).unwrap()));
        assert_eq!(below(3), Some(u64::MAX));
    }

    #[test]
    fn a_folder_that_is_older_than_the_sandbox_s_layer_is_not_opened() {
        let folder = tempfile::tempdir().unwrap();
        let top = folder.path();
        make(top, &["old/below/large"]);
        let changed = |name: &str| {
            let found = lstat(&top.join(name)).unwrap();
            (found.st_ctime, found.st_ctime_nsec)
        };
        // Until the kernel's clock for files has gone on.
        while !top.join("new").exists() || changed("new") <= changed("old") {
            drop(std::fs::remove_dir(top.join("new")));
            std::fs::create_dir(top.join("new")).unwrap();
        }
        let mut watch = since(0, &[]);
        watch.made = Some(changed("new"));
        make(top, &["new/one", "new/below/two"]);
        let found = grown(&watch, top, u64::MAX);
        assert!(mebibytes(2).contains(&found), "{found}");
        watch.made = None;
        let all = grown(&watch, top, u64::MAX);
        assert!(mebibytes(3).contains(&all), "{all}");
    }

    #[test]
    fn a_look_at_the_end_is_taken_where_the_limit_may_be_near_and_it_costs_little() {
        let limit = 1000 * LEAST;
        let cost = Duration::from_millis(100);
        // What is known, what moved unseen (bytes, files), how often thrice the cost has passed.
        let cases = [
            (0, (0, 0), 1, false),
            (0, (limit / 2, 0), 1, false),
            (0, (limit / 2, 300), 1, true),
            (0, (0, 800), 1, true),
            (limit / 2, (limit / 4, 0), 1, false),
            (limit / 2, (limit / 4 + 1, 0), 1, true),
            (limit, (0, 0), 1, false),
            (limit, (1, 0), 1, true),
            (limit, (1, 0), 0, false),
            (limit, (limit, 0), 0, false),
            // So much that no look may be spared.
            (0, (limit + 1, 0), 0, true),
            // Some of it may have been removed.
            (limit + 1, (1, 0), 0, true),
            (limit + 1, (0, 0), 1, false),
        ];
        for (known, unseen, passed, expected) in cases {
            let mut watch = since(0, &[]);
            (watch.known, watch.unseen, watch.cost) = (known, unseen, cost);
            let is_due = watch.is_due_at_end(limit, cost * HASTY_SHARE * passed);
            assert_eq!(is_due, expected, "{known} {unseen:?} {passed}");
            let is_past = watch.verdict(limit) == Some(Ending::RootFull);
            assert_eq!(is_past, known > limit);
        }
    }

    #[test]
    fn only_a_layer_of_the_kernel_s_tells_when_it_was_made() {
        let plain = mounts::parse("1 0 8:1 / / rw - ext4 /dev/sda rw\n");
        assert_eq!(layer_made(&plain), None);
        assert_eq!(layer_made(&[]), None);
    }

    #[test]
    fn a_deleted_file_that_is_open_twice_counts_once() {
        use std::io::Write;
        use std::os::unix::fs::symlink;
        let folder = tempfile::tempdir().unwrap();
        let device = stat(folder.path()).unwrap().st_dev;
        // No other process of this machine, which may hold such files as well.
        let own = std::process::id().to_string();
        let processes = folder.path().join("processes");
        std::fs::create_dir(&processes).unwrap();
        symlink(Path::new("/proc").join(&own), processes.join(own)).unwrap();
        let before = deleted_but_open(&processes, device);
        let path = folder.path().join("file");
        let mut file = std::fs::File::create(&path).unwrap();
        file.write_all(&vec![1; 64 << 20]).unwrap();
        file.sync_all().unwrap();
        let _second = file.try_clone().unwrap();
        std::fs::remove_file(&path).unwrap();
        let after = deleted_but_open(&processes, device);
        // Other tests of this program may hold small ones.
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
