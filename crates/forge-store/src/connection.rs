//! Opening the database file: folders, permissions, journal mode.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rusqlite::{Connection, MAIN_DB, OpenFlags, ffi};

use crate::errors::StoreError;
use crate::fault::{Fault, Outcome};
use crate::schema;

/// How long a call waits for another process before it is [`StoreError::Busy`]. Transactions take
/// well under a millisecond, so this is thousands of them.
pub(crate) const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// The log is cut back to this after a checkpoint, so that one large deletion leaves no large file.
const JOURNAL_SIZE_LIMIT: u32 = 16 * 1024 * 1024;

/// The smallest page of a database, which holds its header.
const HEADER_BYTES: u64 = 512;

const OPEN: &str = "open the record";

/// Closing any descriptor of a file drops every POSIX lock that the process holds on it, those of
/// SQLite too. So a file is only ever opened outside of SQLite to make it, and while one thread
/// does so no other may get as far as opening it through SQLite.
static CREATING: Mutex<()> = Mutex::new(());

/// Opens the database at `path` for writing; makes it, and its folders, when they are missing.
pub(crate) fn open_for_writing(path: &Path) -> Result<Connection, StoreError> {
    create_missing(path)?;
    refuse_remains(path)?;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    prepare(path, flags).map_err(|fault| fault.during(OPEN, path))
}

fn prepare(path: &Path, flags: OpenFlags) -> Outcome<Connection> {
    let mut connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    if connection.is_readonly(MAIN_DB)? {
        // SQLite opens a file that must not be written for reading, and would only say so later.
        let read_only = ffi::Error::new(ffi::SQLITE_READONLY);
        return Err(rusqlite::Error::SqliteFailure(read_only, None).into());
    }
    // Before anything is written: a file that is not ours, or too new, stays as it is.
    schema::check(&connection, path)?;
    enable_write_ahead_log(&connection, path)?;
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    connection
        .pragma_update_and_check(None, "journal_size_limit", JOURNAL_SIZE_LIMIT, |_| Ok(()))?;
    schema::migrate(&mut connection, path, schema::MIGRATIONS)?;
    Ok(connection)
}

/// Opens the database at `path` for queries.
pub(crate) fn open_for_reading(path: &Path) -> Outcome<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    Ok(connection)
}

/// Opens the database at `path` for queries, also where nothing can be written and no writer is.
///
/// A write-ahead log needs its two files beside the database. Where they are missing and cannot be
/// made, nobody has the database open, so SQLite may as well take it for a file that never changes.
pub(crate) fn open_unattended(path: &Path) -> Outcome<Connection> {
    refuse_remains(path)?;
    let checked = |connection: Connection| -> Outcome<Connection> {
        schema::check_current(&connection, path)?;
        Ok(connection)
    };
    match open_for_reading(path).and_then(checked) {
        // With a log there would be writes that the file alone does not show.
        Err(fault) if fault.is_no_access() && length(&with_suffix(path, "-wal"))? == 0 => {
            checked(open_unchanging(path)?)
        }
        other => other,
    }
}

pub(crate) fn open_unchanging(path: &Path) -> Outcome<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY
        | OpenFlags::SQLITE_OPEN_NO_MUTEX
        | OpenFlags::SQLITE_OPEN_URI;
    Ok(Connection::open_with_flags(unchanging_uri(path), flags)?)
}

/// Every byte that could mean something in a URI is written as its number.
fn unchanging_uri(path: &Path) -> String {
    let mut uri = String::from("file:");
    for &byte in path.as_os_str().as_bytes() {
        if byte.is_ascii_alphanumeric() || b"/._-".contains(&byte) {
            uri.push(char::from(byte));
        } else {
            uri.push_str(&format!("%{byte:02x}"));
        }
    }
    uri.push_str("?immutable=1");
    uri
}

fn create_missing(path: &Path) -> Result<(), StoreError> {
    if let Some(folder) = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
    {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(|error| refused("make the folder of the record", folder, error))?;
    }
    let _creating = CREATING.lock().unwrap_or_else(PoisonError::into_inner);
    let created = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path);
    match created {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(refused("make the record", path, error)),
    }
}

/// SQLite takes a file too short for its header as a new database, and drops the log of an empty
/// one; both are remains of something, and stay.
fn refuse_remains(path: &Path) -> Result<(), StoreError> {
    // The log first: another process that makes the database now writes the file before the log.
    let log = length(&with_suffix(path, "-wal"))?;
    let file = length(path)?;
    if (1..HEADER_BYTES).contains(&file) || (file == 0 && log > 0) {
        let damaged = ffi::Error::new(ffi::SQLITE_NOTADB);
        let what = format!("the file has {file} bytes, its log {log}");
        return Err(StoreError::Corrupt {
            path: path.to_owned(),
            action: OPEN,
            source: rusqlite::Error::SqliteFailure(damaged, Some(what)),
        });
    }
    Ok(())
}

fn length(path: &Path) -> Result<u64, StoreError> {
    match fs::metadata(path) {
        Ok(metadata) => Ok(metadata.len()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(refused(OPEN, path, error)),
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn refused(action: &'static str, path: &Path, error: io::Error) -> StoreError {
    let path = path.to_owned();
    if matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    ) {
        let full = ffi::Error::new(ffi::SQLITE_FULL);
        return StoreError::Full {
            path,
            action,
            source: rusqlite::Error::SqliteFailure(full, Some(error.to_string())),
        };
    }
    StoreError::Io {
        path,
        action,
        source: error.into(),
    }
}

/// SQLite does not wait for others when it changes the journal mode, so this does.
fn enable_write_ahead_log(connection: &Connection, path: &Path) -> Outcome<()> {
    let deadline = Instant::now() + BUSY_TIMEOUT;
    loop {
        match journal_mode(connection) {
            Ok(mode) if mode == "wal" => return Ok(()),
            Ok(mode) => {
                return Err(Fault::Known(StoreError::Unshareable {
                    path: path.to_owned(),
                    mode,
                }));
            }
            Err(fault) if fault.is_busy() && Instant::now() < deadline => {
                thread::sleep(Duration::from_millis(5));
            }
            Err(fault) => return Err(fault),
        }
    }
}

fn journal_mode(connection: &Connection) -> Outcome<String> {
    let mode = connection.pragma_update_and_check(None, "journal_mode", "wal", |row| row.get(0))?;
    Ok(mode)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_means_itself_in_a_uri() {
        let uri = unchanging_uri(Path::new("/a b/100%?x#y/ä.db"));
        assert_eq!(uri, "file:/a%20b/100%25%3fx%23y/%c3%a4.db?immutable=1");
    }
}
