//! What `run` and `validate` share: from task directories to a report and an exit code.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use forge_config::Configuration;
use forge_core::{RunId, Task};
use forge_engine::task::OwnedTask;
use forge_engine::{Engine, EngineDescription};
use forge_orchestrator::run::{CapacityOptions, Purpose};
use forge_orchestrator::{EventSink, Orchestrator, RunOptions, RunPlan, RunSummary, janitor};
use forge_plan::capacity::Ratios;
use forge_plan::retention::RetentionPolicy;
use forge_plan::retry::RetryPolicy;
use forge_store::{RunRecord, Store};
use uuid::Uuid;

use super::{resume, tasks};
use crate::arguments::{Execution, Format, Jobs};
use crate::error::CliError;
use crate::escape;
use crate::exit_status::{ExitStatus, RunFacts};
use crate::operator::{Rules, retention};
use crate::progress::{self, Aim, Board};
use crate::provider::{EngineSettings, Need};
use crate::results;
use crate::session::Session;
use crate::style::Style;
use crate::units;

/// The most attempts at once that nobody asked for.
const USUAL_JOBS: u16 = 10;

/// A run or validation as it was asked for.
pub(super) struct Request {
    pub directories: Vec<PathBuf>,
    pub purpose: Purpose,
    pub execution: Execution,
    pub format: Format,
    /// The run that is gone on with, and what its plan says besides.
    pub from: Option<Interrupted>,
}

/// An interrupted run whose place the process takes.
pub(super) struct Interrupted {
    pub record: RunRecord,
    pub plan: RunPlan,
}

/// Carries a run through.
pub(super) async fn carry_out(session: &Session, request: Request) -> Result<ExitStatus, CliError> {
    let format = request.format;
    let ready = prepare(session, request).await?;
    let (aim, store) = (ready.aim, ready.store.clone());
    let janitor = ready.clean_beside(session)?;
    let summary = ready.watched(session).await;
    drop(janitor);
    store.close().await?;
    tell(session, &summary?, aim, format)
}

/// A run of which everything is known but how it ends.
struct Ready {
    store: Store,
    engine: Arc<dyn Engine>,
    tasks: Vec<Arc<Task>>,
    options: RunOptions,
    from: Option<RunRecord>,
    retention: RetentionPolicy,
    aim: Aim,
    attempts: u64,
}

async fn prepare(session: &Session, request: Request) -> Result<Ready, CliError> {
    let configuration = session.configuration().await?;
    let capacity = capacity(&configuration, request.execution.jobs);
    let retry = retry(&configuration);
    let retention = retention(&configuration);
    let tasks = tasks::load_all_good(request.directories, &configuration).await?;
    let (out, run, identity, keep) = match &request.from {
        None => {
            let out = make_out_folder(request.execution.out).await?;
            let run = RunId::from_uuid(Uuid::now_v7());
            (out, run, Some(fresh_identity()), request.execution.keep)
        }
        Some(Interrupted { record, plan }) => {
            resume::check_tasks(plan, &tasks).await?;
            let out = resume::out_folder(record);
            (out, record.id, plan.engine_identity.clone(), plan.keep)
        }
    };
    // Only now: what is wrong with the input leaves no trace.
    let store = session.record().await?;
    if request.from.is_none() {
        resume::tell_of_interrupted(session, &store).await;
    }
    let known = tasks.iter().map(|task| &**task);
    let rules = Rules::for_tasks(session, configuration, known).await?;
    let settings = EngineSettings {
        identity: identity.clone(),
        run: Some(run),
        ..rules.engine_settings()
    };
    let engine = session
        .engine_with(store.owner(), Need::Sandboxes, settings)
        .await?;
    let description = engine.describe().await?;
    if let Some(Interrupted { plan, .. }) = &request.from {
        resume::check_engine(plan, &description)?;
    }
    let options = RunOptions {
        run,
        purpose: request.purpose,
        concurrency: concurrency(request.execution.jobs, description.cores),
        capacity,
        retry,
        out,
        operator: Arc::new(rules),
        keep,
        engine_identity: identity,
        arguments: session.arguments.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let count = tasks.len() as u64;
    let (aim, attempts) = aim(&options.purpose, count);
    announce(session, &options, count, &description);
    Ok(Ready {
        store,
        engine,
        tasks,
        options,
        from: request.from.map(|from| from.record),
        retention,
        aim,
        attempts,
    })
}

impl Ready {
    /// Clears away what has had its time, for as long as the result is not dropped.
    fn clean_beside(&self, session: &Session) -> Result<OwnedTask<()>, CliError> {
        Ok(janitor::run_in_background(
            Arc::clone(&self.engine),
            self.store.clone(),
            session.state_folder()?.to_owned(),
            self.retention,
        ))
    }

    async fn watched(self, session: &Session) -> Result<RunSummary, CliError> {
        let (events, received) = EventSink::channel();
        let names = self.tasks.iter().map(|task| &task.id);
        let board = Board::new(self.aim, self.attempts, names, Instant::now());
        let cancellation = session.cancellation.clone();
        let orchestrator = Orchestrator::new(self.engine, self.store);
        let (tasks, options) = (&self.tasks, self.options);
        let run = async {
            match self.from {
                None => Box::pin(orchestrator.run(tasks, options, events, cancellation)).await,
                Some(from) => {
                    let resumed = orchestrator.resume(tasks, options, &from, events, cancellation);
                    Box::pin(resumed).await
                }
            }
        };
        let watch = progress::watch(&session.printer, board, received);
        let (summary, ()) = tokio::join!(run, watch);
        Ok(summary?)
    }
}

/// Tells the result; the exit status is the tasks'.
fn tell(
    session: &Session,
    summary: &RunSummary,
    aim: Aim,
    format: Format,
) -> Result<ExitStatus, CliError> {
    let printer = &session.printer;
    let status = RunFacts::of(&summary.report, summary.cancelled).exit_status();
    let written = match format {
        Format::Json => printer.json(&summary.report),
        Format::Human => {
            if printer.out_is_terminal() {
                // On a terminal the result stands right below the progress.
                printer.progress("");
            }
            printer.text(&results::render(
                &summary.report,
                &summary.layout,
                aim,
                printer,
            ))
        }
    };
    if summary.unstarted > 0 {
        let text = format!(
            "{} not started; `swe-forge run --resume {}` goes on with the run",
            units::count(summary.unstarted, "attempt"),
            summary.report.run.id,
        );
        printer.remark(Style::Warning, "unfinished", &text);
    }
    match written {
        // The tasks' result counts, not who reads about it.
        Err(error) if !error.is_reader_gone() => Err(error),
        _ => Ok(match &summary.unwritten {
            // Standard output has the result already; it must stay the one document it is.
            Some(error) => {
                let text = forge_orchestrator::failure::chain(error);
                printer.remark(Style::Bad, "error", &text);
                ExitStatus::Infrastructure
            }
            None => status,
        }),
    }
}

/// What the engine handle of a run makes its names from: 244 random bits, as hexadecimal text.
fn fresh_identity() -> String {
    let half = || Uuid::new_v4().simple().to_string();
    format!("{}{}", half(), half())
}

/// The folder for runs, made when it is missing, before anything else is.
async fn make_out_folder(out: PathBuf) -> Result<PathBuf, CliError> {
    let out = std::path::absolute(&out).map_err(CliError::file("find", &out))?;
    match tokio::fs::create_dir_all(&out).await {
        Ok(()) => Ok(out),
        Err(error) if is_in_the_way(error.kind()) => {
            let message = format!("--out {}: a file is in the way", escape::path(&out));
            Err(CliError::input(message).or_rather("give a folder, or one that can be made"))
        }
        Err(error) => Err(CliError::file("make the folder", &out)(error)),
    }
}

/// Whether a folder cannot be made because it, or something above it, is something else.
fn is_in_the_way(kind: io::ErrorKind) -> bool {
    matches!(
        kind,
        io::ErrorKind::AlreadyExists | io::ErrorKind::NotADirectory
    )
}

/// What the operator has set of the machine's room; volumes that take it only as they fill are
/// promised more often. Whoever names a number of attempts decides how they share the cores.
fn capacity(configuration: &Configuration, jobs: Option<Jobs>) -> CapacityOptions {
    let set = configuration.capacity;
    let usual = match configuration.disk.preallocate {
        true => Ratios::DEFAULT,
        false => Ratios::DEFAULT.with_sparse_disk(),
    };
    CapacityOptions {
        ratios: Ratios {
            cpu: set.cpu_permille.unwrap_or(match jobs {
                Some(Jobs::AtMost(_)) => u64::MAX,
                None | Some(Jobs::Unlimited) => usual.cpu,
            }),
            memory: set.memory_permille.unwrap_or(usual.memory),
            disk: set.disk_permille.unwrap_or(usual.disk),
            ..usual
        },
        memory_reserve_bytes: set.memory_reserve_bytes,
        disk_reserve_bytes: set.disk_reserve_bytes,
    }
}

fn retry(configuration: &Configuration) -> RetryPolicy {
    let set = configuration.retry;
    RetryPolicy {
        attempts: set.attempts,
        first: set.first_pause,
        most: set.longest_pause,
        ..RetryPolicy::default()
    }
}

/// The bound on attempts at once, where there is one besides the machine's room.
fn concurrency(jobs: Option<Jobs>, cores: u64) -> Option<u32> {
    match jobs {
        None => Some(u32::from(usual_jobs(cores))),
        Some(Jobs::AtMost(count)) => Some(u32::from(count)),
        Some(Jobs::Unlimited) => None,
    }
}

/// Twice the cores, since attempts wait for the engine and the disk as well; at most ten.
fn usual_jobs(cores: u64) -> u16 {
    let twice = cores.max(1).saturating_mul(2);
    u16::try_from(twice).map_or(USUAL_JOBS, |jobs| jobs.min(USUAL_JOBS))
}

const fn aim(purpose: &Purpose, tasks: u64) -> (Aim, u64) {
    match purpose {
        Purpose::Run(_) => (Aim::Complete, tasks),
        Purpose::Validate { repeat } => (Aim::Validate, tasks * 2 * *repeat as u64),
    }
}

fn announce(session: &Session, options: &RunOptions, tasks: u64, engine: &EngineDescription) {
    let tasks = units::count(tasks, "task");
    let doing = match &options.purpose {
        Purpose::Run(agent) => format!("running {tasks} with agent {agent}"),
        Purpose::Validate { repeat: 1 } => format!("validating {tasks}"),
        Purpose::Validate { repeat } => format!("validating {tasks}, {repeat} times each"),
    };
    let at_once = match options.concurrency {
        Some(most) => format!("at most {most} at once"),
        None => "as many at once as it has room for".to_owned(),
    };
    session.printer.progress(&format!(
        "{doing} on {} {}, {at_once}",
        escape::line(&engine.kind),
        escape::line(&engine.version),
    ));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_at_once_follow_the_cores_up_to_ten() {
        for (cores, jobs) in [(0, 2), (1, 2), (2, 4), (5, 10), (64, 10), (u64::MAX, 10)] {
            assert_eq!(usual_jobs(cores), jobs, "{cores}");
        }
    }
}
