//! The vocabulary of swe-forge: what a task, a limit, a life cycle and an outcome are.
//!
//! Nothing here reads a file, a clock or a socket; every other crate speaks in these types.

pub mod attestation;
pub mod cleanup;
pub mod connection;
pub mod difficulty;
pub mod egress;
pub mod exec;
pub mod health;
pub mod id;
pub mod life_cycle;
pub mod limits;
pub mod network;
pub mod outcome;
pub mod ownership;
pub mod phase;
pub mod sandbox;
pub mod task;
pub mod usage;
pub mod verdict;

pub use attestation::Attestation;
pub use cleanup::{CleanupBounds, CleanupPolicy};
pub use difficulty::Difficulty;
pub use egress::{
    AddressException, AddressRange, AllowedHost, DenialReason, EgressPolicy, SandboxNetwork,
};
pub use exec::{Ending, ExecKey, ExecRequest, ExitReport, Join};
pub use health::{Health, Processes};
pub use id::{Attempt, OwnerId, RunId, SandboxId, TaskId};
pub use life_cycle::{IllegalTransition, State, Transition};
pub use limits::{LimitCeiling, Limits};
pub use network::NetworkLevel;
pub use outcome::{Cause, Deadline, Failure, Outcome, Reason};
pub use ownership::{Ownership, Role};
pub use phase::PhaseName;
pub use sandbox::{DiskQuota, Profile, SandboxSpec, SpecificationFile, UserId, WorkspaceSpec};
pub use task::{CommandLine, ImageChoice, Language, SecretVariable, Task};
pub use usage::ResourceUsage;
pub use verdict::Verdict;
