//! The layout of a task directory: which names may stand in it, and what they must be.

use forge_document::{ErrorList, Problem, did_you_mean, quote};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Metadata};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use forge_core::task::{Solution, SourceTree};

use crate::source_tree::{measure, unreadable};

/// The folder that makes a directory a task.
pub const SPECIFICATION_FOLDER: &str = ".swe-forge";
/// The specification of a task, in [`SPECIFICATION_FOLDER`].
pub const TASK_FILE: &str = "task.json";
/// The tools of a task, in [`SPECIFICATION_FOLDER`].
pub const TOOLS_FILE: &str = "tools.json";
/// The execution settings of a task, in [`SPECIFICATION_FOLDER`].
pub const CONFIG_FILE: &str = "config.yaml";
/// Largest file in [`SPECIFICATION_FOLDER`], in bytes.
pub const MAX_SPECIFICATION_BYTES: u64 = 1024 * 1024;

const SOLVE_SCRIPT: &str = "solve.sh";
const SOLUTION_PATCH: &str = "solution.patch";
const TOP_LEVEL: [&str; 4] = [SPECIFICATION_FOLDER, "src", "tests", "solution"];
const SPECIFICATION_FILES: [&str; 3] = [TASK_FILE, TOOLS_FILE, CONFIG_FILE];

/// What is in a task directory.
#[derive(Debug, Default)]
pub(crate) struct Layout {
    pub(crate) task: Option<Vec<u8>>,
    pub(crate) tools: Option<Vec<u8>>,
    pub(crate) config: Option<Vec<u8>>,
    pub(crate) src: Option<SourceTree>,
    pub(crate) tests: Option<SourceTree>,
    pub(crate) solution: Option<Solution>,
}

/// Looks through `directory`, noting what is wrong.
pub(crate) fn inspect(directory: &Path, errors: &mut ErrorList) -> Layout {
    let mut layout = Layout::default();
    let Some(entries) = entries(directory, errors) else {
        return layout;
    };
    let mut has_specification = false;
    for (name, path, metadata) in entries {
        match name.to_str() {
            Some(SPECIFICATION_FOLDER) => {
                has_specification = true;
                if real_folder(&path, &metadata, errors) {
                    read_specification(&path, &mut layout, errors);
                }
            }
            Some("src") => layout.src = tree(&path, &metadata, errors),
            Some("tests") => layout.tests = tree(&path, &metadata, errors),
            Some("solution") => layout.solution = solution(&path, &metadata, errors),
            Some(name) if is_document(name) && !metadata.is_dir() => {}
            _ => errors.push_path(&path, stranger(&name.to_string_lossy())),
        }
    }
    if !has_specification {
        let path = directory.join(SPECIFICATION_FOLDER).join(TASK_FILE);
        errors.push_path(path, missing_specification());
    }
    layout
}

fn missing_specification() -> Problem {
    Problem::new("it is missing")
        .expecting("the specification of the task")
        .hint("every task has one, with id, title, instruction, difficulty, language and verify")
}

type Entry = (OsString, PathBuf, Metadata);

/// The entries of a folder by name, so that mistakes come in the same order every time; `None` when
/// it cannot be read, which has been noted.
fn entries(folder: &Path, errors: &mut ErrorList) -> Option<Vec<Entry>> {
    let read = || -> io::Result<Vec<Entry>> {
        fs::read_dir(folder)?
            .map(|entry| {
                let entry = entry?;
                Ok((entry.file_name(), entry.path(), entry.metadata()?))
            })
            .collect()
    };
    match read() {
        Ok(mut entries) => {
            entries.sort_by(|a, b| a.0.cmp(&b.0));
            Some(entries)
        }
        Err(error) => {
            errors.push_path(folder, unreadable(&error));
            None
        }
    }
}

fn is_document(name: &str) -> bool {
    name.starts_with("README") || name.starts_with("LICENSE")
}

/// What is said about a name that has no place in a task directory.
fn stranger(name: &str) -> Problem {
    let hint = if SPECIFICATION_FILES.contains(&name) {
        format!("move it to {SPECIFICATION_FOLDER}/{name}")
    } else if [SOLVE_SCRIPT, SOLUTION_PATCH].contains(&name) {
        format!("move it to solution/{name}")
    } else {
        did_you_mean(name, TOP_LEVEL)
            .unwrap_or_else(|| "move it into src/ if the task starts from it, or remove it".into())
    };
    Problem::new(format!("{} has no place in a task directory", quote(name)))
        .expecting("only .swe-forge, src, tests, solution, README* and LICENSE*")
        .hint(hint)
}

/// Whether it is a folder by itself; a link would lead out of what was looked at.
fn real_folder(path: &Path, metadata: &Metadata, errors: &mut ErrorList) -> bool {
    if !metadata.is_dir() {
        let found = match metadata.is_symlink() {
            true => "it is a symbolic link",
            false => "it is a file",
        };
        let problem = Problem::new(found)
            .expecting("a folder")
            .hint("put a real folder in its place");
        errors.push_path(path, problem);
    }
    metadata.is_dir()
}

fn tree(path: &Path, metadata: &Metadata, errors: &mut ErrorList) -> Option<SourceTree> {
    real_folder(path, metadata, errors)
        .then(|| measure(path, errors))
        .flatten()
}

fn solution(path: &Path, metadata: &Metadata, errors: &mut ErrorList) -> Option<Solution> {
    let tree = tree(path, metadata, errors)?;
    let holds = |name| fs::symlink_metadata(path.join(name)).is_ok_and(|found| found.is_file());
    let solution = Solution {
        tree,
        has_patch: holds(SOLUTION_PATCH),
        has_script: holds(SOLVE_SCRIPT),
    };
    if !solution.has_patch && !solution.has_script {
        let problem = Problem::new("it holds neither")
            .expecting(format!("{SOLVE_SCRIPT} or {SOLUTION_PATCH}"))
            .hint("add one of them, or remove the folder");
        errors.push_path(path, problem);
    }
    Some(solution)
}

fn read_specification(folder: &Path, layout: &mut Layout, errors: &mut ErrorList) {
    let Some(entries) = entries(folder, errors) else {
        return;
    };
    let mut has_task = false;
    for (name, path, metadata) in entries {
        let slot = match name.to_str() {
            Some(TASK_FILE) => {
                has_task = true;
                &mut layout.task
            }
            Some(TOOLS_FILE) => &mut layout.tools,
            Some(CONFIG_FILE) => &mut layout.config,
            _ => {
                errors.push_path(path, unknown_specification(&name));
                continue;
            }
        };
        match read_small(&path, &metadata) {
            Ok(bytes) => *slot = Some(bytes),
            Err(problem) => errors.push_path(path, problem),
        }
    }
    if !has_task {
        errors.push_path(folder.join(TASK_FILE), missing_specification());
    }
}

fn unknown_specification(name: &OsStr) -> Problem {
    let name = name.to_string_lossy();
    Problem::new(format!("{} has no place in .swe-forge", quote(&name)))
        .expecting("only task.json, tools.json and config.yaml")
        .hint(did_you_mean(&name, SPECIFICATION_FILES).unwrap_or_else(|| "remove it".into()))
}

/// The contents of a regular file of at most [`MAX_SPECIFICATION_BYTES`].
fn read_small(path: &Path, looked_at: &Metadata) -> Result<Vec<u8>, Problem> {
    if !looked_at.is_file() {
        let found = match looked_at.is_symlink() {
            true => "it is a symbolic link",
            false => "it is something else",
        };
        return Err(Problem::new(found)
            .expecting("a regular file")
            .hint("put a copy of the file itself in its place"));
    }
    let mut file = File::open(path).map_err(|error| unreadable(&error))?;
    let opened = file.metadata().map_err(|error| unreadable(&error))?;
    if !is_same(looked_at, &opened) {
        return Err(Problem::new("it was replaced while it was read"));
    }
    let mut bytes = Vec::new();
    file.by_ref()
        .take(MAX_SPECIFICATION_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| unreadable(&error))?;
    match u64::try_from(bytes.len()) {
        Ok(length) if length <= MAX_SPECIFICATION_BYTES => Ok(bytes),
        _ => Err(Problem::new(format!("it has {} bytes", opened.len()))
            .expecting(format!("at most {} MiB", MAX_SPECIFICATION_BYTES >> 20))
            .hint("put what is large into src/ or tests/")),
    }
}

/// Whether the opened file is the one that was looked at, and not what a link put in its place in
/// between leads to.
#[cfg(unix)]
fn is_same(looked_at: &Metadata, opened: &Metadata) -> bool {
    use std::os::unix::fs::MetadataExt;
    (looked_at.dev(), looked_at.ino()) == (opened.dev(), opened.ino())
}

#[cfg(not(unix))]
fn is_same(_: &Metadata, opened: &Metadata) -> bool {
    opened.is_file()
}
