//! What attempts of a run wait for, and what is unusual about those that run: `waiting.json` in the
//! run's folder, while there is any such.

use serde::{Deserialize, Serialize};

/// The most attempts that are listed; `waiting` counts all.
pub const MOST_LISTED: usize = 1000;

/// Attempts that have not started yet.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct WaitingList {
    /// How many there are.
    pub waiting: u64,
    /// The first of them, in the order in which they were handed in.
    pub attempts: Vec<WaitingAttempt>,
    /// Attempts that run and whose sandboxes are not as they should be.
    #[serde(default)]
    pub unwell: Vec<UnwellAttempt>,
}

/// One whose sandbox is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnwellAttempt {
    /// Name of the attempt.
    pub id: String,
    /// What is unusual, for a person.
    pub remark: String,
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaitingAttempt {
    /// Name of the attempt.
    pub id: String,
    /// 1 for the one that starts next, as things are.
    pub position: u64,
    /// Why it does not start now, for a person.
    pub reason: String,
}
