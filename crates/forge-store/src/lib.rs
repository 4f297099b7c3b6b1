//! The record of swe-forge: runs, attempts, transitions, phases, objects made and artifacts, in one
//! SQLite file that several processes share.
//!
//! [`Store`] is a cloneable handle. Every write is one transaction on one named thread, and is in
//! the database when its call returns `Ok`; a caller that drops the future stops waiting, it does
//! not take the write back. Reads run on read-only connections and see every write that returned
//! before they began. A handle from [`Store::fenced`] writes only as long as nobody else took its
//! run over.
//!
//! # What survives what
//!
//! - The end of a process, however rude: every write that returned survives. A write that was under
//!   way is there whole or not at all.
//! - A power cut or a crash of the kernel: the file stays consistent, yet the last writes before it
//!   may be missing (write-ahead log with `synchronous=NORMAL`: the log is synced at checkpoints,
//!   not at each commit). Objects on an engine then remain known by their labels, which is why
//!   labels, not this record, are the truth about them.
//! - A damaged file: [`StoreError::Corrupt`], with the file as it was. Nothing here ever replaces a
//!   file by an empty one.
//!
//! # Limits
//!
//! The write-ahead log needs shared memory between the processes, so the file must be on a disk of
//! this machine. Instants outside of the years 1678 to 2262 and sizes above `i64::MAX` are refused
//! with [`StoreError::Value`].

mod artifacts;
mod attempts;
mod connection;
mod errors;
mod fault;
mod lease;
mod listing;
mod objects;
mod phases;
mod progress;
mod reader;
mod records;
mod requests;
mod retention;
mod runs;
mod schema;
mod states;
mod store;
mod values;
mod writer;

#[cfg(test)]
mod tests;

pub use errors::StoreError;
pub use records::{
    ArtifactRecord, AttemptFilter, AttemptRecord, DeletedRun, NewAttempt, NewRequest, NewRun,
    ObjectKind, ObjectRecord, PhaseEnd, PhaseRecord, Request, RequestKind, RunFiles, RunKind,
    RunRecord, TransitionRecord,
};
pub use store::Store;
