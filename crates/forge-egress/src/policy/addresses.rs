//! Which of the addresses of a host may be dialled.

use std::net::{IpAddr, SocketAddr};

use forge_core::NetworkLevel;
use forge_core::egress::{AddressRange, DenialReason, EgressPolicy};

use super::is_excepted;
use crate::addresses::{is_denied, is_never_opened};
use crate::names::HostName;

/// The addresses of a name that may be dialled, each once, version 4 first, else in their order.
///
/// `extra_denied` are ranges that no exception opens, such as the addresses of the engine's
/// machine; `has_v6` says whether version 6 is reachable.
///
/// # Errors
///
/// [`DenialReason::DnsFailure`] when there is no address, [`DenialReason::PrivateAddress`] when
/// there is none that may be dialled, [`DenialReason::ConnectFailed`] when there is, but by version
/// 6 only and that is not reachable, [`DenialReason::Isolated`] when the level became that.
pub fn dialable(
    policy: &EgressPolicy,
    (name, port): (&HostName, u16),
    resolved: &[IpAddr],
    extra_denied: &[AddressRange],
    has_v6: bool,
) -> Result<Vec<IpAddr>, DenialReason> {
    if policy.level == NetworkLevel::Isolated {
        return Err(DenialReason::Isolated);
    }
    if resolved.is_empty() {
        return Err(DenialReason::DnsFailure);
    }
    let mut allowed = Vec::new();
    for address in resolved.iter().map(IpAddr::to_canonical) {
        let open = !is_never_opened(address)
            && !is_within(extra_denied, address)
            && (!is_denied(address) || is_excepted(policy, (name, port), address));
        if open && !allowed.contains(&address) {
            allowed.push(address);
        }
    }
    if allowed.is_empty() {
        return Err(DenialReason::PrivateAddress);
    }
    allowed.retain(|address| has_v6 || address.is_ipv4());
    if allowed.is_empty() {
        return Err(DenialReason::ConnectFailed);
    }
    allowed.sort_by_key(IpAddr::is_ipv6);
    Ok(allowed)
}

/// Whether an address that a client gave instead of a name may be dialled. Exceptions are for
/// names and open nothing here.
///
/// # Errors
///
/// [`DenialReason::PrivateAddress`] when it may not, [`DenialReason::ConnectFailed`] when it is of
/// version 6 and that is not reachable, and what [`super::admit`] says of the level.
pub fn dialable_literal(
    policy: &EgressPolicy,
    address: SocketAddr,
    extra_denied: &[AddressRange],
    has_v6: bool,
) -> Result<(), DenialReason> {
    match policy.level {
        NetworkLevel::Isolated => return Err(DenialReason::Isolated),
        NetworkLevel::PackageOnly | NetworkLevel::LimitedWeb => {
            return Err(DenialReason::IpLiteral);
        }
        NetworkLevel::FullWeb => {}
    }
    let address = address.ip().to_canonical();
    if is_denied(address) || is_within(extra_denied, address) {
        return Err(DenialReason::PrivateAddress);
    }
    if address.is_ipv6() && !has_v6 {
        return Err(DenialReason::ConnectFailed);
    }
    Ok(())
}

fn is_within(ranges: &[AddressRange], address: IpAddr) -> bool {
    // What a gateway puts in place of the address is what is reached.
    let carried = crate::addresses::carried_v4(address).map(IpAddr::V4);
    ranges.iter().any(|range| {
        range.contains(address) || carried.is_some_and(|carried| range.contains(carried))
    })
}
