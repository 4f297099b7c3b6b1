//! What the egress proxy is told for a phase of a task.

use forge_config::{Configuration, Group, NetworkSettings};
use forge_core::egress::{AddressException, AddressRange, AllowedHost, EgressPolicy};
use forge_core::task::Language;
use forge_core::{ImageChoice, NetworkLevel};

use crate::book::{RegistryBook, merge};
use crate::discover::DiscoverError;

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
    /// A registry is not known, without which a phase would be let out to less than it asks for.
    #[error(
        "{level} of a task in {} needs registries that are not known: {missing}",
        language.as_str()
    )]
    NoRegistry {
        /// The level that is asked for.
        level: NetworkLevel,
        /// The language.
        language: Language,
        /// Which, each with the reason.
        missing: String,
    },
}

/// What is known of registries, and why of others nothing is.
#[derive(Debug, Clone, Copy)]
pub struct Known<'k> {
    /// A book with the operator's settings in it ([`RegistryBook::with_settings`]).
    pub book: &'k RegistryBook,
    /// The groups that could not be found out just now.
    pub failed: &'k [(Group, DiscoverError)],
}

impl PolicyError {
    /// What a person can do about it.
    #[must_use]
    pub const fn hint(&self) -> &'static str {
        match self {
            Self::AboveCeiling { .. } => "ask for a narrower level, or raise network.max_level",
            Self::NoRegistry { .. } => {
                "`swe-forge registries refresh` finds them or says what is missing; \
                 registries.<group>.hosts sets them, enabled = false does without"
            }
        }
    }
}

/// The policy of a phase with the level `level`.
///
/// `allow` is the task's own list. At `package_only` the registries of the language are reached;
/// at `limited_web` these and the task's list, since whoever is let out to some hosts still has to
/// install packages; at `full_web` everything public. Exceptions for hosts of registries hold at all
/// of these levels.
///
/// # Errors
/// When the operator does not allow the level, or registries are to be reached and those that the
/// task cannot do without are not known: what then fails to install would be the task's fault.
pub fn policy_for(
    level: NetworkLevel,
    language: Language,
    allow: &[AllowedHost],
    known: Known<'_>,
    configuration: &Configuration,
) -> Result<EgressPolicy, PolicyError> {
    let network = &configuration.network;
    if level > network.max_level {
        return Err(PolicyError::AboveCeiling {
            level,
            most: network.max_level,
        });
    }
    if level == NetworkLevel::Isolated {
        return Ok(EgressPolicy::isolated());
    }
    let missing = missing(language, known, configuration);
    let no_registry = |groups: &[Group]| PolicyError::NoRegistry {
        level,
        language,
        missing: reasons(groups, known),
    };
    let lacking = essential(level, language, &missing, known);
    if !lacking.is_empty() {
        return Err(no_registry(&lacking));
    }
    let groups = groups_for(language);
    let ours: Vec<AllowedHost> = known
        .book
        .registries
        .iter()
        .filter(|each| groups.contains(&each.group))
        .flat_map(|each| each.hosts.iter().cloned())
        .collect();
    if level == NetworkLevel::PackageOnly && ours.is_empty() {
        return Err(no_registry(&missing));
    }
    let exceptions = exceptions(&ours, known.book, network);
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

/// The groups of a language that are not known and not switched off.
fn missing(language: Language, known: Known<'_>, configuration: &Configuration) -> Vec<Group> {
    let is_missing = |group: &Group| {
        configuration.registries.is_enabled(*group) && known.book.get(*group).is_none()
    };
    let groups = groups_for(language).iter().copied();
    groups.filter(is_missing).collect()
}

/// Those of the `missing` groups without which a phase is not let out.
///
/// A language has one group that its packages come from; the system's packages are an addition.
/// What an image that may hold any language needs, nobody knows: there a group counts whose client
/// is used here, while its index could not be found out. Without any language's group at
/// all, `package_only` is no level at which packages can be had.
fn essential(
    level: NetworkLevel,
    language: Language,
    missing: &[Group],
    known: Known<'_>,
) -> Vec<Group> {
    let of = |is_essential: &dyn Fn(&Group) -> bool| {
        let groups = missing.iter().copied();
        groups.filter(|group| is_essential(group)).collect()
    };
    if level == NetworkLevel::FullWeb {
        return Vec::new();
    }
    if language != Language::Multi {
        let own = groups_for(language).first();
        return of(&|group| Some(group) == own);
    }
    let is_of_language = |group: &Group| *group != Group::Apt;
    let mut registries = known.book.registries.iter();
    if level == NetworkLevel::PackageOnly && !registries.any(|each| is_of_language(&each.group)) {
        return of(&is_of_language);
    }
    of(&|group| {
        let mut failed = known.failed.iter();
        failed.any(|(each, error)| each == group && !error.is_absence())
    })
}

/// Why groups are not known, for people.
fn reasons(groups: &[Group], known: Known<'_>) -> String {
    let reasons = groups.iter().map(|group| {
        let failed = known.failed.iter().find(|(each, _)| each == group);
        let why = failed.map(|(_, error)| error.with_causes());
        format!("{group}: {}", why.as_deref().unwrap_or("not found out yet"))
    });
    let reasons: Vec<String> = reasons.collect();
    match reasons.is_empty() {
        true => "all of them are switched off".to_owned(),
        false => reasons.join("; "),
    }
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
    use forge_config::GroupSettings;

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

    fn attempt(
        level: NetworkLevel,
        language: Language,
        book: &RegistryBook,
        failed: &[(Group, DiscoverError)],
    ) -> Result<EgressPolicy, PolicyError> {
        let own = [
            AllowedHost::https("api.test"),
            AllowedHost::https("py.test"),
        ];
        let known = Known { book, failed };
        policy_for(level, language, &own, known, &Configuration::default())
    }

    fn policy(level: NetworkLevel, language: Language) -> EgressPolicy {
        attempt(level, language, &book(), &[]).unwrap()
    }

    fn only_apt() -> RegistryBook {
        RegistryBook {
            registries: vec![registry(Group::Apt, "http://deb.test/", &["deb.test"])],
            ..RegistryBook::default()
        }
    }

    fn is_down(group: Group) -> (Group, DiscoverError) {
        let (url, status) = ("https://index.test/".to_owned(), 503);
        (group, DiscoverError::Status { url, status })
    }

    fn is_absent(group: Group) -> (Group, DiscoverError) {
        (group, DiscoverError::NoClient { client: "client" })
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
        let mut configuration = Configuration::default();
        configuration.network.max_level = NetworkLevel::PackageOnly;
        let level = NetworkLevel::FullWeb;
        let (book, failed) = (&book(), &[][..]);
        let known = Known { book, failed };
        let error = policy_for(level, Language::Python, &[], known, &configuration).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the network level full_web is above the operator's network.max_level, package_only"
        );
    }

    #[test]
    fn package_only_without_any_registry_is_an_error_and_no_silent_refusal() {
        let book = RegistryBook::default();
        for language in Language::ALL {
            let outcome = attempt(NetworkLevel::PackageOnly, language, &book, &[]);
            assert!(
                matches!(outcome, Err(PolicyError::NoRegistry { .. })),
                "{language:?}"
            );
            assert!(attempt(NetworkLevel::FullWeb, language, &book, &[]).is_ok());
        }
    }

    #[test]
    fn a_language_is_not_let_out_without_the_registry_of_its_own_packages() {
        use NetworkLevel::{FullWeb, LimitedWeb, PackageOnly};
        let failed = [is_down(Group::Pypi)];
        for level in [PackageOnly, LimitedWeb] {
            let error = attempt(level, Language::Python, &only_apt(), &failed).unwrap_err();
            assert_eq!(
                error.to_string(),
                format!(
                    "{level} of a task in python needs registries that are not known: \
                     pypi: https://index.test/ answered with status 503"
                )
            );
            assert!(attempt(level, Language::Rust, &only_apt(), &[]).is_err());
            // These have no packages but the system's; Go's are there only for those who ask.
            for language in [Language::C, Language::Cpp, Language::Shell, Language::Go] {
                assert!(
                    attempt(level, language, &only_apt(), &[]).is_ok(),
                    "{language:?}"
                );
            }
        }
        assert!(attempt(FullWeb, Language::Python, &only_apt(), &failed).is_ok());
        let without_apt = attempt(
            PackageOnly,
            Language::Python,
            &book(),
            &[is_down(Group::Apt)],
        );
        assert!(without_apt.is_ok(), "the system's packages are an addition");
    }

    #[test]
    fn a_group_that_is_switched_off_is_missed_by_nobody() {
        let mut configuration = Configuration::default();
        let mut set = |group, enabled| {
            let settings = GroupSettings {
                enabled,
                ..GroupSettings::default()
            };
            configuration.registries.groups.insert(group, settings);
        };
        set(Group::Pypi, false);
        set(Group::Go, true);
        let (book, failed) = (&only_apt(), &[][..]);
        let ask = |language| {
            let known = Known { book, failed };
            policy_for(
                NetworkLevel::PackageOnly,
                language,
                &[],
                known,
                &configuration,
            )
        };
        assert_eq!(shown(&ask(Language::Python).unwrap()), ["deb.test"]);
        assert!(ask(Language::Go).is_err(), "it was asked for");
    }

    #[test]
    fn an_image_that_may_hold_any_language_is_not_let_out_while_an_index_is_down() {
        use NetworkLevel::{LimitedWeb, PackageOnly};
        let multi = |level, book: &RegistryBook, failed: &[_]| {
            attempt(level, Language::Multi, book, failed)
        };
        for level in [PackageOnly, LimitedWeb] {
            assert!(multi(level, &book(), &[is_absent(Group::Cargo)]).is_ok());
            assert!(multi(level, &book(), &[is_down(Group::Cargo)]).is_err());
            let stale = multi(level, &book(), &[is_down(Group::Npm)]);
            assert!(stale.is_ok(), "what was known of it holds");
        }
        let none = [Group::Pypi, Group::Npm, Group::Cargo].map(is_absent);
        let error = multi(PackageOnly, &only_apt(), &none).unwrap_err();
        assert!(error.to_string().contains("npm: client is not installed"));
        assert!(multi(LimitedWeb, &only_apt(), &none).is_ok());
    }

    #[test]
    fn every_language_installs_packages_of_its_image() {
        for language in Language::ALL {
            assert!(groups_for(language).contains(&Group::Apt), "{language:?}");
        }
    }
}
