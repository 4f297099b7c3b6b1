//! The thread that watches how large the workspace grows.
//!
//! A workspace that is a file system of its own, made for the limit, needs no watching: the kernel
//! counts, and refuses more with an error that is the task's own affair. Whether that happened is
//! remembered where it is seen, each second and whenever a program ends.
//!
//! Anywhere else files are counted, and too many bytes end everything. What that cannot see: files
//! below folders that the task closed to its own user, and what lies deeper than [`MAX_DEPTH`].
//! There, the disk is the engine's: when it is down to its reserve, everything ends, and nobody is to
//! blame.
//!
//! A file system that fails from below, as one in a file does when the disk under it is full, takes
//! no more writes or loses them. That is nobody's doing in here, and ends everything as well. No
//! program's end is reported before that was looked for.
//!
//! The thread also looks whether the task's specification is there, which may take as long as a disk
//! likes.
//!
//! What is written outside of the workspace, where it can be, is watched as well: see
//! [`crate::root_watch`].

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use forge_wire::SPECIFICATION_FILE;
use forge_wire::message::{Ending, Settings};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat, stat};
use nix::sys::statvfs::{FsFlags, Statvfs, fstatvfs, statvfs};
use nix::unistd::fsync;

use crate::beneath::{Listing, MAX_DEPTH, open_folder};
use crate::kernel::send_signal;
use crate::mounts;
use crate::root_watch::{self, RootWatch, deleted_but_open};
use crate::wake::{Wake, lock};

/// Shortest pause between two looks.
const PAUSE: Duration = Duration::from_secs(1);
/// Pause between two looks at the root, where it can be written to: one costs microseconds.
const ROOT_PAUSE: Duration = Duration::from_millis(100);
/// Longest pause: a task that makes looking slow must not make it rare.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// A look may take this part of the time at most.
const SHARE: u32 = 20;
/// The folder that may be a volume of its own and is counted nevertheless.
pub(crate) const OUTPUT: &[u8] = b"output";
/// Unit of `st_blocks`.
const BLOCK: u64 = 512;
/// A file system with less room than this is as good as full: what is written next does not fit. A
/// kernel may refuse a large write whole and leave almost as much (measured: 1,032,192 bytes after
/// writes of 1 MiB on Linux 6.18).
const FULL: u64 = 2 * 1024 * 1024;
/// Bytes by which a file system made for a limit may be larger than the limit.
const SLACK: u64 = 64 * 1024 * 1024;

/// What was seen of the specification is worth nothing after this time: the thread is kept waiting
/// by a disk.
const STALE: Duration = Duration::from_secs(15);

/// What is written to see whether it arrives.
const PROBE: [u8; 4096] = [0; 4096];
/// What the kernel adds to the options of a file system that it stopped writing to by itself.
const EMERGENCY: &str = "emergency_ro";
const MOUNTS: &str = "/proc/self/mountinfo";

/// What the thread has seen.
#[derive(Debug, Default)]
pub(crate) struct DiskWatch {
    wanted: Mutex<Wanted>,
    news: Condvar,
    places: OnceLock<Vec<Place>>,
    root_is_writable: AtomicBool,
    peak: AtomicU64,
    alarm: Mutex<Option<Ending>>,
    answer: Mutex<Answer>,
    had_no_room: AtomicBool,
    touched: AtomicBool,
    /// Whether the specification was there, and when that was seen.
    specification: Mutex<Option<(bool, Instant)>>,
}

/// What the thread shall do.
#[derive(Debug, Default)]
struct Wanted {
    begun: Option<Begun>,
    /// Looks that were asked for so far.
    asked: u64,
}

/// What is watched.
#[derive(Debug)]
struct Begun {
    limit: u64,
    root: Option<RootWatch>,
    specification: PathBuf,
}

/// What came of the looks that were asked for.
#[derive(Debug, Default)]
struct Answer {
    /// How many of them are done.
    looked: u64,
    found: Option<Ending>,
}

/// The workspace, or its output where that is a volume of its own.
#[derive(Debug)]
struct Place {
    path: Vec<u8>,
    folder: OwnedFd,
    /// It is a file system of its own about as large as the limit, so the kernel both counts what is
    /// used and refuses more. Else files are counted, and a full file system is somebody else's too.
    is_sized: bool,
    /// One that never had room is not one that the task filled.
    had_room: bool,
    /// One that never took writes did not fail.
    was_writable: bool,
}

impl DiskWatch {
    /// Starts the thread, which waits for [`Self::watch`] and rings `wake` for [`Self::take_alarm`].
    pub(crate) fn start(wake: Wake) -> std::io::Result<Arc<Self>> {
        let watch = Arc::new(Self::default());
        let shared = Arc::clone(&watch);
        std::thread::Builder::new()
            .name("disk".into())
            .stack_size(512 * 1024)
            .spawn(move || shared.run(&wake))?;
        Ok(watch)
    }

    /// Begins to watch. The beginning is now, before anything of the task runs, and not when the
    /// thread comes to it.
    pub(crate) fn watch(&self, settings: &Settings) {
        drop(self.places.set(places(settings)));
        let writable = root_watch::is_writable();
        self.root_is_writable.store(writable, Ordering::Relaxed);
        lock(&self.wanted).begun = Some(Begun {
            limit: settings.disk_limit,
            root: RootWatch::begin(&settings.workspace),
            specification: Path::new(&settings.workspace).join(SPECIFICATION_FILE),
        });
        self.news.notify_one();
    }

    /// Whether a disk can be filled from in here that is not the task's alone.
    pub(crate) fn can_fill_others(&self) -> bool {
        self.root_is_writable.load(Ordering::Relaxed) || self.shared().next().is_some()
    }

    /// Whether only the reserve is left of such a disk; costs microseconds.
    pub(crate) fn has_reserve_only(&self) -> bool {
        let root = self.root_is_writable.load(Ordering::Relaxed);
        let root = root.then(|| statvfs("/"));
        let shared = self.shared().map(|place| fstatvfs(&place.folder));
        let mut disks = root.into_iter().chain(shared);
        disks.any(|found| found.is_ok_and(|found| root_watch::has_reserve_only(&found)))
    }

    fn shared(&self) -> impl Iterator<Item = &Place> {
        let places = self.places.get().into_iter().flatten();
        places.filter(|place| !place.is_sized && place.was_writable)
    }

    /// Asks for a look now; its number is for [`Self::answer`], and the bell rings when it is done.
    pub(crate) fn ask(&self) -> u64 {
        let mut wanted = lock(&self.wanted);
        wanted.asked += 1;
        self.news.notify_one();
        wanted.asked
    }

    /// What a look that was asked for found, once it is done: why everything should end.
    pub(crate) fn answer(&self, look: u64) -> Option<Option<Ending>> {
        let answer = lock(&self.answer);
        (answer.looked >= look).then_some(answer.found)
    }

    /// Whether the specification is there; none when nobody could look within the last seconds.
    pub(crate) fn has_specification(&self) -> Option<bool> {
        let (is_there, seen) = (*lock(&self.specification))?;
        (seen.elapsed() <= STALE).then_some(is_there)
    }

    /// Largest workspace seen, in bytes.
    pub(crate) fn peak(&self) -> u64 {
        self.peak.load(Ordering::Relaxed)
    }

    /// Why everything must end, where something was found since this was asked last.
    pub(crate) fn take_alarm(&self) -> Option<Ending> {
        lock(&self.alarm).take()
    }

    /// Whether there ever was no room left for bytes or for files, now included.
    pub(crate) fn had_no_room(&self) -> bool {
        self.look_for_room();
        self.had_no_room.load(Ordering::Relaxed)
    }

    /// Remembers what the kernel counts, and whether there is room now; costs a few microseconds.
    pub(crate) fn look_for_room(&self) {
        self.peak.fetch_max(self.used_of_sized(), Ordering::Relaxed);
        let places = self.places.get().into_iter().flatten();
        if places
            .filter(|place| place.had_room)
            .any(|place| !place.has_room())
        {
            self.had_no_room.store(true, Ordering::Relaxed);
        }
    }

    /// Notes that PID 1 itself puts something into the workspace.
    pub(crate) fn touch(&self) {
        self.touched.store(true, Ordering::Relaxed);
    }

    fn run(&self, wake: &Wake) {
        let Begun {
            limit,
            mut root,
            specification,
        } = self.wait_for_begin();
        let mut was_idle = false;
        let mut next = Instant::now();
        let mut next_specification = next;
        loop {
            let pause = next.saturating_duration_since(Instant::now());
            let pause = match &root {
                Some(_) => pause.min(ROOT_PAUSE),
                None => pause,
            };
            if let Some(asked) = self.wait_for_question(pause) {
                let failed = self.has_failed(true).then_some(Ending::WorkspaceFailed);
                let reserve = || self.has_reserve_only().then_some(Ending::EngineDiskFull);
                let check = || root.as_mut().and_then(|root| root.check_at_end(limit));
                let found = failed.or_else(reserve).or_else(check);
                *lock(&self.answer) = Answer {
                    looked: asked,
                    found,
                };
                wake.ring();
                continue;
            }
            if Instant::now() >= next_specification {
                self.look_for(&specification);
                next_specification = Instant::now() + PAUSE;
            }
            // Where no process is and was, nothing changes: waiting sandboxes should cost nothing.
            let is_idle = send_signal(-1, 0) == Err(Errno::ESRCH);
            let touched = self.touched.swap(false, Ordering::Relaxed);
            if is_idle && was_idle && !touched {
                next = Instant::now() + PAUSE;
                continue;
            }
            was_idle = is_idle;
            let mut found = root.as_mut().and_then(|root| root.check(limit));
            let begin = Instant::now();
            if begin >= next {
                let failed = self.has_failed(false).then_some(Ending::WorkspaceFailed);
                let full = self.look(limit).then_some(Ending::DiskFull);
                found = failed.or(found).or(full);
                let pause = (begin.elapsed() * SHARE).clamp(PAUSE, LONGEST_PAUSE);
                next = Instant::now() + pause;
            }
            if found.is_some() {
                *lock(&self.alarm) = found;
                wake.ring();
            }
        }
    }

    fn look_for(&self, specification: &Path) {
        let is_there = stat(specification).is_ok_and(|found| is_a(&found, SFlag::S_IFREG));
        *lock(&self.specification) = Some((is_there, Instant::now()));
    }

    /// Whether a workspace failed from below: it takes no more writes, or, where one is tried, loses
    /// them.
    fn has_failed(&self, with_probe: bool) -> bool {
        let places = self.places.get().into_iter().flatten();
        let mut places = places.filter(|place| place.was_writable).peekable();
        if places.peek().is_none() {
            return false;
        }
        let mounts = std::fs::read_to_string(MOUNTS).unwrap_or_default();
        let mounts = mounts::parse(&mounts);
        places.any(|place| {
            place.is_read_only(&mounts)
                || (with_probe && place.is_sized && loses_writes(&place.folder))
        })
    }

    /// Whether files take up more than `limit`.
    fn look(&self, limit: u64) -> bool {
        self.look_for_room();
        let mut counted = 0_u64;
        let places = self.places.get().into_iter().flatten();
        for place in places.filter(|place| !place.is_sized) {
            let left = limit.saturating_sub(counted);
            counted = counted.saturating_add(count(&place.path, left).unwrap_or(0));
            if counted <= limit
                && let Ok(found) = fstat(&place.folder)
            {
                let deleted = deleted_but_open(Path::new("/proc"), found.st_dev);
                counted = counted.saturating_add(deleted);
            }
        }
        let used = self.used_of_sized().saturating_add(counted);
        self.peak.fetch_max(used, Ordering::Relaxed);
        counted > limit
    }

    fn used_of_sized(&self) -> u64 {
        let places = self.places.get().into_iter().flatten();
        let sized = places.filter(|place| place.is_sized);
        sized.map(Place::used).fold(0, u64::saturating_add)
    }

    /// How many looks were asked for, when there are more than were answered within `pause`.
    fn wait_for_question(&self, pause: Duration) -> Option<u64> {
        let looked = lock(&self.answer).looked;
        let wanted = lock(&self.wanted);
        let waited = self
            .news
            .wait_timeout_while(wanted, pause, |wanted| wanted.asked <= looked);
        let (wanted, _) = waited.unwrap_or_else(PoisonError::into_inner);
        (wanted.asked > looked).then_some(wanted.asked)
    }

    fn wait_for_begin(&self) -> Begun {
        let mut wanted = lock(&self.wanted);
        loop {
            if let Some(begun) = wanted.begun.take() {
                return begun;
            }
            wanted = self
                .news
                .wait(wanted)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Place {
    fn open(path: Vec<u8>, limit: u64, mounts: &[mounts::Mount]) -> Option<Self> {
        let folder = open_folder(&path).ok()?;
        let room = fstatvfs(&folder).ok()?;
        // Of a mounted folder of a larger file system, nothing is known from the whole.
        let is_whole = mounts
            .iter()
            .rfind(|mount| mount.point.as_bytes() == path)
            .is_some_and(|mount| mount.root == "/");
        let size = widen(room.blocks()).saturating_mul(widen(room.fragment_size()));
        let most = limit.saturating_add(limit / 4).saturating_add(SLACK);
        Some(Self {
            path,
            folder,
            is_sized: is_whole && size <= most,
            had_room: has_room(&room),
            was_writable: !room.flags().contains(FsFlags::ST_RDONLY),
        })
    }

    /// Whether it takes no more writes. Newer kernels say so in the list of mounts alone.
    fn is_read_only(&self, mounts: &[mounts::Mount]) -> bool {
        let mut own = mounts
            .iter()
            .filter(|mount| mount.point.as_bytes() == self.path);
        let is_emergency = own.next_back().is_some_and(|mount| {
            let mut options = mount.super_options.iter();
            options.any(|option| option == EMERGENCY)
        });
        is_emergency
            || fstatvfs(&self.folder).is_ok_and(|room| room.flags().contains(FsFlags::ST_RDONLY))
    }

    fn has_room(&self) -> bool {
        fstatvfs(&self.folder).is_ok_and(|room| has_room(&room))
    }

    fn used(&self) -> u64 {
        fstatvfs(&self.folder).map_or(0, |room| {
            let blocks = widen(room.blocks()).saturating_sub(widen(room.blocks_free()));
            blocks.saturating_mul(widen(room.fragment_size()))
        })
    }
}

/// Whether what is written to a folder's file system is lost, tried with a file without a name. What
/// else refuses it, as a task may with its folder's mode or by filling it, says nothing.
fn loses_writes(folder: &OwnedFd) -> bool {
    let flags = OFlag::O_TMPFILE | OFlag::O_WRONLY | OFlag::O_CLOEXEC;
    let failed = |errno| matches!(errno, Errno::EIO | Errno::EROFS);
    let mut file = match openat(folder, ".", flags, Mode::S_IRUSR | Mode::S_IWUSR) {
        Ok(file) => File::from(file),
        Err(errno) => return failed(errno),
    };
    if let Err(error) = file.write_all(&PROBE) {
        let errno = error.raw_os_error().map(Errno::from_raw);
        return errno.is_some_and(failed);
    }
    // Room was promised by now; without any it is that of the disk below.
    fsync(&file).is_err_and(|errno| failed(errno) || errno == Errno::ENOSPC)
}

/// The workspace and, where it is on another device, its output.
fn places(settings: &Settings) -> Vec<Place> {
    let mounts = std::fs::read_to_string(MOUNTS).unwrap_or_default();
    let mounts = mounts::parse(&mounts);
    let open = |path| Place::open(path, settings.disk_limit, &mounts);
    let Some(workspace) = open(settings.workspace.as_bytes().to_vec()) else {
        return Vec::new();
    };
    let output = [
        settings.workspace.trim_end_matches('/').as_bytes(),
        b"/",
        OUTPUT,
    ]
    .concat();
    let device = |place: &Place| fstat(&place.folder).map(|found| found.st_dev).ok();
    let output = open(output).filter(|output| device(output) != device(&workspace));
    std::iter::once(workspace).chain(output).collect()
}

/// Whether something more can be written. Some file systems have no count of files.
fn has_room(room: &Statvfs) -> bool {
    let bytes = widen(room.blocks_available()).saturating_mul(widen(room.fragment_size()));
    bytes >= FULL && (room.files() == 0 || room.files_available() > 0)
}

/// Adds up a folder of one device, as far as needed to see that it is past `limit`; none when it
/// cannot be opened.
fn count(path: &[u8], limit: u64) -> Option<u64> {
    let top = Listing::open_absolute(path).ok()?;
    let found = fstat(&top).ok()?;
    let own = found.st_dev;
    let mut used = allocated(&found);
    let mut levels = vec![top];
    while let Some(listing) = levels.last_mut() {
        let entry = match listing.next_entry() {
            Some(Ok(entry)) => entry,
            // What vanishes or cannot be read is not there for the sum.
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
        if found.st_dev != own {
            continue;
        }
        used += allocated(&found);
        if used > limit {
            break;
        }
        if !is_folder(&found) || levels.len() >= MAX_DEPTH {
            continue;
        }
        let below = levels
            .last()
            .and_then(|listing| Listing::open(listing.as_fd(), &entry.name).ok());
        levels.extend(below);
    }
    Some(used)
}

/// What a file takes up. A file of several names counts in parts, so that the names together count
/// it once, without a list of all such files in memory.
pub(crate) fn allocated(found: &FileStat) -> u64 {
    // An empty file takes an inode at least.
    let bytes = u64::try_from(found.st_blocks).unwrap_or(0).max(1) * BLOCK;
    if is_folder(found) {
        return bytes;
    }
    bytes.div_ceil(widen(found.st_nlink).max(1))
}

/// Counts of files and blocks differ in width between machines.
pub(crate) fn widen(count: impl Into<u64>) -> u64 {
    count.into()
}

fn is_a(found: &FileStat, kind: SFlag) -> bool {
    found.st_mode & SFlag::S_IFMT.bits() == kind.bits()
}

/// Whether it is a folder.
pub(crate) fn is_folder(found: &FileStat) -> bool {
    is_a(found, SFlag::S_IFDIR)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStrExt;
    use std::path::Path;

    fn used(folder: &Path) -> u64 {
        count(folder.as_os_str().as_bytes(), u64::MAX).unwrap()
    }

    #[test]
    fn allocated_bytes_are_counted_once_and_links_are_not_followed() {
        let outer = tempfile::tempdir().unwrap();
        let folder = outer.path().join("workspace");
        std::fs::create_dir_all(folder.join("sub")).unwrap();
        std::fs::write(outer.path().join("outside"), vec![1; 1 << 20]).unwrap();
        let empty = used(&folder);
        std::fs::write(folder.join("sub/file"), vec![1; 1 << 20]).unwrap();
        std::fs::hard_link(folder.join("sub/file"), folder.join("second")).unwrap();
        std::os::unix::fs::symlink("../outside", folder.join("link")).unwrap();
        let sparse = File::create(folder.join("sparse")).unwrap();
        sparse.set_len(1 << 40).unwrap();
        let grown = used(&folder) - empty;
        assert!((1 << 20..(1 << 20) + 65_536).contains(&grown), "{grown}");
    }

    #[test]
    fn a_workspace_that_is_not_there_is_no_news() {
        assert_eq!(count(b"/nonexistent/workspace", 1), None);
    }
}
