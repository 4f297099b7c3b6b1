//! What the egress proxy is told for a phase of a task.

use forge_config::{Group, NetworkSettings};
use forge_core::egress::{AddressException, AddressRange, AllowedHost, EgressPolicy};
use forge_core::task::Language;
use forge_core::{ImageChoice, NetworkLevel};

use crate::book::{RegistryBook, merge};

/// The groups whose registries a task of `language` reaches, as far as they are known and not
/// switched off.
#[must_use]
pub const fn groups_for(language: Language) -> &'static [Group] {
    match language {
        Language::Python => &[Group::Pypi, Group::Apt],
        Language::Javascript => &[Group::Npm, Group::Apt],
        Language::Rust => &[Group::Cargo, Group::Apt],
        Language::Go => &[Group::Go, Group::Apt],
        Language::C | Language::Cpp | Language::Shell => &[Group::Apt],
        // Those that are opt-in are there when the operator asked for them.
        Language::Multi => &Group::ALL,
    }
}

/// The language of a task: an image of the operator's may hold any.
#[must_use]
pub const fn language_of(image: &ImageChoice) -> Language {
    match image {
        ImageChoice::Language(language) => *language,
        ImageChoice::Reference(_) => Language::Multi,
    }
}

/// A policy that cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// The operator does not allow the level.
    #[error("the network level {level} is above the operator's network.max_level, {most}")]
    AboveCeiling {
        /// The level that is asked for.
        level: NetworkLevel,
        /// The widest that is allowed.
        most: NetworkLevel,
    },
    /// No host of any registry is known.
    #[error(
        "no registry is known for a task in {}, so that package_only reaches nothing",
        language.as_str()
    )]
    NoRegistry {
        /// The language.
        language: Language,
    },
}

impl PolicyError {
    /// What a person can do about it.
    #[must_use]
    pub const fn hint(&self) -> &'static str {
        match self {
            Self::AboveCeiling { .. } => "ask for a narrower level, or raise network.max_level",
            Self::NoRegistry { .. } => {
                "`swe-forge registries refresh` says what is missing; registries.<group>.hosts sets it"
            }
        }
    }
}

/// The policy of a phase with the level `level`.
///
/// `allow` is the task's own list, `registries` a book with the operator's settings in it
/// ([`RegistryBook::with_settings`]). At `package_only` the registries of the language are reached;
/// at `limited_web` these and the task's list, since whoever is let out to some hosts still has to
/// install packages; at `full_web` everything public. Exceptions for hosts of registries hold at all
/// of these levels.
///
/// # Errors
/// When the operator does not allow the level, or at `package_only` no registry is known.
pub fn policy_for(
    level: NetworkLevel,
    language: Language,
    allow: &[AllowedHost],
    registries: &RegistryBook,
    network: &NetworkSettings,
) -> Result<EgressPolicy, PolicyError> {
    if level > network.max_level {
        return Err(PolicyError::AboveCeiling {
            level,
            most: network.max_level,
        });
    }
    if level == NetworkLevel::Isolated {
        return Ok(EgressPolicy::isolated());
    }
    let groups = groups_for(language);
    let known = registries.registries.iter();
    let ours: Vec<AllowedHost> = known
        .filter(|each| groups.contains(&each.group))
        .flat_map(|each| each.hosts.iter().cloned())
        .collect();
    if level == NetworkLevel::PackageOnly && ours.is_empty() {
        return Err(PolicyError::NoRegistry { language });
    }
    let exceptions = exceptions(&ours, registries, network);
    let allow = match level {
        NetworkLevel::Isolated | NetworkLevel::FullWeb => Vec::new(),
        NetworkLevel::PackageOnly => merge(ours),
        NetworkLevel::LimitedWeb => merge(allow.iter().cloned().chain(ours)),
    };
    Ok(EgressPolicy {
        level,
        allow,
        exceptions,
        limits: network.bounds.over(level),
    })
}

/// The operator's exceptions, those of registries only for the hosts that this task reaches.
fn exceptions(
    ours: &[AllowedHost],
    registries: &RegistryBook,
    network: &NetworkSettings,
) -> Vec<AddressException> {
    let mut exceptions = network.exceptions.clone();
    let merged = merge(ours.iter().cloned());
    if !network.registry_exceptions.is_empty() && !ours.is_empty() {
        exceptions.push(AddressException {
            hosts: merged.clone(),
            ranges: network.registry_exceptions.clone(),
        });
    }
    for accepted in &registries.accepted {
        let host = merged.iter().find(|host| host.name == accepted.host);
        exceptions.extend(host.map(|host| AddressException {
            hosts: vec![host.clone()],
            ranges: vec![AddressRange {
                address: accepted.address,
                prefix: if accepted.address.is_ipv4() { 32 } else { 128 },
            }],
        }));
    }
    exceptions
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::book::AcceptedAddress;
    use crate::book::tests::{now, registry};

    fn book() -> RegistryBook {
        let accepted = |host: &str| AcceptedAddress {
            host: host.into(),
            address: "10.0.0.1".parse().unwrap(),
            accepted_at: now(),
        };
        RegistryBook {
            registries: vec![
                registry(Group::Pypi, "https://py.test/", &["py.test", "files.test"]),
                registry(Group::Npm, "https://npm.test/", &["npm.test"]),
            ],
            accepted: vec![accepted("files.test"), accepted("npm.test")],
            ..RegistryBook::default()
        }
    }

    fn shown(policy: &EgressPolicy) -> Vec<String> {
        policy.allow.iter().map(ToString::to_string).collect()
    }

    fn policy(level: NetworkLevel, language: Language) -> EgressPolicy {
        let own = [
            AllowedHost::https("api.test"),
            AllowedHost::https("py.test"),
        ];
        policy_for(level, language, &own, &book(), &NetworkSettings::default()).unwrap()
    }

    #[test]
    fn each_level_reaches_what_it_is_for() {
        use NetworkLevel::{FullWeb, Isolated, LimitedWeb, PackageOnly};
        let python = |level| shown(&policy(level, Language::Python));
        assert_eq!(python(PackageOnly), ["py.test", "files.test"]);
        assert_eq!(python(LimitedWeb), ["api.test", "py.test", "files.test"]);
        assert!(python(FullWeb).is_empty());
        assert_eq!(policy(Isolated, Language::Python), EgressPolicy::isolated());
        let all = shown(&policy(PackageOnly, Language::Multi));
        assert_eq!(all, ["py.test", "files.test", "npm.test"]);
    }

    #[test]
    fn accepted_addresses_hold_for_the_hosts_of_the_language_only() {
        for level in [NetworkLevel::PackageOnly, NetworkLevel::FullWeb] {
            let policy = policy(level, Language::Python);
            assert_eq!(policy.exceptions.len(), 1);
            assert_eq!(policy.exceptions[0].hosts[0].name, "files.test");
            assert_eq!(policy.exceptions[0].ranges[0].to_string(), "10.0.0.1/32");
        }
    }

    #[test]
    fn a_level_above_the_ceiling_is_refused_with_the_setting() {
        let network = NetworkSettings {
            max_level: NetworkLevel::PackageOnly,
            ..NetworkSettings::default()
        };
        let level = NetworkLevel::FullWeb;
        let error = policy_for(level, Language::Python, &[], &book(), &network).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the network level full_web is above the operator's network.max_level, package_only"
        );
    }

    #[test]
    fn package_only_without_any_registry_is_an_error_and_no_silent_refusal() {
        let network = NetworkSettings::default();
        let attempt = |level| policy_for(level, Language::Rust, &[], &book(), &network);
        let language = Language::Rust;
        assert_eq!(
            attempt(NetworkLevel::PackageOnly),
            Err(PolicyError::NoRegistry { language })
        );
        assert!(attempt(NetworkLevel::FullWeb).is_ok());
    }

    #[test]
    fn every_language_installs_packages_of_its_image() {
        for language in Language::ALL {
            assert!(groups_for(language).contains(&Group::Apt), "{language:?}");
        }
    }
}
