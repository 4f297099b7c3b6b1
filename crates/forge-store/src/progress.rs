//! How far attempts are and what they ended with: texts that only the process that drives a run
//! reads, to carry it on.

use forge_core::{RunId, SandboxId};
use rusqlite::{Connection, OptionalExtension};

use crate::attempts::row_id;
use crate::errors::StoreError;
use crate::fault::Outcome;
use crate::runs;
use crate::store::Store;
use crate::values::PublicId;

/// Reports read at a time.
const PAGE: u32 = 256;

/// The row of an attempt, its id and its report.
type Row = (i64, SandboxId, String);

impl Store {
    /// Records how far an attempt is, as JSON that means something to the caller only; a later call
    /// replaces an earlier one.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when there is no such attempt.
    pub async fn set_progress(&self, id: &SandboxId, progress: &str) -> Result<(), StoreError> {
        let (id, progress) = (id.clone(), progress.to_owned());
        self.write("record how far an attempt is", move |transaction| {
            let attempt = row_id(transaction, &id)?;
            transaction
                .prepare_cached(
                    "INSERT INTO progress (attempt_id, progress) VALUES (?1, ?2) \
                     ON CONFLICT (attempt_id) DO UPDATE SET progress = excluded.progress",
                )?
                .execute((attempt, progress))?;
            Ok(())
        })
        .await
    }

    /// How far an attempt is, as it was recorded last; `None` when it never was.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when there is no such attempt.
    pub async fn progress(&self, id: &SandboxId) -> Result<Option<String>, StoreError> {
        let id = id.clone();
        self.read("read how far an attempt is", move |connection| {
            let attempt = row_id(connection, &id)?;
            let progress = connection
                .prepare_cached("SELECT progress FROM progress WHERE attempt_id = ?1")?
                .query_row([attempt], |row| row.get(0))
                .optional()?;
            Ok(progress)
        })
        .await
    }

    /// Records the whole report of an attempt, as JSON that means something to the caller only; a
    /// later call replaces an earlier one. How far the attempt was is forgotten.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when there is no such attempt.
    pub async fn set_report(&self, id: &SandboxId, report: &str) -> Result<(), StoreError> {
        let (id, report) = (id.clone(), report.to_owned());
        self.write("record the report of an attempt", move |transaction| {
            let attempt = row_id(transaction, &id)?;
            transaction
                .prepare_cached(
                    "INSERT INTO reports (attempt_id, report) VALUES (?1, ?2) \
                     ON CONFLICT (attempt_id) DO UPDATE SET report = excluded.report",
                )?
                .execute((attempt, report))?;
            forget(
                transaction,
                "DELETE FROM progress WHERE attempt_id = ?1",
                attempt,
            )
        })
        .await
    }

    /// Forgets how far an attempt was, its phases too, because it begins anew. Its state stays.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when there is no such attempt.
    pub async fn begin_anew(&self, id: &SandboxId) -> Result<(), StoreError> {
        let id = id.clone();
        self.write("record that an attempt begins anew", move |transaction| {
            let attempt = row_id(transaction, &id)?;
            for sql in [
                "DELETE FROM progress WHERE attempt_id = ?1",
                "DELETE FROM phases WHERE attempt_id = ?1",
            ] {
                forget(transaction, sql, attempt)?;
            }
            Ok(())
        })
        .await
    }

    /// The recorded reports of a run, in the order its attempts were recorded.
    ///
    /// They are read page by page, so that the log of the database can be cut meanwhile; a report
    /// recorded meanwhile may be among them or not.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when there is no such run.
    pub async fn reports(&self, run: &RunId) -> Result<Vec<(SandboxId, String)>, StoreError> {
        let run = *run;
        let mut reports = Vec::new();
        let mut after = 0;
        loop {
            let page = self
                .read("read the reports of a run", move |connection| {
                    page(connection, &run, after)
                })
                .await?;
            let Some(last) = page.last() else {
                return Ok(reports);
            };
            after = last.0;
            reports.extend(page.into_iter().map(|(_, id, report)| (id, report)));
        }
    }
}

fn forget(connection: &Connection, sql: &str, attempt: i64) -> Outcome<()> {
    connection.prepare_cached(sql)?.execute([attempt])?;
    Ok(())
}

fn page(connection: &Connection, run: &RunId, after: i64) -> Outcome<Vec<Row>> {
    let run = runs::row_id(connection, run)?;
    let page = connection
        .prepare_cached(
            "SELECT attempts.id, attempts.public_id, reports.report \
             FROM attempts INDEXED BY attempts_in_order \
             CROSS JOIN reports ON reports.attempt_id = attempts.id \
             WHERE attempts.run_id = ?1 AND attempts.id > ?2 ORDER BY attempts.id LIMIT ?3",
        )?
        .query_map((run, after, PAGE), |row| {
            Ok((row.get(0)?, row.get::<_, PublicId>(1)?.0, row.get(2)?))
        })?
        .collect::<Result<_, _>>()?;
    Ok(page)
}
