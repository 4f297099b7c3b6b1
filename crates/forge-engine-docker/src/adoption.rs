//! Taking up what an earlier process of the run has left running: the engine is asked once about all
//! sandboxes of the run, and not about each.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};

use bollard::query_parameters::ListContainersOptions;
use forge_core::SandboxId;
use forge_core::ownership::keys;
use tokio::sync::OnceCell;

use crate::engine::DockerEngine;
use crate::names::sandbox_of;

type Labels = BTreeMap<String, String>;

/// What ran of our run when it was asked for first.
#[derive(Debug, Default)]
pub(crate) struct Adoption {
    found: OnceCell<Mutex<HashMap<SandboxId, Labels>>>,
}

impl Adoption {
    /// Each is given once: whoever comes again wants to know how it is by now.
    fn take(found: &Mutex<HashMap<SandboxId, Labels>>, id: &SandboxId) -> Option<Labels> {
        let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
        found.remove(id)
    }
}

impl DockerEngine {
    /// The labels of a sandbox that ran when the first one was taken up. Where there are none, the
    /// engine must be asked how it is. They are good for one whose PID 1 answers, and may be of one
    /// that has ended since.
    pub(crate) async fn labels_of_running(&self, id: &SandboxId) -> Option<Labels> {
        let run = self.run?.to_string();
        let look = || Box::pin(self.running_of(&run));
        let found = self.adoption.found.get_or_init(look).await;
        Adoption::take(found, id)
    }

    async fn running_of(&self, run: &str) -> Mutex<HashMap<SandboxId, Labels>> {
        let labels = [(keys::OWNER, self.owner.as_str()), (keys::RUN, run)];
        let labels = labels.map(|(key, value)| format!("{key}={value}"));
        let status = vec!["running".to_owned()];
        let filters = [
            ("label".to_owned(), labels.to_vec()),
            ("status".to_owned(), status),
        ];
        let options = ListContainersOptions {
            filters: Some(filters.into()),
            ..ListContainersOptions::default()
        };
        let all = match self.client.docker.list_containers(Some(options)).await {
            Ok(all) => all,
            Err(error) => {
                tracing::debug!(%error, "sandboxes are asked about one by one");
                Vec::new()
            }
        };
        let named = all.into_iter().filter_map(|container| {
            let name = container.names?.into_iter().next()?;
            let id = sandbox_of(name.trim_start_matches('/'))?;
            Some((id, container.labels?.into_iter().collect()))
        });
        Mutex::new(named.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_found_is_told_once() {
        let id = SandboxId::new("a-1").unwrap();
        let labels = Labels::from([("k".to_owned(), "v".to_owned())]);
        let found = Mutex::new(HashMap::from([(id.clone(), labels.clone())]));
        let other = SandboxId::new("b-1").unwrap();
        assert_eq!(Adoption::take(&found, &other), None);
        assert_eq!(Adoption::take(&found, &id), Some(labels));
        assert_eq!(Adoption::take(&found, &id), None);
    }
}
