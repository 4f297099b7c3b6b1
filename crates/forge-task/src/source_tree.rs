//! Looks through a folder of the author's before it is copied into a sandbox: how much it is, and
//! whether anything in it could reach outside, stay behind or surprise whoever unpacks it.

use forge_document::{ErrorList, Problem, quote};
use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::{self, FileType, Metadata};
use std::io;
use std::path::{Component, Path, PathBuf};

use forge_core::task::SourceTree;

/// Largest file in a tree, in bytes.
pub const MAX_FILE_BYTES: u64 = 64 * 1024 * 1024;
/// Largest tree, in bytes.
pub const MAX_TREE_BYTES: u64 = 512 * 1024 * 1024;
/// Most files, folders and links in a tree.
pub const MAX_TREE_ENTRIES: u64 = 100_000;

/// Links that Linux follows for one path before it gives up.
const MAX_LINK_HOPS: u32 = 40;

/// Looks through the folder `root`, noting what is wrong; `None` when its size is beyond a limit,
/// in which case not all of it was looked at.
pub(crate) fn measure(root: &Path, errors: &mut ErrorList) -> Option<SourceTree> {
    let mut tree = SourceTree {
        root: root.to_owned(),
        entries: 0,
        bytes: 0,
    };
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) => {
                errors.push_path(&folder, unreadable(&error));
                continue;
            }
        };
        for entry in entries {
            let found = entry.and_then(|entry| Ok((entry.path(), entry.metadata()?)));
            let (path, metadata) = match found {
                Ok(found) => found,
                Err(error) => {
                    errors.push_path(&folder, unreadable(&error));
                    continue;
                }
            };
            tree.entries += 1;
            if metadata.is_file() {
                tree.bytes = tree.bytes.saturating_add(metadata.len());
            }
            if let Some(problem) = too_much(&tree) {
                errors.push_path(root, problem);
                return None;
            }
            if let Err(problem) = check_entry(root, &path, &metadata) {
                errors.push_path(&path, problem);
            }
            if metadata.is_dir() {
                folders.push(path);
            }
        }
    }
    Some(tree)
}

fn too_much(tree: &SourceTree) -> Option<Problem> {
    let (what, limit) = if tree.entries > MAX_TREE_ENTRIES {
        ("entries", format!("{MAX_TREE_ENTRIES} entries"))
    } else if tree.bytes > MAX_TREE_BYTES {
        ("bytes", format!("{} MiB", MAX_TREE_BYTES >> 20))
    } else {
        return None;
    };
    let problem = Problem::new(format!("it has more {what}"))
        .expecting(format!("a tree of at most {limit}"))
        .hint("put what is large into the image");
    Some(problem)
}

pub(crate) fn unreadable(error: &io::Error) -> Problem {
    Problem::new(format!("cannot be read: {error}"))
}

fn check_entry(root: &Path, path: &Path, metadata: &Metadata) -> Result<(), Problem> {
    let kind = metadata.file_type();
    if kind.is_symlink() {
        return check_link(root, path);
    }
    if kind.is_dir() {
        return Ok(());
    }
    if !kind.is_file() {
        let problem = Problem::new(format!("it is {}", special_kind(kind)))
            .expecting("a file, a folder or a symbolic link")
            .hint("remove it");
        return Err(problem);
    }
    if metadata.len() > MAX_FILE_BYTES {
        let problem = Problem::new(format!("it has {} bytes", metadata.len()))
            .expecting(format!("a file of at most {} MiB", MAX_FILE_BYTES >> 20))
            .hint("put what is large into the image");
        return Err(problem);
    }
    match privileges(metadata) {
        Some((bit, remedy)) => Err(Problem::new(format!("its {bit} bit is set"))
            .hint(format!("{remedy}; a sandbox ignores the bit anyway"))),
        None => Ok(()),
    }
}

#[cfg(unix)]
fn special_kind(kind: FileType) -> &'static str {
    use std::os::unix::fs::FileTypeExt;
    if kind.is_fifo() {
        "a named pipe"
    } else if kind.is_socket() {
        "a socket"
    } else {
        "a device"
    }
}

#[cfg(not(unix))]
fn special_kind(_: FileType) -> &'static str {
    "neither file nor folder"
}

/// Which of the bits that lend a file's owner to whoever runs it is set.
#[cfg(unix)]
fn privileges(metadata: &Metadata) -> Option<(&'static str, &'static str)> {
    use std::os::unix::fs::MetadataExt;
    match metadata.mode() {
        mode if mode & 0o4000 != 0 => Some(("setuid", "chmod u-s")),
        mode if mode & 0o2000 != 0 => Some(("setgid", "chmod g-s")),
        _ => None,
    }
}

#[cfg(not(unix))]
fn privileges(_: &Metadata) -> Option<(&'static str, &'static str)> {
    None
}

fn check_link(root: &Path, path: &Path) -> Result<(), Problem> {
    let target = fs::read_link(path).map_err(|error| unreadable(&error))?;
    let hint = "link to a path relative to the link, within the same tree";
    let found = || Problem::new(format!("it links to {}", quote(&target.to_string_lossy())));
    if target.has_root() {
        return Err(found().expecting("a relative link").hint(hint));
    }
    match leaves(root, path) {
        true => Err(found()
            .expecting(format!(
                "a link that stays within {}",
                quote(&root.to_string_lossy())
            ))
            .hint(hint)),
        false => Ok(()),
    }
}

/// Whether following the link at `path` leads out of `root`.
///
/// Looking at the text of the target is not enough: in `a/up/../..` it depends on where the link
/// `a/up` leads. So the way is walked as the kernel would, link by link, without following any.
fn leaves(root: &Path, path: &Path) -> bool {
    let Ok(below) = path.strip_prefix(root) else {
        return true;
    };
    let mut rest: VecDeque<Step> = steps(below).unwrap_or_default().into();
    let mut here: Vec<OsString> = Vec::new();
    let mut hops = 0;
    while let Some(step) = rest.pop_front() {
        let Step::Down(name) = step else {
            if here.pop().is_none() {
                return true;
            }
            continue;
        };
        here.push(name);
        let current: PathBuf = root.join(here.iter().collect::<PathBuf>());
        // What cannot be read is not there, and no link.
        let Ok(target) = fs::read_link(&current) else {
            continue;
        };
        hops += 1;
        if hops > MAX_LINK_HOPS {
            // The kernel gives up as well, and so far nothing left the tree.
            return false;
        }
        here.pop();
        let Some(inner) = steps(&target) else {
            return true;
        };
        for step in inner.into_iter().rev() {
            rest.push_front(step);
        }
    }
    false
}

enum Step {
    Up,
    Down(OsString),
}

/// The steps of a relative path; `None` when it is not relative.
fn steps(path: &Path) -> Option<Vec<Step>> {
    let mut steps = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => steps.push(Step::Down(name.to_owned())),
            Component::ParentDir => steps.push(Step::Up),
            Component::CurDir => {}
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(steps)
}
