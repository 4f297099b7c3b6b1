//! Tests of a task's author, in a volume of their own that sandboxes can only read.
//!
//! A mount is what protects them: a program of a sandbox can neither write through it nor take it
//! away, whoever owns the files. They are put there from outside, into the volume's folder where
//! that is ours, and through a container that never starts everywhere else.
//!
//! The volume's root has a date of its own once they are whole. Nothing sets that before: here it is
//! set last, and an engine that unpacks an archive sets the dates of folders when it has all files.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, fchown, lchown, symlink};
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use forge_core::SandboxId;
use forge_core::ownership::{Role, keys};
use forge_core::sandbox::{TESTS, WORKSPACE};
use forge_engine::{EngineError, EngineErrorKind, Fixtures, Operation, PreparedImage, TarStream};
use jiff::Timestamp;
use tar::EntryType;
use tokio::io::{AsyncRead, AsyncReadExt};
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
/// The date of the volume's root when the tests are whole, in seconds.
const WHOLE: u64 = 1;
/// Of an entry in an archive.
const HEADER: usize = 512;
/// A piece on its way to the engine.
const PIECE: usize = 256 * 1024;

#[async_trait]
impl Fixtures for DockerEngine {
    async fn put_tests(
        &self,
        id: &SandboxId,
        image: &PreparedImage,
        mut tar: TarStream,
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
            return tokio::task::spawn_blocking(move || fill(tar, &folder))
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
        let result = async {
            if is_whole_behind(&stager).await? {
                let drained = tokio::io::copy(&mut tar, &mut tokio::io::sink()).await;
                return drained.map(drop).during(OPERATION, id.as_str());
            }
            let tar = dated(tar).await.map_err(|error| {
                let message = format!("this is no archive of tests: {error}");
                let kind = EngineErrorKind::Rejected;
                EngineError::new(kind, OPERATION, id.as_str(), message)
            })?;
            let pieces = ReaderStream::with_capacity(tar, PIECE);
            stager.put_stream(WORKSPACE, pieces).await
        };
        let result = result.await;
        stager.remove().await;
        result
    }
}

/// Whether the tests in the volume of a stager are whole.
async fn is_whole_behind(stager: &Stager<'_>) -> Result<bool, EngineError> {
    let found = stager.stat(TESTS).await?;
    let date = found.and_then(|found| found.modification_time?.parse::<Timestamp>().ok());
    Ok(date.is_some_and(|date| u64::try_from(date.as_second()) == Ok(WHOLE)))
}

/// An archive of tests whose top folder, the first entry, gets the date of tests that are whole.
async fn dated(mut tar: TarStream) -> io::Result<impl AsyncRead + Send + Unpin> {
    let mut header = tar::Header::new_gnu();
    tar.read_exact(header.as_mut_bytes()).await?;
    let path = header.path()?.into_owned();
    if header.entry_type() != EntryType::Directory || path != Path::new(TOP) {
        return Err(unfit(&path));
    }
    header.set_mtime(WHOLE);
    header.set_cksum();
    let header: [u8; HEADER] = *header.as_bytes();
    Ok(AsyncReadExt::chain(io::Cursor::new(header), tar))
}

/// Unpacks tests into the volume's `folder`, in place of what an attempt that was broken off has
/// left; nothing when they are whole already.
fn fill(mut tar: impl Read, folder: &Path) -> io::Result<()> {
    let whole = SystemTime::UNIX_EPOCH + Duration::from_secs(WHOLE);
    if fs::metadata(folder)?.modified()? == whole {
        return io::copy(&mut tar, &mut io::sink()).map(drop);
    }
    for left in fs::read_dir(folder)? {
        let left = left?;
        if left.file_type()?.is_dir() {
            fs::remove_dir_all(left.path())?;
        } else {
            fs::remove_file(left.path())?;
        }
    }
    let mut tar = Ending { tar, ended: false };
    unpack(&mut tar, folder)?;
    if tar.ended {
        // Between two entries that is no error for whoever reads it.
        let message = "the archive of tests has no end";
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, message));
    }
    File::open(folder)?.set_modified(whole)
}

/// Notes that there is no more to read. An archive says itself where it ends, so that nobody who
/// reads one to its end gets to know.
struct Ending<R> {
    tar: R,
    ended: bool,
}

impl<R: Read> Read for Ending<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.tar.read(buffer)?;
        self.ended |= length == 0 && !buffer.is_empty();
        Ok(length)
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
    fn what_a_broken_attempt_left_is_replaced_and_what_is_whole_stays() {
        let folder = tempfile::tempdir().unwrap();
        let volume = folder.path();
        let with = |text: &str| {
            archive(&[
                (EntryType::Directory, "tests", ""),
                (EntryType::Directory, "tests/sub", ""),
                (EntryType::Regular, "tests/sub/a", text),
                (EntryType::Symlink, "tests/link", "sub/a"),
            ])
        };
        let whole = with("first");
        // One of the two empty blocks at the end says enough.
        for length in (0..whole.len() - 512).step_by(256) {
            assert!(fill(&whole[..length], volume).is_err(), "{length}");
            fs::create_dir_all(volume.join("sub/left")).unwrap();
        }
        fill(&whole[..], volume).unwrap();
        fill(&with("later")[..], volume).unwrap();
        assert_eq!(fs::read(volume.join("link")).unwrap(), b"first");
        assert!(!volume.join("sub/left").exists());
    }

    #[tokio::test]
    async fn only_the_first_entry_of_an_archive_is_dated() {
        let bytes = archive(&[
            (EntryType::Directory, "tests", ""),
            (EntryType::Regular, "tests/a", "text"),
        ]);
        let mut read = Vec::new();
        let mut stream = dated(Box::new(io::Cursor::new(bytes))).await.unwrap();
        stream.read_to_end(&mut read).await.unwrap();
        let mut read = tar::Archive::new(&read[..]);
        let entries = read.entries().unwrap().map(Result::unwrap);
        let dates: Vec<u64> = entries
            .map(|entry| entry.header().mtime().unwrap())
            .collect();
        assert_eq!(dates, [WHOLE, 7]);
        let other = archive(&[(EntryType::Regular, "tests/a", "")]);
        assert!(dated(Box::new(io::Cursor::new(other))).await.is_err());
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
