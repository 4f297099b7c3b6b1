//! Runs: written when they begin and end.

use forge_core::RunId;
use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Params, Row, named_params};

use crate::errors::StoreError;
use crate::fault::{Fault, Outcome};
use crate::records::{NewRun, RunRecord};
use crate::store::Store;
use crate::values::{self, Count, Json};

impl Store {
    /// Records a run that begins.
    ///
    /// # Errors
    /// [`StoreError::Constraint`] when its id is recorded already.
    pub async fn begin_run(&self, run: &NewRun) -> Result<(), StoreError> {
        let run = run.clone();
        self.write("record a run", move |transaction| insert(transaction, &run))
            .await
    }

    /// Records that a run ended; the first call counts. Returns whether this was the first.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when there is no such run.
    pub async fn end_run(&self, run: &RunId, at: Timestamp) -> Result<bool, StoreError> {
        let run = *run;
        self.write("record the end of a run", move |transaction| {
            let id = row_id(transaction, &run)?;
            let changed = transaction
                .prepare_cached("UPDATE runs SET ended_at = ?2 WHERE id = ?1 AND ended_at IS NULL")?
                .execute((id, values::instant(at)?))?;
            Ok(changed > 0)
        })
        .await
    }

    /// The latest `limit` runs, newest first.
    ///
    /// # Errors
    /// As [`StoreError`] says about reading.
    pub async fn runs(&self, limit: u32) -> Result<Vec<RunRecord>, StoreError> {
        self.read("list runs", move |connection| {
            select(
                connection,
                "ORDER BY created_at DESC, id DESC LIMIT ?1",
                [limit],
            )
        })
        .await
    }

    /// The ids of the latest `limit` runs, newest first.
    ///
    /// # Errors
    /// As [`StoreError`] says about reading.
    pub async fn run_ids(&self, limit: u32) -> Result<Vec<RunId>, StoreError> {
        self.read("list runs", move |connection| {
            let ids = connection
                .prepare_cached("SELECT uuid FROM runs ORDER BY created_at DESC, id DESC LIMIT ?1")?
                .query_map([limit], |row| values::name(row, "uuid"))?
                .collect::<Result<_, _>>()?;
            Ok(ids)
        })
        .await
    }

    /// What a run was asked for, as its [`NewRun::plan`]; empty for a run that an older version
    /// recorded.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when there is no such run.
    pub async fn plan(&self, run: &RunId) -> Result<String, StoreError> {
        let run = *run;
        self.read("read the plan of a run", move |connection| {
            let id = row_id(connection, &run)?;
            let plan = connection
                .prepare_cached("SELECT plan FROM plans WHERE run_id = ?1")?
                .query_row([id], |row| row.get(0))
                .optional()?;
            Ok(plan.unwrap_or_default())
        })
        .await
    }

    /// Runs without an end, newest first: those under way, and those whose process died.
    ///
    /// # Errors
    /// As [`StoreError`] says about reading.
    pub async fn unfinished_runs(&self) -> Result<Vec<RunRecord>, StoreError> {
        self.read("list unfinished runs", |connection| {
            let condition = "WHERE ended_at IS NULL ORDER BY created_at DESC, id DESC";
            select(connection, condition, [])
        })
        .await
    }

    /// One run.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when there is no such run.
    pub async fn run(&self, run: &RunId) -> Result<RunRecord, StoreError> {
        let run = *run;
        self.read("read a run", move |connection| {
            select(connection, "WHERE uuid = ?1", [run.to_string()])?
                .pop()
                .ok_or_else(|| Fault::not_found("run", run))
        })
        .await
    }
}

fn insert(connection: &Connection, run: &NewRun) -> Outcome<()> {
    connection
        .prepare_cached(
            "INSERT INTO runs (uuid, kind, agent, created_at, out_directory, holder, arguments, \
                               engine, engine_version, renewed_at) \
             VALUES (:uuid, :kind, :agent, :created_at, :out_directory, :holder, :arguments, \
                     :engine, :engine_version, :created_at)",
        )?
        .execute(named_params! {
            ":uuid": run.id.to_string(),
            ":kind": run.kind.as_str(),
            ":agent": run.agent,
            ":created_at": values::instant(run.created_at)?,
            ":out_directory": values::path(&run.out_directory),
            ":holder": run.holder,
            ":arguments": values::json(&run.arguments)?,
            ":engine": run.engine,
            ":engine_version": run.engine_version,
        })?;
    connection
        .prepare_cached("INSERT INTO plans (run_id, plan) VALUES (?1, ?2)")?
        .execute((connection.last_insert_rowid(), &run.plan))?;
    Ok(())
}

/// The runs that `condition` chooses and orders.
pub(crate) fn select(
    connection: &Connection,
    condition: &str,
    parameters: impl Params,
) -> Outcome<Vec<RunRecord>> {
    let runs = connection
        .prepare_cached(&format!("SELECT * FROM runs {condition}"))?
        .query_map(parameters, record)?
        .collect::<Result<_, _>>()?;
    Ok(runs)
}

fn record(row: &Row<'_>) -> rusqlite::Result<RunRecord> {
    Ok(RunRecord {
        id: values::name(row, "uuid")?,
        kind: values::name(row, "kind")?,
        agent: row.get("agent")?,
        created_at: values::at(row, "created_at")?,
        ended_at: values::optional_at(row, "ended_at")?,
        out_directory: values::file(row, "out_directory")?,
        holder: row.get("holder")?,
        arguments: row.get::<_, Json<_>>("arguments")?.0,
        engine: row.get("engine")?,
        engine_version: row.get("engine_version")?,
        epoch: row.get::<_, Count>("epoch")?.0,
        renewed_at: values::optional_at(row, "renewed_at")?,
        files_removed_at: values::optional_at(row, "files_removed_at")?,
    })
}

/// The row of a run.
pub(crate) fn row_id(connection: &Connection, run: &RunId) -> Outcome<i64> {
    connection
        .prepare_cached("SELECT id FROM runs WHERE uuid = ?1")?
        .query_row([run.to_string()], |row| row.get(0))
        .optional()?
        .ok_or_else(|| Fault::not_found("run", run))
}
