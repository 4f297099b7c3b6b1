//! Which results are old enough, or too many, to stay on disk.

use std::collections::BTreeSet;

use forge_core::{RunId, SandboxId};
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

/// How long results stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetentionPolicy {
    /// Days after the end of a run, for everything of it.
    pub log_days: u32,
    /// Days after which an image that nobody asks for goes.
    pub image_days: u32,
    /// The most bytes that all results may take together, where they are bounded.
    pub budget_bytes: Option<u64>,
}

impl RetentionPolicy {
    /// Runs that ended before this have nothing left to keep.
    #[must_use]
    pub fn runs_before(&self, now: Timestamp) -> Timestamp {
        before(now, self.log_days)
    }

    /// Images made before this, and not asked for since, go.
    #[must_use]
    pub fn images_before(&self, now: Timestamp) -> Timestamp {
        before(now, self.image_days)
    }
}

fn before(now: Timestamp, days: u32) -> Timestamp {
    let age = SignedDuration::from_hours(24 * i64::from(days));
    now.checked_sub(age).unwrap_or(Timestamp::MIN)
}

/// The results of one attempt on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttemptResults {
    /// The attempt.
    pub id: SandboxId,
    /// Days that its task wants them kept, where it said so.
    pub days: Option<u32>,
    /// Their bytes.
    pub bytes: u64,
}

/// The results of one run that has ended, on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunResults {
    /// The run.
    pub run: RunId,
    /// When it ended.
    pub ended_at: Timestamp,
    /// Whether objects of it are left on an engine, so that the record still needs it.
    pub needed: bool,
    /// Those of its attempts.
    pub attempts: Vec<AttemptResults>,
    /// Bytes of what belongs to no attempt, such as the report.
    pub other_bytes: u64,
}

impl RunResults {
    /// Bytes of everything.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let attempts = self.attempts.iter().map(|attempt| attempt.bytes);
        attempts.fold(self.other_bytes, u64::saturating_add)
    }
}

/// Why results go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Ground {
    /// They are older than they have to be kept.
    Old,
    /// All results together take more than they may.
    OverBudget,
}

/// What goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Removal {
    /// Logs and artifacts of one attempt; the run's report stays.
    Attempt {
        /// Its run.
        run: RunId,
        /// The attempt.
        id: SandboxId,
        /// Bytes that it frees.
        bytes: u64,
    },
    /// Everything of a run.
    Run {
        /// The run.
        run: RunId,
        /// Why.
        ground: Ground,
        /// Whether the record forgets it as well.
        forget: bool,
        /// Bytes that it frees.
        bytes: u64,
    },
}

/// Decides what goes of `runs`, of which no two are the same. `other_bytes` is what results take
/// that nobody may remove: those of runs under way, or that can be gone on with.
///
/// What is old goes first; then, while there is more than the budget allows, whole runs, the oldest
/// first. A run that the record still needs loses its files and stays recorded, and so does one that
/// only had to make room.
#[must_use]
pub fn plan(
    policy: &RetentionPolicy,
    runs: &[RunResults],
    other_bytes: u64,
    now: Timestamp,
) -> Vec<Removal> {
    let mut removals = Vec::new();
    let mut left = other_bytes;
    let mut stay = Vec::new();
    for run in runs {
        if run.ended_at < policy.runs_before(now) {
            removals.push(Removal::Run {
                run: run.run,
                ground: Ground::Old,
                forget: !run.needed,
                bytes: run.bytes(),
            });
            continue;
        }
        let mut bytes = run.bytes();
        for attempt in &run.attempts {
            let days = attempt.days.unwrap_or(policy.log_days);
            if attempt.bytes > 0 && run.ended_at < before(now, days) {
                bytes = bytes.saturating_sub(attempt.bytes);
                removals.push(Removal::Attempt {
                    run: run.run,
                    id: attempt.id.clone(),
                    bytes: attempt.bytes,
                });
            }
        }
        left = left.saturating_add(bytes);
        stay.push((run.ended_at, run.run, bytes, run.bytes()));
    }
    let budget = policy.budget_bytes.unwrap_or(u64::MAX);
    stay.sort_unstable();
    let mut over = BTreeSet::new();
    for (_, run, bytes, whole) in stay {
        if left <= budget {
            break;
        }
        // Nothing is won by a run without files.
        if bytes == 0 {
            continue;
        }
        left = left.saturating_sub(bytes);
        over.insert(run);
        removals.push(Removal::Run {
            run,
            ground: Ground::OverBudget,
            forget: false,
            bytes: whole,
        });
    }
    // Their attempts go with them.
    removals
        .retain(|removal| !matches!(removal, Removal::Attempt { run, .. } if over.contains(run)));
    removals
}

#[cfg(test)]
mod tests {
    use super::*;
    use forge_core::{Attempt, TaskId};
    use proptest::prelude::*;
    use uuid::Uuid;

    const POLICY: RetentionPolicy = RetentionPolicy {
        log_days: 30,
        image_days: 30,
        budget_bytes: None,
    };

    fn now() -> Timestamp {
        "2026-06-30T00:00:00Z".parse().unwrap()
    }

    fn run_id(number: u128) -> RunId {
        RunId::from_uuid(Uuid::from_u128(number))
    }

    fn attempt_id(number: u128) -> SandboxId {
        SandboxId::for_attempt(&TaskId::new("task").unwrap(), &run_id(number), Attempt(1))
    }

    /// A run of one attempt that ended so many days ago; its report takes 1 byte.
    fn run(number: u128, days_ago: i64, bytes: u64) -> RunResults {
        RunResults {
            run: run_id(number),
            ended_at: now() - SignedDuration::from_hours(24 * days_ago),
            needed: false,
            attempts: vec![AttemptResults {
                id: attempt_id(number),
                days: None,
                bytes: bytes - 1,
            }],
            other_bytes: 1,
        }
    }

    fn goes(number: u128, ground: Ground, forget: bool, bytes: u64) -> Removal {
        Removal::Run {
            run: run_id(number),
            ground,
            forget,
            bytes,
        }
    }

    #[test]
    fn a_run_goes_when_it_is_older_than_results_are_kept_and_not_on_the_day() {
        let runs = [run(1, 31, 5), run(2, 30, 5), run(3, 0, 5)];
        let removals = plan(&POLICY, &runs, 0, now());
        assert_eq!(removals, [goes(1, Ground::Old, true, 5)]);
    }

    #[test]
    fn an_old_run_that_the_record_needs_loses_its_files_and_stays_recorded() {
        let needed = RunResults {
            needed: true,
            ..run(1, 31, 5)
        };
        let removals = plan(&POLICY, &[needed], 0, now());
        assert_eq!(removals, [goes(1, Ground::Old, false, 5)]);
    }

    #[test]
    fn results_of_a_task_that_wants_less_go_earlier_and_the_report_stays() {
        let mut results = run(1, 8, 5);
        results.attempts[0].days = Some(7);
        let removals = plan(&POLICY, &[results.clone()], 0, now());
        let expected = Removal::Attempt {
            run: run_id(1),
            id: attempt_id(1),
            bytes: 4,
        };
        assert_eq!(removals, [expected]);
        results.attempts[0].days = Some(8);
        assert_eq!(plan(&POLICY, &[results], 0, now()), []);
    }

    #[test]
    fn nothing_is_removed_twice() {
        let mut results = run(1, 8, 5);
        results.attempts[0].days = Some(7);
        results.attempts[0].bytes = 0;
        assert_eq!(plan(&POLICY, &[results], 0, now()), []);
    }

    #[test]
    fn above_the_budget_the_oldest_go_until_the_rest_fits() {
        let policy = RetentionPolicy {
            budget_bytes: Some(25),
            ..POLICY
        };
        let runs = [run(1, 1, 10), run(2, 3, 10), run(3, 2, 10), run(4, 40, 10)];
        // The one that is too old goes anyway; then 30 bytes are 5 too many.
        let removals = plan(&policy, &runs, 0, now());
        let expected = [
            goes(4, Ground::Old, true, 10),
            goes(2, Ground::OverBudget, false, 10),
        ];
        assert_eq!(removals, expected);
        assert_eq!(plan(&policy, &runs[..2], 5, now()), []);
    }

    #[test]
    fn what_nobody_may_remove_counts_and_stays() {
        let policy = RetentionPolicy {
            budget_bytes: Some(25),
            ..POLICY
        };
        let removals = plan(&policy, &[run(1, 1, 10), run(2, 2, 10)], 100, now());
        let expected = [
            goes(2, Ground::OverBudget, false, 10),
            goes(1, Ground::OverBudget, false, 10),
        ];
        assert_eq!(removals, expected);
    }

    proptest! {
        #[test]
        fn whatever_there_is_the_rest_fits_or_nothing_is_left_to_remove(
            runs in prop::collection::vec((0_i64..60, 1_u64..50, prop::option::of(1_u32..40)), 0..12),
            budget in prop::option::of(0_u64..300),
            other_bytes in 0_u64..100,
        ) {
            let runs: Vec<RunResults> = (1..)
                .zip(runs)
                .map(|(number, (days_ago, bytes, days))| {
                    let mut results = run(number, days_ago, bytes);
                    results.attempts[0].days = days;
                    results
                })
                .collect();
            let policy = RetentionPolicy { budget_bytes: budget, ..POLICY };
            let removals = plan(&policy, &runs, other_bytes, now());
            let mut gone = BTreeSet::new();
            let mut freed = 0;
            for removal in &removals {
                let (run, whole, bytes) = match removal {
                    Removal::Run { run, bytes, .. } => (*run, true, *bytes),
                    Removal::Attempt { run, bytes, .. } => (*run, false, *bytes),
                };
                prop_assert!(gone.insert((run, whole)) && !gone.contains(&(run, !whole)));
                freed += bytes;
            }
            let all: u64 = runs.iter().map(RunResults::bytes).sum();
            let left = all - freed;
            let fits = budget.is_none_or(|budget| left + other_bytes <= budget);
            prop_assert!(fits || left == 0, "{left} bytes are left: {removals:?}");
            // None stays that is older than one that had to make room.
            let of = |run: &RunId| runs.iter().find(|each| each.run == *run).map(|each| each.ended_at);
            let over = removals.iter().filter_map(|removal| match removal {
                Removal::Run { run, ground: Ground::OverBudget, .. } => of(run),
                _ => None,
            });
            if let Some(newest) = over.max() {
                let stays = |results: &&RunResults| !gone.contains(&(results.run, true));
                prop_assert!(runs.iter().filter(stays).all(|results| results.ended_at >= newest));
            }
        }
    }

    #[test]
    fn a_run_that_has_to_make_room_goes_whole_also_what_was_to_go_before() {
        let policy = RetentionPolicy {
            budget_bytes: Some(0),
            ..POLICY
        };
        let mut results = run(1, 8, 5);
        results.attempts[0].days = Some(7);
        let removals = plan(&policy, &[results], 0, now());
        assert_eq!(removals, [goes(1, Ground::OverBudget, false, 5)]);
    }
}
