//! Artifacts: from a sandbox's untrusted tar stream to files on this machine.
//!
//! Only regular files and folders are kept; a link is noted, never made, so that no path below the
//! target folder can lead out of it.

use std::cell::Cell;
use std::collections::HashMap;
use std::fs;
use std::io::{self, Read, Write};
use std::path::{Component, Path, PathBuf};

use forge_engine::{EngineError, Sandbox};
use forge_wire::message::TransferLimits;
use tokio::io::AsyncWriteExt;
use tokio_util::io::SyncIoBridge;

use crate::redact::Mask;

/// Most bytes kept of one attempt. Files are kept at their full length: a hole counts as what it
/// stands for.
pub const MAX_BYTES: u64 = 1024 * 1024 * 1024;
/// Most entries taken of one attempt, kept or not.
pub const MAX_ENTRIES: u64 = 50_000;
/// Most bytes of names kept of one attempt, counted as [`show`] writes them: names are held
/// in memory and are part of the report, and empty files can have long ones.
pub const MAX_NAME_BYTES: u64 = 4 * 1024 * 1024;
/// Most bytes of the stream between the contents of two files. The archive reader holds these in
/// memory; the longest name that a sandbox packs fits several times.
const MAX_HEADER_BYTES: u64 = 4 * 1024 * 1024;
/// Most characters of a name that stands in a note as an example.
const EXAMPLE: usize = 200;

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
    /// What was taken of the attempt's paths so far, this one included.
    taken: Taken,
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

/// Copies `source` of the sandbox to `target`, names without the secrets of `mask`. What was stored
/// before an error is given as well. `taken` is what the paths before it took.
pub(crate) async fn collect(
    sandbox: &dyn Sandbox,
    source: &str,
    target: &Path,
    mask: Mask,
    taken: &mut Taken,
) -> (Collected, Result<(), CollectError>) {
    let limits = TransferLimits {
        bytes: MAX_BYTES.saturating_sub(taken.bytes),
        entries: MAX_ENTRIES.saturating_sub(taken.entries),
    };
    let mut download = match sandbox.get(source, limits).await {
        Ok(download) => download,
        Err(error) => return (Collected::default(), Err(error.into())),
    };
    let (mut writer, reader) = tokio::io::duplex(1024 * 1024);
    let folder = target.to_owned();
    let bridge = SyncIoBridge::new(reader);
    let before = *taken;
    let storing = tokio::task::spawn_blocking(move || {
        let mut collected = Collected {
            taken: before,
            ..Collected::default()
        };
        let stored = store(bridge, &folder, &mask, &mut collected)
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
    if let Ok((collected, _)) = &stored {
        *taken = collected.taken;
    }
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
    // A name of its own: whatever else is beside it may be an artifact.
    let aside = target.with_file_name(uuid::Uuid::new_v4().to_string());
    fs::rename(&kept.stored, &aside)?;
    fs::remove_dir(target)?;
    fs::rename(&aside, target)?;
    kept.path = PathBuf::new();
    target.clone_into(&mut kept.stored);
    Ok(())
}

fn store(
    stream: impl Read,
    target: &Path,
    mask: &Mask,
    collected: &mut Collected,
) -> io::Result<()> {
    let mut left_out = LeftOut::default();
    let stored = store_entries(stream, target, mask, collected, &mut left_out);
    // A stream that broke off has left out entries as well.
    collected.notes.extend(left_out.notes());
    stored
}

fn store_entries(
    stream: impl Read,
    target: &Path,
    mask: &Mask,
    collected: &mut Collected,
    left_out: &mut LeftOut,
) -> io::Result<()> {
    let allowance = Cell::new(MAX_HEADER_BYTES);
    let stream = io::BufReader::with_capacity(256 * 1024, stream);
    let mut archive = tar::Archive::new(Metered {
        stream,
        allowance: &allowance,
    });
    let mut names = Names::new(mask);
    for entry in archive.entries()? {
        let mut entry = entry?;
        allowance.set(u64::MAX);
        let kind = entry.header().entry_type();
        if kind.is_gnu_sparse() {
            // No sandbox packs one, and its length says nothing about the bytes that follow.
            let message = "the stream has a sparse file";
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        collected.entries += 1;
        let named = entry.path()?.into_owned();
        let path = names.shown(&named, kind.is_file());
        let relative = inside(&named).and_then(|_| inside(&path));
        let kept = relative.filter(|_| kind.is_dir() || kind.is_file());
        let size = if kind.is_file() { entry.size() } else { 0 };
        if let Some(limit) = collected.taken.exceeded_by(kept.as_deref(), size) {
            left_out.rest = Some(limit);
            break;
        }
        match kept {
            Some(relative) if kind.is_dir() => fs::create_dir_all(target.join(relative))?,
            Some(relative) => {
                let stored = target.join(&relative);
                let size_bytes = store_file(&mut entry, &stored)?;
                collected.kept.push(Kept {
                    path: relative,
                    stored,
                    size_bytes,
                });
            }
            None if inside(&named).is_none() => left_out.outside.add(&path),
            None => left_out.not_regular.add(&path),
        }
        // What is left of an entry must not count as part of the next one's header.
        io::copy(&mut entry, &mut io::sink())?;
        allowance.set(MAX_HEADER_BYTES);
    }
    allowance.set(u64::MAX);
    // The rest of the stream is padding or not wanted; reading it lets the sender finish.
    io::copy(&mut archive.into_inner(), &mut io::sink())?;
    Ok(())
}

/// Names without secrets.
struct Names<'a> {
    mask: &'a Mask,
    /// How many files have each name that is not their own.
    given: HashMap<PathBuf, u64>,
}

impl<'a> Names<'a> {
    fn new(mask: &'a Mask) -> Self {
        Self {
            mask,
            given: HashMap::new(),
        }
    }

    /// The name by which an entry is kept and told of. Files that differ in a secret only are
    /// numbered.
    fn shown(&mut self, named: &Path, is_file: bool) -> PathBuf {
        let masked = self.mask.path(named);
        if !is_file || masked == named {
            return masked;
        }
        let number = self.given.entry(masked.clone()).or_default();
        *number += 1;
        match *number {
            1 => masked,
            number => {
                let mut numbered = masked.into_os_string();
                numbered.push(format!("-{number}"));
                numbered.into()
            }
        }
    }
}

/// A stream of which only so many bytes may be read.
struct Metered<'a, R> {
    stream: R,
    allowance: &'a Cell<u64>,
}

impl<R: Read> Read for Metered<'_, R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let allowance = self.allowance.get();
        if allowance == 0 {
            let message = "the stream has a header that is too long";
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        let length = usize::try_from(allowance).map_or(into.len(), |most| most.min(into.len()));
        let read = self.stream.read(&mut into[..length])?;
        self.allowance.set(allowance.saturating_sub(read as u64));
        Ok(read)
    }
}

/// How much was taken of the paths of an attempt. The sandbox is asked to keep to the limits, but
/// not trusted to.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Taken {
    entries: u64,
    bytes: u64,
    name_bytes: u64,
}

impl Taken {
    /// Counts an entry; gives the limit that it would go over, and then it is not taken.
    fn exceeded_by(&mut self, kept: Option<&Path>, size: u64) -> Option<&'static str> {
        let mut with = *self;
        with.entries += 1;
        if let Some(name) = kept {
            with.bytes = with.bytes.saturating_add(size);
            with.name_bytes += show(name).len() as u64;
        }
        if with.entries > MAX_ENTRIES {
            return Some("50000 files and folders");
        } else if with.bytes > MAX_BYTES {
            return Some("1 GiB");
        } else if with.name_bytes > MAX_NAME_BYTES {
            return Some("4 MiB of names");
        }
        *self = with;
        None
    }
}

/// What was not kept. It is counted, not listed: a sandbox chooses how many there are.
#[derive(Default)]
struct LeftOut {
    not_regular: Group,
    outside: Group,
    /// The limit that the rest was over.
    rest: Option<&'static str>,
}

impl LeftOut {
    fn notes(&self) -> impl Iterator<Item = String> {
        let not_regular = self
            .not_regular
            .note("it is not a regular file", "they are not regular files");
        let outside = self.outside.note(
            "it leads out of its folder",
            "they lead out of their folder",
        );
        let rest = self
            .rest
            .map(|limit| format!("the rest was left out: more than {limit}"));
        [not_regular, outside, rest].into_iter().flatten()
    }
}

/// Entries that were left out for the same reason.
#[derive(Default)]
struct Group {
    number: u64,
    /// The first one, as it is shown.
    example: String,
}

impl Group {
    fn add(&mut self, path: &Path) {
        if self.number == 0 {
            self.example = show(path);
            // Only ASCII is left in it, so that it can be cut anywhere.
            if self.example.len() > EXAMPLE {
                self.example.truncate(EXAMPLE);
                self.example.push('…');
            }
        }
        self.number += 1;
    }

    fn note(&self, why_one: &str, why_several: &str) -> Option<String> {
        let Self { number, example } = self;
        match number {
            0 => None,
            1 => Some(format!("{example} was left out because {why_one}")),
            _ => Some(format!(
                "{number} entries were left out because {why_several}, for example {example}"
            )),
        }
    }
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
        store(bytes.as_slice(), &target, &Mask::default(), &mut collected).unwrap();
        let kept: Vec<_> = collected.kept.iter().map(|kept| show(&kept.path)).collect();
        assert_eq!(
            kept,
            ["good/result.txt", "link/through.txt", "good/result.txt"]
        );
        assert_eq!(fs::read(target.join("good/result.txt")).unwrap(), b"yes");
        assert!(fs::symlink_metadata(target.join("link")).unwrap().is_dir());
        assert_eq!(
            collected.notes,
            [
                "2 entries were left out because they are not regular files, for example link",
                "3 entries were left out because they lead out of their folder, \
                 for example ../escape.txt",
            ]
        );
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn names_fill_neither_memory_nor_the_report() {
        let folder = tempfile::tempdir().unwrap();
        let deep = vec!["d".repeat(250); 12].join("/");
        let mut builder = tar::Builder::new(Vec::new());
        for number in 0..2000 {
            let mut header = tar::Header::new_gnu();
            header.set_size(0);
            let name = format!("{deep}/{number:04}");
            builder.append_data(&mut header, name, io::empty()).unwrap();
        }
        let bytes = builder.into_inner().unwrap();
        let mut stream = bytes.as_slice();
        let mut collected = Collected::default();
        store(&mut stream, folder.path(), &Mask::default(), &mut collected).unwrap();
        assert!(stream.is_empty(), "the sender can finish");
        let names = collected.kept.iter().map(|kept| show(&kept.path).len());
        assert!(names.sum::<usize>() as u64 <= MAX_NAME_BYTES);
        assert_eq!(collected.kept.len(), 4 * 1024 * 1024 / (12 * 251 + 4));
        assert_eq!(
            collected.notes,
            ["the rest was left out: more than 4 MiB of names"]
        );
    }

    #[test]
    fn bytes_and_entries_are_limited_on_this_side() {
        let folder = tempfile::tempdir().unwrap();
        let mut header = tar::Header::new_gnu();
        header.set_path("big").unwrap();
        header.set_size(MAX_BYTES + 1);
        header.set_cksum();
        let mut collected = Collected::default();
        store(
            &header.as_bytes()[..],
            folder.path(),
            &Mask::default(),
            &mut collected,
        )
        .unwrap();
        assert_eq!(collected.notes, ["the rest was left out: more than 1 GiB"]);

        let one = ("l", tar::EntryType::Symlink, &b""[..]);
        let bytes = archive(&vec![one; 50_001]);
        let mut collected = Collected::default();
        store(
            bytes.as_slice(),
            folder.path(),
            &Mask::default(),
            &mut collected,
        )
        .unwrap();
        assert_eq!(
            collected.notes,
            [
                "50000 entries were left out because they are not regular files, for example l",
                "the rest was left out: more than 50000 files and folders",
            ]
        );
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_one_path_takes_is_not_there_for_the_next() {
        let folder = tempfile::tempdir().unwrap();
        let bytes = archive(&[("result.txt", tar::EntryType::Regular, b"12345678")]);
        let mut collected = Collected::default();
        collected.taken.bytes = MAX_BYTES - 10;
        for name in ["first", "second"] {
            let target = folder.path().join(name);
            store(bytes.as_slice(), &target, &Mask::default(), &mut collected).unwrap();
        }
        assert!(folder.path().join("first/result.txt").exists());
        assert!(!folder.path().join("second").exists());
        assert_eq!(collected.notes, ["the rest was left out: more than 1 GiB"]);
        // What did not fit takes nothing from what does.
        assert_eq!(collected.taken.bytes, MAX_BYTES - 2);
        let small = archive(&[("small", tar::EntryType::Regular, b"1")]);
        let target = folder.path().join("third");
        store(small.as_slice(), &target, &Mask::default(), &mut collected).unwrap();
        assert!(target.join("small").exists());
    }

    #[test]
    fn a_name_that_never_ends_is_not_read_into_memory() {
        let folder = tempfile::tempdir().unwrap();
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::GNULongName);
        header.set_size(1 << 40);
        header.set_cksum();
        let stream = header.as_bytes().chain(io::repeat(b'a'));
        let mut collected = Collected::default();
        store(stream, folder.path(), &Mask::default(), &mut collected).unwrap_err();
        assert_eq!(collected.entries, 0);
    }

    #[test]
    fn a_file_that_was_asked_for_by_name_is_kept_under_that_name() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("src/y");
        let beside = folder.path().join("src/y.partial");
        fs::create_dir(beside.parent().unwrap()).unwrap();
        fs::write(&beside, "another artifact").unwrap();
        let bytes = archive(&[("y", tar::EntryType::Regular, b"why")]);
        let mut collected = Collected::default();
        store(bytes.as_slice(), &target, &Mask::default(), &mut collected).unwrap();
        lift_single_file(&target, &mut collected).unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"why");
        assert_eq!(collected.kept[0].path, Path::new(""));
        assert_eq!(fs::read(&beside).unwrap(), b"another artifact");
        assert_eq!(fs::read_dir(folder.path().join("src")).unwrap().count(), 2);
    }

    #[test]
    fn what_was_stored_before_a_stream_broke_is_known() {
        let folder = tempfile::tempdir().unwrap();
        let file = tar::EntryType::Regular;
        let bytes = archive(&[("a", file, b"first"), ("b", file, &[0; 4096])]);
        let mut collected = Collected::default();
        let cut = &bytes[..2048];
        store(cut, folder.path(), &Mask::default(), &mut collected).unwrap_err();
        assert_eq!(collected.kept.len(), 1);
    }

    #[test]
    fn names_are_kept_without_secrets_and_apart() {
        let folder = tempfile::tempdir().unwrap();
        let file = tar::EntryType::Regular;
        let bytes = archive(&[
            ("hunter22/a", file, b"1"),
            ("hunter22.txt", file, b"2"),
            ("hunter22hunter22", file, b"3"),
            ("b-Key99", file, b"4"),
            ("b-hunter22", file, b"5"),
            ("hunter22-link", tar::EntryType::Symlink, b""),
        ]);
        let mask = Mask::new(["hunter22", "Key99"]);
        let mut collected = Collected::default();
        store(bytes.as_slice(), folder.path(), &mask, &mut collected).unwrap();
        let kept: Vec<_> = collected.kept.iter().map(|kept| show(&kept.path)).collect();
        assert_eq!(kept, ["***/a", "***.txt", "******", "b-***", "b-***-2"]);
        assert_eq!(fs::read(folder.path().join("b-***-2")).unwrap(), b"5");
        assert_eq!(
            collected.notes,
            ["***-link was left out because it is not a regular file"]
        );
    }

    #[test]
    fn odd_names_are_shown_escaped() {
        use std::ffi::OsStr;
        use std::os::unix::ffi::OsStrExt;
        let path = Path::new(OsStr::from_bytes(b"a\nb\x1b[31m\xff"));
        assert_eq!(show(path), "a\\nb\\x1b[31m\\xff");
    }
}
