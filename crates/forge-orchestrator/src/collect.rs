//! Artifacts: from a sandbox's untrusted tar stream to files on this machine.
//!
//! Only regular files and folders are kept; a link is noted, never made, so that no path below the
//! target folder can lead out of it.

use std::fs;
use std::io::{self, Read, Write};
use std::path::{Component, Path, PathBuf};

use forge_engine::{EngineError, Sandbox};
use forge_wire::message::TransferLimits;
use tokio::io::AsyncWriteExt;
use tokio_util::io::SyncIoBridge;

/// Most bytes kept of one attempt.
pub const MAX_BYTES: u64 = 1024 * 1024 * 1024;
/// Most files and folders kept of one attempt.
pub const MAX_ENTRIES: u64 = 50_000;

/// A kept file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Kept {
    /// Path below the collected one; empty when that is a file itself.
    pub path: PathBuf,
    /// Where it is now.
    pub stored: PathBuf,
    /// Bytes.
    pub size_bytes: u64,
}

/// What was collected of one path.
#[derive(Debug, Default)]
pub(crate) struct Collected {
    pub kept: Vec<Kept>,
    /// What was left out, for a person.
    pub notes: Vec<String>,
    /// Entries of the stream, kept or not.
    entries: u64,
}

/// Why nothing, or not everything, was collected.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CollectError {
    #[error("the sandbox could not deliver it")]
    Sandbox(#[from] EngineError),
    #[error("what the sandbox delivered could not be stored")]
    Store(#[source] io::Error),
    #[error("storing it was interrupted")]
    Interrupted,
}

/// Copies `source` of the sandbox to `target`. What was stored before an error is given as well.
pub(crate) async fn collect(
    sandbox: &dyn Sandbox,
    source: &str,
    target: &Path,
) -> (Collected, Result<(), CollectError>) {
    let limits = TransferLimits {
        bytes: MAX_BYTES,
        entries: MAX_ENTRIES,
    };
    let mut download = match sandbox.get(source, limits).await {
        Ok(download) => download,
        Err(error) => return (Collected::default(), Err(error.into())),
    };
    let (mut writer, reader) = tokio::io::duplex(1024 * 1024);
    let folder = target.to_owned();
    let bridge = SyncIoBridge::new(reader);
    let storing = tokio::task::spawn_blocking(move || {
        let mut collected = Collected::default();
        let stored = store(bridge, &folder, &mut collected)
            .and_then(|()| lift_single_file(&folder, &mut collected));
        (collected, stored)
    });
    let feeding = async {
        while let Some(piece) = download.next().await {
            if writer.write_all(&piece).await.is_err() {
                // Storing failed and says why; dropping the download ends the transfer.
                return Ok(());
            }
        }
        drop(writer);
        download.finish().await.map(|_| ())
    };
    let (fed, stored) = tokio::join!(feeding, storing);
    match (fed, stored) {
        (_, Err(_)) => (Collected::default(), Err(CollectError::Interrupted)),
        // The sandbox's own error explains a stream that broke off better than the broken stream.
        (Err(error), Ok((collected, _))) => (collected, Err(error.into())),
        (Ok(()), Ok((collected, stored))) => (collected, stored.map_err(CollectError::Store)),
    }
}

/// A file arrives as one entry with its own name; it is kept in the place of its folder.
fn lift_single_file(target: &Path, collected: &mut Collected) -> io::Result<()> {
    let [kept] = collected.kept.as_mut_slice() else {
        return Ok(());
    };
    if collected.entries != 1 || target.file_name() != Some(kept.path.as_os_str()) {
        return Ok(());
    }
    let aside = target.with_extension("partial");
    fs::rename(&kept.stored, &aside)?;
    fs::remove_dir(target)?;
    fs::rename(&aside, target)?;
    kept.path = PathBuf::new();
    target.clone_into(&mut kept.stored);
    Ok(())
}

fn store(stream: impl Read, target: &Path, collected: &mut Collected) -> io::Result<()> {
    let mut archive = tar::Archive::new(io::BufReader::with_capacity(256 * 1024, stream));
    for entry in archive.entries()? {
        let mut entry = entry?;
        collected.entries += 1;
        let path = entry.path()?.into_owned();
        let kind = entry.header().entry_type();
        let Some(relative) = inside(&path) else {
            collected.notes.push(format!(
                "{} was left out: it leaves its folder",
                show(&path)
            ));
            continue;
        };
        let stored = target.join(&relative);
        if kind.is_dir() {
            fs::create_dir_all(&stored)?;
        } else if kind.is_file() {
            let size_bytes = store_file(&mut entry, &stored)?;
            collected.kept.push(Kept {
                path: relative,
                stored,
                size_bytes,
            });
        } else {
            collected
                .notes
                .push(format!("{} was left out: not a regular file", show(&path)));
        }
    }
    // The rest of the stream is padding; reading it lets the sender finish.
    io::copy(&mut archive.into_inner(), &mut io::sink())?;
    Ok(())
}

fn store_file<R: Read>(entry: &mut tar::Entry<'_, R>, stored: &Path) -> io::Result<u64> {
    if let Some(parent) = stored.parent() {
        fs::create_dir_all(parent)?;
    }
    let mut options = fs::OpenOptions::new();
    // A name may come twice; the first one stays.
    let mut file = match options.write(true).create_new(true).open(stored) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            return io::copy(entry, &mut io::sink());
        }
        Err(error) => return Err(error),
    };
    let size = io::copy(entry, &mut file)?;
    if size != entry.size() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    file.flush()?;
    Ok(size)
}

/// The path when it is made of ordinary names only; `.` parts are dropped.
fn inside(path: &Path) -> Option<PathBuf> {
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::CurDir => {}
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(clean)
}

/// A path for a person or a report: what is not printable is escaped.
#[must_use]
pub fn show(path: &Path) -> String {
    path.as_os_str()
        .as_encoded_bytes()
        .escape_ascii()
        .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(entries: &[(&str, tar::EntryType, &[u8])]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, kind, contents) in entries {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(*kind);
            header.set_size(contents.len() as u64);
            header.set_mode(0o644);
            // The high-level interface refuses hostile names; the bytes are written directly.
            header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
            if *kind == tar::EntryType::Symlink {
                header.set_link_name("/etc").unwrap();
            }
            header.set_cksum();
            builder.append(&header, *contents).unwrap();
        }
        builder.into_inner().unwrap()
    }

    #[test]
    fn nothing_lands_outside_and_links_are_never_made() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("artifacts");
        let file = tar::EntryType::Regular;
        let bytes = archive(&[
            ("good/result.txt", file, b"yes"),
            ("../escape.txt", file, b"no"),
            ("/etc/absolute.txt", file, b"no"),
            ("good/../../escape.txt", file, b"no"),
            ("link", tar::EntryType::Symlink, b""),
            ("link/through.txt", file, b"kept inside"),
            ("good/result.txt", file, b"second"),
            ("pipe", tar::EntryType::Fifo, b""),
        ]);
        let mut collected = Collected::default();
        store(bytes.as_slice(), &target, &mut collected).unwrap();
        let kept: Vec<_> = collected.kept.iter().map(|kept| show(&kept.path)).collect();
        assert_eq!(
            kept,
            ["good/result.txt", "link/through.txt", "good/result.txt"]
        );
        assert_eq!(fs::read(target.join("good/result.txt")).unwrap(), b"yes");
        assert!(fs::symlink_metadata(target.join("link")).unwrap().is_dir());
        assert_eq!(collected.notes.len(), 5);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_that_was_asked_for_by_name_is_kept_under_that_name() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("src/y");
        let bytes = archive(&[("y", tar::EntryType::Regular, b"why")]);
        let mut collected = Collected::default();
        store(bytes.as_slice(), &target, &mut collected).unwrap();
        lift_single_file(&target, &mut collected).unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"why");
        assert_eq!(collected.kept[0].path, Path::new(""));
        assert_eq!(fs::read_dir(folder.path().join("src")).unwrap().count(), 1);
    }

    #[test]
    fn what_was_stored_before_a_stream_broke_is_known() {
        let folder = tempfile::tempdir().unwrap();
        let file = tar::EntryType::Regular;
        let bytes = archive(&[("a", file, b"first"), ("b", file, &[0; 4096])]);
        let mut collected = Collected::default();
        let cut = &bytes[..2048];
        store(cut, folder.path(), &mut collected).unwrap_err();
        assert_eq!(collected.kept.len(), 1);
    }

    #[test]
    fn odd_names_are_shown_escaped() {
        use std::ffi::OsStr;
        use std::os::unix::ffi::OsStrExt;
        let path = Path::new(OsStr::from_bytes(b"a\nb\x1b[31m\xff"));
        assert_eq!(show(path), "a\\nb\\x1b[31m\\xff");
    }
}
