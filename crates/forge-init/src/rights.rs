//! Takes back the rights to files of our own user that the task, as the same user, took away.
//!
//! A task could otherwise make every transfer and removal fail by closing a folder, and what fails
//! for PID 1 counts as a fault of the sandbox instead of the task's. Rights are only ever changed
//! on a descriptor, whose file is known, so that no link can lead the change elsewhere.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, openat};
use nix::sys::stat::{FchmodatFlags, Mode, SFlag, fchmodat, fstat};

use crate::beneath::{open_folder, step};
use crate::disk_watch::OUTPUT;

/// What the workspace and its output have from the start.
const OPEN: Mode = Mode::from_bits_truncate(0o755);
const LOOK: OFlag = OFlag::O_PATH
    .union(OFlag::O_NOFOLLOW)
    .union(OFlag::O_CLOEXEC);

/// Opens the workspace and its output again where they were closed to their owner.
///
/// Says nothing of a failure: whatever needs these folders next will say it better.
pub(crate) fn restore(workspace: &str) {
    let Ok(top) = open_folder(workspace.as_bytes()) else {
        return;
    };
    reopen(top.as_fd());
    if let Ok(output) = step(top.as_fd(), OUTPUT) {
        reopen(output.as_fd());
    }
}

/// Does something with an entry of `folder`, again if the folder was closed and is ours to open.
pub(crate) fn in_folder<T>(
    folder: BorrowedFd<'_>,
    act: impl Fn() -> Result<T, Errno>,
) -> Result<T, Errno> {
    match act() {
        Err(Errno::EACCES) if regain(folder) => act(),
        done => done,
    }
}

/// Opens an entry of `folder` for reading, which either of the two may resist; never a link.
pub(crate) fn open(folder: BorrowedFd<'_>, name: &[u8], flags: OFlag) -> Result<OwnedFd, Errno> {
    let flags = flags | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let open = || openat(folder, name, flags, Mode::empty());
    match in_folder(folder, open) {
        Err(Errno::EACCES) => {
            let found = openat(folder, name, LOOK, Mode::empty())?;
            if regain(found.as_fd()) {
                open()
            } else {
                Err(Errno::EACCES)
            }
        }
        opened => opened,
    }
}

/// Lets its owner use what is ours and was closed; tells whether that changed anything.
fn regain(file: BorrowedFd<'_>) -> bool {
    closed(file).is_some_and(|(mode, missing)| change_mode(file, mode | missing).is_ok())
}

/// As [`regain`], for one of the sandbox's own folders, whose mode is known.
fn reopen(folder: BorrowedFd<'_>) {
    if closed(folder).is_some() {
        let _fails_later = change_mode(folder, OPEN);
    }
}

/// The mode of a file or folder of ours and the rights that its owner lacks; none when it has all.
fn closed(file: BorrowedFd<'_>) -> Option<(Mode, Mode)> {
    let found = fstat(file).ok()?;
    let needed = match SFlag::from_bits_truncate(found.st_mode) & SFlag::S_IFMT {
        SFlag::S_IFDIR => Mode::S_IRWXU,
        SFlag::S_IFREG => Mode::S_IRUSR,
        _ => return None,
    };
    let mode = Mode::from_bits_truncate(found.st_mode);
    let is_ours = found.st_uid == nix::unistd::geteuid().as_raw();
    (is_ours && !mode.contains(needed)).then_some((mode, needed - mode))
}

/// fchmod(2) refuses a descriptor that is only a place; the kernel's own link to it does not, and
/// leads to that very file.
fn change_mode(file: BorrowedFd<'_>, mode: Mode) -> Result<(), Errno> {
    let link = format!("/proc/self/fd/{}", file.as_raw_fd());
    fchmodat(AT_FDCWD, link.as_str(), mode, FchmodatFlags::FollowSymlink)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::Path;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    fn close(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn only_a_closed_workspace_and_output_are_opened_and_no_link_is_followed() {
        let outer = tempfile::tempdir().unwrap();
        let workspace = outer.path().join("workspace");
        let output = workspace.join("output");
        let other = outer.path().join("other");
        fs::create_dir_all(&output).unwrap();
        fs::create_dir(&other).unwrap();
        close(&output, 0o500);
        close(&other, 0o0);
        close(&workspace, 0o0);
        restore(workspace.to_str().unwrap());
        assert_eq!((mode(&workspace), mode(&output)), (0o755, 0o755));
        // One that its owner can use stays as the task wants it.
        close(&workspace, 0o700);
        fs::remove_dir(&output).unwrap();
        symlink(&other, &output).unwrap();
        restore(workspace.to_str().unwrap());
        assert_eq!((mode(&workspace), mode(&other)), (0o700, 0o0));
        restore("not/absolute");
    }

    #[test]
    fn a_file_gets_reading_only_and_keeps_the_rest() {
        let outer = tempfile::tempdir().unwrap();
        let path = outer.path().join("file");
        fs::write(&path, "x").unwrap();
        let file = fs::File::open(&path).unwrap();
        close(&path, 0o011);
        assert!(regain(file.as_fd()));
        assert!(!regain(file.as_fd()));
        assert_eq!(mode(&path), 0o411);
    }
}
