//! The release binary on a real engine, as a user would call it.
//!
//! `cargo xtask test` builds the binary and sets the variables that these tests need.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]
#![expect(
    clippy::panic,
    reason = "a test that cannot go on should stop and say why"
)]

mod cores;
mod corporation;
mod endings;
mod engine;
mod escape;
mod examples;
mod interrupt;
mod network;
mod output;
mod queue;
mod record;
mod registries;
mod resume;
mod sealed;
mod secrets;
mod setup;
mod support;
