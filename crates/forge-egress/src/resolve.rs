//! The world outside as the server sees it: names to addresses, addresses to connections.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;
use forge_core::egress::AddressRange;
use hickory_resolver::config::{LookupIpStrategy, ResolveHosts, ResolverConfig};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::{Name, RData};
use hickory_resolver::{Resolver, TokioResolver, system_conf};
use nix::ifaddrs::getifaddrs;
use tokio::net::TcpStream;

use crate::names::HostName;

/// Where the server of names is found.
pub const RESOLVER_FILE: &str = "/etc/resolv.conf";
/// Answers are kept as long as they say, but no longer than this.
const MOST_CACHED: Duration = Duration::from_secs(60);
/// That a name does not exist is kept no longer than this.
const MOST_CACHED_FAILURE: Duration = Duration::from_secs(5);
/// One query; two of them fit into the time a look-up may take.
const QUERY: Duration = Duration::from_secs(4);
/// Answers that are kept.
const CACHE_SIZE: u64 = 512;
/// Queries under way on one connection to the server of names; the sandboxes bound themselves.
const MOST_QUERIES: usize = 4096;

/// What a server needs of the world.
#[async_trait]
pub trait Outside: Send + Sync {
    /// All addresses of a name, judged by nobody yet.
    ///
    /// # Errors
    ///
    /// When the name has none, or nobody knows.
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
    has_v6: bool,
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
        options.cache_size = CACHE_SIZE;
        options.use_hosts_file = ResolveHosts::Never;
        options.positive_max_ttl = Some(MOST_CACHED);
        options.negative_max_ttl = Some(MOST_CACHED_FAILURE);
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
        Ok(Self { resolver, has_v6 })
    }
}

#[async_trait]
impl Outside for Internet {
    async fn resolve(&self, name: &HostName) -> io::Result<Vec<IpAddr>> {
        let mut name = Name::from_ascii(name.as_str()).map_err(io::Error::other)?;
        name.set_fqdn(true);
        let found = self.resolver.lookup_ip(name).await;
        let found = found.map_err(|error: NetError| io::Error::other(error))?;
        let addresses = found.as_lookup().answers().iter();
        Ok(addresses
            .filter_map(|record| match &record.data {
                RData::A(address) => Some(IpAddr::V4(address.0)),
                RData::AAAA(address) => Some(IpAddr::V6(address.0)),
                _ => None,
            })
            .collect())
    }

    async fn dial(&self, address: SocketAddr) -> io::Result<TcpStream> {
        TcpStream::connect(address).await
    }

    fn own_networks(&self) -> io::Result<Vec<AddressRange>> {
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

    fn has_v6(&self) -> bool {
        self.has_v6
    }
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
