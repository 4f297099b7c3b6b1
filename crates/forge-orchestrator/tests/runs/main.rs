//! Whole runs on the fake engine: outcomes, order of calls, clean-up, cancellation.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on should stop"
)]

mod chaos;
mod gc;
mod janitor;
mod network;
mod outcomes;
mod process;
mod resume;
mod retry;
mod snapshot;
mod support;
mod validation;
