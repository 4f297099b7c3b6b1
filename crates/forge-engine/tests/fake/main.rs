//! The fake engine: it behaves as every engine must, goes wrong as it is told, and is cheap.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

mod bench;
mod conformance;
mod crowd;
mod faults;
