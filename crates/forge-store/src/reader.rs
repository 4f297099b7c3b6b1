//! Queries, on a few read-only connections.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::{Connection, TransactionBehavior};
use tokio::sync::Semaphore;

use crate::errors::StoreError;
use crate::fault::Outcome;

/// Queries at the same time; further ones wait.
const CONNECTIONS: u32 = 4;

/// How a connection for queries comes about.
pub(crate) type Opening = fn(&Path) -> Outcome<Connection>;

/// The read-only connections; each is opened when it is first needed.
#[derive(Debug)]
pub(crate) struct Reader {
    path: PathBuf,
    open: Opening,
    idle: Arc<Mutex<Vec<Connection>>>,
    places: Arc<Semaphore>,
}

impl Reader {
    /// A reader of the database at `path`, whose connections come about by `open`.
    pub(crate) fn new(path: PathBuf, open: Opening) -> Self {
        Self {
            path,
            open,
            idle: Arc::default(),
            places: Arc::new(Semaphore::new(CONNECTIONS as usize)),
        }
    }

    /// Runs `query` on one snapshot of the database, on a thread that may block.
    pub(crate) async fn read<T, Q>(&self, action: &'static str, query: Q) -> Result<T, StoreError>
    where
        T: Send + 'static,
        Q: FnOnce(&Connection) -> Outcome<T> + Send + 'static,
    {
        let closed = || StoreError::Closed {
            path: self.path.clone(),
        };
        let place = Arc::clone(&self.places)
            .acquire_owned()
            .await
            .map_err(|_| closed())?;
        let idle = Arc::clone(&self.idle);
        let path = self.path.clone();
        let open = self.open;
        let answer = tokio::task::spawn_blocking(move || {
            // Held until the connection is back, even when the caller stopped waiting.
            let _place = place;
            let kept = idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let mut connection = match kept {
                Some(connection) => connection,
                None => open(&path)?,
            };
            let snapshot = connection.transaction_with_behavior(TransactionBehavior::Deferred)?;
            let answer = query(&snapshot);
            drop(snapshot);
            idle.lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(connection);
            answer
        })
        .await;
        match answer {
            Ok(answer) => answer.map_err(|fault| fault.during(action, &self.path)),
            Err(_) => Err(StoreError::ThreadGone {
                path: self.path.clone(),
            }),
        }
    }

    /// Waits for the queries under way, then closes the connections; later queries are refused.
    pub(crate) async fn close(&self) {
        // An error means that another call closed already.
        if let Ok(places) = self.places.acquire_many(CONNECTIONS).await {
            places.forget();
            self.places.close();
        }
        self.idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }
}
