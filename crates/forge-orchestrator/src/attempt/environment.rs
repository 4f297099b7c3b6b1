//! The environment of a task's commands.

use std::collections::BTreeMap;

use forge_core::{Failure, PhaseName, Task};
use forge_engine::PreparedImage;

use super::Attempt;
use crate::operator::{Operator, SecretValue};

/// The secrets that `task` asks for, by their names.
///
/// # Errors
/// The failure of the attempt, for the first that is not to be had.
pub(super) fn secrets(
    task: &Task,
    operator: &dyn Operator,
) -> Result<BTreeMap<String, SecretValue>, Failure> {
    let names = task.secrets.iter().map(|wanted| &wanted.secret);
    names
        .map(|name| Ok((name.clone(), operator.secret(name)?)))
        .collect()
}

impl Attempt<'_> {
    /// The environment of the command of `phase` in `image`: the image's own, then what a task may
    /// change, then the task's, then its secrets, then what it may not change.
    pub(super) fn environment(
        &self,
        phase: PhaseName,
        image: &PreparedImage,
    ) -> Vec<(String, String)> {
        let task = self.task();
        let mut env = image.env.clone();
        let mut set = |name: &str, value: &str| env.insert(name.to_owned(), value.to_owned());
        set("PYTHONDONTWRITEBYTECODE", "1");
        match phase {
            PhaseName::Setup => set("HOME", "/root"),
            // The user has no entry in the image's user data base and may write to /tmp only.
            PhaseName::Solve | PhaseName::Verify => set("HOME", "/tmp"),
        };
        let level = self.network.level(phase);
        for (name, value) in self.context.operator.environment(level) {
            set(&name, &value);
        }
        for (name, value) in &task.env {
            set(name, value);
        }
        let wanted = task.secrets.iter();
        for secret in wanted.filter(|secret| secret.phases.contains(&phase)) {
            if let Some(value) = self.secrets.get(&secret.secret) {
                set(&secret.variable, value.expose());
            }
        }
        set("TASK_ID", task.id.as_str());
        set("DATAFORGE_MODE", "execution");
        env.into_iter().collect()
    }

    /// The environment of a sandbox itself, which every program in it can read: no secrets.
    pub(super) fn sandbox_environment(&self) -> BTreeMap<String, String> {
        let task = self.task();
        let mut env = task.env.clone();
        env.insert("TASK_ID".to_owned(), task.id.to_string());
        env.insert("DATAFORGE_MODE".to_owned(), "execution".to_owned());
        env
    }
}
