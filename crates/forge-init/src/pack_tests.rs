//! Tests of packing, by unpacking what was packed.

use super::*;
use crate::unpack::unpack;
use nix::sys::stat::Mode;
use std::ffi::OsStr;
use std::os::unix::fs::symlink;
use std::path::Path;

const LIMITS: TransferLimits = TransferLimits {
    bytes: 1 << 30,
    entries: 10_000,
};

impl Sink for Vec<u8> {
    fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.extend_from_slice(bytes);
        Ok(())
    }

    fn write_with(
        &mut self,
        limit: usize,
        fill: &mut dyn FnMut(&mut [u8]) -> std::io::Result<usize>,
    ) -> Result<std::io::Result<usize>, Failure> {
        let mut room = vec![0; limit.min(1000)];
        let filled = fill(&mut room);
        self.extend_from_slice(&room[..*filled.as_ref().unwrap_or(&0)]);
        Ok(filled)
    }
}

fn packed(path: &Path) -> (TransferSummary, Vec<u8>) {
    let mut stream = Vec::new();
    let summary = pack(path.to_str().unwrap(), LIMITS, &mut stream).unwrap();
    assert_eq!(stream.len() % BLOCK, 0);
    (summary, stream)
}

#[test]
fn a_tree_with_odd_names_comes_back_exactly() {
    let from = tempfile::tempdir().unwrap();
    let long = "n".repeat(255);
    let names: [&[u8]; 6] = [
        b"new\nline",
        b"invalid-\xff\xfe",
        b"-dash ",
        long.as_bytes(),
        b"\x1b[31m",
        b"back\\slash",
    ];
    for name in names {
        let path = from.path().join(OsStr::from_bytes(name));
        std::fs::write(path, name).unwrap();
    }
    let deep_name = vec!["d".repeat(255); 3].join("/");
    let deep = from.path().join(&deep_name);
    std::fs::create_dir_all(&deep).unwrap();
    std::fs::write(deep.join("bottom"), vec![5; 5000]).unwrap();
    symlink("x".repeat(300), from.path().join("long-target")).unwrap();
    symlink("/etc/passwd", from.path().join("target")).unwrap();
    let (summary, stream) = packed(from.path());
    assert_eq!((summary.entries, summary.skipped), (12, 0));

    let to = tempfile::tempdir().unwrap();
    let unpacked = unpack(to.path().to_str().unwrap(), LIMITS, stream.as_slice()).unwrap();
    assert_eq!(unpacked, summary);
    for name in names {
        let path = to.path().join(OsStr::from_bytes(name));
        assert_eq!(std::fs::read(path).unwrap(), name);
    }
    let bottom = to.path().join(&deep_name).join("bottom");
    assert_eq!(std::fs::read(bottom).unwrap(), vec![5; 5000]);
    let target = std::fs::read_link(to.path().join("long-target")).unwrap();
    assert_eq!(target.as_os_str().len(), 300);
}

#[test]
fn a_single_file_has_its_own_name_and_a_link_is_a_link() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("file"), "text").unwrap();
    symlink("file", folder.path().join("link")).unwrap();
    for (name, kind) in [("file", EntryType::Regular), ("link", EntryType::Symlink)] {
        let (_, stream) = packed(&folder.path().join(name));
        let mut archive = tar::Archive::new(stream.as_slice());
        let entry = archive.entries().unwrap().next().unwrap().unwrap();
        assert_eq!(&*entry.path_bytes(), name.as_bytes());
        assert_eq!(entry.header().entry_type(), kind);
        assert_eq!(entry.header().uid().unwrap(), 0);
    }
}

#[test]
fn pipes_are_left_out_and_counted() {
    let folder = tempfile::tempdir().unwrap();
    nix::unistd::mkfifo(&folder.path().join("pipe"), Mode::S_IRWXU).unwrap();
    let (summary, _) = packed(folder.path());
    assert_eq!((summary.entries, summary.skipped), (0, 1));
}

#[test]
fn a_file_that_cannot_be_read_to_its_end_is_padded_and_counted() {
    let mut stream = Vec::new();
    let mut packer = Packer {
        limits: LIMITS,
        summary: TransferSummary::default(),
        sink: &mut stream,
        name: b"file".to_vec(),
    };
    // Reading from a folder fails, as a file on a broken disk does.
    let folder = File::open("/").unwrap();
    packer.contents(folder, 700).unwrap();
    assert_eq!(packer.summary.skipped, 1);
    assert_eq!(stream, vec![0; 2 * BLOCK]);
}

#[test]
fn a_huge_sparse_file_is_refused_by_its_size() {
    let folder = tempfile::tempdir().unwrap();
    let file = File::create(folder.path().join("sparse")).unwrap();
    file.set_len(1 << 40).unwrap();
    let mut stream = Vec::new();
    let failure = pack(folder.path().to_str().unwrap(), LIMITS, &mut stream).unwrap_err();
    assert_eq!(failure.error, TransferError::Limit);
    assert!(failure.message.starts_with("sparse: "), "{failure}");
    assert!(stream.is_empty());
}

#[test]
fn a_link_on_the_way_is_refused_and_a_missing_file_reported() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("real")).unwrap();
    std::fs::write(folder.path().join("real/file"), "x").unwrap();
    symlink("real", folder.path().join("link")).unwrap();
    let fail = |name: &str| {
        let path = folder.path().join(name);
        pack(path.to_str().unwrap(), LIMITS, &mut Vec::new()).unwrap_err()
    };
    assert_eq!(fail("link/file").error, TransferError::Io);
    assert_eq!(fail("missing").error, TransferError::NotFound);
    assert_eq!(fail("missing/too").error, TransferError::NotFound);
}

#[test]
fn a_deep_tree_is_packed_and_unpacked() {
    let folder = tempfile::tempdir().unwrap();
    let top = folder.path().to_str().unwrap().to_owned();
    let mut stream = Vec::new();
    let mut header = Header::new_gnu();
    let name = vec!["d"; 1200].join("/");
    let long = format!("{name}\0");
    put(&mut header, b"././@LongLink", &[]);
    header.set_entry_type(EntryType::GNULongName);
    header.set_size(long.len() as u64);
    header.set_cksum();
    stream.extend_from_slice(header.as_bytes());
    stream.extend_from_slice(long.as_bytes());
    stream.resize(stream.len().next_multiple_of(BLOCK), 0);
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::Directory);
    header.set_size(0);
    header.set_mode(0o755);
    header.set_cksum();
    stream.extend_from_slice(header.as_bytes());
    std::fs::create_dir(folder.path().join("in")).unwrap();
    unpack(&format!("{top}/in"), LIMITS, stream.as_slice()).unwrap();
    let (summary, _) = packed(&folder.path().join("in"));
    assert_eq!(summary.entries, 1200);
    crate::remove::remove(&top, &format!("{top}/in")).unwrap();
    assert!(!folder.path().join("in").exists());
}
