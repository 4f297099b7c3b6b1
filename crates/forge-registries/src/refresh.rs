//! Keeping the book up to date.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use forge_config::{Configuration, Group, RegistrySettings};
use jiff::Timestamp;

use crate::addresses::{Resolve, Standing, look_up};
use crate::book::{AcceptedAddress, BookError, HostAddresses, Registry, RegistryBook};
use crate::certificates::{CaBundle, find_ca_bundle};
use crate::clients::Places;
use crate::discover::{DiscoverError, Wanted, discover};
use crate::fetch::{Fetch, FetchError};

/// What is to be brought up to date.
#[derive(Debug, Clone, Copy)]
pub struct Refresh<'r> {
    /// The folder of the book.
    pub folder: &'r Path,
    /// The operator's settings.
    pub configuration: &'r Configuration,
    /// The groups that are wanted; what is known of others stays.
    pub groups: &'r [Group],
    /// Whether what is not due is found out anew as well.
    pub force: bool,
    /// The present time.
    pub now: Timestamp,
}

/// What came of it.
#[derive(Debug)]
pub struct Refreshed {
    /// The book, with the operator's settings in it.
    pub book: RegistryBook,
    /// The groups that were found out anew.
    pub found: Vec<Group>,
    /// The groups that could not be, and why; what was known of them stays.
    pub failed: Vec<(Group, DiscoverError)>,
}

/// Brings the book up to date: finds out what is due, looks its hosts up, and writes the file when
/// something changed. `fetch` is made only when something is due, of the bundle of certificate
/// authorities that holds.
///
/// # Errors
/// When the file cannot be read or written. Registries that cannot be found are in the result.
pub async fn up_to_date<F: Fetch>(
    refresh: Refresh<'_>,
    places: Places<'_>,
    resolver: &dyn Resolve,
    fetch: impl FnOnce(Option<PathBuf>) -> Result<F, FetchError> + Send,
) -> Result<Refreshed, BookError> {
    let settings = &refresh.configuration.registries;
    let folder = refresh.folder.to_owned();
    let mut book = blocking(move || RegistryBook::load(&folder)).await?;
    let due = due(&book, &refresh);
    if due.is_empty() && !refresh.force && is_looked_up(&book, &refresh) {
        return Ok(Refreshed {
            book: book.with_settings(settings, refresh.now),
            found: Vec::new(),
            failed: Vec::new(),
        });
    }
    let ca_bundle = find_ca_bundle(places.host).await;
    let own = refresh.configuration.network.ca_bundle.clone();
    let bundle = own.or_else(|| Some(ca_bundle.as_ref()?.path.clone()));
    let wanted: Vec<Wanted> = due
        .iter()
        .map(|&group| Wanted {
            group,
            index: settings.group(group).index,
        })
        .collect();
    let mut failed = Vec::new();
    let mut registries = Vec::new();
    match fetch(bundle) {
        Ok(fetch) => {
            for each in discover(places, &fetch, &wanted, refresh.now).await {
                match each.outcome {
                    Ok(registry) => registries.push(registry),
                    Err(error) => failed.push((each.group, error)),
                }
            }
        }
        Err(error) => failed.extend(no_fetch(&due, &error)),
    }
    let found = registries.iter().map(|each| each.group).collect();
    let mut news = News {
        registries,
        ca_bundle,
        addresses: Vec::new(),
    };
    news.put_into(&mut book, settings, refresh.now);
    let hosts = book.with_settings(settings, refresh.now).hosts();
    news.addresses = look_up(&hosts, resolver).await;
    let (folder, own, now) = (refresh.folder.to_owned(), settings.clone(), refresh.now);
    let work = move |there: &mut RegistryBook| news.put_into(there, &own, now);
    let (book, ()) = blocking(move || RegistryBook::change(&folder, work)).await?;
    Ok(Refreshed {
        book: book.with_settings(settings, refresh.now),
        found,
        failed,
    })
}

/// What was found out now.
#[derive(Debug)]
struct News {
    registries: Vec<Registry>,
    ca_bundle: Option<CaBundle>,
    addresses: Vec<HostAddresses>,
}

impl News {
    /// Finding out takes a while, in which another process may have written to the book: its
    /// groups, its addresses and what was accepted there stay.
    fn put_into(&self, book: &mut RegistryBook, settings: &RegistrySettings, now: Timestamp) {
        for registry in &self.registries {
            book.put(registry.clone());
        }
        book.ca_bundle.clone_from(&self.ca_bundle);
        let hosts = book.with_settings(settings, now).hosts();
        book.addresses.retain(|each| {
            let is_host = hosts.iter().any(|host| host.name == each.host);
            is_host && self.addresses.iter().all(|new| new.host != each.host)
        });
        book.addresses.splice(0..0, self.addresses.iter().cloned());
    }
}

/// Accepts the addresses at which the hosts of `refresh.groups` were found, as
/// [`RegistryBook::accept`] says, and writes the file. Gives the book with the operator's settings
/// in it, and what is new.
///
/// # Errors
/// When the file cannot be read or written.
pub async fn accept_addresses(
    refresh: Refresh<'_>,
    standing: impl Fn(IpAddr) -> Standing + Send + 'static,
) -> Result<(RegistryBook, Vec<AcceptedAddress>), BookError> {
    let folder = refresh.folder.to_owned();
    let registries = refresh.configuration.registries.clone();
    let network = refresh.configuration.network.clone();
    let (groups, now) = (refresh.groups.to_vec(), refresh.now);
    let work = move |book: &mut RegistryBook| {
        let mut effective = book.with_settings(&registries, now);
        let new = effective.accept(&groups, &network, standing, now);
        // What the settings put in place is not written: it would outlive them.
        book.accepted.clone_from(&effective.accepted);
        (effective, new)
    };
    let (_, accepted) = blocking(move || RegistryBook::change(&folder, work)).await?;
    Ok(accepted)
}

fn due(book: &RegistryBook, refresh: &Refresh<'_>) -> Vec<Group> {
    let settings = &refresh.configuration.registries;
    if !refresh.force {
        return book.due(refresh.groups, settings, refresh.now);
    }
    // Those whose hosts are set have nothing to find out, but may have to be looked up.
    let enabled = |group: &Group| settings.is_enabled(*group);
    let open = |group: &Group| settings.group(*group).hosts.is_empty();
    let groups = refresh.groups.iter().copied();
    groups.filter(enabled).filter(open).collect()
}

/// Whether every host was looked up; those that are set in the configuration are new at times.
fn is_looked_up(book: &RegistryBook, refresh: &Refresh<'_>) -> bool {
    let hosts = book
        .with_settings(&refresh.configuration.registries, refresh.now)
        .hosts();
    let known = |name: &str| book.addresses.iter().any(|each| each.host == name);
    hosts
        .iter()
        .all(|host| host.subdomains || known(&host.name))
}

fn no_fetch(due: &[Group], error: &FetchError) -> Vec<(Group, DiscoverError)> {
    let told = error.to_string();
    let failed = |&group: &Group| {
        let source = FetchError::Authorities(told.clone());
        let index = "of this group".to_owned();
        (group, DiscoverError::Fetch { index, source })
    };
    due.iter().map(failed).collect()
}

/// Files are small, but the disk may be slow.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, BookError> + Send + 'static,
) -> Result<T, BookError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(lost) => Err(BookError::Read {
            path: PathBuf::from(crate::book::BOOK_FILE),
            source: std::io::Error::other(lost),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::book::tests::registry;
    use crate::discover::tests::{FakeClients, FakeFetch};
    use async_trait::async_trait;
    use forge_config::GroupSettings;
    use forge_core::egress::AllowedHost;
    use jiff::ToSpan;
    use std::io;

    struct Names;

    #[async_trait]
    impl Resolve for Names {
        async fn addresses(&self, name: &str) -> io::Result<Vec<IpAddr>> {
            match name {
                "gone.test" => Err(io::ErrorKind::NotFound.into()),
                _ => Ok(vec![IpAddr::from([10, 0, 0, 1])]),
            }
        }
    }

    fn clients() -> FakeClients {
        FakeClients::default().answers("npm config get registry", "https://npm.test/\n")
    }

    fn index(_: Option<PathBuf>) -> Result<FakeFetch, FetchError> {
        let body = r#"{"versions": {"1.0.0": {"dist": {"tarball": "https://gone.test/ms.tgz"}}}}"#;
        Ok(FakeFetch::default().serves("https://npm.test/ms", "application/json", body))
    }

    fn no_index(_: Option<PathBuf>) -> Result<FakeFetch, FetchError> {
        panic!("nothing is due, but the index is asked")
    }

    const GROUPS: [Group; 2] = [Group::Npm, Group::Pypi];

    fn refresh<'r>(folder: &'r Path, configuration: &'r Configuration) -> Refresh<'r> {
        Refresh {
            folder,
            configuration,
            groups: &GROUPS,
            force: false,
            now: "2026-01-15T00:00:00Z".parse().unwrap(),
        }
    }

    #[tokio::test]
    async fn what_was_found_is_kept_until_it_is_due_and_what_fails_keeps_what_was_known() {
        let folder = tempfile::tempdir().unwrap();
        let mut configuration = Configuration::default();
        let off = GroupSettings {
            enabled: false,
            ..GroupSettings::default()
        };
        configuration.registries.groups.insert(Group::Pypi, off);
        let mut asked = refresh(folder.path(), &configuration);
        let first = up_to_date(asked, Places::only(&clients()), &Names, index)
            .await
            .unwrap();
        assert_eq!(first.found, [Group::Npm]);
        let address = IpAddr::from([10, 0, 0, 1]);
        assert_eq!(first.book.addresses_of("npm.test"), [address]);
        assert!(first.book.addresses_of("gone.test").is_empty());
        let second = up_to_date(asked, Places::only(&clients()), &Names, no_index)
            .await
            .unwrap();
        assert_eq!(second.book, first.book);
        asked.now = asked.now.checked_add((24 * 8).hours()).unwrap();
        let missing = FakeClients::default();
        let third = up_to_date(asked, Places::only(&missing), &Names, index)
            .await
            .unwrap();
        assert_eq!(third.failed.len(), 1);
        assert_eq!(third.book.registries, first.book.registries);
    }

    /// Another process that writes to the book while hosts are looked up.
    struct Meanwhile<'m>(&'m Path);

    #[async_trait]
    impl Resolve for Meanwhile<'_> {
        async fn addresses(&self, name: &str) -> io::Result<Vec<IpAddr>> {
            let address = IpAddr::from([10, 0, 0, 9]);
            RegistryBook::change(self.0, |book| {
                book.put(registry(Group::Pypi, "https://py.test/", &["py.test"]));
                book.addresses = vec![HostAddresses {
                    host: "py.test".into(),
                    addresses: vec![address],
                }];
                book.accepted = vec![AcceptedAddress {
                    host: "py.test".into(),
                    address,
                    accepted_at: crate::book::tests::now(),
                }];
            })
            .unwrap();
            Names.addresses(name).await
        }
    }

    #[tokio::test]
    async fn what_another_process_wrote_meanwhile_stays() {
        let folder = tempfile::tempdir().unwrap();
        let configuration = Configuration::default();
        let asked = refresh(folder.path(), &configuration);
        let other = Meanwhile(folder.path());
        let done = up_to_date(asked, Places::only(&clients()), &other, index)
            .await
            .unwrap();
        assert_eq!(done.found, [Group::Npm]);
        let there = RegistryBook::load(folder.path()).unwrap();
        for book in [&done.book, &there] {
            let groups: Vec<Group> = book.registries.iter().map(|each| each.group).collect();
            assert_eq!(groups, [Group::Pypi, Group::Npm]);
            assert_eq!(book.accepted.len(), 1);
            assert_eq!(book.addresses_of("py.test").len(), 1);
            assert_eq!(book.addresses_of("npm.test").len(), 1);
        }
    }

    #[tokio::test]
    async fn hosts_that_are_set_are_looked_up_without_any_index() {
        let folder = tempfile::tempdir().unwrap();
        let mut configuration = Configuration::default();
        for group in GROUPS {
            let set = GroupSettings {
                hosts: vec![AllowedHost::https(format!("{group}.test"))],
                ..GroupSettings::default()
            };
            configuration.registries.groups.insert(group, set);
        }
        let asked = refresh(folder.path(), &configuration);
        let empty = |_: Option<PathBuf>| Ok(FakeFetch::default());
        let done = up_to_date(asked, Places::only(&clients()), &Names, empty)
            .await
            .unwrap();
        assert_eq!(done.book.addresses_of("pypi.test").len(), 1);
        let (book, new) = accept_addresses(asked, |_| Standing::Denied).await.unwrap();
        assert_eq!((new.len(), book.accepted.len()), (2, 2));
        let kept = RegistryBook::load(folder.path()).unwrap();
        assert_eq!(kept.accepted, new);
        assert!(kept.registries.is_empty(), "settings are not written down");
        let again = up_to_date(asked, Places::only(&clients()), &Names, no_index)
            .await
            .unwrap();
        assert_eq!(again.book.accepted, new);
    }
}
