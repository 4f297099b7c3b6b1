//! Carries out what the dispatcher decides: starts tries, tries again, and gathers reports.
//!
//! One loop owns the dispatcher and everything that is known of the jobs; each try is a task that
//! the loop owns.

use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use forge_api::report::{EarlierTry, TaskReport};
use forge_api::waiting::{MOST_LISTED, WaitingAttempt, WaitingList};
use forge_core::Limits;
use forge_engine::EngineDescription;
use forge_engine::task::{self, OwnedTask};
use forge_plan::capacity::{Amount, Shortage};
use forge_plan::dispatch::{Action, Dispatcher, Event, Policy};
use forge_plan::hold::HoldPolicy;
use forge_plan::queue::{Job as JobNumber, RunNumber, Scope, Submission};
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use jiff::Timestamp;
use tokio::sync::mpsc;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, sleep_until};

use crate::attempt;
use crate::context::{Context, Job, Up};
use crate::events::RunEvent;
use crate::failure;
use crate::host::Host;
use crate::run::{RunOptions, new_attempt};

/// All jobs of an orchestrator are of one run, as yet.
const RUN: RunNumber = RunNumber(0);
/// How often what waits is written down, at most.
const TELLING: Duration = Duration::from_secs(1);
/// How often the host is looked at.
const LOOK: Duration = Duration::from_secs(5);
/// A host whose disk cannot be seen is not bounded by it.
const UNKNOWN: u64 = u64::MAX;

/// What the engine's host can promise, and when it is under pressure.
pub(crate) fn policy(
    options: &RunOptions,
    engine: &EngineDescription,
    host: Option<&Host>,
) -> Policy {
    let capacity = &options.capacity;
    let (disk_free, disk_total) = host.and_then(Host::disk).unwrap_or((UNKNOWN, UNKNOWN));
    let has = Amount {
        cpu_millis: engine.cores.saturating_mul(1000),
        memory_bytes: engine.memory_bytes,
        disk_bytes: disk_free,
        processes: UNKNOWN,
    };
    let mut hold = HoldPolicy::for_host(engine.memory_bytes, disk_total);
    if let Some(memory) = capacity.memory_reserve_bytes {
        hold.memory_reserve = memory;
    }
    if let Some(disk) = capacity.disk_reserve_bytes {
        hold.disk_reserve = disk;
    }
    let reserve = Amount {
        memory_bytes: hold.memory_reserve,
        disk_bytes: hold.disk_reserve,
        ..Amount::ZERO
    };
    Policy {
        concurrency: options.concurrency,
        total: capacity.ratios.total(&has, &reserve),
        cores: u32::try_from(engine.cores).unwrap_or(u32::MAX),
        retry: options.retry,
        breaker: forge_plan::breaker::BreakerPolicy::default(),
        hold,
    }
}

/// What a job takes of the host while it runs. A limit above all there is does not keep a task from
/// running: it then has the host for itself.
fn amount(limits: &Limits, total: &Amount) -> Amount {
    Amount {
        cpu_millis: limits.cpu_millis.min(total.cpu_millis),
        memory_bytes: limits.memory_bytes.min(total.memory_bytes),
        disk_bytes: limits.disk_bytes.min(total.disk_bytes),
        processes: limits.processes.min(total.processes),
    }
}

/// A job with everything that became of it.
struct Entry {
    /// The try that is made, or will be.
    job: Arc<Job>,
    earlier: Vec<EarlierTry>,
    report: Option<TaskReport>,
}

/// The loop's own state.
struct Loop<'c> {
    context: &'c Arc<Context>,
    began: Instant,
    dispatcher: Dispatcher,
    entries: Vec<Entry>,
    running: FuturesUnordered<BoxFuture<'static, (usize, TaskReport)>>,
    /// What was written down last of what waits.
    told: WaitingList,
}

/// Runs every job until it has a report. The reports are in the order of the jobs.
pub(crate) async fn carry_out(
    context: &Arc<Context>,
    jobs: Vec<Job>,
    policy: Policy,
    host: Option<Host>,
    mut ups: mpsc::UnboundedReceiver<Up>,
) -> Vec<TaskReport> {
    let mut work = Loop::new(context, jobs, policy);
    let (mut looks, mut tellings) = (every(LOOK), every(TELLING));
    let mut actions = work.submit();
    let mut cancelling = false;
    loop {
        work.act(std::mem::take(&mut actions)).await;
        if work.is_done() {
            break;
        }
        let wake = work.dispatcher.wake_at().map(|at| work.began + at);
        tokio::select! {
            Some((number, report)) = work.running.next() => {
                actions = work.ended(number, report).await;
            }
            Some(up) = ups.recv() => {
                let event = Event::Up { job: JobNumber(up.number), took: up.took };
                actions = work.handle(event);
            }
            _ = looks.tick(), if host.is_some() => {
                let measured = host.as_ref().and_then(Host::measure);
                let event = measured.map_or(Event::Tick, Event::Measured);
                actions = work.handle(event);
            }
            _ = tellings.tick() => work.tell().await,
            () = at(wake) => actions = work.handle(Event::Tick),
            () = context.cancellation.cancelled(), if !cancelling => {
                cancelling = true;
                context.events.send(RunEvent::Cancelling);
                actions = work.handle(Event::Cancelled(Scope::Everything));
            }
        }
    }
    // There is none where nothing ever waited.
    tokio::fs::remove_file(context.layout.waiting()).await.ok();
    work.entries
        .into_iter()
        .filter_map(|entry| entry.report)
        .collect()
}

fn every(period: Duration) -> Interval {
    let mut interval = interval(period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

impl<'c> Loop<'c> {
    fn new(context: &'c Arc<Context>, jobs: Vec<Job>, policy: Policy) -> Self {
        let entries = jobs.into_iter().map(|job| Entry {
            job: Arc::new(job),
            earlier: Vec::new(),
            report: None,
        });
        Self {
            context,
            began: Instant::now(),
            dispatcher: Dispatcher::new(policy),
            entries: entries.collect(),
            running: FuturesUnordered::new(),
            told: WaitingList::default(),
        }
    }

    fn is_done(&self) -> bool {
        let queue = self.dispatcher.queue();
        queue.waiting() == 0 && queue.running() == 0 && self.running.is_empty()
    }

    fn handle(&mut self, event: Event) -> Vec<Action> {
        self.dispatcher.handle(event, self.began.elapsed())
    }

    fn submit(&mut self) -> Vec<Action> {
        let total = *self.dispatcher.queue().capacity().total();
        let cores = self.context.cores;
        let mut actions = Vec::new();
        for number in 0..self.entries.len() {
            let job = &self.entries[number].job;
            let (limits, _) = job.task.limits.clamped_to_cores(cores);
            let submission = Submission {
                run: RUN,
                priority: 0,
                amount: amount(&limits, &total),
                ready_at: Duration::ZERO,
            };
            let job = JobNumber(job.number);
            actions.extend(self.handle(Event::Submitted { job, submission }));
        }
        actions
    }

    async fn act(&mut self, actions: Vec<Action>) {
        let mut actions = VecDeque::from(actions);
        while let Some(action) = actions.pop_front() {
            match action {
                Action::Start { job, slot, .. } => match self.entries[place(job)].report {
                    None => self.start(place(job), slot),
                    // Its next try could not be recorded.
                    Some(_) => {
                        let reason = None;
                        actions.extend(self.handle(Event::Ended { job, reason }));
                    }
                },
                // Both are told where they come from.
                Action::Again { .. } | Action::Idle => {}
                Action::Drop(job) => self.dropped(place(job)).await,
                Action::Refuse { job, shortage } => self.refused(place(job), shortage).await,
            }
        }
    }

    fn waiting(&self) -> WaitingList {
        let attempts = self.entries.iter().filter_map(|entry| {
            let found = self.dispatcher.why_waiting(JobNumber(entry.job.number))?;
            Some(WaitingAttempt {
                id: entry.job.id.to_string(),
                position: found.position as u64,
                reason: found.reason.to_string(),
            })
        });
        WaitingList {
            waiting: self.dispatcher.queue().waiting() as u64,
            attempts: attempts.take(MOST_LISTED).collect(),
        }
    }

    /// Writes down what waits, for whoever asks; it is only good to have.
    async fn tell(&mut self) {
        let waiting = self.waiting();
        if waiting == self.told {
            return;
        }
        let file = self.context.layout.waiting();
        match write_whole(&file, &waiting).await {
            Ok(()) => self.told = waiting,
            Err(error) => tracing::debug!(%error, "what waits could not be written down"),
        }
    }

    /// Starts one try as a task of its own, so that tries use every core; a panic in it is an
    /// internal error of that try alone.
    fn start(&mut self, number: usize, slot: u16) {
        let (context, job) = (
            Arc::clone(self.context),
            Arc::clone(&self.entries[number].job),
        );
        let handle: OwnedTask<TaskReport> = task::spawn("attempt", {
            let (context, job) = (Arc::clone(&context), Arc::clone(&job));
            async move { attempt::run(&context, &job, slot).await }
        });
        self.running.push(Box::pin(async move {
            match handle.join().await {
                Ok(report) => (number, report),
                Err(error) => {
                    tracing::error!(id = %job.id, %error, "an attempt broke off");
                    (number, attempt::broken(&context, &job).await)
                }
            }
        }));
    }

    /// A try ended: it counts, or another one is recorded.
    async fn ended(&mut self, number: usize, report: TaskReport) -> Vec<Action> {
        let job = JobNumber(self.entries[number].job.number);
        let reason = report.reason;
        let mut actions = self.handle(Event::Ended { job, reason });
        let again = actions.iter().find_map(|action| match action {
            Action::Again { job: other, pause } if *other == job => Some(*pause),
            _ => None,
        });
        let Some(pause) = again else {
            self.conclude(number, report);
            return actions;
        };
        let next = self.entries[number].job.again(&self.context.run);
        let recorded = new_attempt(&next, &self.context.run, Timestamp::now());
        match self.context.store.add_attempt(&recorded).await {
            Ok(()) => self.try_again(number, report, next, pause),
            Err(error) => {
                let why = failure::chain(&error);
                let mut report = report;
                report.notes.push(format!("it was not tried again: {why}"));
                self.conclude(number, report);
                actions.extend(self.handle(Event::Cancelled(Scope::Job(job))));
            }
        }
        actions
    }

    fn try_again(&mut self, number: usize, report: TaskReport, next: Job, pause: Duration) {
        let entry = &mut self.entries[number];
        self.context.events.send(RunEvent::Again {
            id: entry.job.id.clone(),
            next: next.id.clone(),
            pause,
            message: report.message.clone(),
        });
        entry.earlier.push(EarlierTry {
            id: report.id,
            reason: report.reason,
            message: report.message,
            started_at: report.started_at,
            ended_at: report.ended_at,
            notes: report.notes,
        });
        entry.job = Arc::new(next);
    }

    async fn dropped(&mut self, number: usize) {
        // One that has just ended is dropped as well: its report stands.
        if self.entries[number].report.is_none() {
            let report = attempt::cancelled(self.context, &self.entries[number].job).await;
            self.conclude(number, report);
        }
    }

    async fn refused(&mut self, number: usize, shortage: Shortage) {
        let why = format!("the engine's machine is too small: {shortage}");
        let report = attempt::refused(self.context, &self.entries[number].job, why).await;
        self.conclude(number, report);
    }

    fn conclude(&mut self, number: usize, mut report: TaskReport) {
        let entry = &mut self.entries[number];
        report.earlier = std::mem::take(&mut entry.earlier);
        report.notes.extend(report.earlier.iter().map(|earlier| {
            let reason = earlier.reason.map_or("nothing", |reason| reason.as_str());
            format!(
                "{} before it ended with {reason}: {}",
                earlier.id, earlier.message
            )
        }));
        let ended = Box::new(report.clone());
        let id = entry.job.id.clone();
        entry.report = Some(report);
        self.context
            .events
            .send(RunEvent::Ended { id, report: ended });
    }
}

/// Readers see the old one or the new one, never a part.
async fn write_whole(file: &Path, waiting: &WaitingList) -> io::Result<()> {
    let bytes = serde_json::to_vec(waiting)?;
    // Nothing else of the run may have been written yet.
    if let Some(folder) = file.parent() {
        tokio::fs::create_dir_all(folder).await?;
    }
    let part = file.with_extension("json.part");
    tokio::fs::write(&part, bytes).await?;
    tokio::fs::rename(&part, file).await
}

/// Jobs have the numbers of their places.
fn place(job: JobNumber) -> usize {
    usize::try_from(job.0).unwrap_or(usize::MAX)
}
