//! The queue: random sequences of events against a model that keeps what must be true by the
//! simplest means.

use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;

use super::super::*;
use super::{GIB, host, memory, seconds};
use crate::capacity::Resource;

/// What may happen next in a random sequence.
#[derive(Debug, Clone)]
enum Step {
    Submit {
        run: u32,
        priority: i8,
        amount: Amount,
        delay: u64,
    },
    Adopt {
        run: u32,
        slot: Option<u16>,
    },
    Started(prop::sample::Index),
    Ended(prop::sample::Index, Option<u64>),
    Capacity(u64),
    Window(u32),
    RunLimited(u32, Option<u32>),
    Held(Option<u32>),
    CancelWaiting(prop::sample::Index),
    CancelRunning(prop::sample::Index),
    CancelRun(u32),
    CancelAll,
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let index = any::<prop::sample::Index>;
    let amount = (0_u64..3000, 0_u64..7).prop_map(|(cpu_millis, gibibytes)| Amount {
        cpu_millis,
        ..memory(gibibytes)
    });
    prop_oneof![
        10 => (0_u32..4, -2_i8..3, amount, prop_oneof![4 => Just(0), 1 => 0_u64..60])
            .prop_map(|(run, priority, amount, delay)| Step::Submit { run, priority, amount, delay }),
        1 => (0_u32..4, prop::option::of(0_u16..8)).prop_map(|(run, slot)| Step::Adopt { run, slot }),
        6 => index().prop_map(Step::Started),
        8 => (index(), prop::option::of(0_u64..60)).prop_map(|(job, again)| Step::Ended(job, again)),
        1 => (0_u64..12).prop_map(Step::Capacity),
        1 => (0_u32..6).prop_map(Step::Window),
        1 => (0_u32..4, prop::option::of(0_u32..3)).prop_map(|(run, limit)| Step::RunLimited(run, limit)),
        1 => prop::option::of(0_u32..2).prop_map(Step::Held),
        1 => index().prop_map(Step::CancelWaiting),
        1 => index().prop_map(Step::CancelRunning),
        1 => (0_u32..20).prop_map(Step::CancelRun),
        4 => (0_u64..40).prop_map(Step::Pass),
    ]
}

#[derive(Debug, Clone, Copy)]
struct ModelJob {
    run: u32,
    amount: Amount,
    ready_at: Duration,
}

#[derive(Debug)]
struct ModelRunning {
    job: ModelJob,
    slot: Option<u16>,
    starting: bool,
    promised: Amount,
    cancelled: bool,
}

/// What must be true of any queue, kept by the simplest means.
struct Model {
    queue: Queue,
    now: Duration,
    limit: usize,
    window: usize,
    total: Amount,
    probes: Option<u32>,
    run_limits: BTreeMap<u32, usize>,
    cancelled_runs: BTreeSet<u32>,
    all_cancelled: bool,
    waiting: BTreeMap<Job, ModelJob>,
    running: BTreeMap<Job, ModelRunning>,
    next: u64,
}

impl Model {
    fn new(limit: u32) -> Self {
        let total = Amount {
            cpu_millis: 2000,
            ..host(8)
        };
        Self {
            queue: Queue::new(Some(limit), total, 3),
            now: Duration::ZERO,
            limit: usize::try_from(limit).unwrap(),
            window: 3,
            total,
            probes: None,
            run_limits: BTreeMap::new(),
            cancelled_runs: BTreeSet::new(),
            all_cancelled: false,
            waiting: BTreeMap::new(),
            running: BTreeMap::new(),
            next: 0,
        }
    }

    fn pick<T>(jobs: &BTreeMap<Job, T>, index: &prop::sample::Index) -> Option<Job> {
        let jobs: Vec<Job> = jobs.keys().copied().collect();
        (!jobs.is_empty()).then(|| jobs[index.index(jobs.len())])
    }

    fn is_cancelled(&self, run: u32) -> bool {
        self.all_cancelled || self.cancelled_runs.contains(&run)
    }

    fn clamped(&self, amount: &Amount) -> Amount {
        Amount {
            cpu_millis: amount.cpu_millis.min(self.total.cpu_millis),
            ..*amount
        }
    }

    /// Which jobs have to be dropped by what `step` leads to.
    fn perform(&mut self, step: &Step) -> TestCaseResult {
        let mut dropped = BTreeSet::new();
        let event = match step {
            Step::Submit {
                run,
                priority,
                amount,
                delay,
            } => self.submit(*run, *priority, *amount, *delay, &mut dropped),
            Step::Adopt { run, slot } => self.adopt(*run, *slot),
            Step::Started(index) => match Self::pick(&self.running, index) {
                Some(job) => {
                    self.running.get_mut(&job).unwrap().starting = false;
                    Event::Started(job)
                }
                None => Event::Tick,
            },
            Step::Ended(index, again) => match Self::pick(&self.running, index) {
                Some(job) => self.end(job, *again, &mut dropped),
                None => Event::Tick,
            },
            Step::Capacity(gibibytes) => {
                self.total.memory_bytes = gibibytes * GIB;
                Event::CapacityChanged(self.total)
            }
            Step::Window(window) => {
                self.window = usize::try_from(*window).unwrap().max(1);
                Event::WindowChanged(*window)
            }
            Step::RunLimited(run, limit) => self.limit_run(*run, *limit),
            Step::Held(probes) => {
                self.probes = *probes;
                let hold = |probes| Hold {
                    reason: "held".to_owned(),
                    probes,
                };
                Event::Held(probes.map(hold))
            }
            Step::CancelWaiting(index) => match Self::pick(&self.waiting, index) {
                Some(job) => {
                    dropped.insert(job);
                    Event::Cancelled(Scope::Job(job))
                }
                None => Event::Tick,
            },
            Step::CancelRunning(index) => match Self::pick(&self.running, index) {
                Some(job) => {
                    self.running.get_mut(&job).unwrap().cancelled = true;
                    Event::Cancelled(Scope::Job(job))
                }
                None => Event::Tick,
            },
            Step::CancelRun(run) => {
                self.cancelled_runs.insert(*run);
                let jobs = self.waiting.iter().filter(|(_, job)| job.run == *run);
                dropped.extend(jobs.map(|(job, _)| *job));
                Event::Cancelled(Scope::Run(RunNumber(*run)))
            }
            Step::CancelAll => {
                self.all_cancelled = true;
                dropped.extend(self.waiting.keys());
                Event::Cancelled(Scope::Everything)
            }
            Step::Pass(time) => {
                self.now += seconds(*time);
                Event::Tick
            }
        };
        let actions = self.queue.handle(event, self.now);
        self.check(&actions, &dropped)
    }

    fn submit(
        &mut self,
        run: u32,
        priority: i8,
        amount: Amount,
        delay: u64,
        dropped: &mut BTreeSet<Job>,
    ) -> Event {
        let job = Job(self.next);
        self.next += 1;
        let ready_at = self.now + seconds(delay);
        if self.is_cancelled(run) {
            dropped.insert(job);
        }
        let known = ModelJob {
            run,
            amount,
            ready_at,
        };
        self.waiting.insert(job, known);
        let submission = Submission {
            run: RunNumber(run),
            priority,
            amount,
            ready_at,
        };
        Event::Submitted { job, submission }
    }

    fn adopt(&mut self, run: u32, slot: Option<u16>) -> Event {
        let job = Job(self.next);
        self.next += 1;
        let amount = memory(1);
        let taken = self.running.values().any(|other| other.slot == slot);
        let running = ModelRunning {
            job: ModelJob {
                run,
                amount,
                ready_at: self.now,
            },
            slot: slot.filter(|_| !taken),
            starting: false,
            promised: amount,
            cancelled: false,
        };
        self.running.insert(job, running);
        let submission = Submission {
            run: RunNumber(run),
            priority: 0,
            amount,
            ready_at: self.now,
        };
        Event::Adopted {
            job,
            submission,
            slot,
        }
    }

    fn end(&mut self, job: Job, again: Option<u64>, dropped: &mut BTreeSet<Job>) -> Event {
        let running = self.running.remove(&job).unwrap();
        let again = again.map(|pause| self.now + seconds(pause));
        if let Some(ready_at) = again {
            if running.cancelled || self.is_cancelled(running.job.run) {
                dropped.insert(job);
            }
            let waiting = ModelJob {
                ready_at,
                ..running.job
            };
            self.waiting.insert(job, waiting);
        }
        Event::Ended { job, again }
    }

    fn limit_run(&mut self, run: u32, limit: Option<u32>) -> Event {
        match limit {
            Some(limit) => {
                let limit = usize::try_from(limit).unwrap().max(1);
                self.run_limits.insert(run, limit);
            }
            None => {
                self.run_limits.remove(&run);
            }
        }
        let run = RunNumber(run);
        Event::RunLimited { run, limit }
    }

    fn check(&mut self, actions: &[Action], dropped: &BTreeSet<Job>) -> TestCaseResult {
        let mut found = BTreeSet::new();
        let mut wake_at = None;
        for action in actions {
            match action {
                Action::Start { job, slot } => self.check_start(*job, *slot)?,
                Action::Drop(job) => {
                    prop_assert!(self.waiting.remove(job).is_some());
                    prop_assert!(found.insert(*job));
                }
                Action::Refuse { job, shortage } => {
                    let known = self.waiting.remove(job);
                    let wants = known.map_or(0, |known| known.amount.memory_bytes);
                    prop_assert!(wants > self.total.memory_bytes && shortage.never());
                }
                Action::Idle => prop_assert!(self.waiting.is_empty() && self.running.is_empty()),
                Action::WakeAt(at) => wake_at = Some(*at),
            }
        }
        prop_assert_eq!(&found, dropped);
        let later = self.waiting.values().map(|job| job.ready_at);
        prop_assert_eq!(wake_at, later.filter(|at| *at > self.now).min());
        if self.waiting.is_empty() && self.running.is_empty() {
            prop_assert!(actions.contains(&Action::Idle));
        }
        prop_assert_eq!(self.queue.waiting(), self.waiting.len());
        prop_assert_eq!(self.queue.running(), self.running.len());
        let ready = self.waiting.values().any(|job| job.ready_at <= self.now);
        let may_start = self.probes.is_none_or(|probes| probes > 0);
        prop_assert!(
            !(ready && may_start && self.running.is_empty()),
            "nothing runs and nothing starts"
        );
        for job in self.waiting.keys() {
            prop_assert!(self.queue.why_waiting(*job).is_some());
        }
        for job in self.running.keys() {
            prop_assert_eq!(self.queue.why_waiting(*job), None);
        }
        Ok(())
    }

    fn check_start(&mut self, job: Job, slot: u16) -> TestCaseResult {
        let known = self.waiting.remove(&job);
        prop_assert!(known.is_some(), "{job:?} does not wait");
        let known = known.unwrap();
        prop_assert!(known.ready_at <= self.now);
        prop_assert!(slot < MAX_SLOTS);
        let taken = self.running.values().any(|other| other.slot == Some(slot));
        prop_assert!(!taken, "slot {slot} is taken");
        if let Some(probes) = &mut self.probes {
            prop_assert!(*probes > 0);
            *probes -= 1;
        }
        let running = ModelRunning {
            job: known,
            slot: Some(slot),
            starting: true,
            promised: self.clamped(&known.amount),
            cancelled: false,
        };
        self.running.insert(job, running);
        prop_assert!(self.running.len() <= self.limit);
        let starting = self.running.values().filter(|other| other.starting).count();
        prop_assert!(starting <= self.window);
        let of_run = self
            .running
            .values()
            .filter(|other| other.job.run == known.run);
        let run_limit = self.run_limits.get(&known.run);
        prop_assert!(run_limit.is_none_or(|limit| of_run.count() <= *limit));
        let promised = self.running.values().fold(Amount::ZERO, |sum, other| {
            sum.saturating_add(&other.promised)
        });
        // Whoever wants nothing of a resource may start though more than all of it is promised.
        for resource in Resource::ALL {
            let fits = promised.get(resource) <= self.total.get(resource);
            prop_assert!(fits || known.amount.get(resource) == 0);
        }
        Ok(())
    }

    /// Nothing new comes, everything that runs ends: everything that waits starts.
    fn drain(&mut self) -> TestCaseResult {
        self.perform(&Step::Held(None))?;
        self.perform(&Step::Capacity(8))?;
        for _ in 0..10_000 {
            if let Some(job) = self.running.keys().next().copied() {
                let event = self.end(job, None, &mut BTreeSet::new());
                let actions = self.queue.handle(event, self.now);
                self.check(&actions, &BTreeSet::new())?;
            } else if let Some(at) = self.waiting.values().map(|job| job.ready_at).min() {
                self.now = self.now.max(at);
                self.perform(&Step::Pass(0))?;
            } else {
                return Ok(());
            }
        }
        prop_assert!(false, "{} still wait", self.waiting.len());
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn whatever_happens_no_job_is_lost_doubled_or_started_against_the_limits(
        limit in 1_u32..7, steps in prop::collection::vec(step(), 0..120),
        cancelled_at in prop::option::of(0_usize..400),
    ) {
        let mut model = Model::new(limit);
        for (number, step) in steps.iter().enumerate() {
            if cancelled_at == Some(number) {
                model.perform(&Step::CancelAll)?;
            }
            model.perform(step)?;
        }
        model.drain()?;
        prop_assert_eq!(model.queue.capacity().promised(), &Amount::ZERO);
        prop_assert_eq!(model.queue.free.len(), usize::from(MAX_SLOTS));
    }

    #[test]
    fn the_same_events_lead_to_the_same_decisions(
        steps in prop::collection::vec(step(), 0..60),
    ) {
        let decisions = || {
            let mut model = Model::new(3);
            for step in &steps {
                model.perform(step)?;
            }
            Ok::<_, TestCaseError>(format!("{:?}", model.queue))
        };
        prop_assert_eq!(decisions()?, decisions()?);
    }
}
