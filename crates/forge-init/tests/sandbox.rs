//! The real binary as PID 1 of real namespaces.
//!
//! Needs root (or what else lets `unshare` make namespaces) and util-linux and
//! iproute2, but no engine.
#![allow(
    clippy::cast_possible_truncation,
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    missing_docs,
    unreachable_pub,
    clippy::allow_attributes,
    reason = "a test says what it expects by failing"
)]

#[path = "sandbox/channel.rs"]
mod channel;
mod client;
#[path = "sandbox/disk.rs"]
mod disk;
#[path = "sandbox/ending.rs"]
mod ending;
#[path = "sandbox/files.rs"]
mod files;
#[path = "sandbox/health.rs"]
mod health;
#[path = "sandbox/keys.rs"]
mod keys;
#[path = "sandbox/network.rs"]
mod network;
#[path = "sandbox/programs.rs"]
mod programs;
#[path = "sandbox/setup.rs"]
mod setup;
