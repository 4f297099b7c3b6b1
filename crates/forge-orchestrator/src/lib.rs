//! Drives runs: from tasks and an agent to verdicts, logs, artifacts and a report.
//!
//! * [`run`]: a whole run, from the queue to the report.
//! * [`attempt`]: the way of one task through its life cycle.
//! * [`phase`]: one phase: its command, its deadline, its log.
//! * [`gc`]: what dead orchestrators left on an engine; [`settle`]: what they left in the record.
//! * [`janitor`]: what outlives runs, as long as it shall and no longer.
//!
//! The binary embeds this crate; it knows engines only by their trait.

pub mod agent;
mod archive;
mod attempt;
mod attestation;
pub mod cleanup;
pub mod collect;
mod context;
mod dispatch;
pub mod events;
pub mod failure;
pub mod gc;
mod heartbeat;
pub mod holder;
mod host;
pub mod janitor;
pub mod junit;
pub mod layout;
mod observed;
pub mod operator;
mod phase;
mod phase_log;
mod placement;
pub mod plan;
mod redact;
pub mod report;
pub mod results;
pub mod run;
pub mod settle;
mod standing;

pub use agent::Agent;
pub use context::Cancellation;
pub use events::{EventSink, RunEvent};
pub use layout::RunLayout;
pub use operator::{Operator, SecretValue};
pub use plan::RunPlan;
pub use run::{Orchestrator, RunError, RunOptions, RunSummary};
