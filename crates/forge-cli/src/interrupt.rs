//! Ctrl-C and SIGTERM: the first one asks for a clean end, the second one leaves at once.

use std::io;

use forge_orchestrator::Cancellation;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals that end the program.
#[derive(Debug)]
pub(crate) struct Interrupts {
    interrupt: Signal,
    terminate: Signal,
}

impl Interrupts {
    /// Listens from now on.
    ///
    /// # Errors
    /// When the system refuses.
    pub(crate) fn listen() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    async fn next(&mut self) {
        // A closed stream yields nothing for ever after, which must not count as a signal.
        tokio::select! {
            Some(()) = self.interrupt.recv() => {}
            Some(()) = self.terminate.recv() => {}
            else => std::future::pending().await,
        }
    }

    /// Returns when the program is to leave at once. A command that can end cleanly is asked to at
    /// the first signal, and left at the second.
    pub(crate) async fn leave_at_once(&mut self, clean: Option<(&Cancellation, impl FnOnce())>) {
        self.next().await;
        if let Some((cancellation, say)) = clean {
            say();
            cancellation.cancel();
            self.next().await;
        }
    }
}
