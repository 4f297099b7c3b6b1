//! Agents: what runs in the solve phase.

use std::fmt;

use forge_core::sandbox::SOLUTION;
use forge_core::{CommandLine, Failure, Reason, Task};

/// Who solves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Agent {
    /// Nobody: the task stays as it is.
    Nop,
    /// The author: the reference solution is applied.
    Oracle,
    /// A command in the sandbox: this one, or the task's own.
    Command(Option<CommandLine>),
}

impl Agent {
    /// Who solves in this repetition of a validation, counted from 1: the two take turns.
    #[must_use]
    pub const fn in_turn(repetition: u32) -> Self {
        if repetition.is_multiple_of(2) {
            Self::Oracle
        } else {
            Self::Nop
        }
    }

    /// The name used in reports.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Nop => "nop",
            Self::Oracle => "oracle",
            Self::Command(_) => "command",
        }
    }

    /// What to run for `task`; `None` when there is nothing to run.
    ///
    /// # Errors
    /// The failure that the attempt ends with when the task lacks what the agent needs.
    pub fn command(&self, task: &Task) -> Result<Option<CommandLine>, Failure> {
        match self {
            Self::Nop => Ok(None),
            Self::Oracle => match &task.solution {
                Some(solution) => Ok(Some(apply(solution.has_patch, solution.has_script))),
                None => Err(Failure::new(
                    Reason::NoSolution,
                    "the oracle agent needs a folder solution/ with solve.sh or solution.patch",
                )),
            },
            Self::Command(command) => match command.as_ref().or(task.solve.as_ref()) {
                Some(command) => Ok(Some(command.clone())),
                None => Err(Failure::new(
                    Reason::NoSolveCommand,
                    "the command agent needs --command, or a solve command in task.json",
                )),
            },
        }
    }
}

impl fmt::Display for Agent {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// Applies the patch first, then runs the script. `patch` is preferred because `git apply` skips
/// paths outside a repository it happens to stand in.
fn apply(has_patch: bool, has_script: bool) -> CommandLine {
    let patch = format!(
        "if command -v patch >/dev/null 2>&1; then \
         patch -p1 --batch --forward --no-backup-if-mismatch < {SOLUTION}/solution.patch; \
         elif command -v git >/dev/null 2>&1; then git apply {SOLUTION}/solution.patch; \
         else echo 'the image has neither patch nor git to apply solution.patch' >&2; exit 1; fi"
    );
    let script = format!("sh {SOLUTION}/solve.sh");
    let text = match (has_patch, has_script) {
        (true, true) => format!("set -e; {patch}; {script}"),
        (true, false) => patch,
        (false, _) => script,
    };
    CommandLine::Shell(text)
}
