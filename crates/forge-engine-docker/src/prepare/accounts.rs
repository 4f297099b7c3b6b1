//! The lists of users and groups of an image, which the engine reads before it starts anything.
//!
//! The engine reads them as root of its machine, also for users that are numbers, its runtime does
//! once more inside the container, and so does the program that sends a file of a container. None
//! of them has a limit or a deadline: a pipe there, or a link to a device that never ends, keeps the
//! engine from ever answering about that container again, and while it is stuck no image of any
//! owner can be removed. So nothing is started or read before they are seen to be plain.

use bollard::container::PathStatResponse;
use forge_engine::{EngineError, EngineErrorKind, Operation};

use crate::archive::only_file;
use crate::stager::Stager;

/// The folder of both lists. As a link it would lead below a mount, where nothing is until a task puts
/// something there. Docker makes it a folder in every container, whatever it is in the image; other
/// engines may not.
const FOLDER_OF_LISTS: &str = "/etc";
/// Read by the engine and by its runtime.
const LISTS: [&str; 2] = ["/etc/passwd", "/etc/group"];
/// No machine has as many users as fit into this.
const LIMIT: u64 = 1 << 20;
/// What an archive of one file has besides the file.
const ARCHIVE_OVERHEAD: u64 = 64 * 1024;

/// Kinds of files as Go writes them down.
pub(super) const FOLDER: u32 = 1 << 31;
pub(super) const LINK: u32 = 1 << 27;
const DEVICE: u32 = 1 << 26;
const PIPE: u32 = 1 << 25;
const SOCKET: u32 = 1 << 24;
const CHARACTER_DEVICE: u32 = 1 << 21;
const UNKNOWN: u32 = 1 << 19;

/// A list that shall be put in the place of a link to it.
pub(super) type List = (&'static str, Vec<u8>);

/// What must be put on top of a stager's image for its lists to be plain files. A link is replaced
/// by what it leads to: its target may be below a mount, where a task decides what it is.
///
/// # Errors
/// [`EngineErrorKind::Rejected`] for what is neither absent nor a file of sensible size.
pub(super) async fn to_replace(
    stager: &Stager<'_>,
    operation: Operation,
    subject: &str,
) -> Result<Vec<List>, EngineError> {
    let look_at = |path| Look {
        stager,
        operation,
        subject,
        path,
    };
    let folder = look_at(FOLDER_OF_LISTS);
    let found = folder.find(FOLDER_OF_LISTS).await?;
    if let Some(found) = found {
        judge_folder(found.file_mode).map_err(|why| folder.refusal(why))?;
    }
    let mut links = Vec::new();
    for path in LISTS {
        let look = look_at(path);
        links.extend(look.link().await?.map(|target| (look, target)));
    }
    // Only now: the engine reads both lists to send any file.
    let mut lists = Vec::new();
    for (look, target) in links {
        let most = usize::try_from(LIMIT + ARCHIVE_OVERHEAD).unwrap_or(usize::MAX);
        let archive = stager.get(&target, most).await?;
        let contents = only_file(&archive, LIMIT);
        let contents = contents.map_err(|_| look.refusal("a link to no file"))?;
        lists.push((look.path, contents));
    }
    Ok(lists)
}

/// One list, or their folder, that is looked at.
struct Look<'a> {
    stager: &'a Stager<'a>,
    operation: Operation,
    subject: &'a str,
    path: &'static str,
}

impl Look<'_> {
    fn refusal(&self, why: &str) -> EngineError {
        let message = format!("its {} is {why}; the engine has to read it", self.path);
        EngineError::new(
            EngineErrorKind::Rejected,
            self.operation,
            self.subject,
            message,
        )
    }

    /// Judges the list; where it leads to, when it is a link.
    async fn link(&self) -> Result<Option<String>, EngineError> {
        let Some(found) = self.find(self.path).await? else {
            return Ok(None);
        };
        if found.file_mode & LINK == 0 {
            judge(found.file_mode, found.size).map_err(|why| self.refusal(why))?;
            return Ok(None);
        }
        let target = found.link_target;
        let Some(found) = self.find(&target).await? else {
            return Err(self.refusal("a link to nothing"));
        };
        judge(found.file_mode, found.size).map_err(|why| self.refusal(why))?;
        Ok(Some(target))
    }

    async fn find(&self, path: &str) -> Result<Option<PathStatResponse>, EngineError> {
        let found = self.stager.stat(path).await;
        found.map_err(|mut error| {
            if error.kind == EngineErrorKind::Internal {
                // The answer says nothing but that the path cannot be followed.
                return self.refusal("a link that cannot be followed");
            }
            self.subject.clone_into(&mut error.subject);
            error
        })
    }
}

/// Why what has this mode cannot have lists in it.
const fn judge_folder(mode: u32) -> Result<(), &'static str> {
    if mode & FOLDER == 0 {
        return Err("no folder of its own");
    }
    Ok(())
}

/// Why what has this mode and size is no list.
fn judge(mode: u32, size: i64) -> Result<(), &'static str> {
    let is = |kind: u32| mode & kind != 0;
    if is(PIPE) {
        return Err("a named pipe");
    }
    if is(SOCKET) {
        return Err("a socket");
    }
    if is(DEVICE | CHARACTER_DEVICE) {
        return Err("a device");
    }
    if is(FOLDER) {
        return Err("a folder");
    }
    if is(LINK | UNKNOWN) {
        return Err("no file");
    }
    match u64::try_from(size) {
        Ok(size) if size <= LIMIT => Ok(()),
        _ => Err("larger than 1 MiB"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_in_a_folder_and_not_where_a_link_leads() {
        assert_eq!(judge_folder(FOLDER | 0o755), Ok(()));
        for mode in [LINK | 0o777, PIPE, SOCKET, DEVICE, UNKNOWN, 0o644] {
            assert!(judge_folder(mode).is_err(), "{mode:o}");
        }
    }

    #[test]
    fn only_a_file_of_sensible_size_is_a_list() {
        assert_eq!(judge(0o644, 0), Ok(()));
        assert_eq!(judge(0o4755, 1 << 20), Ok(()));
        for (mode, size) in [
            (0o644, (1 << 20) + 1),
            (0o644, -1),
            (FOLDER | 0o755, 4096),
            (PIPE, 0),
            (SOCKET, 0),
            (DEVICE, 0),
            (DEVICE | CHARACTER_DEVICE, 0),
            (LINK, 1),
            (UNKNOWN, 0),
        ] {
            assert!(judge(mode, size).is_err(), "{mode:o} {size}");
        }
    }
}
