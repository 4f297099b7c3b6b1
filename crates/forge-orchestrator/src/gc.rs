//! Garbage collection: removes what orchestrators that are gone left on an engine.

use forge_core::OwnerId;
use forge_core::ownership::keys;
use forge_engine::{Engine, EngineError, FoundObject, ObjectKind};
use forge_plan::reaper::{self, Facts, Ground, Holder};
use jiff::Timestamp;
use serde::Serialize;

use crate::{failure, holder};

/// What to look for.
#[derive(Debug, Clone, Copy)]
pub struct GcOptions {
    /// Say what would be removed, and remove nothing.
    pub dry_run: bool,
    /// Also remove expired objects of other installations.
    pub any_owner: bool,
    /// The time.
    pub now: Timestamp,
}

/// One object that may go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Leftover {
    /// The object.
    #[serde(flatten)]
    pub object: FoundObject,
    /// Why it may go.
    pub ground: Ground,
    /// What went wrong removing it.
    pub error: Option<String>,
}

/// What was found and done.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct GcReport {
    /// Objects that may go, in the order of removal.
    pub leftovers: Vec<Leftover>,
    /// Objects of ours that are in use.
    pub kept: u64,
}

impl GcReport {
    /// Objects that could not be removed.
    #[must_use]
    pub fn failures(&self) -> usize {
        self.leftovers
            .iter()
            .filter(|leftover| leftover.error.is_some())
            .count()
    }
}

/// Finds leftovers, and removes them unless this is a dry run.
///
/// # Errors
/// Of listing; a failed removal is in the report.
pub async fn collect(
    engine: &dyn Engine,
    own: &OwnerId,
    options: GcOptions,
) -> Result<GcReport, EngineError> {
    let owner = if options.any_owner { None } else { Some(own) };
    let mut report = GcReport::default();
    for object in engine.list(owner).await? {
        match reaper::decide(&facts(&object), own, options.any_owner, options.now) {
            Some(ground) => report.leftovers.push(Leftover {
                object,
                ground,
                error: None,
            }),
            None => report.kept += 1,
        }
    }
    // A volume cannot go before the container that uses it.
    report.leftovers.sort_by(|left, right| {
        let key = |leftover: &Leftover| (rank(leftover.object.kind), leftover.object.name.clone());
        key(left).cmp(&key(right))
    });
    if !options.dry_run {
        for leftover in &mut report.leftovers {
            if let Err(error) = engine.remove(&leftover.object).await {
                leftover.error = Some(failure::chain(&error));
            }
        }
    }
    Ok(report)
}

const fn rank(kind: ObjectKind) -> u8 {
    match kind {
        ObjectKind::Container => 0,
        ObjectKind::Network => 1,
        ObjectKind::Volume => 2,
    }
}

fn facts(object: &FoundObject) -> Facts<'_> {
    Facts {
        owner: object.label(keys::OWNER),
        expires_at: object.time(keys::EXPIRES_AT),
        holder: object
            .label(keys::HOLDER)
            .map_or(Holder::Unknown, holder::look_up),
    }
}
