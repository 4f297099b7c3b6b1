//! What is removed when a task ends, and when.

use std::time::Duration;

const HOUR: u64 = 3600;
const DAY: u64 = 24 * HOUR;

/// Clean-up settings of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CleanupPolicy {
    /// Remove container and volumes of a completed task.
    pub on_success: bool,
    /// The same for a failed one.
    pub on_failure: bool,
    /// The same for one that passed a deadline.
    pub on_timeout: bool,
    /// Keep the logs of the phases.
    pub preserve_logs: bool,
    /// Keep the artifacts.
    pub preserve_artifacts: bool,
    /// How long what is to be removed stays for inspection, also when nothing else is left to do.
    /// `None` is [`CleanupPolicy::WINDOW`], which ends with the run.
    pub delay: Option<Duration>,
    /// What an attempt made may be removed by anyone after this, whatever became of its run.
    pub force_after: Duration,
    /// Logs and artifacts that are kept go so many days after the end of their run.
    pub log_retention_days: u32,
    /// No container outlives this, whatever happens to the orchestrator.
    pub max_lifetime: Duration,
}

impl CleanupPolicy {
    /// The window for inspection of a task that asks for none.
    pub const WINDOW: Duration = Duration::from_secs(60);

    /// How long what is to be removed stays for inspection.
    #[must_use]
    pub fn window(&self) -> Duration {
        self.delay.unwrap_or(Self::WINDOW)
    }

    /// Whether a run waits for the end of the window although nothing else is left to do.
    #[must_use]
    pub const fn holds_the_run(&self) -> bool {
        self.delay.is_some()
    }

    /// When what an attempt made expires, counted from its start: not before its containers end.
    #[must_use]
    pub fn expires_after(&self) -> Duration {
        self.force_after.max(self.max_lifetime)
    }

    /// This policy without anything above the operator's bounds, and what was lowered, a sentence
    /// each.
    #[must_use]
    pub fn within(&self, bounds: &CleanupBounds) -> (Self, Vec<String>) {
        let mut policy = *self;
        let mut notes = Vec::new();
        let mut lower = |name: &str, value: u64, most: u64, unit: &str| {
            if value > most {
                notes.push(format!(
                    "cleanup.{name} is {most} {unit}, the operator's bound, instead of {value}"
                ));
            }
            value.min(most)
        };
        policy.delay = policy.delay.map(|delay| {
            let most = bounds.max_delay.as_secs();
            Duration::from_secs(lower("delay_seconds", delay.as_secs(), most, "s"))
        });
        policy.max_lifetime = Duration::from_secs(lower(
            "max_lifetime_seconds",
            policy.max_lifetime.as_secs(),
            bounds.max_lifetime.as_secs(),
            "s",
        ));
        policy.force_after = Duration::from_secs(
            HOUR * lower(
                "force_cleanup_after_hours",
                policy.force_after.as_secs() / HOUR,
                bounds.force_after.as_secs() / HOUR,
                "h",
            ),
        );
        let days = lower(
            "log_retention_days",
            policy.log_retention_days.into(),
            bounds.log_retention_days.into(),
            "days",
        );
        policy.log_retention_days = u32::try_from(days).unwrap_or(bounds.log_retention_days);
        (policy, notes)
    }
}

impl Default for CleanupPolicy {
    fn default() -> Self {
        Self {
            on_success: true,
            on_failure: true,
            on_timeout: true,
            preserve_logs: true,
            preserve_artifacts: true,
            delay: None,
            force_after: Duration::from_secs(DAY),
            log_retention_days: 30,
            max_lifetime: Duration::from_secs(7260),
        }
    }
}

/// The most that any task may ask for. Hours are whole ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CleanupBounds {
    /// Bound on [`CleanupPolicy::delay`].
    pub max_delay: Duration,
    /// Bound on [`CleanupPolicy::max_lifetime`].
    pub max_lifetime: Duration,
    /// Bound on [`CleanupPolicy::force_after`].
    pub force_after: Duration,
    /// Bound on [`CleanupPolicy::log_retention_days`].
    pub log_retention_days: u32,
}

impl Default for CleanupBounds {
    fn default() -> Self {
        let usual = CleanupPolicy::default();
        Self {
            max_delay: Duration::from_secs(HOUR),
            max_lifetime: Duration::from_secs(DAY),
            force_after: usual.force_after,
            log_retention_days: usual.log_retention_days,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_within_the_bounds_stays_as_it_is_and_nothing_is_said() {
        let bounds = CleanupBounds::default();
        let policy = CleanupPolicy::default();
        assert_eq!(policy.within(&bounds), (policy, Vec::new()));
        let held = CleanupPolicy {
            delay: Some(bounds.max_delay),
            max_lifetime: bounds.max_lifetime,
            ..policy
        };
        assert_eq!(held.within(&bounds), (held, Vec::new()));
    }

    #[test]
    fn everything_above_a_bound_is_lowered_to_it_and_said() {
        let bounds = CleanupBounds {
            max_delay: Duration::from_secs(100),
            max_lifetime: Duration::from_secs(1000),
            force_after: Duration::from_secs(2 * HOUR),
            log_retention_days: 7,
        };
        let asked = CleanupPolicy {
            delay: Some(Duration::from_secs(101)),
            force_after: Duration::from_secs(3 * HOUR),
            log_retention_days: 8,
            ..CleanupPolicy::default()
        };
        let (policy, notes) = asked.within(&bounds);
        assert_eq!(
            policy,
            CleanupPolicy {
                delay: Some(bounds.max_delay),
                max_lifetime: bounds.max_lifetime,
                force_after: bounds.force_after,
                log_retention_days: 7,
                ..asked
            }
        );
        assert_eq!(
            notes,
            [
                "cleanup.delay_seconds is 100 s, the operator's bound, instead of 101",
                "cleanup.max_lifetime_seconds is 1000 s, the operator's bound, instead of 7260",
                "cleanup.force_cleanup_after_hours is 2 h, the operator's bound, instead of 3",
                "cleanup.log_retention_days is 7 days, the operator's bound, instead of 8",
            ]
        );
    }

    #[test]
    fn nothing_expires_while_its_container_may_run() {
        let policy = CleanupPolicy {
            force_after: Duration::from_secs(HOUR),
            ..CleanupPolicy::default()
        };
        assert_eq!(policy.expires_after(), policy.max_lifetime);
        let usual = CleanupPolicy::default();
        assert_eq!(usual.expires_after(), usual.force_after);
    }

    #[test]
    fn only_a_window_that_was_asked_for_holds_the_run() {
        let usual = CleanupPolicy::default();
        assert_eq!(usual.window(), CleanupPolicy::WINDOW);
        assert!(!usual.holds_the_run());
        let asked = CleanupPolicy {
            delay: Some(Duration::ZERO),
            ..usual
        };
        assert_eq!(asked.window(), Duration::ZERO);
        assert!(asked.holds_the_run());
    }
}
