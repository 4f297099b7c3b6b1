//! Opens files by walking from one open folder to the next, never through a link.
//!
//! A name is never given to the kernel whole: a process of the task may replace any folder by a
//! link at any moment, and a name of a deep tree may be longer than the kernel takes.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use forge_wire::message::TransferError;
use nix::dir::{Dir, OwningIter};
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{Mode, mkdirat};

use crate::failure::Failure;
use crate::names::split_absolute;
use crate::rights::{self, in_folder};

/// Folders that are held open at once on the way down to one file.
const MAX_HELD: usize = 128;
/// Deepest tree that is walked; every level holds a file descriptor.
pub(crate) const MAX_DEPTH: usize = 4096;

const WALK: OFlag = OFlag::O_PATH
    .union(OFlag::O_DIRECTORY)
    .union(OFlag::O_NOFOLLOW)
    .union(OFlag::O_CLOEXEC);
const LIST: OFlag = OFlag::O_RDONLY
    .union(OFlag::O_DIRECTORY)
    .union(OFlag::O_NOFOLLOW)
    .union(OFlag::O_CLOEXEC);

/// Opens a folder for passing through it, refusing a link.
pub(crate) fn step(parent: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Errno> {
    openat(parent, name, WALK, Mode::empty())
}

/// Opens the folder of an absolute name; no component may be a link. Folders of ours that resist are
/// opened to us.
pub(crate) fn open_folder(path: &[u8]) -> Result<OwnedFd, Failure> {
    let components = split_absolute(path).map_err(|error| Failure::name(error, path))?;
    let root = nix::fcntl::open("/", WALK, Mode::empty());
    let mut folder = root.map_err(|errno| Failure::kernel(errno, b"/"))?;
    for component in components {
        folder = in_folder(folder.as_fd(), || step(folder.as_fd(), component))
            .map_err(|errno| Failure::kernel(errno, path))?;
    }
    Ok(folder)
}

/// Opens the folder that holds the last component of an absolute name, and gives that component;
/// none when the name is `/`.
pub(crate) fn open_parent(path: &[u8]) -> Result<(OwnedFd, Option<Vec<u8>>), Failure> {
    let components = split_absolute(path).map_err(|error| Failure::name(error, path))?;
    let Some((last, parents)) = components.split_last() else {
        return Ok((open_folder(b"/")?, None));
    };
    let mut parent = b"/".to_vec();
    parent.extend_from_slice(&parents.join(&b'/'));
    Ok((open_folder(&parent)?, Some(last.to_vec())))
}

/// The way from one folder down to the folder used last; the next file is often in the same one.
#[derive(Debug)]
pub(crate) struct Descent {
    top: OwnedFd,
    steps: Vec<Step>,
}

#[derive(Debug)]
struct Step {
    name: Vec<u8>,
    /// None where too many would be open.
    folder: Option<OwnedFd>,
}

impl Descent {
    /// A way that starts at `top`.
    pub(crate) fn new(top: OwnedFd) -> Self {
        Self {
            top,
            steps: Vec::new(),
        }
    }

    /// The folder at `components` below the top, made where missing when `create` is set.
    pub(crate) fn folder(
        &mut self,
        components: &[&[u8]],
        create: bool,
    ) -> Result<BorrowedFd<'_>, Errno> {
        if components.len() > MAX_DEPTH {
            return Err(Errno::ENAMETOOLONG);
        }
        let mut kept = components
            .iter()
            .zip(&self.steps)
            .take_while(|(wanted, step)| step.name == **wanted)
            .count();
        // Goes up to the nearest folder that is still open.
        while kept > 0 && self.steps.get(kept - 1).is_some_and(|s| s.folder.is_none()) {
            kept -= 1;
        }
        self.steps.truncate(kept);
        for component in components.iter().skip(kept) {
            let next = open_or_make(self.last(), component, create)?;
            self.steps.push(Step {
                name: component.to_vec(),
                folder: Some(next),
            });
            let far = self.steps.len().checked_sub(MAX_HELD + 1);
            if let Some(step) = far.and_then(|index| self.steps.get_mut(index)) {
                step.folder = None;
            }
        }
        Ok(self.last())
    }

    fn last(&self) -> BorrowedFd<'_> {
        self.steps
            .last()
            .and_then(|step| step.folder.as_ref())
            .unwrap_or(&self.top)
            .as_fd()
    }
}

fn open_or_make(parent: BorrowedFd<'_>, name: &[u8], create: bool) -> Result<OwnedFd, Errno> {
    match in_folder(parent, || step(parent, name)) {
        Err(Errno::ENOENT) if create => {
            let mode = Mode::from_bits_truncate(0o755);
            match in_folder(parent, || mkdirat(parent, name, mode)) {
                Ok(()) | Err(Errno::EEXIST) => step(parent, name),
                Err(errno) => Err(errno),
            }
        }
        other => other,
    }
}

/// A folder whose entries are read one by one, so that its width costs no memory.
#[derive(Debug)]
pub(crate) struct Listing {
    entries: OwningIter,
}

/// What a folder says about an entry.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) name: Vec<u8>,
    /// None when the file system does not say.
    pub(crate) kind: Option<nix::dir::Type>,
}

impl Listing {
    /// Opens a folder below `parent`, refusing a link.
    pub(crate) fn open(parent: BorrowedFd<'_>, name: &[u8]) -> Result<Self, Errno> {
        Self::of(openat(parent, name, LIST, Mode::empty())?)
    }

    /// As [`Self::open`], also where the folder or its parent is ours and was closed to us.
    pub(crate) fn open_closed(parent: BorrowedFd<'_>, name: &[u8]) -> Result<Self, Errno> {
        Self::of(rights::open(parent, name, LIST)?)
    }

    fn of(folder: OwnedFd) -> Result<Self, Errno> {
        Ok(Self {
            entries: Dir::from_fd(folder)?.into_iter(),
        })
    }

    /// Opens the folder of an absolute name; no component may be a link.
    pub(crate) fn open_absolute(path: &[u8]) -> Result<Self, Failure> {
        let folder = open_folder(path)?;
        Self::open(folder.as_fd(), b".").map_err(|errno| Failure::kernel(errno, path))
    }

    /// The next entry but `.` and `..`.
    pub(crate) fn next_entry(&mut self) -> Option<Result<Entry, Errno>> {
        loop {
            let entry = match self.entries.next()? {
                Ok(entry) => entry,
                Err(errno) => return Some(Err(errno)),
            };
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                return Some(Ok(Entry {
                    name: name.to_vec(),
                    kind: entry.file_type(),
                }));
            }
        }
    }
}

impl AsFd for Listing {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is owned by `entries` and open as long as `self` is borrowed.
        unsafe { BorrowedFd::borrow_raw(self.entries.as_raw_fd()) }
    }
}

/// A tree too deep to walk.
pub(crate) fn too_deep(name: &[u8]) -> Failure {
    Failure::about(
        TransferError::Limit,
        name,
        format_args!("deeper than {MAX_DEPTH} folders"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStrExt;

    #[test]
    fn a_link_on_the_way_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("real")).unwrap();
        std::os::unix::fs::symlink("real", folder.path().join("link")).unwrap();
        let path = |name: &str| folder.path().join(name).as_os_str().as_bytes().to_vec();
        assert!(open_folder(&path("real")).is_ok());
        assert!(open_folder(&path("link")).is_err());
        assert!(open_parent(&path("link/x")).is_err());
        let mut descent = Descent::new(open_folder(&path("")).unwrap());
        assert_eq!(
            descent.folder(&[b"link"], true).map(drop),
            Err(Errno::ENOTDIR)
        );
    }

    #[test]
    fn a_deep_folder_is_found_again_with_few_descriptors() {
        let folder = tempfile::tempdir().unwrap();
        let top = open_folder(folder.path().as_os_str().as_bytes()).unwrap();
        let mut descent = Descent::new(top);
        let deep: Vec<&[u8]> = vec![b"d"; 600];
        descent.folder(&deep, true).unwrap();
        let open = |descent: &Descent| descent.steps.iter().filter(|s| s.folder.is_some()).count();
        assert_eq!(open(&descent), MAX_HELD);
        descent.folder(&deep[..500], false).unwrap();
        descent.folder(&deep[..10], false).unwrap();
        assert!(descent.folder(&deep, false).is_ok());
        assert_eq!(descent.folder(&[b"e"], false).map(drop), Err(Errno::ENOENT));
    }
}
