//! The whole program, as far as it goes without an engine: arguments, task files, output, exit
//! codes.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a helper of tests that cannot go on fails the test"
)]

mod arguments;
mod check;
mod doctor;
mod generated;
mod network;
mod record;
mod requests;

use std::fs;
use std::path::{Path, PathBuf};

use assert_cmd::Command;
use serde_json::Value;
use tempfile::TempDir;

/// A home of its own and an engine address at which nobody answers.
pub(crate) struct Home {
    folder: TempDir,
}

impl Home {
    pub(crate) fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The program, in an environment that holds nothing of the caller's.
    pub(crate) fn swe_forge(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_swe-forge"));
        command
            .args(arguments)
            .current_dir(self.path())
            .env_clear()
            .env("HOME", self.path())
            .env("SWE_FORGE_HOME", self.path().join("state"))
            .env("DOCKER_HOST", self.dead_engine());
        command
    }

    pub(crate) fn dead_engine(&self) -> String {
        format!("unix://{}", self.path().join("nobody.sock").display())
    }

    /// Makes a task directory with these contents of `task.json`.
    pub(crate) fn task(&self, folder: &str, specification: &str) -> PathBuf {
        let root = self.path().join(folder);
        fs::create_dir_all(root.join(".swe-forge")).unwrap();
        fs::create_dir_all(root.join("tests")).unwrap();
        fs::write(root.join("tests/run.sh"), "exit 1\n").unwrap();
        fs::write(root.join(".swe-forge/task.json"), specification).unwrap();
        root
    }

    /// Makes a good task of this id.
    pub(crate) fn good_task(&self, id: &str) -> PathBuf {
        let specification = format!(
            r#"{{
                "id": "{id}",
                "title": "A task",
                "instruction": "Do it.",
                "difficulty": "easy",
                "language": "python",
                "verify": {{ "command": "sh tests/run.sh" }}
            }}"#
        );
        self.task(&format!("tasks/{id}"), &specification)
    }
}

/// What a finished program wrote and returned.
pub(crate) struct Ended {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

/// Runs a program to its end.
pub(crate) fn run(mut command: Command) -> Ended {
    let output = command.output().unwrap();
    Ended {
        code: output.status.code().unwrap(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

impl Ended {
    /// Standard output as the one JSON document it must be.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("{error} in:\n{}\n{}", self.stdout, self.stderr))
    }

    #[track_caller]
    pub(crate) fn expect(self, code: i32, in_stderr: &[&str]) -> Self {
        assert_eq!(self.code, code, "\n{}\n{}", self.stdout, self.stderr);
        for text in in_stderr {
            assert!(
                self.stderr.contains(text),
                "{text:?} not in:\n{}",
                self.stderr
            );
        }
        self
    }
}
