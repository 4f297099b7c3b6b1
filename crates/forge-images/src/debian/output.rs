//! A running mmdebstrap: its tar stream, which fails when the program does, and its progress.

use std::ffi::OsString;
use std::future::Future;
use std::io::{self, Cursor};
use std::pin::Pin;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use forge_engine::images::{ByteStream, ProgressLine};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader, Chain, ReadBuf};
use tokio::process::{Child, ChildStderr, ChildStdout, Command};

use crate::debian::bootstrap::{Bootstrap, PROGRAM};
use crate::debian::failure::Tail;
use crate::error::ImagesError;

/// How a program ended, once it has.
#[derive(Debug, Clone, Default)]
pub(super) struct Ending(Arc<OnceLock<ExitStatus>>);

impl Ending {
    /// The status of a program that ended, and not well.
    pub(super) fn failure(&self) -> Option<ExitStatus> {
        self.0.get().copied().filter(|status| !status.success())
    }
}

/// mmdebstrap at work. Dropping it, or what comes of it, ends the program.
pub(super) struct RunningBootstrap {
    stdout: Option<ChildStdout>,
    stderr: Option<ChildStderr>,
    process: Process,
}

/// The program with everything it started.
struct Process {
    child: Child,
    group: ProcessGroup,
    ending: Ending,
}

impl RunningBootstrap {
    /// Starts the program in a process group of its own.
    pub(super) fn start(bootstrap: &Bootstrap) -> Result<Self, ImagesError> {
        let mut words = bootstrap.command_line.iter();
        let mut command = Command::new(words.next().map_or(PROGRAM.as_ref(), OsString::as_os_str));
        command.args(words).env_clear().envs(
            bootstrap
                .environment
                .iter()
                .map(|(name, value)| (name, value)),
        );
        Self::spawn(command).map_err(ImagesError::start(PROGRAM))
    }

    fn spawn(mut command: Command) -> io::Result<Self> {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()?;
        Ok(Self {
            stdout: child.stdout.take(),
            stderr: child.stderr.take(),
            process: Process {
                group: ProcessGroup::led_by(&child),
                child,
                ending: Ending::default(),
            },
        })
    }

    /// What the program says about its progress.
    pub(super) fn take_stderr(&mut self) -> Option<ChildStderr> {
        self.stderr.take()
    }

    /// Where it will stand how the program ended.
    pub(super) fn ending(&self) -> Ending {
        self.process.ending.clone()
    }

    /// Waits until the program has something to hand over, that is until all is installed; `None`
    /// when it ended before. Then the ending is known.
    pub(super) async fn into_stream(self) -> io::Result<Option<ByteStream>> {
        let Self {
            stdout: Some(mut stdout),
            process,
            ..
        } = self
        else {
            return Ok(None);
        };
        let mut first = vec![0; 64 * 1024];
        let length = stdout.read(&mut first).await?;
        first.truncate(length);
        if length == 0 {
            process.wait().await?;
            return Ok(None);
        }
        Ok(Some(Box::pin(CheckedStream {
            bytes: Cursor::new(first).chain(stdout),
            end: End::Open(Box::pin(process.wait())),
        })))
    }
}

impl Process {
    async fn wait(mut self) -> io::Result<ExitStatus> {
        let status = self.child.wait().await?;
        self.group.ended();
        // Nobody else sets it: the process is consumed here.
        let status = *self.ending.0.get_or_init(|| status);
        Ok(status)
    }
}

/// Asks every process of a group to end when it is dropped before they have.
///
/// mmdebstrap clears its root file system away when asked; killing it alone would leave both that
/// and the programs it runs inside.
struct ProcessGroup(Option<Pid>);

impl ProcessGroup {
    fn led_by(child: &Child) -> Self {
        Self(
            child
                .id()
                .and_then(|id| i32::try_from(id).ok())
                .map(Pid::from_raw),
        )
    }

    fn ended(&mut self) {
        self.0 = None;
    }
}

impl Drop for ProcessGroup {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // It can only fail when the group is gone, which is what is wanted.
            killpg(group, Signal::SIGTERM).ok();
        }
    }
}

type Waiting = Pin<Box<dyn Future<Output = io::Result<ExitStatus>> + Send>>;

/// The tar stream; its end is an end only when the program ended well.
struct CheckedStream {
    bytes: Chain<Cursor<Vec<u8>>, ChildStdout>,
    end: End,
}

enum End {
    Open(Waiting),
    Well,
}

impl AsyncRead for CheckedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.bytes).poll_read(context, buffer))?;
        if buffer.filled().len() > before || buffer.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        if let End::Open(waiting) = &mut self.end {
            let status = ready!(waiting.as_mut().poll(context))?;
            self.end = End::Well;
            if !status.success() {
                let message = format!("{PROGRAM} failed ({status}) in the middle of its output");
                return Poll::Ready(Err(io::Error::other(message)));
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// Hands every line to `progress` and returns the last ones.
pub(super) async fn follow(stderr: Option<ChildStderr>, progress: ProgressLine<'_>) -> Tail {
    let mut tail = Tail::default();
    let Some(stderr) = stderr else { return tail };
    let mut reader = BufReader::new(stderr);
    let mut line = Vec::new();
    // What cannot be read any more is only progress; how it ended is learnt from the status.
    while matches!(reader.read_until(b'\n', &mut line).await, Ok(length) if length > 0) {
        let text = String::from_utf8_lossy(&line).trim_end().to_owned();
        line.clear();
        if text.is_empty() {
            continue;
        }
        if let Some(news) = news(&text) {
            progress(news);
        }
        tail.push(text);
    }
    tail
}

/// What a line tells a person who waits; `None` for the copying of files to and fro.
fn news(line: &str) -> Option<&str> {
    let is_hook = |text: &str| text.starts_with("running ") && text.contains("-hook");
    match line.strip_prefix("I: ") {
        Some(text) if is_hook(text) || text.starts_with("running special hook") => None,
        Some(text) => Some(text),
        None => Some(line),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    fn shell(script: &str) -> RunningBootstrap {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        RunningBootstrap::spawn(command).unwrap()
    }

    async fn read_all(running: RunningBootstrap) -> (Vec<u8>, io::Result<usize>) {
        let mut stream = running.into_stream().await.unwrap().expect("bytes");
        let mut bytes = Vec::new();
        let result = stream.read_to_end(&mut bytes).await;
        (bytes, result)
    }

    #[tokio::test]
    async fn all_bytes_arrive_when_the_program_ends_well() {
        let (bytes, result) = read_all(shell("head -c 300000 /dev/zero; printf end")).await;
        assert_eq!(result.unwrap(), 300_003);
        assert!(bytes.ends_with(b"end"));
    }

    #[tokio::test]
    async fn a_stream_that_breaks_off_is_an_error_and_not_an_end() {
        let running = shell("printf half; exit 3");
        let ending = running.ending();
        let (bytes, result) = read_all(running).await;
        assert_eq!(bytes, b"half");
        assert!(result.is_err());
        assert_eq!(ending.failure().unwrap().code(), Some(3));
    }

    #[tokio::test]
    async fn a_program_that_fails_early_has_no_stream_and_a_status() {
        let running = shell("exit 25");
        let ending = running.ending();
        assert!(running.into_stream().await.unwrap().is_none());
        assert_eq!(ending.failure().unwrap().code(), Some(25));
    }

    #[tokio::test]
    async fn lines_go_to_the_callback_and_the_last_ones_are_kept() {
        let mut running = shell("echo one >&2; echo >&2; printf 'two \\377' >&2");
        let seen = Mutex::new(Vec::new());
        let progress = |line: &str| seen.lock().unwrap().push(line.to_owned());
        let tail = follow(running.take_stderr(), &progress).await;
        let expected = ["one", "two \u{fffd}"];
        assert_eq!(*seen.lock().unwrap(), expected);
        assert_eq!(tail.into_lines(), expected);
    }

    #[test]
    fn progress_is_about_packages_and_not_about_hooks() {
        assert_eq!(
            news("I: running apt-get update..."),
            Some("running apt-get update...")
        );
        assert_eq!(news("W: something odd"), Some("W: something odd"));
        assert_eq!(news("I: running special hook: upload a b"), None);
        assert_eq!(news("I: running --setup-hook in shell: sh -c 'x'"), None);
    }

    #[tokio::test]
    async fn dropping_the_stream_ends_every_process_of_the_program() {
        // The descendant holds stderr open: its end is seen as the end of stderr.
        let mut running = shell("(exec sleep 600 >&2) & printf begun; wait");
        let stderr = running.take_stderr();
        let stream = running.into_stream().await.unwrap().expect("bytes");
        drop(stream);
        assert_eq!(follow(stderr, &|_| {}).await.lines().count(), 0);
    }
}
