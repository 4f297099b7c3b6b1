//! Pure decisions: an event and the time go in, actions come out.
//!
//! Nothing here waits, reads or writes; the orchestrator carries out what is decided.

pub mod breaker;
pub mod budget;
pub mod capacity;
pub mod dispatch;
pub mod health;
pub mod hold;
pub mod judge;
pub mod lease;
pub mod placement;
pub mod queue;
pub mod reaper;
pub mod retention;
pub mod retry;
pub mod starts;
pub mod validation;
