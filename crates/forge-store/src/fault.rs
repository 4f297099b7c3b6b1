//! From what SQLite says to what callers are told.

use std::path::Path;

use rusqlite::ErrorCode;

use crate::errors::StoreError;

/// Why a job on a connection failed, before it is known where and during what.
#[derive(Debug)]
pub(crate) enum Fault {
    /// SQLite, or the conversion of a value, failed.
    Sqlite(rusqlite::Error),
    /// Already in the caller's terms.
    Known(StoreError),
}

/// What jobs on a connection return.
pub(crate) type Outcome<T> = Result<T, Fault>;

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Self {
        Self::Known(error)
    }
}

impl Fault {
    /// Nothing called `name` is recorded.
    pub(crate) fn not_found(what: &'static str, name: impl ToString) -> Self {
        Self::Known(StoreError::NotFound {
            what,
            name: name.to_string(),
        })
    }

    /// Whether another connection is in the way.
    pub(crate) fn is_busy(&self) -> bool {
        matches!(self, Self::Sqlite(error) if code(error).is_some_and(is_busy))
    }

    /// Whether the file, or one that SQLite keeps beside it, could not be opened or made.
    pub(crate) fn is_no_access(&self) -> bool {
        let no_access = |code| matches!(code, ErrorCode::CannotOpen | ErrorCode::ReadOnly);
        matches!(self, Self::Sqlite(error) if code(error).is_some_and(no_access))
    }

    /// The error for callers: `action` on the database at `path` failed.
    pub(crate) fn during(self, action: &'static str, path: &Path) -> StoreError {
        match self {
            Self::Known(error) => error,
            Self::Sqlite(source) => classify(source, action, path),
        }
    }
}

const fn is_busy(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked | ErrorCode::FileLockingProtocolFailed
    )
}

fn code(error: &rusqlite::Error) -> Option<ErrorCode> {
    match error {
        rusqlite::Error::SqlInputError { error, .. } => Some(error.code),
        _ => error.sqlite_error_code(),
    }
}

fn classify(source: rusqlite::Error, action: &'static str, path: &Path) -> StoreError {
    let path = path.to_owned();
    let Some(code) = code(&source) else {
        return match source {
            rusqlite::Error::ToSqlConversionFailure(_) => StoreError::Value { action, source },
            rusqlite::Error::FromSqlConversionFailure(..)
            | rusqlite::Error::IntegralValueOutOfRange(..)
            | rusqlite::Error::InvalidColumnType(..)
            | rusqlite::Error::Utf8Error(..) => StoreError::Unreadable {
                path,
                action,
                source,
            },
            _ => StoreError::Internal {
                path,
                action,
                source,
            },
        };
    };
    match code {
        _ if is_busy(code) => StoreError::Busy {
            path,
            action,
            source,
        },
        ErrorCode::DiskFull => StoreError::Full {
            path,
            action,
            source,
        },
        ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase => StoreError::Corrupt {
            path,
            action,
            source,
        },
        ErrorCode::ConstraintViolation => StoreError::Constraint { action, source },
        ErrorCode::TooBig => StoreError::Value { action, source },
        ErrorCode::SystemIoFailure
        | ErrorCode::CannotOpen
        | ErrorCode::ReadOnly
        | ErrorCode::PermissionDenied
        | ErrorCode::NoLargeFileSupport => StoreError::Io {
            path,
            action,
            source: source.into(),
        },
        _ => StoreError::Internal {
            path,
            action,
            source,
        },
    }
}
