//! Files in and out: every kind, every size, within bounds.

use std::collections::BTreeMap;
use std::io::{Cursor, Read};

use forge_wire::message::{TransferLimits, TransferSummary};
use tar::{EntryType, Header};

use super::scene::{Scene, WIDE};
use super::{Act, Failure};
use crate::error::{EngineError, EngineErrorKind};
use crate::sandbox::Sandbox;

/// Longest name that a header takes itself.
const SHORT: usize = 100;

/// A tar stream.
pub(super) struct Archive(Vec<u8>);

/// What a file in an archive is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Content {
    Folder,
    File(Vec<u8>),
    Link(Vec<u8>),
    Other,
}

/// Files by name; folders without their slash.
pub(super) type Contents = BTreeMap<Vec<u8>, Content>;

/// One entry of an archive, exactly as it is said.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry<'a> {
    pub(super) kind: EntryType,
    pub(super) name: &'a [u8],
    pub(super) target: &'a [u8],
    pub(super) bytes: &'a [u8],
}

impl<'a> Entry<'a> {
    pub(super) const fn file(name: &'a [u8], bytes: &'a [u8]) -> Self {
        Self::of(EntryType::Regular, name, b"", bytes)
    }

    pub(super) const fn folder(name: &'a [u8]) -> Self {
        Self::of(EntryType::Directory, name, b"", b"")
    }

    pub(super) const fn link(name: &'a [u8], target: &'a [u8]) -> Self {
        Self::of(EntryType::Symlink, name, target, b"")
    }

    pub(super) const fn of(
        kind: EntryType,
        name: &'a [u8],
        target: &'a [u8],
        bytes: &'a [u8],
    ) -> Self {
        Self {
            kind,
            name,
            target,
            bytes,
        }
    }
}

impl Archive {
    /// An archive of entries with names that no library would let pass.
    pub(super) fn new(entries: &[Entry<'_>]) -> Self {
        let mut stream = Vec::new();
        for entry in entries {
            for (kind, text) in [
                (EntryType::GNULongLink, entry.target),
                (EntryType::GNULongName, entry.name),
            ] {
                if text.len() > SHORT {
                    let text = [text, &[0]].concat();
                    append(&mut stream, &Entry::of(kind, b"././@LongLink", b"", &text));
                }
            }
            append(&mut stream, entry);
        }
        stream.resize(stream.len() + 1024, 0);
        Self(stream)
    }

    pub(super) fn stream(&self) -> Cursor<&[u8]> {
        Cursor::new(&self.0)
    }

    /// Takes a path out of a sandbox.
    pub(super) async fn get(
        sandbox: &dyn Sandbox,
        path: &str,
        limits: TransferLimits,
    ) -> Result<(Self, TransferSummary), EngineError> {
        let mut download = sandbox.get(path, limits).await?;
        let mut stream = Vec::new();
        while let Some(piece) = download.next().await {
            stream.extend_from_slice(&piece);
        }
        let summary = download.finish().await?;
        Ok((Self(stream), summary))
    }

    /// What is in it.
    pub(super) fn entries(&self) -> Result<Contents, Failure> {
        let broken = |error: std::io::Error| Failure::new(format!("a broken archive: {error}"));
        let mut contents = Contents::new();
        let mut archive = tar::Archive::new(self.0.as_slice());
        for entry in archive.entries().map_err(broken)? {
            let mut entry = entry.map_err(broken)?;
            let name = entry.path_bytes().into_owned();
            let name = name.strip_suffix(b"/").unwrap_or(&name).to_vec();
            let content = match entry.header().entry_type() {
                EntryType::Directory => Content::Folder,
                EntryType::Symlink => {
                    Content::Link(entry.link_name_bytes().unwrap_or_default().into_owned())
                }
                EntryType::Regular => {
                    let mut bytes = Vec::new();
                    entry.read_to_end(&mut bytes).map_err(broken)?;
                    Content::File(bytes)
                }
                _ => Content::Other,
            };
            contents.insert(name, content);
        }
        Ok(contents)
    }
}

fn append(stream: &mut Vec<u8>, entry: &Entry<'_>) {
    let mut header = Header::new_gnu();
    if let Some(fields) = header.as_gnu_mut() {
        let fit = |field: &mut [u8], text: &[u8]| {
            for (slot, byte) in field.iter_mut().zip(text) {
                *slot = *byte;
            }
        };
        fit(&mut fields.name, entry.name);
        fit(&mut fields.linkname, entry.target);
    }
    header.set_entry_type(entry.kind);
    header.set_mode(0o755);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1_000_000_000);
    header.set_size(entry.bytes.len() as u64);
    header.set_cksum();
    stream.extend_from_slice(header.as_bytes());
    stream.extend_from_slice(entry.bytes);
    stream.resize(stream.len().next_multiple_of(512), 0);
}

/// An archive of plain files.
pub(super) fn archive_of(files: &[(&str, &[u8])]) -> Archive {
    let entries = files.iter();
    let entries = entries.map(|(name, bytes)| Entry::file(name.as_bytes(), bytes));
    Archive::new(&entries.collect::<Vec<_>>())
}

/// Puts an archive into a folder; what it was refused for.
pub(super) async fn put(
    sandbox: &dyn Sandbox,
    directory: &str,
    archive: &Archive,
    limits: TransferLimits,
) -> Result<TransferSummary, EngineErrorKind> {
    let mut stream = archive.stream();
    let put = sandbox.put(directory, &mut stream, limits).await;
    put.map_err(|error| error.kind)
}

/// Bytes that are not the same anywhere near each other; they repeat, but not in step with anything.
fn noise(length: usize) -> Vec<u8> {
    const PERIOD: usize = 65_521;
    let mut state = 1_u32;
    let next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()
    };
    let words = std::iter::repeat_with(next).flatten();
    let period: Vec<u8> = words.take(PERIOD.min(length)).collect();
    let mut bytes = period.repeat(length.div_ceil(PERIOD));
    bytes.truncate(length);
    bytes
}

pub(super) async fn files_of_every_kind_and_size_come_back_as_they_went(
    scene: &Scene,
) -> Result<(), Failure> {
    let made = scene.sandbox().await?;
    let large = noise(64 << 20);
    let sizes = [0, 1, 511, 512, 513, 65_536, 1_000_001];
    let sized: Vec<_> = sizes
        .iter()
        .map(|&size| (format!("tree/size-{size}").into_bytes(), noise(size)))
        .collect();
    let long = [b"tree/".to_vec(), vec![b'l'; 255]].concat();
    let deep = [b"tree/".to_vec(), b"deep/".repeat(200), b"bottom".to_vec()].concat();
    let long_target = b"x/".repeat(100);
    let mut entries = vec![
        Entry::folder(b"tree/empty/"),
        Entry::file(b"tree/large", &large),
        Entry::file(&long, b"long"),
        Entry::file(&deep, b"deep"),
        Entry::link(b"tree/in", b"large"),
        Entry::link(b"tree/out", b"../../../etc/passwd"),
        Entry::link(b"tree/absolute", b"/etc/passwd"),
        Entry::link(b"tree/dangling", &long_target),
        Entry::of(EntryType::Link, b"tree/hard", b"tree/size-513", b""),
    ];
    let plain = sized.iter();
    entries.splice(0..0, plain.map(|(name, bytes)| Entry::file(name, bytes)));
    let into = put(&*made.sandbox, "/workspace", &Archive::new(&entries), WIDE).await;
    let summary = into.map_err(|kind| Failure::new(format!("it was refused: {kind:?}")))?;
    ensure!(
        summary.entries == entries.len() as u64 && summary.skipped == 0,
        "{summary:?} of {} entries",
        entries.len()
    );
    let (archive, summary) = Archive::get(&*made.sandbox, "/workspace/tree", WIDE).await?;
    let contents = archive.entries()?;
    ensure!(summary.skipped == 0, "on the way out: {summary:?}");
    for entry in &entries {
        let name = entry.name.strip_prefix(b"tree/").unwrap_or(entry.name);
        let name = name.strip_suffix(b"/").unwrap_or(name);
        let expected = match entry.kind {
            EntryType::Directory => Content::Folder,
            EntryType::Symlink => Content::Link(entry.target.to_vec()),
            EntryType::Link => Content::File(noise(513)),
            _ => Content::File(entry.bytes.to_vec()),
        };
        ensure!(
            contents.get(name) == Some(&expected),
            "{:?} did not come back as it went",
            String::from_utf8_lossy(name)
        );
    }
    // The folders on the way to the deep one come besides.
    ensure!(
        contents.len() == entries.len() + 200,
        "{} entries came back",
        contents.len()
    );
    let one = Archive::get(&*made.sandbox, "/workspace/tree/size-1", WIDE).await?;
    let one = one.0.entries()?;
    let expected = Contents::from([(b"size-1".to_vec(), Content::File(noise(1)))]);
    ensure!(one == expected, "a single file comes as {one:?}");
    scene.remove(made.id()).await?;
    Ok(())
}

pub(super) async fn what_only_a_command_can_make_comes_out_as_far_as_it_can(
    scene: &Scene,
) -> Result<(), Failure> {
    let made = scene.sandbox().await?;
    let make = Act::Specials("made".into());
    scene.done(&*made.sandbox, &make).await?;
    let (archive, summary) = Archive::get(&*made.sandbox, "/workspace/made", WIDE).await?;
    let mut sparse = vec![0; 1 << 20];
    sparse.push(b'x');
    let expected = Contents::from([
        (b"file".to_vec(), Content::File(b"text".to_vec())),
        (b"in".to_vec(), Content::Link(b"file".to_vec())),
        (b"nowhere".to_vec(), Content::Link(b"no-such-file".to_vec())),
        (b"out".to_vec(), Content::Link(b"/etc/passwd".to_vec())),
        (b"sparse".to_vec(), Content::File(sparse)),
    ]);
    let contents = archive.entries()?;
    let names: Vec<_> = contents
        .keys()
        .map(|name| String::from_utf8_lossy(name))
        .collect();
    ensure!(contents == expected, "there came {names:?}");
    ensure!(
        summary.skipped == 2,
        "the pipe and the socket are not told: {summary:?}"
    );
    scene.remove(made.id()).await?;
    Ok(())
}

pub(super) async fn limits_of_a_transfer_hold_both_ways(scene: &Scene) -> Result<(), Failure> {
    let made = scene.sandbox().await?;
    let sandbox = &*made.sandbox;
    let archive = archive_of(&[("a", &[1; 1000]), ("b", &[2; 1000])]);
    let bounds = |bytes, entries| TransferLimits { bytes, entries };
    for (limits, expected) in [
        (bounds(2000, 2), None),
        (bounds(1999, 2), Some(EngineErrorKind::Rejected)),
        (bounds(2000, 1), Some(EngineErrorKind::Rejected)),
        (bounds(0, 0), Some(EngineErrorKind::Rejected)),
    ] {
        let came = put(sandbox, "/workspace/output", &archive, limits)
            .await
            .err();
        ensure!(came == expected, "in, with {limits:?}: {came:?}");
        let whole = put(sandbox, "/workspace/output", &archive, WIDE).await;
        ensure!(whole.is_ok(), "with wide bounds: {whole:?}");
        let gone = Archive::get(sandbox, "/workspace/output", limits).await;
        let gone = gone.err().map(|error| error.kind);
        ensure!(gone == expected, "out, with {limits:?}: {gone:?}");
    }
    scene.remove(made.id()).await?;
    Ok(())
}

pub(super) async fn removing_files_ends_at_what_was_named(scene: &Scene) -> Result<(), Failure> {
    let made = scene.sandbox().await?;
    let sandbox = &*made.sandbox;
    let archive = Archive::new(&[
        Entry::file(b"kept/file", b"kept"),
        Entry::file(b"tree/sub/file", b"gone"),
        Entry::link(b"tree/link", b"../kept"),
        Entry::link(b"door", b"kept"),
    ]);
    let into = put(sandbox, "/workspace", &archive, WIDE).await;
    ensure!(into.is_ok(), "the files were refused: {into:?}");
    for path in [
        "/workspace",
        "/workspace/",
        "/workspace/../etc",
        "/etc/passwd",
        "/workspace/door/file",
        "relative",
    ] {
        let removed = sandbox.remove(path).await.err().map(|error| error.kind);
        ensure!(
            removed == Some(EngineErrorKind::Rejected),
            "{path} was {removed:?}"
        );
    }
    for path in ["tree", "tree", "door", "never-there", "never/there"] {
        sandbox.remove(&format!("/workspace/{path}")).await?;
    }
    let left = Archive::get(sandbox, "/workspace/kept", WIDE).await?;
    let left = left.0.entries()?;
    let expected = Contents::from([(b"file".to_vec(), Content::File(b"kept".to_vec()))]);
    ensure!(left == expected, "there is left {left:?}");
    for gone in ["tree", "door"] {
        let found = Archive::get(sandbox, &format!("/workspace/{gone}"), WIDE).await;
        let found = found.err().map(|error| error.kind);
        ensure!(
            found == Some(EngineErrorKind::NotFound),
            "{gone} is {found:?}"
        );
    }
    scene.remove(made.id()).await?;
    Ok(())
}
