//! A task as it was read: every value is checked, every default is filled in.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::cleanup::CleanupPolicy;
use crate::difficulty::Difficulty;
use crate::egress::AllowedHost;
use crate::id::TaskId;
use crate::limits::Limits;
use crate::network::NetworkLevel;
use crate::phase::PhaseName;
use crate::sandbox::{SpecificationFile, UserId};

/// What a task is written in; chooses its base image when it names none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Language {
    /// Python 3.11.
    Python,
    /// JavaScript or TypeScript on Node 20.
    Javascript,
    /// Rust 1.75 or later.
    Rust,
    /// Go.
    Go,
    /// C.
    C,
    /// C++.
    Cpp,
    /// Shell.
    Shell,
    /// Several of them.
    Multi,
}

impl Language {
    /// All languages.
    pub const ALL: [Self; 8] = [
        Self::Python,
        Self::Javascript,
        Self::Rust,
        Self::Go,
        Self::C,
        Self::Cpp,
        Self::Shell,
        Self::Multi,
    ];

    /// The name used in files.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Python => "python",
            Self::Javascript => "javascript",
            Self::Rust => "rust",
            Self::Go => "go",
            Self::C => "c",
            Self::Cpp => "cpp",
            Self::Shell => "shell",
            Self::Multi => "multi",
        }
    }

    /// The base image of this language.
    #[must_use]
    pub const fn base_image(self) -> &'static str {
        match self {
            Self::Python => "swe-forge/python-base:latest",
            Self::Javascript => "swe-forge/node-base:latest",
            Self::Rust => "swe-forge/rust-base:latest",
            Self::Go | Self::C | Self::Cpp | Self::Shell | Self::Multi => {
                "swe-forge/multi-base:latest"
            }
        }
    }
}

/// Where a task runs: a base image by language, or an image of the operator's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageChoice {
    /// The base image of a language.
    Language(Language),
    /// An image reference as the author wrote it.
    Reference(String),
}

impl ImageChoice {
    /// The reference to look up on an engine.
    #[must_use]
    pub fn reference(&self) -> &str {
        match self {
            Self::Language(language) => language.base_image(),
            Self::Reference(reference) => reference,
        }
    }
}

/// A command of a phase.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CommandLine {
    /// Text for `/bin/sh -c` of the image.
    Shell(String),
    /// Program and arguments, run without a shell.
    Argv(Vec<String>),
}

impl CommandLine {
    /// Program and arguments.
    #[must_use]
    pub fn argv(&self) -> Vec<String> {
        match self {
            Self::Shell(text) => vec!["/bin/sh".into(), "-c".into(), text.clone()],
            Self::Argv(argv) => argv.clone(),
        }
    }
}

impl fmt::Display for CommandLine {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shell(text) => formatter.write_str(text),
            Self::Argv(argv) => formatter.write_str(&argv.join(" ")),
        }
    }
}

/// Which container verification runs in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "lowercase")]
pub enum VerifyContainer {
    /// A new one on the same workspace.
    #[default]
    Fresh,
    /// The one of setup and solve, after every process of it was ended.
    Same,
}

impl VerifyContainer {
    /// Both of them.
    pub const ALL: [Self; 2] = [Self::Fresh, Self::Same];

    /// The name used in files.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Fresh => "fresh",
            Self::Same => "same",
        }
    }
}

/// Network levels of the phases.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NetworkPolicy {
    /// During setup.
    pub setup: NetworkLevel,
    /// During solve.
    pub solve: NetworkLevel,
    /// During verify.
    pub verify: NetworkLevel,
    /// Hosts reachable at `limited_web`, as `host`, `host:port` or `*.suffix`.
    pub allow: Vec<AllowedHost>,
}

impl NetworkPolicy {
    /// The level of `phase`.
    #[must_use]
    pub const fn level(&self, phase: PhaseName) -> NetworkLevel {
        match phase {
            PhaseName::Setup => self.setup,
            PhaseName::Solve => self.solve,
            PhaseName::Verify => self.verify,
        }
    }
}

/// A folder of the task's author that is copied into the sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceTree {
    /// Where it is on the orchestrator's disk.
    pub root: PathBuf,
    /// Files and folders in it.
    pub entries: u64,
    /// Bytes in it.
    pub bytes: u64,
}

/// What the oracle agent applies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Solution {
    /// The folder `solution/`.
    pub tree: SourceTree,
    /// Whether it holds `solution.patch`.
    pub has_patch: bool,
    /// Whether it holds `solve.sh`.
    pub has_script: bool,
}

/// A variable of the environment whose value is a secret of the operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretVariable {
    /// The variable.
    pub variable: String,
    /// The name of the secret in the operator's configuration.
    pub secret: String,
    /// The phases whose commands get it.
    pub phases: Vec<PhaseName>,
}

/// A task, ready to be run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Task {
    /// Its name.
    pub id: TaskId,
    /// Where it was read from, absolute.
    pub directory: PathBuf,
    /// One line about it.
    pub title: String,
    /// What an agent is asked to do.
    pub instruction: String,
    /// How hard it is.
    pub difficulty: Difficulty,
    /// Where it runs.
    pub image: ImageChoice,
    /// Prepares the workspace, if anything does.
    pub setup: Option<CommandLine>,
    /// The author's own solve command, for the command agent.
    pub solve: Option<CommandLine>,
    /// What decides.
    pub verify: CommandLine,
    /// Where verification runs.
    pub verify_container: VerifyContainer,
    /// Labels of the author's.
    pub tags: Vec<String>,
    /// What it may use.
    pub limits: Limits,
    /// What it may reach.
    pub network: NetworkPolicy,
    /// Environment of every command.
    pub env: BTreeMap<String, String>,
    /// Variables whose values the operator keeps.
    pub secrets: Vec<SecretVariable>,
    /// The user its processes run as; chosen by the orchestrator when `None`.
    pub user: Option<UserId>,
    /// Paths below the workspace kept besides `output/`.
    pub artifacts: Vec<String>,
    /// Whether the agent may see the tests.
    pub tests_visible: bool,
    /// What is removed when.
    pub cleanup: CleanupPolicy,
    /// `.swe-forge/`, as it will stand in the sandbox.
    pub specification: Vec<SpecificationFile>,
    /// `src/`, if there is one.
    pub src: Option<SourceTree>,
    /// `tests/`, if there is one.
    pub tests: Option<SourceTree>,
    /// `solution/`, if there is one.
    pub solution: Option<Solution>,
}
