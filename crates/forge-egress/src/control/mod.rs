//! What the engine asks for: one line of JSON after another over a socket that no sandbox sees.
//!
//! [`serve`] is the proxy's end, [`relay`] what the engine runs in the proxy's container to reach
//! it.

mod lines;
mod post;
pub mod relay;
mod session;

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UnixListener;

use crate::control::post::Post;
use crate::server::Server;
use crate::tasks::Tasks;

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

/// Serves one engine at a time: the newest that introduced itself. Policies and connections outlive
/// them all.
pub async fn serve(server: Arc<Server>, listener: UnixListener) {
    let post = Arc::new(Post::default());
    let mut sessions = Tasks::default();
    loop {
        tokio::select! {
            () = sessions.one_ended() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => sessions.start(session::run(server.clone(), post.clone(), stream)),
                Err(_) => tokio::time::sleep(OUT_OF_DESCRIPTORS).await,
            },
        }
    }
}
