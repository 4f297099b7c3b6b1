//! What can go wrong while a base image is made, and what a person can do about it.

use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;

use forge_engine::EngineError;

use crate::debian::failure::FailureCause;
use crate::recipe::BaseImage;
use crate::version::Requirement;

/// A base image could not be looked at or made.
#[derive(Debug, thiserror::Error)]
pub enum ImagesError {
    /// The engine refused or failed.
    #[error("the engine could not handle the image {image}")]
    Engine {
        /// Which image.
        image: BaseImage,
        /// What the engine said.
        #[source]
        source: EngineError,
    },

    /// The registry route was asked for, and an image it starts from cannot be had.
    #[error("{image} starts from {base}, which no registry offers")]
    BaseUnavailable {
        /// Which image.
        image: BaseImage,
        /// What its Dockerfile starts from.
        base: String,
    },

    /// A program is not installed.
    #[error("the program '{program}' was not found")]
    ProgramMissing {
        /// Its name.
        program: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },

    /// A program ran and failed.
    #[error("{program} failed ({status}); its last lines were:\n{}", .last_lines.join("\n"))]
    ProgramFailed {
        /// Its name.
        program: &'static str,
        /// How it ended.
        status: ExitStatus,
        /// Why, as far as its output tells.
        cause: FailureCause,
        /// The end of its output.
        last_lines: Vec<String>,
    },

    /// The machine's apt configuration names no Debian mirror.
    #[error("the apt configuration of this machine names no Debian mirror")]
    NoMirror,

    /// A tool of the finished root file system is not what the image promises.
    #[error("{image} promises {tool} {requirement}, the mirror offers {found}")]
    WrongVersion {
        /// Which image.
        image: BaseImage,
        /// Which tool.
        tool: &'static str,
        /// What is promised.
        requirement: Requirement,
        /// What was installed; `nothing` when the package is not there.
        found: String,
    },

    /// A file or pipe of ours.
    #[error("could not {action} {}", .path.display())]
    Io {
        /// What was attempted.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

impl ImagesError {
    /// What a person can do about it, where something can be said.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Engine { source, .. } => source.hint(),
            Self::BaseUnavailable { .. } => Some(
                "load the image into the engine first, or make it from Debian packages instead",
            ),
            Self::ProgramMissing {
                program: "mmdebstrap",
                ..
            } => Some(
                "install the package mmdebstrap, or let the engine reach a registry that has the \
                 official images",
            ),
            Self::ProgramMissing { .. } => Some(
                "base images are made from packages on Debian and its relatives only; elsewhere, \
                 let the engine reach a registry that has the official images",
            ),
            Self::ProgramFailed { cause, .. } => cause.hint(),
            Self::NoMirror => Some("name a Debian mirror and its keyring in the settings"),
            Self::WrongVersion { .. } => Some("use a mirror with the suite's present packages"),
            Self::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
                FailureCause::NoSpace.hint()
            }
            Self::Io { .. } => None,
        }
    }

    /// Turns the engine's error on `image` into one of ours.
    pub(crate) fn engine(image: BaseImage) -> impl FnOnce(EngineError) -> Self {
        move |source| Self::Engine { image, source }
    }

    /// Turns an error of the system on `path` into one of ours.
    pub(crate) fn io(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io {
            action,
            path: path.into(),
            source,
        }
    }

    /// Turns a failure to start `program` into one of ours.
    pub(crate) fn start(program: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| match source.kind() {
            io::ErrorKind::NotFound => Self::ProgramMissing { program, source },
            _ => Self::Io {
                action: "start",
                path: program.into(),
                source,
            },
        }
    }
}
