//! Sets of half-open intervals.
//!
//! Empty and reversed ranges (`5..5`, `7..3`) hold nothing: inserting or
//! removing them has no effect, and every set covers them.

pub mod ops;
pub mod rooms;
mod set;

pub use set::SpanSet;
