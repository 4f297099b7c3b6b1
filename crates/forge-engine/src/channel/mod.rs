//! The client end of a sandbox's channel: one connection, many commands and transfers.
//!
//! A driver task owns the connection and all state; everything else holds a cloneable handle.
//! When the connection breaks the driver makes a new one, proves itself, and resumes every
//! command from the offset it has. Only when the sandbox is known to be gone, or stays out of
//! reach for [`client::RECONNECT_BUDGET`], do the waiting callers get an error. They also do when an
//! orchestrator of a higher epoch has taken the sandbox over: then nothing is tried again.
//!
//! A command with a key outlives its process: see [`forge_core::ExecKey`]. What nobody has
//! acknowledged of its output stays in the sandbox, and so does its end until it is forgotten.

mod client;
mod connection;
pub(crate) mod direct;
mod driver;
mod streams;

use async_trait::async_trait;
use tokio::io::{AsyncRead, AsyncWrite};

pub use client::{ChannelClient, ChannelIdentity, RECONNECT_BUDGET};
pub use streams::{Download, OutputReceiver, Remote, Wish, Wishes, detached};

use self::connection::ConnectionError;
use crate::error::{EngineError, EngineErrorKind, Operation};
use forge_core::SandboxId;

/// A two-way byte stream.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// Makes connections to one sandbox's `forge-init`; engine specific.
#[async_trait]
pub trait Connector: Send + Sync {
    /// A new connection. [`crate::EngineErrorKind::Lost`] and
    /// [`crate::EngineErrorKind::NotFound`] mean that there is no use in trying again.
    async fn connect(&self) -> Result<Box<dyn Duplex>, EngineError>;
}

/// Why one attempt to connect failed.
enum ConnectError {
    Connector(EngineError),
    Handshake(ConnectionError),
    Silent,
}

impl ConnectError {
    fn is_final(&self) -> bool {
        match self {
            Self::Connector(error) => !matches!(
                error.kind,
                EngineErrorKind::Unavailable | EngineErrorKind::Internal
            ),
            Self::Handshake(error) => error.is_final(),
            Self::Silent => true,
        }
    }

    fn into_engine_error(self, id: &SandboxId) -> EngineError {
        match self {
            Self::Connector(error) => error,
            Self::Handshake(ConnectionError::Superseded(epoch)) => {
                tracing::debug!(sandbox = %id, epoch, "superseded");
                EngineError::new(
                    EngineErrorKind::Conflict,
                    Operation::Open,
                    id.as_str(),
                    "another orchestrator has taken this sandbox over",
                )
            }
            Self::Handshake(error) => EngineError::new(
                if error.is_final() {
                    EngineErrorKind::Corrupt
                } else {
                    EngineErrorKind::Lost
                },
                Operation::Open,
                id.as_str(),
                "the handshake with the sandbox failed",
            )
            .with_source(error),
            Self::Silent => EngineError::new(
                EngineErrorKind::Lost,
                Operation::Open,
                id.as_str(),
                "the sandbox does not answer",
            ),
        }
    }
}
