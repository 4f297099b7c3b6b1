//! The file system as the tools that everybody checks theirs with see it.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::ext4::{BLOCK, Layout, Request, is_complete, write};

const MEBIBYTE: u64 = 1 << 20;

/// Sizes and numbers of files around everything that changes the layout.
fn requests() -> impl Iterator<Item = Request> {
    let group = 128 * MEBIBYTE;
    [
        (1, 1),
        (MEBIBYTE, 64),
        (group - 3 * MEBIBYTE, 4096),
        (group - MEBIBYTE, 8192),
        (group, 1),
        (group + 4096, u64::MAX),
        (1024 * MEBIBYTE, 65_536),
        (1024 * MEBIBYTE + 12_345, 100_000),
        (9 * group, 300_000),
        (50 * group, 1000),
        (130 * group, 1000),
    ]
    .into_iter()
    .map(|(bytes, files)| Request {
        bytes,
        files,
        uid: 200_007,
        gid: 300_009,
        now: 1_700_000_000,
    })
}

fn made(folder: &Path, request: &Request) -> (PathBuf, Layout) {
    let path = folder.join("image");
    let file = File::create_new(&path).unwrap();
    let layout = Layout::of(request).unwrap();
    file.set_len(layout.file_size()).unwrap();
    write(&file, request, &layout, [7; 32]).unwrap();
    assert!(is_complete(&File::open(&path).unwrap()));
    (path, layout)
}

/// What a tool of e2fsprogs prints.
fn tool(name: &str, arguments: &[&str], image: &Path) -> String {
    let mut command = Command::new(name);
    let path = "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin";
    let output = command
        .env("PATH", path)
        .args(arguments)
        .arg(image)
        .output()
        .unwrap_or_else(|error| panic!("{name}, of e2fsprogs: {error}"));
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    format!("{}{}", text(&output.stdout), text(&output.stderr))
}

#[test]
fn the_checker_finds_nothing_to_repair() {
    for request in requests() {
        let folder = tempfile::tempdir().unwrap();
        let (image, _) = made(folder.path(), &request);
        let said = tool("e2fsck", &["-f", "-n"], &image);
        let lines: Vec<&str> = said
            .lines()
            .filter(|line| {
                !line.is_empty()
                    && !line.starts_with("e2fsck ")
                    && !line.starts_with("Pass ")
                    // Made by the checker where it is needed.
                    && !line.contains("lost+found")
            })
            .collect();
        assert!(
            lines.iter().all(|line| line.contains(" files (")),
            "{request:?}: {said}"
        );
    }
}

/// Read whole by the checker, these would take it half a minute.
fn large_requests() -> impl Iterator<Item = Request> {
    [20, 100, 1000].into_iter().map(|gibibytes| Request {
        bytes: gibibytes * 1024 * MEBIBYTE,
        files: gibibytes * 65_536,
        uid: 1,
        gid: 1,
        now: 0,
    })
}

#[test]
fn exactly_what_was_asked_for_can_be_allocated() {
    for request in requests().chain(large_requests()) {
        let folder = tempfile::tempdir().unwrap();
        let (image, _) = made(folder.path(), &request);
        let said = tool("dumpe2fs", &["-h"], &image);
        let field = |name: &str| -> u64 {
            let line = said.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap_or_else(|| panic!("{name}: {said}"))
                .trim()
                .parse()
                .unwrap()
        };
        let kernel = (field("Block count:") / 50).min(4096);
        let free = field("Free blocks:") - field("Reserved block count:") - kernel;
        let wanted = (request.bytes / BLOCK).max(4) - 3;
        assert_eq!(free, wanted, "{request:?}");
        let files = request.files.min(request.bytes / BLOCK);
        assert!(field("Free inodes:") >= files, "{request:?}: {said}");
    }
}

#[test]
fn the_folders_of_a_workspace_are_there_with_their_owners() {
    let folder = tempfile::tempdir().unwrap();
    let request = requests().nth(6).unwrap();
    let (image, _) = made(folder.path(), &request);
    let list = tool("debugfs", &["-R", "ls -l /"], &image);
    let seen: Vec<(&str, &str, &str, &str)> = list
        .lines()
        .filter_map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            match words.as_slice() {
                [_, mode, _, uid, gid, .., name] => Some((*name, *mode, *uid, *gid)),
                _ => None,
            }
        })
        .filter(|(name, ..)| *name != "..")
        .collect();
    let expected = [
        (".", "40755", "200007", "300009"),
        ("output", "40755", "200007", "300009"),
        (".swe-forge", "40755", "0", "0"),
    ];
    assert!(
        expected.iter().all(|entry| seen.contains(entry)),
        "{seen:?}: {list}"
    );
    assert!(!list.contains("lost+found"), "{list}");
}

#[test]
fn a_file_takes_little_of_the_disk_below_until_something_is_written() {
    use std::os::unix::fs::MetadataExt;
    let folder = tempfile::tempdir().unwrap();
    let request = large_requests().next().unwrap();
    let (image, _) = made(folder.path(), &request);
    let taken = std::fs::metadata(&image).unwrap().blocks() * 512;
    assert!(taken < 4 * MEBIBYTE, "{taken}");
}

#[test]
fn more_than_addresses_reach_is_refused() {
    let request = Request {
        bytes: u64::MAX,
        files: 1,
        uid: 1,
        gid: 1,
        now: 0,
    };
    assert_eq!(Layout::of(&request), None);
}
