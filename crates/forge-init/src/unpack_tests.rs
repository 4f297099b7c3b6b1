//! Tests of unpacking: what must be refused, and what must come out exactly.

use super::*;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

const LIMITS: TransferLimits = TransferLimits {
    bytes: 1 << 20,
    entries: 1000,
};

fn put_raw(stream: &mut Vec<u8>, kind: EntryType, name: &[u8], target: &[u8], contents: &[u8]) {
    let mut header = tar::Header::new_gnu();
    let fields = header.as_gnu_mut().unwrap();
    fields.name[..name.len()].copy_from_slice(name);
    fields.linkname[..target.len()].copy_from_slice(target);
    header.set_entry_type(kind);
    header.set_mode(0o640);
    header.set_mtime(1_000_000_000);
    header.set_size(contents.len() as u64);
    header.set_cksum();
    stream.extend_from_slice(header.as_bytes());
    stream.extend_from_slice(contents);
    stream.resize(stream.len().next_multiple_of(512), 0);
}

fn unpack_into(folder: &Path, stream: &[u8]) -> Result<TransferSummary, Failure> {
    unpack(folder.to_str().unwrap(), LIMITS, stream)
}

fn one(kind: EntryType, name: &[u8], target: &[u8], contents: &[u8]) -> Vec<u8> {
    let mut stream = Vec::new();
    put_raw(&mut stream, kind, name, target, contents);
    stream
}

#[test]
fn names_that_leave_the_folder_are_refused() {
    let outer = tempfile::tempdir().unwrap();
    let folder = outer.path().join("in");
    std::fs::create_dir(&folder).unwrap();
    for name in [
        &b"../out"[..],
        b"/tmp/forge-init-out",
        b"a/../../out",
        b"..",
    ] {
        for kind in [EntryType::Regular, EntryType::Directory, EntryType::Symlink] {
            let failure = unpack_into(&folder, &one(kind, name, b"x", b"")).unwrap_err();
            assert_eq!(failure.error, TransferError::Malformed, "{failure}");
        }
    }
    assert!(!outer.path().join("out").exists());
}

#[test]
fn a_link_is_never_written_through() {
    let outer = tempfile::tempdir().unwrap();
    let folder = outer.path().join("in");
    std::fs::create_dir_all(outer.path().join("out")).unwrap();
    std::fs::create_dir(&folder).unwrap();
    let mut stream = one(EntryType::Symlink, b"link", b"../out", b"");
    put_raw(&mut stream, EntryType::Regular, b"link/file", b"", b"bad");
    let failure = unpack_into(&folder, &stream).unwrap_err();
    assert_eq!(failure.error, TransferError::Malformed, "{failure}");
    // A file in the place of a link replaces the link, not what it leads to.
    std::fs::write(outer.path().join("kept"), "kept").unwrap();
    symlink("../kept", folder.join("file")).unwrap();
    unpack_into(&folder, &one(EntryType::Regular, b"file", b"", b"new")).unwrap();
    assert_eq!(std::fs::read(outer.path().join("kept")).unwrap(), b"kept");
    assert_eq!(std::fs::read(folder.join("file")).unwrap(), b"new");
    // A folder in the place of a link as well.
    unpack_into(&folder, &one(EntryType::Directory, b"link/", b"", b"")).unwrap();
    assert!(
        std::fs::symlink_metadata(folder.join("link"))
            .unwrap()
            .is_dir()
    );
    assert!(!outer.path().join("out/file").exists());
}

#[test]
fn hard_links_lead_to_earlier_files_inside_only() {
    let outer = tempfile::tempdir().unwrap();
    let folder = outer.path().join("in");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(outer.path().join("secret"), "x").unwrap();
    symlink("../secret", folder.join("link")).unwrap();
    for target in [
        &b"../secret"[..],
        b"/etc/passwd",
        b"missing",
        b"link",
        b"",
        b"new",
    ] {
        let failure = unpack_into(&folder, &one(EntryType::Link, b"new", target, b"")).unwrap_err();
        assert_eq!(failure.error, TransferError::Malformed, "{failure}");
    }
    let mut stream = one(EntryType::Regular, b"a", b"", b"text");
    put_raw(&mut stream, EntryType::Link, b"sub/b", b"a", b"");
    unpack_into(&folder, &stream).unwrap();
    let inode = |name: &str| std::fs::metadata(folder.join(name)).unwrap().ino();
    assert_eq!(inode("a"), inode("sub/b"));
}

#[test]
fn modes_times_and_folders_closed_to_their_owner() {
    let folder = tempfile::tempdir().unwrap();
    let mut stream = Vec::new();
    let mut header = tar::Header::new_gnu();
    header.set_path("closed/").unwrap();
    header.set_entry_type(EntryType::Directory);
    header.set_mode(0o555);
    header.set_size(0);
    header.set_cksum();
    stream.extend_from_slice(header.as_bytes());
    put_raw(
        &mut stream,
        EntryType::Regular,
        b"closed/file",
        b"",
        b"text",
    );
    let summary = unpack_into(folder.path(), &stream).unwrap();
    assert_eq!((summary.entries, summary.bytes, summary.skipped), (2, 4, 0));
    let closed = std::fs::metadata(folder.path().join("closed")).unwrap();
    assert_eq!(closed.permissions().mode() & 0o7777, 0o555);
    let file = std::fs::metadata(folder.path().join("closed/file")).unwrap();
    assert_eq!(file.permissions().mode() & 0o7777, 0o640);
    assert_eq!(file.mtime(), 1_000_000_000);
}

#[test]
fn devices_are_left_out_and_counted() {
    let folder = tempfile::tempdir().unwrap();
    let mut stream = one(EntryType::Char, b"device", b"", b"");
    put_raw(&mut stream, EntryType::Fifo, b"pipe", b"", b"");
    put_raw(&mut stream, EntryType::Regular, b"file", b"", b"x");
    let summary = unpack_into(folder.path(), &stream).unwrap();
    assert_eq!((summary.entries, summary.skipped), (1, 2));
}

#[test]
fn limits_hold_before_anything_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let limits = TransferLimits {
        bytes: 3,
        entries: 1,
    };
    let top = folder.path().to_str().unwrap();
    let big = one(EntryType::Regular, b"big", b"", b"four");
    let failure = unpack(top, limits, big.as_slice()).unwrap_err();
    assert_eq!(failure.error, TransferError::Limit);
    assert!(failure.message.contains("big"), "{failure}");
    assert!(!folder.path().join("big").exists());
    let mut two = one(EntryType::Regular, b"a", b"", b"");
    put_raw(&mut two, EntryType::Regular, b"b", b"", b"");
    let failure = unpack(top, limits, two.as_slice()).unwrap_err();
    assert_eq!(failure.error, TransferError::Limit);
}

#[test]
fn endless_headers_are_refused_before_they_are_collected() {
    let folder = tempfile::tempdir().unwrap();
    let mut header = tar::Header::new_gnu();
    header.set_path("././@LongLink").unwrap();
    header.set_entry_type(EntryType::GNULongName);
    header.set_size(1 << 40);
    header.set_cksum();
    let endless = header.as_bytes().as_slice().chain(std::io::repeat(b'a'));
    let failure = unpack(folder.path().to_str().unwrap(), LIMITS, endless).unwrap_err();
    assert_eq!(failure.error, TransferError::Malformed, "{failure}");
}

#[test]
fn a_size_in_a_pax_record_counts() {
    let folder = tempfile::tempdir().unwrap();
    let record = b"23 size=99999999999999\n";
    let mut stream = one(EntryType::XHeader, b"pax", b"", record);
    put_raw(&mut stream, EntryType::Regular, b"file", b"", b"x");
    let failure = unpack_into(folder.path(), &stream).unwrap_err();
    assert!(
        matches!(
            failure.error,
            TransferError::Limit | TransferError::Malformed
        ),
        "{failure}"
    );
}

#[test]
fn a_cut_or_senseless_stream_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let stream = one(EntryType::Regular, b"file", b"", &[7; 2000]);
    let failure = unpack_into(folder.path(), &stream[..1500]).unwrap_err();
    assert_eq!(failure.error, TransferError::Malformed, "{failure}");
    let failure = unpack_into(folder.path(), &[7; 2000]).unwrap_err();
    assert_eq!(failure.error, TransferError::Malformed, "{failure}");
}
