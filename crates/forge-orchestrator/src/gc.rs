//! Garbage collection: removes what orchestrators that are gone left on an engine.

use forge_core::ownership::keys;
use forge_core::{Failure, OwnerId, Reason, RunId, Transition};
use forge_engine::{Engine, EngineError, FoundObject, ObjectKind};
use forge_plan::reaper::{self, Facts, Ground, Holder};
use forge_store::{AttemptFilter, AttemptRecord, Store, StoreError};
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
    /// Whether nothing was removed because only a look was asked for.
    pub dry_run: bool,
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

/// Settles the record of runs whose orchestrator is gone: attempts that were under way are lost,
/// and what nobody finds on the engine any more counts as removed. Returns how many runs.
///
/// # Errors
/// [`SettleError`]; runs settled before it stay settled.
pub async fn settle_dead_runs(
    engine: &dyn Engine,
    store: &Store,
    now: Timestamp,
) -> Result<usize, SettleError> {
    let objects = engine.list(Some(store.owner())).await?;
    let is_clean = |run: &RunId| {
        let id = run.to_string();
        !objects
            .iter()
            .any(|object| object.label(keys::RUN) == Some(id.as_str()))
    };
    let mut settled = 0;
    for run in store.unfinished_runs().await? {
        if holder::look_up(&run.holder) != Holder::Dead {
            continue;
        }
        let filter = AttemptFilter {
            run: Some(run.id),
            ..AttemptFilter::default()
        };
        for attempt in store.attempts(&filter).await? {
            settle_attempt(store, &attempt, is_clean(&run.id), now).await?;
        }
        store.end_run(&run.id, now).await?;
        settled += 1;
    }
    // Also what a run that ended well kept for inspection, once it is gone.
    for object in store.unremoved_objects(None).await? {
        let attempt = store.attempt(&object.attempt).await?;
        let ended = store.run(&attempt.run).await?.ended_at.is_some();
        if ended && is_clean(&attempt.run) {
            settle_attempt(store, &attempt, true, now).await?;
            store.object_removed(object.kind, &object.name, now).await?;
        }
    }
    Ok(settled)
}

async fn settle_attempt(
    store: &Store,
    attempt: &AttemptRecord,
    clean: bool,
    now: Timestamp,
) -> Result<(), StoreError> {
    let mut state = attempt.state.clone();
    let message = "the swe-forge process that ran it ended before it did";
    let lost = Transition::Fail(Failure::new(Reason::Lost, message));
    // Transitions that the life cycle does not have from here were made before the end.
    for transition in [Some(lost), clean.then_some(Transition::CleanUp)]
        .into_iter()
        .flatten()
    {
        if let Ok(next) = state.advance(transition) {
            store.transition(&attempt.id, &state, &next, now).await?;
            state = next;
        }
    }
    if clean && attempt.cleanup_ended_at.is_none() {
        store.cleanup_ended(&attempt.id, now).await?;
    }
    Ok(())
}

/// Why the record of dead runs could not be settled.
#[derive(Debug, thiserror::Error)]
pub enum SettleError {
    /// The engine cannot say what is left.
    #[error("the engine could not list what is left")]
    Engine(#[from] EngineError),
    /// The record cannot be read or written.
    #[error("the record could not be settled")]
    Store(#[from] StoreError),
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
    let mut report = GcReport {
        dry_run: options.dry_run,
        ..GcReport::default()
    };
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
    // A volume or an image cannot go before the container that uses it.
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
        engine.sweep().await;
    }
    Ok(report)
}

const fn rank(kind: ObjectKind) -> u8 {
    match kind {
        ObjectKind::Container => 0,
        ObjectKind::Network => 1,
        ObjectKind::Volume => 2,
        ObjectKind::Image => 3,
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
