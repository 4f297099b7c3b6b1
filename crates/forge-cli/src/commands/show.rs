//! `swe-forge show`: everything that is known about an attempt.

use std::path::Path;
use std::time::Duration;

use forge_api::report::{Exit, NetworkReport, Report, TaskReport};
use forge_core::{Attestation, Cause, DiskQuota, NetworkLevel, Outcome, ResourceUsage};
use forge_store::{ArtifactRecord, AttemptRecord, PhaseRecord, RunRecord, TransitionRecord};
use jiff::Timestamp;
use serde::Serialize;

use super::recorded::{self, Standing};
use crate::arguments::{Format, ShowArguments};
use crate::error::CliError;
use crate::escape;
use crate::exit_status::ExitStatus;
use crate::printer::Printer;
use crate::session::Session;
use crate::style::{Paint, Style};
use crate::table::{Cell, Table, fields, hanging};
use crate::units;

/// Artifacts listed; `swe-forge artifacts` lists all.
const ARTIFACTS: usize = 20;
/// Refusals listed; the report has all.
const DENIED: usize = 20;

/// Everything about an attempt.
struct Attempt {
    record: AttemptRecord,
    run: RunRecord,
    standing: Standing,
    phases: Vec<PhaseRecord>,
    transitions: Vec<TransitionRecord>,
    artifacts: Vec<ArtifactRecord>,
    /// Its entry in the run's report, once there is one.
    report: Option<TaskReport>,
}

pub(super) async fn carry_out(
    session: &Session,
    arguments: ShowArguments,
) -> Result<ExitStatus, CliError> {
    let (store, record) = session.attempt(&arguments.attempt.id).await?;
    let run = store.run(&record.run).await?;
    let report = match &record.report_path {
        Some(path) => entry_of_report(path, record.id.as_str()).await,
        None => None,
    };
    let attempt = Attempt {
        standing: Standing::of(&record, &run),
        phases: store.phases(&record.id).await?,
        transitions: store.transitions(&record.id).await?,
        artifacts: store.artifacts(&record.id).await?,
        report,
        record,
        run,
    };
    let printer = &session.printer;
    match arguments.output.format {
        Format::Json => printer.json(&Document::of(&attempt))?,
        Format::Human => printer.text(&render(&attempt, printer))?,
    }
    Ok(ExitStatus::Success)
}

/// The entry of attempt `id` in the report at `path`. The report is written at the end of a run,
/// and the run's folder may be gone by now: both are no error.
async fn entry_of_report(path: &Path, id: &str) -> Option<TaskReport> {
    let bytes = match tokio::fs::read(path).await {
        Ok(bytes) => bytes,
        Err(error) => {
            tracing::debug!(%error, "the report cannot be read");
            return None;
        }
    };
    match serde_json::from_slice::<Report>(&bytes) {
        Ok(report) => report.tasks.into_iter().find(|task| task.id == id),
        Err(error) => {
            tracing::warn!(%error, "{} is no report of this version", escape::path(path));
            None
        }
    }
}

/// The JSON document.
#[derive(Debug, Serialize)]
struct Document<'a> {
    id: &'a str,
    task_id: &'a str,
    run: String,
    agent: &'a str,
    agent_command: Option<&'a [String]>,
    title: &'a str,
    difficulty: &'a str,
    image: &'a str,
    image_digest: Option<&'a str>,
    state: &'static str,
    reason: Option<&'static str>,
    cause: Option<&'static str>,
    deadline: Option<String>,
    message: Option<String>,
    created_at: Timestamp,
    started_at: Option<Timestamp>,
    ended_at: Option<Timestamp>,
    cleanup_ended_at: Option<Timestamp>,
    folder: String,
    phases: Vec<PhaseEntry>,
    resources: Option<&'a ResourceUsage>,
    disk_quota: Option<DiskQuota>,
    network: Option<&'a NetworkReport>,
    attestation: Option<&'a Attestation>,
    artifacts: Vec<ArtifactEntry>,
    transitions: Vec<TransitionEntry<'a>>,
    notes: &'a [String],
}

#[derive(Debug, Serialize)]
struct PhaseEntry {
    name: &'static str,
    started_at: Timestamp,
    ended_at: Option<Timestamp>,
    /// As the report has it.
    exit: Option<Exit>,
    duration_ms: Option<u128>,
    output_bytes: Option<u64>,
    truncated: Option<bool>,
    log: String,
}

#[derive(Debug, Serialize)]
struct ArtifactEntry {
    path: String,
    size_bytes: u64,
    file: String,
}

#[derive(Debug, Serialize)]
struct TransitionEntry<'a> {
    from: &'static str,
    to: &'static str,
    at: Timestamp,
    detail: Option<&'a str>,
}

impl<'a> Document<'a> {
    fn of(attempt: &'a Attempt) -> Self {
        let record = &attempt.record;
        let outcome = record.outcome();
        let outcome = outcome.as_ref();
        Self {
            id: record.id.as_str(),
            task_id: record.task.as_str(),
            run: attempt.run.id.to_string(),
            agent: attempt.agent(),
            agent_command: attempt.agent_command(),
            title: &record.title,
            difficulty: record.difficulty.as_str(),
            image: &record.image,
            image_digest: record.image_digest.as_deref(),
            state: attempt.standing.as_str(),
            reason: outcome
                .and_then(Outcome::reason)
                .map(|reason| reason.as_str()),
            cause: outcome.and_then(Outcome::cause).map(Cause::as_str),
            deadline: match outcome {
                Some(Outcome::Timeout(deadline)) => Some(deadline.to_string()),
                _ => None,
            },
            message: outcome.map(Outcome::message),
            created_at: record.created_at,
            started_at: record.started_at,
            ended_at: record.ended_at,
            cleanup_ended_at: record.cleanup_ended_at,
            folder: escape::path(&attempt.run.out_directory),
            phases: attempt
                .phases
                .iter()
                .map(|phase| attempt.phase_entry(phase))
                .collect(),
            resources: record.usage.as_ref(),
            disk_quota: attempt.report.as_ref().and_then(|report| report.disk_quota),
            network: attempt.report.as_ref().map(|report| &report.network),
            attestation: record.attestation.as_ref(),
            artifacts: attempt.artifacts.iter().map(artifact_entry).collect(),
            transitions: attempt.transitions.iter().map(transition_entry).collect(),
            notes: attempt.notes(),
        }
    }
}

fn artifact_entry(artifact: &ArtifactRecord) -> ArtifactEntry {
    ArtifactEntry {
        path: escape::path(&artifact.relative_path),
        size_bytes: artifact.size_bytes,
        file: escape::path(&artifact.stored_path),
    }
}

fn transition_entry(transition: &TransitionRecord) -> TransitionEntry<'_> {
    TransitionEntry {
        from: transition.from.as_str(),
        to: transition.to.as_str(),
        at: transition.at,
        detail: transition.detail.as_deref(),
    }
}

impl Attempt {
    fn agent(&self) -> &str {
        let recorded = recorded::agent(&self.record, &self.run);
        self.report
            .as_ref()
            .map_or(recorded, |report| &report.agent)
    }

    fn agent_command(&self) -> Option<&[String]> {
        self.report.as_ref()?.agent_command.as_deref()
    }

    fn notes(&self) -> &[String] {
        self.report.as_ref().map_or(&[], |report| &report.notes)
    }

    fn phase_entry(&self, phase: &PhaseRecord) -> PhaseEntry {
        let end = phase.end.as_ref();
        PhaseEntry {
            name: phase.phase.as_str(),
            started_at: phase.started_at,
            ended_at: end.map(|end| end.at),
            exit: end.and_then(|end| end.exit_text.parse().ok()),
            duration_ms: end.map(|end| end.duration.as_millis()),
            output_bytes: end.map(|end| end.output_bytes),
            truncated: end.map(|end| end.truncated),
            log: escape::path(&recorded::log_path(&self.record, &self.run, phase.phase)),
        }
    }
}

fn render(attempt: &Attempt, printer: &Printer) -> String {
    let paint = printer.out_paint();
    let width = printer.out_width();
    let record = &attempt.record;
    let mut text = paint.paint(Style::Bold, record.id.as_str());
    text.push('\n');
    text.push_str(&fields(facts(attempt), paint, width));
    let mut section = |heading: &str, body: String| {
        if !body.is_empty() {
            text.push('\n');
            text.push_str(&paint.paint(Style::Bold, heading));
            text.push('\n');
            text.push_str(&body);
        }
    };
    section(
        "Phases",
        indented(&phases(attempt).render(paint, width.map(|width| width.saturating_sub(2)))),
    );
    section("Resources", resources(attempt, paint, width));
    if let Some(report) = &attempt.report {
        section("Network", network(report, paint, width));
    }
    if let Some(attestation) = &record.attestation {
        section(
            "Confinement, as seen from inside",
            confinement(attestation, paint, width),
        );
    }
    section("Artifacts", artifacts(&attempt.artifacts));
    section(
        "Transitions",
        transitions(&attempt.transitions, paint, width),
    );
    let notes = attempt.notes().iter();
    section(
        "Notes",
        notes
            .map(|note| format!("  {}", escape::line(note)))
            .map(|note| format!("{}\n", hanging(&note, width, 4)))
            .collect(),
    );
    text
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("  {line}\n")).collect()
}

fn facts(attempt: &Attempt) -> Vec<(&'static str, Cell)> {
    let record = &attempt.record;
    let outcome = record.outcome();
    let reason = outcome.as_ref().and_then(Outcome::reason);
    let state = match reason {
        Some(reason) => format!(
            "{}: {reason} (cause: {})",
            attempt.standing.as_str(),
            reason.cause()
        ),
        None => attempt.standing.as_str().to_owned(),
    };
    let image = match &record.image_digest {
        Some(digest) => format!("{} ({digest})", record.image),
        None => record.image.clone(),
    };
    let command = match attempt.agent_command() {
        // The shell is the same for everybody; what it is given tells.
        Some([shell, option, text]) if shell == "/bin/sh" && option == "-c" => text.clone(),
        Some(words) => words.join(" "),
        None => String::new(),
    };
    let time = |at: Option<Timestamp>| at.map(units::instant).unwrap_or_default();
    let took = match (record.started_at, record.ended_at) {
        (Some(from), Some(to)) => format!(", after {}", units::duration(units::between(from, to))),
        _ => String::new(),
    };
    let ended = record
        .ended_at
        .map(|at| format!("{}{took}", units::instant(at)));
    vec![
        ("task", Cell::from(record.task.as_str())),
        ("title", Cell::from(&record.title)),
        ("state", Cell::styled(attempt.standing.style(), state)),
        (
            "message",
            Cell::from(outcome.map(|outcome| outcome.message()).unwrap_or_default()),
        ),
        ("agent", Cell::from(attempt.agent())),
        ("command", Cell::from(command)),
        ("difficulty", Cell::from(record.difficulty.as_str())),
        ("image", Cell::from(image)),
        ("created", Cell::from(units::instant(record.created_at))),
        ("started", Cell::from(time(record.started_at))),
        ("ended", Cell::from(ended.unwrap_or_default())),
        ("cleaned up", Cell::from(time(record.cleanup_ended_at))),
        ("run", Cell::from(attempt.run.id.to_string())),
        (
            "folder",
            Cell::from(escape::path(&attempt.run.out_directory)),
        ),
    ]
}

fn phases(attempt: &Attempt) -> Table {
    let mut table = Table::new(&["PHASE", "ENDED", ">TIME", ">OUTPUT", "LOG"]);
    for phase in &attempt.phases {
        let log = recorded::log_path(&attempt.record, &attempt.run, phase.phase);
        let log = escape::path(log.strip_prefix(&attempt.run.out_directory).unwrap_or(&log));
        let (ended, time, output) = match &phase.end {
            Some(end) => (
                end.exit_text.clone(),
                units::duration(end.duration),
                format!(
                    "{}{}",
                    units::bytes(end.output_bytes),
                    if end.truncated { ", cut" } else { "" }
                ),
            ),
            None if matches!(attempt.standing, Standing::Live(_)) => {
                ("running".to_owned(), String::new(), String::new())
            }
            None => ("not known".to_owned(), String::new(), String::new()),
        };
        let name = Cell::from(phase.phase.as_str());
        table.row([
            name,
            Cell::from(ended),
            Cell::from(time),
            Cell::from(output),
            Cell::from(log),
        ]);
    }
    table
}

fn resources(attempt: &Attempt, paint: Paint, width: Option<usize>) -> String {
    let Some(usage) = &attempt.record.usage else {
        return String::new();
    };
    let limits = attempt.report.as_ref().map(|report| report.limits);
    let of = |used: String, limit: Option<String>| match limit {
        Some(limit) => format!("{used} of {limit}"),
        None => used,
    };
    let memory_limit = limits.map(|limits| units::bytes(limits.memory_bytes));
    let disk_limit = limits.map(|limits| units::bytes(limits.disk_bytes));
    let process_limit = limits.map(|limits| limits.processes.to_string());
    let cpu = Duration::try_from_secs_f64(usage.cpu_seconds).unwrap_or_default();
    let cpu = match limits {
        Some(limits) => format!(
            "{} at {}",
            units::duration(cpu),
            units::cores(limits.cpu_millis)
        ),
        None => units::duration(cpu),
    };
    let count = |number: u64| {
        if number == 0 {
            String::new()
        } else {
            number.to_string()
        }
    };
    let memory = of(units::bytes(usage.memory_peak_bytes), memory_limit);
    let disk = of(units::bytes(usage.disk_peak_bytes), disk_limit);
    let processes = of(usage.pids_peak.to_string(), process_limit);
    let pairs = [
        ("memory, peak", Cell::from(memory)),
        ("CPU time", Cell::from(cpu)),
        ("disk, peak", Cell::from(disk)),
        ("processes, peak", Cell::from(processes)),
        (
            "killed for want of memory",
            Cell::styled(Style::Bad, count(usage.oom_kills)),
        ),
        (
            "forks refused",
            Cell::styled(Style::Bad, count(usage.pids_refused)),
        ),
    ];
    fields(pairs, paint, width)
}

fn confinement(attestation: &Attestation, paint: Paint, width: Option<usize>) -> String {
    let yes = |yes: bool| if yes { "yes" } else { "no" };
    let capabilities = match (attestation.capabilities, attestation.bounding_capabilities) {
        (0, 0) => "none".to_owned(),
        (effective, bounding) => format!("{effective:#x}, bounding set {bounding:#x}"),
    };
    let seccomp = match attestation.seccomp_mode {
        0 => "off",
        1 => "strict",
        _ => "filter",
    };
    let network = match attestation.routes {
        0 => attestation.interfaces.join(", "),
        routes => format!(
            "{}, {}",
            attestation.interfaces.join(", "),
            units::count(routes.into(), "route")
        ),
    };
    let user = format!("{}:{}", attestation.uid, attestation.gid);
    let pairs = [
        ("user", Cell::from(user)),
        ("capabilities", Cell::from(capabilities)),
        (
            "no new privileges",
            Cell::from(yes(attestation.no_new_privileges)),
        ),
        ("seccomp", Cell::from(seccomp)),
        ("interfaces", Cell::from(network)),
        (
            "read-only root",
            Cell::from(yes(attestation.read_only_root)),
        ),
        (
            "writable",
            Cell::from(attestation.writable_mounts.join(", ")),
        ),
        ("kernel", Cell::from(&attestation.kernel)),
    ];
    fields(pairs, paint, width)
}

/// What was reached and refused; nothing for a task that was isolated throughout.
fn network(report: &TaskReport, paint: Paint, width: Option<usize>) -> String {
    let levels: Vec<String> = report
        .phases
        .iter()
        .map(|phase| format!("{} {}", phase.name, phase.network))
        .collect();
    let network = &report.network;
    if report
        .phases
        .iter()
        .all(|phase| phase.network == NetworkLevel::Isolated)
    {
        return String::new();
    }
    let moved = format!(
        "{} out, {} in",
        units::bytes(network.bytes_up),
        units::bytes(network.bytes_down)
    );
    let unrecorded = match network.unrecorded {
        0 => String::new(),
        unrecorded => format!("; {unrecorded} of them without a record"),
    };
    let mut pairs = vec![
        ("levels", Cell::from(levels.join(", "))),
        (
            "connections",
            Cell::from(format!(
                "{} allowed, {} refused{unrecorded}",
                network.allowed, network.denied_count
            )),
        ),
        ("bytes", Cell::from(moved)),
    ];
    if let Some(log) = &network.log {
        pairs.push(("log", Cell::from(log)));
    }
    let mut text = fields(pairs, paint, width);
    let mut table = Table::new(&["REFUSED", "PORT", "REASON", "PHASE", "COUNT"]);
    for denied in network.denied.iter().take(DENIED) {
        let host = match denied.host.as_str() {
            "" => "(not read)",
            host => host,
        };
        let port = match denied.port {
            0 => String::new(),
            port => port.to_string(),
        };
        table.row([
            Cell::from(host),
            Cell::from(port),
            Cell::from(denied.reason.as_str()),
            Cell::from(denied.phase.as_str()),
            Cell::from(denied.count.to_string()),
        ]);
    }
    if !table.is_empty() {
        text.push_str(&indented(
            &table.render(paint, width.map(|width| width.saturating_sub(2))),
        ));
    }
    if network.denied.len() > DENIED {
        let more = network.denied.len() - DENIED;
        text.push_str(&format!("  … and {more} more; the report lists them\n"));
    }
    text
}

fn artifacts(artifacts: &[ArtifactRecord]) -> String {
    let mut text: String = artifacts
        .iter()
        .take(ARTIFACTS)
        .map(|artifact| {
            let size = units::bytes(artifact.size_bytes);
            format!("  {size:>9}  {}\n", escape::path(&artifact.relative_path))
        })
        .collect();
    if artifacts.len() > ARTIFACTS {
        let more = artifacts.len() - ARTIFACTS;
        text.push_str(&format!(
            "  … and {more} more; `swe-forge artifacts` lists all\n"
        ));
    }
    text
}

fn transitions(transitions: &[TransitionRecord], paint: Paint, width: Option<usize>) -> String {
    let mut table = Table::new(&["TIME", "FROM", "TO", "DETAIL"]);
    for transition in transitions {
        table.row([
            Cell::from(transition.at.strftime("%H:%M:%S%.3f UTC").to_string()),
            Cell::from(transition.from.as_str()),
            Cell::from(transition.to.as_str()),
            Cell::from(transition.detail.as_deref().unwrap_or_default()),
        ]);
    }
    if table.is_empty() {
        return String::new();
    }
    indented(&table.render(paint, width.map(|width| width.saturating_sub(2))))
}
