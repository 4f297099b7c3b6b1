//! Who listens at an engine's socket, as far as the kernel tells.
//!
//! An engine of this machine that has this process's mounts and root finds under every name what
//! this process finds. That is known at once, where reading a file through the engine takes longer
//! than everything else before the first sandbox.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use tokio::net::UnixStream;

/// The program of an engine.
const ENGINE: &str = "dockerd";

/// Whether an engine listens at `socket` that names files as this process does. `false` when that is
/// not certain, above all without the right to look: the process may be one that hands connections
/// on to an engine elsewhere, or one that has opened the socket for the engine.
pub(crate) async fn names_files_as_we_do(socket: &Path) -> bool {
    let Ok(stream) = UnixStream::connect(socket).await else {
        return false;
    };
    let credentials = stream.peer_cred();
    // It is 0 for a process that this one cannot see.
    let pid = credentials.ok().and_then(|peer| peer.pid());
    pid.filter(|pid| *pid > 0).is_some_and(|pid| {
        let process = format!("/proc/{pid}");
        is_engine(Path::new(&process)) && is_here(Path::new(&process))
    })
}

fn is_engine(process: &Path) -> bool {
    let program = fs::read_link(process.join("exe"));
    program.is_ok_and(|program| program.file_name().is_some_and(|name| name == ENGINE))
}

/// Whether a process has the mounts and the root of this one.
fn is_here(process: &Path) -> bool {
    let mounts = |process: &Path| fs::read_link(process.join("ns/mnt"));
    let same_mounts = match (mounts(process), mounts(Path::new("/proc/self"))) {
        (Ok(theirs), Ok(ours)) => theirs == ours,
        _ => false,
    };
    let root = |path: &Path| fs::metadata(path).map(|root| (root.dev(), root.ino()));
    let same_root = match (root(&process.join("root")), root(Path::new("/"))) {
        (Ok(theirs), Ok(ours)) => theirs == ours,
        _ => false,
    };
    same_mounts && same_root
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::UnixListener;

    #[tokio::test]
    async fn a_listener_that_is_no_engine_and_a_socket_without_one_prove_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("engine.sock");
        assert!(!names_files_as_we_do(&socket).await);
        let _listener = UnixListener::bind(&socket).unwrap();
        assert!(!names_files_as_we_do(&socket).await);
    }

    #[test]
    fn a_process_is_here_that_has_our_mounts_and_our_root() {
        assert!(is_here(Path::new("/proc/self")));
        assert!(!is_here(Path::new("/nonexistent")));
    }

    #[test]
    fn a_process_with_another_root_is_elsewhere() {
        let process = tempfile::tempdir().unwrap();
        let path = process.path();
        fs::create_dir(path.join("ns")).unwrap();
        let mounts = fs::read_link("/proc/self/ns/mnt").unwrap();
        std::os::unix::fs::symlink(&mounts, path.join("ns/mnt")).unwrap();
        std::os::unix::fs::symlink("/", path.join("root")).unwrap();
        assert!(is_here(path));
        fs::remove_file(path.join("root")).unwrap();
        fs::create_dir(path.join("root")).unwrap();
        assert!(!is_here(path));
        fs::remove_file(path.join("ns/mnt")).unwrap();
        std::os::unix::fs::symlink("mnt:[1]", path.join("ns/mnt")).unwrap();
        fs::remove_dir(path.join("root")).unwrap();
        std::os::unix::fs::symlink("/", path.join("root")).unwrap();
        assert!(!is_here(path));
    }

    #[test]
    fn only_the_engine_s_program_is_an_engine() {
        let process = tempfile::tempdir().unwrap();
        let program = |name: &str| {
            let exe = process.path().join("exe");
            fs::remove_file(&exe).ok();
            std::os::unix::fs::symlink(name, exe).unwrap();
            is_engine(process.path())
        };
        assert!(program("/usr/bin/dockerd"));
        // Replaced since it was started, and what may stand between us and an engine.
        for other in ["/usr/bin/dockerd (deleted)", "/usr/bin/socat", "/sbin/init"] {
            assert!(!program(other), "{other}");
        }
    }
}
