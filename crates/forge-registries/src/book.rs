//! What was found out about registries, and the file that keeps it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use forge_config::{Group, RegistrySettings};
use forge_core::egress::AllowedHost;
use jiff::{Timestamp, ToSpan};
use serde::{Deserialize, Serialize};

use crate::certificates::CaBundle;

/// The name of the file in the state folder.
pub const BOOK_FILE: &str = "registries.json";
/// The file beside it by which processes take turns; the book itself is replaced by each of them.
const LOCK_FILE: &str = "registries.lock";
/// The format of the file.
const VERSION: u32 = 1;
/// Largest file that is read, in bytes.
const MAX_FILE_BYTES: u64 = 8 * 1024 * 1024;

/// A registry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Registry {
    /// The ecosystem.
    pub group: Group,
    /// Where its index is, without credentials; `None` where the image says it (apt), or only hosts
    /// were set.
    pub index: Option<String>,
    /// Further indexes that the client uses.
    pub extra_indexes: Vec<String>,
    /// Whether the index is the one that the client has without any setting, so that clients in
    /// sandboxes need none either.
    pub builtin: bool,
    /// Whether the operator's configuration says where the index is.
    pub configured: bool,
    /// The hosts that serve it.
    pub hosts: Vec<AllowedHost>,
    /// How it was found, for people.
    pub how: String,
    /// When.
    pub found_at: Timestamp,
}

/// The addresses of a host when it was last looked up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostAddresses {
    /// Its name.
    pub host: String,
    /// Its addresses; none when it did not resolve.
    pub addresses: Vec<IpAddr>,
}

/// An address that is not public and that the operator accepted for a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AcceptedAddress {
    /// The host.
    pub host: String,
    /// The address.
    pub address: IpAddr,
    /// When.
    pub accepted_at: Timestamp,
}

/// Registries, and what else was found out with them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RegistryBook {
    /// The registries, at most one for each group.
    pub registries: Vec<Registry>,
    /// The certificate authorities that clients on this machine are set to.
    pub ca_bundle: Option<CaBundle>,
    /// What names resolved to.
    pub addresses: Vec<HostAddresses>,
    /// What the operator accepted.
    pub accepted: Vec<AcceptedAddress>,
}

/// The file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    version: u32,
    registries: Vec<Registry>,
    ca_bundle: Option<CaBundle>,
    addresses: Vec<HostAddresses>,
    accepted: Vec<AcceptedAddress>,
}

/// What any version of the file begins with.
#[derive(Debug, Deserialize)]
struct Versioned {
    version: u32,
}

/// The file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BookError {
    /// It cannot be read.
    #[error("could not read what is known of registries from {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// It cannot be written.
    #[error("could not write what is known of registries to {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// No turn can be had to change it.
    #[error("could not lock {}, by which processes take turns to write what is known of registries", path.display())]
    Lock {
        /// The file of the lock.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// It is damaged.
    #[error("what is known of registries in {} is damaged", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// A later swe-forge wrote it.
    #[error(
        "a later swe-forge wrote {} (its version is {found}, this one reads up to {VERSION})",
        path.display()
    )]
    Later {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
}

impl BookError {
    /// What a person can do about it.
    #[must_use]
    pub const fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Damaged { .. } => {
                Some("remove the file: everything is found again, addresses are accepted anew")
            }
            Self::Later { .. } => Some("use the later swe-forge, or another SWE_FORGE_HOME"),
            Self::Read { .. } | Self::Write { .. } | Self::Lock { .. } => None,
        }
    }
}

impl RegistryBook {
    /// Reads the book of a state folder; an empty one when there is none. Blocks.
    ///
    /// # Errors
    /// When the file is there and cannot be used.
    pub fn load(folder: &Path) -> Result<Self, BookError> {
        let path = folder.join(BOOK_FILE);
        let mut bytes = Vec::new();
        let read =
            File::open(&path).and_then(|file| file.take(MAX_FILE_BYTES).read_to_end(&mut bytes));
        match read {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(source) => return Err(BookError::Read { path, source }),
            Ok(_) => {}
        }
        let damaged = |source| BookError::Damaged {
            path: path.clone(),
            source,
        };
        let Versioned { version } = serde_json::from_slice(&bytes).map_err(damaged)?;
        if version > VERSION {
            return Err(BookError::Later {
                path,
                found: version,
            });
        }
        let document: Document = serde_json::from_slice(&bytes).map_err(damaged)?;
        Ok(Self {
            registries: document.registries,
            ca_bundle: document.ca_bundle,
            addresses: document.addresses,
            accepted: document.accepted,
        })
    }

    /// Changes the book of a state folder while no other process does: what `change` gets is what
    /// stands there now. Gives the book as it was written, and what `change` gave. Blocks.
    ///
    /// # Errors
    /// When the file cannot be locked, read or written.
    pub(crate) fn change<T>(
        folder: &Path,
        change: impl FnOnce(&mut Self) -> T,
    ) -> Result<(Self, T), BookError> {
        let _turn = lock(folder)?;
        let mut book = Self::load(folder)?;
        let given = change(&mut book);
        book.save(folder)?;
        Ok((book, given))
    }

    /// Writes the book to a state folder, whole or not at all; the folder is made when it is not
    /// there. Blocks.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn save(&self, folder: &Path) -> Result<(), BookError> {
        let path = folder.join(BOOK_FILE);
        let written = self.write(folder, &path);
        written.map_err(|source| BookError::Write { path, source })
    }

    fn write(&self, folder: &Path, path: &Path) -> io::Result<()> {
        fs::create_dir_all(folder)?;
        let document = Document {
            version: VERSION,
            registries: self.registries.clone(),
            ca_bundle: self.ca_bundle.clone(),
            addresses: self.addresses.clone(),
            accepted: self.accepted.clone(),
        };
        // Readers see the old file or the new one, also when this process ends in between.
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        serde_json::to_writer_pretty(&mut file, &document)?;
        file.write_all(b"\n")?;
        file.as_file().sync_all()?;
        file.persist(path).map_err(|error| error.error)?;
        Ok(())
    }

    /// What is known of `group`.
    #[must_use]
    pub fn get(&self, group: Group) -> Option<&Registry> {
        self.registries.iter().find(|each| each.group == group)
    }

    /// Puts `registry` in the place of what was known of its group.
    pub fn put(&mut self, registry: Registry) {
        self.registries.retain(|each| each.group != registry.group);
        self.registries.push(registry);
        self.registries.sort_by_key(|each| each.group);
    }

    /// What an operator's settings leave and put in place: groups that are switched off are gone,
    /// hosts that are set replace those found.
    #[must_use]
    pub fn with_settings(&self, settings: &RegistrySettings, now: Timestamp) -> Self {
        let mut book = Self {
            registries: Vec::new(),
            ..self.clone()
        };
        for group in Group::ALL {
            let set = settings.group(group);
            let registry = match self.get(group) {
                _ if !settings.is_enabled(group) => None,
                _ if !set.hosts.is_empty() => Some(Registry {
                    group,
                    index: set.index,
                    extra_indexes: Vec::new(),
                    builtin: false,
                    configured: true,
                    hosts: set.hosts,
                    how: "set in the configuration".to_owned(),
                    found_at: now,
                }),
                // What was found for an index that is not the one any more says nothing.
                found => found
                    .filter(|found| fits(found, set.index.as_deref()))
                    .cloned(),
            };
            book.registries.extend(registry);
        }
        book
    }

    /// The groups among `groups` that have to be found out, anew or for the first time.
    #[must_use]
    pub fn due(&self, groups: &[Group], settings: &RegistrySettings, now: Timestamp) -> Vec<Group> {
        let age = (i64::from(settings.refresh_days) * 24).hours();
        let is_due = |group: &Group| {
            let set = settings.group(*group);
            if !settings.is_enabled(*group) || !set.hosts.is_empty() {
                return false;
            }
            match self.get(*group) {
                Some(known) if fits(known, set.index.as_deref()) => {
                    // A clock that was set back does not make a find last for ever.
                    known.found_at > now
                        || known.found_at.checked_add(age).is_ok_and(|due| due <= now)
                }
                _ => true,
            }
        };
        groups.iter().copied().filter(is_due).collect()
    }

    /// All hosts with their ports, each once.
    #[must_use]
    pub fn hosts(&self) -> Vec<AllowedHost> {
        let hosts = self.registries.iter().flat_map(|each| &each.hosts);
        merge(hosts.cloned())
    }

    /// What `host` resolved to.
    #[must_use]
    pub fn addresses_of(&self, host: &str) -> &[IpAddr] {
        self.addresses
            .iter()
            .find(|each| each.host == host)
            .map_or(&[], |each| &each.addresses)
    }
}

/// Waits for a turn, which ends when the file is dropped, and with its process at the latest.
fn lock(folder: &Path) -> Result<File, BookError> {
    let path = folder.join(LOCK_FILE);
    let locked = fs::create_dir_all(folder)
        .and_then(|()| File::create(&path))
        .and_then(|file| file.lock().map(|()| file));
    locked.map_err(|source| BookError::Lock { path, source })
}

/// Whether what was found is about the index that is set now.
fn fits(found: &Registry, index: Option<&str>) -> bool {
    match index {
        Some(index) => found.configured && found.index.as_deref() == Some(index),
        None => !found.configured,
    }
}

/// Hosts of one name become one with all their ports.
pub(crate) fn merge(hosts: impl IntoIterator<Item = AllowedHost>) -> Vec<AllowedHost> {
    let mut ports: BTreeMap<(String, bool), Vec<u16>> = BTreeMap::new();
    let mut order = Vec::new();
    for host in hosts {
        let key = (host.name, host.subdomains);
        let known = ports.entry(key.clone()).or_insert_with(|| {
            order.push(key);
            Vec::new()
        });
        known.extend(host.ports);
    }
    let merged = order.into_iter().map(|key| {
        let mut ports = ports.remove(&key).unwrap_or_default();
        ports.sort_unstable();
        ports.dedup();
        AllowedHost {
            name: key.0,
            subdomains: key.1,
            ports,
        }
    });
    merged.collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use forge_config::GroupSettings;

    pub(crate) fn now() -> Timestamp {
        "2026-01-15T00:00:00Z".parse().unwrap()
    }

    pub(crate) fn registry(group: Group, index: &str, hosts: &[&str]) -> Registry {
        Registry {
            group,
            index: Some(index.to_owned()),
            extra_indexes: Vec::new(),
            builtin: true,
            configured: false,
            hosts: hosts.iter().map(|&host| AllowedHost::https(host)).collect(),
            how: "test".into(),
            found_at: now(),
        }
    }

    fn book() -> RegistryBook {
        RegistryBook {
            registries: vec![
                registry(Group::Pypi, "https://index.test/simple", &["index.test"]),
                registry(Group::Npm, "https://npm.test/", &["npm.test"]),
            ],
            ca_bundle: Some(CaBundle {
                path: "/ca.pem".into(),
                how: "pip".into(),
                certificates: 3,
            }),
            addresses: vec![HostAddresses {
                host: "index.test".into(),
                addresses: vec!["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()],
            }],
            accepted: vec![AcceptedAddress {
                host: "index.test".into(),
                address: "10.0.0.1".parse().unwrap(),
                accepted_at: now(),
            }],
        }
    }

    #[test]
    fn a_book_comes_back_as_it_was_and_none_is_empty() {
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path().join("state");
        assert_eq!(RegistryBook::load(&home).unwrap(), RegistryBook::default());
        book().save(&home).unwrap();
        assert_eq!(RegistryBook::load(&home).unwrap(), book());
        let files = fs::read_dir(&home).unwrap().count();
        assert_eq!(files, 1, "nothing half-written is left");
    }

    #[test]
    fn who_changes_a_book_is_alone_and_sees_what_stands_there_now() {
        let folder = tempfile::tempdir().unwrap();
        book().save(folder.path()).unwrap();
        let lock = folder.path().join(LOCK_FILE);
        let (changed, is_alone) = RegistryBook::change(folder.path(), |there| {
            assert_eq!(*there, book());
            there.put(registry(Group::Go, "https://go.test/", &["go.test"]));
            File::open(&lock).unwrap().try_lock().is_err()
        })
        .unwrap();
        assert!(is_alone);
        assert_eq!(RegistryBook::load(folder.path()).unwrap(), changed);
        assert!(changed.get(Group::Go).is_some() && changed.get(Group::Npm).is_some());
        // Not tried only: a program that another test is starting may still have the file open.
        File::open(&lock).unwrap().lock().unwrap();
    }

    #[test]
    fn a_file_that_cannot_be_used_is_no_empty_book() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(BOOK_FILE);
        for text in [
            "",
            "{}",
            "{\"version\": 1}",
            "{\"version\": 1, \"x\": 2}",
            "[]",
        ] {
            fs::write(&path, text).unwrap();
            let error = RegistryBook::load(folder.path()).unwrap_err();
            assert!(matches!(error, BookError::Damaged { .. }), "{text}");
        }
        fs::write(&path, "{\"version\": 2, \"new\": true}").unwrap();
        let error = RegistryBook::load(folder.path()).unwrap_err();
        assert!(matches!(error, BookError::Later { found: 2, .. }));
    }

    #[test]
    fn a_find_is_due_when_it_is_old_missing_or_about_another_index() {
        use Group::{Apt, Go, Npm, Pypi};
        let mut settings = RegistrySettings::default();
        let groups = [Pypi, Npm, Apt, Go];
        let book = book();
        let later = |days: i64| now().checked_add((days * 24).hours()).unwrap();
        assert_eq!(book.due(&groups, &settings, later(6)), [Apt]);
        assert_eq!(book.due(&groups, &settings, later(7)), [Pypi, Npm, Apt]);
        assert_eq!(book.due(&groups, &settings, later(-1)), [Pypi, Npm, Apt]);
        let set = |index: Option<&str>, host: Option<&str>| GroupSettings {
            index: index.map(str::to_owned),
            hosts: host.map(AllowedHost::https).into_iter().collect(),
            ..GroupSettings::default()
        };
        settings
            .groups
            .insert(Pypi, set(Some("https://m.test/"), None));
        settings.groups.insert(Apt, set(None, Some("deb.test")));
        assert_eq!(book.due(&groups, &settings, now()), [Pypi]);
    }

    #[test]
    fn settings_replace_and_remove_what_was_found() {
        let mut settings = RegistrySettings::default();
        let off = GroupSettings {
            enabled: false,
            ..GroupSettings::default()
        };
        settings.groups.insert(Group::Npm, off);
        let hosts = GroupSettings {
            hosts: vec![AllowedHost::https("own.test")],
            ..GroupSettings::default()
        };
        settings.groups.insert(Group::Go, hosts);
        let index = GroupSettings {
            index: Some("https://elsewhere.test/".into()),
            ..GroupSettings::default()
        };
        settings.groups.insert(Group::Pypi, index);
        let left = book().with_settings(&settings, now());
        let groups: Vec<Group> = left.registries.iter().map(|each| each.group).collect();
        assert_eq!(
            groups,
            [Group::Go],
            "the find for another index says nothing"
        );
        assert_eq!(left.hosts(), [AllowedHost::https("own.test")]);
        assert_eq!(left.accepted, book().accepted);
    }

    #[test]
    fn hosts_of_one_name_become_one() {
        let plain = AllowedHost {
            ports: vec![80],
            ..AllowedHost::https("a.test")
        };
        let merged = merge([
            AllowedHost::https("a.test"),
            plain,
            AllowedHost::https("b.test"),
        ]);
        let shown: Vec<String> = merged.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["a.test:80,443", "b.test"]);
    }
}
