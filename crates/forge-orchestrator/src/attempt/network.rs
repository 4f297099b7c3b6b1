//! The network of an attempt: what each phase may reach, and what it tried to.

use std::collections::BTreeMap;

use forge_api::report::{DeniedReport, NetworkReport};
use forge_core::connection::{ConnectionRecord, ConnectionVerdict};
use forge_core::egress::{DenialReason, EgressPolicy, HTTP_PORT, HTTPS_PORT, SandboxNetwork};
use forge_core::{Failure, NetworkLevel, Outcome, PhaseName, Reason, Task};
use forge_engine::{EgressRecords, EngineError, Sandbox};
use tokio::io::AsyncWriteExt;

use super::Attempt;
use crate::failure;
use crate::operator::Operator;

/// Different refusals that a report lists; what is beyond is only counted.
const LISTED: usize = 200;

/// The levels of an attempt, and what its phases did with them.
#[derive(Debug)]
pub(super) struct Network {
    policies: BTreeMap<PhaseName, EgressPolicy>,
    /// Ports that are captured in sandboxes besides the usual ones.
    ports: Vec<u16>,
    denied: BTreeMap<(PhaseName, String, u16, DenialReason), u64>,
    allowed: u64,
    denied_count: u64,
    bytes_up: u64,
    bytes_down: u64,
    /// For each sandbox, since each counts from nothing.
    unrecorded: BTreeMap<String, u64>,
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
            denied: BTreeMap::new(),
            allowed: 0,
            denied_count: 0,
            bytes_up: 0,
            bytes_down: 0,
            unrecorded: BTreeMap::new(),
        }
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

    fn add(&mut self, sandbox: &str, phase: PhaseName, records: &EgressRecords) {
        for record in &records.connections {
            self.bytes_up += record.bytes_up;
            self.bytes_down += record.bytes_down;
            match record.verdict {
                ConnectionVerdict::Allowed => self.allowed += 1,
                // Let through, and ended only because the phase did.
                ConnectionVerdict::Denied if record.reason == Some(DenialReason::PolicyChanged) => {
                    self.allowed += 1;
                }
                ConnectionVerdict::Denied => self.add_denied(phase, record),
            }
        }
        self.unrecorded
            .insert(sandbox.to_owned(), records.counters.unrecorded);
    }

    fn add_denied(&mut self, phase: PhaseName, record: &ConnectionRecord) {
        self.denied_count += 1;
        let reason = record.reason.unwrap_or(DenialReason::BadRequest);
        let key = (phase, record.host.clone(), record.port, reason);
        if self.denied.len() < LISTED || self.denied.contains_key(&key) {
            *self.denied.entry(key).or_default() += 1;
        }
    }

    /// The network's part of the report; `log` is the file with every connection.
    pub(super) fn report(&self, log: Option<String>) -> NetworkReport {
        NetworkReport {
            allowed: self.allowed,
            denied_count: self.denied_count,
            denied: self
                .denied
                .iter()
                .map(|((phase, host, port, reason), count)| DeniedReport {
                    phase: *phase,
                    host: host.clone(),
                    port: *port,
                    reason: *reason,
                    count: *count,
                })
                .collect(),
            bytes_up: self.bytes_up,
            bytes_down: self.bytes_down,
            unrecorded: self.unrecorded.values().sum(),
            log,
        }
    }

    /// One line for a person, when something was refused.
    pub(super) fn summary(&self, only: Option<PhaseName>) -> Option<String> {
        const SHOWN: usize = 3;
        let chosen: Vec<_> = self
            .denied
            .iter()
            .filter(|((phase, ..), _)| only.is_none_or(|only| only == *phase))
            .collect();
        let count: u64 = chosen.iter().map(|(_, count)| **count).sum();
        if count == 0 {
            return None;
        }
        let shown: Vec<String> = chosen
            .iter()
            .take(SHOWN)
            .map(|((_, host, port, reason), _)| format!("{host}:{port} ({reason})"))
            .collect();
        let more = chosen.len().saturating_sub(SHOWN);
        let more = match more {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let reasons: Vec<DenialReason> = chosen.iter().map(|((.., reason), _)| *reason).collect();
        Some(format!(
            "{count} connection{} refused: {}{more}{}",
            if count == 1 { " was" } else { "s were" },
            shown.join(", "),
            hint(&reasons),
        ))
    }
}

/// What an author can do about the most telling of some refusals.
fn hint(reasons: &[DenialReason]) -> &'static str {
    let has = |reason| reasons.contains(&reason);
    if has(DenialReason::NotOnAllowlist) || has(DenialReason::Port) {
        "; to allow a host, list it in network.allow of .swe-forge/config.yaml at level limited_web"
    } else if has(DenialReason::Isolated) {
        "; the phase is isolated: network in .swe-forge/config.yaml gives it another level"
    } else if has(DenialReason::PrivateAddress) {
        "; addresses that are not public need an exception in the operator's configuration"
    } else {
        ""
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

    /// Takes what a phase did through the proxy into the log of connections and the report.
    pub(super) async fn note_connections(
        &mut self,
        phase: PhaseName,
        sandbox: &dyn Sandbox,
    ) -> Result<(), Outcome> {
        let Some(egress) = sandbox.egress() else {
            return Ok(());
        };
        // What the phase left open is ended: otherwise it would have no record, and go on at this
        // level until the next phase begins.
        let cut = egress.set_policy(&EgressPolicy::isolated(), phase).await;
        cut.map_err(|error| unavailable(&error))?;
        let records = egress.take_records().await;
        let records = records.map_err(|error| unavailable(&error))?;
        self.network.add(sandbox.id().as_str(), phase, &records);
        if let Err(error) = self.write_connections(&records.connections).await {
            self.notes.push(format!(
                "the log of connections could not be written: {error}"
            ));
        }
        if let Some(line) = self.network.summary(Some(phase)) {
            let log = self.context.layout.log(&self.job.id, phase);
            let line = format!("\nswe-forge: {line}\n");
            if let Err(error) = append(&log, line.as_bytes()).await {
                self.notes
                    .push(format!("the log of {phase} could not be written: {error}"));
            }
        }
        Ok(())
    }

    /// The same for a phase that is lost already: what it reached is still worth telling.
    pub(super) async fn note_what_can_be_had(&mut self, phase: PhaseName, sandbox: &dyn Sandbox) {
        if let Err(outcome) = self.note_connections(phase, sandbox).await {
            self.notes.push(format!(
                "what {phase} reached is not known: {}",
                outcome.message()
            ));
        }
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

    fn seen(records: Vec<ConnectionRecord>) -> Network {
        let mut network = Network::none();
        let records = EgressRecords {
            connections: records,
            ..EgressRecords::default()
        };
        network.add("s", PhaseName::Setup, &records);
        network
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
    fn a_sandbox_whose_phases_are_all_isolated_has_no_network() {
        assert_eq!(Network::none().of_sandbox(&PhaseName::ALL), None);
    }
}
