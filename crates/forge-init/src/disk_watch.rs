//! The thread that watches how large the workspace grows.
//!
//! A workspace that is a file system of its own, made for the limit, needs no watching: the kernel
//! counts, and refuses more with an error that is the task's own affair. Whether that happened is
//! remembered where it is seen, each second and whenever a program ends.
//!
//! Anywhere else files are counted, and too many bytes end everything. What that cannot see: files
//! below folders that the task closed to its own user, files that are deleted but still open, and
//! what lies deeper than [`MAX_DEPTH`]. There, a full file system counts as a full workspace.
//!
//! What is written outside of the workspace, where it can be, is watched as well: see
//! [`crate::root_watch`].

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use forge_wire::message::Settings;
use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::sys::stat::{FileStat, SFlag, fstat, fstatat};
use nix::sys::statvfs::{Statvfs, fstatvfs};

use crate::beneath::{Listing, MAX_DEPTH, open_folder};
use crate::kernel::send_signal;
use crate::mounts;
use crate::root_watch::RootWatch;
use crate::wake::{Wake, lock};

/// Shortest pause between two looks.
const PAUSE: Duration = Duration::from_secs(1);
/// Longest pause: a task that makes looking slow must not make it rare.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// A look may take this part of the time at most.
const SHARE: u32 = 20;
/// The folder that may be a volume of its own and is counted nevertheless.
pub(crate) const OUTPUT: &[u8] = b"output";
/// Unit of `st_blocks`.
const BLOCK: u64 = 512;
/// A file system with less room than this is as good as full: what is written next does not fit.
const FULL: u64 = 64 * 1024;
/// Bytes by which a file system made for a limit may be larger than the limit.
const SLACK: u64 = 64 * 1024 * 1024;

/// What the thread has seen.
#[derive(Debug, Default)]
pub(crate) struct DiskWatch {
    settings: Mutex<Option<Settings>>,
    begin: Condvar,
    places: OnceLock<Vec<Place>>,
    peak: AtomicU64,
    full: AtomicBool,
    had_no_room: AtomicBool,
    touched: AtomicBool,
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
}

impl DiskWatch {
    /// Starts the thread, which waits for [`Self::watch`] and rings `wake` for [`Self::take_full`].
    pub(crate) fn start(wake: Wake) -> std::io::Result<Arc<Self>> {
        let watch = Arc::new(Self::default());
        let shared = Arc::clone(&watch);
        std::thread::Builder::new()
            .name("disk".into())
            .stack_size(512 * 1024)
            .spawn(move || shared.run(&wake))?;
        Ok(watch)
    }

    /// Begins to watch.
    pub(crate) fn watch(&self, settings: Settings) {
        drop(self.places.set(places(&settings)));
        *lock(&self.settings) = Some(settings);
        self.begin.notify_one();
    }

    /// Largest workspace seen, in bytes.
    pub(crate) fn peak(&self) -> u64 {
        self.peak.load(Ordering::Relaxed)
    }

    /// Whether the workspace was found too large since this was asked last.
    pub(crate) fn take_full(&self) -> bool {
        self.full.swap(false, Ordering::Relaxed)
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
        let settings = self.wait_for_settings();
        let mut root = RootWatch::begin();
        let mut was_idle = false;
        loop {
            // Where no process is and was, nothing changes: waiting sandboxes should cost nothing.
            let is_idle = send_signal(-1, 0) == Err(Errno::ESRCH);
            let touched = self.touched.swap(false, Ordering::Relaxed);
            if is_idle && was_idle && !touched {
                std::thread::sleep(PAUSE);
                continue;
            }
            was_idle = is_idle;
            let begin = Instant::now();
            let limit = settings.disk_limit;
            let outgrew = root.as_mut().is_some_and(|root| root.outgrew(limit));
            if self.look(limit) || outgrew {
                self.full.store(true, Ordering::Relaxed);
                wake.ring();
            }
            std::thread::sleep((begin.elapsed() * SHARE).clamp(PAUSE, LONGEST_PAUSE));
        }
    }

    /// Whether files take up more than `limit`, or filled a file system that is not the task's own.
    fn look(&self, limit: u64) -> bool {
        self.look_for_room();
        let (mut counted, mut filled) = (0_u64, false);
        let places = self.places.get().into_iter().flatten();
        for place in places.filter(|place| !place.is_sized) {
            let left = limit.saturating_sub(counted);
            counted = counted.saturating_add(count(&place.path, left).unwrap_or(0));
            filled |= place.had_room && !place.has_room();
        }
        let used = self.used_of_sized().saturating_add(counted);
        self.peak.fetch_max(used, Ordering::Relaxed);
        counted > limit || filled
    }

    fn used_of_sized(&self) -> u64 {
        let places = self.places.get().into_iter().flatten();
        let sized = places.filter(|place| place.is_sized);
        sized.map(Place::used).fold(0, u64::saturating_add)
    }

    fn wait_for_settings(&self) -> Settings {
        let mut settings = lock(&self.settings);
        loop {
            if let Some(settings) = settings.take() {
                return settings;
            }
            settings = self
                .begin
                .wait(settings)
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
        })
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

/// The workspace and, where it is on another device, its output.
fn places(settings: &Settings) -> Vec<Place> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
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

/// Whether it is a folder.
pub(crate) fn is_folder(found: &FileStat) -> bool {
    found.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFDIR.bits()
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
        let sparse = std::fs::File::create(folder.join("sparse")).unwrap();
        sparse.set_len(1 << 40).unwrap();
        let grown = used(&folder) - empty;
        assert!((1 << 20..(1 << 20) + 65_536).contains(&grown), "{grown}");
    }

    #[test]
    fn a_workspace_that_is_not_there_is_no_news() {
        assert_eq!(count(b"/nonexistent/workspace", 1), None);
    }
}
