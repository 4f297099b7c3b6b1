//! The four network levels.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a phase of a task may reach, weakest reach first.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    JsonSchema,
    Default,
)]
#[serde(rename_all = "snake_case")]
pub enum NetworkLevel {
    /// Nothing but the sandbox's own loopback.
    #[default]
    Isolated,
    /// Package registries of the task's language.
    PackageOnly,
    /// The hosts of the task's allow-list.
    LimitedWeb,
    /// Any public host over TCP.
    FullWeb,
}

impl NetworkLevel {
    /// All levels, weakest reach first.
    pub const ALL: [Self; 4] = [
        Self::Isolated,
        Self::PackageOnly,
        Self::LimitedWeb,
        Self::FullWeb,
    ];

    /// The name used in files.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Isolated => "isolated",
            Self::PackageOnly => "package_only",
            Self::LimitedWeb => "limited_web",
            Self::FullWeb => "full_web",
        }
    }
}

impl fmt::Display for NetworkLevel {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.as_str())
    }
}
