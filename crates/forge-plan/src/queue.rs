//! Which job starts next: by priority, fairly between runs, and only what the host has room for.
//!
//! Jobs of the highest priority go first. Among runs that have such jobs, the one goes first that
//! has the smallest share of the host; within a run, jobs go in the order of submission. Three
//! things keep a job from waiting for ever:
//!
//! - Every [`AGED_START`]th start goes to the oldest job, whatever its priority.
//! - A job whose turn it is and that does not fit lets smaller ones pass for [`PATIENCE`]. Then it
//!   holds the door: nothing else starts until it has.
//! - A job that would not fit on the host with nothing else on it is refused at once.
//!
//! A job runs from its [`Action::Start`] to its [`Event::Ended`]; it may then wait for another try,
//! in its old place. Times are since the run began, and never go back.

mod line;
mod ranked;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use serde::Serialize;

use crate::capacity::{Amount, Capacity, Shortage};
use line::{Line, Place, Size, Standing};

/// Concurrent places; user ids follow from them, so there are at most this many.
pub const MAX_SLOTS: u16 = 4096;
/// One of so many starts goes to the oldest job.
pub const AGED_START: u32 = 8;
/// How long a job that does not fit lets others pass.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Number of a job, given by the caller; no two jobs that wait or run have the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct Job(pub u64);

/// Number of a run, given by the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct RunNumber(pub u32);

/// What a job is to the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Submission {
    /// The run it belongs to.
    pub run: RunNumber,
    /// Higher goes first.
    pub priority: i8,
    /// What it needs of the host while it runs.
    pub amount: Amount,
    /// It does not start before this.
    pub ready_at: Duration,
}

/// Why nothing new shall start for now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hold {
    /// In words, for whoever asks why a job waits.
    pub reason: String,
    /// How many jobs may start all the same, to see how it goes.
    pub probes: u32,
}

/// Which jobs are meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// One.
    Job(Job),
    /// All of a run, also those that are still to come.
    Run(RunNumber),
    /// All, also those that are still to come.
    Everything,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A job was handed in. One that is there already stays as it is.
    Submitted {
        /// Its number.
        job: Job,
        /// What it is.
        submission: Submission,
    },
    /// A job was found to run already, its sandbox there, left by a process before this one. It is
    /// taken in whatever the limits say.
    Adopted {
        /// Its number.
        job: Job,
        /// What it is.
        submission: Submission,
        /// The slot it has, if it is one of this queue's.
        slot: Option<u16>,
    },
    /// The sandbox of a job is there: it is no more a start in flight.
    Started(Job),
    /// A job ended and everything of it is removed.
    Ended {
        /// The job.
        job: Job,
        /// When it shall be tried again, if it shall.
        again: Option<Duration>,
    },
    /// The host turned out to have so much to promise in all. Jobs that will never fit are refused
    /// when their turn comes, so a host that is only away for a while is a matter of
    /// [`Event::Held`].
    CapacityChanged(Amount),
    /// So many starts may be in flight; 0 counts as 1.
    WindowChanged(u32),
    /// So many jobs of this run may run at once; 0 counts as 1, `None` is no limit.
    RunLimited {
        /// The run.
        run: RunNumber,
        /// Its limit.
        limit: Option<u32>,
    },
    /// Nothing more of this run will be submitted: it is forgotten with its last job.
    RunClosed(RunNumber),
    /// Nothing new shall start, or again everything may. Jobs that run go on.
    Held(Option<Hold>),
    /// What is meant shall not start any more. Jobs that run are not touched, but not tried again.
    Cancelled(Scope),
    /// Nothing but that time passed.
    Tick,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Start this job in this slot.
    Start {
        /// The job.
        job: Job,
        /// Its slot, free until now.
        slot: u16,
    },
    /// This job was cancelled and will never start.
    Drop(Job),
    /// This job will never start: the host cannot have room for it.
    Refuse {
        /// The job.
        job: Job,
        /// What there is too little of.
        shortage: Shortage,
    },
    /// Nothing waits and nothing runs.
    Idle,
    /// Something waits for this time: send [`Event::Tick`] then. It replaces what was said before.
    WakeAt(Duration),
}

/// Why a job waits, and how many start before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// 1 for the job that starts next. What comes later or needs room that is not there may change
    /// it.
    pub position: usize,
    /// Why it does not start now.
    pub reason: WaitReason,
}

/// Why a job does not start now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WaitReason {
    /// It would fit; others go first.
    Behind,
    /// So many jobs may run at once, and do, in all or in its run.
    Concurrency(u32),
    /// The host has no room for it now.
    Capacity(Shortage),
    /// So many starts are in flight, and that is as many as the engine takes.
    StartWindow(u32),
    /// Nothing starts, for this reason.
    Held(String),
    /// It was tried and is tried again at this time, or shall not start before it.
    BackOff(Duration),
}

impl fmt::Display for WaitReason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Behind => formatter.write_str("others go first"),
            Self::Concurrency(limit) => write!(formatter, "{limit} may run at once, and do"),
            Self::Capacity(shortage) => shortage.fmt(formatter),
            Self::StartWindow(window) => {
                write!(formatter, "the engine is busy with {window} start(s)")
            }
            Self::Held(reason) => formatter.write_str(reason),
            Self::BackOff(_) => formatter.write_str("a pause before it is tried"),
        }
    }
}

/// A job that waits or runs.
#[derive(Debug)]
struct Entry {
    amount: Amount,
    place: Place,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// It stands in the line.
    Ready,
    /// It does before long.
    Later(Duration),
    /// It is among those that run.
    Running,
}

/// What a job that runs has.
#[derive(Debug)]
struct Running {
    slot: Option<u16>,
    promised: Amount,
    starting: bool,
    cancelled: bool,
}

/// What is known of a run.
#[derive(Debug, Default)]
struct Run {
    /// Its jobs that wait or run.
    jobs: usize,
    running: usize,
    promised: Amount,
    limit: Option<u32>,
    cancelled: bool,
    closed: bool,
    /// Its jobs that wait for a time only.
    later: BTreeSet<(Duration, Job)>,
}

impl Run {
    fn is_full(&self) -> bool {
        self.limit
            .is_some_and(|limit| self.running >= as_count(limit))
    }

    fn is_over(&self) -> bool {
        self.jobs == 0 && (self.closed || (self.limit.is_none() && !self.cancelled))
    }
}

/// A job that did not fit when its turn came.
#[derive(Debug, Clone, Copy)]
struct Passed {
    job: Job,
    since: Duration,
}

/// The queue of one orchestrator.
#[derive(Debug)]
pub struct Queue {
    limit: u32,
    window: u32,
    capacity: Capacity,
    hold: Option<Hold>,
    cancelled: bool,
    jobs: BTreeMap<Job, Entry>,
    running: BTreeMap<Job, Running>,
    starting: usize,
    runs: BTreeMap<RunNumber, Run>,
    line: Line,
    /// When the first of a run's later jobs is ready.
    wakes: BTreeSet<(Duration, RunNumber)>,
    free: BTreeSet<u16>,
    submitted: u64,
    /// Starts since the oldest job had its turn.
    since_oldest: u32,
    passed: Option<Passed>,
}

impl Queue {
    /// A queue for a host that can promise `total` in all, with at most `limit` jobs at once
    /// (`None` and more than that: [`MAX_SLOTS`]; 0 counts as 1) and `window` starts in flight.
    #[must_use]
    pub fn new(limit: Option<u32>, total: Amount, window: u32) -> Self {
        let most = u32::from(MAX_SLOTS);
        Self {
            limit: limit.unwrap_or(most).clamp(1, most),
            window: window.max(1),
            capacity: Capacity::new(total),
            hold: None,
            cancelled: false,
            jobs: BTreeMap::new(),
            running: BTreeMap::new(),
            starting: 0,
            runs: BTreeMap::new(),
            line: Line::default(),
            wakes: BTreeSet::new(),
            free: (0..MAX_SLOTS).collect(),
            submitted: 0,
            since_oldest: 0,
            passed: None,
        }
    }

    /// Jobs that wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.jobs.len() - self.running.len()
    }

    /// Jobs that run, those that start among them.
    #[must_use]
    pub fn running(&self) -> usize {
        self.running.len()
    }

    /// Starts in flight.
    #[must_use]
    pub const fn starting(&self) -> usize {
        self.starting
    }

    /// What the host has, and what of it is promised.
    #[must_use]
    pub const fn capacity(&self) -> &Capacity {
        &self.capacity
    }

    /// Whether more would start at once if what runs took less room, where `leaving` of what runs
    /// are about to end anyway.
    #[must_use]
    pub fn wants_room(&self, leaving: usize) -> bool {
        let held = self.hold.as_ref().is_some_and(|hold| hold.probes == 0);
        if held || self.starting >= as_count(self.window) || self.waiting() <= leaving {
            return false;
        }
        let first = self.line.first().and_then(|job| self.jobs.get(&job));
        first.is_some_and(|first| {
            let full = self.running.len() >= as_count(self.limit);
            full || self.capacity.fits(&first.amount).is_err()
        })
    }

    /// Decides what follows from `event`.
    pub fn handle(&mut self, event: Event, now: Duration) -> Vec<Action> {
        let mut actions = Vec::new();
        self.note(event, now, &mut actions);
        self.ripen(now);
        self.admit(now, &mut actions);
        if self.jobs.is_empty() {
            actions.push(Action::Idle);
        } else if let Some(&(at, _)) = self.wakes.first() {
            actions.push(Action::WakeAt(at));
        }
        actions
    }

    /// Why a job waits, or `None` when it does not. The position takes one look at every run, none
    /// at other jobs.
    #[must_use]
    pub fn why_waiting(&self, job: Job) -> Option<Waiting> {
        let entry = self.jobs.get(&job)?;
        if entry.state == State::Running {
            return None;
        }
        Some(Waiting {
            position: self.position(job, &entry.place),
            reason: self.reason(entry),
        })
    }

    fn position(&self, job: Job, place: &Place) -> usize {
        let position = 1 + self.line.before(place);
        // Whoever holds the door goes before all those before whom it would otherwise not go.
        match self.at_the_door().and_then(|door| self.jobs.get(&door)) {
            Some(_) if self.at_the_door() == Some(job) => 1,
            Some(door) if position <= self.line.before(&door.place) => position + 1,
            _ => position,
        }
    }

    fn reason(&self, entry: &Entry) -> WaitReason {
        let run_limit = self
            .runs
            .get(&entry.place.run)
            .and_then(|run| run.limit.filter(|_| run.is_full()));
        if let State::Later(until) = entry.state {
            WaitReason::BackOff(until)
        } else if let Some(hold) = &self.hold {
            WaitReason::Held(hold.reason.clone())
        } else if let Some(limit) = run_limit {
            WaitReason::Concurrency(limit)
        } else if self.running.len() >= as_count(self.limit) {
            WaitReason::Concurrency(self.limit)
        } else if self.starting >= as_count(self.window) {
            WaitReason::StartWindow(self.window)
        } else if let Err(shortage) = self.capacity.fits(&entry.amount) {
            WaitReason::Capacity(shortage)
        } else {
            WaitReason::Behind
        }
    }

    fn note(&mut self, event: Event, now: Duration, actions: &mut Vec<Action>) {
        match event {
            Event::Submitted { job, submission } => self.submit(job, &submission, now, actions),
            Event::Adopted {
                job,
                submission,
                slot,
            } => self.adopt(job, &submission, slot),
            Event::Started(job) => {
                if let Some(running) = self.running.get_mut(&job) {
                    self.starting -= usize::from(running.starting);
                    running.starting = false;
                }
            }
            Event::Ended { job, again } => self.end(job, again, now, actions),
            Event::CapacityChanged(total) => {
                self.capacity.set_total(total);
                let runs: Vec<RunNumber> = self.runs.keys().copied().collect();
                runs.into_iter().for_each(|run| self.settle(run));
            }
            Event::WindowChanged(window) => self.window = window.max(1),
            Event::RunLimited { run, limit } => {
                self.runs.entry(run).or_default().limit = limit.map(|limit| limit.max(1));
                self.settle(run);
            }
            Event::RunClosed(run) => {
                self.runs.entry(run).or_default().closed = true;
                self.settle(run);
            }
            Event::Held(hold) => self.hold = hold,
            Event::Cancelled(scope) => self.cancel(scope, actions),
            Event::Tick => {}
        }
    }

    fn submit(
        &mut self,
        job: Job,
        submission: &Submission,
        now: Duration,
        actions: &mut Vec<Action>,
    ) {
        if self.jobs.contains_key(&job) {
            return;
        }
        let run = self.runs.get(&submission.run);
        if self.cancelled || run.is_some_and(|run| run.cancelled) {
            actions.push(Action::Drop(job));
            return;
        }
        if let Err(shortage) = self.capacity.fits(&submission.amount)
            && shortage.never()
        {
            actions.push(Action::Refuse { job, shortage });
            return;
        }
        self.enter(job, submission);
        self.wait(job, submission.ready_at, now);
    }

    fn adopt(&mut self, job: Job, submission: &Submission, slot: Option<u16>) {
        if self.jobs.contains_key(&job) {
            return;
        }
        self.enter(job, submission);
        let slot = slot.filter(|slot| self.free.remove(slot));
        let promised = self.capacity.promise_anyway(&submission.amount);
        self.run(job, slot, promised, false);
    }

    /// Takes a job in that neither waits nor runs yet.
    fn enter(&mut self, job: Job, submission: &Submission) {
        let place = Place {
            run: submission.run,
            priority: submission.priority,
            size: Size::of(&submission.amount, &self.capacity),
            number: self.submitted,
        };
        self.submitted += 1;
        self.runs.entry(submission.run).or_default().jobs += 1;
        let entry = Entry {
            amount: submission.amount,
            place,
            state: State::Running,
        };
        self.jobs.insert(job, entry);
    }

    /// Lets a job that does not wait do so, until `ready_at` outside of the line.
    fn wait(&mut self, job: Job, ready_at: Duration, now: Duration) {
        let Some(entry) = self.jobs.get_mut(&job) else {
            return;
        };
        if ready_at <= now {
            entry.state = State::Ready;
            self.line.push(&entry.place, job);
            return;
        }
        entry.state = State::Later(ready_at);
        let run = entry.place.run;
        self.change_later(run, |later| later.insert((ready_at, job)));
    }

    /// Takes a job out of wherever it waits.
    fn stop_waiting(&mut self, job: Job) {
        let Some(entry) = self.jobs.get_mut(&job) else {
            return;
        };
        let run = entry.place.run;
        match std::mem::replace(&mut entry.state, State::Running) {
            State::Ready => self.line.remove(&entry.place),
            State::Later(at) => self.change_later(run, |later| later.remove(&(at, job))),
            State::Running => {}
        }
        self.passed = self.passed.filter(|passed| passed.job != job);
    }

    /// Changes which jobs of a run wait for a time, and with it when the first of them wakes.
    fn change_later(
        &mut self,
        number: RunNumber,
        change: impl FnOnce(&mut BTreeSet<(Duration, Job)>) -> bool,
    ) {
        let Some(run) = self.runs.get_mut(&number) else {
            return;
        };
        let before = run.later.first().map(|&(at, _)| at);
        change(&mut run.later);
        let after = run.later.first().map(|&(at, _)| at);
        if before != after {
            if let Some(at) = before {
                self.wakes.remove(&(at, number));
            }
            self.wakes.extend(after.map(|at| (at, number)));
        }
    }

    /// Forgets a job that neither waits nor runs any more.
    fn leave(&mut self, job: Job) {
        if let Some(entry) = self.jobs.remove(&job) {
            if let Some(run) = self.runs.get_mut(&entry.place.run) {
                run.jobs -= 1;
            }
            self.settle(entry.place.run);
        }
    }

    /// Counts a job among those that run.
    fn run(&mut self, job: Job, slot: Option<u16>, promised: Amount, starting: bool) {
        let running = Running {
            slot,
            promised,
            starting,
            cancelled: false,
        };
        self.running.insert(job, running);
        self.starting += usize::from(starting);
        self.change_run_of(job, |run| {
            run.running += 1;
            run.promised = run.promised.saturating_add(&promised);
        });
    }

    fn end(&mut self, job: Job, again: Option<Duration>, now: Duration, actions: &mut Vec<Action>) {
        let Some(running) = self.running.remove(&job) else {
            return;
        };
        self.starting -= usize::from(running.starting);
        self.capacity.release(&running.promised);
        self.free.extend(running.slot);
        let mut cancelled = running.cancelled || self.cancelled;
        self.change_run_of(job, |run| {
            run.running -= 1;
            run.promised = run.promised.saturating_sub(&running.promised);
            cancelled |= run.cancelled;
        });
        match again {
            Some(at) if !cancelled => self.wait(job, at, now),
            Some(_) => {
                self.leave(job);
                actions.push(Action::Drop(job));
            }
            None => self.leave(job),
        }
    }

    fn change_run_of(&mut self, job: Job, change: impl FnOnce(&mut Run)) {
        let number = self.jobs.get(&job).map(|entry| entry.place.run);
        if let Some((number, run)) = number.zip(number.and_then(|run| self.runs.get_mut(&run))) {
            change(run);
            self.settle(number);
        }
    }

    /// Gives a run the place in the line that follows from what it has, or forgets it.
    fn settle(&mut self, number: RunNumber) {
        let Some(run) = self.runs.get(&number) else {
            return;
        };
        if run.is_over() {
            self.runs.remove(&number);
            self.line.forget(number);
            return;
        }
        let standing = Standing {
            share: self.capacity.share(&run.promised),
            running: run.running,
        };
        self.line.set_standing(number, standing, !run.is_full());
    }

    fn cancel(&mut self, scope: Scope, actions: &mut Vec<Action>) {
        match scope {
            Scope::Job(job) => match self.running.get_mut(&job) {
                Some(running) => running.cancelled = true,
                None => self.drop_waiting(job, actions),
            },
            Scope::Run(run) => {
                self.runs.entry(run).or_default().cancelled = true;
                self.drop_all_of(run, actions);
                self.settle(run);
            }
            Scope::Everything => {
                self.cancelled = true;
                let runs: Vec<RunNumber> = self.runs.keys().copied().collect();
                for run in runs {
                    self.drop_all_of(run, actions);
                }
            }
        }
    }

    fn drop_all_of(&mut self, run: RunNumber, actions: &mut Vec<Action>) {
        let ready = self.line.jobs_of(run);
        let ready = ready.into_iter().map(|(_, job)| job);
        let later = self.runs.get(&run).into_iter();
        let later = later.flat_map(|run| run.later.iter().map(|&(_, job)| job));
        let jobs: Vec<Job> = ready.chain(later).collect();
        for job in jobs {
            self.drop_waiting(job, actions);
        }
    }

    fn drop_waiting(&mut self, job: Job, actions: &mut Vec<Action>) {
        if self.jobs.contains_key(&job) {
            self.stop_waiting(job);
            self.leave(job);
            actions.push(Action::Drop(job));
        }
    }

    /// Puts the jobs into the line whose time has come.
    fn ripen(&mut self, now: Duration) {
        while let Some(&(at, number)) = self.wakes.first() {
            let first = self.runs.get(&number).and_then(|run| run.later.first());
            let Some(&(_, job)) = first.filter(|_| at <= now) else {
                break;
            };
            self.stop_waiting(job);
            self.wait(job, now, now);
        }
    }

    /// Starts whatever may start.
    fn admit(&mut self, now: Duration, actions: &mut Vec<Action>) {
        while self.may_start() {
            let Some(job) = self.choose(now, actions) else {
                break;
            };
            let Some(action) = self.start(job) else {
                break;
            };
            actions.push(action);
        }
    }

    fn may_start(&self) -> bool {
        self.running.len() < as_count(self.limit)
            && self.starting < as_count(self.window)
            && self.hold.as_ref().is_none_or(|hold| hold.probes > 0)
    }

    /// The job that starts now, if one can. Refuses those on the way that never can.
    fn choose(&mut self, now: Duration, actions: &mut Vec<Action>) -> Option<Job> {
        loop {
            let door = self.at_the_door().filter(|_| self.door_is_held(now));
            let oldest_is_due = self.since_oldest >= AGED_START - 1;
            let due = match door {
                Some(job) => job,
                None if oldest_is_due => self.line.oldest()?,
                None => self.line.first()?,
            };
            let amount = self.jobs.get(&due)?.amount;
            match self.capacity.fits(&amount) {
                Ok(()) => return Some(due),
                Err(shortage) if shortage.never() => {
                    self.stop_waiting(due);
                    self.leave(due);
                    actions.push(Action::Refuse { job: due, shortage });
                }
                Err(_) if door.is_some() => return None,
                Err(_) => {
                    let passed = Passed {
                        job: due,
                        since: now,
                    };
                    self.passed.get_or_insert(passed);
                    return self.line.first_that(|job| {
                        let entry = self.jobs.get(&job);
                        entry.is_some_and(|entry| self.capacity.fits(&entry.amount).is_ok())
                    });
                }
            }
        }
    }

    /// The job that was passed and whose run may start more.
    fn at_the_door(&self) -> Option<Job> {
        let job = self.passed?.job;
        let run = self.jobs.get(&job)?.place.run;
        self.line.is_open(run).then_some(job)
    }

    fn door_is_held(&self, now: Duration) -> bool {
        self.passed
            .is_some_and(|passed| now.saturating_sub(passed.since) >= PATIENCE)
    }

    fn start(&mut self, job: Job) -> Option<Action> {
        let amount = self.jobs.get(&job)?.amount;
        let slot = *self.free.first()?;
        let promised = self.capacity.promise(&amount).ok()?;
        self.free.remove(&slot);
        let is_oldest = self.line.oldest() == Some(job);
        self.since_oldest = if is_oldest {
            0
        } else {
            self.since_oldest.saturating_add(1)
        };
        if let Some(hold) = &mut self.hold {
            hold.probes = hold.probes.saturating_sub(1);
        }
        self.stop_waiting(job);
        self.run(job, Some(slot), promised, true);
        Some(Action::Start { job, slot })
    }
}

fn as_count(value: u32) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests;
