//! Removes a file or a whole tree below the workspace, never following a link.

use std::os::fd::{AsFd, BorrowedFd};

use forge_wire::message::TransferError;
use nix::dir::Type;
use nix::errno::Errno;
use nix::sys::stat::{Mode, fchmod};
use nix::unistd::{UnlinkatFlags, unlinkat};

use crate::beneath::{Listing, MAX_DEPTH, open_parent, too_deep};
use crate::failure::Failure;
use crate::names::split_absolute;
use crate::rights::in_folder;

/// Times that a folder is gone through again because something appeared in it.
const MAX_ROUNDS: u32 = 8;

/// Removes what is at `path`, strictly below `workspace`; success when nothing is there.
pub(crate) fn remove(workspace: &str, path: &str) -> Result<(), Failure> {
    let refused = |what: &str| Failure::about(TransferError::Malformed, path.as_bytes(), what);
    let name_of = |text: &'_ str| split_absolute(text.as_bytes()).map(|parts| parts.join(&b'/'));
    let inside = name_of(workspace)
        .ok()
        .zip(name_of(path).ok())
        .and_then(|(top, name)| Some(name.strip_prefix(top.as_slice())?.first() == Some(&b'/')));
    if inside != Some(true) {
        return Err(refused("not a name below the workspace"));
    }
    let (parent, name) = match open_parent(path.as_bytes()) {
        Err(failure) if failure.error == TransferError::NotFound => return Ok(()),
        found => found?,
    };
    let name = name.ok_or_else(|| refused("not a name below the workspace"))?;
    match unlink(parent.as_fd(), &name) {
        Ok(()) => Ok(()),
        Err(Errno::EISDIR) => tree(parent.as_fd(), name, path),
        Err(errno) => Err(Failure::kernel(errno, path.as_bytes())),
    }
}

/// One folder on the way down.
struct Level {
    listing: Listing,
    name: Vec<u8>,
    rounds: u32,
}

fn tree(parent: BorrowedFd<'_>, name: Vec<u8>, path: &str) -> Result<(), Failure> {
    let failed = |errno, name: &[u8]| {
        let inside = [path.as_bytes(), b"/\xe2\x80\xa6/", name].concat();
        Failure::kernel(errno, &inside)
    };
    let mut levels = Vec::new();
    match enter(parent, name, 0) {
        Ok(level) => levels.push(level),
        Err(Errno::ENOENT) => return Ok(()),
        Err(errno) => return Err(Failure::kernel(errno, path.as_bytes())),
    }
    while let Some(level) = levels.last_mut() {
        let Some(entry) = level.listing.next_entry() else {
            let Some(done) = levels.pop() else { break };
            let above = levels.last().map_or(parent, |above| above.listing.as_fd());
            let name = done.name.as_slice();
            match in_folder(above, || unlinkat(above, name, UnlinkatFlags::RemoveDir)) {
                Ok(()) | Err(Errno::ENOENT) => {}
                Err(Errno::ENOTEMPTY | Errno::EEXIST) if done.rounds < MAX_ROUNDS => {
                    let again = enter(above, done.name, done.rounds + 1);
                    levels.push(again.map_err(|errno| failed(errno, b""))?);
                }
                Err(errno) => return Err(failed(errno, &done.name)),
            }
            continue;
        };
        let entry = entry.map_err(|errno| failed(errno, &level.name))?;
        let folder = level.listing.as_fd();
        if entry.kind != Some(Type::Directory) {
            match unlink(folder, &entry.name) {
                Ok(()) => continue,
                Err(Errno::EISDIR) => {}
                Err(errno) => return Err(failed(errno, &entry.name)),
            }
        }
        match enter(folder, entry.name, 0) {
            Ok(below) => levels.push(below),
            // It vanished, or a link took its place: the next round sees to that.
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => {}
            Err(errno) => return Err(failed(errno, b"")),
        }
        if levels.len() > MAX_DEPTH {
            return Err(too_deep(path.as_bytes()));
        }
    }
    Ok(())
}

/// Opens a folder to empty it, and takes back the rights that its owner took from itself.
fn enter(parent: BorrowedFd<'_>, name: Vec<u8>, rounds: u32) -> Result<Level, Errno> {
    let all = Mode::S_IRWXU;
    let listing = Listing::open_closed(parent, &name)?;
    let found = nix::sys::stat::fstat(&listing)?;
    let ours = found.st_uid == nix::unistd::geteuid().as_raw();
    if ours && !Mode::from_bits_truncate(found.st_mode).contains(all) {
        fchmod(&listing, all)?;
    }
    Ok(Level {
        listing,
        name,
        rounds,
    })
}

fn unlink(folder: BorrowedFd<'_>, name: &[u8]) -> Result<(), Errno> {
    match in_folder(folder, || {
        unlinkat(folder, name, UnlinkatFlags::NoRemoveDir)
    }) {
        Err(Errno::ENOENT) => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn a_tree_goes_and_what_its_links_lead_to_stays() {
        let folder = tempfile::tempdir().unwrap();
        let workspace = folder.path().join("workspace");
        let outside = folder.path().join("outside");
        fs::create_dir_all(workspace.join("tree/closed/inner")).unwrap();
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("kept"), "x").unwrap();
        symlink(&outside, workspace.join("tree/link")).unwrap();
        let closed = workspace.join("tree/closed");
        fs::set_permissions(&closed, fs::Permissions::from_mode(0o0)).unwrap();
        let top = workspace.to_str().unwrap();
        remove(top, &format!("{top}/tree")).unwrap();
        remove(top, &format!("{top}/tree")).unwrap();
        assert!(!workspace.join("tree").exists());
        assert!(outside.join("kept").exists());
    }

    #[test]
    fn only_names_below_the_workspace_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        let outside = folder.path().join("outside");
        fs::create_dir(&outside).unwrap();
        fs::create_dir(folder.path().join("workspace")).unwrap();
        fs::write(outside.join("kept"), "x").unwrap();
        symlink(&outside, folder.path().join("workspace/link")).unwrap();
        let base = folder.path().to_str().unwrap();
        let top = format!("{base}/workspace");
        for path in [
            top.clone(),
            format!("{top}/"),
            format!("{top}/."),
            format!("{top}/../outside"),
            format!("{base}/outside"),
            format!("{top}x"),
            format!("{top}/link/kept"),
            "relative".to_owned(),
            "/".to_owned(),
        ] {
            assert!(remove(&top, &path).is_err(), "{path}");
        }
        assert!(outside.join("kept").exists());
        remove(&top, &format!("{top}/link")).unwrap();
        assert!(outside.exists());
    }
}
