//! The boundary to the places where sandboxes exist.
//!
//! * [`engine`] and [`sandbox`]: the two traits every engine implements, in plain core types.
//! * [`channel`]: the client end of the connection to `forge-init`, the same for every engine.
//! * [`conformance`]: what every engine must do, as cases that run on any of them.
//! * [`diagnosis`]: what can be said about an engine before anything runs.
//! * [`watch`]: what an engine tells of sandboxes by itself.
//! * [`images`]: what an engine that can hold base images offers besides.
//! * [`fake`]: an engine without containers, for tests of decisions and faults.
//!
//! Engines hold no policy: they neither queue, retry, persist nor pool. Every operation converges
//! when it is repeated with the same id, and dropping a future means "stop waiting".

pub mod channel;
pub mod conformance;
pub mod diagnosis;
pub mod engine;
pub mod error;
pub mod fake;
pub mod images;
pub mod sandbox;
pub mod task;
pub mod watch;

pub use engine::{
    Credentials, Engine, EngineDescription, Fixtures, FoundObject, Inventory, ObjectKind,
    PreparedImage, TarStream,
};
pub use error::{EngineError, EngineErrorKind, Operation};
pub use images::ImageStore;
pub use sandbox::{Condition, Egress, EgressRecords, Files, OutputChunk, RunningExec, Sandbox};
pub use watch::{Observation, ObservationKind, Observations, Watch};
