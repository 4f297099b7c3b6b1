//! The verdict of a validation.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What validation found about a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// With nothing done the tests fail, with the solution they pass, every time.
    Valid,
    /// The tests pass with nothing done.
    NopPasses,
    /// The tests fail with the reference solution.
    OracleFails,
    /// The same agent got different results.
    Flaky,
    /// No verdict could be had: setup, image, engine or input at fault.
    Broken,
}

impl Verdict {
    /// The name used in files.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Valid => "valid",
            Self::NopPasses => "nop_passes",
            Self::OracleFails => "oracle_fails",
            Self::Flaky => "flaky",
            Self::Broken => "broken",
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.as_str())
    }
}
