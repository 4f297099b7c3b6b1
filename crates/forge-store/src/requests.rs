//! What other processes ask of the one that drives a run.

use forge_core::{RunId, SandboxId};
use rusqlite::{Connection, OptionalExtension, Row};

use crate::errors::StoreError;
use crate::fault::{Fault, Outcome};
use crate::records::{NewRequest, Request};
use crate::runs;
use crate::store::Store;
use crate::values::{self, PublicId};

impl Store {
    /// Asks something of the process that drives a run. The request waits until it is taken, also
    /// when no process drives the run at the moment.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when there is no such run, or the attempt is none of its.
    pub async fn request(&self, request: &NewRequest) -> Result<(), StoreError> {
        let request = request.clone();
        self.write("record a request", move |transaction| {
            insert(transaction, &request)
        })
        .await
    }

    /// Takes the requests that wait for the process that drives a run, oldest first: each is given
    /// once. Where none waits, nothing is written.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when there is no such run.
    pub async fn take_requests(&self, run: &RunId) -> Result<Vec<Request>, StoreError> {
        let run = *run;
        let waiting = self
            .read("look for requests", move |connection| {
                let id = runs::row_id(connection, &run)?;
                let waiting: bool = connection
                    .prepare_cached("SELECT EXISTS (SELECT 1 FROM requests WHERE run_id = ?1)")?
                    .query_row([id], |row| row.get(0))?;
                Ok(waiting)
            })
            .await?;
        if !waiting {
            return Ok(Vec::new());
        }
        self.write("take requests", move |transaction| take(transaction, &run))
            .await
    }
}

fn insert(connection: &Connection, request: &NewRequest) -> Outcome<()> {
    let run = runs::row_id(connection, &request.run)?;
    let attempt = match &request.attempt {
        None => None,
        Some(attempt) => Some(attempt_of(connection, run, attempt)?),
    };
    connection
        .prepare_cached(
            "INSERT INTO requests (run_id, attempt_id, kind, at) VALUES (?1, ?2, ?3, ?4)",
        )?
        .execute((
            run,
            attempt,
            request.kind.as_str(),
            values::instant(request.at)?,
        ))?;
    Ok(())
}

fn attempt_of(connection: &Connection, run: i64, attempt: &SandboxId) -> Outcome<i64> {
    connection
        .prepare_cached("SELECT id FROM attempts WHERE public_id = ?1 AND run_id = ?2")?
        .query_row((attempt.as_str(), run), |row| row.get(0))
        .optional()?
        .ok_or_else(|| Fault::not_found("attempt", attempt))
}

fn take(connection: &Connection, run: &RunId) -> Outcome<Vec<Request>> {
    let run = runs::row_id(connection, run)?;
    let requests = connection
        .prepare_cached(
            "SELECT requests.kind, requests.at, attempts.public_id FROM requests \
             LEFT JOIN attempts ON attempts.id = requests.attempt_id \
             WHERE requests.run_id = ?1 ORDER BY requests.id",
        )?
        .query_map([run], record)?
        .collect::<Result<_, _>>()?;
    connection
        .prepare_cached("DELETE FROM requests WHERE run_id = ?1")?
        .execute([run])?;
    Ok(requests)
}

fn record(row: &Row<'_>) -> rusqlite::Result<Request> {
    Ok(Request {
        attempt: row.get::<_, Option<PublicId>>("public_id")?.map(|id| id.0),
        kind: values::name(row, "kind")?,
        at: values::at(row, "at")?,
    })
}
