//! Folders and sockets on the disk that sandboxes see.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;

use tokio::net::UnixListener;

use crate::server::socket_path;

/// Whoever guesses no name finds nothing: the folder of folders can be passed but not read.
const OUTER_MODE: u32 = 0o711;
const INNER_MODE: u32 = 0o755;
/// Every user of a sandbox may connect.
const SOCKET_MODE: u32 = 0o666;
/// Sockets get their place by a rename from this name, so that none is seen before it listens.
const UNNAMED: &str = ".opening";

/// Whether a name is one path component that nobody guesses.
pub(super) fn is_directory_name(name: &str) -> bool {
    (16..=64).contains(&name.len())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
}

/// Makes the folder of folders, and removes the sockets in it.
pub(super) fn prepare(sockets: &Path) -> io::Result<()> {
    fs::create_dir_all(sockets)?;
    fs::set_permissions(sockets, Permissions::from_mode(OUTER_MODE))?;
    for entry in fs::read_dir(sockets)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            for inner in fs::read_dir(entry.path())? {
                let inner = inner?;
                if !inner.file_type()?.is_dir() {
                    gone(fs::remove_file(inner.path()))?;
                }
            }
        } else {
            gone(fs::remove_file(entry.path()))?;
        }
    }
    Ok(())
}

/// Opens the socket of a folder, which is made where it is not there.
pub(super) fn open(sockets: &Path, directory: &str) -> io::Result<UnixListener> {
    let folder = sockets.join(directory);
    match DirBuilder::new().mode(INNER_MODE).create(&folder) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            if !fs::symlink_metadata(&folder)?.is_dir() {
                return Err(error);
            }
        }
        other => other?,
    }
    // The mode above was subject to the mask.
    fs::set_permissions(&folder, Permissions::from_mode(INNER_MODE))?;
    let unnamed = sockets.join(UNNAMED);
    gone(fs::remove_file(&unnamed))?;
    let listener = UnixListener::bind(&unnamed)?;
    fs::set_permissions(&unnamed, Permissions::from_mode(SOCKET_MODE))?;
    fs::rename(&unnamed, socket_path(sockets, directory))?;
    Ok(listener)
}

/// Removes the socket of a folder, and the folder.
pub(super) fn close(sockets: &Path, directory: &str) -> io::Result<()> {
    gone(fs::remove_file(socket_path(sockets, directory)))?;
    gone(fs::remove_dir(sockets.join(directory)))
}

fn gone(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_leave_their_place_or_are_guessed_are_refused() {
        assert!(is_directory_name("0123456789abcdef"));
        assert!(is_directory_name(&"f".repeat(64)));
        for name in [
            "",
            "0123456789abcde",
            &"f".repeat(65),
            "0123456789ABCDEF",
            "../0123456789abcdef",
            "0123456789abcde/",
            "0123456789abcde\0",
        ] {
            assert!(!is_directory_name(name), "{name:?}");
        }
    }
}
