//! Which engine controls the proxy. Of several the newest does, and none comes back after another
//! took its place: two that both did so would go on for ever.

use std::collections::VecDeque;
use std::sync::Mutex as SyncMutex;

use tokio::sync::Mutex;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::audit::lock;

/// Engines that are remembered after another took their place. One that was forgotten has been
/// without a connection while so many others came.
const REMEMBERED: usize = 256;

/// The place of the one connection that controls the proxy.
#[derive(Debug, Default)]
pub(super) struct Post {
    /// Held while one connection takes the place of another.
    holder: Mutex<Option<Holder>>,
    superseded: SyncMutex<VecDeque<String>>,
}

#[derive(Debug)]
struct Holder {
    engine: String,
    relieved: CancellationToken,
    left: CancellationToken,
}

/// What a connection has that controls the proxy.
#[derive(Debug)]
pub(super) struct Held {
    /// Another connection is to take its place, and waits until this is dropped.
    pub(super) relieved: CancellationToken,
    _left: DropGuard,
}

impl Post {
    /// Gives the place to a connection of `engine`, when the one before has left it; `None` where
    /// another engine took the place of this one.
    pub(super) async fn take(&self, engine: &str) -> Option<Held> {
        let mut holder = self.holder.lock().await;
        if self.is_superseded(engine) {
            return None;
        }
        if let Some(before) = holder.take() {
            if before.engine != engine {
                let mut superseded = lock(&self.superseded);
                superseded.push_back(before.engine);
                if superseded.len() > REMEMBERED {
                    superseded.pop_front();
                }
            }
            before.relieved.cancel();
            before.left.cancelled().await;
        }
        let (relieved, left) = (CancellationToken::new(), CancellationToken::new());
        *holder = Some(Holder {
            engine: engine.to_owned(),
            relieved: relieved.clone(),
            left: left.clone(),
        });
        Some(Held {
            relieved,
            _left: left.drop_guard(),
        })
    }

    /// Whether another engine took the place of this one.
    pub(super) fn is_superseded(&self, engine: &str) -> bool {
        lock(&self.superseded).iter().any(|other| other == engine)
    }
}
