//! What the engine asks for: one line of JSON after another over a socket that no sandbox sees.
//!
//! [`serve`] is the proxy's end, [`relay`] what the engine runs in the proxy's container to reach
//! it.

mod lines;
pub mod relay;
mod session;

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UnixListener;

use crate::server::Server;
use crate::tasks::{self, OwnedTask};

const SOCKET_MODE: u32 = 0o600;
/// How long the listener rests when the machine has no descriptor left for it.
const OUT_OF_DESCRIPTORS: Duration = Duration::from_millis(50);

/// Opens the control socket, in place of one that an earlier proxy left behind.
///
/// # Errors
///
/// When it cannot be made.
pub fn listen(path: &Path) -> io::Result<UnixListener> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        other => other?,
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, Permissions::from_mode(SOCKET_MODE))?;
    Ok(listener)
}

/// Serves one engine at a time; a new one takes the place of the old, which is closed. Policies and
/// connections outlive them all.
pub async fn serve(server: Arc<Server>, listener: UnixListener) {
    let mut current: Option<OwnedTask> = None;
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                // The old one first: records that it did not deliver wait again before the new one
                // takes any.
                if let Some(old) = current.take() {
                    old.end().await;
                }
                current = Some(tasks::spawn(session::run(server.clone(), stream)));
            }
            Err(_) => tokio::time::sleep(OUT_OF_DESCRIPTORS).await,
        }
    }
}
