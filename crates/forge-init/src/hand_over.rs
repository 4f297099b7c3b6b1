//! Gives a tree of the workspace to a user, never following a link.
//!
//! Only where PID 1 is root: setup makes files as root that the task's own user then has. What is
//! mounted read-only below stays as it is; other volumes below are given as well.

use std::os::fd::{AsFd, BorrowedFd};

use forge_wire::message::TransferError;
use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::sys::stat::{SFlag, fstat, fstatat};
use nix::unistd::{Gid, Uid, fchown, fchownat};

use crate::beneath::{Listing, MAX_DEPTH, open_parent, too_deep};
use crate::failure::Failure;
use crate::names::split_absolute;
use crate::rights::in_folder;

/// Files and folders that are given at most: more than a workspace may hold.
const MAX_ENTRIES: u64 = 20_000_000;
const NO_FOLLOW: AtFlags = AtFlags::AT_SYMLINK_NOFOLLOW;

/// The user and the group that a tree is given to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Heir {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// Gives `path`, which is `workspace` or below it, and all that is in it.
pub(crate) fn hand_over(workspace: &str, path: &str, heir: Heir) -> Result<(), Failure> {
    let refused = |what: &str| Failure::about(TransferError::Malformed, path.as_bytes(), what);
    // The kernel takes this number for "leave it as it is".
    if heir.uid == u32::MAX || heir.gid == u32::MAX {
        return Err(refused("no user or group has this number"));
    }
    let parts = |text: &'_ str| split_absolute(text.as_bytes()).map(|parts| parts.join(&b'/'));
    let inside = parts(workspace)
        .ok()
        .zip(parts(path).ok())
        .and_then(|(top, name)| {
            let rest = name.strip_prefix(top.as_slice())?;
            Some(!top.is_empty() && (rest.is_empty() || rest.first() == Some(&b'/')))
        });
    if inside != Some(true) {
        return Err(refused("not a name in the workspace"));
    }
    let (parent, name) = open_parent(path.as_bytes())?;
    let name = name.ok_or_else(|| refused("not a name in the workspace"))?;
    let mut giving = Giving {
        heir,
        left: MAX_ENTRIES,
    };
    match giving.entry(parent.as_fd(), &name) {
        Ok(Given::Folder) => giving.tree(parent.as_fd(), &name, path),
        Ok(Given::Single) => Ok(()),
        Ok(Given::ReadOnly) => Err(Failure::kernel(Errno::EROFS, path.as_bytes())),
        Err(errno) => Err(Failure::kernel(errno, path.as_bytes())),
    }
}

/// What was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Given {
    Folder,
    Single,
    /// Nothing: it cannot be changed here.
    ReadOnly,
}

struct Giving {
    heir: Heir,
    left: u64,
}

impl Giving {
    fn tree(&mut self, parent: BorrowedFd<'_>, name: &[u8], path: &str) -> Result<(), Failure> {
        let failed = |errno, name: &[u8]| {
            let inside = [path.as_bytes(), b"/\xe2\x80\xa6/", name].concat();
            Failure::kernel(errno, &inside)
        };
        let top = Listing::open_closed(parent, name);
        let mut levels = vec![top.map_err(|errno| Failure::kernel(errno, path.as_bytes()))?];
        while let Some(level) = levels.last_mut() {
            let Some(entry) = level.next_entry() else {
                levels.pop();
                continue;
            };
            let entry = entry.map_err(|errno| failed(errno, b""))?;
            self.left = self.left.checked_sub(1).ok_or_else(|| {
                let what = format!("more than {MAX_ENTRIES} files");
                Failure::about(TransferError::Limit, path.as_bytes(), what)
            })?;
            match self.entry(level.as_fd(), &entry.name) {
                Ok(Given::Folder) => {}
                // It vanished.
                Ok(Given::Single | Given::ReadOnly) | Err(Errno::ENOENT) => continue,
                Err(errno) => return Err(failed(errno, &entry.name)),
            }
            if levels.len() >= MAX_DEPTH {
                return Err(too_deep(path.as_bytes()));
            }
            let Some(level) = levels.last() else { break };
            match Listing::open_closed(level.as_fd(), &entry.name) {
                // Something else may have taken its place, which is looked at for itself.
                Ok(below) => match self.folder(&below) {
                    Ok(()) => levels.push(below),
                    Err(Errno::EROFS) => {}
                    Err(errno) => return Err(failed(errno, &entry.name)),
                },
                Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => {}
                Err(errno) => return Err(failed(errno, &entry.name)),
            }
        }
        Ok(())
    }

    fn entry(&self, folder: BorrowedFd<'_>, name: &[u8]) -> Result<Given, Errno> {
        let found = in_folder(folder, || fstatat(folder, name, NO_FOLLOW))?;
        let given = match SFlag::from_bits_truncate(found.st_mode) & SFlag::S_IFMT {
            SFlag::S_IFDIR => Given::Folder,
            _ => Given::Single,
        };
        if self.has(found.st_uid, found.st_gid) {
            return Ok(given);
        }
        let (uid, gid) = (Uid::from_raw(self.heir.uid), Gid::from_raw(self.heir.gid));
        match fchownat(folder, name, Some(uid), Some(gid), NO_FOLLOW) {
            Ok(()) => Ok(given),
            Err(Errno::EROFS) => Ok(Given::ReadOnly),
            Err(errno) => Err(errno),
        }
    }

    fn folder(&self, folder: &Listing) -> Result<(), Errno> {
        let found = fstat(folder)?;
        if self.has(found.st_uid, found.st_gid) {
            return Ok(());
        }
        let (uid, gid) = (Uid::from_raw(self.heir.uid), Gid::from_raw(self.heir.gid));
        fchown(folder, Some(uid), Some(gid))
    }

    fn has(&self, uid: u32, gid: u32) -> bool {
        (uid, gid) == (self.heir.uid, self.heir.gid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{MetadataExt, symlink};

    #[test]
    fn only_names_in_the_workspace_are_given() {
        let folder = tempfile::tempdir().unwrap();
        let base = folder.path().to_str().unwrap();
        let top = format!("{base}/workspace");
        fs::create_dir_all(format!("{top}/inner")).unwrap();
        fs::write(format!("{base}/outside"), "x").unwrap();
        symlink("../outside", format!("{top}/link")).unwrap();
        symlink("..", format!("{top}/up")).unwrap();
        let owner = fs::metadata(&top).unwrap();
        let heir = Heir {
            uid: owner.uid(),
            gid: owner.gid(),
        };
        hand_over(&top, &top, heir).unwrap();
        hand_over(&top, &format!("{top}/inner"), heir).unwrap();
        hand_over(&top, &format!("{top}/link"), heir).unwrap();
        for path in [
            base.to_owned(),
            format!("{top}/.."),
            format!("{top}x"),
            format!("{base}/outside"),
            format!("{top}/up/outside"),
            format!("{top}/missing"),
            "relative".to_owned(),
            "/".to_owned(),
        ] {
            assert!(hand_over(&top, &path, heir).is_err(), "{path}");
        }
        assert!(hand_over("/", "/", heir).is_err());
        for (uid, gid) in [(u32::MAX, 0), (0, u32::MAX)] {
            assert!(hand_over(&top, &top, Heir { uid, gid }).is_err());
        }
    }
}
