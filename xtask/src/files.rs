//! Files that suites write, and what runs of swe-forge leave in theirs.

use std::fs;
use std::path::{Path, PathBuf};

use crate::shell::Failure;

/// The phases of an attempt, which name their logs.
const PHASES: [&str; 3] = ["setup", "solve", "verify"];

/// What went wrong with a file.
pub(crate) fn at(path: &Path, error: &std::io::Error) -> Failure {
    Failure::new(format!("{}: {error}", path.display()))
}

/// Writes a file and the folders above it.
pub(crate) fn write(path: &Path, text: &str) -> Result<(), Failure> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(|error| at(folder, &error))?;
    }
    fs::write(path, text).map_err(|error| at(path, &error))
}

/// The one folder below `out`.
pub(crate) fn run_folder(out: &Path) -> Option<PathBuf> {
    let mut entries = fs::read_dir(out).ok()?;
    entries.find_map(|entry| Some(entry.ok()?.path()).filter(|path| path.is_dir()))
}

/// The folders of the attempts of the run below `out`; none while there is no run.
pub(crate) fn attempts(out: &Path) -> Vec<PathBuf> {
    let entries = run_folder(out).and_then(|run| fs::read_dir(run.join("attempts")).ok());
    let entries = entries.into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

/// Whether a word is in the log of any phase of any attempt.
pub(crate) fn has_said(out: &Path, word: &str) -> bool {
    attempts(out).iter().any(|attempt| {
        PHASES
            .iter()
            .any(|phase| says(&attempt.join(format!("{phase}.log")), word))
    })
}

/// Whether a word is in a log.
pub(crate) fn says(log: &Path, word: &str) -> bool {
    // Bytes: a program may be in the middle of a character.
    fs::read(log).is_ok_and(|text| String::from_utf8_lossy(&text).contains(word))
}
