//! Phases of attempts: written when they begin and end.

use forge_core::{PhaseName, SandboxId};
use jiff::Timestamp;
use rusqlite::{OptionalExtension, Row, named_params};

use crate::attempts::row_id;
use crate::errors::StoreError;
use crate::fault::Fault;
use crate::records::{PhaseEnd, PhaseRecord};
use crate::store::Store;
use crate::values::{self, Count};

impl Store {
    /// Records that a phase begins.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when there is no such attempt; [`StoreError::Constraint`] when the
    /// phase began already.
    pub async fn begin_phase(
        &self,
        id: &SandboxId,
        phase: PhaseName,
        at: Timestamp,
    ) -> Result<(), StoreError> {
        let id = id.clone();
        self.write("record a phase", move |transaction| {
            let attempt = row_id(transaction, &id)?;
            transaction
                .prepare_cached(
                    "INSERT INTO phases (attempt_id, phase, started_at) VALUES (?1, ?2, ?3)",
                )?
                .execute((attempt, phase.as_str(), values::instant(at)?))?;
            Ok(())
        })
        .await
    }

    /// Records how a phase ended.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when there is no such attempt, or its phase never began.
    pub async fn end_phase(
        &self,
        id: &SandboxId,
        phase: PhaseName,
        end: &PhaseEnd,
    ) -> Result<(), StoreError> {
        let (id, end) = (id.clone(), end.clone());
        self.write("record the end of a phase", move |transaction| {
            let attempt = row_id(transaction, &id)?;
            let changed = transaction
                .prepare_cached(
                    "UPDATE phases SET ended_at = :ended_at, exit_text = :exit_text, \
                         exit_code = :exit_code, duration_ms = :duration_ms, \
                         output_bytes = :output_bytes, truncated = :truncated, \
                         log_path = :log_path \
                     WHERE attempt_id = :attempt AND phase = :phase",
                )?
                .execute(named_params! {
                    ":attempt": attempt,
                    ":phase": phase.as_str(),
                    ":ended_at": values::instant(end.at)?,
                    ":exit_text": end.exit_text,
                    ":exit_code": end.exit_code,
                    ":duration_ms": values::milliseconds(end.duration)?,
                    ":output_bytes": values::count(end.output_bytes)?,
                    ":truncated": end.truncated,
                    ":log_path": end.log_path.as_deref().map(values::path),
                })?;
            if changed == 0 {
                return Err(Fault::not_found("phase", format!("{phase} of {id}")));
            }
            Ok(())
        })
        .await
    }

    /// The phase that each of these attempts is in, in their order; `None` where none has begun that
    /// has not ended.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when there is no such attempt.
    pub async fn phases_under_way(
        &self,
        ids: &[SandboxId],
    ) -> Result<Vec<Option<PhaseName>>, StoreError> {
        let ids = ids.to_vec();
        self.read("read where attempts are", move |connection| {
            let mut under_way = connection.prepare_cached(
                "SELECT phase FROM phases WHERE attempt_id = ?1 AND ended_at IS NULL \
                 ORDER BY id LIMIT 1",
            )?;
            ids.iter()
                .map(|id| {
                    let attempt = row_id(connection, id)?;
                    let phase = under_way.query_row([attempt], |row| values::name(row, "phase"));
                    Ok(phase.optional()?)
                })
                .collect()
        })
        .await
    }

    /// The phases of an attempt in the order they began.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    pub async fn phases(&self, id: &SandboxId) -> Result<Vec<PhaseRecord>, StoreError> {
        let id = id.clone();
        self.read("list the phases of an attempt", move |connection| {
            let attempt = row_id(connection, &id)?;
            let phases = connection
                .prepare_cached("SELECT * FROM phases WHERE attempt_id = ?1 ORDER BY id")?
                .query_map([attempt], record)?
                .collect::<Result<_, _>>()?;
            Ok(phases)
        })
        .await
    }
}

fn record(row: &Row<'_>) -> rusqlite::Result<PhaseRecord> {
    let end = match values::optional_at(row, "ended_at")? {
        None => None,
        Some(at) => Some(PhaseEnd {
            at,
            exit_text: row.get("exit_text")?,
            exit_code: row.get("exit_code")?,
            duration: values::duration(row, "duration_ms")?,
            output_bytes: row.get::<_, Count>("output_bytes")?.0,
            truncated: row.get("truncated")?,
            log_path: values::optional_file(row, "log_path")?,
        }),
    };
    Ok(PhaseRecord {
        phase: values::name(row, "phase")?,
        started_at: values::at(row, "started_at")?,
        end,
    })
}
