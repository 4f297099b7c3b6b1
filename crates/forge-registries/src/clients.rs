//! The clients of registries, which know where their indexes are.

use std::io;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use forge_config::Group;
use tokio::io::AsyncReadExt;
use tokio::process::Command;
use tokio::time::timeout;

/// Longest that a client may take to answer.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// Largest configuration file that is read, in bytes.
pub const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// Where clients run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// On the operator's machine, which may have package sources that no image has.
    Host,
    /// In an image, whose settings are those of the sandboxes.
    Image,
}

/// What a client answered.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Output {
    /// Whether it ended well.
    pub success: bool,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

/// A place in which clients can be asked.
#[async_trait]
pub trait Clients: Send + Sync {
    /// Which.
    fn place(&self) -> Place;

    /// Runs a program with the root folder as its current one and waits for it.
    ///
    /// The current folder matters: several clients heed files of the folder they are started in,
    /// and those may be a stranger's.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] when there is no such program; otherwise when it could not be
    /// run to its end.
    async fn run(&self, argv: &[&str]) -> io::Result<Output>;

    /// Reads a file; `None` when there is none.
    ///
    /// # Errors
    /// When it is there and cannot be read.
    async fn read(&self, path: &Path) -> io::Result<Option<String>>;
}

/// The clients of an image.
#[derive(Clone)]
pub struct InImage {
    /// The image's name, for people.
    pub image: String,
    /// Its clients.
    pub clients: Arc<dyn Clients>,
}

/// Images in which clients can be asked that this machine has not.
#[async_trait]
pub trait Images: Send + Sync {
    /// The clients of an image that has the one of `group`.
    ///
    /// # Errors
    /// Why none can be asked, for people.
    async fn with_client(&self, group: Group) -> Result<InImage, String>;
}

/// Where clients are asked: those of this machine, which people set to their mirrors, and those of
/// images where it has none.
#[derive(Clone, Copy)]
pub struct Places<'p> {
    /// This machine's.
    pub host: &'p dyn Clients,
    /// The others, where there are any.
    pub images: Option<&'p dyn Images>,
}

impl<'p> Places<'p> {
    /// One place and no other.
    #[must_use]
    pub fn only(host: &'p dyn Clients) -> Self {
        Self { host, images: None }
    }
}

/// The clients of this machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct HostClients;

#[async_trait]
impl Clients for HostClients {
    fn place(&self) -> Place {
        Place::Host
    }

    async fn run(&self, argv: &[&str]) -> io::Result<Output> {
        let (program, arguments) = argv
            .split_first()
            .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        let running = Command::new(program)
            .args(arguments)
            .current_dir("/")
            .env("LC_ALL", "C.UTF-8")
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let output = timeout(PATIENCE, running.wait_with_output())
            .await
            .map_err(|_| {
                let message = format!("{program} did not answer within {} s", PATIENCE.as_secs());
                io::Error::new(io::ErrorKind::TimedOut, message)
            })??;
        // As `env` and shells say that there is no such program.
        if output.status.code() == Some(127) {
            return Err(io::Error::from(io::ErrorKind::NotFound));
        }
        Ok(Output {
            success: output.status.success(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    async fn read(&self, path: &Path) -> io::Result<Option<String>> {
        let file = match tokio::fs::File::open(path).await {
            Ok(file) => file,
            Err(error) if is_absent(&error) => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut bytes = Vec::new();
        file.take(MAX_FILE_BYTES).read_to_end(&mut bytes).await?;
        Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
    }
}

fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_program_runs_in_the_root_folder_and_its_end_is_told() {
        let output = HostClients
            .run(&["sh", "-c", "pwd; echo no >&2; exit 3"])
            .await;
        let expected = Output {
            success: false,
            stdout: "/\n".into(),
            stderr: "no\n".into(),
        };
        assert_eq!(output.unwrap(), expected);
    }

    #[tokio::test]
    async fn a_program_that_is_missing_is_said_so_also_behind_env() {
        for argv in [&["no-such-program"][..], &["env", "A=b", "no-such-program"]] {
            let error = HostClients.run(argv).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::NotFound);
        }
        assert_eq!(HostClients.read(Path::new("/no/file")).await.unwrap(), None);
    }
}
