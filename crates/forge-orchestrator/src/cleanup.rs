//! Removal of what an attempt made on the engine.

use std::collections::BTreeMap;
use std::time::Duration;

use forge_core::{CleanupPolicy, Outcome, SandboxId};
use forge_engine::{Engine, EngineError, FoundObject, ObjectKind, PreparedImage};

use crate::failure;

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

/// Removes sandboxes, workspace and the image of what setup changed; returns what is left, for a person.
pub(crate) async fn remove_all(
    engine: &dyn Engine,
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
    }
    left
}

async fn bounded(removal: impl Future<Output = Result<(), EngineError>>) -> Result<(), String> {
    match tokio::time::timeout(PATIENCE, removal).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(failure::chain(&error)),
        Err(_) => Err(format!(
            "the engine did not answer within {} s",
            PATIENCE.as_secs()
        )),
    }
}
