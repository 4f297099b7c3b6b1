//! The network of an attempt: what each phase may reach, and what it tried to.

use std::collections::BTreeMap;
use std::fmt;
use std::io::SeekFrom;

use forge_api::report::{DeniedReport, NetworkReport};
use forge_core::connection::{ConnectionRecord, ConnectionVerdict, EgressCounters};
use forge_core::egress::{
    DenialReason, EgressPolicy, HTTP_PORT, HTTPS_PORT, MAIL_PORTS, SandboxNetwork,
};
use forge_core::{Failure, NetworkLevel, Outcome, PhaseName, Reason, Task};
use forge_engine::{EgressRecords, EngineError, Sandbox};
use forge_plan::judge::without_network;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt};

use super::Attempt;
use crate::failure;
use crate::operator::Operator;

/// Different refusals of one phase that a report lists; what is beyond is only counted.
const LISTED: usize = 200;
/// Those of one host, so that one with many ports does not take the place of all others.
const LISTED_OF_HOST: usize = 8;
/// Bytes at the end of a log in which an isolated client is looked for, and those of its phase:
/// what made it fail is at the end.
const TAIL: u64 = 16 * 1024;
/// What the usual clients and resolvers say when no name resolves.
const UNRESOLVED: [&str; 9] = [
    "Temporary failure in name resolution",
    "Temporary failure resolving",
    "Name or service not known",
    "No address associated with hostname",
    "Could not resolve host",
    "unable to resolve host address",
    "failed to lookup address information",
    "getaddrinfo EAI_AGAIN",
    "getaddrinfo ENOTFOUND",
];

/// The levels of an attempt, and what its phases did with them.
#[derive(Debug)]
pub(super) struct Network {
    policies: BTreeMap<PhaseName, EgressPolicy>,
    /// Ports that are captured in sandboxes besides the usual ones.
    ports: Vec<u16>,
    seen: BTreeMap<PhaseName, Seen>,
    /// What each sandbox counted so far, which is from nothing.
    counters: BTreeMap<String, EgressCounters>,
}

/// What the phases of an attempt reached and were refused so far, for the record.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Reached {
    refused: BTreeMap<PhaseName, u64>,
    listed: Vec<DeniedReport>,
    counters: BTreeMap<String, EgressCounters>,
}

/// What was refused in one phase.
#[derive(Debug, Default)]
struct Seen {
    /// All, whether they have a record or not.
    refused: u64,
    listed: BTreeMap<(String, u16, DenialReason), u64>,
}

impl Seen {
    fn list(&mut self, record: &ConnectionRecord) {
        let reason = record.reason.unwrap_or(DenialReason::BadRequest);
        let key = (record.host.clone(), record.port, reason);
        if let Some(count) = self.listed.get_mut(&key) {
            *count += 1;
            return;
        }
        let first = (record.host.clone(), 0, DenialReason::ALL[0]);
        let of_host = self.listed.range(first..);
        let of_host = of_host.take_while(|((host, ..), _)| *host == record.host);
        if self.listed.len() < LISTED && of_host.count() < LISTED_OF_HOST {
            self.listed.insert(key, 1);
        }
    }
}

impl Network {
    /// Asks the operator about every phase that `task` has.
    ///
    /// # Errors
    /// The failure of the attempt.
    pub(super) fn plan(task: &Task, operator: &dyn Operator) -> Result<Self, Failure> {
        operator.permit(task)?;
        let phases = PhaseName::ALL
            .into_iter()
            .filter(|phase| *phase != PhaseName::Setup || task.setup.is_some());
        let mut policies = BTreeMap::new();
        for phase in phases {
            let policy = match task.network.level(phase) {
                NetworkLevel::Isolated => EgressPolicy::isolated(),
                _ => operator.egress(task, phase)?,
            };
            policies.insert(phase, policy);
        }
        let mut ports: Vec<u16> = task
            .network
            .allow
            .iter()
            .flat_map(|host| host.ports.iter().copied())
            .filter(|port| ![HTTP_PORT, HTTPS_PORT].contains(port))
            .collect();
        ports.sort_unstable();
        ports.dedup();
        Ok(Self {
            ports,
            ..Self::with(policies)
        })
    }

    /// No phase may reach anything.
    pub(super) fn none() -> Self {
        Self::with(BTreeMap::new())
    }

    const fn with(policies: BTreeMap<PhaseName, EgressPolicy>) -> Self {
        Self {
            policies,
            ports: Vec::new(),
            seen: BTreeMap::new(),
            counters: BTreeMap::new(),
        }
    }

    /// What is known so far.
    pub(super) fn reached(&self) -> Reached {
        let refused = self.seen.iter();
        Reached {
            refused: refused
                .map(|(phase, seen)| (*phase, seen.refused))
                .collect(),
            listed: self.denied(),
            counters: self.counters.clone(),
        }
    }

    /// Takes up what another process knew.
    pub(super) fn take_up(&mut self, reached: Reached) {
        for (phase, refused) in reached.refused {
            self.seen.entry(phase).or_default().refused = refused;
        }
        for denied in reached.listed {
            let seen = self.seen.entry(denied.phase).or_default();
            let key = (denied.host, denied.port, denied.reason);
            seen.listed.insert(key, denied.count);
        }
        self.counters = reached.counters;
    }

    pub(super) fn level(&self, phase: PhaseName) -> NetworkLevel {
        self.policies
            .get(&phase)
            .map_or(NetworkLevel::Isolated, |policy| policy.level)
    }

    pub(super) fn policy(&self, phase: PhaseName) -> EgressPolicy {
        self.policies
            .get(&phase)
            .cloned()
            .unwrap_or_else(EgressPolicy::isolated)
    }

    /// The network of a sandbox in which `phases` run one after the other; `None` when all of them
    /// are isolated: such a sandbox has no way to a network at all.
    pub(super) fn of_sandbox(&self, phases: &[PhaseName]) -> Option<SandboxNetwork> {
        let levels = || phases.iter().map(|phase| self.level(*phase));
        if levels().all(|level| level == NetworkLevel::Isolated) {
            return None;
        }
        let phase = *phases.first()?;
        Some(SandboxNetwork {
            policy: self.policy(phase),
            phase,
            ports: self.ports.clone(),
            socks: levels().any(|level| level == NetworkLevel::FullWeb),
        })
    }

    /// Takes in what a sandbox did until the end of `phase`. What was counted is the truth: there can
    /// be more connections than records of them, and those are taken to be of this phase.
    fn add(&mut self, sandbox: &str, phase: PhaseName, records: &EgressRecords) {
        let mut recorded = 0;
        for record in &records.connections {
            // What was let through and only ended with its phase was allowed, and says why it ended.
            if record.verdict == ConnectionVerdict::Denied {
                recorded += 1;
                let seen = self.seen.entry(record.phase).or_default();
                seen.refused += 1;
                seen.list(record);
            }
        }
        let known = self.counters.entry(sandbox.to_owned()).or_default();
        let counted = records.counters.denied.saturating_sub(known.denied);
        *known = larger(known, &records.counters);
        let seen = self.seen.entry(phase).or_default();
        seen.refused += counted.saturating_sub(recorded);
    }

    /// The network's part of the report; `log` is the file with every connection.
    pub(super) fn report(&self, log: Option<String>) -> NetworkReport {
        let sum = |of: fn(&EgressCounters) -> u64| self.counters.values().map(of).sum::<u64>();
        NetworkReport {
            allowed: sum(|counters| counters.allowed),
            denied_count: self.seen.values().map(|seen| seen.refused).sum(),
            denied: self.denied(),
            bytes_up: sum(|counters| counters.bytes_up),
            bytes_down: sum(|counters| counters.bytes_down),
            unrecorded: sum(|counters| counters.unrecorded),
            log,
        }
    }

    fn denied(&self) -> Vec<DeniedReport> {
        let denied = self.seen.iter().flat_map(|(phase, seen)| {
            let listed = seen.listed.iter();
            listed.map(|((host, port, reason), count)| DeniedReport {
                phase: *phase,
                host: host.clone(),
                port: *port,
                reason: *reason,
                count: *count,
            })
        });
        denied.collect()
    }

    /// How a phase ended that was judged so, where `noted` tells whether the proxy was there.
    pub(super) fn conclude(
        &self,
        phase: PhaseName,
        judged: Option<Outcome>,
        noted: Result<bool, Outcome>,
    ) -> Result<(), Outcome> {
        let needed = self.level(phase) != NetworkLevel::Isolated;
        match judged {
            Some(outcome) if needed && noted != Ok(true) => Err(without_network(phase, outcome)),
            Some(outcome) => Err(outcome),
            None => noted.map(|_| ()),
        }
    }

    /// One line for a person, when something was refused.
    pub(super) fn summary(&self, only: Option<PhaseName>) -> Option<String> {
        const SHOWN: usize = 3;
        let chosen = || {
            let seen = self.seen.iter();
            seen.filter(|(phase, _)| only.is_none_or(|only| only == **phase))
        };
        let count: u64 = chosen().map(|(_, seen)| seen.refused).sum();
        if count == 0 {
            return None;
        }
        let mut refusals = Vec::new();
        for (phase, seen) in chosen() {
            let level = self.level(*phase);
            let listed = seen.listed.keys();
            refusals.extend(listed.map(|(host, port, reason)| Refusal {
                level,
                host,
                port: *port,
                reason: *reason,
            }));
        }
        // What names no host says the least.
        refusals.sort_by_key(|refusal| refusal.host.is_empty());
        let shown = refusals.iter().take(SHOWN).map(Refusal::to_string);
        let shown = shown.collect::<Vec<_>>().join(", ");
        let more = match refusals.len().saturating_sub(SHOWN) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        Some(format!(
            "{count} connection{} refused{}{shown}{more}{}",
            if count == 1 { " was" } else { "s were" },
            if shown.is_empty() { "" } else { ": " },
            hint(&refusals),
        ))
    }
}

/// Connections that were refused for one reason.
struct Refusal<'a> {
    level: NetworkLevel,
    host: &'a str,
    port: u16,
    reason: DenialReason,
}

impl fmt::Display for Refusal<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.host, self.port) {
            ("", _) => formatter.write_str("one that was not read")?,
            (host, 0) => formatter.write_str(host)?,
            (host, port) => write!(formatter, "{host}:{port}")?,
        }
        write!(formatter, " ({})", self.reason)
    }
}

/// What an author can do who wanted to reach something.
const ISOLATED: &str =
    "; the phase is isolated: network in .swe-forge/config.yaml gives it another level";

/// What an author can do about the most telling of some refusals.
fn hint(refusals: &[Refusal<'_>]) -> &'static str {
    let has = |is: fn(&Refusal<'_>) -> bool| refusals.iter().any(is);
    let is_mail = |refusal: &Refusal<'_>| {
        refusal.reason == DenialReason::Port && MAIL_PORTS.contains(&refusal.port)
    };
    // Any phase ends isolated: what it tries then says nothing about its level.
    let is_isolated = |refusal: &Refusal<'_>| {
        refusal.reason == DenialReason::Isolated && refusal.level == NetworkLevel::Isolated
    };
    let can_be_listed = |refusal: &Refusal<'_>| {
        let by_list = [DenialReason::NotOnAllowlist, DenialReason::Port].contains(&refusal.reason);
        by_list && !MAIL_PORTS.contains(&refusal.port) && refusal.level != NetworkLevel::FullWeb
    };
    if has(can_be_listed) {
        "; to allow a host, list it in network.allow of .swe-forge/config.yaml at level limited_web"
    } else if has(is_isolated) {
        ISOLATED
    } else if has(|refusal| refusal.reason == DenialReason::PrivateAddress) {
        "; addresses that are not public need an exception in the operator's configuration"
    } else if has(is_mail) {
        "; the ports of mail are closed at every level"
    } else {
        ""
    }
}

/// Each count of two that come one after the other, of which the later may know less.
fn larger(one: &EgressCounters, other: &EgressCounters) -> EgressCounters {
    EgressCounters {
        allowed: one.allowed.max(other.allowed),
        denied: one.denied.max(other.denied),
        bytes_up: one.bytes_up.max(other.bytes_up),
        bytes_down: one.bytes_down.max(other.bytes_down),
        unrecorded: one.unrecorded.max(other.unrecorded),
    }
}

impl Attempt<'_> {
    /// Puts the level of `phase` in force in a sandbox that came with another.
    pub(super) async fn set_level(
        &self,
        phase: PhaseName,
        sandbox: &dyn Sandbox,
    ) -> Result<(), Outcome> {
        let Some(egress) = sandbox.egress() else {
            return Ok(());
        };
        let set = egress.set_policy(&self.network.policy(phase), phase).await;
        set.map_err(|error| unavailable(&error))
    }

    /// Takes what a phase did through the proxy into the log of connections and the report. Gives
    /// whether the proxy was there all the time.
    pub(super) async fn note_connections(
        &mut self,
        phase: PhaseName,
        sandbox: &dyn Sandbox,
    ) -> Result<bool, Outcome> {
        let Some(egress) = sandbox.egress() else {
            self.explain_isolation(phase).await;
            return Ok(true);
        };
        // What the phase left open is ended: otherwise it would have no record, and go on at this
        // level until the next phase begins.
        let cut = egress.set_policy(&EgressPolicy::isolated(), phase).await;
        let cut = cut.map_err(|error| unavailable(&error));
        // What was refused before is known even where the rest cannot be ended.
        let mut records = match (egress.take_records().await, &cut) {
            (Ok(records), _) => records,
            (Err(_), Err(uncut)) => return Err(uncut.clone()),
            (Err(error), Ok(())) => return Err(unavailable(&error)),
        };
        self.mask.connections(&mut records.connections);
        self.network.add(sandbox.id().as_str(), phase, &records);
        if records.lost {
            self.notes.push(format!(
                "the egress proxy was lost by the end of {phase}, and with it the records of some \
                 connections: what is counted is incomplete"
            ));
        }
        if let Err(error) = self.write_connections(&records.connections).await {
            self.notes.push(format!(
                "the log of connections could not be written: {error}"
            ));
        }
        if let Some(line) = self.network.summary(Some(phase)) {
            self.tell_in_log(phase, &line).await;
        }
        cut.map(|()| !records.lost)
    }

    /// Tells why, where the log of an isolated phase ends with a client that finds no host: nobody
    /// refused it anything, so there is nothing else that could.
    async fn explain_isolation(&mut self, phase: PhaseName) {
        let log = self.context.layout.log(&self.job.id, phase);
        match tail(&log).await {
            Ok(text) if is_unresolved(&text) => {
                let line = format!("a host was looked for and not found{ISOLATED}");
                self.tell_in_log(phase, &line).await;
            }
            Ok(_) => {}
            Err(error) => self
                .notes
                .push(format!("the log of {phase} could not be read: {error}")),
        }
    }

    /// Adds a line of ours to the log of a phase.
    async fn tell_in_log(&mut self, phase: PhaseName, line: &str) {
        let log = self.context.layout.log(&self.job.id, phase);
        let line = format!("\nswe-forge: {line}\n");
        if let Err(error) = append(&log, line.as_bytes()).await {
            self.notes
                .push(format!("the log of {phase} could not be written: {error}"));
        }
    }

    /// The same for a phase that is lost already: what it reached is still worth telling.
    pub(super) async fn note_what_can_be_had(&mut self, phase: PhaseName, sandbox: &dyn Sandbox) {
        if let Err(unknown) = self.note_connections(phase, sandbox).await {
            self.note_unknown_connections(phase, &unknown);
        }
    }

    /// Tells why not everything that a phase reached is known.
    pub(super) fn note_unknown_connections(&mut self, phase: PhaseName, why: &Outcome) {
        self.notes.push(format!(
            "not everything that {phase} reached is known: {}",
            why.message()
        ));
    }

    async fn write_connections(&self, records: &[ConnectionRecord]) -> std::io::Result<()> {
        if records.is_empty() {
            return Ok(());
        }
        let mut lines = Vec::new();
        for record in records {
            serde_json::to_writer(&mut lines, record)?;
            lines.push(b'\n');
        }
        append(&self.context.layout.connections(&self.job.id), &lines).await
    }
}

async fn append(path: &std::path::Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut options = tokio::fs::OpenOptions::new();
    let mut file = options.create(true).append(true).open(path).await?;
    file.write_all(bytes).await?;
    file.flush().await
}

/// The last bytes of a file.
async fn tail(path: &std::path::Path) -> std::io::Result<Vec<u8>> {
    let mut file = tokio::fs::File::open(path).await?;
    let length = file.metadata().await?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))
        .await?;
    let mut text = Vec::new();
    file.take(TAIL).read_to_end(&mut text).await?;
    Ok(text)
}

/// Whether a client says that a name does not resolve.
fn is_unresolved(output: &[u8]) -> bool {
    let text = String::from_utf8_lossy(output);
    UNRESOLVED.iter().any(|said| text.contains(said))
        // Go names the host in the middle.
        || (text.contains("dial tcp: lookup ") && text.contains("no such host"))
        || text.contains("on 127.0.0.1:53: ")
}

/// Whatever the engine calls it: a level that is not known to hold does not hold.
fn unavailable(error: &EngineError) -> Outcome {
    Outcome::Failed(Failure::new(
        Reason::NetworkPolicyUnavailable,
        failure::chain(error),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use forge_core::connection::ConnectionMode;

    fn refused(host: &str, reason: DenialReason) -> ConnectionRecord {
        ConnectionRecord {
            time: jiff::Timestamp::UNIX_EPOCH,
            sandbox: "s".into(),
            run: "r".into(),
            task: "t".into(),
            phase: PhaseName::Setup,
            level: NetworkLevel::PackageOnly,
            verdict: ConnectionVerdict::Denied,
            reason: Some(reason),
            mode: ConnectionMode::Connect,
            host: host.into(),
            port: 443,
            sni: None,
            ip: None,
            bytes_up: 0,
            bytes_down: 0,
            ms: 1,
        }
    }

    fn refused_in(phase: PhaseName, host: &str, reason: DenialReason) -> ConnectionRecord {
        ConnectionRecord {
            phase,
            ..refused(host, reason)
        }
    }

    fn seen(records: Vec<ConnectionRecord>) -> Network {
        let mut network = Network::none();
        network.add("s", PhaseName::Setup, &counted(records));
        network
    }

    /// Records of a sandbox that did nothing else.
    fn counted(connections: Vec<ConnectionRecord>) -> EgressRecords {
        let of = |verdict| {
            let records = connections.iter();
            records.filter(|record| record.verdict == verdict).count() as u64
        };
        EgressRecords {
            counters: EgressCounters {
                allowed: of(ConnectionVerdict::Allowed),
                denied: of(ConnectionVerdict::Denied),
                ..EgressCounters::default()
            },
            connections,
            lost: false,
        }
    }

    #[test]
    fn refusals_are_counted_by_host_and_reason() {
        let reason = DenialReason::NotOnAllowlist;
        let network = seen(vec![
            refused("a.test", reason),
            refused("a.test", reason),
            refused("b.test", DenialReason::SniMismatch),
        ]);
        let report = network.report(None);
        let counts: Vec<_> = report
            .denied
            .iter()
            .map(|each| (each.host.as_str(), each.count))
            .collect();
        assert_eq!(counts, [("a.test", 2), ("b.test", 1)]);
        assert_eq!(report.denied_count, 3);
    }

    #[test]
    fn the_summary_names_a_few_hosts_and_one_thing_to_do() {
        let reason = DenialReason::NotOnAllowlist;
        let hosts = ["a.test", "b.test", "c.test", "d.test"];
        let network = seen(hosts.iter().map(|host| refused(host, reason)).collect());
        let summary = network.summary(None).unwrap();
        assert!(summary.starts_with("4 connections were refused: a.test:443 (not_on_allowlist)"));
        assert!(summary.contains("and 1 more; to allow a host"), "{summary}");
        assert_eq!(network.summary(Some(PhaseName::Verify)), None);
    }

    #[test]
    fn different_refusals_beyond_the_limit_are_counted_and_not_listed() {
        let records = (0..300)
            .map(|number| refused(&format!("h{number}.test"), DenialReason::Port))
            .collect();
        let report = seen(records).report(None);
        assert_eq!((report.denied.len(), report.denied_count), (LISTED, 300));
    }

    #[test]
    fn what_has_no_record_is_counted_all_the_same() {
        let mut network = Network::none();
        let records = EgressRecords {
            connections: vec![refused("flood.test", DenialReason::Port); 10_000],
            counters: EgressCounters {
                allowed: 5,
                denied: 10_400,
                bytes_up: 700,
                bytes_down: 9_000,
                unrecorded: 405,
            },
            lost: false,
        };
        network.add("s", PhaseName::Setup, &records);
        let report = network.report(None);
        assert_eq!((report.allowed, report.denied_count), (5, 10_400));
        assert_eq!((report.bytes_up, report.bytes_down), (700, 9_000));
        assert_eq!((report.unrecorded, report.denied.len()), (405, 1));
        assert_eq!(report.denied[0].count, 10_000);
        let summary = network.summary(None).unwrap();
        assert!(summary.starts_with("10400 connections were"), "{summary}");
    }

    #[test]
    fn a_sandbox_that_serves_two_phases_counts_each_connection_once() {
        let mut network = Network::none();
        let port = DenialReason::Port;
        let first = counted(vec![refused_in(PhaseName::Solve, "a.test", port)]);
        network.add("s", PhaseName::Solve, &first);
        let mut second = counted(vec![refused_in(PhaseName::Verify, "b.test", port)]);
        second.counters.denied = 2;
        network.add("s", PhaseName::Verify, &second);
        let other = counted(vec![refused("a.test", port)]);
        network.add("other", PhaseName::Setup, &other);
        assert_eq!(network.report(None).denied_count, 3);
        let verify = network.summary(Some(PhaseName::Verify)).unwrap();
        assert!(verify.starts_with("1 connection was refused: b.test"));
    }

    #[test]
    fn the_refusals_of_one_phase_do_not_hide_those_of_another() {
        let many = (0..1000).map(|number| refused(&format!("h{number}.test"), DenialReason::Port));
        let mut network = seen(many.collect());
        let wanted = DenialReason::NotOnAllowlist;
        let solve = counted(vec![refused_in(PhaseName::Solve, "wanted.test", wanted)]);
        network.add("t", PhaseName::Solve, &solve);
        let summary = network.summary(Some(PhaseName::Solve)).unwrap();
        assert!(summary.contains("wanted.test:443"), "{summary}");
        let report = network.report(None);
        let listed = report.denied.iter();
        assert!(listed.clone().any(|each| each.host == "wanted.test"));
        assert_eq!((listed.count(), report.denied_count), (LISTED + 1, 1001));
    }

    #[test]
    fn the_ports_of_one_host_do_not_hide_another_host() {
        let mut records: Vec<_> = (1..1000)
            .map(|port| ConnectionRecord {
                port,
                ..refused("scanned.test", DenialReason::Port)
            })
            .collect();
        records.push(refused("wanted.test", DenialReason::NotOnAllowlist));
        let report = seen(records).report(None);
        assert_eq!(report.denied.len(), LISTED_OF_HOST + 1);
        assert!(report.denied.iter().any(|each| each.host == "wanted.test"));
        assert_eq!(report.denied_count, 1000);
    }

    #[test]
    fn what_was_open_when_its_phase_ended_counts_as_allowed() {
        let through = ConnectionRecord {
            verdict: ConnectionVerdict::Allowed,
            ..refused("a.test", DenialReason::PolicyChanged)
        };
        let on_the_way = refused("b.test", DenialReason::PolicyChanged);
        let records = counted(vec![through, on_the_way]);
        let mut network = Network::none();
        network.add("s", PhaseName::Setup, &records);
        let report = network.report(None);
        assert_eq!((report.allowed, report.denied_count), (1, 1));
        assert_eq!(report.denied[0].host, "b.test");
    }

    #[test]
    fn what_comes_late_is_told_of_its_own_phase() {
        let mut network = Network::none();
        let mut records = counted(vec![
            refused_in(PhaseName::Solve, "late.test", DenialReason::Isolated),
            refused_in(PhaseName::Verify, "b.test", DenialReason::Port),
        ]);
        records.counters.denied = 3;
        network.add("s", PhaseName::Verify, &records);
        let report = network.report(None);
        let phases: Vec<_> = report
            .denied
            .iter()
            .map(|each| (each.phase, each.host.as_str()))
            .collect();
        assert_eq!(
            phases,
            [
                (PhaseName::Solve, "late.test"),
                (PhaseName::Verify, "b.test")
            ]
        );
        assert_eq!(report.denied_count, 3);
        let solve = network.summary(Some(PhaseName::Solve)).unwrap();
        assert!(solve.starts_with("1 connection was refused"), "{solve}");
        let verify = network.summary(Some(PhaseName::Verify)).unwrap();
        assert!(
            verify.starts_with("2 connections were refused: b.test"),
            "{verify}"
        );
    }

    #[test]
    fn only_an_isolated_phase_is_said_to_be_one() {
        let network = |level| {
            let policy = EgressPolicy {
                level,
                ..EgressPolicy::isolated()
            };
            let mut network = Network::with(BTreeMap::from([(PhaseName::Setup, policy)]));
            let records = counted(vec![refused("a.test", DenialReason::Isolated)]);
            network.add("s", PhaseName::Setup, &records);
            network.summary(None).unwrap()
        };
        assert!(network(NetworkLevel::Isolated).ends_with(ISOLATED));
        let open = network(NetworkLevel::PackageOnly);
        assert!(!open.contains(ISOLATED), "{open}");
    }

    #[test]
    fn a_hint_fits_what_was_refused() {
        let mail = ConnectionRecord {
            port: 25,
            ..refused("mail.test", DenialReason::Port)
        };
        let summary = seen(vec![mail.clone()]).summary(None).unwrap();
        assert!(summary.ends_with("closed at every level"), "{summary}");
        let both = vec![mail, refused("a.test", DenialReason::NotOnAllowlist)];
        let summary = seen(both).summary(None).unwrap();
        assert!(summary.contains("network.allow"), "{summary}");
    }

    #[test]
    fn a_request_that_was_not_read_has_words_instead_of_an_empty_host() {
        let unread = ConnectionRecord {
            host: String::new(),
            port: 0,
            ..refused("", DenialReason::Limit)
        };
        let records = vec![unread, refused("a.test", DenialReason::DnsFailure)];
        let summary = seen(records).summary(None).unwrap();
        let told = "a.test:443 (dns_failure), one that was not read (limit)";
        assert!(summary.ends_with(told), "{summary}");
    }

    #[test]
    fn clients_that_find_no_host_are_known_by_what_they_say() {
        for said in [
            "curl: (6) Could not resolve host: a.test",
            "socket.gaierror: [Errno -3] Temporary failure in name resolution",
            "npm error request to https://a.test failed, reason: getaddrinfo EAI_AGAIN a.test",
            "dial tcp: lookup a.test on 127.0.0.1:53: read: connection refused",
        ] {
            assert!(is_unresolved(said.as_bytes()), "{said}");
        }
        assert!(!is_unresolved(
            b"AssertionError: expected a host, found none"
        ));
    }

    #[test]
    fn a_sandbox_whose_phases_are_all_isolated_has_no_network() {
        assert_eq!(Network::none().of_sandbox(&PhaseName::ALL), None);
    }
}
