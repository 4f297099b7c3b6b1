//! `swe-forge ps`: the attempts under way, or all that are recorded.

use std::collections::HashMap;

use forge_api::waiting::WaitingList;
use forge_core::RunId;
use forge_orchestrator::RunLayout;
use forge_store::{AttemptFilter, AttemptRecord, RunKind, RunRecord, Store};
use jiff::Timestamp;
use serde::Serialize;

use super::recorded::{self, Standing};
use crate::arguments::{Format, PsArguments};
use crate::error::CliError;
use crate::exit_status::ExitStatus;
use crate::session::Session;
use crate::style::Style;
use crate::table::{Cell, Table};
use crate::units;

/// One attempt, as the JSON document has it.
#[derive(Debug, Serialize)]
struct Entry {
    id: String,
    task_id: String,
    run: String,
    kind: RunKind,
    agent: String,
    difficulty: &'static str,
    state: &'static str,
    reason: Option<&'static str>,
    /// How many start before it, and why it does not start now.
    waiting: Option<Waiting>,
    phase: Option<&'static str>,
    created_at: Timestamp,
    started_at: Option<Timestamp>,
    ended_at: Option<Timestamp>,
    /// Enough of the run's id to name it.
    #[serde(skip)]
    run_short: String,
    #[serde(skip)]
    style: Style,
}

/// What an attempt waits for.
#[derive(Debug, Serialize)]
struct Waiting {
    position: u64,
    reason: String,
}

/// What each attempt of a run waits for, by its name.
async fn waiting(run: &RunRecord) -> HashMap<String, Waiting> {
    let file = RunLayout::at(run.out_directory.clone()).waiting();
    // Nothing waits, or the run ended meanwhile, or its folder is gone.
    let Ok(bytes) = tokio::fs::read(&file).await else {
        return HashMap::new();
    };
    let list: WaitingList = serde_json::from_slice(&bytes).unwrap_or_default();
    let attempts = list.attempts.into_iter().map(|attempt| {
        let (position, reason) = (attempt.position, attempt.reason);
        (attempt.id, Waiting { position, reason })
    });
    attempts.collect()
}

pub(super) async fn carry_out(
    session: &Session,
    arguments: PsArguments,
) -> Result<ExitStatus, CliError> {
    let entries = match session.existing_record().await? {
        Some(store) => entries(&store, &arguments).await?,
        None if arguments.run.is_some() => return Err(CliError::input("no run is recorded")),
        None => Vec::new(),
    };
    let printer = &session.printer;
    match arguments.output.format {
        Format::Json => printer.json(&entries)?,
        Format::Human if entries.is_empty() => {
            let hint = if arguments.all {
                "no attempt is recorded"
            } else {
                "no attempt is under way; `swe-forge ps --all` lists those that ended"
            };
            printer.progress(hint);
        }
        Format::Human => {
            let table = table(&entries, Timestamp::now());
            printer.text(&table.render(printer.out_paint(), printer.out_width()))?;
        }
    }
    Ok(ExitStatus::Success)
}

async fn entries(store: &Store, arguments: &PsArguments) -> Result<Vec<Entry>, CliError> {
    let run = match &arguments.run {
        Some(text) => Some(recorded::find_run(store, text).await?),
        None => None,
    };
    let filter = AttemptFilter {
        run,
        live_only: !arguments.all,
        limit: Some(arguments.limit),
        ..AttemptFilter::default()
    };
    let mut runs: HashMap<RunId, RunRecord> = HashMap::new();
    let mut lists: HashMap<RunId, HashMap<String, Waiting>> = HashMap::new();
    let mut entries = Vec::new();
    for attempt in store.attempts(&filter).await? {
        let run = match runs.get(&attempt.run) {
            Some(run) => run.clone(),
            None => store.run(&attempt.run).await?,
        };
        let standing = Standing::of(&attempt, &run);
        let is_live = matches!(standing, Standing::Live(_));
        if is_live && !lists.contains_key(&run.id) {
            lists.insert(run.id, waiting(&run).await);
        }
        let list = lists.get_mut(&run.id).filter(|_| is_live);
        let waits = list.and_then(|list| list.remove(attempt.id.as_str()));
        let phase = match standing {
            Standing::Live(_) => recorded::current_phase(&store.phases(&attempt.id).await?),
            Standing::Lost | Standing::Ended(_) => None,
        };
        entries.push(Entry {
            phase: phase.map(|phase| phase.as_str()),
            waiting: waits,
            ..entry(attempt, &run, standing)
        });
        runs.insert(run.id, run);
    }
    Ok(entries)
}

fn entry(attempt: AttemptRecord, run: &RunRecord, standing: Standing) -> Entry {
    let reason = attempt.outcome().and_then(|outcome| outcome.reason());
    Entry {
        id: attempt.id.to_string(),
        task_id: attempt.task.to_string(),
        run: run.id.to_string(),
        run_short: run.id.short(),
        kind: run.kind,
        agent: run.agent.clone(),
        difficulty: attempt.difficulty.as_str(),
        state: standing.as_str(),
        reason: reason.map(|reason| reason.as_str()),
        waiting: None,
        phase: None,
        created_at: attempt.created_at,
        started_at: attempt.started_at,
        ended_at: attempt.ended_at,
        style: standing.style(),
    }
}

fn table(entries: &[Entry], now: Timestamp) -> Table {
    let mut table = Table::new(&[
        "ID", "RUN", "AGENT", "STATE", "PHASE", ">TIME", "STARTED", "REASON",
    ]);
    for entry in entries {
        let took = match (entry.started_at, entry.ended_at) {
            (Some(from), Some(to)) => units::duration(units::between(from, to)),
            // A lost attempt stopped at a time that nobody knows.
            (Some(from), None) if entry.state != "LOST" => units::clock(units::between(from, now)),
            _ => String::new(),
        };
        // An attempt of a validation carries its agent in its id.
        let agent = match entry.kind {
            RunKind::Run => entry.agent.as_str(),
            RunKind::Validate => "validate",
        };
        table.row([
            Cell::from(&entry.id),
            Cell::from(&entry.run_short),
            Cell::from(agent),
            Cell::styled(entry.style, entry.state),
            Cell::from(entry.phase.unwrap_or_default()),
            Cell::from(took),
            Cell::from(units::instant(entry.started_at.unwrap_or(entry.created_at))),
            Cell::from(match (&entry.waiting, entry.reason) {
                (Some(waiting), _) => {
                    format!("waits, number {}: {}", waiting.position, waiting.reason)
                }
                (None, reason) => reason.unwrap_or_default().to_owned(),
            }),
        ]);
    }
    table
}
