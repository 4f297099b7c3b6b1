//! The log of a phase: output without secrets, and beside it a mark of how far it goes, so that a
//! process after this one goes on where it ends.
//!
//! The mark is written after what it tells of. What follows it in the log was written in the moment
//! in which a process was ended, and is written again.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use tokio::task::JoinHandle;

use crate::redact::{Mask, Redactor};

/// Output that is kept in memory before it is written down, in bytes.
const BUFFER: usize = 256 * 1024;
/// Bytes of a mark: how much of the output the log stands for, and how long the log is.
const MARK: usize = 16;

/// The log of one phase while it is written.
pub(crate) struct PhaseLog {
    place: Place,
    redactor: Redactor,
    buffer: Vec<u8>,
    /// Output that has come, from the first byte on.
    taken: u64,
    /// What the mark says of that.
    told: u64,
}

/// Where the files are: a write goes on when nobody waits for it any more.
enum Place {
    Here(Files),
    Writing(JoinHandle<io::Result<Files>>),
    Lost,
}

struct Files {
    log: File,
    mark: File,
    length: u64,
}

impl PhaseLog {
    /// Begins a log at `path`; one that is there is replaced.
    pub(crate) async fn create(path: &Path, secrets: &Mask) -> io::Result<Self> {
        let (path, redactor) = (path.to_owned(), secrets.stream());
        blocking(move || {
            if let Some(folder) = path.parent() {
                std::fs::create_dir_all(folder)?;
            }
            let files = Files {
                log: File::create(&path)?,
                mark: File::create(mark_of(&path))?,
                length: 0,
            };
            files.tell(0)?;
            Ok(Self::new(files, redactor, 0))
        })
        .await
    }

    /// Goes on with the log at `path` where its mark says that it ends.
    pub(crate) async fn reopen(path: &Path, secrets: &Mask) -> io::Result<Self> {
        let (path, redactor) = (path.to_owned(), secrets.stream());
        blocking(move || {
            let open = |path: &Path| OpenOptions::new().read(true).write(true).open(path);
            let (log, mark) = (open(&path)?, open(&mark_of(&path))?);
            let mut bytes = [0; MARK];
            mark.read_exact_at(&mut bytes, 0)?;
            let number = |half: usize| {
                let mut number = [0; MARK / 2];
                number.copy_from_slice(&bytes[half * MARK / 2..][..MARK / 2]);
                u64::from_le_bytes(number)
            };
            let (taken, length) = (number(0), number(1));
            log.set_len(length)?;
            let files = Files { log, mark, length };
            Ok(Self::new(files, redactor, taken))
        })
        .await
    }

    fn new(files: Files, redactor: Redactor, taken: u64) -> Self {
        Self {
            place: Place::Here(files),
            redactor,
            buffer: Vec::new(),
            taken,
            told: taken,
        }
    }

    /// Bytes of output that have come.
    pub(crate) const fn taken(&self) -> u64 {
        self.taken
    }

    /// Takes the next piece of output; gives whether it is time to [`Self::flush`].
    pub(crate) fn push(&mut self, bytes: &[u8]) -> bool {
        self.taken += bytes.len() as u64;
        if self.redactor.is_idle() {
            self.buffer.extend_from_slice(bytes);
        } else {
            self.buffer.extend(self.redactor.push(bytes));
        }
        self.buffer.len() >= BUFFER
    }

    /// Writes down what was taken. Gives how much of the output needs not be asked for again.
    pub(crate) async fn flush(&mut self) -> io::Result<u64> {
        self.settle().await?;
        let safe = self.taken - self.redactor.held();
        if self.buffer.is_empty() && safe == self.told {
            return Ok(safe);
        }
        let Place::Here(mut files) = std::mem::replace(&mut self.place, Place::Lost) else {
            return Err(io::Error::other("an earlier write of it failed"));
        };
        let buffer = std::mem::take(&mut self.buffer);
        self.told = safe;
        self.place = Place::Writing(tokio::task::spawn_blocking(move || {
            // Not appended: an append would follow whatever somebody else has added.
            files.log.write_all_at(&buffer, files.length)?;
            files.length += buffer.len() as u64;
            files.tell(safe)?;
            Ok(files)
        }));
        self.settle().await?;
        Ok(safe)
    }

    /// Waits for the write that is under way, if one is.
    async fn settle(&mut self) -> io::Result<()> {
        let Place::Writing(write) = &mut self.place else {
            return Ok(());
        };
        let written = write
            .await
            .unwrap_or_else(|error| Err(io::Error::other(error)));
        match written {
            Ok(files) => {
                self.place = Place::Here(files);
                Ok(())
            }
            Err(error) => {
                self.place = Place::Lost;
                Err(error)
            }
        }
    }

    /// Writes down the rest, also what might have been the beginning of a secret.
    pub(crate) async fn finish(&mut self) -> io::Result<()> {
        let rest = self.redactor.finish();
        self.buffer.extend(rest);
        self.flush().await.map(|_| ())
    }
}

impl Files {
    fn tell(&self, safe: u64) -> io::Result<()> {
        let mut bytes = [0; MARK];
        bytes[..MARK / 2].copy_from_slice(&safe.to_le_bytes());
        bytes[MARK / 2..].copy_from_slice(&self.length.to_le_bytes());
        self.mark.write_all_at(&bytes, 0)
    }
}

/// Removes the mark of a log that is complete; success when there is none.
pub(crate) async fn remove_mark(log: &Path) -> io::Result<()> {
    match tokio::fs::remove_file(mark_of(log)).await {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// `.solve.mark` beside `solve.log`.
pub(crate) fn mark_of(log: &Path) -> PathBuf {
    let stem = log.file_stem().unwrap_or_default().to_string_lossy();
    log.with_file_name(format!(".{stem}.mark"))
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(io::Error::other(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret() -> Mask {
        Mask::new(["tiger-tiger"])
    }

    #[tokio::test]
    async fn a_log_goes_on_where_the_last_flush_left_it_whatever_follows_in_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/solve.log");
        let mut log = PhaseLog::create(&path, &Mask::default()).await.unwrap();
        log.push(b"one\n");
        assert_eq!(log.flush().await.unwrap(), 4);
        log.push(b"two\n");
        drop(log);
        // As if a process had been ended between the log and its mark.
        std::fs::write(&path, b"one\ntw").unwrap();
        let mut log = PhaseLog::reopen(&path, &Mask::default()).await.unwrap();
        assert_eq!(log.taken(), 4);
        log.push(b"two\n");
        log.finish().await.unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"one\ntwo\n");
        remove_mark(&path).await.unwrap();
        remove_mark(&path).await.unwrap();
        assert!(PhaseLog::reopen(&path, &Mask::default()).await.is_err());
    }

    #[tokio::test]
    async fn half_a_secret_is_asked_for_again_and_never_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("solve.log");
        let mut log = PhaseLog::create(&path, &secret()).await.unwrap();
        log.push(b"see tiger-");
        assert_eq!(log.flush().await.unwrap(), 4);
        let mut log = PhaseLog::reopen(&path, &secret()).await.unwrap();
        assert_eq!(log.taken(), 4);
        log.push(b"tiger-tiger\n");
        log.finish().await.unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"see ***\n");
    }

    #[tokio::test]
    async fn much_output_is_to_be_flushed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("solve.log");
        let mut log = PhaseLog::create(&path, &Mask::default()).await.unwrap();
        assert!(!log.push(&[b'x'; 1000]));
        assert!(log.push(&vec![b'x'; BUFFER]));
        log.flush().await.unwrap();
        assert!(!log.push(b"x"));
    }
}
