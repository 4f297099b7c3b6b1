//! The sockets that PID 1 listens on.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::Path;

use forge_wire::{ABSTRACT_SOCKET, SOCKET_DIRECTORY, SOCKET_NAME};

/// Opens the abstract socket and, where the folder for it is mounted, the one with a name.
pub(crate) fn open() -> io::Result<Vec<UnixListener>> {
    let address = SocketAddr::from_abstract_name(ABSTRACT_SOCKET)?;
    let mut listeners = vec![UnixListener::bind_addr(&address)?];
    match open_named(Path::new(SOCKET_DIRECTORY)) {
        Ok(listener) => listeners.push(listener),
        // The folder is part of the image at most: nothing is shared with the orchestrator.
        Err(error) if is_not_shared(&error) => {}
        Err(error) => return Err(error),
    }
    for listener in &listeners {
        listener.set_nonblocking(true)?;
    }
    Ok(listeners)
}

fn open_named(folder: &Path) -> io::Result<UnixListener> {
    if !folder.is_dir() {
        return Err(io::ErrorKind::NotFound.into());
    }
    let path = folder.join(SOCKET_NAME);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&path)?;
    // The orchestrator has another user; it proves itself by more than being able to connect.
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o666))?;
    Ok(listener)
}

fn is_not_shared(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::ReadOnlyFilesystem
    )
}
