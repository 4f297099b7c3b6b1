//! `swe-forge registries`: which hosts serve packages, how they were found, and what they need.

use std::collections::BTreeSet;
use std::net::IpAddr;

use forge_config::{Configuration, Group};
use forge_core::egress::AddressRange;
use forge_registries::{
    CaBundle, DiscoverError, Need, Refresh, Refreshed, Registry, RegistryBook, accept_addresses,
};
use jiff::Timestamp;
use serde::Serialize;

use crate::arguments::{Format, RegistriesArguments, RegistriesCommand, RegistriesListing};
use crate::base_images::find_out;
use crate::error::CliError;
use crate::escape;
use crate::exit_status::ExitStatus;
use crate::operator::standing;
use crate::printer::Printer;
use crate::session::Session;
use crate::style::Style;
use crate::table::{Cell, Table};
use crate::units;

/// The JSON document.
#[derive(Debug, Serialize)]
struct Document {
    /// The operator's configuration, when there is one.
    configuration: Option<String>,
    registries: Vec<Listed>,
    /// What could not be found out.
    failed: Vec<Failed>,
    /// The certificate authorities that sandboxes get.
    ca_bundle: Option<CaBundle>,
    /// Ranges that `network.exceptions` lacks.
    missing_exceptions: Vec<String>,
    /// Addresses that were accepted just now.
    accepted: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Listed {
    group: Group,
    index: Option<String>,
    extra_indexes: Vec<String>,
    how: String,
    found_at: Timestamp,
    hosts: Vec<ListedHost>,
}

#[derive(Debug, Serialize)]
struct ListedHost {
    name: String,
    subdomains: bool,
    ports: Vec<u16>,
    addresses: Vec<ListedAddress>,
}

#[derive(Debug, Serialize)]
struct ListedAddress {
    address: IpAddr,
    need: Need,
}

#[derive(Debug, Serialize)]
struct Failed {
    group: Group,
    message: String,
    hint: String,
}

pub(super) async fn carry_out(
    session: &Session,
    arguments: RegistriesArguments,
) -> Result<ExitStatus, CliError> {
    let (listing, force, accept) = match arguments.command {
        None => (arguments.listing, false, false),
        Some(RegistriesCommand::List { listing }) => (listing, false, false),
        Some(RegistriesCommand::Refresh {
            accept_addresses,
            listing,
        }) => (listing, true, accept_addresses),
    };
    let configuration = session.configuration().await?;
    let groups = wanted(&listing, &configuration)?;
    let refresh = Refresh {
        folder: session.state_folder()?,
        configuration: &configuration,
        groups: &groups,
        force,
        now: Timestamp::now(),
    };
    let mut refreshed = find_out(session, refresh).await?;
    let mut accepted = Vec::new();
    if accept {
        let (book, new) = accept_addresses(refresh, standing).await?;
        refreshed.book = book;
        accepted = new;
    }
    let accepted = accepted
        .iter()
        .map(|each| format!("{} at {}", each.host, each.address));
    let document = document(&refreshed, &configuration, &groups, accepted.collect());
    if accept && document.accepted.is_empty() {
        session.printer.remark(
            Style::Plain,
            "accepted",
            "nothing: every address that is known is reached already, or can never be",
        );
    }
    let printer = &session.printer;
    match listing.output.format {
        Format::Json => printer.json(&document)?,
        Format::Human => show(&document, refresh.now, printer)?,
    }
    // A client that is not there is nobody's failure, unless it was asked for by name.
    let named = !listing.groups.is_empty();
    let is_failure = |error: &DiscoverError| force && (named || !error.is_without_client());
    Ok(
        match refreshed.failed.iter().any(|(_, error)| is_failure(error)) {
            true => ExitStatus::Infrastructure,
            false => ExitStatus::Success,
        },
    )
}

/// The groups that are asked for.
fn wanted(
    listing: &RegistriesListing,
    configuration: &Configuration,
) -> Result<Vec<Group>, CliError> {
    let settings = &configuration.registries;
    let is_on = |group: &Group| settings.is_enabled(*group);
    if let Some(off) = listing.groups.iter().find(|group| !is_on(group)) {
        let message = format!("the registries of {off} are not enabled");
        let hint = match settings.groups.get(off) {
            Some(_) => {
                format!("remove enabled = false from [registries.{off}] of the configuration")
            }
            None => format!("add [registries.{off}] to the configuration"),
        };
        return Err(CliError::input(message).or_rather(hint));
    }
    Ok(match listing.groups.is_empty() {
        true => Group::ALL.into_iter().filter(is_on).collect(),
        false => listing.groups.clone(),
    })
}

fn document(
    refreshed: &Refreshed,
    configuration: &Configuration,
    groups: &[Group],
    accepted: Vec<String>,
) -> Document {
    let Refreshed { book, failed, .. } = refreshed;
    let shown = book.registries.iter();
    let registries: Vec<Listed> = shown
        .filter(|registry| groups.contains(&registry.group))
        .map(|registry| listed(registry, book, configuration))
        .collect();
    let all = registries.iter().flat_map(|registry| &registry.hosts);
    let addresses = all.flat_map(|host| &host.addresses);
    let missing: BTreeSet<IpAddr> = addresses
        .filter(|each| each.need == Need::Exception)
        .map(|each| each.address)
        .collect();
    let own = configuration.network.ca_bundle.as_ref();
    let own = own.map(|path| CaBundle {
        path: path.clone(),
        how: "network.ca_bundle of the configuration".to_owned(),
        certificates: forge_config::check_certificates(path).unwrap_or_default(),
    });
    Document {
        configuration: configuration.file.as_deref().map(escape::path),
        registries,
        failed: failed.iter().map(told).collect(),
        ca_bundle: own.or_else(|| book.ca_bundle.clone()),
        missing_exceptions: missing.into_iter().map(range).collect(),
        accepted,
    }
}

fn listed(registry: &Registry, book: &RegistryBook, configuration: &Configuration) -> Listed {
    let network = &configuration.network;
    let hosts = registry.hosts.iter().map(|host| ListedHost {
        name: host.name.clone(),
        subdomains: host.subdomains,
        ports: host.ports.clone(),
        addresses: book
            .addresses_of(&host.name)
            .iter()
            .map(|&address| ListedAddress {
                address,
                need: book.need(&host.name, address, network, standing),
            })
            .collect(),
    });
    Listed {
        group: registry.group,
        index: registry.index.clone(),
        extra_indexes: registry.extra_indexes.clone(),
        how: registry.how.clone(),
        found_at: registry.found_at,
        hosts: hosts.collect(),
    }
}

fn told((group, error): &(Group, DiscoverError)) -> Failed {
    let mut message = error.to_string();
    let mut next = std::error::Error::source(error);
    while let Some(source) = next {
        message.push_str(&format!(": {source}"));
        next = source.source();
    }
    Failed {
        group: *group,
        message,
        hint: error.hint(*group),
    }
}

/// The range of one address, as it is written in the configuration.
fn range(address: IpAddr) -> String {
    let prefix = if address.is_ipv4() { 32 } else { 128 };
    AddressRange { address, prefix }.to_string()
}

fn show(document: &Document, now: Timestamp, printer: &Printer) -> Result<(), CliError> {
    let (paint, width) = (printer.out_paint(), printer.out_width());
    if !document.registries.is_empty() {
        printer.text(&hosts(document).render(paint, width))?;
        printer.text("\n")?;
        printer.text(&finds(document, now).render(paint, width))?;
    }
    if let Some(bundle) = &document.ca_bundle {
        let certificates = units::count(bundle.certificates as u64, "certificate");
        printer.line(&format!(
            "\ncertificate authorities for sandboxes: {} ({certificates}), from {}",
            escape::path(&bundle.path),
            escape::line(&bundle.how)
        ))?;
    }
    for failed in &document.failed {
        let message = escape::line(&failed.message);
        printer.remark(Style::Warning, failed.group.as_str(), &message);
        printer.progress(&format!("  hint: {}", escape::line(&failed.hint)));
    }
    for accepted in &document.accepted {
        printer.remark(Style::Good, "accepted", &escape::line(accepted));
    }
    if !document.missing_exceptions.is_empty() {
        let quoted = document.missing_exceptions.iter();
        let quoted: Vec<String> = quoted.map(|range| format!("\"{range}\"")).collect();
        printer.remark(
            Style::Warning,
            "not reached",
            &format!(
                "some hosts are at addresses that are not public, which no sandbox reaches. \
                 Where that is as it should be:\n  \
                 swe-forge registries refresh --accept-addresses\n\
                 or, in the configuration:\n  \
                 [network]\n  exceptions = [{}]",
                quoted.join(", ")
            ),
        );
    }
    Ok(())
}

fn hosts(document: &Document) -> Table {
    let mut table = Table::new(&["GROUP", "HOST", "PORTS", "ADDRESS", "REACHED"]);
    for registry in &document.registries {
        for host in &registry.hosts {
            let name = match host.subdomains {
                true => format!("*.{}", host.name),
                false => host.name.clone(),
            };
            let ports: Vec<String> = host.ports.iter().map(u16::to_string).collect();
            let mut lead = [registry.group.to_string(), name, ports.join(",")];
            if host.addresses.is_empty() {
                let unknown = match host.subdomains {
                    true => Cell::from(""),
                    false => Cell::styled(Style::Bad, "does not resolve"),
                };
                let [group, name, ports] = lead.each_ref().map(Cell::from);
                table.row([group, name, ports, Cell::from(""), unknown]);
            }
            for each in &host.addresses {
                let [group, name, ports] = lead.each_ref().map(Cell::from);
                let address = Cell::from(each.address.to_string());
                table.row([group, name, ports, address, reached(each.need)]);
                lead = Default::default();
            }
        }
    }
    table
}

fn reached(need: Need) -> Cell {
    match need {
        Need::Nothing => Cell::styled(Style::Good, "yes"),
        Need::Configured => Cell::styled(Style::Good, "by an exception of the configuration"),
        Need::Accepted => Cell::styled(Style::Good, "accepted by the operator"),
        Need::Exception => Cell::styled(Style::Warning, "needs an exception: not public"),
        Need::Impossible => Cell::styled(Style::Bad, "never: no exception opens it"),
    }
}

fn finds(document: &Document, now: Timestamp) -> Table {
    let mut table = Table::new(&["GROUP", "INDEX", "FOUND", "HOW"]);
    for registry in &document.registries {
        let age = units::between(registry.found_at, now);
        let age = match age.as_secs() {
            0 => "now".to_owned(),
            _ => format!("{} ago", units::duration(age)),
        };
        table.row([
            Cell::from(registry.group.as_str()),
            Cell::from(registry.index.as_deref().unwrap_or_default()),
            Cell::from(age),
            Cell::from(&registry.how),
        ]);
        for extra in &registry.extra_indexes {
            table
                .row(["", extra.as_str(), "", "one more index of the same client"].map(Cell::from));
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use forge_registries::Standing;

    #[test]
    fn the_proxys_rules_decide_what_an_address_needs() {
        for (address, expected) in [
            ("10.0.0.1", Standing::Denied),
            ("fd00::1", Standing::Denied),
            ("127.0.0.1", Standing::Closed),
            ("169.254.169.254", Standing::Closed),
            ("8.8.8.8", Standing::Public),
        ] {
            assert_eq!(standing(address.parse().unwrap()), expected, "{address}");
        }
        assert_eq!(range("fd00::1".parse().unwrap()), "fd00::1/128");
    }
}
