//! A whole run: tasks and an agent in; verdicts, files and a report out.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use forge_api::report::{
    EngineReport, REPORT_VERSION, Report, RunReport, TaskReport, ValidationReport,
};
use forge_core::{Attempt, RunId, Task, Verdict};
use forge_engine::task;
use forge_engine::{Engine, EngineDescription, EngineError};
use forge_plan::capacity::Ratios;
use forge_plan::retry::RetryPolicy;
use forge_plan::validation::{self, Trial};
use forge_store::{NewAttempt, NewRun, RunKind, RunRecord, Store, StoreError};
use jiff::Timestamp;
use tokio::sync::mpsc;

use crate::agent::Agent;
use crate::attempt::Left;
use crate::context::{Cancellation, Context, Job};
use crate::dispatch::{self, Carried};
use crate::events::{EventSink, RunEvent};
use crate::host::Host;
use crate::layout::RunLayout;
use crate::observed::Observed;
use crate::operator::{Operator, SecretValue};
use crate::placement::Placement;
use crate::plan::{self, PlannedPurpose, RunPlan};
use crate::redact::Mask;
use crate::report::{self, ReportError};
use crate::standing::{self, ReadError, Standing};
use crate::{cleanup, failure, holder, results};

/// What the record gives a run that begins.
const FIRST_EPOCH: u64 = 1;

/// What to do with the tasks.
#[derive(Debug, Clone)]
pub enum Purpose {
    /// Give each to this agent.
    Run(Agent),
    /// Validate each with `nop` and `oracle`, this many times.
    Validate {
        /// How often each agent tries.
        repeat: u32,
    },
}

/// A run as it is asked for.
#[derive(Debug, Clone)]
pub struct RunOptions {
    /// Its id, chosen by the caller.
    pub run: RunId,
    /// What to do.
    pub purpose: Purpose,
    /// Attempts under way at once; `None` is as many as the engine's machine has room for.
    pub concurrency: Option<u32>,
    /// What that machine may be used for.
    pub capacity: CapacityOptions,
    /// What is tried again.
    pub retry: RetryPolicy,
    /// Folder below which the run's own folder is made.
    pub out: PathBuf,
    /// What the operator decides.
    pub operator: Arc<dyn Operator>,
    /// Keep containers and volumes for inspection.
    pub keep: bool,
    /// What the engine handle was given as its identity, for whoever goes on with the run; a secret.
    pub engine_identity: Option<String>,
    /// The command line, for the record.
    pub arguments: Vec<String>,
    /// Version of the program, for the report.
    pub version: String,
}

/// How much of the engine's machine attempts may take together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CapacityOptions {
    /// How often each resource may be promised.
    pub ratios: Ratios,
    /// Bytes of memory that nobody is promised; a twentieth of all, at most 4 GiB, when `None`.
    pub memory_reserve_bytes: Option<u64>,
    /// Bytes of the disk that nobody is promised; a twentieth of it, at most 10 GiB, when `None`.
    pub disk_reserve_bytes: Option<u64>,
}

impl Default for CapacityOptions {
    fn default() -> Self {
        Self {
            ratios: Ratios::DEFAULT,
            memory_reserve_bytes: None,
            disk_reserve_bytes: None,
        }
    }
}

/// A run of which everything is known that its first attempt needs.
struct Begun {
    engine: EngineDescription,
    holder: String,
    started_at: Timestamp,
    epoch: u64,
    standings: Vec<Standing>,
}

/// A run that ended.
#[derive(Debug)]
pub struct RunSummary {
    /// The report as it was written.
    pub report: Report,
    /// Where it was written.
    pub layout: RunLayout,
    /// Whether the run was cancelled, or told to start nothing more.
    pub cancelled: bool,
    /// Attempts that were not started: the run can be gone on with.
    pub unstarted: u64,
    /// Why the report is not where it should be.
    pub unwritten: Option<ReportError>,
}

/// Why a run could not begin or could not be recorded.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The engine cannot be used.
    #[error("the engine cannot be used")]
    Engine(#[source] EngineError),
    /// The record cannot be written.
    #[error("the run could not be recorded")]
    Store(#[source] StoreError),
    /// What was recorded of the tasks cannot be looked at.
    #[error("the files of the tasks could not be looked at")]
    Tasks(#[source] io::Error),
    /// What an interrupted run left cannot be told.
    #[error("the run cannot be gone on with")]
    Unreadable(#[source] ReadError),
    /// Another process drives the run.
    #[error("another process has taken the run over")]
    Superseded,
}

impl From<StoreError> for RunError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Superseded { .. } => Self::Superseded,
            other => Self::Store(other),
        }
    }
}

impl From<ReadError> for RunError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Store(StoreError::Superseded { .. }) => Self::Superseded,
            other => Self::Unreadable(other),
        }
    }
}

/// Drives runs on one engine with one record.
#[derive(Debug, Clone)]
pub struct Orchestrator {
    engine: Arc<dyn Engine>,
    store: Store,
}

impl Orchestrator {
    /// An orchestrator on `engine` that records in `store`.
    #[must_use]
    pub fn new(engine: Arc<dyn Engine>, store: Store) -> Self {
        Self { engine, store }
    }

    /// Carries a run through to its report.
    ///
    /// # Errors
    /// [`RunError`]; what happens to single attempts is in the report instead.
    pub async fn run(
        &self,
        tasks: &[Arc<Task>],
        options: RunOptions,
        events: EventSink,
        cancellation: Cancellation,
    ) -> Result<RunSummary, RunError> {
        let started_at = Timestamp::now();
        let secrets = all_secrets(tasks, &options);
        let engine = self.engine.describe().await.map_err(RunError::Engine)?;
        let plan = plan(tasks, &options, &engine, &secrets)?;
        let options = RunOptions {
            arguments: without_secrets(&options.arguments, &secrets),
            ..options
        };
        let holder = holder::this_process();
        self.begin(&options, &engine, &holder, plan, started_at)
            .await?;
        write_down_retention(tasks, &options).await;
        let jobs = jobs(tasks, &options);
        let attempts: Vec<NewAttempt> = jobs
            .iter()
            .map(|job| new_attempt(job, &options.run, started_at))
            .collect();
        self.store.add_attempts(&attempts).await?;
        let standings = jobs.into_iter().map(Standing::new).collect();
        let begun = Begun {
            engine,
            holder,
            started_at,
            epoch: FIRST_EPOCH,
            standings,
        };
        Box::pin(self.carry_through(options, begun, events, cancellation)).await
    }

    /// Goes on with the run `from`, whose process is gone. `tasks` and `options` are those of its
    /// plan.
    ///
    /// # Errors
    /// [`RunError`]; what happens to single attempts is in the report instead.
    pub async fn resume(
        &self,
        tasks: &[Arc<Task>],
        options: RunOptions,
        from: &RunRecord,
        events: EventSink,
        cancellation: Cancellation,
    ) -> Result<RunSummary, RunError> {
        let now = Timestamp::now();
        let engine = self.engine.describe().await.map_err(RunError::Engine)?;
        let holder = holder::this_process();
        let taken = self.store.take_over_run(&from.id, from.epoch, &holder, now);
        let epoch = taken.await?.ok_or(RunError::Superseded)?;
        let store = self.store.fenced(from.id, epoch);
        // What was asked of the process that is gone is not asked of whoever goes on.
        store.take_requests(&from.id).await?;
        let (remover, owner) = (Arc::clone(&self.engine), self.store.owner().clone());
        let (run, ours) = (from.id, holder.clone());
        let _removal = task::spawn("leftovers", async move {
            cleanup::remove_passing(&*remover, &owner, &run, &ours).await;
        });
        let jobs = jobs(tasks, &options);
        let standings = standing::read(&store, &from.id, jobs, now).await?;
        events.send(resumed(&standings));
        let begun = Begun {
            engine,
            holder,
            started_at: from.created_at,
            epoch,
            standings,
        };
        Box::pin(self.carry_through(options, begun, events, cancellation)).await
    }

    async fn carry_through(
        &self,
        options: RunOptions,
        begun: Begun,
        events: EventSink,
        cancellation: Cancellation,
    ) -> Result<RunSummary, RunError> {
        let Begun {
            engine,
            holder,
            started_at,
            epoch,
            standings,
        } = begun;
        let layout = RunLayout::new(&options.out, &options.run);
        let (news, told) = mpsc::unbounded_channel();
        let context = Arc::new(Context {
            news,
            engine: Arc::clone(&self.engine),
            store: self.store.fenced(options.run, epoch),
            events,
            run: options.run,
            owner: self.store.owner().clone(),
            holder,
            layout: layout.clone(),
            cores: engine.cores,
            placement: placement(&options, &engine),
            operator: Arc::clone(&options.operator),
            keep: options.keep,
            first_slot: first_slot(&options.run),
            epoch,
            observed: Observed::default(),
            superseded: Cancellation::default(),
        });
        let host = Host::of(&engine);
        let policy = dispatch::policy(&options, &engine, host.as_ref());
        let carried =
            dispatch::carry_out(&context, standings, policy, host, told, &cancellation).await;
        // The report is that of whoever drives the run now.
        dispatch::renew(&context).await;
        if context.superseded.is_cancelled() {
            return Err(RunError::Superseded);
        }
        if !options.keep
            && let Err(error) = self.engine.close().await
        {
            // What is left carries our labels: `gc` finds it.
            tracing::warn!(error = failure::chain(&error), "the engine was not closed");
        }
        let unstarted = carried.unstarted;
        let report = assemble(&options, &engine, started_at, carried);
        let unwritten = report::write(&report, &layout).err();
        if unstarted == 0 {
            let ended_at = report.run.ended_at;
            context.store.end_run(&options.run, ended_at).await?;
        }
        Ok(RunSummary {
            report,
            layout,
            cancelled: cancellation.is_cancelled() || cancellation.is_draining(),
            unstarted,
            unwritten,
        })
    }

    async fn begin(
        &self,
        options: &RunOptions,
        engine: &EngineDescription,
        holder: &str,
        plan: String,
        now: Timestamp,
    ) -> Result<(), RunError> {
        let layout = RunLayout::new(&options.out, &options.run);
        let run = NewRun {
            id: options.run,
            kind: match options.purpose {
                Purpose::Run(_) => RunKind::Run,
                Purpose::Validate { .. } => RunKind::Validate,
            },
            agent: agent_name(&options.purpose),
            created_at: now,
            out_directory: layout.root().to_owned(),
            holder: holder.to_owned(),
            arguments: options.arguments.clone(),
            engine: engine.kind.clone(),
            engine_version: engine.version.clone(),
            plan,
        };
        Ok(self.store.begin_run(&run).await?)
    }
}

fn agent_name(purpose: &Purpose) -> String {
    match purpose {
        Purpose::Run(agent) => agent.name().to_owned(),
        Purpose::Validate { .. } => "nop,oracle".to_owned(),
    }
}

/// The secrets of all tasks, as far as they are known.
fn all_secrets(tasks: &[Arc<Task>], options: &RunOptions) -> Mask {
    let wanted = tasks.iter().flat_map(|task| &task.secrets);
    let names: BTreeSet<&str> = wanted.map(|wanted| wanted.secret.as_str()).collect();
    let known: Vec<SecretValue> = names
        .into_iter()
        .filter_map(|name| options.operator.secret(name).ok())
        .collect();
    Mask::new(known.iter().map(SecretValue::expose))
}

/// The command line, in which a secret of any task may stand.
fn without_secrets(arguments: &[String], secrets: &Mask) -> Vec<String> {
    let arguments = arguments.iter().cloned();
    arguments.map(|argument| secrets.text(argument)).collect()
}

/// What is recorded for whoever goes on with the run.
fn plan(
    tasks: &[Arc<Task>],
    options: &RunOptions,
    engine: &EngineDescription,
    secrets: &Mask,
) -> Result<String, RunError> {
    let plan = RunPlan {
        purpose: PlannedPurpose::of(&options.purpose, secrets),
        tasks: plan::planned_tasks(tasks).map_err(RunError::Tasks)?,
        keep: options.keep,
        endpoint: engine.endpoint.clone(),
        engine_identity: options.engine_identity.clone(),
    };
    serde_json::to_string(&plan).map_err(|error| RunError::Tasks(error.into()))
}

/// For when the run has long ended; without it the operator's own days count.
async fn write_down_retention(tasks: &[Arc<Task>], options: &RunOptions) {
    let layout = RunLayout::new(&options.out, &options.run);
    let (tasks, bounds) = (tasks.to_vec(), options.operator.cleanup_bounds());
    let write = move || {
        let tasks = tasks.iter().map(|task| &**task);
        results::write_down_retention(&layout, tasks, &bounds)
    };
    let written = tokio::task::spawn_blocking(write).await;
    if let Err(error) = written.unwrap_or_else(|error| Err(io::Error::other(error))) {
        tracing::warn!(%error, "how long results are kept could not be written down");
    }
}

fn resumed(standings: &[Standing]) -> RunEvent {
    let count = |is: fn(&Left) -> bool| {
        let found = standings.iter().filter(|standing| is(&standing.left));
        found.count() as u64
    };
    let ended = standings
        .iter()
        .filter_map(|standing| match &standing.left {
            Left::Settled(report) | Left::Ended { report, .. } => Some((**report).clone()),
            Left::Unbegun { .. } | Left::UnderWay { .. } => None,
        });
    RunEvent::Resumed {
        ended: ended.collect(),
        under_way: count(|left| matches!(left, Left::UnderWay { .. })),
        anew: count(|left| matches!(left, Left::Unbegun { stale: true })),
        waiting: count(|left| matches!(left, Left::Unbegun { stale: false })),
    }
}

/// User ids of concurrent runs should not meet: each run begins at a place that follows from its
/// id.
fn first_slot(run: &RunId) -> u16 {
    let random = u16::from_str_radix(&run.short()[..4], 16).unwrap_or(0);
    random % (u16::MAX - forge_plan::queue::MAX_SLOTS)
}

/// Cores to hand out: none where the operator wants attempts to run on any.
fn placement(options: &RunOptions, engine: &EngineDescription) -> Arc<Placement> {
    let cores = match options.operator.own_cores() {
        true => engine.cores,
        false => 0,
    };
    Placement::new(cores, u64::from(first_slot(&options.run)))
}

fn jobs(tasks: &[Arc<Task>], options: &RunOptions) -> Vec<Job> {
    let mut jobs = Vec::new();
    let mut add = |task: &Arc<Task>, agent: &Agent, part: Option<String>, repetition| {
        jobs.push(Job {
            number: jobs.len() as u64,
            task: Arc::clone(task),
            agent: agent.clone(),
            id: Job::id(task, &options.run, Attempt(1), part.as_deref()),
            part,
            attempt: Attempt(1),
            repetition,
            is_stale: false,
        });
    };
    for task in tasks {
        match &options.purpose {
            Purpose::Run(agent) => add(task, agent, None, 1),
            Purpose::Validate { repeat } => {
                for number in 1..=*repeat {
                    for (place, agent) in [Agent::Nop, Agent::Oracle].iter().enumerate() {
                        let part = format!("{}{number}", agent.name());
                        let repetition = 2 * (number - 1) + if place == 0 { 1 } else { 2 };
                        add(task, agent, Some(part), repetition);
                    }
                }
            }
        }
    }
    jobs
}

/// What is recorded of a try before it is made.
pub(crate) fn new_attempt(job: &Job, run: &RunId, now: Timestamp) -> NewAttempt {
    NewAttempt {
        id: job.id.clone(),
        run: *run,
        task: job.task.id.clone(),
        attempt: job.attempt,
        repetition: job.repetition,
        title: job.task.title.clone(),
        difficulty: job.task.difficulty,
        image: job.task.image.reference().to_owned(),
        created_at: now,
    }
}

fn assemble(
    options: &RunOptions,
    engine: &EngineDescription,
    started_at: Timestamp,
    carried: Carried,
) -> Report {
    let Carried {
        reports: mut tasks,
        unstarted,
    } = carried;
    tasks
        .sort_by(|left, right| (&left.task_id, left.attempt).cmp(&(&right.task_id, right.attempt)));
    let (kind, validation) = match options.purpose {
        Purpose::Run(_) => ("run", Vec::new()),
        Purpose::Validate { .. } => ("validate", validations(&tasks)),
    };
    Report {
        version: REPORT_VERSION,
        run: RunReport {
            id: options.run.to_string(),
            kind: kind.to_owned(),
            agent: agent_name(&options.purpose),
            started_at,
            ended_at: Timestamp::now(),
            unstarted,
            swe_forge: options.version.clone(),
        },
        engine: EngineReport {
            kind: engine.kind.clone(),
            version: engine.version.clone(),
            api_version: engine.api_version.clone(),
            kernel: engine.kernel.clone(),
            cores: engine.cores,
            memory_bytes: engine.memory_bytes,
        },
        totals: report::totals(&tasks),
        tasks,
        validation,
    }
}

/// The verdict about each task of a validation, from the reports of its attempts.
fn validations(tasks: &[TaskReport]) -> Vec<ValidationReport> {
    let mut order: Vec<&str> = Vec::new();
    let mut by_task: HashMap<&str, (Vec<Trial>, Vec<Trial>)> = HashMap::new();
    for task in tasks {
        let (nop, oracle) = by_task.entry(&task.task_id).or_insert_with(|| {
            order.push(&task.task_id);
            (Vec::new(), Vec::new())
        });
        let side = if task.agent == Agent::Nop.name() {
            nop
        } else {
            oracle
        };
        side.push(trial(task));
    }
    let label = |trial: &Trial| {
        trial
            .outcome
            .reason()
            .map_or("completed", |reason| reason.as_str())
            .to_owned()
    };
    order
        .into_iter()
        .map(|task_id| {
            let (nop, oracle) = &by_task[task_id];
            let (verdict, reason) = validation::verdict(nop, oracle);
            ValidationReport {
                task_id: task_id.to_owned(),
                verdict,
                reason,
                nop: nop.iter().map(label).collect(),
                oracle: oracle.iter().map(label).collect(),
            }
        })
        .collect()
}

fn trial(task: &TaskReport) -> Trial {
    let last_phase = task.phases.last().map(|phase| phase.name);
    let outcome = report::outcome_of(task);
    Trial {
        outcome,
        last_phase,
    }
}

impl RunSummary {
    /// Whether every task of a validation is valid.
    #[must_use]
    pub fn all_valid(&self) -> bool {
        self.report
            .validation
            .iter()
            .all(|each| each.verdict == Verdict::Valid)
    }
}
