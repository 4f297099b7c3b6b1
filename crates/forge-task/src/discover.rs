//! Finds the task directories that a path on the command line means.

use forge_document::{Diagnostic, Problem};
use std::fs;
use std::path::{Path, PathBuf};

use crate::directory::SPECIFICATION_FOLDER;
use crate::source_tree::unreadable;

/// The task directories at `path`: itself, when it is one, or else those directly in it, by name.
///
/// Files, hidden folders and folders without `.swe-forge` are passed over. Folders that are
/// symbolic links count, so that a selection of tasks can be a folder of links.
///
/// # Errors
/// A diagnostic when there is no such directory or no task in it.
pub fn discover(path: &Path) -> Result<Vec<PathBuf>, Vec<Diagnostic>> {
    let refuse = |problem: Problem| Err(vec![problem.about(path)]);
    match fs::metadata(path) {
        Err(error) => return refuse(unreadable(&error)),
        Ok(metadata) if !metadata.is_dir() => {
            return refuse(
                Problem::new("it is a file")
                    .expecting("a task directory or a folder of them")
                    .hint("give the directory that holds .swe-forge"),
            );
        }
        Ok(_) => {}
    }
    if is_task(path) {
        return Ok(vec![path.to_owned()]);
    }
    // The commonest slip: pointing at the specification instead of the task.
    if path
        .file_name()
        .is_some_and(|name| name == SPECIFICATION_FOLDER)
    {
        return refuse(
            Problem::new("it is the specification of a task")
                .expecting("a task directory or a folder of them")
                .hint("give the directory around it"),
        );
    }
    let entries = match fs::read_dir(path).and_then(Iterator::collect::<Result<Vec<_>, _>>) {
        Ok(entries) => entries,
        Err(error) => return refuse(unreadable(&error)),
    };
    let mut tasks: Vec<PathBuf> = entries
        .into_iter()
        .filter(|entry| !entry.file_name().as_encoded_bytes().starts_with(b"."))
        .map(|entry| entry.path())
        .filter(|candidate| candidate.is_dir() && is_task(candidate))
        .collect();
    tasks.sort();
    if tasks.is_empty() {
        return refuse(
            Problem::new("there is no task in it")
                .expecting("a task directory or a folder of them")
                .hint("a task is a directory with .swe-forge/task.json; it may be one level down"),
        );
    }
    Ok(tasks)
}

/// Anything of that name counts: when it is no real folder, loading says so.
fn is_task(path: &Path) -> bool {
    fs::symlink_metadata(path.join(SPECIFICATION_FOLDER)).is_ok()
}
