//! The environment of a task's commands.

use std::collections::BTreeMap;

use forge_core::{Failure, PhaseName, Reason, Task};
use forge_engine::PreparedImage;

use super::Attempt;
use crate::operator::{Operator, SecretValue};

/// Most bytes of what the author puts into the environment of a phase, values of secrets included.
/// It is the bound on `env` in task files, and the message that starts a command has room for it.
const MOST_BYTES: usize = 256 * 1024;

/// The secrets that `task` asks for, by their names.
pub(super) fn secrets(
    task: &Task,
    operator: &dyn Operator,
) -> BTreeMap<String, Result<SecretValue, Failure>> {
    let names = task.secrets.iter().map(|wanted| &wanted.secret);
    names
        .map(|name| (name.clone(), operator.secret(name)))
        .collect()
}

impl Attempt<'_> {
    /// Whether every secret is to be had and the environment of every phase can be handed over.
    ///
    /// # Errors
    /// The failure of the attempt.
    pub(super) fn check_environment(&self) -> Result<(), Failure> {
        let task = self.task();
        for wanted in &task.secrets {
            if let Some(Err(failure)) = self.secrets.get(&wanted.secret) {
                return Err(failure.clone());
            }
        }
        let phases = PhaseName::ALL.into_iter();
        for phase in phases.filter(|phase| *phase != PhaseName::Setup || task.setup.is_some()) {
            let plain = task.env.iter();
            let plain = plain.map(|(name, value)| (name.as_str(), value.as_str()));
            let entries = plain.chain(self.secrets_of(phase));
            let bytes: usize = entries
                .map(|(name, value)| name.len() + value.len() + 2)
                .sum();
            if bytes > MOST_BYTES {
                let message = format!(
                    "env has {bytes} bytes in {phase} with the values of its secrets, and at most \
                     {MOST_BYTES} can be handed over: list fewer secrets, or smaller ones, for this phase"
                );
                return Err(Failure::new(Reason::NotPermitted, message));
            }
        }
        Ok(())
    }

    /// The variables of `phase` that hold secrets.
    fn secrets_of(&self, phase: PhaseName) -> impl Iterator<Item = (&str, &str)> {
        let wanted = self.task().secrets.iter();
        let wanted = wanted.filter(move |secret| secret.phases.contains(&phase));
        wanted.filter_map(|secret| match self.secrets.get(&secret.secret) {
            Some(Ok(value)) => Some((secret.variable.as_str(), value.expose())),
            _ => None,
        })
    }

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
        for (name, value) in self.secrets_of(phase) {
            set(name, value);
        }
        set("TASK_ID", task.id.as_str());
        set("DATAFORGE_MODE", "execution");
        env.into_iter().collect()
    }

    /// The environment of a sandbox itself, which is that of PID 1: nothing that the task's author
    /// may choose freely. Commands bring their own.
    pub(super) fn sandbox_environment(&self) -> BTreeMap<String, String> {
        [
            ("TASK_ID", self.task().id.to_string()),
            ("DATAFORGE_MODE", "execution".to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into()
    }
}
