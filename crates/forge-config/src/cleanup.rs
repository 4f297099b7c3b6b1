//! `[cleanup]`: what is removed when, how long results are kept, and the most that tasks may ask for.

use std::time::Duration;

use forge_core::{CleanupBounds, CleanupPolicy};
use forge_document::{Decoder, Fields, Located, Most, Problem, optional};

/// Keys; first the defaults for tasks, then bounds on them, then what is the operator's alone.
const CLEANUP: &[&str] = &[
    "on_success",
    "on_failure",
    "on_timeout",
    "preserve_logs",
    "preserve_artifacts",
    "delay_seconds",
    "max_delay_seconds",
    "max_lifetime_seconds",
    "force_cleanup_after_hours",
    "log_retention_days",
    "images_retention_days",
    "budget_gb",
];
/// A day is the most a container lives, whatever is configured.
const MOST_SECONDS: u64 = 86_400;
/// A year.
const MOST_HOURS: u64 = 8760;
/// Ten years.
const MOST_DAYS: u64 = 3650;
const MOST_GIBIBYTES: u64 = 1_000_000;
const GIBIBYTE: f64 = 1024.0 * 1024.0 * 1024.0;

/// `[cleanup]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CleanupSettings {
    /// What holds for tasks that do not say.
    pub defaults: CleanupPolicy,
    /// The most that tasks may ask for.
    pub bounds: CleanupBounds,
    /// Prepared images that no attempt has asked for go after so many days.
    pub images_retention_days: u32,
    /// The most bytes that the results of all recorded runs may take together, where they are
    /// bounded: the oldest go first.
    pub budget_bytes: Option<u64>,
}

impl Default for CleanupSettings {
    fn default() -> Self {
        Self {
            defaults: CleanupPolicy::default(),
            bounds: CleanupBounds::default(),
            images_retention_days: 30,
            budget_bytes: None,
        }
    }
}

/// The section; `None` when a mistake was noted.
pub(crate) fn cleanup(decoder: &mut Decoder, field: &Located<'_>) -> Option<CleanupSettings> {
    let fields = decoder.object(field, CLEANUP)?;
    let usual = CleanupSettings::default();
    let defaults = defaults(decoder, &fields, &usual.defaults);
    let mut whole = |name, least, most| {
        optional(&fields, name, |field| {
            decoder.whole(field, least, Most::fixed(most))
        })
    };
    let max_delay = whole("max_delay_seconds", 0, MOST_SECONDS);
    let max_lifetime = whole("max_lifetime_seconds", 1, MOST_SECONDS);
    let hours = whole("force_cleanup_after_hours", 1, MOST_HOURS);
    let days = whole("log_retention_days", 1, MOST_DAYS);
    let images_days = whole("images_retention_days", 1, MOST_DAYS);
    let budget = optional(&fields, "budget_gb", |field| {
        decoder.number(field, 0.001, Most::fixed(MOST_GIBIBYTES))
    });
    let days_or = |days: Option<u64>, usual| {
        days.and_then(|days| u32::try_from(days).ok())
            .unwrap_or(usual)
    };
    let bounds = CleanupBounds {
        max_delay: max_delay?.map_or(usual.bounds.max_delay, Duration::from_secs),
        max_lifetime: max_lifetime?.map_or(usual.bounds.max_lifetime, Duration::from_secs),
        force_after: hours?.map_or(usual.bounds.force_after, |hours| {
            Duration::from_secs(3600 * hours)
        }),
        log_retention_days: days_or(days?, usual.bounds.log_retention_days),
    };
    let defaults = defaults?;
    if let (Some(delay), Some(field)) = (defaults.delay, fields.get("delay_seconds"))
        && delay > bounds.max_delay
    {
        let problem = Problem::new(format!(
            "{} s is above cleanup.max_delay_seconds, {} s",
            delay.as_secs(),
            bounds.max_delay.as_secs()
        ))
        .hint("raise max_delay_seconds, or lower this");
        decoder.refuse(&field, problem);
        return None;
    }
    Some(CleanupSettings {
        defaults: CleanupPolicy {
            force_after: bounds.force_after,
            log_retention_days: bounds.log_retention_days,
            ..defaults
        },
        bounds,
        images_retention_days: days_or(images_days?, usual.images_retention_days),
        budget_bytes: budget?.map(bytes),
    })
}

fn defaults(
    decoder: &mut Decoder,
    fields: &Fields<'_>,
    usual: &CleanupPolicy,
) -> Option<CleanupPolicy> {
    let mut boolean = |name, usual| {
        let read = optional(fields, name, |field| decoder.boolean(field));
        read.map(|value| value.unwrap_or(usual))
    };
    let on_success = boolean("on_success", usual.on_success);
    let on_failure = boolean("on_failure", usual.on_failure);
    let on_timeout = boolean("on_timeout", usual.on_timeout);
    let preserve_logs = boolean("preserve_logs", usual.preserve_logs);
    let preserve_artifacts = boolean("preserve_artifacts", usual.preserve_artifacts);
    let delay = optional(fields, "delay_seconds", |field| {
        decoder.whole(field, 0, Most::fixed(MOST_SECONDS))
    });
    Some(CleanupPolicy {
        on_success: on_success?,
        on_failure: on_failure?,
        on_timeout: on_timeout?,
        preserve_logs: preserve_logs?,
        preserve_artifacts: preserve_artifacts?,
        delay: delay?.map(Duration::from_secs),
        ..*usual
    })
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the decoder has bounded the value from below and above"
)]
fn bytes(gibibytes: f64) -> u64 {
    (gibibytes * GIBIBYTE).round() as u64
}
