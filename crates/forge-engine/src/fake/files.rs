//! The files of a workspace, in memory: put, get and remove do here what `forge-init` does.
//!
//! Every file has its whole name as its key, so a tree may be as deep as one likes.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;
use forge_wire::message::{TransferLimits, TransferSummary};
use tar::{EntryType, Header};

use crate::error::EngineErrorKind;

/// Deepest tree that is walked.
const MAX_DEPTH: usize = 4096;
/// Longest name of a single file.
const MAX_NAME: usize = 255;
/// Longest name, or target of a link, that a header takes itself.
const SHORT: usize = 100;
const BLOCK: usize = 512;

/// Why something about files failed.
pub(super) type Failed = (EngineErrorKind, String);

/// A file of some kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Node {
    Folder {
        mode: u32,
    },
    File {
        mode: u32,
        time: u64,
        bytes: Bytes,
    },
    Link(Vec<u8>),
    /// A pipe or a socket.
    Other,
    /// A file of so many bytes that nobody reads.
    Full(u64),
}

impl Node {
    fn size(&self) -> u64 {
        match self {
            Self::File { bytes, .. } => bytes.len() as u64,
            Self::Full(bytes) => *bytes,
            _ => 0,
        }
    }

    pub(super) fn file(bytes: impl Into<Bytes>) -> Self {
        Self::File {
            mode: 0o644,
            time: 0,
            bytes: bytes.into(),
        }
    }
}

/// Everything in a workspace. Names are relative to it, with no slash at either end.
#[derive(Debug, Clone, Default)]
pub(super) struct Tree {
    nodes: BTreeMap<Vec<u8>, Node>,
    used: u64,
    /// What it may hold, in bytes.
    limit: u64,
}

fn failed<T>(kind: EngineErrorKind, name: &[u8], what: &str) -> Result<T, Failed> {
    Err((kind, format!("{}: {what}", String::from_utf8_lossy(name))))
}

/// A name cut into parts, put together again without what means nothing.
fn clean(name: &[u8]) -> Result<Vec<u8>, Failed> {
    if name.contains(&0) {
        return failed(EngineErrorKind::Corrupt, name, "a name with a NUL byte");
    }
    let parts = name.split(|byte| *byte == b'/');
    let mut kept = Vec::new();
    for part in parts.filter(|part| !part.is_empty() && *part != b".") {
        if part == b".." {
            return failed(EngineErrorKind::Corrupt, name, "a name with `..`");
        }
        kept.push(part);
    }
    if kept.len() > MAX_DEPTH {
        return failed(EngineErrorKind::Internal, name, "it is too deep");
    }
    if kept.iter().any(|part| part.len() > MAX_NAME) {
        return failed(EngineErrorKind::Internal, name, "it is too long");
    }
    Ok(kept.join(&b'/'))
}

/// The folder a name is in; `None` for what is at the top.
fn parent(name: &[u8]) -> Option<&[u8]> {
    let slash = name.iter().rposition(|byte| *byte == b'/')?;
    name.get(..slash)
}

impl Tree {
    pub(super) fn new(limit: u64) -> Self {
        Self {
            limit,
            ..Self::default()
        }
    }

    pub(super) fn used(&self) -> u64 {
        self.used
    }

    pub(super) fn room(&self) -> u64 {
        self.limit.saturating_sub(self.used)
    }

    /// Takes all the room there is for a file of no bytes, since nobody reads what fills a disk.
    pub(super) fn fill(&mut self, name: &[u8]) {
        if self.place(name, Node::Full(self.room())).is_err() {
            // There is no such folder: a program that fills a disk tries no other name.
            tracing::debug!("nothing was filled");
        }
    }

    pub(super) fn get(&self, name: &[u8]) -> Option<&Node> {
        self.nodes.get(name)
    }

    /// The contents of a file, by a name relative to the workspace.
    pub(super) fn read(&self, name: &str) -> Option<Bytes> {
        match self.get(&clean(name.as_bytes()).ok()?)? {
            Node::File { bytes, .. } => Some(bytes.clone()),
            _ => None,
        }
    }

    /// Puts a file somewhere, with the folders that are missing; a folder is never replaced.
    pub(super) fn place(&mut self, name: &[u8], node: Node) -> Result<(), Failed> {
        let name = clean(name)?;
        if name.is_empty() {
            return failed(EngineErrorKind::Internal, &name, "it is the workspace");
        }
        let mut above = Vec::new();
        let mut inner = parent(&name);
        while let Some(folder) = inner {
            match self.nodes.get(folder) {
                None => above.push(folder.to_vec()),
                Some(Node::Folder { .. }) => {}
                Some(_) => {
                    let what = "leads through something that is not a folder";
                    return failed(EngineErrorKind::Corrupt, &name, what);
                }
            }
            inner = parent(folder);
        }
        let old = match (self.nodes.get(&name), &node) {
            (Some(Node::Folder { .. }), Node::Folder { .. }) | (None, _) => 0,
            (Some(Node::Folder { .. }), _) => {
                return failed(EngineErrorKind::Internal, &name, "a folder is in its place");
            }
            (Some(old), _) => old.size(),
        };
        let used = self.used - old + node.size();
        if used > self.limit {
            return failed(EngineErrorKind::Exhausted, &name, "no space left");
        }
        self.used = used;
        for folder in above {
            self.nodes.insert(folder, Node::Folder { mode: 0o755 });
        }
        self.nodes.insert(name, node);
        Ok(())
    }

    /// Names of everything below a folder, the folder itself left out.
    fn below(&self, folder: &[u8]) -> impl Iterator<Item = (&Vec<u8>, &Node)> {
        let prefix = match folder {
            b"" => Vec::new(),
            folder => [folder, b"/"].concat(),
        };
        let from = (Bound::Included(prefix.clone()), Bound::Unbounded);
        let names = self.nodes.range(from);
        names.take_while(move |(name, _)| name.starts_with(&prefix))
    }

    /// Removes a file or a whole tree; success when it is not there.
    pub(super) fn remove(&mut self, name: &[u8]) -> Result<(), Failed> {
        let name = clean(name)?;
        if name.is_empty() {
            return failed(EngineErrorKind::Rejected, &name, "it is the workspace");
        }
        if let Some(above) = parent(&name)
            && matches!(self.get(above), Some(Node::Link(_) | Node::File { .. }))
        {
            return failed(EngineErrorKind::Rejected, &name, "not a folder above it");
        }
        let mut gone: Vec<Vec<u8>> = self.below(&name).map(|(name, _)| name.clone()).collect();
        gone.push(name);
        for name in gone {
            self.used -= self.nodes.remove(&name).map_or(0, |node| node.size());
        }
        Ok(())
    }

    /// Unpacks a tar stream into an existing folder, named relative to the workspace.
    pub(super) fn unpack(
        &mut self,
        folder: &[u8],
        stream: &[u8],
        limits: TransferLimits,
    ) -> Result<TransferSummary, Failed> {
        let folder = clean(folder)?;
        match self.get(&folder) {
            _ if folder.is_empty() => {}
            Some(Node::Folder { .. }) => {}
            Some(_) => return failed(EngineErrorKind::Internal, &folder, "not a folder"),
            None => return failed(EngineErrorKind::NotFound, &folder, "it does not exist"),
        }
        let malformed = |error: std::io::Error| {
            let message = format!("not a tar stream: {error}");
            (EngineErrorKind::Corrupt, message)
        };
        let mut summary = TransferSummary::default();
        let mut archive = tar::Archive::new(stream);
        for entry in archive.entries().map_err(malformed)? {
            let mut entry = entry.map_err(malformed)?;
            if entry.header().entry_type().is_pax_global_extensions() {
                continue;
            }
            let name = entry.path_bytes().into_owned();
            if name.first() == Some(&b'/') {
                return failed(EngineErrorKind::Corrupt, &name, "an absolute name");
            }
            let relative = clean(&name)?;
            if summary.entries + summary.skipped >= limits.entries {
                return failed(EngineErrorKind::Rejected, &name, "too many entries");
            }
            if relative.is_empty() {
                continue;
            }
            let full = joined(&folder, &relative);
            match self.node(&mut entry, &folder, &name, limits.bytes - summary.bytes)? {
                None => summary.skipped += 1,
                Some(node) => {
                    summary.bytes += match entry.header().entry_type() {
                        EntryType::Link => 0,
                        _ => node.size(),
                    };
                    self.place(&full, node)?;
                    summary.entries += 1;
                }
            }
        }
        Ok(summary)
    }

    /// What an entry of an archive becomes; `None` for what is left out.
    fn node(
        &self,
        entry: &mut tar::Entry<'_, &[u8]>,
        folder: &[u8],
        name: &[u8],
        room: u64,
    ) -> Result<Option<Node>, Failed> {
        let kind = entry.header().entry_type();
        let mode = entry.header().mode().unwrap_or(0o644) & 0o777;
        if kind.is_dir() {
            return Ok(Some(Node::Folder { mode }));
        }
        let linked = || entry.link_name_bytes().unwrap_or_default().into_owned();
        if kind.is_symlink() {
            let linked = linked();
            if linked.is_empty() {
                return failed(EngineErrorKind::Corrupt, name, "a link to nothing");
            }
            return Ok(Some(Node::Link(linked)));
        }
        if kind.is_hard_link() {
            let linked = linked();
            if linked.first() == Some(&b'/') {
                return failed(EngineErrorKind::Corrupt, name, "an absolute name");
            }
            let linked = joined(folder, &clean(&linked)?);
            return match self.get(&linked) {
                Some(node @ Node::File { .. }) => Ok(Some(node.clone())),
                _ => failed(EngineErrorKind::Corrupt, name, "a link to no earlier file"),
            };
        }
        if !(kind.is_file() || kind.is_contiguous() || kind.is_gnu_sparse()) {
            return Ok(None);
        }
        if entry.size() > room {
            return failed(EngineErrorKind::Rejected, name, "more bytes than allowed");
        }
        let time = entry.header().mtime().unwrap_or(0);
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(entry, &mut bytes)
            .map_err(|error| (EngineErrorKind::Corrupt, format!("broken stream: {error}")))?;
        Ok(Some(Node::File {
            mode,
            time,
            bytes: bytes.into(),
        }))
    }

    /// Packs what is at a name relative to the workspace, as pieces of a tar stream.
    pub(super) fn pack(
        &self,
        name: &[u8],
        limits: TransferLimits,
    ) -> Result<(Vec<Bytes>, TransferSummary), Failed> {
        let name = clean(name)?;
        let mut packer = Packer {
            pieces: Vec::new(),
            summary: TransferSummary::default(),
            limits,
        };
        match self.get(&name) {
            None if !name.is_empty() => {
                return failed(EngineErrorKind::NotFound, &name, "it does not exist");
            }
            Some(node @ (Node::File { .. } | Node::Link(_) | Node::Other | Node::Full(_))) => {
                let start = parent(&name).map_or(0, |above| above.len() + 1);
                packer.entry(name.get(start..).unwrap_or_default(), node)?;
            }
            _ => {
                let start = if name.is_empty() { 0 } else { name.len() + 1 };
                for (below, node) in self.below(&name) {
                    packer.entry(below.get(start..).unwrap_or_default(), node)?;
                }
            }
        }
        packer.pieces.push(Bytes::from_static(&[0; 2 * BLOCK]));
        Ok((packer.pieces, packer.summary))
    }
}

fn joined(folder: &[u8], name: &[u8]) -> Vec<u8> {
    match folder {
        b"" => name.to_vec(),
        folder => [folder, b"/", name].concat(),
    }
}

struct Packer {
    pieces: Vec<Bytes>,
    summary: TransferSummary,
    limits: TransferLimits,
}

impl Packer {
    fn entry(&mut self, name: &[u8], node: &Node) -> Result<(), Failed> {
        let (kind, mode, time, target) = match node {
            Node::Folder { mode } => (EntryType::Directory, *mode, 0, &[][..]),
            Node::File { mode, time, .. } => (EntryType::Regular, *mode, *time, &[][..]),
            Node::Link(target) => (EntryType::Symlink, 0o777, 0, &target[..]),
            Node::Other | Node::Full(_) => {
                self.summary.skipped += 1;
                return Ok(());
            }
        };
        let size = node.size();
        if self.summary.bytes + size > self.limits.bytes {
            return failed(EngineErrorKind::Rejected, name, "more bytes than allowed");
        }
        if self.summary.entries >= self.limits.entries {
            return failed(EngineErrorKind::Rejected, name, "too many entries");
        }
        self.summary.entries += 1;
        self.summary.bytes += size;
        let slash: &[u8] = if kind == EntryType::Directory {
            b"/"
        } else {
            b""
        };
        let name = [name, slash].concat();
        for (kind, text) in [
            (EntryType::GNULongLink, target),
            (EntryType::GNULongName, &name[..]),
        ] {
            if text.len() > SHORT {
                let text = [text, &[0]].concat();
                self.header(b"././@LongLink", &[], kind, (0o644, 0, text.len() as u64));
                self.contents(Bytes::from(text));
            }
        }
        self.header(&name, target, kind, (mode, time, size));
        if let Node::File { bytes, .. } = node {
            self.contents(bytes.clone());
        }
        Ok(())
    }

    fn header(
        &mut self,
        name: &[u8],
        target: &[u8],
        kind: EntryType,
        (mode, time, size): (u32, u64, u64),
    ) {
        let mut header = Header::new_gnu();
        if let Some(fields) = header.as_gnu_mut() {
            let fit = |field: &mut [u8], text: &[u8]| {
                for (slot, byte) in field.iter_mut().zip(text) {
                    *slot = *byte;
                }
            };
            fit(&mut fields.name, name);
            fit(&mut fields.linkname, target);
        }
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(time);
        header.set_size(size);
        header.set_cksum();
        self.pieces.push(Bytes::copy_from_slice(header.as_bytes()));
    }

    /// Contents and what fills their last block.
    fn contents(&mut self, bytes: Bytes) {
        let over = bytes.len() % BLOCK;
        if !bytes.is_empty() {
            self.pieces.push(bytes);
        }
        if over > 0 {
            self.pieces.push(Bytes::from(vec![0; BLOCK - over]));
        }
    }
}
