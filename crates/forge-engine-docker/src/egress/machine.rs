//! The addresses of the engine's machine, which no sandbox may reach and no exception opens.
//!
//! Where the engine's machine is, is not to be guessed from here: this process may be on another
//! machine, or beside the engine in a container with a network of its own. So the engine is asked
//! to run `forge-egress addresses` in the network of its machine. What this process sees of its
//! own is added where it shares the engine's disk: an engine without root has a network inside
//! the machine's, and only from here the machine's own is seen.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use forge_api::egress::HostAddresses;
use forge_core::egress::AddressRange;
use forge_engine::{EngineError, EngineErrorKind, Operation};

use super::place::{Place, single};
use crate::endpoint::Endpoint;
use crate::failure::During;

const OPERATION: Operation = Operation::Network;
/// Printing a list takes no time; starting a container on a busy machine does.
const PATIENCE: Duration = Duration::from_secs(30);
/// Of what went wrong, so much is shown.
const SHOWN: usize = 300;

impl Place {
    /// Everything that is denied besides what always is: the machine's addresses as they are now,
    /// and the operator's.
    ///
    /// # Errors
    /// When the addresses cannot be learnt. Then nobody may be let out.
    pub(super) async fn denied_addresses(&self) -> Result<Vec<AddressRange>, EngineError> {
        let (networks, machine) = futures::join!(self.networks(), self.ask_machine());
        let networks = networks?;
        let mut addresses: BTreeSet<AddressRange> = machine?.into_iter().map(single).collect();
        addresses.extend(networks.gateways.into_iter().map(single));
        if self.same_machine {
            addresses.extend(interface_addresses().during(OPERATION, "this machine")?);
        } else {
            addresses.extend(networks.subnets);
        }
        if let Endpoint::Tcp(authority) | Endpoint::Tls { authority, .. } = &self.client.endpoint {
            let resolved = tokio::net::lookup_host(authority).await;
            let resolved = resolved.during(OPERATION, authority)?;
            addresses.extend(resolved.map(|address| single(address.ip())));
        }
        addresses.extend(&self.denied);
        Ok(addresses.into_iter().collect())
    }

    async fn ask_machine(&self) -> Result<Vec<IpAddr>, EngineError> {
        let name = self.plan.scout_name();
        let body = self.plan.scout(self.remapped);
        let ended = Box::pin(self.client.run_once(OPERATION, &name, body, PATIENCE)).await;
        let ended = ended.map_err(|error| {
            let message = unknown(&error.message);
            EngineError::new(error.kind, OPERATION, &name, message).with_source(error)
        })?;
        let useless = |kind, why: &str| EngineError::new(kind, OPERATION, &name, unknown(why));
        if ended.code != 0 {
            let why = format!("code {}, {}", ended.code, ended.complaint);
            return Err(useless(EngineErrorKind::Unsupported, &why));
        }
        read(&ended.output).map_err(|why| useless(EngineErrorKind::Corrupt, &why))
    }
}

fn unknown(why: &str) -> String {
    let why: String = why.chars().take(SHOWN).collect();
    format!(
        "the addresses of the engine's machine could not be found out, and without them no \
         sandbox is let out: {why}"
    )
}

/// What the program printed. A machine always has at least one address.
fn read(output: &str) -> Result<Vec<IpAddr>, String> {
    let found: HostAddresses = serde_json::from_str(output)
        .map_err(|error| format!("forge-egress printed something else: {error}"))?;
    if found.addresses.is_empty() {
        return Err("forge-egress printed none".to_owned());
    }
    Ok(found.addresses)
}

/// The addresses of the interfaces that this process has.
fn interface_addresses() -> std::io::Result<Vec<AddressRange>> {
    let interfaces = nix::ifaddrs::getifaddrs()?;
    let addresses = interfaces.filter_map(|interface| {
        let address = interface.address?;
        let v4 = address.as_sockaddr_in().map(|found| IpAddr::V4(found.ip()));
        v4.or_else(|| {
            address
                .as_sockaddr_in6()
                .map(|found| IpAddr::V6(found.ip()))
        })
    });
    Ok(addresses.map(single).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_its_loopback_address() {
        let loopback = single(IpAddr::from([127, 0, 0, 1]));
        assert!(interface_addresses().unwrap().contains(&loopback));
    }

    #[test]
    fn what_is_no_list_of_addresses_is_no_answer() {
        let addresses = read(r#"{"addresses":["192.0.2.1","2001:db8::1"]}"#).unwrap();
        assert_eq!(addresses.len(), 2);
        for text in ["", "{}", r#"{"addresses":[]}"#, r#"{"addresses":["x"]}"#] {
            assert!(read(text).is_err(), "{text}");
        }
    }
}
