use std::fmt;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// Another transaction has changed what this one depends on.
    Conflict,
    /// The savepoint is gone, or belongs to another transaction.
    InvalidSavepoint,
    /// The versions of that time may have been vacuumed.
    TooOld,
    /// That time has not come.
    Future,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Error::Conflict => "conflict with another transaction",
            Error::InvalidSavepoint => "invalid savepoint",
            Error::TooOld => "the time is too long ago",
            Error::Future => "the time is in the future",
        })
    }
}

impl std::error::Error for Error {}
