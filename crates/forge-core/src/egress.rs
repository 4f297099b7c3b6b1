//! What a sandbox with a network level other than `isolated` may reach, as the egress proxy is told.

use std::fmt;
use std::net::IpAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::network::NetworkLevel;
use crate::phase::PhaseName;

/// The port of HTTPS.
pub const HTTPS_PORT: u16 = 443;
/// The port of plain HTTP.
pub const HTTP_PORT: u16 = 80;
/// Ports of mail, closed at every level: an open one makes a sandbox a source of spam.
pub const MAIL_PORTS: [u16; 3] = [25, 465, 587];

/// A host that may be reached, and on which ports.
///
/// The name is canonical: lower case, ASCII, no trailing dot; never an address.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AllowedHost {
    /// Its name, or the suffix below which all names are allowed.
    pub name: String,
    /// Whether `name` is a suffix; the suffix itself is then not allowed.
    #[serde(default)]
    pub subdomains: bool,
    /// The TCP ports.
    pub ports: Vec<u16>,
}

impl AllowedHost {
    /// A host on the port of HTTPS only.
    #[must_use]
    pub fn https(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            subdomains: false,
            ports: vec![HTTPS_PORT],
        }
    }

    /// Hosts of one name as one host with all their ports, in the order they were first named.
    #[must_use]
    pub fn merged(hosts: impl IntoIterator<Item = Self>) -> Vec<Self> {
        let mut merged: Vec<Self> = Vec::new();
        for host in hosts {
            let same =
                |known: &&mut Self| known.name == host.name && known.subdomains == host.subdomains;
            match merged.iter_mut().find(same) {
                None => merged.push(host),
                Some(known) => {
                    for port in host.ports {
                        if !known.ports.contains(&port) {
                            known.ports.push(port);
                        }
                    }
                }
            }
        }
        merged
    }
}

impl fmt::Display for AllowedHost {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.subdomains {
            formatter.write_str("*.")?;
        }
        formatter.write_str(&self.name)?;
        match self.ports.as_slice() {
            [HTTPS_PORT] => Ok(()),
            ports => {
                let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
                write!(formatter, ":{}", ports.join(","))
            }
        }
    }
}

/// A range of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddressRange {
    /// Its first address.
    pub address: IpAddr,
    /// How many leading bits are fixed.
    pub prefix: u8,
}

impl AddressRange {
    /// Whether `address` is in this range. A version 4 address is never in a version 6 range.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address) {
            (IpAddr::V4(ours), IpAddr::V4(theirs)) => {
                let shift = 32 - u32::from(self.prefix.min(32));
                (ours.to_bits() ^ theirs.to_bits())
                    .checked_shr(shift)
                    .is_none_or(|difference| difference == 0)
            }
            (IpAddr::V6(ours), IpAddr::V6(theirs)) => {
                let shift = 128 - u32::from(self.prefix.min(128));
                (ours.to_bits() ^ theirs.to_bits())
                    .checked_shr(shift)
                    .is_none_or(|difference| difference == 0)
            }
            _ => false,
        }
    }
}

impl fmt::Display for AddressRange {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.address, self.prefix)
    }
}

/// Text that is no range of addresses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no address range such as 192.0.2.0/24 or 2001:db8::/32")]
pub struct InvalidRange(pub String);

impl std::str::FromStr for AddressRange {
    type Err = InvalidRange;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidRange(text.to_owned());
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| invalid())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            None => most,
            Some(digits) if digits.chars().all(|digit| digit.is_ascii_digit()) => {
                digits.parse().map_err(|_| invalid())?
            }
            Some(_) => return Err(invalid()),
        };
        if prefix > most {
            return Err(invalid());
        }
        Ok(Self { address, prefix })
    }
}

/// Addresses that are reached although they are not public, for the names of some hosts only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddressException {
    /// For which hosts, on their ports.
    pub hosts: Vec<AllowedHost>,
    /// Which addresses.
    pub ranges: Vec<AddressRange>,
}

/// Bounds on what one sandbox may do through the proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EgressLimits {
    /// Connections open at once.
    pub connections: u32,
    /// Bytes sent out, all connections together.
    pub upload_bytes: u64,
    /// Bytes received, all connections together.
    pub download_bytes: u64,
    /// A connection on which nothing moves for so many seconds is ended.
    pub idle_seconds: u32,
}

impl EgressLimits {
    /// The bounds of a level: 320 connections (npm leaves every tunnel open), 300 s idle, 5 GiB down; 50 MiB up at
    /// `package_only`, where whoever sends more than requests is not installing packages, 1 GiB at
    /// the wider levels.
    #[must_use]
    pub const fn of(level: NetworkLevel) -> Self {
        let mebibyte = 1024 * 1024;
        Self {
            connections: 320,
            upload_bytes: match level {
                NetworkLevel::Isolated => 0,
                NetworkLevel::PackageOnly => 50 * mebibyte,
                NetworkLevel::LimitedWeb | NetworkLevel::FullWeb => 1024 * mebibyte,
            },
            download_bytes: match level {
                NetworkLevel::Isolated => 0,
                _ => 5 * 1024 * mebibyte,
            },
            idle_seconds: 300,
        }
    }
}

/// What the proxy decides by, for one sandbox in one phase.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EgressPolicy {
    /// The level.
    pub level: NetworkLevel,
    /// At `package_only` the hosts of registries, at `limited_web` those and the task's own; at
    /// the other levels empty.
    pub allow: Vec<AllowedHost>,
    /// The operator's exceptions to the addresses that are always denied.
    pub exceptions: Vec<AddressException>,
    /// Bounds.
    pub limits: EgressLimits,
}

impl EgressPolicy {
    /// The policy that refuses everything.
    #[must_use]
    pub const fn isolated() -> Self {
        Self {
            level: NetworkLevel::Isolated,
            allow: Vec::new(),
            exceptions: Vec::new(),
            limits: EgressLimits::of(NetworkLevel::Isolated),
        }
    }
}

/// The network of a sandbox that is not isolated for its whole life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SandboxNetwork {
    /// What holds from the start.
    pub policy: EgressPolicy,
    /// The phase that the log of connections names at first.
    pub phase: PhaseName,
    /// TCP ports besides 80 and 443 that are captured on loopback, so that programs that know
    /// nothing of a proxy reach names on them.
    pub ports: Vec<u16>,
    /// Whether a SOCKS5 proxy listens on loopback as well.
    pub socks: bool,
}

/// Why a connection was refused or ended; a closed set that reports and clients see.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum DenialReason {
    /// The phase is isolated.
    Isolated,
    /// What the client sent is no request that the proxy serves.
    BadRequest,
    /// The host is no name by the rules of DNS, and no address.
    BadHostname,
    /// The port is not allowed for this host or at this level.
    Port,
    /// An address stands where a name must.
    IpLiteral,
    /// The name is not on the allow-list.
    NotOnAllowlist,
    /// The name does not resolve.
    DnsFailure,
    /// The address, or every address the name resolves to, is not public.
    PrivateAddress,
    /// The host could not be reached.
    ConnectFailed,
    /// The client does not speak TLS where it must.
    NotTls,
    /// The name in the TLS handshake is missing or another than the one asked for.
    SniMismatch,
    /// The TLS handshake hides the name it is for.
    Ech,
    /// A bound on connections, bytes or time was passed.
    Limit,
    /// The level changed, and the connection is not allowed any more.
    PolicyChanged,
}

impl DenialReason {
    /// All reasons.
    pub const ALL: [Self; 14] = [
        Self::Isolated,
        Self::BadRequest,
        Self::BadHostname,
        Self::Port,
        Self::IpLiteral,
        Self::NotOnAllowlist,
        Self::DnsFailure,
        Self::PrivateAddress,
        Self::ConnectFailed,
        Self::NotTls,
        Self::SniMismatch,
        Self::Ech,
        Self::Limit,
        Self::PolicyChanged,
    ];

    /// The name used in files, logs and answers.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Isolated => "isolated",
            Self::BadRequest => "bad_request",
            Self::BadHostname => "bad_hostname",
            Self::Port => "port",
            Self::IpLiteral => "ip_literal",
            Self::NotOnAllowlist => "not_on_allowlist",
            Self::DnsFailure => "dns_failure",
            Self::PrivateAddress => "private_address",
            Self::ConnectFailed => "connect_failed",
            Self::NotTls => "not_tls",
            Self::SniMismatch => "sni_mismatch",
            Self::Ech => "ech",
            Self::Limit => "limit",
            Self::PolicyChanged => "policy_changed",
        }
    }
}

impl fmt::Display for DenialReason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_files_and_in_code_are_the_same() {
        for reason in DenialReason::ALL {
            assert_eq!(serde_json::to_value(reason).unwrap(), reason.as_str());
        }
    }

    #[test]
    fn a_range_holds_the_addresses_of_its_prefix_and_no_others() {
        let range = |text: &str| text.parse::<AddressRange>().unwrap();
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        assert!(range("10.0.0.0/8").contains(address("10.255.0.1")));
        assert!(!range("10.0.0.0/8").contains(address("11.0.0.1")));
        assert!(range("0.0.0.0/0").contains(address("203.0.113.9")));
        assert!(range("192.0.2.7").contains(address("192.0.2.7")));
        assert!(!range("192.0.2.7").contains(address("192.0.2.8")));
        assert!(range("fd00::/8").contains(address("fd12::1")));
        assert!(!range("::/0").contains(address("192.0.2.1")));
    }

    #[test]
    fn what_is_no_range_is_refused_with_its_text() {
        for text in [
            "",
            "10.0.0.0/33",
            "::/129",
            "10.0.0.0/+8",
            "a/8",
            "10.0.0.0/",
        ] {
            let error = text.parse::<AddressRange>().unwrap_err();
            assert_eq!(error, InvalidRange(text.to_owned()));
        }
    }
}
