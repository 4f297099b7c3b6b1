//! The swe-forge command.
fn main() {}
