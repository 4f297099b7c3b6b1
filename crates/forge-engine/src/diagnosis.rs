//! What can be said about a machine and its engine before anything runs: for `doctor`.

use serde::Serialize;

use crate::engine::EngineDescription;

/// Whether something is as it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FindingStatus {
    /// It is there.
    Ok,
    /// It is missing, and the main job runs without it.
    Missing,
    /// It works, and something about it is not good.
    Warning,
    /// The main job cannot run.
    Error,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What, in a few words.
    pub name: String,
    /// How it is.
    pub status: FindingStatus,
    /// What was seen.
    pub detail: String,
    /// How to mend it, as a command or a sentence.
    pub remedy: Option<String>,
}

/// Everything about an engine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Diagnosis {
    /// The engine, when one answers.
    pub engine: Option<EngineDescription>,
    /// What was looked at, in the order to show.
    pub findings: Vec<Finding>,
}
