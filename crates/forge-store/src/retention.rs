//! Runs that are old enough to be forgotten.

use forge_core::RunId;
use jiff::Timestamp;
use rusqlite::{Connection, Row};

use crate::errors::StoreError;
use crate::fault::Outcome;
use crate::records::{DeletedRun, RunFiles, RunRecord};
use crate::runs;
use crate::store::Store;
use crate::values;

/// Whether a run may be forgotten: it ended, and nothing made for it is left. A run that is still
/// needed to find leftovers stays, however old it is.
const FORGETTABLE: &str = "ended_at IS NOT NULL AND id NOT IN (\
    SELECT attempts.run_id FROM objects JOIN attempts ON attempts.id = objects.attempt_id \
    WHERE objects.removed_at IS NULL)";

impl Store {
    /// Runs that ended before `before` and of which no object is left, oldest first.
    ///
    /// # Errors
    /// As [`StoreError`] says about reading.
    pub async fn expired_runs(&self, before: Timestamp) -> Result<Vec<RunRecord>, StoreError> {
        self.read("list old runs", move |connection| {
            expired(connection, before)
        })
        .await
    }

    /// Where the files are of up to `limit` runs that ended and whose files nobody removed, oldest
    /// end first.
    ///
    /// # Errors
    /// As [`StoreError`] says about reading.
    pub async fn runs_with_files(&self, limit: u32) -> Result<Vec<RunFiles>, StoreError> {
        self.read("list runs with files", move |connection| {
            let runs = connection
                .prepare_cached(
                    "SELECT uuid, out_directory, ended_at FROM runs \
                     WHERE ended_at IS NOT NULL AND files_removed_at IS NULL \
                     ORDER BY ended_at, id LIMIT ?1",
                )?
                .query_map([limit], files)?
                .collect::<Result<_, _>>()?;
            Ok(runs)
        })
        .await
    }

    /// Records that the files of a run were removed while its record stays; the first call counts.
    /// Returns whether this was the first.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when there is no such run.
    pub async fn files_removed(&self, run: &RunId, at: Timestamp) -> Result<bool, StoreError> {
        let run = *run;
        self.write(
            "record that the files of a run are gone",
            move |transaction| {
                let id = runs::row_id(transaction, &run)?;
                let changed = transaction
                    .prepare_cached(
                        "UPDATE runs SET files_removed_at = ?2 \
                     WHERE id = ?1 AND files_removed_at IS NULL",
                    )?
                    .execute((id, values::instant(at)?))?;
                Ok(changed > 0)
            },
        )
        .await
    }

    /// Deletes one run with everything recorded about it. For callers that remove its files first,
    /// so that a crash in between leaves a record without files, not files without a record.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]; [`StoreError::RunInUse`] when it has not ended or objects of it
    /// are left.
    pub async fn delete_run(&self, run: &RunId) -> Result<(), StoreError> {
        let run = *run;
        self.write("delete a run", move |transaction| {
            let id = runs::row_id(transaction, &run)?;
            let deleted = transaction
                .prepare_cached(&format!("DELETE FROM runs WHERE id = ?1 AND {FORGETTABLE}"))?
                .execute([id])?;
            if deleted == 0 {
                return Err(StoreError::RunInUse { run }.into());
            }
            Ok(())
        })
        .await
    }

    /// Deletes the runs that [`Store::expired_runs`] lists, all or none, and says where their files
    /// are.
    ///
    /// # Errors
    /// As [`StoreError`] says about writing.
    pub async fn delete_runs_before(
        &self,
        before: Timestamp,
    ) -> Result<Vec<DeletedRun>, StoreError> {
        self.write("delete old runs", move |transaction| {
            let runs = expired(transaction, before)?;
            let mut delete = transaction.prepare_cached("DELETE FROM runs WHERE uuid = ?1")?;
            let mut deleted = Vec::with_capacity(runs.len());
            for run in runs {
                delete.execute([run.id.to_string()])?;
                deleted.push(DeletedRun {
                    id: run.id,
                    out_directory: run.out_directory,
                });
            }
            Ok(deleted)
        })
        .await
    }
}

fn files(row: &Row<'_>) -> rusqlite::Result<RunFiles> {
    Ok(RunFiles {
        run: values::name(row, "uuid")?,
        out_directory: values::file(row, "out_directory")?,
        ended_at: values::at(row, "ended_at")?,
    })
}

fn expired(connection: &Connection, before: Timestamp) -> Outcome<Vec<RunRecord>> {
    let condition = format!("WHERE ended_at < ?1 AND {FORGETTABLE} ORDER BY ended_at, id");
    runs::select(connection, &condition, [values::instant(before)?])
}
