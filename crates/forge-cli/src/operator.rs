//! What the operator's configuration and the known registries decide about tasks.

use std::ffi::OsString;
use std::net::IpAddr;
use std::path::PathBuf;

use forge_config::{Configuration, Group, ImageSettings, SecretValue};
use forge_core::{
    CleanupBounds, EgressPolicy, Failure, ImageChoice, NetworkLevel, PhaseName, Reason, Task,
};
use forge_egress::addresses;
use forge_orchestrator::Operator;
use forge_plan::retention::RetentionPolicy;
use forge_registries::{
    DiscoverError, Known, PolicyError, Refresh, RegistryBook, Standing, client_environment,
    groups_for, isolated_environment, language_of, policy_for,
};
use jiff::Timestamp;

use crate::base_images::find_out;
use crate::error::CliError;
use crate::provider::EngineSettings;
use crate::session::Session;
use crate::settings;
use crate::style::Style;

/// A configuration with what is known of the registries that some tasks need.
#[derive(Debug)]
pub(crate) struct Rules {
    configuration: Configuration,
    book: RegistryBook,
    /// The registries that are wanted and could not be found out.
    failed: Vec<(Group, DiscoverError)>,
    /// Where sandboxes find the operator's certificate authorities, when there are any.
    certificates: Option<&'static str>,
    variable: fn(&str) -> Option<OsString>,
}

impl Rules {
    /// Reads the configuration's and the registries' part. Registries are found out only when some
    /// of `tasks` may reach one.
    pub(crate) async fn for_tasks<'t>(
        session: &Session,
        configuration: Configuration,
        tasks: impl Iterator<Item = &'t Task>,
    ) -> Result<Self, CliError> {
        let mut groups: Vec<Group> = tasks
            .filter(|task| has_network(task))
            .flat_map(|task| groups_for(language_of(&task.image)).iter().copied())
            .filter(|group| configuration.registries.is_enabled(*group))
            .collect();
        groups.sort_unstable();
        groups.dedup();
        let refresh = Refresh {
            folder: session.state_folder()?,
            configuration: &configuration,
            groups: &groups,
            force: false,
            now: Timestamp::now(),
        };
        let refreshed = find_out(session, refresh).await?;
        for (group, error) in &refreshed.failed {
            let text = format!(
                "the registry of {group} is not known: {}",
                error.with_causes()
            );
            session.printer.remark(Style::Warning, "warning", &text);
        }
        for group in &groups {
            let hosts = refreshed
                .book
                .closed_hosts(*group, &configuration.network, standing);
            if let Some(host) = hosts.first() {
                let text = format!(
                    "{host}, which serves {group}, is at addresses that are not public and that \
                     nothing opens: packages from it cannot be installed; `swe-forge registries \
                     refresh --accept-addresses` opens them"
                );
                session.printer.remark(Style::Warning, "warning", &text);
            }
        }
        let rules = Self {
            configuration,
            book: refreshed.book,
            failed: refreshed.failed,
            certificates: None,
            variable: settings::secret,
        };
        Ok(Self {
            certificates: rules
                .certificate_file()
                .map(|_| forge_wire::CERTIFICATES_PATH),
            ..rules
        })
    }

    /// The file with the certificate authorities for clients in sandboxes.
    fn certificate_file(&self) -> Option<PathBuf> {
        let found = || {
            self.book
                .ca_bundle
                .as_ref()
                .map(|bundle| bundle.path.clone())
        };
        self.configuration.network.ca_bundle.clone().or_else(found)
    }

    /// What all of this means for the engine.
    pub(crate) fn engine_settings(&self) -> EngineSettings {
        EngineSettings {
            certificates: self.certificate_file(),
            cargo_config: forge_registries::cargo_config(&self.book),
            ..engine_settings(&self.configuration)
        }
    }
}

/// How long the configuration keeps what outlives runs.
pub(crate) fn retention(configuration: &Configuration) -> RetentionPolicy {
    let cleanup = &configuration.cleanup;
    RetentionPolicy {
        log_days: cleanup.bounds.log_retention_days,
        image_days: cleanup.images_retention_days,
        budget_bytes: cleanup.budget_bytes,
    }
}

/// What the configuration alone says about engines.
pub(crate) fn engine_settings(configuration: &Configuration) -> EngineSettings {
    EngineSettings {
        disk: configuration.disk.clone(),
        denied: configuration.network.denied.clone(),
        resolvers: configuration.network.resolvers.clone(),
        runtime: configuration.hardening.runtime.clone(),
        ..EngineSettings::default()
    }
}

/// Whether a phase that the task has may reach anything.
fn has_network(task: &Task) -> bool {
    PhaseName::ALL
        .into_iter()
        .filter(|phase| *phase != PhaseName::Setup || task.setup.is_some())
        .any(|phase| task.network.level(phase) != NetworkLevel::Isolated)
}

/// Why the operator does not allow an image.
fn refusal(images: &ImageSettings, image: &ImageChoice) -> Option<String> {
    let reference = image.reference();
    if !images.allows(reference) {
        return Some(format!(
            "the operator's images.allow has no pattern for image {reference}"
        ));
    }
    // The image of a language is made on this machine, so nobody can know its digest beforehand.
    let is_named = matches!(image, ImageChoice::Reference(_));
    if images.require_digest && is_named && !reference.contains("@sha256:") {
        return Some(format!(
            "the operator requires images by digest, and {reference} has none: write \
             NAME@sha256:…"
        ));
    }
    None
}

/// What the proxy makes of an address.
pub(crate) fn standing(address: IpAddr) -> Standing {
    if addresses::is_never_opened(address) {
        Standing::Closed
    } else if addresses::is_denied(address) {
        Standing::Denied
    } else {
        Standing::Public
    }
}

impl Operator for Rules {
    fn permit(&self, task: &Task) -> Result<(), Failure> {
        match refusal(&self.configuration.images, &task.image) {
            None => Ok(()),
            Some(message) => Err(Failure::new(Reason::NotPermitted, message)),
        }
    }

    fn egress(&self, task: &Task, phase: PhaseName) -> Result<EgressPolicy, Failure> {
        let policy = policy_for(
            task.network.level(phase),
            language_of(&task.image),
            &task.network.allow,
            Known {
                book: &self.book,
                failed: &self.failed,
            },
            &self.configuration,
        );
        policy.map_err(|error| {
            let reason = match error {
                PolicyError::AboveCeiling { .. } => Reason::NotPermitted,
                PolicyError::NoRegistry { .. } => Reason::NetworkPolicyUnavailable,
            };
            Failure::new(reason, format!("{phase}: {error}; {}", error.hint()))
        })
    }

    fn environment(&self, level: NetworkLevel) -> Vec<(String, String)> {
        match level {
            NetworkLevel::Isolated => isolated_environment(),
            _ => client_environment(&self.book, self.certificates),
        }
    }

    fn secret(&self, name: &str) -> Result<SecretValue, Failure> {
        let value = self.configuration.secret(name, self.variable);
        value.map_err(|error| {
            let message = forge_orchestrator::failure::chain(&error);
            let message = match error.hint() {
                Some(hint) => format!("{message}; {hint}"),
                None => message,
            };
            Failure::new(Reason::SecretUnavailable, message)
        })
    }

    fn runtime(&self) -> Option<String> {
        self.configuration.hardening.runtime.clone()
    }

    fn cleanup_bounds(&self) -> CleanupBounds {
        self.configuration.cleanup.bounds
    }

    fn own_cores(&self) -> bool {
        self.configuration.hardening.own_cores
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use forge_core::task::Language;

    #[test]
    fn a_digest_is_required_of_images_that_a_task_names_and_of_no_language() {
        let images = ImageSettings {
            require_digest: true,
            ..ImageSettings::default()
        };
        let named = |reference: &str| ImageChoice::Reference(reference.to_owned());
        for language in Language::ALL {
            assert_eq!(refusal(&images, &ImageChoice::Language(language)), None);
        }
        let pinned = named(&format!("name@sha256:{}", "0".repeat(64)));
        assert_eq!(refusal(&images, &pinned), None);
        let refused = refusal(&images, &named("name:1")).unwrap();
        assert!(refused.contains("name:1 has none"), "{refused}");
        let default = ImageSettings::default();
        assert_eq!(refusal(&default, &named("name:1")), None);
    }
}
