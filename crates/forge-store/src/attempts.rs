//! Attempts: written when they are accepted, and as more is learnt about them.

use std::path::Path;
use std::slice;

use forge_core::{Attempt, Attestation, ResourceUsage, SandboxId, State};
use jiff::Timestamp;
use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, Row, named_params};

use crate::errors::StoreError;
use crate::fault::{Fault, Outcome};
use crate::records::{AttemptRecord, NewAttempt};
use crate::store::Store;
use crate::values::{self, PublicId};
use crate::{runs, states};

impl Store {
    /// Records an attempt that is accepted, as `PENDING`.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when its run is not recorded; [`StoreError::Constraint`] when its
    /// id, or its run, task, attempt and repetition together, are recorded already.
    pub async fn add_attempt(&self, attempt: &NewAttempt) -> Result<(), StoreError> {
        self.add_attempts(slice::from_ref(attempt)).await
    }

    /// Records attempts that are accepted, as `PENDING`, all or none.
    ///
    /// # Errors
    /// As [`Store::add_attempt`].
    pub async fn add_attempts(&self, attempts: &[NewAttempt]) -> Result<(), StoreError> {
        let attempts = attempts.to_vec();
        self.write("record attempts", move |transaction| {
            attempts
                .iter()
                .try_for_each(|attempt| insert(transaction, attempt))
        })
        .await
    }

    /// Records which image the engine took.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    pub async fn set_image_digest(&self, id: &SandboxId, digest: &str) -> Result<(), StoreError> {
        let digest = Ok(Value::Text(digest.to_owned()));
        self.set("record an image digest", id, "image_digest", digest)
            .await
    }

    /// Records what an attempt used; a later call replaces an earlier one.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]; [`StoreError::Value`] when the CPU time is no finite number.
    pub async fn set_usage(&self, id: &SandboxId, usage: &ResourceUsage) -> Result<(), StoreError> {
        let usage = values::usage(usage).map(Value::Text);
        self.set("record what an attempt used", id, "usage", usage)
            .await
    }

    /// Records what a sandbox said about its confinement.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    pub async fn set_attestation(
        &self,
        id: &SandboxId,
        attestation: &Attestation,
    ) -> Result<(), StoreError> {
        let attestation = values::json(attestation).map(Value::Text);
        self.set("record an attestation", id, "attestation", attestation)
            .await
    }

    /// Records where the report of an attempt is.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    pub async fn set_report_path(&self, id: &SandboxId, path: &Path) -> Result<(), StoreError> {
        let path = Ok(values::path(path));
        self.set("record the place of a report", id, "report_path", path)
            .await
    }

    /// Records that everything made for an attempt is gone.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    pub async fn cleanup_ended(&self, id: &SandboxId, at: Timestamp) -> Result<(), StoreError> {
        let at = values::instant(at).map(Value::Integer);
        self.set("record the end of clean-up", id, "cleanup_ended_at", at)
            .await
    }

    /// The attempt with exactly this id.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    pub async fn attempt(&self, id: &SandboxId) -> Result<AttemptRecord, StoreError> {
        let id = id.clone();
        self.read("read an attempt", move |connection| {
            let row = row_id(connection, &id)?;
            by_row(connection, row)
        })
        .await
    }

    /// `column` is always one of the literals above.
    async fn set(
        &self,
        action: &'static str,
        id: &SandboxId,
        column: &'static str,
        value: rusqlite::Result<Value>,
    ) -> Result<(), StoreError> {
        let id = id.clone();
        self.write(action, move |transaction| {
            let changed = transaction
                .prepare_cached(&format!(
                    "UPDATE attempts SET {column} = ?2 WHERE public_id = ?1"
                ))?
                .execute((id.as_str(), value?))?;
            if changed == 0 {
                return Err(Fault::not_found("attempt", id));
            }
            Ok(())
        })
        .await
    }
}

fn insert(connection: &Connection, attempt: &NewAttempt) -> Outcome<()> {
    let run = runs::row_id(connection, &attempt.run)?;
    connection
        .prepare_cached(
            "INSERT INTO attempts (public_id, run_id, task_id, attempt, repetition, title, \
                                   difficulty, image, state, created_at) \
             VALUES (:public_id, :run_id, :task_id, :attempt, :repetition, :title, \
                     :difficulty, :image, :state, :created_at)",
        )?
        .execute(named_params! {
            ":public_id": attempt.id.as_str(),
            ":run_id": run,
            ":task_id": attempt.task.as_str(),
            ":attempt": attempt.attempt.0,
            ":repetition": attempt.repetition,
            ":title": attempt.title,
            ":difficulty": attempt.difficulty.as_str(),
            ":image": attempt.image,
            ":state": State::Pending.name().as_str(),
            ":created_at": values::instant(attempt.created_at)?,
        })?;
    Ok(())
}

/// The row of an attempt.
pub(crate) fn row_id(connection: &Connection, id: &SandboxId) -> Outcome<i64> {
    connection
        .prepare_cached("SELECT id FROM attempts WHERE public_id = ?1")?
        .query_row([id.as_str()], |row| row.get(0))
        .optional()?
        .ok_or_else(|| Fault::not_found("attempt", id))
}

/// The attempt in a row that exists.
pub(crate) fn by_row(connection: &Connection, row: i64) -> Outcome<AttemptRecord> {
    let attempt = connection
        .prepare_cached(
            "SELECT attempts.*, runs.uuid AS run FROM attempts \
             JOIN runs ON runs.id = attempts.run_id WHERE attempts.id = ?1",
        )?
        .query_row([row], record)?;
    Ok(attempt)
}

/// An attempt from the columns of its row and, as `run`, the id of its run.
pub(crate) fn record(row: &Row<'_>) -> rusqlite::Result<AttemptRecord> {
    Ok(AttemptRecord {
        id: row.get::<_, PublicId>("public_id")?.0,
        run: values::name(row, "run")?,
        task: values::name(row, "task_id")?,
        attempt: Attempt(row.get("attempt")?),
        repetition: row.get("repetition")?,
        title: row.get("title")?,
        difficulty: values::name(row, "difficulty")?,
        image: row.get("image")?,
        image_digest: row.get("image_digest")?,
        state: states::read(row)?,
        created_at: values::at(row, "created_at")?,
        started_at: values::optional_at(row, "started_at")?,
        ended_at: values::optional_at(row, "ended_at")?,
        cleanup_ended_at: values::optional_at(row, "cleanup_ended_at")?,
        usage: values::optional_json(row, "usage")?,
        attestation: values::optional_json(row, "attestation")?,
        report_path: values::optional_file(row, "report_path")?,
    })
}
