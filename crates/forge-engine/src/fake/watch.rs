//! What the fake engine tells by itself: what a test has it say.

use async_trait::async_trait;
use forge_core::OwnerId;
use futures::StreamExt;
use tokio::sync::mpsc;

use super::FakeEngine;
use crate::error::{EngineError, EngineErrorKind, Operation};
use crate::watch::{Observation, Observations, Watch};

/// Whoever watches.
pub(super) type Watcher = mpsc::UnboundedSender<Result<Observation, EngineError>>;

impl FakeEngine {
    /// Tells this to everybody who watches, whoever owns the sandbox.
    pub fn observe(&self, observation: &Observation) {
        let watchers = &mut self.world().watchers;
        // Who has stopped watching is told nothing more.
        watchers.retain(|watcher| watcher.send(Ok(observation.clone())).is_ok());
    }

    /// Ends the connection of everybody who watches.
    pub fn break_watches(&self) {
        for watcher in self.world().watchers.drain(..) {
            let broken = EngineError::new(
                EngineErrorKind::Unavailable,
                Operation::Watch,
                "",
                "as the test asked",
            );
            // Nobody may be listening any more.
            watcher.send(Err(broken)).ok();
        }
    }
}

#[async_trait]
impl Watch for FakeEngine {
    async fn watch(&self, owner: &OwnerId) -> Result<Observations, EngineError> {
        let (watcher, observations) = mpsc::unbounded_channel();
        self.perform(Operation::Watch, owner.as_str(), None, |world| {
            world.watchers.push(watcher);
            Ok(())
        })
        .await?;
        let next = async |mut observations: mpsc::UnboundedReceiver<_>| {
            let observation = observations.recv().await?;
            Some((observation, observations))
        };
        Ok(futures::stream::unfold(observations, next).boxed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::FakeExec;
    use crate::watch::ObservationKind;
    use forge_core::SandboxId;

    #[tokio::test]
    async fn whoever_watches_gets_what_is_told_from_then_on_until_the_connection_ends() {
        let engine = FakeEngine::new(|_| FakeExec::exits(0));
        let owner = OwnerId::new("me").unwrap();
        let told = |kind| Observation {
            sandbox: SandboxId::new("one").unwrap(),
            kind,
        };
        engine.observe(&told(ObservationKind::Started));
        let mut first = engine.watch(&owner).await.unwrap();
        drop(engine.watch(&owner).await.unwrap());
        let ended = told(ObservationKind::Ended { code: 137 });
        engine.observe(&ended);
        engine.break_watches();
        assert_eq!(first.next().await.unwrap().unwrap(), ended);
        let error = first.next().await.unwrap().unwrap_err();
        assert_eq!(error.kind, EngineErrorKind::Unavailable);
        assert!(first.next().await.is_none());
    }
}
