//! A directory to work in that is gone afterwards, and the removal of those that were left.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use tempfile::TempDir;

use crate::error::ImagesError;

const PREFIX: &str = "swe-forge-images-";
const LOCK: &str = "in-use";

/// A directory of this process; removed on drop, or by the next process when this one is killed.
#[derive(Debug)]
pub struct Scratch {
    directory: TempDir,
    /// The system gives the lock back when the process ends, however it does.
    _lock: File,
}

impl Scratch {
    /// Makes one in `parent`, and removes those there whose processes are gone.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn new(parent: &Path) -> Result<Self, ImagesError> {
        sweep(parent);
        Self::make(parent).map_err(ImagesError::io("make a directory in", parent))
    }

    fn make(parent: &Path) -> io::Result<Self> {
        let directory = tempfile::Builder::new()
            .prefix(PREFIX)
            // Without root, the root file system belongs to another user, who must pass through.
            .permissions(Permissions::from_mode(0o711))
            .tempdir_in(parent)?;
        // Whoever sees the lock by its name sees it locked.
        let unnamed = directory.path().join("not-yet-in-use");
        let lock = File::create_new(&unnamed)?;
        lock.lock()?;
        fs::rename(&unnamed, directory.path().join(LOCK))?;
        Ok(Self {
            directory,
            _lock: lock,
        })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.directory.path()
    }
}

/// Best effort: what cannot be looked at or removed is somebody else's, or in nobody's way.
fn sweep(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else {
        return;
    };
    for entry in entries.flatten() {
        let ours = entry.file_name().to_string_lossy().starts_with(PREFIX)
            && entry.metadata().is_ok_and(|metadata| {
                metadata.is_dir() && metadata.uid() == nix::unistd::geteuid().as_raw()
            });
        if ours && is_abandoned(&entry.path()) {
            fs::remove_dir_all(entry.path()).ok();
        }
    }
}

fn is_abandoned(directory: &Path) -> bool {
    File::open(directory.join(LOCK)).is_ok_and(|lock| lock.try_lock().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_in_use_survives_its_neighbours() {
        let parent = tempfile::tempdir().unwrap();
        let first = Scratch::new(parent.path()).unwrap();
        let second = Scratch::new(parent.path()).unwrap();
        assert!(first.path().is_dir() && second.path().is_dir());
        let gone = first.path().to_owned();
        drop(first);
        assert!(!gone.exists());
    }

    #[test]
    fn what_a_killed_process_left_is_removed_by_the_next_one() {
        let parent = tempfile::tempdir().unwrap();
        let left = parent.path().join("swe-forge-images-left");
        fs::create_dir_all(left.join("python/root")).unwrap();
        File::create(left.join(LOCK)).unwrap();
        let _scratch = Scratch::new(parent.path()).unwrap();
        assert!(!left.exists());
    }

    #[test]
    fn other_directories_are_left_alone() {
        let parent = tempfile::tempdir().unwrap();
        let foreign = parent.path().join("something-else");
        let unlocked = parent.path().join("swe-forge-images-being-made");
        for path in [&foreign, &unlocked] {
            fs::create_dir(path).unwrap();
        }
        File::create(foreign.join(LOCK)).unwrap();
        let _scratch = Scratch::new(parent.path()).unwrap();
        assert!(foreign.is_dir() && unlocked.is_dir());
    }

    #[test]
    fn a_parent_that_is_not_there_is_named() {
        let error = Scratch::new(Path::new("/nonexistent/parent")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "could not make a directory in /nonexistent/parent"
        );
    }
}
