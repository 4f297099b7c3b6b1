//! Reads a task directory into a [`forge_core::Task`]: the three files of `.swe-forge/`, the trees
//! beside them, and one precise [`Diagnostic`] for everything that is wrong with either.
//!
//! Task directories are written by strangers and by programs, so all of it is hostile input: sizes
//! and nesting are bounded, links may not leave their tree, and nothing is taken silently that the
//! author may have meant differently. Reading is blocking; nothing here knows an engine.

mod config_file;
mod diagnostic;
mod directory;
mod discover;
pub mod format;
mod host;
mod json_tree;
mod limits;
mod load;
mod schema;
mod source_tree;
mod task_file;
mod text;
mod tools_file;
mod yaml_tree;

pub use diagnostic::TaskErrors;
pub use directory::{
    CONFIG_FILE, MAX_SPECIFICATION_BYTES, SPECIFICATION_FOLDER, TASK_FILE, TOOLS_FILE,
};
pub use discover::discover;
pub use forge_document::{Diagnostic, MAX_DEPTH, MAX_DIAGNOSTICS};
pub use load::{LoadOptions, LoadedTasks, load_all, load_task};
pub use schema::{schema_files, schemas};
pub use source_tree::{MAX_FILE_BYTES, MAX_TREE_BYTES, MAX_TREE_ENTRIES};
