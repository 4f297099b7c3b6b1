//! What the hosts of registries resolve to, and whether that needs an exception.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use async_trait::async_trait;
use forge_config::{Group, NetworkSettings};
use forge_core::egress::{AddressRange, AllowedHost};
use futures::future::join_all;
use jiff::Timestamp;
use serde::Serialize;
use tokio::net::lookup_host;
use tokio::time::timeout;

use crate::book::{AcceptedAddress, HostAddresses, RegistryBook};

/// Longest that a look-up may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// A way from names to addresses.
#[async_trait]
pub trait Resolve: Send + Sync {
    /// The addresses of `name`.
    ///
    /// # Errors
    /// When it has none.
    async fn addresses(&self, name: &str) -> io::Result<Vec<IpAddr>>;
}

/// The resolver of this machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct HostResolver;

#[async_trait]
impl Resolve for HostResolver {
    async fn addresses(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        // Fully qualified: the proxy knows no search domains either.
        let name = format!("{name}.");
        let found = timeout(PATIENCE, lookup_host((name.as_str(), 443))).await??;
        let mut addresses: Vec<IpAddr> = found.map(|each| each.ip()).collect();
        addresses.sort();
        addresses.dedup();
        Ok(addresses)
    }
}

/// Looks up every host; one that does not resolve has no addresses.
pub(crate) async fn look_up(hosts: &[AllowedHost], resolver: &dyn Resolve) -> Vec<HostAddresses> {
    // The names below a suffix are not known.
    let names = hosts.iter().filter(|host| !host.subdomains);
    let each = names.map(|host| async {
        HostAddresses {
            host: host.name.clone(),
            addresses: resolver.addresses(&host.name).await.unwrap_or_default(),
        }
    });
    join_all(each).await
}

/// What the egress proxy makes of an address. Its rules are the proxy's, and callers bring them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Public: it is reached.
    Public,
    /// Not public: it is reached by an exception.
    Denied,
    /// It is reached by nothing.
    Closed,
}

/// What an address of a registry's host needs before sandboxes reach it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Need {
    /// Nothing: it is public.
    Nothing,
    /// Nothing any more: the configuration has an exception for it.
    Configured,
    /// Nothing any more: the operator accepted it.
    Accepted,
    /// An exception, which is not there.
    Exception,
    /// What cannot be had: no exception opens it.
    Impossible,
}

impl RegistryBook {
    /// What `address` of `host` needs.
    #[must_use]
    pub fn need(
        &self,
        host: &str,
        address: IpAddr,
        network: &NetworkSettings,
        standing: impl Fn(IpAddr) -> Standing,
    ) -> Need {
        let within = |ranges: &[AddressRange]| ranges.iter().any(|range| range.contains(address));
        match standing(address) {
            _ if within(&network.denied) => return Need::Impossible,
            Standing::Closed => return Need::Impossible,
            Standing::Public => return Need::Nothing,
            Standing::Denied => {}
        }
        let by_host = network.exceptions.iter().any(|exception| {
            within(&exception.ranges) && exception.hosts.iter().any(|each| covers(each, host))
        });
        if by_host || within(&network.registry_exceptions) {
            return Need::Configured;
        }
        let accepted = |each: &AcceptedAddress| each.host == host && each.address == address;
        if self.accepted.iter().any(accepted) {
            return Need::Accepted;
        }
        Need::Exception
    }

    /// The hosts of a group of which no known address is reached, as things are.
    pub fn closed_hosts(
        &self,
        group: Group,
        network: &NetworkSettings,
        standing: impl Fn(IpAddr) -> Standing,
    ) -> Vec<&str> {
        let hosts = self.get(group).map_or(&[][..], |registry| &registry.hosts);
        let names = hosts.iter().map(|host| host.name.as_str());
        let is_closed = |host: &&str| {
            let addresses = self.addresses_of(host);
            let mut needs = addresses
                .iter()
                .map(|address| self.need(host, *address, network, &standing));
            // What was not looked up may be anything.
            !addresses.is_empty()
                && needs.all(|need| matches!(need, Need::Exception | Need::Impossible))
        };
        names.filter(is_closed).collect()
    }

    /// Accepts every address of the hosts of `groups` that needs an exception, exactly as they
    /// resolved, and forgets what was accepted for hosts that are none any more. Says what is new.
    pub fn accept(
        &mut self,
        groups: &[Group],
        network: &NetworkSettings,
        standing: impl Fn(IpAddr) -> Standing,
        now: Timestamp,
    ) -> Vec<AcceptedAddress> {
        let hosts = self.hosts();
        self.accepted
            .retain(|each| hosts.iter().any(|host| covers(host, &each.host)));
        let ours: Vec<&AllowedHost> = self
            .registries
            .iter()
            .filter(|registry| groups.contains(&registry.group))
            .flat_map(|registry| &registry.hosts)
            .collect();
        let mut new = Vec::new();
        for known in &self.addresses {
            if !ours.iter().any(|host| covers(host, &known.host)) {
                continue;
            }
            for &address in &known.addresses {
                if self.need(&known.host, address, network, &standing) == Need::Exception {
                    new.push(AcceptedAddress {
                        host: known.host.clone(),
                        address,
                        accepted_at: now,
                    });
                }
            }
        }
        self.accepted.extend(new.iter().cloned());
        new
    }
}

fn covers(host: &AllowedHost, name: &str) -> bool {
    match host.subdomains {
        false => host.name == name,
        true => name
            .strip_suffix(&host.name)
            .is_some_and(|rest| rest.len() > 1 && rest.ends_with('.')),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::book::tests::{now, registry};
    use forge_core::egress::AddressException;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// Rules that do not depend on what is really public.
    fn standing(address: IpAddr) -> Standing {
        let within = |range: &str| range.parse::<AddressRange>().unwrap().contains(address);
        match () {
            () if within("192.0.2.0/24") => Standing::Public,
            () if within("127.0.0.0/8") => Standing::Closed,
            () => Standing::Denied,
        }
    }

    fn book(addresses: &[&str]) -> RegistryBook {
        RegistryBook {
            registries: vec![registry(Group::Pypi, "https://m.test/", &["m.test"])],
            addresses: vec![HostAddresses {
                host: "m.test".into(),
                addresses: addresses.iter().map(|text| address(text)).collect(),
            }],
            ..RegistryBook::default()
        }
    }

    #[test]
    fn an_address_needs_an_exception_unless_it_is_public_or_has_one() {
        let mut network = NetworkSettings::default();
        let need = |network: &NetworkSettings, host: &str, text: &str| {
            book(&[]).need(host, address(text), network, standing)
        };
        assert_eq!(need(&network, "m.test", "192.0.2.1"), Need::Nothing);
        assert_eq!(need(&network, "m.test", "10.0.0.1"), Need::Exception);
        assert_eq!(need(&network, "m.test", "127.0.0.1"), Need::Impossible);
        network.exceptions.push(AddressException {
            hosts: vec![AllowedHost::https("m.test")],
            ranges: vec!["10.0.0.0/8".parse().unwrap()],
        });
        assert_eq!(need(&network, "m.test", "10.0.0.1"), Need::Configured);
        assert_eq!(need(&network, "n.test", "10.0.0.1"), Need::Exception);
        network.denied.push("10.0.0.1/32".parse().unwrap());
        assert_eq!(need(&network, "m.test", "10.0.0.1"), Need::Impossible);
    }

    #[test]
    fn a_host_is_closed_when_nothing_opens_any_of_its_addresses() {
        let network = NetworkSettings::default();
        let closed = |book: &RegistryBook| {
            let hosts = book.closed_hosts(Group::Pypi, &network, standing);
            hosts.into_iter().map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(closed(&book(&["10.0.0.1", "127.0.0.1"])), ["m.test"]);
        assert!(closed(&book(&["10.0.0.1", "192.0.2.1"])).is_empty());
        assert!(closed(&book(&[])).is_empty(), "nobody looked");
        let mut accepted = book(&["10.0.0.1"]);
        accepted.accept(&[Group::Pypi], &network, standing, now());
        assert!(closed(&accepted).is_empty());
    }

    #[test]
    fn accepting_takes_exactly_the_addresses_that_need_it_once() {
        let network = NetworkSettings::default();
        let mut book = book(&["10.0.0.1", "192.0.2.1", "127.0.0.1", "fd00::1"]);
        book.addresses.push(HostAddresses {
            host: "gone.test".into(),
            addresses: vec![address("10.0.0.2")],
        });
        book.accepted.push(AcceptedAddress {
            host: "gone.test".into(),
            address: address("10.0.0.2"),
            accepted_at: now(),
        });
        assert!(
            book.accept(&[Group::Npm], &network, standing, now())
                .is_empty()
        );
        let new = book.accept(&[Group::Pypi], &network, standing, now());
        let shown: Vec<String> = new
            .iter()
            .map(|each| format!("{} {}", each.host, each.address))
            .collect();
        assert_eq!(shown, ["m.test 10.0.0.1", "m.test fd00::1"]);
        assert_eq!(book.accepted, new);
        assert!(
            book.accept(&[Group::Pypi], &network, standing, now())
                .is_empty()
        );
    }

    #[test]
    fn a_suffix_covers_the_names_below_it_only() {
        let host = AllowedHost {
            subdomains: true,
            ..AllowedHost::https("a.test")
        };
        assert!(covers(&host, "x.a.test"));
        assert!(!covers(&host, "a.test") && !covers(&host, "xa.test") && !covers(&host, ".a.test"));
    }
}
