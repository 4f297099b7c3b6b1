//! Small tar archives that are put into containers which never run.

use std::io;

use bytes::Bytes;
use forge_core::UserId;

/// 2000-01-01: some tools refuse files from 1970, and the time of making would make two images
/// of the same contents differ.
const MODIFIED: u64 = 946_684_800;

/// A tar archive in memory.
pub(crate) struct Archive {
    builder: tar::Builder<Vec<u8>>,
}

impl Archive {
    /// An empty one.
    pub(crate) fn new() -> Self {
        Self {
            builder: tar::Builder::new(Vec::new()),
        }
    }

    /// Adds a folder; `owner` is root when `None`.
    pub(crate) fn folder(
        &mut self,
        path: &str,
        mode: u32,
        owner: Option<UserId>,
    ) -> io::Result<()> {
        let mut header = header(tar::EntryType::Directory, mode, owner);
        header.set_size(0);
        self.builder
            .append_data(&mut header, format!("{path}/"), io::empty())
    }

    /// Adds a file that belongs to root.
    pub(crate) fn file(&mut self, path: &str, mode: u32, contents: &[u8]) -> io::Result<()> {
        let mut header = header(tar::EntryType::Regular, mode, None);
        header.set_size(contents.len() as u64);
        self.builder.append_data(&mut header, path, contents)
    }

    /// The archive's bytes.
    pub(crate) fn finish(self) -> io::Result<Bytes> {
        Ok(Bytes::from(self.builder.into_inner()?))
    }
}

fn header(kind: tar::EntryType, mode: u32, owner: Option<UserId>) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(owner.map_or(0, |user| user.uid().into()));
    header.set_gid(owner.map_or(0, |user| user.gid().into()));
    header.set_mtime(MODIFIED);
    header
}

/// The contents of the only regular file in an archive, at most `limit` bytes of it.
pub(crate) fn only_file(archive: &[u8], limit: u64) -> io::Result<Vec<u8>> {
    use io::Read;
    let mut archive = tar::Archive::new(archive);
    for entry in archive.entries()? {
        let entry = entry?;
        if entry.header().entry_type() == tar::EntryType::Regular {
            let mut contents = Vec::new();
            entry.take(limit).read_to_end(&mut contents)?;
            return Ok(contents);
        }
    }
    Err(io::Error::from(io::ErrorKind::NotFound))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_carry_owner_and_mode() {
        let mut archive = Archive::new();
        let user = UserId::new(200_001, 200_002).unwrap();
        archive.folder("workspace", 0o755, Some(user)).unwrap();
        archive.file("workspace/a", 0o644, b"text").unwrap();
        let bytes = archive.finish().unwrap();
        let mut read = tar::Archive::new(&bytes[..]);
        let found: Vec<_> = read
            .entries()
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                let header = entry.header();
                (
                    String::from_utf8(entry.path_bytes().into_owned()).unwrap(),
                    header.uid().unwrap(),
                    header.gid().unwrap(),
                    header.mode().unwrap(),
                )
            })
            .collect();
        assert_eq!(
            found,
            [
                ("workspace/".to_owned(), 200_001, 200_002, 0o755),
                ("workspace/a".to_owned(), 0, 0, 0o644),
            ]
        );
        assert_eq!(only_file(&bytes, 3).unwrap(), b"tex");
    }
}
