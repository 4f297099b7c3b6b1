//! What `ps`, `show`, `logs` and `artifacts` read from the record together.

use std::path::PathBuf;

use forge_core::life_cycle::StateName;
use forge_core::{Outcome, PhaseName, RunId};
use forge_orchestrator::{Agent, RunLayout, settle};
use forge_plan::reaper::RunState;
use forge_store::{AttemptRecord, RunKind, RunRecord, Store, StoreError};
use jiff::Timestamp;

use crate::error::CliError;
use crate::style::Style;

/// Runs looked through for one that is meant by a part of its id.
const RUNS_SEARCHED: u32 = 10_000;

/// Where an attempt is, as people want to know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// It has not ended, and its run may still be under way.
    Live(StateName),
    /// It has not ended, and the process of its run is gone.
    Interrupted,
    /// It has ended so.
    Ended(StateName),
}

impl Standing {
    /// Where `attempt` of `run` is.
    pub(super) fn of(attempt: &AttemptRecord, run: &RunRecord) -> Self {
        // Who drives the run matters, and is looked up, only while the attempt has not ended.
        Self::within(attempt, attempt.outcome().is_none() && is_abandoned(run))
    }

    /// Where `attempt` of a run is that somebody drives or nobody.
    pub(super) fn within(attempt: &AttemptRecord, is_abandoned: bool) -> Self {
        match attempt.outcome() {
            Some(Outcome::Completed) => Self::Ended(StateName::Completed),
            Some(Outcome::Failed(_)) => Self::Ended(StateName::Failed),
            Some(Outcome::Timeout(_)) => Self::Ended(StateName::Timeout),
            None if is_abandoned => Self::Interrupted,
            None => Self::Live(attempt.state.name()),
        }
    }

    /// The name shown.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Live(state) | Self::Ended(state) => state.as_str(),
            Self::Interrupted => "INTERRUPTED",
        }
    }

    /// How the name is shown.
    pub(super) const fn style(self) -> Style {
        match self {
            Self::Live(_) => Style::Plain,
            Self::Ended(StateName::Completed) => Style::Good,
            Self::Ended(_) | Self::Interrupted => Style::Bad,
        }
    }
}

/// Whether nobody drives `run` any more.
pub(super) fn is_abandoned(run: &RunRecord) -> bool {
    run_state(run) != RunState::Live
}

/// Whether a process drives `run`, as far as can be told from here.
pub(super) fn run_state(run: &RunRecord) -> RunState {
    settle::run_state(run, Timestamp::now())
}

/// What can be done about a run whose process is gone.
pub(super) fn how_to_go_on(run: &RunId) -> String {
    format!(
        "`swe-forge run --resume {run}` goes on with it, `swe-forge gc --interrupted` gives it up"
    )
}

/// The agent of `attempt` of `run`.
pub(super) fn agent<'a>(attempt: &AttemptRecord, run: &'a RunRecord) -> &'a str {
    match run.kind {
        RunKind::Run => &run.agent,
        RunKind::Validate => Agent::in_turn(attempt.repetition).name(),
    }
}

/// Where the log of `phase` is, or will be.
pub(super) fn log_path(attempt: &AttemptRecord, run: &RunRecord, phase: PhaseName) -> PathBuf {
    RunLayout::at(run.out_directory.clone()).log(&attempt.id, phase)
}

/// The run that a person means by its id, or by the beginning or the end of it.
pub(super) async fn find_run(store: &Store, text: &str) -> Result<RunId, CliError> {
    match runs_like(store, text).await?.as_slice() {
        [id] => Ok(*id),
        [] => Err(CliError::input(format!("no run '{text}' is recorded"))),
        _ => {
            let error = CliError::input(format!("'{text}' fits several runs"));
            Err(error.or_rather("give more of the id; `swe-forge ps --all` shows them"))
        }
    }
}

/// The runs that a person may mean by an id, or by the beginning or the end of it.
pub(super) async fn runs_like(store: &Store, text: &str) -> Result<Vec<RunId>, CliError> {
    if let Ok(id) = text.parse::<RunId>() {
        return match store.run(&id).await {
            Ok(run) => Ok(vec![run.id]),
            Err(StoreError::NotFound { .. }) => Ok(Vec::new()),
            Err(error) => Err(error.into()),
        };
    }
    if text.is_empty() {
        return Ok(Vec::new());
    }
    let runs = store.run_ids(RUNS_SEARCHED).await?;
    let meant = |id: &RunId| {
        let id = id.to_string();
        id.starts_with(text) || id.ends_with(text)
    };
    Ok(runs.into_iter().filter(meant).collect())
}

/// A name that leaves open which run or attempt is meant.
pub(super) fn fits_several(text: &str) -> CliError {
    let message = format!("'{text}' fits several runs or attempts");
    CliError::input(message).or_rather("give more of the id; `swe-forge ps --all` shows them")
}
