//! Ctrl-C, SIGTERM and SIGHUP: the first one asks that nothing more is started, the second one that
//! what runs ends, the third one leaves at once. After another signal than Ctrl-C, which nobody may
//! repeat, what runs has a deadline.

use std::io;
use std::time::Duration;

use forge_orchestrator::Cancellation;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// How long somebody who leaves at once is told about it. A terminal takes no time worth mentioning,
/// and a reader that stands still must not keep anybody.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// What is asked of a command that ends cleanly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Notice {
    /// Nothing more is started; somebody sits at the keyboard.
    Draining,
    /// Nothing more is started, and what runs has so long.
    DrainingFor(Duration),
    /// What runs ends.
    Stopping,
}

/// The signals that end the program.
#[derive(Debug)]
pub(crate) struct Interrupts {
    interrupt: Signal,
    terminate: Signal,
    /// `None` when the program was told to outlive its terminal.
    hangup: Option<Signal>,
}

impl Interrupts {
    /// Listens from now on.
    ///
    /// # Errors
    /// When the system refuses.
    pub(crate) fn listen() -> io::Result<Self> {
        let process = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            // Listening would undo what `nohup` did.
            hangup: if ignores(&process, SignalKind::hangup()) {
                None
            } else {
                Some(signal(SignalKind::hangup())?)
            },
        })
    }

    /// Waits for the next one; gives whether it came from a keyboard.
    async fn next(&mut self) -> bool {
        let hangup = async {
            match &mut self.hangup {
                Some(signal) => signal.recv().await,
                None => None,
            }
        };
        // A closed stream yields nothing for ever after, which must not count as a signal.
        tokio::select! {
            Some(()) = self.interrupt.recv() => true,
            Some(()) = self.terminate.recv() => false,
            Some(()) = hangup => false,
            else => std::future::pending().await,
        }
    }

    /// Returns when the program is to leave at once. A command that can end cleanly is first asked
    /// to, in two steps that `say` tells; `patience` is how long the first may take when nobody is
    /// there to ask for the second.
    pub(crate) async fn leave_at_once(
        &mut self,
        clean: Option<(&Cancellation, impl Fn(Notice) + Clone + Send + 'static)>,
        patience: Duration,
    ) {
        let by_keyboard = self.next().await;
        let Some((cancellation, say)) = clean else {
            return;
        };
        // Not waited for: standard error may be a pipe that nobody reads, and the next signal must
        // be heard all the same.
        let tell = |notice| {
            let say = say.clone();
            drop(tokio::task::spawn_blocking(move || say(notice)));
        };
        cancellation.drain();
        if by_keyboard {
            tell(Notice::Draining);
            self.next().await;
        } else {
            tell(Notice::DrainingFor(patience));
            // Too late or asked for again: the same follows.
            tokio::time::timeout(patience, self.next()).await.ok();
        }
        cancellation.cancel();
        tell(Notice::Stopping);
        self.next().await;
    }
}

/// Says something on a thread that may block, and goes on after a moment whether it is said or not.
pub(crate) async fn say_briefly(say: impl FnOnce() + Send + 'static) {
    tokio::time::timeout(LAST_WORDS, tokio::task::spawn_blocking(say))
        .await
        .ok();
}

/// Whether a process with this `/proc/PID/status` ignores `kind`.
fn ignores(status: &str, kind: SignalKind) -> bool {
    let mask = status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0);
    let bit = u32::try_from(kind.as_raw_value() - 1).unwrap_or(0);
    mask & (1 << bit) != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nohup_did_is_seen() {
        let status = "Name:\tx\nSigBlk:\tffffffffffffffff\nSigIgn:\t0000000000001001\n";
        assert!(ignores(status, SignalKind::hangup()));
        assert!(!ignores(status, SignalKind::interrupt()));
        assert!(!ignores("", SignalKind::hangup()));
    }

    #[tokio::test]
    async fn saying_something_to_nobody_takes_no_longer_than_a_moment() {
        let (release, blocked) = std::sync::mpsc::channel::<()>();
        say_briefly(move || assert!(blocked.recv().is_err())).await;
        drop(release);
    }
}
