//! Where a run's files are: everything follows from the output folder, the run and the attempt.

use std::path::{Path, PathBuf};

use forge_core::{PhaseName, RunId, SandboxId};

const ATTEMPTS: &str = "attempts";

/// The folder of one run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunLayout {
    root: PathBuf,
}

impl RunLayout {
    /// The layout of `run` below the folder given by `--out`.
    #[must_use]
    pub fn new(out: &Path, run: &RunId) -> Self {
        Self {
            root: out.join(run.to_string()),
        }
    }

    /// The layout of a run whose own folder is `root`.
    #[must_use]
    pub const fn at(root: PathBuf) -> Self {
        Self { root }
    }

    /// The run's own folder.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// `report.json`.
    #[must_use]
    pub fn report(&self) -> PathBuf {
        self.root.join("report.json")
    }

    /// `waiting.json`: what waits and why, while anything does.
    #[must_use]
    pub fn waiting(&self) -> PathBuf {
        self.root.join("waiting.json")
    }

    /// `retention.json`: for how long results are kept, where tasks want less than the operator.
    #[must_use]
    pub fn retention(&self) -> PathBuf {
        self.root.join("retention.json")
    }

    /// `junit.xml`.
    #[must_use]
    pub fn junit(&self) -> PathBuf {
        self.root.join("junit.xml")
    }

    /// The folder with a folder for each attempt.
    #[must_use]
    pub fn attempts(&self) -> PathBuf {
        self.root.join(ATTEMPTS)
    }

    /// The folder of one attempt, relative to the run's.
    #[must_use]
    pub fn attempt_relative(id: &SandboxId) -> PathBuf {
        Path::new(ATTEMPTS).join(id.as_str())
    }

    /// The folder of one attempt.
    #[must_use]
    pub fn attempt(&self, id: &SandboxId) -> PathBuf {
        self.root.join(Self::attempt_relative(id))
    }

    /// The log of a phase.
    #[must_use]
    pub fn log(&self, id: &SandboxId, phase: PhaseName) -> PathBuf {
        self.attempt(id).join(format!("{phase}.log"))
    }

    /// The log of an attempt's connections, relative to the run's folder.
    #[must_use]
    pub fn connections_relative(id: &SandboxId) -> PathBuf {
        Self::attempt_relative(id).join("connections.jsonl")
    }

    /// The log of an attempt's connections.
    #[must_use]
    pub fn connections(&self, id: &SandboxId) -> PathBuf {
        self.root.join(Self::connections_relative(id))
    }

    /// The folder of an attempt's artifacts.
    #[must_use]
    pub fn artifacts(&self, id: &SandboxId) -> PathBuf {
        self.attempt(id).join("artifacts")
    }
}
