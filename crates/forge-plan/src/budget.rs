//! How much time a phase may take: setup and solve share one budget, verify has its own.

use std::time::Duration;

use forge_core::{Limits, PhaseName};

/// What is left of an attempt's time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    work: Duration,
    verify: Duration,
}

impl Budget {
    /// The full budget of `limits`.
    #[must_use]
    pub const fn new(limits: &Limits) -> Self {
        Self {
            work: limits.timeout,
            verify: limits.verify_timeout,
        }
    }

    /// What `phase` may use now.
    #[must_use]
    pub const fn left(&self, phase: PhaseName) -> Duration {
        match phase {
            PhaseName::Setup | PhaseName::Solve => self.work,
            PhaseName::Verify => self.verify,
        }
    }

    /// The budget after `phase` used `duration`.
    #[must_use]
    pub const fn after(mut self, phase: PhaseName, duration: Duration) -> Self {
        match phase {
            PhaseName::Setup | PhaseName::Solve => self.work = self.work.saturating_sub(duration),
            PhaseName::Verify => self.verify = self.verify.saturating_sub(duration),
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use forge_core::Difficulty;

    #[test]
    fn what_setup_uses_is_missing_in_solve_and_not_in_verify() {
        let budget = Budget::new(&Difficulty::Easy.limits())
            .after(PhaseName::Setup, Duration::from_secs(290));
        assert_eq!(budget.left(PhaseName::Solve), Duration::from_secs(10));
        assert_eq!(budget.left(PhaseName::Verify), Duration::from_secs(300));
        let spent = budget.after(PhaseName::Solve, Duration::from_secs(11));
        assert_eq!(spent.left(PhaseName::Solve), Duration::ZERO);
    }
}
