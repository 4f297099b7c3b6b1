//! Tests against a real Docker engine; `cargo xtask test` prepares what they need.
//!
//! Everything a test makes carries an owner label of its own and is gone when the test ends, also
//! when it fails. What stays is the prepared form of the test image: it is a cache that the next
//! run uses.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a helper of tests that cannot go on fails the test"
)]

mod confinement;
mod conformance;
mod disk;
mod egress;
mod fixtures;
mod images;
mod inheritance;
mod life;
mod objects;
mod profiles;
mod runtimes;
mod support;
mod watch;
