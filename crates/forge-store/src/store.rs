//! The handle of the record.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use forge_core::{OwnerId, RunId};
use rusqlite::{Connection, Transaction};

use crate::connection;
use crate::errors::StoreError;
use crate::fault::Outcome;
use crate::lease::Fence;
use crate::reader::Reader;
use crate::schema;
use crate::writer::Writer;

/// The record of an installation. Clones share one writer thread.
///
/// When the last clone is dropped the thread ends by itself after the writes that wait; dropping
/// does not wait for it. [`Store::close`] does.
#[derive(Debug, Clone)]
pub struct Store {
    shared: Arc<Shared>,
    /// Whom this handle writes for; everybody when `None`.
    fence: Option<Fence>,
}

#[derive(Debug)]
struct Shared {
    path: PathBuf,
    owner: OwnerId,
    // Dropped before the writer, so that the writer's connection is the last and tidies the log.
    reader: Reader,
    /// `None` when the record was opened for reading only.
    writer: Option<Writer>,
}

impl Store {
    /// Opens the record at `path`. Makes missing folders (mode 0700) and a missing file (mode
    /// 0600), and migrates an older schema. `fresh_owner` becomes the installation's owner when
    /// none is recorded yet.
    ///
    /// # Errors
    /// [`StoreError::Io`] when folder or file cannot be made or opened; [`StoreError::Corrupt`],
    /// [`StoreError::Foreign`] or [`StoreError::NewerSchema`] when the file is nothing for this
    /// version, in which case it is left as it is; [`StoreError::Busy`], [`StoreError::Full`] and
    /// [`StoreError::Unshareable`] as they say.
    pub async fn open(path: impl Into<PathBuf>, fresh_owner: OwnerId) -> Result<Self, StoreError> {
        let path = path.into();
        let (writer, owner) = Writer::start(path.clone(), fresh_owner).await?;
        let reader = Reader::new(path.clone(), connection::open_for_reading);
        Ok(Self {
            shared: Arc::new(Shared {
                path,
                owner,
                reader,
                writer: Some(writer),
            }),
            fence: None,
        })
    }

    /// Opens the record at `path` for reading, also where nothing can be written: on a disk that is
    /// mounted read-only, or in a folder of somebody else. Writes are refused with
    /// [`StoreError::ReadOnly`].
    ///
    /// # Errors
    /// As [`Store::open`]; [`StoreError::Io`] also when the file is not there, and
    /// [`StoreError::Outdated`] when [`Store::open`] would migrate it.
    pub async fn open_read_only(path: impl Into<PathBuf>) -> Result<Self, StoreError> {
        let path = path.into();
        let reader = Reader::new(path.clone(), connection::open_unattended);
        let owner = reader
            .read("open the record", {
                let path = path.clone();
                move |connection| schema::known_owner(connection, &path)
            })
            .await?;
        Ok(Self {
            shared: Arc::new(Shared {
                path,
                owner,
                reader,
                writer: None,
            }),
            fence: None,
        })
    }

    /// A handle for the process that drives `run` in `epoch`. Every write of it first checks, in the
    /// same transaction, that this is still the run's epoch, and is not done otherwise:
    /// [`StoreError::Superseded`], or [`StoreError::NotFound`] when the run is recorded no more.
    /// Reads are as ever.
    #[must_use]
    pub fn fenced(&self, run: RunId, epoch: u64) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            fence: Some(Fence { run, epoch }),
        }
    }

    /// The installation's owner id, the same for every process that opens this record.
    #[must_use]
    pub fn owner(&self) -> &OwnerId {
        &self.shared.owner
    }

    /// The database file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.shared.path
    }

    /// Finishes the writes that wait, closes the database and joins the writer thread. Clones get
    /// [`StoreError::Closed`] from then on. Closing again does nothing.
    ///
    /// # Errors
    /// What closing the database ran into, or [`StoreError::ThreadGone`].
    pub async fn close(&self) -> Result<(), StoreError> {
        self.shared.reader.close().await;
        match &self.shared.writer {
            Some(writer) => writer.close().await,
            None => Ok(()),
        }
    }

    /// One transaction on the writer thread.
    pub(crate) async fn write<T, J>(&self, action: &'static str, job: J) -> Result<T, StoreError>
    where
        T: Send + 'static,
        J: FnOnce(&Transaction<'_>) -> Outcome<T> + Send + 'static,
    {
        let fence = self.fence;
        let job = move |transaction: &Transaction<'_>| {
            if let Some(fence) = fence {
                fence.check(transaction)?;
            }
            job(transaction)
        };
        match &self.shared.writer {
            Some(writer) => writer.write(action, job).await,
            None => Err(StoreError::ReadOnly {
                path: self.shared.path.clone(),
                action,
            }),
        }
    }

    /// One query on a read-only connection.
    pub(crate) async fn read<T, Q>(&self, action: &'static str, query: Q) -> Result<T, StoreError>
    where
        T: Send + 'static,
        Q: FnOnce(&Connection) -> Outcome<T> + Send + 'static,
    {
        self.shared.reader.read(action, query).await
    }

    /// Reaches behind the methods, to provoke what cannot be provoked through them.
    #[cfg(test)]
    pub(crate) fn writer(&self) -> &Writer {
        self.shared.writer.as_ref().expect("opened for writing")
    }
}
