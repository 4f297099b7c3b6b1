//! The deadline of a program: first it is asked to end, after a grace everything is ended.
//!
//! It holds with nobody connected: the main loop asks it at the time it names.

use std::time::{Duration, Instant};

/// When a program must be over.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadline {
    at: Option<Instant>,
    grace: Duration,
    /// The deadline has passed; everything ends at this time.
    kill_at: Option<Instant>,
}

/// What a look at the clock asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Due {
    /// Nothing yet.
    Nothing,
    /// Ask the program to end.
    Ask,
    /// End everything.
    Force,
}

impl Deadline {
    /// None at all.
    pub(crate) const NEVER: Self = Self {
        at: None,
        grace: Duration::ZERO,
        kill_at: None,
    };

    /// `timeout_ms` after `begun`, with `grace_ms` more until everything ends; 0 means never.
    pub(crate) fn new(begun: Instant, timeout_ms: u64, grace_ms: u64) -> Self {
        let at = (timeout_ms > 0)
            .then(|| begun.checked_add(Duration::from_millis(timeout_ms)))
            .flatten();
        Self {
            at,
            grace: Duration::from_millis(grace_ms),
            kill_at: None,
        }
    }

    /// When to look at the clock next.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.kill_at.or(self.at)
    }

    /// Looks at the clock. Each of `Ask` and `Force` is said once; without a grace only `Force`.
    pub(crate) fn check(&mut self, now: Instant) -> Due {
        match (self.kill_at, self.at) {
            (Some(kill_at), _) if kill_at <= now => {
                *self = Self::NEVER;
                Due::Force
            }
            (None, Some(at)) if at <= now => {
                if self.grace.is_zero() {
                    *self = Self::NEVER;
                    return Due::Force;
                }
                self.kill_at = Some(now + self.grace);
                Due::Ask
            }
            _ => Due::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_asked_first_and_forced_after_the_grace() {
        let begun = Instant::now();
        let at = |milliseconds| begun + Duration::from_millis(milliseconds);
        let mut deadline = Deadline::new(begun, 100, 50);
        assert_eq!(deadline.next(), Some(at(100)));
        assert_eq!(deadline.check(at(99)), Due::Nothing);
        assert_eq!(deadline.check(at(110)), Due::Ask);
        assert_eq!(deadline.next(), Some(at(160)));
        assert_eq!(deadline.check(at(159)), Due::Nothing);
        assert_eq!(deadline.check(at(160)), Due::Force);
        assert_eq!(
            (deadline.check(at(999)), deadline.next()),
            (Due::Nothing, None)
        );
    }

    #[test]
    fn without_a_grace_there_is_no_asking_and_zero_means_never() {
        let begun = Instant::now();
        let later = begun + Duration::from_secs(9);
        assert_eq!(Deadline::new(begun, 1, 0).check(later), Due::Force);
        assert_eq!(Deadline::new(begun, 0, 0).check(later), Due::Nothing);
    }
}
