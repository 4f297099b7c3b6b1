//! Files kept from attempts.

use forge_core::SandboxId;
use rusqlite::Row;

use crate::attempts::row_id;
use crate::errors::StoreError;
use crate::records::ArtifactRecord;
use crate::store::Store;
use crate::values::{self, Count};

impl Store {
    /// Records kept files, all or none. One of the same relative path replaces the earlier one.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when there is no such attempt.
    pub async fn add_artifacts(
        &self,
        id: &SandboxId,
        artifacts: &[ArtifactRecord],
    ) -> Result<(), StoreError> {
        let (id, artifacts) = (id.clone(), artifacts.to_vec());
        self.write("record artifacts", move |transaction| {
            let attempt = row_id(transaction, &id)?;
            let mut insert = transaction.prepare_cached(
                "INSERT INTO artifacts (attempt_id, relative_path, size_bytes, kind, stored_path) \
                 VALUES (?1, ?2, ?3, ?4, ?5) \
                 ON CONFLICT (attempt_id, relative_path) DO UPDATE SET \
                     size_bytes = excluded.size_bytes, kind = excluded.kind, \
                     stored_path = excluded.stored_path",
            )?;
            for artifact in &artifacts {
                insert.execute((
                    attempt,
                    values::path(&artifact.relative_path),
                    values::count(artifact.size_bytes)?,
                    &artifact.kind,
                    values::path(&artifact.stored_path),
                ))?;
            }
            Ok(())
        })
        .await
    }

    /// The kept files of an attempt, by relative path.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    pub async fn artifacts(&self, id: &SandboxId) -> Result<Vec<ArtifactRecord>, StoreError> {
        let id = id.clone();
        self.read("list the artifacts of an attempt", move |connection| {
            let attempt = row_id(connection, &id)?;
            let artifacts = connection
                .prepare_cached(
                    "SELECT * FROM artifacts WHERE attempt_id = ?1 ORDER BY relative_path",
                )?
                .query_map([attempt], record)?
                .collect::<Result<_, _>>()?;
            Ok(artifacts)
        })
        .await
    }
}

fn record(row: &Row<'_>) -> rusqlite::Result<ArtifactRecord> {
    Ok(ArtifactRecord {
        relative_path: values::file(row, "relative_path")?,
        size_bytes: row.get::<_, Count>("size_bytes")?.0,
        kind: row.get("kind")?,
        stored_path: values::file(row, "stored_path")?,
    })
}
