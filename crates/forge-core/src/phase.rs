//! The phases of a task.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One phase of a task, in the order they run.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum PhaseName {
    /// Prepares the workspace; bounded together with solve.
    Setup,
    /// The agent's turn.
    Solve,
    /// The tests' turn, in a fresh container unless the task says otherwise.
    Verify,
}

impl PhaseName {
    /// All phases in order.
    pub const ALL: [Self; 3] = [Self::Setup, Self::Solve, Self::Verify];

    /// The name used in files and reports.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Setup => "setup",
            Self::Solve => "solve",
            Self::Verify => "verify",
        }
    }
}

impl fmt::Display for PhaseName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.as_str())
    }
}

impl FromStr for PhaseName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|phase| phase.as_str() == text)
            .ok_or_else(|| format!("'{text}' is not a phase: setup, solve or verify"))
    }
}
