//! Configurations as operators write them, right and wrong.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a helper of tests that cannot go on fails the test"
)]

mod mistakes;
mod places;
mod values;
