//! An engine without containers.
