//! `swe-forge ps`: the attempts under way, or all that are recorded.

use std::collections::hash_map::Entry as MapEntry;
use std::collections::{HashMap, HashSet};

use forge_api::waiting::WaitingList;
use forge_core::life_cycle::StateName;
use forge_core::{PhaseName, RunId, SandboxId, State};
use forge_orchestrator::RunLayout;
use forge_store::{AttemptFilter, AttemptRecord, RunKind, RunRecord, Store};
use jiff::Timestamp;
use jiff::tz::TimeZone;
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
    /// What is unusual about its sandbox.
    remark: Option<String>,
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

/// What the process of a run tells of its attempts, by their names.
#[derive(Default)]
struct Told {
    waiting: HashMap<String, Waiting>,
    remarks: HashMap<String, String>,
}

async fn told(run: &RunRecord) -> Told {
    let file = RunLayout::at(run.out_directory.clone()).waiting();
    // Nothing is told, or the run ended meanwhile, or its folder is gone.
    let Ok(bytes) = tokio::fs::read(&file).await else {
        return Told::default();
    };
    let list: WaitingList = serde_json::from_slice(&bytes).unwrap_or_default();
    let attempts = list.attempts.into_iter().map(|attempt| {
        let (position, reason) = (attempt.position, attempt.reason);
        (attempt.id, Waiting { position, reason })
    });
    let unwell = list.unwell.into_iter();
    Told {
        waiting: attempts.collect(),
        remarks: unwell.map(|attempt| (attempt.id, attempt.remark)).collect(),
    }
}

pub(super) async fn carry_out(
    session: &Session,
    arguments: PsArguments,
) -> Result<ExitStatus, CliError> {
    let (entries, is_cut) = match session.existing_record().await? {
        Some(store) => entries(&store, &arguments).await?,
        None if arguments.run.is_some() => return Err(CliError::input("no run is recorded")),
        None => (Vec::new(), false),
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
    if is_cut {
        printer.progress(&format!(
            "{} listed, there are more; `-n N` lists up to N",
            entries.len()
        ));
    }
    Ok(ExitStatus::Success)
}

/// A run of which attempts are listed.
struct Listed {
    record: RunRecord,
    is_abandoned: bool,
    /// What its process tells.
    told: Told,
}

impl Listed {
    async fn read(store: &Store, run: &RunId) -> Result<Self, CliError> {
        let record = store.run(run).await?;
        let is_abandoned = recorded::is_abandoned(&record);
        Ok(Self {
            told: match is_abandoned {
                true => Told::default(),
                false => told(&record).await,
            },
            is_abandoned,
            record,
        })
    }
}

/// What is listed, and whether there is more of it.
async fn entries(store: &Store, arguments: &PsArguments) -> Result<(Vec<Entry>, bool), CliError> {
    let mut attempts = attempts(store, arguments).await?;
    let limit = usize::try_from(arguments.limit).unwrap_or(usize::MAX);
    let is_cut = attempts.len() > limit;
    attempts.truncate(limit);
    let mut runs: HashMap<RunId, Listed> = HashMap::new();
    let mut begun = Vec::new();
    for attempt in &attempts {
        if let MapEntry::Vacant(place) = runs.entry(attempt.run) {
            place.insert(Listed::read(store, &attempt.run).await?);
        }
        // What waits has no phase.
        if is_live(attempt.state.name()) && attempt.state != State::Pending {
            begun.push(attempt.id.clone());
        }
    }
    let phases = store.phases_under_way(&begun).await?;
    let mut phases: HashMap<SandboxId, Option<PhaseName>> = begun.into_iter().zip(phases).collect();
    let mut entries = Vec::with_capacity(attempts.len());
    for attempt in attempts {
        let Some(run) = runs.get_mut(&attempt.run) else {
            continue;
        };
        let standing = Standing::within(&attempt, run.is_abandoned);
        let is_live = matches!(standing, Standing::Live(_));
        let phase = phases.remove(&attempt.id).flatten().filter(|_| is_live);
        let waiting = run.told.waiting.remove(attempt.id.as_str());
        let remark = run.told.remarks.remove(attempt.id.as_str());
        entries.push(Entry {
            phase: phase.map(|phase| phase.as_str()),
            waiting: waiting.filter(|_| is_live),
            remark: remark.filter(|_| is_live),
            ..entry(attempt, &run.record, standing)
        });
    }
    Ok((entries, is_cut))
}

/// One more than are listed, where there are more: of all, the newest; of those under way, what
/// runs before what waits, which comes in its order.
async fn attempts(store: &Store, arguments: &PsArguments) -> Result<Vec<AttemptRecord>, CliError> {
    let run = match &arguments.run {
        Some(text) => Some(recorded::find_run(store, text).await?),
        None => None,
    };
    let limit = arguments.limit.saturating_add(1);
    // What waits is asked for first: what begins in between is found twice, not missed.
    let waiting = match arguments.all {
        true => Vec::new(),
        false => store.pending(run.as_ref(), limit).await?,
    };
    let filter = AttemptFilter {
        run,
        states: match arguments.all {
            true => Vec::new(),
            false => vec![StateName::Creating, StateName::Running],
        },
        limit: Some(limit),
        ..AttemptFilter::default()
    };
    let mut attempts = store.attempts(&filter).await?;
    let begun: HashSet<SandboxId> = attempts.iter().map(|each| each.id.clone()).collect();
    attempts.extend(waiting.into_iter().filter(|each| !begun.contains(&each.id)));
    Ok(attempts)
}

const fn is_live(state: StateName) -> bool {
    matches!(
        state,
        StateName::Pending | StateName::Creating | StateName::Running
    )
}

fn entry(attempt: AttemptRecord, run: &RunRecord, standing: Standing) -> Entry {
    let reason = attempt.outcome().and_then(|outcome| outcome.reason());
    Entry {
        id: attempt.id.to_string(),
        task_id: attempt.task.to_string(),
        run: run.id.to_string(),
        run_short: run.id.short(),
        kind: run.kind,
        agent: recorded::agent(&attempt, run).to_owned(),
        difficulty: attempt.difficulty.as_str(),
        state: standing.as_str(),
        reason: reason.map(|reason| reason.as_str()),
        waiting: None,
        remark: None,
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
            (Some(from), None) if entry.state != "INTERRUPTED" => {
                units::duration(units::between(from, now))
            }
            _ => String::new(),
        };
        let since = entry.started_at.unwrap_or(entry.created_at);
        table.row([
            Cell::from(&entry.id),
            Cell::from(&entry.run_short),
            Cell::from(&entry.agent),
            Cell::styled(entry.style, entry.state),
            Cell::from(entry.phase.unwrap_or_default()),
            Cell::from(took),
            Cell::from(units::moment(since, now, TimeZone::system())),
            Cell::from(match (&entry.waiting, &entry.remark) {
                (Some(waiting), _) => {
                    format!("waits, number {}: {}", waiting.position, waiting.reason)
                }
                (None, Some(remark)) => remark.clone(),
                (None, None) => entry.reason.unwrap_or_default().to_owned(),
            }),
        ]);
    }
    table
}
