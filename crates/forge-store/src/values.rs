//! Values of the core vocabulary as SQLite keeps them, and back.

use std::error::Error;
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use forge_core::{ResourceUsage, SandboxId};
use jiff::Timestamp;
use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, Type, Value, ValueRef};
use rusqlite::{Result, Row};
use serde::Serialize;
use serde::de::value::{Error as NameError, StrDeserializer};
use serde::de::{DeserializeOwned, IntoDeserializer};

/// A kept value that this version does not know.
pub(crate) fn unreadable(error: impl Into<Box<dyn Error + Send + Sync>>) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(0, Type::Text, error.into())
}

/// A value that cannot be kept.
fn unfit(error: impl Into<Box<dyn Error + Send + Sync>>) -> rusqlite::Error {
    rusqlite::Error::ToSqlConversionFailure(error.into())
}

/// An instant, as nanoseconds since 1970.
pub(crate) fn instant(instant: Timestamp) -> Result<i64> {
    i64::try_from(instant.as_nanosecond())
        .map_err(|_| unfit(format!("{instant} is outside of the years 1678 to 2262")))
}

/// A number of bytes or the like.
pub(crate) fn count(count: u64) -> Result<i64> {
    i64::try_from(count).map_err(|_| unfit(format!("{count} is too large")))
}

/// A duration, as milliseconds.
pub(crate) fn milliseconds(duration: Duration) -> Result<i64> {
    i64::try_from(duration.as_millis()).map_err(|_| unfit(format!("{duration:?} is too long")))
}

/// A path, as text when it is UTF-8, else as its bytes.
pub(crate) fn path(path: &Path) -> Value {
    match path.to_str() {
        Some(text) => Value::Text(text.to_owned()),
        None => Value::Blob(path.as_os_str().as_bytes().to_vec()),
    }
}

/// A structure, as JSON.
pub(crate) fn json(value: &impl Serialize) -> Result<String> {
    serde_json::to_string(value).map_err(unfit)
}

/// Counters, as JSON; JSON has no way to write a number that is not finite.
pub(crate) fn usage(usage: &ResourceUsage) -> Result<String> {
    if usage.cpu_seconds.is_finite() {
        json(usage)
    } else {
        Err(unfit(format!("{} is no CPU time", usage.cpu_seconds)))
    }
}

/// A column that holds an instant.
#[derive(Debug)]
pub(crate) struct Instant(pub(crate) Timestamp);

impl FromSql for Instant {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        Timestamp::from_nanosecond(i128::from(value.as_i64()?))
            .map(Self)
            .map_err(FromSqlError::other)
    }
}

/// A column that holds a count.
#[derive(Debug)]
pub(crate) struct Count(pub(crate) u64);

impl FromSql for Count {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        let number = value.as_i64()?;
        u64::try_from(number)
            .map(Self)
            .map_err(|_| FromSqlError::OutOfRange(number))
    }
}

/// A column that holds a path.
#[derive(Debug)]
pub(crate) struct FilePath(pub(crate) PathBuf);

impl FromSql for FilePath {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        let bytes = value.as_bytes()?.to_vec();
        Ok(Self(OsString::from_vec(bytes).into()))
    }
}

/// A column that holds the id of an attempt.
#[derive(Debug)]
pub(crate) struct PublicId(pub(crate) SandboxId);

impl FromSql for PublicId {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        SandboxId::new(value.as_str()?)
            .map(Self)
            .map_err(FromSqlError::other)
    }
}

/// A column that holds a name: of a state, a reason, a task, a run, …
#[derive(Debug)]
pub(crate) struct Name<T>(pub(crate) T);

impl<T: DeserializeOwned> FromSql for Name<T> {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        let text: StrDeserializer<'_, NameError> = value.as_str()?.into_deserializer();
        T::deserialize(text).map(Self).map_err(FromSqlError::other)
    }
}

/// A column that holds a structure.
#[derive(Debug)]
pub(crate) struct Json<T>(pub(crate) T);

impl<T: DeserializeOwned> FromSql for Json<T> {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        serde_json::from_str(value.as_str()?)
            .map(Self)
            .map_err(FromSqlError::other)
    }
}

/// The name in a column.
pub(crate) fn name<T: DeserializeOwned>(row: &Row<'_>, column: &str) -> Result<T> {
    Ok(row.get::<_, Name<T>>(column)?.0)
}

/// The name in a column that may be empty.
pub(crate) fn optional_name<T: DeserializeOwned>(row: &Row<'_>, column: &str) -> Result<Option<T>> {
    Ok(row.get::<_, Option<Name<T>>>(column)?.map(|name| name.0))
}

/// The instant in a column.
pub(crate) fn at(row: &Row<'_>, column: &str) -> Result<Timestamp> {
    Ok(row.get::<_, Instant>(column)?.0)
}

/// The instant in a column that may be empty.
pub(crate) fn optional_at(row: &Row<'_>, column: &str) -> Result<Option<Timestamp>> {
    Ok(row
        .get::<_, Option<Instant>>(column)?
        .map(|instant| instant.0))
}

/// The path in a column.
pub(crate) fn file(row: &Row<'_>, column: &str) -> Result<PathBuf> {
    Ok(row.get::<_, FilePath>(column)?.0)
}

/// The path in a column that may be empty.
pub(crate) fn optional_file(row: &Row<'_>, column: &str) -> Result<Option<PathBuf>> {
    Ok(row.get::<_, Option<FilePath>>(column)?.map(|path| path.0))
}

/// The structure in a column that may be empty.
pub(crate) fn optional_json<T: DeserializeOwned>(row: &Row<'_>, column: &str) -> Result<Option<T>> {
    Ok(row.get::<_, Option<Json<T>>>(column)?.map(|json| json.0))
}

/// The duration in a column of milliseconds.
pub(crate) fn duration(row: &Row<'_>, column: &str) -> Result<Duration> {
    Ok(Duration::from_millis(row.get::<_, Count>(column)?.0))
}
