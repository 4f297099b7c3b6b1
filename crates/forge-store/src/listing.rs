//! Finding attempts: by filter, page by page, and by what a person types.
//!
//! A listing first chooses the ids of one page from an index alone, then reads only those rows.

use forge_core::life_cycle::StateName;
use forge_core::{RunId, SandboxId};
use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, params_from_iter};

use crate::attempts::{by_row, record, row_id};
use crate::errors::StoreError;
use crate::fault::{Fault, Outcome};
use crate::records::{AttemptFilter, AttemptRecord};
use crate::runs;
use crate::store::Store;
use crate::values::PublicId;

/// Ids shown when a shortened one fits several.
const CANDIDATES: u32 = 20;

/// The states of attempts that have not ended.
const LIVE: [StateName; 3] = [StateName::Pending, StateName::Creating, StateName::Running];

/// The attempts of a run, as they come from an index: nothing is sorted.
pub(crate) const IN_ORDER: &str = "SELECT attempts.*, ?2 AS run FROM attempts INDEXED BY attempts_in_order \
     WHERE run_id = ?1 ORDER BY id";

/// Sorts after every text that begins alike: no id holds this character.
const LAST: char = '\u{10ffff}';

impl Store {
    /// The attempts that `filter` describes, newest first.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when the filter names a run or an attempt that is not recorded.
    pub async fn attempts(&self, filter: &AttemptFilter) -> Result<Vec<AttemptRecord>, StoreError> {
        let filter = filter.clone();
        self.read("list attempts", move |connection| {
            let Some(listing) = Listing::new(connection, &filter)? else {
                return Ok(Vec::new());
            };
            let attempts = connection
                .prepare_cached(&listing.sql)?
                .query_map(params_from_iter(listing.parameters), record)?
                .collect::<Result<_, _>>()?;
            Ok(attempts)
        })
        .await
    }

    /// The attempts of a run in the order they were recorded.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when there is no such run.
    pub async fn attempts_of(&self, run: &RunId) -> Result<Vec<AttemptRecord>, StoreError> {
        let run = *run;
        self.read("list the attempts of a run", move |connection| {
            let id = runs::row_id(connection, &run)?;
            let attempts = connection
                .prepare_cached(IN_ORDER)?
                .query_map((id, run.to_string()), record)?
                .collect::<Result<_, _>>()?;
            Ok(attempts)
        })
        .await
    }

    /// The first `limit` attempts that are `PENDING`, of one run or of all, in the order they were
    /// recorded.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when the run is not recorded.
    pub async fn pending(
        &self,
        run: Option<&RunId>,
        limit: u32,
    ) -> Result<Vec<AttemptRecord>, StoreError> {
        let run = run.copied();
        self.read("list attempts that wait", move |connection| {
            let mut parameters: Vec<Value> = vec![limit.into()];
            if let Some(run) = run {
                parameters.push(runs::row_id(connection, &run)?.into());
            }
            let attempts = connection
                .prepare_cached(&waiting(run.is_some()))?
                .query_map(params_from_iter(parameters), record)?
                .collect::<Result<_, _>>()?;
            Ok(attempts)
        })
        .await
    }

    /// The attempt a person means by `text`: its id; or else the latest attempt of the task of that
    /// name; or else the only attempt whose id begins so.
    ///
    /// # Errors
    /// [`StoreError::Ambiguous`] when several ids begin so; [`StoreError::NotFound`].
    pub async fn find_attempt(&self, text: &str) -> Result<AttemptRecord, StoreError> {
        let text = text.to_owned();
        self.read("find an attempt", move |connection| {
            let row = find(connection, &text)?;
            by_row(connection, row)
        })
        .await
    }
}

/// The query of a filter.
#[derive(Debug)]
pub(crate) struct Listing {
    pub(crate) sql: String,
    pub(crate) parameters: Vec<Value>,
}

impl Listing {
    /// `None` when no attempt can fit.
    pub(crate) fn new(connection: &Connection, filter: &AttemptFilter) -> Outcome<Option<Self>> {
        let mut conditions = Vec::new();
        let mut parameters: Vec<Value> = Vec::new();
        if let Some(run) = &filter.run {
            conditions.push("run_id = ?".to_owned());
            parameters.push(runs::row_id(connection, run)?.into());
        }
        let states = wanted_states(filter);
        let index = index(filter, states.is_some());
        if let Some(states) = states {
            if states.is_empty() {
                return Ok(None);
            }
            conditions.push(format!("state IN ({})", vec!["?"; states.len()].join(", ")));
            parameters.extend(states.iter().map(|state| text(state.as_str())));
        }
        if let Some(prefix) = filter
            .task_prefix
            .as_deref()
            .filter(|text| !text.is_empty())
        {
            conditions.push("task_id >= ? AND task_id < ?".to_owned());
            parameters.push(text(prefix));
            parameters.push(text(&format!("{prefix}{LAST}")));
        }
        if let Some(attempt) = &filter.older_than {
            conditions.push("id < ?".to_owned());
            parameters.push(row_id(connection, attempt)?.into());
        }
        parameters.push(filter.limit.map_or(-1, i64::from).into());
        let conditions = if conditions.is_empty() {
            String::new()
        } else {
            format!("WHERE {}", conditions.join(" AND "))
        };
        Ok(Some(Self {
            sql: format!(
                "SELECT attempts.*, runs.uuid AS run \
                 FROM (SELECT id FROM attempts {index} {conditions} ORDER BY id DESC LIMIT ?) AS page \
                 CROSS JOIN attempts ON attempts.id = page.id \
                 CROSS JOIN runs ON runs.id = attempts.run_id \
                 ORDER BY page.id DESC"
            ),
            parameters,
        }))
    }
}

/// The first attempts that wait: the state is written out, since the index holds that state only.
pub(crate) fn waiting(of_one_run: bool) -> String {
    let condition = match of_one_run {
        true => "AND run_id = ?2",
        false => "",
    };
    format!(
        "SELECT attempts.*, runs.uuid AS run \
         FROM (SELECT id FROM attempts INDEXED BY attempts_waiting \
               WHERE state = 'PENDING' {condition} ORDER BY id LIMIT ?1) AS page \
         CROSS JOIN attempts ON attempts.id = page.id \
         CROSS JOIN runs ON runs.id = attempts.run_id \
         ORDER BY page.id"
    )
}

/// The index that answers a filter alone. Named, because SQLite does not know how the values are
/// spread and may choose one for which it has to read the rows.
fn index(filter: &AttemptFilter, by_state: bool) -> &'static str {
    let by_task = filter
        .task_prefix
        .as_ref()
        .is_some_and(|prefix| !prefix.is_empty());
    match (filter.run.is_some(), by_state, by_task) {
        (true, true, _) => "INDEXED BY attempts_by_run_and_state",
        (true, false, true) => "INDEXED BY attempts_by_run",
        (true, false, false) => "INDEXED BY attempts_in_order",
        (false, true, _) => "INDEXED BY attempts_by_state",
        (false, false, true) => "INDEXED BY attempts_by_task",
        // By id.
        (false, false, false) => "",
    }
}

fn text(text: &str) -> Value {
    Value::Text(text.to_owned())
}

/// `None` when any state will do.
fn wanted_states(filter: &AttemptFilter) -> Option<Vec<StateName>> {
    match (filter.live_only, filter.states.is_empty()) {
        (false, true) => None,
        (false, false) => Some(filter.states.clone()),
        (true, true) => Some(LIVE.to_vec()),
        (true, false) => Some(
            LIVE.into_iter()
                .filter(|state| filter.states.contains(state))
                .collect(),
        ),
    }
}

fn find(connection: &Connection, text: &str) -> Outcome<i64> {
    let exact = connection
        .prepare_cached("SELECT id FROM attempts WHERE public_id = ?1")?
        .query_row([text], |row| row.get(0))
        .optional()?;
    if let Some(row) = exact {
        return Ok(row);
    }
    let latest: Option<i64> = connection
        .prepare_cached("SELECT max(id) FROM attempts WHERE task_id = ?1")?
        .query_row([text], |row| row.get(0))?;
    if let Some(row) = latest {
        return Ok(row);
    }
    let mut begun = begins_with(connection, text)?;
    match (begun.pop(), begun.is_empty()) {
        (None, _) => Err(Fault::not_found("attempt", text)),
        (Some((row, _)), true) => Ok(row),
        (Some(last), false) => {
            begun.push(last);
            Err(Fault::Known(StoreError::Ambiguous {
                text: text.to_owned(),
                candidates: begun.into_iter().map(|(_, id)| id).collect(),
            }))
        }
    }
}

fn begins_with(connection: &Connection, text: &str) -> Outcome<Vec<(i64, SandboxId)>> {
    if text.is_empty() {
        return Ok(Vec::new());
    }
    let attempts = connection
        .prepare_cached(
            "SELECT id, public_id FROM attempts WHERE public_id >= ?1 AND public_id < ?2 \
             ORDER BY id DESC LIMIT ?3",
        )?
        .query_map((text, format!("{text}{LAST}"), CANDIDATES), |row| {
            Ok((row.get(0)?, row.get::<_, PublicId>(1)?.0))
        })?
        .collect::<Result<_, _>>()?;
    Ok(attempts)
}
