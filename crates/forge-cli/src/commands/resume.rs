//! `swe-forge run --resume`: goes on with a run whose process is gone.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use forge_core::{CommandLine, Task, TaskId};
use forge_engine::EngineDescription;
use forge_orchestrator::plan::{self, PlanError, PlannedTask};
use forge_orchestrator::{RunPlan, holder};
use forge_plan::lease::{self, Standing};
use forge_store::{RunRecord, Store};
use jiff::Timestamp;

use super::execution::{self, Interrupted, Request};
use crate::arguments::{Execution, Format, LATEST};
use crate::error::CliError;
use crate::escape;
use crate::exit_status::ExitStatus;
use crate::session::Session;
use crate::style::Style;
use crate::units;

/// Tasks that an error names; there may be thousands.
const NAMED: usize = 5;

pub(super) async fn carry_out(
    session: &Session,
    run: &str,
    command: Option<String>,
    execution: Execution,
    format: Format,
) -> Result<ExitStatus, CliError> {
    let store = recorded(session).await?;
    let record = find(&store, run).await?;
    let plan = store.plan(&record.id).await?;
    let plan: RunPlan = serde_json::from_str(&plan).map_err(|error| {
        CliError::input(format!(
            "the record does not say what run {} was asked for: {error}",
            record.id
        ))
        .or_rather("start it anew; an older swe-forge may have begun it")
    })?;
    let given = command.map(CommandLine::Shell);
    let purpose = plan.purpose.purpose(given).map_err(|error| {
        let hint = match error {
            PlanError::CommandWithheld => "give it again with --command",
            PlanError::UnknownAgent(_) => "go on with it with the swe-forge that began it",
        };
        CliError::input(error.to_string()).or_rather(hint)
    })?;
    let tasks = plan.tasks.iter();
    let request = Request {
        directories: tasks.map(|task| task.directory.clone()).collect(),
        purpose,
        execution,
        format,
        from: Some(Interrupted { record, plan }),
    };
    execution::carry_out(session, request).await
}

async fn recorded(session: &Session) -> Result<Store, CliError> {
    let store = session.existing_record().await?;
    store.ok_or_else(|| CliError::input("no run is recorded"))
}

/// The interrupted run that a person means.
async fn find(store: &Store, name: &str) -> Result<RunRecord, CliError> {
    let now = Timestamp::now();
    let unfinished = store.unfinished_runs().await?;
    let mut meant: Vec<RunRecord> = if name == LATEST {
        let interrupted = unfinished.into_iter().find(|run| is_interrupted(run, now));
        interrupted.into_iter().collect()
    } else {
        let is_meant = |run: &RunRecord| run.id.to_string().starts_with(name);
        unfinished.into_iter().filter(is_meant).collect()
    };
    let Some(run) = meant.pop().filter(|_| meant.is_empty()) else {
        return Err(match (meant.is_empty(), name) {
            (true, LATEST) => CliError::input("no run was interrupted"),
            (true, _) => CliError::input(format!("no unfinished run '{name}' is recorded"))
                .or_rather("a run that has ended cannot be gone on with: start it anew"),
            (false, _) => CliError::input(format!("'{name}' may mean several unfinished runs"))
                .or_rather("give more of its id"),
        });
    };
    match standing(&run, now) {
        Standing::Interrupted => Ok(run),
        Standing::Live => Err(CliError::input(format!("run {} is under way", run.id))
            .or_rather("`swe-forge ps` shows it; `swe-forge cancel` ends it")),
        Standing::Unknown { patience } => Err(CliError::input(format!(
            "the process of run {} cannot be seen from here, and may live",
            run.id
        ))
        .or_rather(format!(
            "try again in {}: it shows every few seconds that it lives",
            units::duration(patience)
        ))),
    }
}

fn standing(run: &RunRecord, now: Timestamp) -> Standing {
    lease::standing(holder::look_up(&run.holder), run.renewed_at, now)
}

fn is_interrupted(run: &RunRecord, now: Timestamp) -> bool {
    standing(run, now) == Standing::Interrupted
}

/// The folder below which the run's own folder is.
pub(super) fn out_folder(run: &RunRecord) -> PathBuf {
    let parent = run.out_directory.parent();
    parent.map_or_else(PathBuf::new, PathBuf::from)
}

/// Whether the tasks are what they were when the run began.
///
/// # Errors
/// Names those that are not.
pub(super) async fn check_tasks(plan: &RunPlan, tasks: &[Arc<Task>]) -> Result<(), CliError> {
    let tasks = tasks.to_vec();
    let look = tokio::task::spawn_blocking(move || plan::planned_tasks(&tasks));
    let now = look.await?.map_err(|source| CliError::Machine {
        action: "look at the tasks' files",
        source,
    })?;
    let now: HashMap<&TaskId, &PlannedTask> = now.iter().map(|task| (&task.id, task)).collect();
    let changed: Vec<&str> = plan
        .tasks
        .iter()
        .filter(|task| {
            now.get(&task.id)
                .is_none_or(|now| now.fingerprint != task.fingerprint)
        })
        .map(|task| task.id.as_str())
        .collect();
    if changed.is_empty() {
        return Ok(());
    }
    let more = match changed.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let named: Vec<&str> = changed.into_iter().take(NAMED).collect();
    Err(CliError::input(format!(
        "{}{more} changed since the run began: its verdicts would be about different tasks",
        named.join(", ")
    ))
    .or_rather("start a new run, or bring back the files as they were"))
}

/// Whether the engine is the one that has what the run left.
///
/// # Errors
/// Names the other one.
pub(super) fn check_engine(plan: &RunPlan, engine: &EngineDescription) -> Result<(), CliError> {
    if plan.endpoint == engine.endpoint {
        return Ok(());
    }
    Err(CliError::input(format!(
        "the run is on the engine at {}, and this one is at {}",
        escape::line(&plan.endpoint),
        escape::line(&engine.endpoint)
    ))
    .or_rather("say where it is with --engine-host"))
}

/// Says which runs wait for somebody to go on with them. Only good to know: nothing of it is an error.
pub(super) async fn tell_of_interrupted(session: &Session, store: &Store) {
    let unfinished = match store.unfinished_runs().await {
        Ok(unfinished) => unfinished,
        Err(error) => {
            tracing::debug!(%error, "interrupted runs are not known");
            return;
        }
    };
    let now = Timestamp::now();
    let interrupted: Vec<RunRecord> = unfinished
        .into_iter()
        .filter(|run| is_interrupted(run, now))
        .collect();
    let Some(latest) = interrupted.first() else {
        return;
    };
    let more = match interrupted.len() {
        1 => String::new(),
        count => format!(" and {} before it", units::count(count as u64 - 1, "run")),
    };
    let text = format!(
        "run {}{more} did not end; `swe-forge run --resume` goes on with it",
        escape::line(&latest.id.to_string())
    );
    session.printer.remark(Style::Warning, "interrupted", &text);
}
