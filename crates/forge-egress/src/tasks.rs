//! Background work with an owner: the only place of this crate that spawns.

use std::future::Future;

use tokio::task::{JoinHandle, JoinSet};

/// A background task that ends when its owner drops it.
#[derive(Debug)]
pub(crate) struct OwnedTask(JoinHandle<()>);

/// Starts `future` as a background task owned by the returned value.
#[expect(
    clippy::disallowed_methods,
    reason = "the one sanctioned call: the handle owns the task"
)]
pub(crate) fn spawn(future: impl Future<Output = ()> + Send + 'static) -> OwnedTask {
    OwnedTask(tokio::spawn(future))
}

impl OwnedTask {
    /// Ends the task and waits until all that it held is dropped.
    pub(crate) async fn end(mut self) {
        self.0.abort();
        // How it ended does not matter, only that it did.
        drop((&mut self.0).await);
    }
}

impl Drop for OwnedTask {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Tasks of one kind, however many, that end when their owner drops this.
#[derive(Debug, Default)]
pub(crate) struct Tasks(JoinSet<()>);

impl Tasks {
    /// Starts one more.
    pub(crate) fn start(&mut self, future: impl Future<Output = ()> + Send + 'static) {
        self.0.spawn(future);
    }

    /// How many there are, those that ended included until [`one_ended`](Self::one_ended) said so.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns when one has ended, never when there is none.
    pub(crate) async fn one_ended(&mut self) {
        if self.0.join_next().await.is_none() {
            std::future::pending().await
        }
    }
}
