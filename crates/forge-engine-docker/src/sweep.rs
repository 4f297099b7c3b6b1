//! Folders of sockets whose sandbox is gone: found by their age, removed by whoever sweeps.
//!
//! A folder goes with the container it was made for. Where somebody else has removed the
//! container, or this process's predecessor died between making the two, no object on the engine
//! leads to the folder any more, so the folders themselves are looked through. So are those that a
//! process made to see whether the engine's disk is its own, and files for all sandboxes that it was
//! about to put in place, and did not live to.

use std::collections::HashSet;
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use forge_wire::SOCKET_NAME;
use tokio::net::UnixStream;

use crate::channel::ChannelFolder;
use crate::channel_root::is_unplaced;
use crate::context::is_hex;
use crate::engine::{DiskSharing, DockerEngine};
use crate::names::{owner_filter, sandbox_of};

/// A younger folder may wait for its container: far more than making one takes.
const AGE: Duration = Duration::from_secs(600);
/// First part of the name of a folder that was made to look whether the engine reads it.
const PROBE: &str = "probe-";
/// Length of the rest of it.
const NONCE_LENGTH: usize = 32;
/// Length of a folder's name, see [`ChannelFolder::of`].
const NAME_LENGTH: usize = 16;

impl DockerEngine {
    /// Removes folders that no sandbox uses. Quiet, since nobody asked for it: what cannot be
    /// removed now is found again by the next sweep.
    pub(crate) async fn sweep_channels(&self) {
        if self.disk_sharing == DiskSharing::Never {
            return;
        }
        let root = self.channel_root.path();
        for file in aged(root, is_unplaced, Metadata::is_file) {
            note(&file, std::fs::remove_file(&file));
        }
        for probe in aged_folders(root, is_probe) {
            // Its contents are a file of the one who made it; the engine only reads it.
            remove(&probe);
        }
        let aged = aged_folders(root, is_name);
        if aged.is_empty() {
            return;
        }
        // Asked after the folders were seen, and about every owner: one that shares this folder
        // loses nothing either.
        let containers = match self.list_containers(owner_filter(None)).await {
            Ok(containers) => containers,
            Err(error) => {
                tracing::debug!(%error, "left channel folders were not looked for");
                return;
            }
        };
        let used: HashSet<PathBuf> = containers
            .iter()
            .filter_map(|container| sandbox_of(&container.name))
            .map(|id| ChannelFolder::of(root, &id).path().to_owned())
            .collect();
        for folder in aged.iter().filter(|folder| !used.contains(*folder)) {
            sweep(folder).await;
        }
    }
}

async fn sweep(folder: &Path) {
    // The sandbox may be on another engine that uses the same folder. And whoever makes a sandbox
    // in an old folder touches it first.
    if is_answered(&folder.join(SOCKET_NAME)).await || !is_aged(folder, Metadata::is_dir) {
        return;
    }
    remove(folder);
}

fn remove(folder: &Path) {
    note(folder, std::fs::remove_dir_all(folder));
}

fn note(path: &Path, removed: io::Result<()>) {
    match removed {
        Ok(()) => tracing::debug!(path = %path.display(), "what was left is removed"),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => tracing::debug!(path = %path.display(), %error, "what was left stays"),
    }
}

/// Whether anybody may listen at a socket; what is unclear counts as yes.
async fn is_answered(socket: &Path) -> bool {
    match std::fs::symlink_metadata(socket) {
        // A link that a task has made leads to somebody else's socket.
        Ok(found) if !found.file_type().is_socket() => return false,
        Ok(_) => {}
        Err(error) => return error.kind() != io::ErrorKind::NotFound,
    }
    match UnixStream::connect(socket).await {
        Ok(_) => true,
        Err(error) => !matches!(
            error.kind(),
            io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound
        ),
    }
}

fn aged_folders(root: &Path, has_name: fn(&str) -> bool) -> Vec<PathBuf> {
    aged(root, has_name, Metadata::is_dir)
}

/// What of a folder has such a name, is of this kind, and has not changed for long.
fn aged(root: &Path, has_name: fn(&str) -> bool, is_kind: fn(&Metadata) -> bool) -> Vec<PathBuf> {
    let entries = match std::fs::read_dir(root) {
        Ok(entries) => entries,
        Err(error) => {
            tracing::debug!(%error, "the channel folder could not be read");
            return Vec::new();
        }
    };
    entries
        .filter_map(Result::ok)
        .filter(|entry| entry.file_name().to_str().is_some_and(has_name))
        .map(|entry| entry.path())
        .filter(|path| is_aged(path, is_kind))
        .collect()
}

fn is_name(name: &str) -> bool {
    is_hex(name, NAME_LENGTH)
}

fn is_probe(name: &str) -> bool {
    name.strip_prefix(PROBE)
        .is_some_and(|nonce| is_hex(nonce, NONCE_LENGTH))
}

/// Whether it is of this kind and has not changed for long.
fn is_aged(path: &Path, is_kind: fn(&Metadata) -> bool) -> bool {
    let Ok(metadata) = std::fs::symlink_metadata(path) else {
        return false;
    };
    let age = metadata
        .modified()
        .ok()
        .and_then(|modified| SystemTime::now().duration_since(modified).ok());
    is_kind(&metadata) && age.is_some_and(|age| age > AGE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use forge_core::{SandboxId, UserId};

    fn aged(path: &Path) {
        let then = SystemTime::now() - AGE - Duration::from_secs(60);
        let folder = std::fs::File::open(path).unwrap();
        folder.set_modified(then).unwrap();
    }

    fn folder(root: &Path, name: &str) -> PathBuf {
        let path = root.join(name);
        std::fs::create_dir(&path).unwrap();
        aged(&path);
        path
    }

    #[test]
    fn only_old_folders_with_the_name_of_a_channel_are_looked_at() {
        let root = tempfile::tempdir().unwrap();
        let old = folder(root.path(), "0123456789abcdef");
        folder(root.path(), "probe-0123456789");
        folder(root.path(), "0123456789ABCDEF");
        std::fs::create_dir(root.path().join("fedcba9876543210")).unwrap();
        std::os::unix::fs::symlink(&old, root.path().join("00000000000000ff")).unwrap();
        assert_eq!(aged_folders(root.path(), is_name), [old]);
        assert!(aged_folders(&root.path().join("absent"), is_name).is_empty());
        let probe = folder(root.path(), &format!("{PROBE}{}", "0a".repeat(16)));
        assert_eq!(aged_folders(root.path(), is_probe), [probe]);
    }

    #[test]
    fn only_old_files_that_were_not_put_in_place_are_left_ones() {
        let root = tempfile::tempdir().unwrap();
        let nonce = "0a".repeat(16);
        let file = |name: &str| {
            let path = root.path().join(name);
            std::fs::write(&path, "").unwrap();
            path
        };
        let old = file(&format!("resolv.conf.{nonce}"));
        let others = [
            format!("notes.{nonce}"),
            "hosts".to_owned(),
            "hosts.1".to_owned(),
        ];
        let others = others.map(|name| file(&name));
        for path in others.iter().chain([&old]) {
            aged(path);
        }
        file(&format!("hosts.{nonce}"));
        folder(root.path(), &format!("hostname.{nonce}"));
        let left = super::aged(root.path(), is_unplaced, Metadata::is_file);
        assert_eq!(left, [old]);
    }

    #[tokio::test]
    async fn a_folder_whose_socket_answers_stays() {
        let root = tempfile::tempdir().unwrap();
        let path = folder(root.path(), "0123456789abcdef");
        let socket = path.join(SOCKET_NAME);
        let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        aged(&path);
        sweep(&path).await;
        assert!(socket.exists());
        drop(listener);
        sweep(&path).await;
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_folder_that_is_used_again_stays() {
        let root = tempfile::tempdir().unwrap();
        let id = SandboxId::new("again").unwrap();
        let channel = ChannelFolder::of(root.path(), &id);
        let user = UserId::for_slot(1);
        assert!(channel.make(user).unwrap());
        aged(channel.path());
        assert!(!channel.make(user).unwrap());
        sweep(channel.path()).await;
        assert!(channel.exists());
    }

    #[tokio::test]
    async fn a_link_to_a_socket_of_somebody_else_is_no_answer() {
        let root = tempfile::tempdir().unwrap();
        let foreign = root.path().join("foreign");
        let _listener = std::os::unix::net::UnixListener::bind(&foreign).unwrap();
        let path = folder(root.path(), "0123456789abcdef");
        std::os::unix::fs::symlink(&foreign, path.join(SOCKET_NAME)).unwrap();
        aged(&path);
        sweep(&path).await;
        assert!(!path.exists() && foreign.exists());
    }
}
