//! Why a transfer or a removal failed.

use forge_wire::message::TransferError;
use nix::errno::Errno;

use crate::names::{NameError, shown};

/// A failed transfer or removal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Failure {
    /// The kind of failure.
    pub(crate) error: TransferError,
    /// Path and what went wrong, for a person.
    pub(crate) message: String,
}

impl Failure {
    /// A failure with words of its own.
    pub(crate) fn new(error: TransferError, message: impl Into<String>) -> Self {
        Self {
            error,
            message: message.into(),
        }
    }

    /// A failure that is about the file of this name.
    pub(crate) fn about(error: TransferError, name: &[u8], what: impl std::fmt::Display) -> Self {
        Self::new(error, format!("{}: {what}", shown(name)))
    }

    /// The kernel refused something on the file of this name.
    pub(crate) fn kernel(errno: Errno, name: &[u8]) -> Self {
        let error = match errno {
            Errno::ENOENT => TransferError::NotFound,
            // The limit of a single file's size is set to the size of the workspace.
            Errno::ENOSPC | Errno::EDQUOT | Errno::EFBIG => TransferError::NoSpace,
            _ => TransferError::Io,
        };
        Self::about(error, name, errno.desc())
    }

    /// As [`Self::kernel`], for an error of the standard library.
    pub(crate) fn io(error: &std::io::Error, name: &[u8]) -> Self {
        match error.raw_os_error() {
            Some(errno) => Self::kernel(Errno::from_raw(errno), name),
            None => Self::about(TransferError::Io, name, error),
        }
    }

    /// A name is refused.
    pub(crate) fn name(error: NameError, name: &[u8]) -> Self {
        Self::about(TransferError::Malformed, name, error)
    }

    /// The client or the loss of its connection ended the transfer.
    pub(crate) fn cancelled() -> Self {
        Self::new(TransferError::Cancelled, "cancelled")
    }
}
