//! The registries of this machine, for real:
//! `cargo test -p forge-registries -- --ignored`.

use std::path::PathBuf;

use forge_config::{Configuration, Group};
use forge_registries::{HostClients, HostResolver, HttpFetch, Places, Refresh, up_to_date};
use jiff::Timestamp;

#[tokio::test]
#[ignore = "needs pip, npm, cargo, apt and their registries"]
async fn the_registries_of_this_machine_are_found() {
    let folder = tempfile::tempdir().unwrap();
    let configuration = Configuration::default();
    let groups = [Group::Pypi, Group::Npm, Group::Cargo, Group::Apt];
    let refresh = Refresh {
        folder: folder.path(),
        configuration: &configuration,
        groups: &groups,
        force: false,
        now: Timestamp::now(),
    };
    let fetch = |bundle: Option<PathBuf>| HttpFetch::new(bundle.as_deref());
    let first = up_to_date(refresh, Places::only(&HostClients), &HostResolver, fetch)
        .await
        .unwrap();
    assert!(first.failed.is_empty(), "{:?}", first.failed);
    assert_eq!(first.found, groups);
    for registry in &first.book.registries {
        println!("{registry:#?}");
        let group = registry.group;
        assert!(!registry.hosts.is_empty(), "{group}");
        if group == Group::Apt {
            assert!(registry.hosts.iter().all(|host| host.ports == [80, 443]));
            continue;
        }
        assert!(
            registry.hosts.iter().all(|host| host.ports == [443]),
            "{group}"
        );
        let index = registry.index.as_deref().unwrap();
        assert!(index.starts_with("https://"), "{group}: {index}");
        for host in &registry.hosts {
            assert!(!first.book.addresses_of(&host.name).is_empty(), "{host}");
        }
    }
    // The second time nothing is asked: a maker of pages that fails is not called.
    let none = |_: Option<PathBuf>| -> Result<HttpFetch, _> {
        Err(forge_registries::FetchError::Authorities(
            "not asked".into(),
        ))
    };
    let second = up_to_date(refresh, Places::only(&HostClients), &HostResolver, none)
        .await
        .unwrap();
    assert!(second.found.is_empty() && second.failed.is_empty());
    assert_eq!(second.book, first.book);
}
