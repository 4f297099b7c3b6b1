//! What is made on engines: announced before the engine is called, so that nothing is forgotten.

use forge_core::{RunId, SandboxId};
use jiff::Timestamp;
use rusqlite::{Connection, Params, Row};

use crate::attempts::row_id;
use crate::errors::StoreError;
use crate::fault::{Fault, Outcome};
use crate::records::{ObjectKind, ObjectRecord};
use crate::runs;
use crate::store::Store;
use crate::values::{self, PublicId};

/// Announcing again is no error for the same attempt. For another one the last assignment yields
/// NULL, which the column refuses: a name stands for one object only.
const INTEND: &str = "INSERT INTO objects (attempt_id, kind, name, intended_at) \
    VALUES (?1, ?2, ?3, ?4) \
    ON CONFLICT (kind, name) DO UPDATE SET \
        intended_at = excluded.intended_at, \
        created_at = CASE WHEN removed_at IS NULL THEN created_at END, \
        removed_at = NULL, \
        attempt_id = CASE WHEN attempt_id = excluded.attempt_id THEN attempt_id END";

impl Store {
    /// Announces that an object is about to be made. Announcing the same again, for the same
    /// attempt, is fine: a removed one counts as not made yet, a made one stays made.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when there is no such attempt; [`StoreError::Constraint`] when
    /// another attempt announced an object of this kind and name.
    pub async fn intend_object(
        &self,
        id: &SandboxId,
        kind: ObjectKind,
        name: &str,
        at: Timestamp,
    ) -> Result<(), StoreError> {
        let (id, name) = (id.clone(), name.to_owned());
        self.write("announce an object", move |transaction| {
            let attempt = row_id(transaction, &id)?;
            transaction.prepare_cached(INTEND)?.execute((
                attempt,
                kind.as_str(),
                name,
                values::instant(at)?,
            ))?;
            Ok(())
        })
        .await
    }

    /// Records that the engine made an object.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when it was not announced.
    pub async fn object_created(
        &self,
        kind: ObjectKind,
        name: &str,
        at: Timestamp,
    ) -> Result<(), StoreError> {
        self.mark_object(kind, name, "created_at", at).await
    }

    /// Records that an object was seen gone.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when it was not announced.
    pub async fn object_removed(
        &self,
        kind: ObjectKind,
        name: &str,
        at: Timestamp,
    ) -> Result<(), StoreError> {
        self.mark_object(kind, name, "removed_at", at).await
    }

    /// The objects of an attempt in the order they were announced.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    pub async fn objects(&self, id: &SandboxId) -> Result<Vec<ObjectRecord>, StoreError> {
        let id = id.clone();
        self.read("list the objects of an attempt", move |connection| {
            let attempt = row_id(connection, &id)?;
            select(connection, "objects.attempt_id = ?1", [attempt])
        })
        .await
    }

    /// Objects that were announced and not seen gone, of one run or of all, in the order they were
    /// announced.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when the run is not recorded.
    pub async fn unremoved_objects(
        &self,
        run: Option<&RunId>,
    ) -> Result<Vec<ObjectRecord>, StoreError> {
        let run = run.copied();
        self.read("list objects not removed", move |connection| match run {
            None => select(connection, "objects.removed_at IS NULL", []),
            Some(run) => {
                let run = runs::row_id(connection, &run)?;
                let condition = "objects.removed_at IS NULL AND attempts.run_id = ?1";
                select(connection, condition, [run])
            }
        })
        .await
    }

    /// `column` is always one of the literals above.
    async fn mark_object(
        &self,
        kind: ObjectKind,
        name: &str,
        column: &'static str,
        at: Timestamp,
    ) -> Result<(), StoreError> {
        let name = name.to_owned();
        self.write("record what became of an object", move |transaction| {
            let changed = transaction
                .prepare_cached(&format!(
                    "UPDATE objects SET {column} = ?3 WHERE kind = ?1 AND name = ?2"
                ))?
                .execute((kind.as_str(), &name, values::instant(at)?))?;
            if changed == 0 {
                return Err(Fault::not_found(kind.as_str(), name));
            }
            Ok(())
        })
        .await
    }
}

fn select(
    connection: &Connection,
    condition: &str,
    parameters: impl Params,
) -> Outcome<Vec<ObjectRecord>> {
    let objects = connection
        .prepare_cached(&format!(
            "SELECT objects.*, attempts.public_id FROM objects \
             JOIN attempts ON attempts.id = objects.attempt_id \
             WHERE {condition} ORDER BY objects.id"
        ))?
        .query_map(parameters, record)?
        .collect::<Result<_, _>>()?;
    Ok(objects)
}

fn record(row: &Row<'_>) -> rusqlite::Result<ObjectRecord> {
    Ok(ObjectRecord {
        attempt: row.get::<_, PublicId>("public_id")?.0,
        kind: values::name(row, "kind")?,
        name: row.get("name")?,
        intended_at: values::at(row, "intended_at")?,
        created_at: values::optional_at(row, "created_at")?,
        removed_at: values::optional_at(row, "removed_at")?,
    })
}
