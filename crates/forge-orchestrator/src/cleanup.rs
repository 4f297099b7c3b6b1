//! Removal of what an attempt made on the engine.

use std::collections::BTreeMap;
use std::time::Duration;

use forge_core::ownership::Role;
use forge_core::ownership::keys;
use forge_core::{CleanupPolicy, Outcome, OwnerId, RunId, SandboxId};
use forge_engine::{
    Engine, EngineError, EngineErrorKind, FoundObject, ObjectKind, Operation, PreparedImage,
};
use forge_store::{AttemptRecord, ObjectKind as RecordedKind, Store, StoreError};
use jiff::Timestamp;

use crate::attempt::SETUP;
use crate::{failure, settle};

/// An engine that does not answer for this long is left to `gc`.
const PATIENCE: Duration = Duration::from_secs(60);

/// Whether the policy removes the objects of an attempt that ended so.
pub(crate) const fn wanted(policy: &CleanupPolicy, outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Completed => policy.on_success,
        Outcome::Failed(_) => policy.on_failure,
        Outcome::Timeout(_) => policy.on_timeout,
    }
}

/// Removes one sandbox ahead of the others.
///
/// # Errors
/// Of the engine, which is not waited for without end.
pub(crate) async fn destroy(engine: &dyn Engine, id: &SandboxId) -> Result<(), EngineError> {
    let destroyed = tokio::time::timeout(PATIENCE, engine.destroy(id)).await;
    destroyed.unwrap_or_else(|_| {
        let (kind, operation) = (EngineErrorKind::Unavailable, Operation::Destroy);
        Err(EngineError::new(kind, operation, id.as_str(), unanswered()))
    })
}

/// Removes sandboxes, workspace and the image of what setup changed; returns what is left, for a person.
pub(crate) async fn remove_all(
    engine: &dyn Engine,
    owner: &OwnerId,
    sandboxes: &[SandboxId],
    workspace: Option<&SandboxId>,
    snapshot: Option<&PreparedImage>,
) -> Vec<String> {
    let mut left = Vec::new();
    let removals = futures::future::join_all(
        sandboxes
            .iter()
            .map(|id| async move { (id, bounded(engine.destroy(id)).await) }),
    )
    .await;
    for (id, result) in removals {
        if let Err(why) = result {
            left.push(format!("sandbox {id} is left for gc: {why}"));
        }
    }
    if let Some(id) = workspace
        && let Err(why) = bounded(engine.destroy_workspace(id)).await
    {
        left.push(format!("workspace {id} is left for gc: {why}"));
    }
    if let Some(image) = snapshot {
        let object = FoundObject {
            kind: ObjectKind::Image,
            name: image.runnable.clone(),
            labels: BTreeMap::new(),
            running: false,
        };
        if let Err(why) = bounded(engine.remove(&object)).await {
            left.push(format!("image {} is left for gc: {why}", image.runnable));
        }
    } else if let Some(setup) = workspace.map(|id| id.with_part(SETUP))
        && sandboxes.contains(&setup)
        && let Err(why) = bounded(remove_unreported(engine, owner, &setup)).await
    {
        left.push(format!("an image of {setup} may be left for gc: {why}"));
    }
    left
}

/// Removes images of what a sandbox changed that nobody was told of: the engine made them, and the
/// answer was lost, or whoever waited for it is gone.
async fn remove_unreported(
    engine: &dyn Engine,
    owner: &OwnerId,
    sandbox: &SandboxId,
) -> Result<(), EngineError> {
    for object in engine.list(Some(owner)).await? {
        let of_sandbox = object.label(keys::SANDBOX) == Some(sandbox.as_str());
        if object.kind == ObjectKind::Image && of_sandbox {
            engine.remove(&object).await?;
        }
    }
    Ok(())
}

/// Removes what a process that is gone made of a run for a moment only, and came not to remove. It
/// is only good to have: what is left is found by `gc`.
pub(crate) async fn remove_passing(engine: &dyn Engine, owner: &OwnerId, run: &RunId, ours: &str) {
    let passing = [Role::Stager, Role::Disk].map(Role::as_str);
    let run = run.to_string();
    let is_left = |object: &FoundObject| {
        object.label(keys::RUN) == Some(run.as_str())
            && object.label(keys::HOLDER) != Some(ours)
            && object
                .label(keys::ROLE)
                .is_some_and(|role| passing.contains(&role))
    };
    let found = match engine.list(Some(owner)).await {
        Ok(found) => found,
        Err(error) => {
            tracing::warn!(error = failure::chain(&error), "leftovers are not known");
            return;
        }
    };
    for object in found.iter().filter(|object| is_left(object)) {
        if let Err(error) = engine.remove(object).await {
            let error = failure::chain(&error);
            tracing::warn!(name = object.name, error, "a leftover stays");
        }
    }
}

/// Removes what is left on the engine of an attempt that has ended and that nobody drives any more,
/// and records that; returns what could not be removed, for a person. Repeating it does no harm.
///
/// # Errors
/// Of the record.
pub async fn release(
    engine: &dyn Engine,
    store: &Store,
    attempt: &AttemptRecord,
    now: Timestamp,
) -> Result<Vec<String>, StoreError> {
    let objects = store.objects(&attempt.id).await?;
    let of = |kind| {
        let there = objects.iter().filter(move |object| object.kind == kind);
        there.filter_map(|object| SandboxId::new(&object.name).ok())
    };
    // Also those that were seen gone: an image of setup outlives its sandbox.
    let sandboxes: Vec<SandboxId> = of(RecordedKind::Container).collect();
    let workspace = of(RecordedKind::Volume).next();
    let left = remove_all(engine, store.owner(), &sandboxes, workspace.as_ref(), None).await;
    if left.is_empty() {
        for object in objects.iter().filter(|object| object.removed_at.is_none()) {
            store.object_removed(object.kind, &object.name, now).await?;
        }
        settle::settle_attempt(store, attempt, true, now).await?;
    }
    Ok(left)
}

async fn bounded(removal: impl Future<Output = Result<(), EngineError>>) -> Result<(), String> {
    match tokio::time::timeout(PATIENCE, removal).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(failure::chain(&error)),
        Err(_) => Err(unanswered()),
    }
}

fn unanswered() -> String {
    format!("the engine did not answer within {} s", PATIENCE.as_secs())
}
