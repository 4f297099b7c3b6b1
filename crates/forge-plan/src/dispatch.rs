//! One orchestrator's decisions about all of its jobs: the queue, how many starts the engine takes,
//! whether it works at all, how its host is doing, and what is tried again, put together.
//!
//! [`Dispatcher::handle`] takes what happened and says what to do; it keeps no clock and calls
//! nobody. Times are since the run began, and never go back.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use forge_core::{Attempt, Reason};

use crate::breaker::{Admission, Breaker, BreakerPolicy, Observation};
use crate::capacity::{Amount, Shortage};
use crate::hold::{HoldPolicy, Measured, Pressure};
use crate::queue::{self, Hold, Job, Queue, Scope, Submission, Waiting};
use crate::retry::RetryPolicy;
use crate::starts::Starts;

/// What an orchestrator is set to.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    /// Jobs at once; `None` is as many as there are slots.
    pub concurrency: Option<u32>,
    /// What the host can promise in all.
    pub total: Amount,
    /// Cores of the host, from which the first window of starts follows.
    pub cores: u32,
    /// What is tried again.
    pub retry: RetryPolicy,
    /// When an engine is left alone.
    pub breaker: BreakerPolicy,
    /// When a host is under pressure.
    pub hold: HoldPolicy,
}

/// What happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A job was handed in.
    Submitted {
        /// Its number.
        job: Job,
        /// What it is.
        submission: Submission,
        /// Tries that it had before, under a process before this one.
        earlier: u32,
    },
    /// A try was found under way, its sandbox there, left by a process before this one.
    Adopted {
        /// The job.
        job: Job,
        /// What it is.
        submission: Submission,
        /// The slot it has.
        slot: Option<u16>,
        /// The how-manieth try it is.
        attempt: Attempt,
    },
    /// The engine has made the sandbox of a job.
    Up {
        /// The job.
        job: Job,
        /// How long it took the engine.
        took: Duration,
    },
    /// A try ended and counts, and its sandbox still stands, for whoever wants to look at it.
    Lingers {
        /// The job.
        job: Job,
        /// Whether that goes on when nothing else is left to do.
        firm: bool,
    },
    /// A try ended, and everything of it is removed.
    Ended {
        /// The job.
        job: Job,
        /// Why it did not complete; `None` when it did.
        reason: Option<Reason>,
    },
    /// How the host is doing.
    Measured(Measured),
    /// What is meant shall not start any more.
    Cancelled(Scope),
    /// Nothing but that time passed.
    Tick,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Make this try of a job, in this slot.
    Start {
        /// The job.
        job: Job,
        /// Its slot, free until now.
        slot: u16,
        /// The how-manieth try it is.
        attempt: Attempt,
    },
    /// The try that ended does not count: another one will be made.
    Again {
        /// The job.
        job: Job,
        /// How long it waits before.
        pause: Duration,
    },
    /// The job was cancelled: it will not be started, or not once more.
    Drop(Job),
    /// The job will never start: the host cannot have room for it.
    Refuse {
        /// The job.
        job: Job,
        /// What there is too little of.
        shortage: Shortage,
    },
    /// What lingers of this job shall be removed now.
    Release(Job),
    /// Nothing waits and nothing runs.
    Idle,
}

/// A try that is being made.
#[derive(Debug, Clone, Copy)]
struct Try {
    began: Duration,
    is_up: bool,
}

/// Decides for all jobs of one orchestrator.
#[derive(Debug)]
pub struct Dispatcher {
    policy: Policy,
    queue: Queue,
    starts: Starts,
    breaker: Breaker,
    pressure: Pressure,
    /// The tries that jobs which have not ended have had, that under way included.
    tries: BTreeMap<Job, u32>,
    running: BTreeMap<Job, Try>,
    /// Running jobs that linger, the longest first, and whether each does firmly.
    lingering: Vec<(Job, bool)>,
    /// Jobs that were told not to linger any more.
    leaving: BTreeSet<Job>,
    /// What the queue was told last.
    window: u32,
    hold: Option<Hold>,
    wake_at: Option<Duration>,
}

impl Dispatcher {
    /// Nothing waits and nothing runs.
    #[must_use]
    pub fn new(policy: Policy) -> Self {
        let starts = Starts::new(policy.cores, u32::from(queue::MAX_SLOTS));
        let window = starts.window();
        Self {
            queue: Queue::new(policy.concurrency, policy.total, window),
            policy,
            starts,
            breaker: Breaker::NEW,
            pressure: Pressure::Calm,
            tries: BTreeMap::new(),
            running: BTreeMap::new(),
            lingering: Vec::new(),
            leaving: BTreeSet::new(),
            window,
            hold: None,
            wake_at: None,
        }
    }

    /// The queue, for whoever wants to know what waits and why.
    #[must_use]
    pub const fn queue(&self) -> &Queue {
        &self.queue
    }

    /// Why a job waits, or `None` when it does not.
    #[must_use]
    pub fn why_waiting(&self, job: Job) -> Option<Waiting> {
        self.queue.why_waiting(job)
    }

    /// When to send [`Event::Tick`] though nothing happens.
    #[must_use]
    pub fn wake_at(&self) -> Option<Duration> {
        let breaker = self.breaker.wake_at(&self.policy.breaker);
        self.wake_at.into_iter().chain(breaker).min()
    }

    /// Decides what follows from `event`.
    pub fn handle(&mut self, event: Event, now: Duration) -> Vec<Action> {
        let mut actions = Vec::new();
        match event {
            Event::Submitted {
                job,
                submission,
                earlier,
            } => {
                if earlier > 0 {
                    self.tries.insert(job, earlier);
                }
                self.tell(
                    queue::Event::Submitted { job, submission },
                    now,
                    &mut actions,
                );
            }
            Event::Adopted {
                job,
                submission,
                slot,
                attempt,
            } => {
                let is_up = true;
                self.tries.insert(job, attempt.0);
                self.running.insert(job, Try { began: now, is_up });
                let adopted = queue::Event::Adopted {
                    job,
                    submission,
                    slot,
                };
                self.tell(adopted, now, &mut actions);
            }
            Event::Lingers { job, firm } => {
                if self.running.contains_key(&job) && !self.leaving.contains(&job) {
                    self.lingering.push((job, firm));
                }
            }
            Event::Up { job, took } => self.up(job, took, now, &mut actions),
            Event::Ended { job, reason } => self.ended(job, reason, now, &mut actions),
            Event::Measured(measured) => {
                self.pressure = self.pressure.next(&self.policy.hold, &measured);
            }
            Event::Cancelled(scope) => {
                self.tell(queue::Event::Cancelled(scope), now, &mut actions);
            }
            Event::Tick => {
                self.observe(Observation::Nothing, now);
                self.tell(queue::Event::Tick, now, &mut actions);
            }
        }
        self.settle(now, &mut actions);
        self.release(&mut actions);
        if self.queue.waiting() == 0 && self.queue.running() == 0 {
            actions.push(Action::Idle);
        }
        actions
    }

    fn up(&mut self, job: Job, took: Duration, now: Duration, actions: &mut Vec<Action>) {
        let Some(running) = self.running.get_mut(&job).filter(|running| !running.is_up) else {
            return;
        };
        running.is_up = true;
        let began = running.began;
        self.starts.started(now, took);
        self.observe(Observation::Succeeded { began }, now);
        self.tell(queue::Event::Started(job), now, actions);
    }

    fn ended(
        &mut self,
        job: Job,
        reason: Option<Reason>,
        now: Duration,
        actions: &mut Vec<Action>,
    ) {
        let Some(running) = self.running.remove(&job) else {
            return;
        };
        self.leaving.remove(&job);
        self.lingering.retain(|(other, _)| *other != job);
        let began = running.began;
        let is_fault = reason.is_some_and(Reason::is_fault_of_the_engine);
        if is_fault {
            self.observe(Observation::Failed { began }, now);
            if !running.is_up {
                self.starts.failed(now);
            }
        } else if reason.is_none() {
            self.observe(Observation::Succeeded { began }, now);
        }
        let attempt = Attempt(self.tries.get(&job).copied().unwrap_or(1));
        let retried = reason.filter(|reason| reason.is_retried());
        let cause = retried.map(Reason::cause);
        let pause = self.policy.retry.decide(cause, attempt, job.0);
        let again = pause.map(|pause| now.saturating_add(pause));
        self.tell(queue::Event::Ended { job, again }, now, actions);
        // One that was cancelled meanwhile is dropped instead.
        match pause.filter(|_| !actions.contains(&Action::Drop(job))) {
            // A decision of its own comes before what follows from it.
            Some(pause) => actions.insert(0, Action::Again { job, pause }),
            None => {
                self.tries.remove(&job);
            }
        }
    }

    fn observe(&mut self, observation: Observation, now: Duration) {
        self.breaker = self.breaker.next(&self.policy.breaker, observation, now);
    }

    /// Tells the queue, and takes down what it starts.
    fn tell(&mut self, event: queue::Event, now: Duration, actions: &mut Vec<Action>) {
        self.wake_at = None;
        for action in self.queue.handle(event, now) {
            match action {
                queue::Action::Start { job, slot } => {
                    if self.breaker.admission() == Admission::One {
                        self.observe(Observation::Began, now);
                    }
                    let tries = self.tries.entry(job).or_default();
                    *tries += 1;
                    let attempt = Attempt(*tries);
                    let is_up = false;
                    self.running.insert(job, Try { began: now, is_up });
                    actions.push(Action::Start { job, slot, attempt });
                }
                queue::Action::Drop(job) => {
                    self.tries.remove(&job);
                    actions.push(Action::Drop(job));
                }
                queue::Action::Refuse { job, shortage } => {
                    self.tries.remove(&job);
                    actions.push(Action::Refuse { job, shortage });
                }
                queue::Action::WakeAt(at) => self.wake_at = Some(at),
                queue::Action::Idle => {}
            }
        }
    }

    /// Lets the queue know how many starts may be in flight and whether any may, until that is what
    /// it knows: a start may change it.
    fn settle(&mut self, now: Duration, actions: &mut Vec<Action>) {
        loop {
            let (window, hold) = (self.starts.window(), self.hold_now());
            if self.window != window {
                self.window = window;
                self.tell(queue::Event::WindowChanged(window), now, actions);
            } else if self.hold != hold {
                self.hold.clone_from(&hold);
                self.tell(queue::Event::Held(hold), now, actions);
            } else {
                return;
            }
        }
    }

    /// Ends what lingers where its room is wanted, the host is short of something, or nothing else is
    /// left to do.
    fn release(&mut self, actions: &mut Vec<Action>) {
        let is_last = self.queue.waiting() == 0
            && self.running.len() == self.lingering.len() + self.leaving.len();
        let is_short = self.pressure.reason().is_some();
        if is_last || is_short {
            let idle = self
                .lingering
                .extract_if(.., |(_, firm)| is_short || !*firm);
            let idle: Vec<Job> = idle.map(|(job, _)| job).collect();
            self.leaving.extend(&idle);
            actions.extend(idle.into_iter().map(Action::Release));
        }
        let at_once = usize::try_from(self.window).unwrap_or(usize::MAX);
        while !self.lingering.is_empty()
            && self.leaving.len() < at_once
            && self.queue.wants_room(self.leaving.len())
        {
            let (job, _) = self.lingering.remove(0);
            self.leaving.insert(job);
            actions.push(Action::Release(job));
        }
    }

    /// An engine that fails says more than a host that is busy.
    fn hold_now(&self) -> Option<Hold> {
        self.breaker.hold().or_else(|| {
            let reason = self.pressure.reason()?;
            Some(Hold { reason, probes: 0 })
        })
    }
}

#[cfg(test)]
mod tests;
