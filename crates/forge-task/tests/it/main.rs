//! Task directories as authors, generators and attackers write them.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests fail by panicking"
)]

mod config_yaml;
mod directories;
mod hostile;
mod many;
mod schemas;
mod task_json;
mod tools_json;

use std::fs;
use std::path::{Path, PathBuf};

use forge_core::Task;
use forge_task::{Diagnostic, LoadOptions, load_task};
use tempfile::TempDir;

/// A task directory that a test writes.
struct Fixture {
    folder: TempDir,
}

/// A task in which nothing is wrong.
const TASK: &str = r#"{
  "id": "t1",
  "title": "A title",
  "instruction": "Do it.",
  "difficulty": "easy",
  "language": "python",
  "verify": {"command": "sh tests/run.sh"}
}
"#;

impl Fixture {
    /// A directory with nothing but a correct `task.json`.
    fn new() -> Self {
        let fixture = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        fixture.write(".swe-forge/task.json", TASK)
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn at(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    /// Writes a file and the folders that lead to it.
    fn write(self, name: &str, contents: impl AsRef<[u8]>) -> Self {
        let path = self.at(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, contents).unwrap();
        self
    }

    fn task_json(self, contents: impl AsRef<[u8]>) -> Self {
        self.write(".swe-forge/task.json", contents)
    }

    fn load(&self) -> Result<Task, Vec<Diagnostic>> {
        load_task(self.path(), &LoadOptions::default()).map_err(|errors| errors.diagnostics)
    }

    fn task(&self) -> Task {
        self.load()
            .unwrap_or_else(|errors| panic!("{}", self.shown(&errors)))
    }

    /// The diagnostics as a person sees them, without the name of the temporary directory.
    fn report(&self) -> String {
        match self.load() {
            Ok(task) => panic!("{} was loaded", task.id),
            Err(errors) => self.shown(&errors),
        }
    }

    fn shown(&self, errors: &[Diagnostic]) -> String {
        let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
        let folder = self.path().display().to_string();
        lines
            .join("\n")
            .replace(&format!("{folder}/"), "")
            .replace(&folder, "DIR")
    }
}

/// `TASK` with one line replaced or, when none begins with the key, added.
fn task_with(key: &str, line: &str) -> String {
    let start = format!("  \"{key}\"");
    if TASK.lines().any(|each| each.starts_with(&start)) {
        let lines = TASK.lines().map(|each| match each.starts_with(&start) {
            true => line,
            false => each,
        });
        lines.collect::<Vec<_>>().join("\n")
    } else {
        TASK.replacen("{\n", &format!("{{\n{line}\n"), 1)
    }
}
