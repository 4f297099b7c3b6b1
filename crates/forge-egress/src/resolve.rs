//! The world outside as the server sees it: names to addresses, addresses to connections.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use forge_core::egress::AddressRange;
use hickory_resolver::config::{ResolveHosts, ResolverConfig};
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::{Name, RData};
use hickory_resolver::{Resolver, TokioResolver, system_conf};
use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, socket};
use tokio::net::TcpStream;

use crate::audit::lock;
use crate::names::HostName;
use crate::server::kept;

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

    /// A connection to exactly this address, made as [`connect`] makes it.
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

/// What an answer about one version of addresses says.
fn fact(found: Result<Lookup, NetError>) -> io::Result<Fact> {
    let now = Instant::now();
    match found {
        Ok(found) => Ok(Fact {
            until: found.valid_until().min(now + MOST_CACHED),
            addresses: few(found.answers().iter().map(|record| &record.data)),
        }),
        Err(error) if error.is_no_records_found() => Ok(Fact {
            until: now + MOST_CACHED_FAILURE,
            addresses: Vec::new(),
        }),
        Err(error) => Err(io::Error::other(error)),
    }
}

/// What two answers say together. Nothing is missing where one of them has addresses; that a name
/// has none is known only from both.
fn of_both(v4: io::Result<Fact>, v6: io::Result<Fact>) -> io::Result<Fact> {
    let (v4, v6) = match (v4, v6) {
        (Ok(known), Err(_)) | (Err(_), Ok(known)) if !known.addresses.is_empty() => {
            return Ok(known);
        }
        (v4, v6) => (v4?, v6?),
    };
    Ok(match (v4.addresses.is_empty(), v6.addresses.is_empty()) {
        (false, false) => Fact {
            until: v4.until.min(v6.until),
            addresses: [v4.addresses, v6.addresses].concat(),
        },
        (false, true) => v4,
        (true, _) => v6,
    })
}

/// The first addresses of an answer.
fn few<'a>(answers: impl Iterator<Item = &'a RData>) -> Vec<IpAddr> {
    let addresses = answers.filter_map(|data| match data {
        RData::A(address) => Some(IpAddr::V4(address.0)),
        RData::AAAA(address) => Some(IpAddr::V6(address.0)),
        _ => None,
    });
    addresses.take(MOST_KNOWN_ADDRESSES).collect()
}

impl Internet {
    /// Reads where the server of names is. Search domains and files of names are not used: a name
    /// means the same here as in the rules it was judged by.
    ///
    /// # Errors
    ///
    /// When there is no server of names, or the file cannot be read.
    pub fn new(resolver_file: &Path) -> io::Result<Self> {
        Self::set_by(&std::fs::read(resolver_file)?)
    }

    /// With these servers of names.
    ///
    /// # Errors
    ///
    /// When there are none.
    pub fn with_servers(servers: &[IpAddr]) -> io::Result<Self> {
        let lines = servers
            .iter()
            .map(|server| format!("nameserver {server}\n"));
        Self::set_by(lines.collect::<String>().as_bytes())
    }

    /// `text` as a resolver's file has it.
    fn set_by(text: &[u8]) -> io::Result<Self> {
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
        // Each is cut to a few as it comes: one that is slow keeps no long answer to the other waiting.
        let v4 = async { fact(self.resolver.ipv4_lookup(whole.clone()).await) };
        let fact = if self.has_v6 {
            let v6 = async { fact(self.resolver.ipv6_lookup(whole.clone()).await) };
            let (v4, v6) = tokio::join!(v4, v6);
            of_both(v4, v6)?
        } else {
            v4.await?
        };
        let Fact { until, addresses } = fact;
        self.known
            .learn(name, addresses.clone(), Instant::now(), until);
        Ok(addresses)
    }

    async fn dial(&self, address: SocketAddr) -> io::Result<TcpStream> {
        connect(address).await
    }

    fn own_networks(&self) -> io::Result<Vec<AddressRange>> {
        interfaces()
    }

    fn has_v6(&self) -> bool {
        self.has_v6
    }
}

/// A connection of which the system keeps no more than every connection is counted for, until it is
/// widened.
///
/// # Errors
///
/// When it cannot be made, or cannot be bounded.
pub async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::Inet,
        SocketAddr::V6(_) => AddressFamily::Inet6,
    };
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let socket = socket(family, SockType::Stream, flags, None)?;
    kept::bound_at_first(&socket)?;
    match nix::sys::socket::connect(socket.as_raw_fd(), &SockaddrStorage::from(address)) {
        Ok(()) | Err(Errno::EINPROGRESS) => {}
        Err(error) => return Err(error.into()),
    }
    kept::LEAST.set(&socket)?;
    let stream = TcpStream::from_std(socket.into())?;
    stream.writable().await?;
    match stream.take_error()? {
        Some(error) => Err(error),
        None => Ok(stream),
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

fn ip(address: &SockaddrStorage) -> Option<IpAddr> {
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
    use hickory_resolver::proto::op::Query;
    use hickory_resolver::proto::rr::{Record, RecordType};

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
    fn of_an_answer_with_thousands_of_addresses_a_few_are_kept() {
        let name = Name::from_ascii("example.org.").unwrap();
        let query = Query::query(name.clone(), RecordType::A);
        let data = |number: u32| RData::A(std::net::Ipv4Addr::from(number).into());
        let answers = (0..5000).map(|number| Record::from_rdata(name.clone(), 30, data(number)));
        let before = Instant::now();
        let kept = fact(Ok(Lookup::new_with_max_ttl(query, answers))).unwrap();
        assert_eq!(kept.addresses.len(), MOST_KNOWN_ADDRESSES);
        assert!(kept.until <= Instant::now() + MOST_CACHED && kept.until > before);
    }

    #[test]
    fn two_answers_say_what_either_knows_and_nothing_where_one_is_missing() {
        let now = Instant::now();
        let known = |seconds, address: &str| Fact {
            until: now + Duration::from_secs(seconds),
            addresses: address.parse().into_iter().collect(),
        };
        let failed = || io::Error::other("no answer");
        let (v4, v6) = ("192.0.2.1", "2001:db8::1");
        let said = |v4, v6| {
            let fact = of_both(v4, v6).ok()?;
            let addresses: Vec<String> = fact.addresses.iter().map(IpAddr::to_string).collect();
            Some(((fact.until - now).as_secs(), addresses.join(" ")))
        };
        let both = said(Ok(known(9, v4)), Ok(known(7, v6)));
        assert_eq!(both, Some((7, format!("{v4} {v6}"))));
        let only_v4 = Some((9, v4.to_owned()));
        assert_eq!(said(Ok(known(9, v4)), Ok(known(5, ""))), only_v4);
        assert_eq!(said(Ok(known(9, v4)), Err(failed())), only_v4);
        let only_v6 = Some((7, v6.to_owned()));
        assert_eq!(said(Ok(known(5, "")), Ok(known(7, v6))), only_v6);
        assert_eq!(said(Err(failed()), Ok(known(7, v6))), only_v6);
        assert_eq!(
            said(Ok(known(5, "")), Ok(known(5, ""))),
            Some((5, String::new()))
        );
        assert_eq!(said(Ok(known(5, "")), Err(failed())), None);
        assert_eq!(said(Err(failed()), Err(failed())), None);
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
        assert!(Internet::with_servers(&[]).is_err());
        assert!(Internet::with_servers(&["192.0.2.1".parse().unwrap()]).is_ok());
    }
}
