//! What the operator of an installation decides about the tasks of others.

use std::fmt;

pub use forge_config::SecretValue;
use forge_core::{CleanupBounds, EgressPolicy, Failure, NetworkLevel, PhaseName, Task};

/// What the operator decides. Everything is asked before anything of an attempt is made.
pub trait Operator: Send + Sync + fmt::Debug {
    /// Whether a task may run at all, by its image and its levels.
    ///
    /// # Errors
    /// The failure of the attempt.
    fn permit(&self, task: &Task) -> Result<(), Failure>;

    /// What `phase` of `task` may reach.
    ///
    /// # Errors
    /// The failure of the attempt: the level is not permitted, or cannot be established.
    fn egress(&self, task: &Task, phase: PhaseName) -> Result<EgressPolicy, Failure>;

    /// Variables that programs need at a level: where the proxy and the package indexes are.
    fn environment(&self, level: NetworkLevel) -> Vec<(String, String)>;

    /// The value of a secret, by its name.
    ///
    /// # Errors
    /// The failure of the attempt, which never holds the value.
    fn secret(&self, name: &str) -> Result<SecretValue, Failure>;

    /// The runtime that sandboxes use, where it is not the engine's default.
    fn runtime(&self) -> Option<String>;

    /// The most that a task may ask for of its clean-up.
    fn cleanup_bounds(&self) -> CleanupBounds;

    /// Whether attempts get cores of their own while the machine has enough.
    fn own_cores(&self) -> bool;
}
