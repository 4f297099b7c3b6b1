//! The channel's client end against a scripted `forge-init` in memory.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]
#![expect(
    clippy::panic,
    reason = "a test that cannot go on should stop and say why"
)]

mod behaviour;
mod keys;
mod peer;
