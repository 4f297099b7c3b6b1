//! What is admitted, which addresses may be dialled, and what is looked at in a stream.
//!
//! The steps follow one another: [`admit`] judges what the client asked for, [`dialable`] what its
//! name resolves to (or [`dialable_literal`] the address it gave), [`inspection`] says what is
//! looked at before bytes flow.

mod addresses;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, SocketAddr};

use forge_core::NetworkLevel;
use forge_core::egress::{
    AllowedHost, DenialReason, EgressPolicy, HTTP_PORT, HTTPS_PORT, MAIL_PORTS,
};

pub use addresses::{dialable, dialable_literal};

use crate::addresses::{is_denied, is_never_opened_name, is_site_name};
use crate::client_hello::ClientHello;
use crate::names::{Host, HostName};

/// Where a connection is to go.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Target {
    /// The host.
    pub host: Host,
    /// The TCP port.
    pub port: u16,
}

impl Target {
    /// A port of a host.
    #[must_use]
    pub fn new(host: &Host, port: u16) -> Self {
        let host = host.clone();
        Self { host, port }
    }
}

/// How an admitted target is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admission {
    /// By resolving the name and dialling what [`dialable`] leaves.
    Resolve(HostName),
    /// By dialling this address, once [`dialable_literal`] has passed it.
    Dial(SocketAddr),
}

/// What is looked at in a stream before it may flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inspection {
    /// It must begin with a hello of TLS that passes [`check_client_hello`].
    Tls,
    /// It is HTTP, request by request.
    Http,
    /// As [`Tls`](Self::Tls) when it begins a handshake, as [`Http`](Self::Http) when it begins a
    /// request, else nothing.
    Sniff,
    /// Nothing; the name in a hello is noted where it is seen.
    None,
}

/// Judges a target by everything that needs no look-up: level, port, form of the host, names that
/// are always denied, allow-list, in this order.
///
/// # Errors
///
/// Why it is refused: [`Isolated`](DenialReason::Isolated), [`Port`](DenialReason::Port),
/// [`IpLiteral`](DenialReason::IpLiteral), [`PrivateAddress`](DenialReason::PrivateAddress) or
/// [`NotOnAllowlist`](DenialReason::NotOnAllowlist).
pub fn admit(policy: &EgressPolicy, target: &Target) -> Result<Admission, DenialReason> {
    let listed = match policy.level {
        NetworkLevel::Isolated => return Err(DenialReason::Isolated),
        NetworkLevel::PackageOnly | NetworkLevel::LimitedWeb => true,
        NetworkLevel::FullWeb => false,
    };
    let port = target.port;
    let is_listed = || policy.allow.iter().any(|entry| entry.ports.contains(&port));
    if port == 0 || MAIL_PORTS.contains(&port) || (listed && !is_listed()) {
        return Err(DenialReason::Port);
    }
    let name = match &target.host {
        Host::Address(_) if listed => return Err(DenialReason::IpLiteral),
        Host::Address(address) if is_denied(*address) => return Err(DenialReason::PrivateAddress),
        Host::Address(address) => {
            return Ok(Admission::Dial(SocketAddr::new(
                address.to_canonical(),
                port,
            )));
        }
        Host::Name(name) => name,
    };
    if is_never_opened_name(name) || (is_site_name(name) && !has_exception(policy, name)) {
        return Err(DenialReason::PrivateAddress);
    }
    if listed {
        let mut entries = policy
            .allow
            .iter()
            .filter(|entry| covers(entry, name))
            .peekable();
        if entries.peek().is_none() {
            return Err(DenialReason::NotOnAllowlist);
        }
        if !entries.any(|entry| entry.ports.contains(&port)) {
            return Err(DenialReason::Port);
        }
    }
    Ok(Admission::Resolve(name.clone()))
}

/// What is looked at in the stream of an admitted target.
#[must_use]
pub fn inspection(policy: &EgressPolicy, target: &Target) -> Inspection {
    match (policy.level, target.port) {
        (_, HTTP_PORT) => Inspection::Http,
        (NetworkLevel::FullWeb, _) => Inspection::None,
        (_, HTTPS_PORT) => Inspection::Tls,
        _ => Inspection::Sniff,
    }
}

/// Whether a hello is for the host that was judged.
///
/// # Errors
///
/// [`DenialReason::Ech`] when it hides a name, [`DenialReason::SniMismatch`] when it has none or
/// another.
pub fn check_client_hello(hello: &ClientHello, name: &HostName) -> Result<(), DenialReason> {
    if hello.has_ech {
        return Err(DenialReason::Ech);
    }
    // A trailing dot is no part of the name in a hello (RFC 6066, section 3): servers differ in
    // what they make of it.
    let sni = hello.sni.as_deref().filter(|sni| !sni.ends_with('.'));
    match sni.map(|sni| HostName::parse(sni.as_bytes())) {
        Some(Ok(sni)) if sni == *name => Ok(()),
        _ => Err(DenialReason::SniMismatch),
    }
}

/// Whether an entry is for a name, whatever the port.
fn covers(entry: &AllowedHost, name: &HostName) -> bool {
    if entry.subdomains {
        name.is_below(&entry.name)
    } else {
        name.as_str() == entry.name
    }
}

/// Whether the operator named a host in any exception.
fn has_exception(policy: &EgressPolicy, name: &HostName) -> bool {
    let mut hosts = policy
        .exceptions
        .iter()
        .flat_map(|exception| &exception.hosts);
    hosts.any(|host| covers(host, name))
}

/// Whether an exception opens an address for a port of a name: a mirror inside a company is opened
/// as a mirror, not with everything else that listens there. Ranges that nothing opens are not asked
/// here.
fn is_excepted(policy: &EgressPolicy, (name, port): (&HostName, u16), address: IpAddr) -> bool {
    policy.exceptions.iter().any(|exception| {
        let covered = |host: &AllowedHost| covers(host, name) && host.ports.contains(&port);
        exception.hosts.iter().any(covered)
            && exception.ranges.iter().any(|range| range.contains(address))
    })
}
