//! What the orchestrator and `forge-init`, PID 1 of every sandbox, say to each other.
//!
//! The same bytes travel over a unix socket and over a stream that an engine relays. Both ends
//! treat what they read as hostile: lengths are bounded before anything is allocated.
//!
//! * [`frame`]: length-prefixed frames over a byte stream.
//! * [`message`]: what the frames say.
//! * [`handshake`]: how each end proves that it knows the sandbox's secret.

pub mod frame;
pub mod handshake;
pub mod message;

pub use frame::{Data, Frame, FrameDecoder, FrameError, MAX_DATA, MAX_FRAME};
pub use handshake::{Nonce, Proof, Secret};
pub use message::{Event, Request};

/// Version of this protocol; both ends must be built from the same sources, so it only grows.
pub const PROTOCOL_VERSION: u16 = 2;

/// Bytes of one exec's output, or of one transfer, that may be under way unacknowledged.
pub const WINDOW: u64 = 1024 * 1024;

/// Marks the ids of execs that have a key; numbers that clients draw are below it.
const KEYED: u64 = 1 << 63;

/// The id of the exec with this key: the same for every client, so that one can go on with what
/// another has started.
#[must_use]
pub const fn keyed_exec(key: u32) -> u64 {
    KEYED | key as u64
}

/// Whether an exec's id stands for a key. Such an exec is started once in a sandbox's whole life,
/// and remembered until [`Request::Forget`].
#[must_use]
pub const fn is_keyed(exec: u64) -> bool {
    exec & KEYED != 0
}

/// With this code `forge-init` ends that nobody has claimed in time: no program of a task ran.
pub const UNCLAIMED_CODE: u8 = 123;

/// The file inside a sandbox that is `forge-init`.
pub const INIT_PATH: &str = "/.swe-forge/init";
/// The folder that holds the socket, where the orchestrator shares a disk with the engine.
pub const SOCKET_DIRECTORY: &str = "/.swe-forge/channel";
/// The socket's name in that folder.
pub const SOCKET_NAME: &str = "init.sock";
/// The abstract socket that `forge-init bridge` connects to, everywhere else.
pub const ABSTRACT_SOCKET: &str = "swe-forge-init";
/// The folder that holds the egress proxy's socket, in sandboxes that have a network.
pub const EGRESS_DIRECTORY: &str = "/.swe-forge/egress";
/// The port of the HTTP proxy on a sandbox's loopback.
pub const PROXY_PORT: u16 = 3128;
/// The port of the SOCKS5 proxy on a sandbox's loopback.
pub const SOCKS_PORT: u16 = 1080;
/// A task's specification, below its workspace.
pub const SPECIFICATION_FILE: &str = ".swe-forge/task.json";
/// The operator's certificate authorities, where there are any.
pub const CERTIFICATES_PATH: &str = "/.swe-forge/certificates.pem";
