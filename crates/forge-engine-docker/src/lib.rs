//! Sandboxes as containers of a Docker engine, local or remote.
//!
//! * [`discovery`]: which engine is meant, and why it does not answer.
//! * [`disk`]: what holds the size of a workspace.
//! * [`engine`]: [`DockerEngine`], the implementation of [`forge_engine::Engine`].
//! * [`doctor`]: what confinement this engine's machine can give.
//!
//! Request and answer go through bollard over a transport of our own, which puts the API version
//! into every path and also hands out the raw streams that bollard would decode by guessing.

pub mod discovery;
pub mod disk;
pub mod doctor;
pub mod engine;

mod adoption;
mod archive;
mod channel;
mod channel_root;
mod client;
mod container;
mod context;
mod describe;
mod egress;
mod endpoint;
mod failure;
mod fixtures;
mod helper;
mod hijack;
mod images;
mod inventory;
mod names;
mod peer;
mod prepare;
mod reference;
mod sandbox;
mod seccomp;
mod snapshot;
mod stager;
mod superseded;
mod sweep;
mod tls;
mod transport;
mod watch;
mod workspace;

pub use discovery::Environment;
pub use disk::{DiskOptions, QuotaChoice};
pub use doctor::{CapabilityFinding, CapabilityStatus};
pub use egress::{EgressOptions, GateIdentity, InvalidGateIdentity};
pub use endpoint::{Endpoint, TlsMaterial};
pub use engine::{DiskSharing, DockerEngine, DockerOptions, InitBinary};
