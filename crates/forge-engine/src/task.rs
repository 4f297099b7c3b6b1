//! Background work with an owner: the only place that spawns.

use std::future::Future;

use tokio::task::JoinHandle;

/// A named background task that ends when its owner drops it.
#[derive(Debug)]
pub struct OwnedTask<T> {
    name: &'static str,
    handle: JoinHandle<T>,
}

/// The task panicked or was aborted.
#[derive(Debug, thiserror::Error)]
#[error("background task '{name}' ended without a result")]
pub struct TaskLost {
    /// Its name.
    pub name: &'static str,
    /// The runtime's reason.
    #[source]
    source: tokio::task::JoinError,
}

/// Starts `future` as a background task owned by the returned value.
#[expect(
    clippy::disallowed_methods,
    reason = "the one sanctioned call: the handle owns the task"
)]
pub fn spawn<F>(name: &'static str, future: F) -> OwnedTask<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    OwnedTask {
        name,
        handle: tokio::spawn(future),
    }
}

impl<T> OwnedTask<T> {
    /// Waits for the result.
    ///
    /// # Errors
    /// [`TaskLost`] when the task panicked.
    pub async fn join(mut self) -> Result<T, TaskLost> {
        (&mut self.handle).await.map_err(|source| TaskLost {
            name: self.name,
            source,
        })
    }
}

impl<T> Drop for OwnedTask<T> {
    fn drop(&mut self) {
        self.handle.abort();
    }
}
