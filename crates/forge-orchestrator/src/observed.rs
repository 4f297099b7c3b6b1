//! What the engine tells of a run's sandboxes by itself, while the run lasts.
//!
//! It is only good to have: what was missed is seen by heartbeats, counters and conditions.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use forge_core::SandboxId;
use forge_engine::watch::ObservationKind;
use futures::StreamExt;

use crate::context::{Context, News};
use crate::failure;

/// Pause before an engine is watched anew.
const PAUSE: Duration = Duration::from_secs(5);

/// Sandboxes in which something was killed for want of memory.
#[derive(Debug, Default)]
pub(crate) struct Observed(Mutex<HashSet<SandboxId>>);

impl Observed {
    /// Whether the engine saw a kill for want of memory in this sandbox.
    pub(crate) fn was_out_of_memory(&self, id: &SandboxId) -> bool {
        self.with(|seen| seen.contains(id))
    }

    fn with<T>(&self, look: impl FnOnce(&mut HashSet<SandboxId>) -> T) -> T {
        // A set is whole between any two statements.
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Watches the engine for as long as it is polled.
pub(crate) async fn follow(context: Arc<Context>) {
    loop {
        if let Err(error) = watch_once(&context).await {
            tracing::debug!(error = failure::chain(&error), "the engine is not watched");
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn watch_once(context: &Context) -> Result<(), forge_engine::EngineError> {
    let mut observations = context.engine.watch(&context.owner).await?;
    while let Some(observation) = observations.next().await {
        let observation = observation?;
        let sandbox = observation.sandbox;
        let is_paused = match observation.kind {
            ObservationKind::OutOfMemory => {
                context.observed.with(|seen| seen.insert(sandbox));
                continue;
            }
            ObservationKind::Disappeared => {
                context.observed.with(|seen| seen.remove(&sandbox));
                continue;
            }
            ObservationKind::Paused => true,
            ObservationKind::Unpaused => false,
            ObservationKind::Started | ObservationKind::Ended { .. } => continue,
        };
        // Nobody listens any more when the run is over.
        context.news.send(News::Paused { sandbox, is_paused }).ok();
    }
    Ok(())
}
