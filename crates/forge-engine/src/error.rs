//! The one error type that crosses the boundary. Its kind alone decides retry and exit code.

use std::fmt;

/// What went wrong, as a closed set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EngineErrorKind {
    /// The object or image does not exist.
    NotFound,
    /// It exists with another specification, or is in use.
    Conflict,
    /// The engine refuses the specification.
    Rejected,
    /// This engine cannot do it.
    Unsupported,
    /// The engine does not answer.
    Unavailable,
    /// The engine's machine has run out of something.
    Exhausted,
    /// What a task made is larger than its limits allow.
    Oversized,
    /// It took too long.
    Deadline,
    /// The caller may not.
    Denied,
    /// What came back breaks a protocol.
    Corrupt,
    /// The sandbox is gone or its channel is broken for good.
    Lost,
    /// Anything else the engine reports as its own fault.
    Internal,
}

/// Which operation failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Finding or asking the engine.
    Describe,
    /// Making an image runnable.
    PrepareImage,
    /// Making a workspace.
    CreateWorkspace,
    /// Making a sandbox.
    Create,
    /// Connecting to a sandbox.
    Open,
    /// Listing objects.
    List,
    /// Removing objects.
    Destroy,
    /// Running a command.
    Exec,
    /// Moving files in.
    Put,
    /// Moving files out.
    Get,
    /// Ending processes.
    Kill,
    /// Reading counters.
    Usage,
    /// Asking how a sandbox is.
    Health,
    /// Base images: list, import, build, remove.
    Images,
    /// Setting and watching what a sandbox may reach.
    Network,
    /// Keeping what setup changed.
    Snapshot,
    /// Removing what all sandboxes share.
    Close,
    /// Being told what happens.
    Watch,
}

impl fmt::Display for Operation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Describe => "ask the engine",
            Self::PrepareImage => "prepare image",
            Self::CreateWorkspace => "create workspace",
            Self::Create => "create sandbox",
            Self::Open => "connect to sandbox",
            Self::List => "list objects",
            Self::Destroy => "remove",
            Self::Exec => "run a command in",
            Self::Put => "copy files into",
            Self::Get => "copy files out of",
            Self::Kill => "end the processes of",
            Self::Usage => "read the counters of",
            Self::Health => "ask for the health of",
            Self::Images => "manage image",
            Self::Network => "control the network of",
            Self::Snapshot => "keep the changes of",
            Self::Close => "close the engine",
            Self::Watch => "watch the engine",
        })
    }
}

/// A failed engine operation.
#[derive(Debug, thiserror::Error)]
#[error("failed to {operation}{}: {message}", spaced(subject))]
pub struct EngineError {
    /// What went wrong.
    pub kind: EngineErrorKind,
    /// What was attempted.
    pub operation: Operation,
    /// On which object; empty for the engine itself.
    pub subject: String,
    /// What the engine said, or what is known.
    pub message: String,
    /// The underlying error, where there is one.
    #[source]
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// The engine itself has no name to be shown.
fn spaced(subject: &str) -> String {
    if subject.is_empty() {
        String::new()
    } else {
        format!(" {subject}")
    }
}

impl EngineError {
    /// An error without an underlying one.
    #[must_use]
    pub fn new(
        kind: EngineErrorKind,
        operation: Operation,
        subject: impl Into<String>,
        message: impl Into<String>,
    ) -> Self {
        Self {
            kind,
            operation,
            subject: subject.into(),
            message: message.into(),
            source: None,
        }
    }

    /// This error with the one underneath.
    #[must_use]
    pub fn with_source(
        mut self,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        self.source = Some(source.into());
        self
    }

    /// What a person can do about it, where something general can be said.
    #[must_use]
    pub const fn hint(&self) -> Option<&'static str> {
        match self.kind {
            EngineErrorKind::Unavailable => {
                Some("is the engine running? `swe-forge doctor` says what was tried")
            }
            EngineErrorKind::Denied => Some("add your user to the engine's group, or run as root"),
            EngineErrorKind::Exhausted => Some(
                "free disk or memory on the engine's machine; `swe-forge gc` removes leftovers",
            ),
            _ => None,
        }
    }
}
