//! `swe-forge egress test`: what the egress proxy would decide, and why; nothing is run.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use forge_config::{Group, RegistrySettings};
use forge_core::egress::{DenialReason, EgressPolicy, MAIL_PORTS};
use forge_core::{NetworkLevel, PhaseName, Task};
use forge_egress::addresses;
use forge_egress::names::{self, Host, HostName};
use forge_egress::policy::{self, Admission, Inspection, Target};
use forge_egress::resolve::{Internet, Outside};
use forge_registries::{
    HostResolver, Known, RegistryBook, Resolve, groups_for, language_of, policy_for,
};
use jiff::Timestamp;
use serde::Serialize;

use super::tasks;
use crate::arguments::{EgressArguments, EgressCommand, Format};
use crate::error::CliError;
use crate::exit_status::ExitStatus;
use crate::session::Session;
use crate::style::Style;
use crate::table::{Cell, Table};
use crate::units;

/// The network of the proxy has no addresses of version 6, whatever this machine has.
const HAS_V6: bool = false;

/// The JSON document.
#[derive(Debug, Serialize)]
struct Document<'a> {
    task: &'a str,
    /// Whether everything would be allowed.
    allowed: bool,
    decisions: Vec<Decision>,
}

#[derive(Debug, Serialize)]
struct Decision {
    phase: PhaseName,
    level: NetworkLevel,
    url: String,
    host: Option<String>,
    port: Option<u16>,
    allowed: bool,
    reason: Option<DenialReason>,
    why: String,
    /// The addresses that would be dialled, when names were looked up.
    addresses: Vec<IpAddr>,
}

/// What decisions are made by.
struct Judge {
    policy: EgressPolicy,
    phase: PhaseName,
    /// Whether the task has this phase.
    exists: bool,
    registries: RegistryBook,
    /// What the operator denies besides the built-in addresses.
    denied: Vec<forge_core::egress::AddressRange>,
    lookup: Arc<Lookup>,
}

/// Who is asked for the addresses of names.
enum Lookup {
    Nobody,
    /// This machine's servers of names.
    Machine,
    /// Those that the operator has set for sandboxes.
    Set(Box<Internet>),
}

impl Lookup {
    fn new(is_wanted: bool, servers: &[IpAddr]) -> Result<Self, CliError> {
        match (is_wanted, servers) {
            (false, _) => Ok(Self::Nobody),
            (true, []) => Ok(Self::Machine),
            (true, servers) => Internet::with_servers(servers)
                .map(|internet| Self::Set(Box::new(internet)))
                .map_err(|source| CliError::Machine {
                    action: "use the name servers of network.resolvers",
                    source,
                }),
        }
    }

    /// The addresses of `name`, judged by nobody yet; `None` when nobody is asked.
    async fn addresses(&self, name: &HostName) -> Option<io::Result<Vec<IpAddr>>> {
        match self {
            Self::Nobody => None,
            Self::Machine => Some(HostResolver.addresses(name.as_str()).await),
            Self::Set(internet) => Some(internet.resolve(name).await),
        }
    }
}

pub(super) async fn carry_out(
    session: &Session,
    arguments: EgressArguments,
) -> Result<ExitStatus, CliError> {
    let EgressCommand::Test {
        task,
        urls,
        phase,
        level,
        resolve,
        output,
    } = arguments.command;
    let configuration = session.configuration().await?;
    let tasks = tasks::load_all_good(vec![task], &configuration).await?;
    let [task] = tasks.as_slice() else {
        return Err(CliError::input("the folder holds several tasks")
            .or_rather("name the directory of one task"));
    };
    let folder = session.state_folder()?.to_owned();
    let book = tokio::task::spawn_blocking(move || RegistryBook::load(&folder)).await??;
    let registries = book.with_settings(&configuration.registries, Timestamp::now());
    let lookup = Arc::new(Lookup::new(resolve, &configuration.network.resolvers)?);
    let unknown = unknown(task, &registries, &configuration.registries);
    let mut decisions = Vec::new();
    for phase in phases(task, phase, level) {
        let level = level.unwrap_or_else(|| task.network.level(phase));
        let judge = Judge {
            policy: policy_for(
                level,
                language_of(&task.image),
                &task.network.allow,
                Known {
                    book: &registries,
                    failed: &[],
                },
                &configuration,
            )?,
            phase,
            exists: phase != PhaseName::Setup || task.setup.is_some(),
            registries: registries.clone(),
            denied: configuration.network.denied.clone(),
            lookup: Arc::clone(&lookup),
        };
        for url in &urls {
            let decision = judge.decide(url).await;
            if !unknown.is_empty() && decision.reason == Some(DenialReason::NotOnAllowlist) {
                return Err(undecided(url, &unknown));
            }
            decisions.push(decision);
        }
    }
    let document = Document {
        task: task.id.as_str(),
        allowed: decisions.iter().all(|each| each.allowed),
        decisions,
    };
    show(session, &document, output.format)?;
    Ok(match document.allowed {
        true => ExitStatus::Success,
        false => ExitStatus::TasksFailed,
    })
}

/// The groups that the task reaches and of which nothing is known: a run would find out first.
fn unknown(task: &Task, book: &RegistryBook, settings: &RegistrySettings) -> Vec<Group> {
    let groups = groups_for(language_of(&task.image)).iter().copied();
    let groups = groups.filter(|group| settings.is_enabled(*group));
    groups.filter(|group| book.get(*group).is_none()).collect()
}

/// A refusal that rests on what is not known.
fn undecided(url: &str, unknown: &[Group]) -> CliError {
    let names: Vec<&str> = unknown.iter().map(|group| group.as_str()).collect();
    let message = format!(
        "{url} may belong to a registry that is not known yet ({})",
        names.join(", ")
    );
    CliError::input(message).or_rather(
        "run `swe-forge registries`, which finds out; registries.<group>.enabled = false does \
         without",
    )
}

/// The phases that are asked about. One level is asked about once: phases differ in nothing else.
fn phases(task: &Task, phase: Option<PhaseName>, level: Option<NetworkLevel>) -> Vec<PhaseName> {
    if let Some(phase) = phase {
        return vec![phase];
    }
    if level.is_some() {
        return vec![PhaseName::Solve];
    }
    let open = |phase: &PhaseName| task.network.level(*phase) != NetworkLevel::Isolated;
    let phases: Vec<PhaseName> = PhaseName::ALL.into_iter().filter(open).collect();
    match phases.is_empty() {
        true => vec![PhaseName::Solve],
        false => phases,
    }
}

impl Judge {
    async fn decide(&self, url: &str) -> Decision {
        let decision = Decision {
            phase: self.phase,
            level: self.policy.level,
            url: url.to_owned(),
            host: None,
            port: None,
            allowed: false,
            reason: None,
            why: String::new(),
            addresses: Vec::new(),
        };
        let target = match target(url) {
            Ok(target) => target,
            // Whatever it is, an isolated phase does not reach it.
            Err(_) if self.policy.level == NetworkLevel::Isolated => {
                return Decision {
                    reason: Some(DenialReason::Isolated),
                    why: self.refused(DenialReason::Isolated, None),
                    ..decision
                };
            }
            Err(reason) => {
                return Decision {
                    reason: Some(reason),
                    why: unread(url, reason).to_owned(),
                    ..decision
                };
            }
        };
        let result = self.judge(&target).await;
        let (why, addresses) = match &result {
            Ok(found) => (self.allowed(&target), found.clone()),
            Err(reason) => (self.refused(*reason, Some(&target)), Vec::new()),
        };
        Decision {
            host: Some(target.host.to_string()),
            port: Some(target.port),
            allowed: result.is_ok(),
            reason: result.err(),
            why,
            addresses,
            ..decision
        }
    }

    async fn judge(&self, target: &Target) -> Result<Vec<IpAddr>, DenialReason> {
        match policy::admit(&self.policy, target)? {
            Admission::Dial(address) => {
                policy::dialable_literal(&self.policy, address, &self.denied, HAS_V6)?;
                Ok(vec![address.ip()])
            }
            Admission::Resolve(name) => match self.lookup.addresses(&name).await {
                None => Ok(Vec::new()),
                Some(found) => self.dialable(&name, target.port, found),
            },
        }
    }

    fn dialable(
        &self,
        name: &HostName,
        port: u16,
        found: io::Result<Vec<IpAddr>>,
    ) -> Result<Vec<IpAddr>, DenialReason> {
        let found = found.map_err(|_| DenialReason::DnsFailure)?;
        policy::dialable(&self.policy, (name, port), &found, &self.denied, HAS_V6)
    }

    /// Why a target is allowed, and what is looked at.
    fn allowed(&self, target: &Target) -> String {
        let host = target.host.to_string();
        let registry = self.registries.registries.iter().find(|registry| {
            let mut hosts = registry.hosts.iter();
            hosts.any(|each| each.name == host && each.ports.contains(&target.port))
        });
        let by = match (self.policy.level, registry) {
            (NetworkLevel::FullWeb, _) => "full_web reaches every public host".to_owned(),
            (_, Some(registry)) => format!("it serves {}: {}", registry.group, registry.how),
            (_, None) => "network.allow of the task lists it".to_owned(),
        };
        let looked_at = match policy::inspection(&self.policy, target) {
            Inspection::Tls => "; TLS with this name only",
            Inspection::Http => "; HTTP, each request judged",
            Inspection::Sniff => "; TLS and HTTP with this name only, other protocols as they are",
            Inspection::None => "",
        };
        format!("{by}{looked_at}")
    }

    /// Why a target is refused, and what would allow it.
    fn refused(&self, reason: DenialReason, target: Option<&Target>) -> String {
        let level = self.policy.level;
        match reason {
            DenialReason::Isolated if !self.exists => {
                format!("the task has no {}", self.phase)
            }
            DenialReason::Isolated => format!(
                "the phase is isolated; network.{} in .swe-forge/config.yaml sets another level",
                self.phase
            ),
            DenialReason::Port
                if target.is_some_and(|target| MAIL_PORTS.contains(&target.port)) =>
            {
                "mail is sent nowhere: its ports are closed at every level".into()
            }
            DenialReason::Port => format!("the port is not open at {level} for this host"),
            DenialReason::IpLiteral => {
                format!("{level} reaches names, which TLS can prove, and no addresses")
            }
            DenialReason::NotOnAllowlist if level == NetworkLevel::PackageOnly => {
                "it serves no packages to this task's language (`swe-forge registries` lists who \
                 does); limited_web with network.allow reaches other hosts"
                    .into()
            }
            DenialReason::NotOnAllowlist => {
                "network.allow in .swe-forge/config.yaml does not list it".into()
            }
            DenialReason::PrivateAddress => match target.map(|target| &target.host) {
                Some(Host::Name(name)) if addresses::is_never_opened_name(name) => {
                    "it means the machine itself, which nothing opens".into()
                }
                Some(Host::Name(_)) => {
                    "it is not public; an exception of the operator's can open it".into()
                }
                _ => "it is not public, and exceptions are for names only".into(),
            },
            DenialReason::DnsFailure => "its name does not resolve".into(),
            DenialReason::ConnectFailed => {
                "its addresses are of IP version 6, and sandboxes are let out over version 4 only"
                    .into()
            }
            other => other.to_string(),
        }
    }
}

/// Where a client that is given `url` connects to.
fn target(url: &str) -> Result<Target, DenialReason> {
    if is_path(url) {
        return Err(DenialReason::BadHostname);
    }
    let (authority, port) = authority(url);
    let (host, port) = names::parse_authority(authority.as_bytes(), port)?;
    Ok(Target { host, port })
}

/// Whether `url` is rather a path than an address: a client would take its first folder for a host.
fn is_path(url: &str) -> bool {
    match url.split_once('/') {
        Some((first, _)) => !first.is_empty() && !first.contains(['.', ':', '@', '[']),
        None => false,
    }
}

/// Host and port as they stand in `url`, and the port where none does.
fn authority(url: &str) -> (&str, Option<u16>) {
    match url.split_once("://") {
        Some((scheme, rest)) => {
            let authority = rest.split(['/', '?', '#', '\\']).next().unwrap_or_default();
            // Clients keep credentials to themselves; what is asked of the proxy has none.
            let host = authority.rsplit('@').next().unwrap_or_default();
            (host, default_port(&scheme.to_ascii_lowercase()))
        }
        // As curl reads a bare host; what follows a slash is a path.
        None => (url.split('/').next().unwrap_or_default(), Some(443)),
    }
}

/// Why `url` cannot be read, and what to write instead.
fn unread(url: &str, reason: DenialReason) -> &'static str {
    let (authority, port) = authority(url);
    // The colons of an address of version 6 are in brackets.
    let written_port = authority
        .rsplit_once(':')
        .filter(|(_, port)| !port.ends_with(']'));
    let bare = authority.strip_suffix(':').unwrap_or(authority);
    if reason == DenialReason::Port {
        return match (written_port, port) {
            (None, None) => "no port is known for its scheme: write https://, http:// or host:port",
            _ => "its port is no number from 1 to 65535 without leading zeros",
        };
    }
    if is_path(url) {
        "it reads as a path: write https://host/path, host:port or host"
    } else if authority.is_empty() {
        "there is no host in it: write https://host/path, host:port or host"
    } else if authority.contains('@') {
        "it has a name of a user but no scheme: write https:// before it, or the host alone"
    } else if bare.parse::<std::net::Ipv6Addr>().is_ok() {
        "an address of version 6 stands in brackets: [2001:db8::1]:443"
    } else if !authority.is_ascii() {
        "the name is not ASCII: write it as it stands in DNS, as \"xn--…\", which is what clients \
         ask for"
    } else if authority.contains('*') {
        "a pattern is no address: name one host"
    } else {
        "it is no host name, and no address in its usual form"
    }
}

fn default_port(scheme: &str) -> Option<u16> {
    match scheme {
        "https" | "wss" => Some(443),
        "http" | "ws" => Some(80),
        "ssh" => Some(22),
        "git" => Some(9418),
        "ftp" => Some(21),
        _ => None,
    }
}

fn show(session: &Session, document: &Document<'_>, format: Format) -> Result<(), CliError> {
    let printer = &session.printer;
    if format == Format::Json {
        return printer.json(document);
    }
    let mut table = Table::new(&["PHASE", "LEVEL", "URL", "DECISION", "ADDRESSES", "WHY"]);
    for each in &document.decisions {
        let decision = match each.reason {
            None => Cell::styled(Style::Good, "allowed"),
            Some(reason) => Cell::styled(Style::Bad, reason.as_str()),
        };
        let addresses: Vec<String> = each.addresses.iter().map(IpAddr::to_string).collect();
        table.row([
            Cell::from(each.phase.as_str()),
            Cell::from(each.level.as_str()),
            Cell::from(&each.url),
            decision,
            Cell::from(addresses.join(" ")),
            Cell::from(&each.why),
        ]);
    }
    printer.text(&table.render(printer.out_paint(), printer.out_width()))?;
    let refused = document.decisions.iter().filter(|each| !each.allowed);
    let refused = refused.count();
    if refused > 0 {
        printer.progress(&format!(
            "{} would be refused",
            units::count(refused as u64, "connection")
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(url: &str) -> Result<String, DenialReason> {
        target(url).map(|target| format!("{} {}", target.host, target.port))
    }

    #[test]
    fn a_url_is_read_as_clients_read_it() {
        for (url, expected) in [
            ("https://Example.org/path?x#y", "example.org 443"),
            ("http://example.org", "example.org 80"),
            ("https://me:word@example.org:8443/", "example.org 8443"),
            ("https://good.test@evil.test/", "evil.test 443"),
            ("example.org", "example.org 443"),
            ("example.org:22", "example.org 22"),
            ("example.org/path", "example.org 443"),
            ("localhost", "localhost 443"),
            ("localhost:80/path", "localhost 80"),
            ("ssh://git@example.org/x", "example.org 22"),
            ("http://[2001:db8::1]:8080/", "[2001:db8::1] 8080"),
        ] {
            assert_eq!(place(url).as_deref(), Ok(expected), "{url}");
        }
        assert_eq!(place("foo://example.org"), Err(DenialReason::Port));
        for url in [
            "https://",
            "https://exa mple.org",
            "https://0x7f.1/",
            "me@example.org",
            "not/a/url",
            "",
        ] {
            assert_eq!(place(url), Err(DenialReason::BadHostname), "{url}");
        }
    }

    #[test]
    fn what_cannot_be_read_says_what_to_write_instead() {
        for (url, said) in [
            ("", "no host in it"),
            ("https://", "no host in it"),
            ("https:///path", "no host in it"),
            ("file:///etc/passwd", "no host in it"),
            ("/etc/passwd", "no host in it"),
            ("not/a/url", "reads as a path"),
            ("me@example.org", "no scheme"),
            ("mailto:me@example.org", "no scheme"),
            ("2001:db8::1", "in brackets"),
            ("https://2001:db8::1/", "in brackets"),
            ("https://bücher.example/", "xn--"),
            ("*.example.org", "name one host"),
            ("https://exa mple.org", "no host name"),
            ("https://[::1", "no host name"),
            ("http://0x7f.1/", "no host name"),
            ("foo://example.org", "its scheme"),
            ("example.org:0", "1 to 65535"),
            ("example.org:", "1 to 65535"),
            ("https://example.org:99999/", "1 to 65535"),
            ("foo://example.org:99999/", "1 to 65535"),
            ("foo://[2001:db8::1]/", "its scheme"),
        ] {
            let reason = target(url).map(|target| target.port).unwrap_err();
            let why = unread(url, reason);
            assert!(why.contains(said), "{url}: {reason}: {why}");
        }
    }
}
