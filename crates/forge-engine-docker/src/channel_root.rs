//! The folder on this machine that holds the sockets of sandboxes, where the disk is shared.

use std::fs::{DirBuilder, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use forge_engine::{EngineError, EngineErrorKind, Operation};

use crate::context::is_hex;
use crate::failure::During;

/// Room a socket's name needs behind the channel root: `/<16 digits>/init.sock` and a zero byte.
const SOCKET_TAIL: usize = 28;
/// Longest address of a unix socket.
const SOCKET_ADDRESS: usize = 108;

/// The name of every sandbox's machine.
pub(crate) const HOST_NAME: &str = "sandbox";
const HOST_NAME_LINE: &str = "sandbox\n";
const HOSTS: &str = "127.0.0.1\tlocalhost sandbox\n::1\tlocalhost ip6-localhost ip6-loopback\n";
/// Nobody listens there, so that a look-up fails at once.
const RESOLVER: &str = "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n";
/// What the sandbox is told, in place of what an engine makes: name here, contents, place in the
/// sandbox. An engine makes some of these only for containers with a network; those that it makes
/// are files of its machine, which root of a sandbox could fill without a limit.
const NAME_FILES: [(&str, &str, &str); 3] = [
    ("hostname", HOST_NAME_LINE, "/etc/hostname"),
    ("hosts", HOSTS, "/etc/hosts"),
    ("resolv.conf", RESOLVER, "/etc/resolv.conf"),
];

/// Digits of what tells a file that is being put in place from others.
const NONCE_LENGTH: usize = 32;

/// Whether a file has the name of one that is being put in place, or was when its maker ended.
pub(crate) fn is_unplaced(name: &str) -> bool {
    name.rsplit_once('.').is_some_and(|(name, nonce)| {
        let is_ours = NAME_FILES.iter().any(|(ours, ..)| *ours == name);
        is_ours && is_hex(nonce, NONCE_LENGTH)
    })
}

/// The folder, closed to other users.
#[derive(Debug, Clone)]
pub(crate) struct ChannelRoot {
    path: PathBuf,
}

impl ChannelRoot {
    /// Takes a path without touching it.
    pub(crate) fn new(path: &Path) -> io::Result<Self> {
        Ok(Self {
            path: std::path::absolute(path)?,
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Makes the folder, or checks that the one there is ours: in a public place like `/tmp`
    /// somebody else could have made it and would then own every channel.
    pub(crate) fn make(&self) -> Result<(), EngineError> {
        let subject = self.path.display().to_string();
        let refuse = |message: String| {
            let kind = EngineErrorKind::Rejected;
            EngineError::new(kind, Operation::Describe, &subject, message)
        };
        if self.path.as_os_str().len() + SOCKET_TAIL > SOCKET_ADDRESS {
            let longest = SOCKET_ADDRESS - SOCKET_TAIL;
            return Err(refuse(format!(
                "the channel folder's path is longer than {longest} bytes, too long for sockets \
                 in it"
            )));
        }
        let metadata = DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.path)
            .and_then(|()| std::fs::symlink_metadata(&self.path))
            .during(Operation::Describe, &subject)?;
        if !metadata.is_dir() || metadata.uid() != nix::unistd::geteuid().as_raw() {
            return Err(refuse(
                "the channel folder must be a folder that belongs to the user of this process"
                    .to_owned(),
            ));
        }
        std::fs::set_permissions(&self.path, Permissions::from_mode(0o700))
            .and_then(|()| {
                NAME_FILES
                    .iter()
                    .try_for_each(|file| self.place(file.0, file.1))
            })
            .during(Operation::Describe, &subject)
    }

    /// Puts a file in place whole: another process may be mounting it.
    fn place(&self, name: &str, contents: &str) -> io::Result<()> {
        let path = self.path.join(name);
        if std::fs::read(&path).is_ok_and(|found| found == contents.as_bytes()) {
            return Ok(());
        }
        let beside = self
            .path
            .join(format!("{name}.{}", uuid::Uuid::new_v4().simple()));
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o444)
            .open(&beside)?;
        file.write_all(contents.as_bytes())?;
        file.set_permissions(Permissions::from_mode(0o444))?;
        std::fs::rename(&beside, &path)
    }

    /// The files by which a sandbox without any network knows its own name: where they are, and
    /// where they belong.
    pub(crate) fn name_files(&self) -> impl Iterator<Item = (PathBuf, &'static str)> {
        NAME_FILES
            .iter()
            .map(|(name, _, target)| (self.path.join(name), *target))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(path: &Path) -> Result<(), EngineError> {
        ChannelRoot::new(path).unwrap().make()
    }

    #[test]
    fn a_channel_folder_is_made_closed_and_a_foreign_one_is_refused() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("a/b");
        made(&path).unwrap();
        made(&path).unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        let hosts = std::fs::read_to_string(path.join("hosts")).unwrap();
        assert!(hosts.contains("localhost"));

        let link = parent.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(made(&link).is_err());
        let long = parent.path().join("x".repeat(100));
        let error = made(&long).unwrap_err();
        assert!(error.to_string().contains("too long"), "{error}");
    }
}
