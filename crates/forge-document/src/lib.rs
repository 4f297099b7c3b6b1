//! Files that people write: trees in which every key and value knows where it stands, a decoder
//! that notes every mistake instead of stopping at the first one, and the diagnostics it notes.
//!
//! The readers of single formats are elsewhere, with those who use them; what is here is the same for
//! all: `forge-task` reads JSON and YAML by it, `forge-config` TOML.

mod decode;
mod diagnostic;
mod host;
mod suggest;
mod tree;

pub use decode::{Decoder, Fields, Located, Most, optional};
pub use diagnostic::{Diagnostic, ErrorList, MAX_DIAGNOSTICS, Problem, quote};
pub use host::{HostEntry, host_entry};
pub use suggest::{did_you_mean, nearest};
pub use tree::{
    MAX_DEPTH, Member, Node, Position, SyntaxError, Value, join, report_repeated_keys, text_of,
};
