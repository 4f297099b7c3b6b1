//! The order in which jobs that may start would: a lane for each run, and in it priority, then the
//! order of submission.
//!
//! Which lane goes first changes with every start and end, so the first job of each lane, priority
//! and size is listed in that order, and only they are: looking at the best of them costs the same
//! however many wait behind. Sizes are apart so that a job that does not fit does not hide smaller
//! ones. A start or an end lists the lane's jobs anew: one for each priority and size that waits in
//! it.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use super::ranked::{Member, Ranked};
use super::{Job, RunNumber};
use crate::capacity::{Amount, Capacity, Resource};

/// Jobs of one size that are looked at for one that fits.
const LOOKED_AT: usize = 4;

/// Of what a job takes the largest part of the host, and how large that part is, in powers of two:
/// at most 4 × 20 sizes, so that the work does not grow with the number of different amounts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Size {
    of: Resource,
    power: u8,
}

impl Size {
    const LEAST: Self = Self {
        of: Resource::Cpu,
        power: 0,
    };
    const MOST: Self = Self {
        of: Resource::Processes,
        power: u8::MAX,
    };

    pub(super) fn of(amount: &Amount, capacity: &Capacity) -> Self {
        let part = |resource: &Resource| capacity.part(amount, *resource);
        let of = Resource::ALL.into_iter().max_by_key(part);
        let of = of.unwrap_or(Resource::Memory);
        let millionths = part(&of).clamp(1, 1_000_000);
        let power = u8::try_from(millionths.ilog2()).unwrap_or(u8::MAX);
        Self { of, power }
    }
}

/// Where a job stands in the line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) run: RunNumber,
    pub(super) priority: i8,
    pub(super) size: Size,
    /// In the order of submission.
    pub(super) number: u64,
}

impl Place {
    fn level(&self) -> Level {
        (Reverse(self.priority), self.size)
    }
}

/// How much a run has already: who has less goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) struct Standing {
    /// Its part of the host, in millionths.
    pub(super) share: u64,
    /// Its jobs that run.
    pub(super) running: usize,
}

type Level = (Reverse<i8>, Size);

/// A job that is the first of its lane, priority and size; ordered as jobs start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Listed {
    priority: Reverse<i8>,
    standing: Standing,
    run: RunNumber,
    member: Member,
}

/// The jobs of one run.
#[derive(Debug)]
struct Lane {
    levels: BTreeMap<Level, Ranked>,
    /// How many wait of each priority.
    waiting: BTreeMap<Reverse<i8>, usize>,
    standing: Standing,
    /// Whether its jobs may start, and so are listed.
    open: bool,
}

impl Default for Lane {
    fn default() -> Self {
        Self {
            levels: BTreeMap::new(),
            waiting: BTreeMap::new(),
            standing: Standing::default(),
            open: true,
        }
    }
}

impl Lane {
    /// How many of the same priority as a job there were submitted before it.
    fn before(&self, place: &Place) -> usize {
        let priority = Reverse(place.priority);
        let levels = (priority, Size::LEAST)..=(priority, Size::MOST);
        let levels = self.levels.range(levels);
        levels.map(|(_, level)| level.before(place.number)).sum()
    }
}

/// The line.
#[derive(Debug, Default)]
pub(super) struct Line {
    lanes: BTreeMap<RunNumber, Lane>,
    listed: BTreeMap<Size, BTreeSet<Listed>>,
    /// The listed jobs in the order of submission.
    oldest: BTreeSet<Member>,
}

impl Line {
    pub(super) fn push(&mut self, place: &Place, job: Job) {
        let lane = self.lanes.entry(place.run).or_default();
        let level = lane.levels.entry(place.level()).or_default();
        let before = level.first();
        level.insert(place.number, job);
        let after = level.first();
        *lane.waiting.entry(Reverse(place.priority)).or_default() += 1;
        self.relist(place, before, after);
    }

    pub(super) fn remove(&mut self, place: &Place) {
        let Some(lane) = self.lanes.get_mut(&place.run) else {
            return;
        };
        let Some(level) = lane.levels.get_mut(&place.level()) else {
            return;
        };
        let before = level.first();
        let removed = level.remove(place.number);
        let after = level.first();
        if level.is_empty() {
            lane.levels.remove(&place.level());
        }
        let priority = Reverse(place.priority);
        if let Some(waiting) = lane.waiting.get_mut(&priority) {
            *waiting -= usize::from(removed.is_some());
            if *waiting == 0 {
                lane.waiting.remove(&priority);
            }
        }
        self.relist(place, before, after);
    }

    /// The jobs of a run that wait, in the order of submission.
    pub(super) fn jobs_of(&self, run: RunNumber) -> Vec<Member> {
        let levels = self.lanes.get(&run).into_iter();
        let levels = levels.flat_map(|lane| lane.levels.values());
        let mut jobs: Vec<Member> = levels.flat_map(Ranked::iter).collect();
        jobs.sort_unstable();
        jobs
    }

    /// Says how much a run has, and whether it may have more.
    pub(super) fn set_standing(&mut self, run: RunNumber, standing: Standing, open: bool) {
        let lane = self.lanes.entry(run).or_default();
        if (lane.standing, lane.open) == (standing, open) {
            return;
        }
        let was = (lane.standing, lane.open);
        (lane.standing, lane.open) = (standing, open);
        for (&(priority, size), level) in &lane.levels {
            let Some(member) = level.first() else {
                continue;
            };
            let listed = |standing| Listed {
                priority,
                standing,
                run,
                member,
            };
            let of_size = self.listed.entry(size).or_default();
            if was.1 {
                of_size.remove(&listed(was.0));
            }
            if open {
                of_size.insert(listed(standing));
            }
            if was.1 && !open {
                self.oldest.remove(&member);
            } else if open && !was.1 {
                self.oldest.insert(member);
            }
        }
    }

    /// Forgets a run of which nothing waits.
    pub(super) fn forget(&mut self, run: RunNumber) {
        self.lanes.remove(&run);
    }

    /// Whether the jobs of a run may start.
    pub(super) fn is_open(&self, run: RunNumber) -> bool {
        self.lanes.get(&run).is_some_and(|lane| lane.open)
    }

    /// The job that goes first.
    pub(super) fn first(&self) -> Option<Job> {
        let firsts = self.listed.values().filter_map(BTreeSet::first);
        firsts.min().map(|listed| listed.member.1)
    }

    /// The oldest of those that may start.
    pub(super) fn oldest(&self) -> Option<Job> {
        self.oldest.first().map(|member| member.1)
    }

    /// The job that goes first among those that `fits` takes.
    pub(super) fn first_that(&self, fits: impl Fn(Job) -> bool) -> Option<Job> {
        let mut best: Option<&Listed> = None;
        for of_size in self.listed.values() {
            let better = of_size
                .iter()
                .take(LOOKED_AT)
                .take_while(|listed| best.is_none_or(|best| *listed < best))
                .find(|listed| fits(listed.member.1));
            best = better.or(best);
        }
        best.map(|listed| listed.member.1)
    }

    /// How many go before a job there if nothing else comes and runs take turns. Looks at every
    /// run, and in it at the priorities that wait, not at jobs.
    pub(super) fn before(&self, place: &Place) -> usize {
        let own = self.lanes.get(&place.run);
        let standing = own.map_or(Standing::default(), |lane| lane.standing);
        let of_own = own.map_or(0, |lane| lane.before(place));
        let mut before = of_own;
        for (&run, lane) in &self.lanes {
            if run != place.run && !lane.open {
                continue;
            }
            for (&priority, &waiting) in lane.waiting.range(..=Reverse(place.priority)) {
                if priority != Reverse(place.priority) {
                    before += waiting;
                } else if run != place.run {
                    let turn_first = (lane.standing, run) < (standing, place.run);
                    before += waiting.min(of_own + usize::from(turn_first));
                }
            }
        }
        before
    }

    fn relist(&mut self, place: &Place, before: Option<Member>, after: Option<Member>) {
        let Some(lane) = self.lanes.get(&place.run).filter(|lane| lane.open) else {
            return;
        };
        if before == after {
            return;
        }
        let listed = |member| Listed {
            priority: Reverse(place.priority),
            standing: lane.standing,
            run: place.run,
            member,
        };
        let of_size = self.listed.entry(place.size).or_default();
        if let Some(member) = before {
            of_size.remove(&listed(member));
            self.oldest.remove(&member);
        }
        if let Some(member) = after {
            of_size.insert(listed(member));
            self.oldest.insert(member);
        }
    }
}
