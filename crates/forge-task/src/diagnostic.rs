//! Everything that is wrong with a task.

use std::fmt::{self, Write as _};

use forge_document::Diagnostic;

/// Everything wrong with one task.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct TaskErrors {
    /// The mistakes, by file and position.
    pub diagnostics: Vec<Diagnostic>,
}

impl fmt::Display for TaskErrors {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, diagnostic) in self.diagnostics.iter().enumerate() {
            if index > 0 {
                formatter.write_char('\n')?;
            }
            diagnostic.fmt(formatter)?;
        }
        Ok(())
    }
}
