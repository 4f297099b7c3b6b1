//! The one thread that writes.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use forge_core::OwnerId;
use rusqlite::{Connection, Transaction, TransactionBehavior};
use tokio::sync::{mpsc, oneshot};

use crate::connection;
use crate::errors::StoreError;
use crate::fault::{Fault, Outcome};
use crate::schema;

/// Writes that may wait; the caller of the next one waits for a place.
const QUEUE: usize = 256;

type Job = Box<dyn FnOnce(&mut Connection) + Send>;

enum Command {
    /// Do this, then report to whoever waits for it.
    Work(Job),
    /// Close the connection and end.
    Close(oneshot::Sender<Result<(), StoreError>>),
}

/// The way to the writer thread. The thread ends after the last command once this is dropped;
/// dropping does not wait for that.
#[derive(Debug)]
pub(crate) struct Writer {
    path: PathBuf,
    commands: mpsc::Sender<Command>,
    thread: Mutex<Option<JoinHandle<()>>>,
    closed: AtomicBool,
}

impl Writer {
    /// Starts the thread, which opens the database; returns the owner recorded there.
    pub(crate) async fn start(
        path: PathBuf,
        fresh_owner: OwnerId,
    ) -> Result<(Self, OwnerId), StoreError> {
        let (commands, queue) = mpsc::channel(QUEUE);
        let (opened, opening) = oneshot::channel();
        let thread = thread::Builder::new()
            .name("forge-store-write".to_owned())
            .spawn({
                let path = path.clone();
                move || match open(&path, &fresh_owner) {
                    Ok((connection, owner)) => {
                        // Whoever opened may have stopped waiting; then the queue ends at once.
                        drop(opened.send(Ok(owner)));
                        serve(connection, queue, &path);
                    }
                    Err(error) => drop(opened.send(Err(error))),
                }
            })
            .map_err(|error| StoreError::Io {
                path: path.clone(),
                action: "start the thread of the record",
                source: error.into(),
            })?;
        let writer = Self {
            path,
            commands,
            thread: Mutex::new(Some(thread)),
            closed: AtomicBool::new(false),
        };
        let owner = opening.await.unwrap_or_else(|_| Err(writer.gone()))?;
        Ok((writer, owner))
    }

    /// Runs `job` in a transaction of its own and commits; returns when that is done.
    pub(crate) async fn write<T, J>(&self, action: &'static str, job: J) -> Result<T, StoreError>
    where
        T: Send + 'static,
        J: FnOnce(&Transaction<'_>) -> Outcome<T> + Send + 'static,
    {
        let result = self
            .call(move |connection| -> Outcome<T> {
                // Immediate: a transaction that reads first and then cannot write would fail
                // without having waited.
                let transaction =
                    connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
                let value = job(&transaction)?;
                transaction.commit()?;
                Ok(value)
            })
            .await?;
        result.map_err(|fault| fault.during(action, &self.path))
    }

    /// Runs `job` on the writer's connection.
    pub(crate) async fn call<T, J>(&self, job: J) -> Result<T, StoreError>
    where
        T: Send + 'static,
        J: FnOnce(&mut Connection) -> T + Send + 'static,
    {
        let (done, waiting) = oneshot::channel();
        let job: Job = Box::new(move |connection| drop(done.send(job(connection))));
        self.commands
            .send(Command::Work(job))
            .await
            .map_err(|_| self.gone())?;
        waiting.await.map_err(|_| self.gone())
    }

    /// Ends the thread after the writes that wait already; later ones are refused.
    pub(crate) async fn close(&self) -> Result<(), StoreError> {
        self.closed.store(true, Ordering::Release);
        let thread = self
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let Some(thread) = thread else {
            return Ok(());
        };
        let (done, waiting) = oneshot::channel();
        let close = self.commands.send(Command::Close(done));
        // The error holds `done`; while it lives, `waiting` would wait.
        let sent = close.await.map_err(drop);
        let result = waiting.await;
        // The thread has nothing left to do, so this takes no time worth mentioning.
        let joined = tokio::task::spawn_blocking(move || thread.join()).await;
        match (sent, result, joined) {
            (Ok(()), Ok(result), Ok(Ok(()))) => result,
            _ => Err(StoreError::ThreadGone {
                path: self.path.clone(),
            }),
        }
    }

    fn gone(&self) -> StoreError {
        let path = self.path.clone();
        if self.closed.load(Ordering::Acquire) {
            StoreError::Closed { path }
        } else {
            StoreError::ThreadGone { path }
        }
    }
}

fn open(path: &Path, fresh_owner: &OwnerId) -> Result<(Connection, OwnerId), StoreError> {
    let mut connection = connection::open_for_writing(path)?;
    let owner = schema::owner(&mut connection, fresh_owner)
        .map_err(|fault| fault.during("read the owner of the record", path))?;
    Ok((connection, owner))
}

/// The commands that wait.
///
/// A receiver that is merely dropped can miss a command that is being sent at that moment. The
/// command would stay in the channel with the sender of its answer, and its caller would wait for
/// ever; so this takes every command out, also while a panic unwinds the thread.
struct Queue(mpsc::Receiver<Command>);

impl Drop for Queue {
    fn drop(&mut self) {
        self.0.close();
        while self.0.blocking_recv().is_some() {}
    }
}

fn serve(mut connection: Connection, commands: mpsc::Receiver<Command>, path: &Path) {
    let mut queue = Queue(commands);
    while let Some(command) = queue.0.blocking_recv() {
        match command {
            Command::Work(job) => job(&mut connection),
            Command::Close(done) => {
                // Later commands are refused before the answer says that all is closed.
                drop(queue);
                let closed = connection
                    .close()
                    .map_err(|(_, error)| Fault::from(error).during("close the record", path));
                drop(done.send(closed));
                return;
            }
        }
    }
}
