//! Whether a task that ended is tried again, and when: only what the infrastructure did is.

use std::time::Duration;

use forge_core::{Attempt, Cause};

/// How a pause is spread, so that tasks that failed together do not come back together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Jitter {
    /// Anything from nothing to the whole pause.
    Full,
    /// Anything from half of the pause to the whole.
    Equal,
}

/// How often and how far apart a task is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Tries in all, the first one among them; 0 counts as 1.
    pub attempts: u32,
    /// The pause after the first try.
    pub first: Duration,
    /// By how much each pause is longer than the one before.
    pub factor: u32,
    /// The longest pause.
    pub most: Duration,
    /// How pauses are spread.
    pub jitter: Jitter,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            attempts: 3,
            first: Duration::from_secs(1),
            factor: 4,
            most: Duration::from_secs(60),
            jitter: Jitter::Equal,
        }
    }
}

impl RetryPolicy {
    /// Whether anything of this cause is ever tried again. What the task or its user did would only
    /// happen again, and what the task did is a verdict.
    #[must_use]
    pub const fn retries(cause: Cause) -> bool {
        matches!(cause, Cause::Infrastructure)
    }

    /// How long to wait before the next try, or `None` when `attempt` was the last. `cause` is that
    /// of its outcome, `None` if it completed; `seed` is any number, another one for each task.
    #[must_use]
    pub fn decide(&self, cause: Option<Cause>, attempt: Attempt, seed: u64) -> Option<Duration> {
        if !Self::retries(cause?) || attempt.0 >= self.attempts {
            return None;
        }
        let pause = pause(self.first, self.factor, self.most, attempt.0);
        let random = mixed(seed, attempt.0);
        Some(match self.jitter {
            Jitter::Full => part(pause, random),
            Jitter::Equal => pause / 2 + part(pause - pause / 2, random),
        })
    }
}

/// The pause after failure `number` (the first is 1): `first`, then `factor` times the one before,
/// at most `most`.
pub(crate) fn pause(first: Duration, factor: u32, most: Duration, number: u32) -> Duration {
    let mut pause = first.min(most);
    for _ in 1..number {
        let next = pause.saturating_mul(factor.max(1)).min(most);
        if next == pause {
            break;
        }
        pause = next;
    }
    pause
}

/// `random` of 2^64 parts of `duration`.
fn part(duration: Duration, random: u64) -> Duration {
    let nanoseconds = (duration.as_nanos() * u128::from(random >> 32)) >> 32;
    Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
}

/// A number that looks random for each seed and attempt (the finalizer of splitmix64): seeds that
/// are close together, as those of neighbouring tasks are, give numbers that are not.
fn mixed(seed: u64, attempt: u32) -> u64 {
    let steps = u64::from(attempt).wrapping_add(1);
    let mut value = seed.wrapping_add(steps.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use forge_core::{Outcome, Reason};
    use proptest::prelude::*;

    const INFRASTRUCTURE: Option<Cause> = Some(Cause::Infrastructure);

    #[test]
    fn only_what_the_infrastructure_did_is_tried_again() {
        let policy = RetryPolicy::default();
        for reason in Reason::ALL {
            let again = policy.decide(Some(reason.cause()), Attempt(1), 7);
            let expected = matches!(
                reason,
                Reason::NetworkPolicyUnavailable
                    | Reason::HardeningUnavailable
                    | Reason::EngineError
                    | Reason::EngineUnavailable
                    | Reason::Lost
                    | Reason::KillFailed
                    | Reason::InternalError
            );
            assert_eq!(again.is_some(), expected, "{reason}");
        }
        let completed = Outcome::Completed.cause();
        assert_eq!(policy.decide(completed, Attempt(1), 7), None);
    }

    #[test]
    fn three_tries_are_all_unless_the_policy_says_more() {
        let policy = RetryPolicy::default();
        assert!(policy.decide(INFRASTRUCTURE, Attempt(2), 7).is_some());
        assert_eq!(policy.decide(INFRASTRUCTURE, Attempt(3), 7), None);
        assert_eq!(policy.decide(INFRASTRUCTURE, Attempt(u32::MAX), 7), None);
        let never = RetryPolicy {
            attempts: 0,
            ..policy
        };
        assert_eq!(never.decide(INFRASTRUCTURE, Attempt(1), 7), None);
    }

    #[test]
    fn pauses_grow_up_to_the_longest() {
        let second = Duration::from_secs(1);
        let pauses = [1, 2, 3, 4, u32::MAX].map(|number| pause(second, 4, second * 60, number));
        assert_eq!(pauses.map(|pause| pause.as_secs()), [1, 4, 16, 60, 60]);
        assert_eq!(
            pause(Duration::ZERO, 4, second, u32::MAX),
            Duration::ZERO,
            "no pause stays none"
        );
        assert_eq!(
            pause(Duration::MAX, 9, Duration::MAX, u32::MAX),
            Duration::MAX
        );
    }

    #[test]
    fn tasks_that_failed_together_come_back_spread_over_the_pause() {
        let policy = RetryPolicy {
            jitter: Jitter::Full,
            ..RetryPolicy::default()
        };
        let mut tenths = [0_usize; 10];
        for seed in 0..1000 {
            let pause = policy.decide(INFRASTRUCTURE, Attempt(1), seed).unwrap();
            tenths[usize::try_from(pause.as_millis() / 100).unwrap()] += 1;
        }
        assert!(
            tenths.iter().all(|&count| (60..=140).contains(&count)),
            "{tenths:?}"
        );
    }

    proptest! {
        #[test]
        fn a_pause_stays_within_its_bounds(
            attempt in 1_u32..12, seed: u64, first in 0_u64..5000, most in 0_u64..100_000,
        ) {
            let policy = RetryPolicy {
                attempts: 12,
                first: Duration::from_millis(first),
                factor: 2,
                most: Duration::from_millis(most),
                jitter: Jitter::Equal,
            };
            let whole = pause(policy.first, 2, policy.most, attempt);
            if let Some(equal) = policy.decide(INFRASTRUCTURE, Attempt(attempt), seed) {
                prop_assert!(equal >= whole / 2 && equal <= whole);
            }
            let policy = RetryPolicy { jitter: Jitter::Full, ..policy };
            let full = policy.decide(INFRASTRUCTURE, Attempt(attempt), seed);
            prop_assert!(full.unwrap_or_default() <= whole);
            prop_assert_eq!(full, policy.decide(INFRASTRUCTURE, Attempt(attempt), seed));
        }
    }
}
