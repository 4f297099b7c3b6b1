//! Ordered in-memory store with multi-version transactions.

mod error;
mod scan;
mod snapshot;
mod store;
mod tx;

pub use error::Error;
pub use scan::Scan;
pub use snapshot::Snapshot;
pub use store::{Isolation, Store};
pub use tx::{Savepoint, Tx};
