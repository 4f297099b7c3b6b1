//! Tests of a task's author, in a volume of their own that sandboxes can only read.
//!
//! A mount is what protects them: a program of a sandbox can neither write through it nor take it
//! away, whoever owns the files. They are put there from outside, into the volume's folder where
//! that is ours, and through a container that never starts everywhere else.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, fchown, lchown, symlink};
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use forge_core::SandboxId;
use forge_core::ownership::{Role, keys};
use forge_core::sandbox::WORKSPACE;
use forge_engine::{EngineError, EngineErrorKind, Fixtures, Operation, PreparedImage, TarStream};
use tar::EntryType;
use tokio_util::io::{ReaderStream, SyncIoBridge};

use crate::engine::DockerEngine;
use crate::failure::{During, engine_error, is_not_found};
use crate::names::{SPECIFICATION_DIGEST, Volumes};
use crate::stager::Stager;
use crate::workspace::tests_mount;

const OPERATION: Operation = Operation::Put;
/// The only folder at the top of an archive.
const TOP: &str = "tests";
/// What of a mode is kept: nothing that gives a program another's rights, and no way to write for
/// others.
const MODES: u32 = 0o755;
/// A piece on its way to the engine.
const PIECE: usize = 256 * 1024;

#[async_trait]
impl Fixtures for DockerEngine {
    async fn put_tests(
        &self,
        id: &SandboxId,
        image: &PreparedImage,
        tar: TarStream,
    ) -> Result<(), EngineError> {
        let name = Volumes::of(id).tests;
        let volume = match self.client.docker.inspect_volume(&name).await {
            Err(error) if is_not_found(&error) => {
                let message = format!("its workspace has no place for tests: no volume {name}");
                let kind = EngineErrorKind::NotFound;
                return Err(EngineError::new(kind, OPERATION, id.as_str(), message));
            }
            Err(error) => return Err(engine_error(OPERATION, &name, error)),
            Ok(volume) => volume,
        };
        let folder = PathBuf::from(volume.mountpoint);
        if self.fills_in_place().await? && folder.is_absolute() && folder.is_dir() {
            let tar = SyncIoBridge::new(tar);
            return tokio::task::spawn_blocking(move || unpack(tar, &folder))
                .await
                .map_err(io::Error::other)
                .flatten()
                .during(OPERATION, id.as_str());
        }
        let mut labels: std::collections::BTreeMap<_, _> = volume.labels.into_iter().collect();
        labels.insert(keys::ROLE.to_owned(), Role::Stager.to_string());
        // A volume that was made anew is not the one that these tell of.
        let mut of_mount = labels.clone();
        of_mount.remove(SPECIFICATION_DIGEST);
        of_mount.insert(keys::ROLE.to_owned(), Role::Tests.to_string());
        let make = || {
            let mounts = vec![tests_mount(id, of_mount.clone(), false)];
            let labels = labels.clone();
            Stager::create(&self.client, labels, &image.runnable, mounts, OPERATION)
        };
        let stager = match make().await {
            Err(error) if error.kind == EngineErrorKind::NotFound => {
                self.prepare_again(image).await?;
                make().await
            }
            other => other,
        }?;
        let pieces = ReaderStream::with_capacity(tar, PIECE);
        let result = stager.put_stream(WORKSPACE, pieces).await;
        stager.remove().await;
        result
    }
}

/// A symbolic link that is still to be made.
struct Link {
    path: PathBuf,
    target: PathBuf,
    owner: (u32, u32),
}

/// Unpacks tests into `folder`, which nobody else can write to. Links are made after everything
/// else, so that no path leads through one.
fn unpack(tar: impl Read, folder: &Path) -> io::Result<()> {
    let mut links = Vec::new();
    let mut archive = tar::Archive::new(tar);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = folder.join(inside(&entry.path()?)?);
        let header = entry.header();
        let owner = (number(header.uid()?)?, number(header.gid()?)?);
        let (mode, modified) = (header.mode()? & MODES, header.mtime()?);
        match header.entry_type() {
            EntryType::Directory => {
                if path != folder {
                    fs::create_dir(&path)?;
                }
                let flags = (nix::fcntl::OFlag::O_DIRECTORY | nix::fcntl::OFlag::O_NOFOLLOW).bits();
                let made = OpenOptions::new()
                    .read(true)
                    .custom_flags(flags)
                    .open(&path)?;
                fchown(&made, Some(owner.0), Some(owner.1))?;
                made.set_permissions(Permissions::from_mode(mode))?;
            }
            EntryType::Regular => {
                let mut made = File::create_new(&path)?;
                io::copy(&mut entry, &mut made)?;
                fchown(&made, Some(owner.0), Some(owner.1))?;
                made.set_permissions(Permissions::from_mode(mode))?;
                made.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(modified))?;
            }
            EntryType::Symlink => {
                let target = entry.link_name()?.ok_or_else(|| unfit(&path))?.into_owned();
                links.push(Link {
                    path,
                    target,
                    owner,
                });
            }
            _ => return Err(unfit(&path)),
        }
    }
    for link in links {
        symlink(&link.target, &link.path)?;
        lchown(&link.path, Some(link.owner.0), Some(link.owner.1))?;
    }
    Ok(())
}

/// A path of the archive without its top folder; only names, so that it stays inside.
fn inside(path: &Path) -> io::Result<PathBuf> {
    let rest = path.strip_prefix(TOP).map_err(|_| unfit(path))?;
    let plain = |part| matches!(part, Component::Normal(_));
    if rest.components().all(plain) {
        Ok(rest.to_owned())
    } else {
        Err(unfit(path))
    }
}

fn number(id: u64) -> io::Result<u32> {
    u32::try_from(id).map_err(io::Error::other)
}

fn unfit(path: &Path) -> io::Error {
    let message = format!("{} has no place in an archive of tests", path.display());
    io::Error::new(io::ErrorKind::InvalidInput, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    fn header(kind: EntryType, size: usize) -> tar::Header {
        let own = (nix::unistd::geteuid(), nix::unistd::getegid());
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(size as u64);
        header.set_mode(0o6777);
        header.set_uid(own.0.as_raw().into());
        header.set_gid(own.1.as_raw().into());
        header.set_mtime(7);
        header
    }

    fn archive(entries: &[(EntryType, &str, &str)]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (kind, path, text) in entries {
            let mut header = header(*kind, if kind.is_symlink() { 0 } else { text.len() });
            if kind.is_symlink() {
                builder.append_link(&mut header, path, text).unwrap();
            } else {
                // By hand: the builder itself refuses paths that lead out.
                let name = &mut header.as_old_mut().name;
                name[..path.len()].copy_from_slice(path.as_bytes());
                header.set_cksum();
                builder.append(&header, text.as_bytes()).unwrap();
            }
        }
        builder.into_inner().unwrap()
    }

    #[test]
    fn files_folders_and_links_are_made_as_the_archive_says() {
        let folder = tempfile::tempdir().unwrap();
        let bytes = archive(&[
            (EntryType::Directory, "tests", ""),
            (EntryType::Symlink, "tests/link", "sub/a"),
            (EntryType::Directory, "tests/sub", ""),
            (EntryType::Regular, "tests/sub/a", "text"),
        ]);
        unpack(&bytes[..], folder.path()).unwrap();
        assert_eq!(fs::read(folder.path().join("link")).unwrap(), b"text");
        let found = fs::metadata(folder.path().join("sub/a")).unwrap();
        assert_eq!((found.mode() & 0o7777, found.mtime()), (0o755, 7));
    }

    #[test]
    fn nothing_leaves_the_folder_or_goes_through_a_link_or_replaces_anything() {
        let outside = tempfile::tempdir().unwrap();
        let target = outside.path().to_str().unwrap().to_owned();
        let cases: [&[(EntryType, &str, &str)]; 6] = [
            &[(EntryType::Regular, "tests/../x", "")],
            &[(EntryType::Regular, "/tests/x", "")],
            &[(EntryType::Regular, "elsewhere/x", "")],
            &[(EntryType::Fifo, "tests/x", "")],
            &[
                (EntryType::Symlink, "tests/link", &target),
                (EntryType::Regular, "tests/link/x", ""),
            ],
            &[
                (EntryType::Regular, "tests/x", "1"),
                (EntryType::Regular, "tests/x", "2"),
            ],
        ];
        for entries in cases {
            let parent = tempfile::tempdir().unwrap();
            let folder = parent.path().join("volume");
            fs::create_dir(&folder).unwrap();
            assert!(unpack(&archive(entries)[..], &folder).is_err());
            assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 1);
            assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
        }
    }
}
