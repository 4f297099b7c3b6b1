//! Carries out what the dispatcher decides: starts tries, tries again, and gathers reports.
//!
//! One loop owns the dispatcher and everything that is known of the jobs; each try is a task that
//! the loop owns.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use forge_api::report::{EarlierTry, TaskReport};
use forge_api::waiting::{MOST_LISTED, UnwellAttempt, WaitingAttempt, WaitingList};
use forge_core::{Limits, SandboxId};
use forge_engine::EngineDescription;
use forge_engine::task::{self, OwnedTask};
use forge_plan::capacity::{Amount, Shortage};
use forge_plan::dispatch::{Action, Dispatcher, Event, Policy};
use forge_plan::health::Judgement;
use forge_plan::hold::HoldPolicy;
use forge_plan::queue::{Job as JobNumber, RunNumber, Scope, Submission};
use forge_store::{RequestKind, StoreError};
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use jiff::Timestamp;
use tokio::sync::mpsc;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, sleep_until};

use crate::attempt::{self, Left};
use crate::context::{Cancellation, Context, Control, Job, News};
use crate::events::RunEvent;
use crate::host::Host;
use crate::run::{RunOptions, new_attempt};
use crate::standing::{Standing, earlier_try, tries_before};
use crate::{cleanup, failure, observed};

/// All jobs of an orchestrator are of one run, as yet.
const RUN: RunNumber = RunNumber(0);
/// How often what waits is written down, at most.
const TELLING: Duration = Duration::from_secs(1);
/// How often the host is looked at.
const LOOK: Duration = Duration::from_secs(5);
/// How often other processes are heard.
const ASK: Duration = Duration::from_millis(500);
/// How often this process shows that it lives; whoever cannot see it waits for several of these.
const RENEWAL: Duration = Duration::from_secs(5);
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

/// What became of the jobs of a run.
pub(crate) struct Carried {
    /// In the order of the jobs.
    pub reports: Vec<TaskReport>,
    /// Jobs that were not started, because nothing more was to be.
    pub unstarted: u64,
}

/// A job with everything that became of it.
struct Entry {
    /// The try that is made, or will be.
    job: Arc<Job>,
    earlier: Vec<EarlierTry>,
    /// What is asked of the try under way.
    control: Option<Control>,
    /// It shall not start, or not once more.
    is_cancelled: bool,
    report: Option<TaskReport>,
    /// What is unusual about its sandbox.
    remark: Option<String>,
    /// Whoever watches knows how it ended.
    is_told: bool,
}

/// The loop's own state.
struct Loop<'c> {
    context: &'c Arc<Context>,
    cancellation: &'c Cancellation,
    began: Instant,
    dispatcher: Dispatcher,
    entries: Vec<Entry>,
    running: FuturesUnordered<BoxFuture<'static, (usize, TaskReport)>>,
    /// What was written down last of what waits.
    told: WaitingList,
    /// What waits is left for another day.
    is_draining: bool,
    /// Of what was kept and is not wanted any more.
    removals: Vec<OwnedTask<()>>,
}

/// Runs every job until it has a report, or until nothing more is to be started and nothing runs.
pub(crate) async fn carry_out(
    context: &Arc<Context>,
    standings: Vec<Standing>,
    policy: Policy,
    host: Option<Host>,
    mut news: mpsc::UnboundedReceiver<News>,
    cancellation: &Cancellation,
) -> Carried {
    let mut work = Loop::new(context, policy, cancellation);
    let (mut looks, mut tellings) = (every(LOOK), every(TELLING));
    let (mut asks, mut renewals) = (every(ASK), every(RENEWAL));
    let watch = task::spawn("watch", observed::follow(Arc::clone(context)));
    let mut actions = work.take_in(standings).await;
    let mut is_cancelling = false;
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
            Some(news) = news.recv() => actions = work.hear(news),
            _ = looks.tick(), if host.is_some() => {
                let measured = host.as_ref().and_then(Host::measure);
                let event = measured.map_or(Event::Tick, Event::Measured);
                actions = work.handle(event);
            }
            _ = tellings.tick() => work.tell().await,
            _ = asks.tick() => actions = work.heed_requests().await,
            _ = renewals.tick() => renew(context).await,
            () = at(wake) => actions = work.handle(Event::Tick),
            () = cancellation.cancelled(), if !is_cancelling => {
                is_cancelling = true;
                context.events.send(RunEvent::Cancelling);
                actions = work.handle(Event::Cancelled(Scope::Everything));
            }
            () = cancellation.draining(), if !work.is_draining && !is_cancelling => {
                work.is_draining = true;
                context.events.send(RunEvent::Draining);
                actions = work.handle(Event::Cancelled(Scope::Everything));
            }
            // Whatever is under way belongs to somebody else: it is let go as it is.
            () = context.superseded.cancelled() => break,
        }
    }
    drop(watch);
    for removal in std::mem::take(&mut work.removals) {
        if let Err(error) = removal.join().await {
            tracing::error!(%error, "a release broke off");
        }
    }
    if !context.superseded.is_cancelled() {
        // There is none where nothing ever waited.
        tokio::fs::remove_file(context.layout.waiting()).await.ok();
    }
    let mut unstarted = 0;
    let reports = work.entries.into_iter().filter_map(|entry| {
        unstarted += u64::from(entry.report.is_none());
        entry.report
    });
    Carried {
        reports: reports.collect(),
        unstarted,
    }
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
    fn new(context: &'c Arc<Context>, policy: Policy, cancellation: &'c Cancellation) -> Self {
        Self {
            context,
            cancellation,
            began: Instant::now(),
            dispatcher: Dispatcher::new(policy),
            entries: Vec::new(),
            running: FuturesUnordered::new(),
            told: WaitingList::default(),
            is_draining: false,
            removals: Vec::new(),
        }
    }

    fn is_done(&self) -> bool {
        let queue = self.dispatcher.queue();
        queue.waiting() == 0 && queue.running() == 0 && self.running.is_empty()
    }

    fn handle(&mut self, event: Event) -> Vec<Action> {
        self.dispatcher.handle(event, self.began.elapsed())
    }

    /// Takes in every job as it stands: most wait, some may be under way.
    async fn take_in(&mut self, standings: Vec<Standing>) -> Vec<Action> {
        let mut actions = Vec::new();
        let mut lefts = Vec::with_capacity(standings.len());
        for standing in standings {
            lefts.push(standing.left);
            self.entries.push(Entry {
                job: Arc::new(standing.job),
                earlier: standing.earlier,
                control: None,
                is_cancelled: false,
                report: None,
                remark: None,
                is_told: false,
            });
        }
        let mut lefts: Vec<_> = lefts.into_iter().enumerate().collect();
        // What stands on the engine has its room before anything else is started in it.
        lefts.sort_by_key(|(_, left)| match left {
            Left::UnderWay { .. } | Left::Ended { .. } | Left::Settled(_) => 0,
            Left::Unbegun { stale: true } => 1,
            Left::Unbegun { stale: false } => 2,
        });
        for (number, left) in lefts {
            actions.extend(self.take_in_one(number, left).await);
        }
        actions
    }

    async fn take_in_one(&mut self, number: usize, left: Left) -> Vec<Action> {
        let job = Arc::clone(&self.entries[number].job);
        let counts = |report: &TaskReport| report.reason.is_none_or(|reason| !reason.is_retried());
        match left {
            Left::Unbegun { .. } => {
                let submission = self.submission(&job);
                let (job, earlier) = (JobNumber(job.number), tries_before(job.attempt));
                self.handle(Event::Submitted {
                    job,
                    submission,
                    earlier,
                })
            }
            Left::UnderWay { state, progress } => {
                let actions = self.adopt(&job, Some(progress.slot));
                self.spawn(number, |context, job, control| async move {
                    attempt::go_on(&context, &job, control, state, *progress).await
                });
                actions
            }
            Left::Ended { state, report } => {
                self.entries[number].is_told = counts(&report);
                let actions = self.adopt(&job, None);
                self.spawn(number, |context, job, _| async move {
                    attempt::settle(&context, &job, state, *report).await
                });
                actions
            }
            Left::Settled(report) if counts(&report) => {
                self.entries[number].is_told = true;
                self.conclude(number, *report);
                Vec::new()
            }
            Left::Settled(report) => {
                let mut actions = self.adopt(&job, None);
                actions.extend(self.ended(number, *report).await);
                actions
            }
        }
    }

    fn adopt(&mut self, job: &Job, slot: Option<u16>) -> Vec<Action> {
        let submission = self.submission(job);
        self.handle(Event::Adopted {
            job: JobNumber(job.number),
            submission,
            slot,
            attempt: job.attempt,
        })
    }

    fn submission(&self, job: &Job) -> Submission {
        let total = self.dispatcher.queue().capacity().total();
        let (limits, _) = job.task.limits.clamped_to_cores(self.context.cores);
        Submission {
            run: RUN,
            priority: 0,
            amount: amount(&limits, total),
            ready_at: Duration::ZERO,
        }
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
                Action::Release(job) => self.release(place(job)),
                Action::Refuse { job, shortage } => self.refused(place(job), shortage).await,
            }
        }
    }

    fn hear(&mut self, news: News) -> Vec<Action> {
        match news {
            News::Up { number, took } => {
                let job = JobNumber(number);
                self.handle(Event::Up { job, took })
            }
            News::Health { number, judgement } => {
                self.remark(place(JobNumber(number)), remark(judgement));
                Vec::new()
            }
            News::Paused { sandbox, is_paused } => {
                let is_of = |entry: &Entry| {
                    let rest = sandbox.as_str().strip_prefix(entry.job.id.as_str());
                    entry.control.is_some() && rest.is_some_and(is_part)
                };
                if let Some(number) = self.entries.iter().position(is_of) {
                    let judgement = is_paused.then_some(Judgement::Paused);
                    self.remark(number, judgement.and_then(remark));
                }
                Vec::new()
            }
            News::Lingers {
                number,
                firm,
                report,
            } => {
                let job = JobNumber(number);
                self.tell_end(place(job), *report);
                self.handle(Event::Lingers { job, firm })
            }
        }
    }

    fn remark(&mut self, number: usize, remark: Option<String>) {
        let entry = &mut self.entries[number];
        if entry.remark != remark {
            self.context.events.send(RunEvent::Health {
                id: entry.job.id.clone(),
                remark: remark.clone(),
            });
            entry.remark = remark;
        }
    }

    /// Does what other processes ask for.
    async fn heed_requests(&mut self) -> Vec<Action> {
        let taken = self.context.store.take_requests(&self.context.run).await;
        let requests = match taken {
            Ok(requests) => requests,
            Err(error) => {
                tracing::warn!(error = failure::chain(&error), "requests could not be read");
                return Vec::new();
            }
        };
        let places = self.places(requests.iter().filter_map(|it| it.attempt.as_ref()));
        let mut actions = Vec::new();
        for request in requests {
            let Some(id) = request.attempt else {
                match request.kind {
                    RequestKind::Cancel => self.cancellation.cancel(),
                    RequestKind::Release => {
                        (0..self.entries.len()).for_each(|number| self.release(number));
                    }
                }
                continue;
            };
            let Some(&number) = places.get(&id) else {
                tracing::warn!(%id, "a request is about an attempt that this run does not have");
                continue;
            };
            match request.kind {
                RequestKind::Cancel => actions.extend(self.cancel(number)),
                RequestKind::Release => self.release_one(number, id),
            }
        }
        actions
    }

    /// The jobs of these attempts, earlier tries among them; one look at every job for all of them.
    fn places<'a>(
        &self,
        attempts: impl Iterator<Item = &'a SandboxId>,
    ) -> HashMap<SandboxId, usize> {
        let wanted: HashMap<&str, &SandboxId> = attempts.map(|id| (id.as_str(), id)).collect();
        if wanted.is_empty() {
            return HashMap::new();
        }
        let entries = self.entries.iter().enumerate();
        let tries = entries.flat_map(|(number, entry)| {
            let earlier = entry.earlier.iter().map(|earlier| earlier.id.as_str());
            let tries = earlier.chain([entry.job.id.as_str()]);
            tries.map(move |id| (id, number))
        });
        tries
            .filter_map(|(id, number)| Some(((*wanted.get(id)?).clone(), number)))
            .collect()
    }

    /// Gives a job up, whichever of its tries was meant.
    fn cancel(&mut self, number: usize) -> Vec<Action> {
        let entry = &mut self.entries[number];
        entry.is_cancelled = true;
        if let Some(control) = &entry.control {
            control.cancellation.cancel();
        }
        let job = JobNumber(entry.job.number);
        self.handle(Event::Cancelled(Scope::Job(job)))
    }

    /// Lets go of what a try left for inspection.
    fn release_one(&mut self, number: usize, id: SandboxId) {
        let Entry { job, report, .. } = &self.entries[number];
        let (is_latest, is_over) = (job.id == id, report.is_some());
        if is_latest {
            self.release(number);
        }
        // An earlier one has ended for certain.
        if !is_latest || is_over {
            self.remove_kept(id);
        }
    }

    fn release(&self, number: usize) {
        if let Some(control) = &self.entries[number].control {
            control.release.cancel();
        }
    }

    /// Removes what an attempt that has ended left for inspection.
    fn remove_kept(&mut self, id: SandboxId) {
        let context = Arc::clone(self.context);
        let removal = task::spawn("release", async move {
            let removed = async {
                let record = context.store.attempt(&id).await?;
                let now = Timestamp::now();
                cleanup::release(&*context.engine, &context.store, &record, now).await
            };
            match removed.await {
                Ok(left) => left.iter().for_each(|left| tracing::warn!(%id, "{left}")),
                Err(error) => {
                    tracing::warn!(%id, error = failure::chain(&error), "not released");
                }
            }
        });
        self.removals.push(removal);
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
        let unwell = self.entries.iter().filter_map(|entry| {
            Some(UnwellAttempt {
                id: entry.job.id.to_string(),
                remark: entry.remark.clone()?,
            })
        });
        WaitingList {
            waiting: self.dispatcher.queue().waiting() as u64,
            attempts: attempts.take(MOST_LISTED).collect(),
            unwell: unwell.take(MOST_LISTED).collect(),
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

    /// Starts one try.
    fn start(&mut self, number: usize, slot: u16) {
        self.spawn(number, move |context, job, control| async move {
            attempt::run(&context, &job, slot, control).await
        });
    }

    /// Works at one try as a task of its own, so that tries use every core; a panic in it is an
    /// internal error of that try alone.
    fn spawn<F>(&mut self, number: usize, work: impl FnOnce(Arc<Context>, Arc<Job>, Control) -> F)
    where
        F: Future<Output = TaskReport> + Send + 'static,
    {
        let control = Control {
            cancellation: self.cancellation.child(),
            release: Cancellation::default(),
        };
        let entry = &mut self.entries[number];
        entry.control = Some(control.clone());
        let (context, job) = (Arc::clone(self.context), Arc::clone(&entry.job));
        let worked = work(Arc::clone(&context), Arc::clone(&job), control);
        let handle: OwnedTask<TaskReport> = task::spawn("attempt", worked);
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
        entry.earlier.push(earlier_try(report));
        entry.is_told = false;
        entry.remark = None;
        entry.job = Arc::new(next);
    }

    async fn dropped(&mut self, number: usize) {
        // One that has just ended is dropped as well: its report stands. And what only waits is left
        // for another day where nothing more is to be started.
        let entry = &self.entries[number];
        let is_left = self.is_draining && !entry.is_cancelled;
        if entry.report.is_none() && !is_left {
            let report = attempt::cancelled(self.context, &self.entries[number].job).await;
            self.conclude(number, report);
        }
    }

    async fn refused(&mut self, number: usize, shortage: Shortage) {
        let why = format!("the engine's machine is too small: {shortage}");
        let report = attempt::refused(self.context, &self.entries[number].job, why).await;
        self.conclude(number, report);
    }

    fn conclude(&mut self, number: usize, report: TaskReport) {
        let report = self.tell_end(number, report);
        self.entries[number].report = Some(report);
    }

    /// Tells how a job ended, once; gives the report with all that belongs to it.
    fn tell_end(&mut self, number: usize, mut report: TaskReport) -> TaskReport {
        let entry = &mut self.entries[number];
        report.earlier.clone_from(&entry.earlier);
        report.notes.extend(report.earlier.iter().map(|earlier| {
            let reason = earlier.reason.map_or("nothing", |reason| reason.as_str());
            format!(
                "{} before it ended with {reason}: {}",
                earlier.id, earlier.message
            )
        }));
        entry.remark = None;
        if !std::mem::replace(&mut entry.is_told, true) {
            let id = entry.job.id.clone();
            self.context.events.send(RunEvent::Ended {
                id,
                report: Box::new(report.clone()),
            });
        }
        report
    }
}

/// Whether this is what follows the id of an attempt in that of its sandbox.
fn is_part(rest: &str) -> bool {
    rest.is_empty() || rest.starts_with('-')
}

/// What is worth saying about a sandbox: that it works is not.
fn remark(judgement: Judgement) -> Option<String> {
    match judgement {
        Judgement::Busy | Judgement::Idle => None,
        other => Some(other.to_string()),
    }
}

/// Shows that this process lives; finds out whether another has taken the run over.
pub(crate) async fn renew(context: &Context) {
    let renewed = context
        .store
        .renew(&context.run, context.epoch, Timestamp::now());
    match renewed.await {
        Ok(true) => {}
        Ok(false) | Err(StoreError::Superseded { .. }) => context.superseded.cancel(),
        Err(error) => {
            tracing::warn!(
                error = failure::chain(&error),
                "the run's lease was not renewed"
            );
        }
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
