//! Whole-program tests without an engine.
