//! The world outside as the server sees it: names to addresses, addresses to connections.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use forge_core::egress::AddressRange;
use hickory_resolver::config::{LookupIpStrategy, ResolveHosts, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::{Name, RData};
use hickory_resolver::{Resolver, TokioResolver, system_conf};
use nix::ifaddrs::getifaddrs;
use tokio::net::TcpStream;

use crate::audit::lock;
use crate::names::HostName;

/// Where the server of names is found.
pub const RESOLVER_FILE: &str = "/etc/resolv.conf";
/// Answers are kept as long as they say, but no longer than this.
const MOST_CACHED: Duration = Duration::from_secs(60);
/// That a name does not exist is kept no longer than this.
const MOST_CACHED_FAILURE: Duration = Duration::from_secs(5);
/// One query; two of them fit into the time a look-up may take.
const QUERY: Duration = Duration::from_secs(4);
/// Names whose addresses are kept.
const MOST_KNOWN: usize = 512;
/// Addresses of one name and version that are kept: an answer may have thousands, and whoever owns
/// a name decides how many, so the resolver's own cache of whole answers is not used.
const MOST_KNOWN_ADDRESSES: usize = 16;
/// Queries under way on one connection to the server of names; the sandboxes bound themselves.
const MOST_QUERIES: usize = 4096;

/// What a server needs of the world.
#[async_trait]
pub trait Outside: Send + Sync {
    /// The addresses of a name, judged by nobody yet; none where it has none.
    ///
    /// # Errors
    ///
    /// When nobody knows.
    async fn resolve(&self, name: &HostName) -> io::Result<Vec<IpAddr>>;

    /// A connection to exactly this address.
    ///
    /// # Errors
    ///
    /// When it cannot be made.
    async fn dial(&self, address: SocketAddr) -> io::Result<TcpStream>;

    /// The networks this machine is itself on, as they are now.
    ///
    /// # Errors
    ///
    /// When they cannot be found out.
    fn own_networks(&self) -> io::Result<Vec<AddressRange>>;

    /// Whether addresses of version 6 can be reached.
    fn has_v6(&self) -> bool;
}

/// The internet.
pub struct Internet {
    resolver: TokioResolver,
    known: Known,
    has_v6: bool,
}

/// What names resolved to lately.
#[derive(Debug, Default)]
struct Known(Mutex<BTreeMap<HostName, Fact>>);

#[derive(Debug)]
struct Fact {
    until: Instant,
    /// Empty for a name that does not exist.
    addresses: Vec<IpAddr>,
}

impl Known {
    fn recall(&self, name: &HostName, now: Instant) -> Option<Vec<IpAddr>> {
        let facts = lock(&self.0);
        let fact = facts.get(name).filter(|fact| now < fact.until)?;
        Some(fact.addresses.clone())
    }

    fn learn(&self, name: &HostName, addresses: Vec<IpAddr>, now: Instant, until: Instant) {
        let mut facts = lock(&self.0);
        if facts.len() >= MOST_KNOWN && !facts.contains_key(name) {
            facts.retain(|_, fact| now < fact.until);
            let first = facts.iter().min_by_key(|(_, fact)| fact.until);
            let first = first.map(|(name, _)| name.clone());
            if let Some(first) = first.filter(|_| facts.len() >= MOST_KNOWN) {
                facts.remove(&first);
            }
        }
        facts.insert(name.clone(), Fact { until, addresses });
    }
}

/// The first addresses of each version.
fn few(addresses: impl Iterator<Item = IpAddr>) -> Vec<IpAddr> {
    let (mut v4, mut v6) = (0, 0);
    addresses
        .filter(|address| {
            let count = if address.is_ipv4() { &mut v4 } else { &mut v6 };
            *count += 1;
            *count <= MOST_KNOWN_ADDRESSES
        })
        .collect()
}

impl Internet {
    /// Reads where the server of names is. Search domains and files of names are not used: a name
    /// means the same here as in the rules it was judged by.
    ///
    /// # Errors
    ///
    /// When there is no server of names, or the file cannot be read.
    pub fn new(resolver_file: &Path) -> io::Result<Self> {
        let text = std::fs::read(resolver_file)?;
        let (found, mut options) =
            system_conf::parse_resolv_conf(text).map_err(io::Error::other)?;
        let (_, _, servers) = found.into_parts();
        let has_v6 = has_route_of_version_6();
        options.ndots = 0;
        options.timeout = QUERY;
        options.attempts = 2;
        options.cache_size = 0;
        options.use_hosts_file = ResolveHosts::Never;
        options.max_active_requests = MOST_QUERIES;
        options.preserve_intermediates = false;
        options.ip_strategy = if has_v6 {
            LookupIpStrategy::Ipv4AndIpv6
        } else {
            LookupIpStrategy::Ipv4Only
        };
        let config = ResolverConfig::from_parts(None, Vec::new(), servers);
        let resolver = Resolver::builder_with_config(config, TokioRuntimeProvider::default())
            .with_options(options)
            .build()
            .map_err(io::Error::other)?;
        Ok(Self {
            resolver,
            known: Known::default(),
            has_v6,
        })
    }
}

#[async_trait]
impl Outside for Internet {
    async fn resolve(&self, name: &HostName) -> io::Result<Vec<IpAddr>> {
        if let Some(addresses) = self.known.recall(name, Instant::now()) {
            return Ok(addresses);
        }
        let mut whole = Name::from_ascii(name.as_str()).map_err(io::Error::other)?;
        whole.set_fqdn(true);
        let found = self.resolver.lookup_ip(whole).await;
        let now = Instant::now();
        let (addresses, until) = match found {
            Ok(found) => {
                let answers = found.as_lookup().answers().iter();
                let addresses = few(answers.filter_map(|record| match &record.data {
                    RData::A(address) => Some(IpAddr::V4(address.0)),
                    RData::AAAA(address) => Some(IpAddr::V6(address.0)),
                    _ => None,
                }));
                (addresses, found.valid_until().min(now + MOST_CACHED))
            }
            Err(error) if error.is_no_records_found() => (Vec::new(), now + MOST_CACHED_FAILURE),
            Err(error) => return Err(io::Error::other(error)),
        };
        self.known.learn(name, addresses.clone(), now, until);
        Ok(addresses)
    }

    async fn dial(&self, address: SocketAddr) -> io::Result<TcpStream> {
        TcpStream::connect(address).await
    }

    fn own_networks(&self) -> io::Result<Vec<AddressRange>> {
        interfaces()
    }

    fn has_v6(&self) -> bool {
        self.has_v6
    }
}

/// The addresses of every interface of the network that this process runs in, loopback included,
/// in order, each once.
///
/// # Errors
///
/// When they cannot be read, or there is none.
pub fn own_addresses() -> io::Result<Vec<IpAddr>> {
    let addresses: BTreeSet<IpAddr> = interfaces()?
        .into_iter()
        .map(|network| network.address)
        .collect();
    if addresses.is_empty() {
        return Err(io::Error::new(
            io::ErrorKind::AddrNotAvailable,
            "no interface has an address",
        ));
    }
    Ok(addresses.into_iter().collect())
}

/// The addresses of interfaces, each with the prefix of its network.
fn interfaces() -> io::Result<Vec<AddressRange>> {
    let interfaces = getifaddrs().map_err(io::Error::from)?;
    Ok(interfaces
        .filter_map(|interface| {
            let address = ip(interface.address.as_ref()?)?;
            let whole = if address.is_ipv4() { 32 } else { 128 };
            let prefix = match interface.netmask.as_ref().and_then(ip) {
                Some(IpAddr::V4(mask)) => mask.to_bits().leading_ones(),
                Some(IpAddr::V6(mask)) => mask.to_bits().leading_ones(),
                None => whole,
            };
            let prefix = u8::try_from(prefix.min(whole)).ok()?;
            Some(AddressRange { address, prefix })
        })
        .collect())
}

fn ip(address: &nix::sys::socket::SockaddrStorage) -> Option<IpAddr> {
    let v4 = address.as_sockaddr_in().map(|found| IpAddr::V4(found.ip()));
    v4.or_else(|| {
        address
            .as_sockaddr_in6()
            .map(|found| IpAddr::V6(found.ip()))
    })
}

fn has_route_of_version_6() -> bool {
    std::fs::read_to_string("/proc/net/ipv6_route").is_ok_and(|table| has_default_route(&table))
}

/// Whether a table of routes as the kernel shows it has one to everywhere that is not a refusal.
fn has_default_route(table: &str) -> bool {
    const UP: u32 = 0x1;
    const REJECT: u32 = 0x200;
    table.lines().any(|line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let [to, prefix, .., flags, device] = fields.as_slice() else {
            return false;
        };
        let everywhere = to.bytes().all(|digit| digit == b'0') && *prefix == "00";
        let usable = u32::from_str_radix(flags, 16)
            .is_ok_and(|flags| flags & UP != 0 && flags & REJECT == 0);
        everywhere && usable && *device != "lo"
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_to_everywhere_counts_only_where_it_leads_out() {
        let zeros = "00000000000000000000000000000000";
        let line = |prefix: &str, flags: &str, device: &str| {
            format!(
                "{zeros} {prefix} {zeros} 00 {zeros} 00000400 00000002 00000000 {flags} {device}\n"
            )
        };
        assert!(has_default_route(&line("00", "00000003", "eth0")));
        assert!(!has_default_route(&line("00", "00200200", "lo")));
        assert!(!has_default_route(&line("00", "00000203", "eth0")));
        assert!(!has_default_route(&line("40", "00000001", "eth0")));
        assert!(!has_default_route(""));
    }

    #[test]
    fn what_is_known_of_names_is_bounded_and_forgotten_in_time() {
        let known = Known::default();
        let now = Instant::now();
        let name = |number: usize| HostName::parse(format!("a{number}.test").as_bytes()).unwrap();
        let later = |seconds: usize| now + Duration::from_secs(seconds as u64);
        for number in 1..=MOST_KNOWN + 5 {
            let addresses = vec!["192.0.2.1".parse().unwrap()];
            known.learn(&name(number), addresses, now, later(number));
        }
        assert_eq!(lock(&known.0).len(), MOST_KNOWN);
        // What would have been forgotten first made room.
        assert_eq!(known.recall(&name(5), now), None);
        assert!(known.recall(&name(6), now).is_some());
        assert_eq!(known.recall(&name(6), later(6)), None);
        known.learn(&name(6), Vec::new(), now, later(6));
        assert_eq!(known.recall(&name(6), now), Some(Vec::new()));
        assert_eq!(lock(&known.0).len(), MOST_KNOWN);
    }

    #[test]
    fn of_an_answer_with_thousands_of_addresses_a_few_of_each_version_are_kept() {
        let addresses = (0..5000_u32).map(|number| {
            if number < 4000 {
                IpAddr::V6(u128::from(number).into())
            } else {
                IpAddr::V4(number.into())
            }
        });
        let kept = few(addresses);
        assert_eq!(kept.len(), 2 * MOST_KNOWN_ADDRESSES);
        assert_eq!(kept.iter().filter(|each| each.is_ipv4()).count(), 16);
    }

    #[tokio::test]
    async fn loopback_is_among_the_networks_of_the_machine() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("resolv.conf");
        std::fs::write(&file, "nameserver 192.0.2.1\nsearch example.org\n").unwrap();
        let internet = Internet::new(&file).unwrap();
        let networks = internet.own_networks().unwrap();
        assert!(
            networks
                .iter()
                .any(|network| network.contains("127.0.0.1".parse().unwrap()))
        );
    }

    #[test]
    fn without_a_server_of_names_nothing_is_served() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("resolv.conf");
        std::fs::write(&file, "search example.org\n").unwrap();
        assert!(Internet::new(&file).is_err());
        assert!(Internet::new(&folder.path().join("absent")).is_err());
    }
}
