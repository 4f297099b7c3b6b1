//! The version of the database's schema, and the way from each to the next.

use std::path::Path;

use forge_core::OwnerId;
use rusqlite::{Connection, OptionalExtension, TransactionBehavior};

use crate::errors::StoreError;
use crate::fault::Outcome;
use crate::values::unreadable;

/// Step `n` leads from version `n` to version `n + 1`. Released steps never change.
pub(crate) const MIGRATIONS: &[&str] = &[
    include_str!("../migrations/0001.sql"),
    include_str!("../migrations/0002.sql"),
    include_str!("../migrations/0003.sql"),
];

/// `PRAGMA application_id` of our files, set by the first migration: "swef".
const APPLICATION_ID: i64 = 0x7377_6566;

/// Refuses what is not ours or newer than us, without writing.
pub(crate) fn check(connection: &Connection, path: &Path) -> Outcome<()> {
    let tables: i64 =
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    let application: i64 =
        connection.pragma_query_value(None, "application_id", |row| row.get(0))?;
    if tables > 0 && application != APPLICATION_ID {
        return Err(StoreError::Foreign {
            path: path.to_owned(),
        }
        .into());
    }
    pending(connection, path, MIGRATIONS).map(|_| ())
}

/// Refuses what cannot be read as it is: what [`check`] refuses, and a schema that is not the
/// latest.
pub(crate) fn check_current(connection: &Connection, path: &Path) -> Outcome<()> {
    check(connection, path)?;
    if pending(connection, path, MIGRATIONS)?.is_empty() {
        return Ok(());
    }
    Err(outdated(path).into())
}

fn outdated(path: &Path) -> StoreError {
    StoreError::Outdated {
        path: path.to_owned(),
    }
}

/// Brings the database to the latest version, in one transaction; others wait meanwhile.
pub(crate) fn migrate(connection: &mut Connection, path: &Path, steps: &[&str]) -> Outcome<()> {
    if pending(connection, path, steps)?.is_empty() {
        return Ok(());
    }
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    // Asked again, because another process may have migrated before the lock was ours.
    for step in pending(&transaction, path, steps)? {
        transaction.execute_batch(step)?;
    }
    transaction.pragma_update(None, "user_version", latest(steps))?;
    transaction.commit()?;
    Ok(())
}

fn pending<'a>(
    connection: &Connection,
    path: &Path,
    steps: &'a [&'a str],
) -> Outcome<&'a [&'a str]> {
    let version: u32 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let done = usize::try_from(version).unwrap_or(usize::MAX);
    match steps.get(done..) {
        Some(pending) => Ok(pending),
        None => Err(StoreError::NewerSchema {
            path: path.to_owned(),
            found: version,
            supported: latest(steps),
        }
        .into()),
    }
}

fn latest(steps: &[&str]) -> u32 {
    u32::try_from(steps.len()).unwrap_or(u32::MAX)
}

/// The owner recorded at the first open; `fresh` becomes it when there is none.
pub(crate) fn owner(connection: &mut Connection, fresh: &OwnerId) -> Outcome<OwnerId> {
    if let Some(owner) = recorded_owner(connection)? {
        return Ok(owner);
    }
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    transaction.execute(
        "INSERT INTO installation (id, owner) VALUES (1, ?1) ON CONFLICT DO NOTHING",
        [fresh.as_str()],
    )?;
    let owner = recorded_owner(&transaction)?;
    transaction.commit()?;
    Ok(owner.unwrap_or_else(|| fresh.clone()))
}

/// The owner recorded at the first open. None is there only when that broke off half-way.
pub(crate) fn known_owner(connection: &Connection, path: &Path) -> Outcome<OwnerId> {
    Ok(recorded_owner(connection)?.ok_or_else(|| outdated(path))?)
}

fn recorded_owner(connection: &Connection) -> Outcome<Option<OwnerId>> {
    let owner = connection
        .query_row("SELECT owner FROM installation WHERE id = 1", [], |row| {
            let text: String = row.get(0)?;
            OwnerId::new(text).map_err(unreadable)
        })
        .optional()?;
    Ok(owner)
}
