//! Which job starts next: first come, first served, at most so many at once, each with a slot of
//! its own from which its user id follows.

use std::collections::{BTreeSet, VecDeque};

/// Number of a job, in the order of submission.
pub type Job = usize;

/// Concurrent places; user ids follow from them, so there are at most this many.
pub const MAX_SLOTS: u16 = 4096;

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A job was handed in.
    Submitted(Job),
    /// A job ended and everything of it is removed.
    Ended(Job),
    /// Nothing new shall start.
    Cancelled,
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
    /// This job will never start.
    Drop(Job),
    /// Nothing waits and nothing runs.
    Idle,
}

/// The queue of one run.
#[derive(Debug)]
pub struct Queue {
    limit: usize,
    waiting: VecDeque<Job>,
    running: Vec<(Job, u16)>,
    free: BTreeSet<u16>,
    cancelled: bool,
}

impl Queue {
    /// A queue that runs at most `limit` jobs at once (1 to [`MAX_SLOTS`]).
    #[must_use]
    pub fn new(limit: u16) -> Self {
        let limit = limit.clamp(1, MAX_SLOTS);
        Self {
            limit: usize::from(limit),
            waiting: VecDeque::new(),
            running: Vec::new(),
            free: (0..limit).collect(),
            cancelled: false,
        }
    }

    /// Decides what follows from `event`.
    pub fn handle(&mut self, event: Event) -> Vec<Action> {
        let mut actions = Vec::new();
        match event {
            Event::Submitted(job) if self.cancelled => actions.push(Action::Drop(job)),
            Event::Submitted(job) => self.waiting.push_back(job),
            Event::Ended(job) => {
                if let Some(index) = self.running.iter().position(|&(running, _)| running == job) {
                    let (_, slot) = self.running.swap_remove(index);
                    self.free.insert(slot);
                }
            }
            Event::Cancelled => {
                self.cancelled = true;
                actions.extend(self.waiting.drain(..).map(Action::Drop));
            }
        }
        while self.running.len() < self.limit {
            let Some(&slot) = self.free.first() else {
                break;
            };
            let Some(job) = self.waiting.pop_front() else {
                break;
            };
            self.free.remove(&slot);
            self.running.push((job, slot));
            actions.push(Action::Start { job, slot });
        }
        if self.running.is_empty() && self.waiting.is_empty() {
            actions.push(Action::Idle);
        }
        actions
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn jobs_start_in_order_and_no_more_than_allowed() {
        let mut queue = Queue::new(2);
        let start = |job, slot| Action::Start { job, slot };
        assert_eq!(queue.handle(Event::Submitted(0)), [start(0, 0)]);
        assert_eq!(queue.handle(Event::Submitted(1)), [start(1, 1)]);
        assert_eq!(queue.handle(Event::Submitted(2)), []);
        assert_eq!(queue.handle(Event::Ended(1)), [start(2, 1)]);
        assert_eq!(queue.handle(Event::Ended(0)), []);
        assert_eq!(queue.handle(Event::Ended(2)), [Action::Idle]);
    }

    #[test]
    fn cancelling_drops_what_waits_and_lets_the_rest_end() {
        let mut queue = Queue::new(1);
        queue.handle(Event::Submitted(0));
        queue.handle(Event::Submitted(1));
        assert_eq!(queue.handle(Event::Cancelled), [Action::Drop(1)]);
        assert_eq!(queue.handle(Event::Submitted(2)), [Action::Drop(2)]);
        assert_eq!(queue.handle(Event::Ended(0)), [Action::Idle]);
    }

    proptest! {
        #[test]
        fn every_job_starts_once_and_slots_are_never_shared(
            limit in 1_u16..6,
            ends in prop::collection::vec(any::<prop::sample::Index>(), 0..60),
        ) {
            let mut queue = Queue::new(limit);
            let mut running: Vec<(Job, u16)> = Vec::new();
            let mut started = Vec::new();
            let mut note = |actions: Vec<Action>, running: &mut Vec<(Job, u16)>| {
                for action in actions {
                    if let Action::Start { job, slot } = action {
                        assert!(running.iter().all(|&(_, taken)| taken != slot));
                        running.push((job, slot));
                        started.push(job);
                    }
                }
            };
            for job in 0..20 {
                let actions = queue.handle(Event::Submitted(job));
                note(actions, &mut running);
                prop_assert!(running.len() <= usize::from(limit));
            }
            for end in ends {
                if running.is_empty() { break; }
                let (job, _) = running.remove(end.index(running.len()));
                let actions = queue.handle(Event::Ended(job));
                note(actions, &mut running);
                prop_assert!(running.len() <= usize::from(limit));
            }
            while let Some((job, _)) = running.pop() {
                let actions = queue.handle(Event::Ended(job));
                note(actions, &mut running);
            }
            prop_assert_eq!(started, (0..20).collect::<Vec<_>>());
        }
    }
}
