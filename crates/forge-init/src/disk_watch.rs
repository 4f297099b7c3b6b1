//! The thread that watches how large the workspace grows.
//!
//! What it cannot see: files below folders that the task closed to its own user, files that are
//! deleted but still open, and what lies deeper than [`MAX_DEPTH`]. A workspace on a file system of
//! its own is watched exactly all the same, because a full file system counts as a full workspace.

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use forge_wire::message::Settings;
use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::sys::stat::{FileStat, SFlag, fstat, fstatat};
use nix::sys::statvfs::fstatvfs;

use crate::beneath::{Listing, MAX_DEPTH};
use crate::kernel::send_signal;
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

/// What the thread has seen.
#[derive(Debug, Default)]
pub(crate) struct DiskWatch {
    settings: Mutex<Option<Settings>>,
    begin: Condvar,
    peak: AtomicU64,
    full: AtomicBool,
    touched: AtomicBool,
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

    /// Notes that PID 1 itself puts something into the workspace.
    pub(crate) fn touch(&self) {
        self.touched.store(true, Ordering::Relaxed);
    }

    fn run(&self, wake: &Wake) {
        let settings = self.wait_for_settings();
        let mut had_room = false;
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
            if let Some(seen) = look(settings.workspace.as_bytes(), settings.disk_limit) {
                self.peak.fetch_max(seen.used, Ordering::Relaxed);
                // A file system that never had room is not one that the task filled.
                let filled = had_room && !seen.has_room;
                had_room |= seen.has_room;
                if seen.used > settings.disk_limit || filled {
                    self.full.store(true, Ordering::Relaxed);
                    wake.ring();
                }
            }
            std::thread::sleep((begin.elapsed() * SHARE).clamp(PAUSE, LONGEST_PAUSE));
        }
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

#[derive(Debug, PartialEq, Eq)]
struct Seen {
    used: u64,
    has_room: bool,
}

/// Adds up the workspace, as far as needed to see that it is past `limit`; none when it cannot be
/// opened.
fn look(workspace: &[u8], limit: u64) -> Option<Seen> {
    let top = Listing::open_absolute(workspace).ok()?;
    let found = fstat(&top).ok()?;
    let output = fstatat(&top, OUTPUT, AtFlags::AT_SYMLINK_NOFOLLOW)
        .ok()
        .filter(is_folder)
        .map(|output| output.st_dev);
    let has_room = fstatvfs(&top).is_ok_and(|room| room.blocks_available() > 0);
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
        let is_output = levels.len() == 1 && entry.name == OUTPUT;
        let counts =
            found.st_dev == own || output == Some(found.st_dev) && (is_output || levels.len() > 1);
        if !counts {
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
    Some(Seen { used, has_room })
}

/// What a file takes up. A file of several names counts in parts, so that the names together count
/// it once, without a list of all such files in memory.
fn allocated(found: &FileStat) -> u64 {
    // An empty file takes an inode at least.
    let bytes = u64::try_from(found.st_blocks).unwrap_or(0).max(1) * BLOCK;
    if is_folder(found) {
        return bytes;
    }
    bytes.div_ceil(widen(found.st_nlink).max(1))
}

/// Counts of links differ in width between machines.
fn widen(count: impl Into<u64>) -> u64 {
    count.into()
}

fn is_folder(found: &FileStat) -> bool {
    found.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFDIR.bits()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStrExt;
    use std::path::Path;

    fn used(folder: &Path) -> u64 {
        look(folder.as_os_str().as_bytes(), u64::MAX).unwrap().used
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
        assert_eq!(look(b"/nonexistent/workspace", 1), None);
    }
}
