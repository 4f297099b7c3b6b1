//! The limits of a task: those of its difficulty, changed by its config, below the operator's.

use forge_document::{Decoder, Position, Problem};
use std::time::Duration;

use forge_core::cleanup::CleanupPolicy;
use forge_core::limits::MEBIBYTE;
use forge_core::task::VerifyContainer;
use forge_core::{Difficulty, LimitCeiling, Limits};

use crate::format::{CleanupFields, ResourceFields};

/// Engines refuse a container with less memory.
pub(crate) const LEAST_MEMORY_MB: u64 = 6;
/// The kernel takes no smaller share of its usual period of 100 ms.
pub(crate) const LEAST_CORES: f64 = 0.01;
/// A mebibyte: no file system is smaller.
pub(crate) const LEAST_DISK_GB: f64 = 0.001;

/// Longest default for verification.
const VERIFY_TIMEOUT: Duration = Duration::from_secs(600);
/// An hour.
const HOUR: Duration = Duration::from_secs(3600);

/// The limits of a task of `difficulty` with the changes in `resources`.
pub(crate) fn limits(difficulty: Difficulty, resources: &ResourceFields) -> Limits {
    let mut limits = difficulty.limits();
    let set_mebibytes = |limit: &mut u64, mebibytes: Option<u64>| {
        *limit = mebibytes.map_or(*limit, |value| value.saturating_mul(MEBIBYTE));
    };
    set_mebibytes(&mut limits.memory_bytes, resources.memory_mb);
    set_mebibytes(&mut limits.tmp_bytes, resources.tmp_mb);
    set_mebibytes(&mut limits.output_bytes, resources.output_mb);
    if let Some(cores) = resources.cpu_cores {
        limits.cpu_millis = scaled(cores, 1000.0);
    }
    if let Some(gibibytes) = resources.disk_gb {
        limits.disk_bytes = scaled(gibibytes, 1024.0 * 1024.0 * 1024.0);
    }
    limits.processes = resources.processes.unwrap_or(limits.processes);
    if let Some(seconds) = resources.timeout_seconds {
        limits.timeout = Duration::from_secs(seconds);
    }
    limits.verify_timeout = match resources.verify_timeout_seconds {
        Some(seconds) => Duration::from_secs(seconds),
        None => limits.timeout.min(VERIFY_TIMEOUT),
    };
    limits
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the decoder has bounded the value from below and above"
)]
fn scaled(value: f64, scale: f64) -> u64 {
    (value * scale).round() as u64
}

/// Notes which limits of the difficulty itself are above the operator's, at the place of the
/// difficulty. Those of the config are checked where they stand.
pub(crate) fn check_defaults(
    decoder: &mut Decoder,
    (difficulty, at): (Difficulty, Position),
    resources: &ResourceFields,
    ceiling: &LimitCeiling,
) {
    let limits = difficulty.limits();
    let gibibyte = 1024 * MEBIBYTE;
    for (name, changed, value, most, unit) in [
        (
            "memory_mb",
            resources.memory_mb.is_some(),
            limits.memory_bytes,
            ceiling.memory_bytes,
            MEBIBYTE,
        ),
        (
            "cpu_cores",
            resources.cpu_cores.is_some(),
            limits.cpu_millis,
            ceiling.cpu_millis,
            1000,
        ),
        (
            "disk_gb",
            resources.disk_gb.is_some(),
            limits.disk_bytes,
            ceiling.disk_bytes,
            gibibyte,
        ),
        (
            "processes",
            resources.processes.is_some(),
            limits.processes,
            ceiling.processes,
            1,
        ),
        (
            "timeout_seconds",
            resources.timeout_seconds.is_some(),
            limits.timeout.as_secs(),
            ceiling.timeout.as_secs(),
            1,
        ),
        (
            "output_mb",
            resources.output_mb.is_some(),
            limits.output_bytes,
            ceiling.output_bytes,
            MEBIBYTE,
        ),
    ] {
        if !changed && value > most {
            let problem = Problem::new(format!(
                "{difficulty} gets {name} {}, the operator allows {}",
                in_unit(value, unit),
                in_unit(most, unit)
            ))
            .hint(format!(
                "set resources.{name} in config.yaml to a smaller value"
            ));
            decoder.refuse_at(at, "difficulty", problem);
        }
    }
}

/// A limit in the unit of its field.
#[expect(
    clippy::cast_precision_loss,
    reason = "shown to a person; limits of more than 2^53 do not occur"
)]
fn in_unit(value: u64, unit: u64) -> f64 {
    value as f64 / unit as f64
}

/// What is removed when, and the latest end of a container: never before the deadlines of what
/// runs in it and the window for inspection after them, unless the author asks for that. `default`
/// is what holds for a task that says nothing.
pub(crate) fn cleanup(
    fields: &CleanupFields,
    default: &CleanupPolicy,
    limits: &Limits,
    container: VerifyContainer,
) -> CleanupPolicy {
    let busy = match container {
        VerifyContainer::Fresh => limits.timeout.max(limits.verify_timeout),
        VerifyContainer::Same => limits.timeout + limits.verify_timeout,
    };
    let delay = fields.delay_seconds.map(Duration::from_secs);
    let delay = delay.or(default.delay);
    let window = delay.unwrap_or(CleanupPolicy::WINDOW);
    let usual = default.max_lifetime.saturating_sub(CleanupPolicy::WINDOW);
    let hours = fields.force_cleanup_after_hours;
    let days = fields.log_retention_days;
    CleanupPolicy {
        on_success: fields.on_success.unwrap_or(default.on_success),
        on_failure: fields.on_failure.unwrap_or(default.on_failure),
        on_timeout: fields.on_timeout.unwrap_or(default.on_timeout),
        preserve_logs: fields.preserve_logs.unwrap_or(default.preserve_logs),
        preserve_artifacts: fields
            .preserve_artifacts
            .unwrap_or(default.preserve_artifacts),
        delay,
        force_after: hours
            .and_then(|hours| HOUR.checked_mul(u32::try_from(hours).ok()?))
            .unwrap_or(default.force_after),
        log_retention_days: days
            .and_then(|days| u32::try_from(days).ok())
            .unwrap_or(default.log_retention_days),
        max_lifetime: match fields.max_lifetime_seconds {
            Some(seconds) => Duration::from_secs(seconds),
            None => usual.max(busy).saturating_add(window),
        },
    }
}
