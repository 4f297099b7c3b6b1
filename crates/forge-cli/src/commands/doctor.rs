//! `swe-forge doctor`: what is there, what is missing, and how to mend it.

use std::path::Path;

use forge_engine::EngineDescription;
use forge_engine::diagnosis::{Finding, FindingStatus};
use serde::Serialize;

use super::images::{self, Listed, ListedState};
use crate::arguments::{DoctorArguments, Format};
use crate::error::CliError;
use crate::escape;
use crate::exit_status::ExitStatus;
use crate::operator::engine_settings;
use crate::printer::Printer;
use crate::provider::Need;
use crate::session::{self, Session};
use crate::style::{Paint, Style};
use crate::table::{Cell, fields, wrap};
use crate::units;

/// The JSON document.
#[derive(Debug, Serialize)]
struct Document {
    swe_forge: &'static str,
    /// Whether tasks can be run.
    usable: bool,
    state_folder: String,
    engine: Option<EngineDescription>,
    images: Vec<Listed>,
    findings: Vec<Finding>,
}

pub(super) async fn carry_out(
    session: &Session,
    arguments: DoctorArguments,
) -> Result<ExitStatus, CliError> {
    let document = examine(session).await?;
    let printer = &session.printer;
    match arguments.output.format {
        Format::Json => printer.json(&document)?,
        Format::Human => printer.text(&render(&document, printer))?,
    }
    Ok(if document.usable {
        ExitStatus::Success
    } else {
        ExitStatus::Infrastructure
    })
}

async fn examine(session: &Session) -> Result<Document, CliError> {
    let state_folder = session.state_folder()?;
    let (owner, record) = match session.record().await {
        Ok(store) => (store.owner().clone(), record_is_fine(state_folder)),
        Err(error) => (session::fresh_owner()?, record_is_broken(&error)),
    };
    let settings = engine_settings(&session.configuration().await?);
    let request = session.engine_request(&owner, Need::Sandboxes, settings)?;
    let diagnosis = session.provider.diagnose(&request).await;
    let mut findings = diagnosis.findings;
    let mut images = Vec::new();
    if diagnosis.engine.is_some() {
        match look_at_images(session, &owner).await {
            Ok(found) => {
                findings.push(base_images(&found));
                images = found;
            }
            Err(error) => findings.push(finding("base images", FindingStatus::Error, told(&error))),
        }
    }
    findings.push(record);
    Ok(Document {
        swe_forge: env!("CARGO_PKG_VERSION"),
        usable: diagnosis.engine.is_some()
            && findings
                .iter()
                .all(|each| each.status != FindingStatus::Error),
        state_folder: escape::path(state_folder),
        engine: diagnosis.engine,
        images,
        findings,
    })
}

async fn look_at_images(
    session: &Session,
    owner: &forge_core::OwnerId,
) -> Result<Vec<Listed>, CliError> {
    let engine = session.engine(owner, Need::Management).await?;
    match engine.images() {
        Some(store) => Ok(images::list(store).await?),
        None => Ok(Vec::new()),
    }
}

fn finding(name: &str, status: FindingStatus, detail: impl Into<String>) -> Finding {
    Finding {
        name: name.to_owned(),
        status,
        detail: detail.into(),
        remedy: None,
    }
}

fn told(error: &CliError) -> String {
    let mut text = error.to_string();
    for cause in error.causes() {
        text.push_str(": ");
        text.push_str(&cause);
    }
    text
}

fn record_is_fine(folder: &Path) -> Finding {
    finding("record of runs", FindingStatus::Ok, escape::path(folder))
}

fn record_is_broken(error: &CliError) -> Finding {
    Finding {
        remedy: error.hints().into_iter().next(),
        ..finding("record of runs", FindingStatus::Error, told(error))
    }
}

fn base_images(images: &[Listed]) -> Finding {
    let names = |state: ListedState| {
        let named: Vec<&str> = images
            .iter()
            .filter(|listed| listed.state == state)
            .map(|listed| listed.image.name())
            .collect();
        named.join(", ")
    };
    let (missing, outdated) = (names(ListedState::Missing), names(ListedState::Outdated));
    let mut parts = Vec::new();
    if !missing.is_empty() {
        parts.push(format!("missing: {missing}"));
    }
    if !outdated.is_empty() {
        parts.push(format!("out of date: {outdated}"));
    }
    if parts.is_empty() {
        return finding("base images", FindingStatus::Ok, "all there");
    }
    Finding {
        remedy: Some("swe-forge images build".to_owned()),
        ..finding("base images", FindingStatus::Warning, parts.join("; "))
    }
}

fn render(document: &Document, printer: &Printer) -> String {
    let paint = printer.out_paint();
    let mut text = String::new();
    if let Some(engine) = &document.engine {
        text.push_str(&paint.paint(Style::Bold, "Engine"));
        text.push('\n');
        text.push_str(&fields(engine_facts(engine), paint, printer.out_width()));
        text.push('\n');
    }
    if !document.images.is_empty() {
        text.push_str(&paint.paint(Style::Bold, "Base images"));
        text.push('\n');
        let width = printer.out_width().map(|width| width.saturating_sub(2));
        for line in images::table(&document.images).render(paint, width).lines() {
            text.push_str(&format!("  {line}\n"));
        }
        text.push('\n');
    }
    text.push_str(&paint.paint(Style::Bold, "Findings"));
    text.push('\n');
    text.push_str(&findings(&document.findings, paint, printer.out_width()));
    text.push('\n');
    text.push_str(&verdict(document, paint));
    text
}

fn engine_facts(engine: &EngineDescription) -> Vec<(&'static str, Cell)> {
    let disk = if engine.shares_disk {
        "on this machine's disk"
    } else {
        "not on this machine's disk"
    };
    let data = format!("{}, {disk}", engine.data_root);
    let storage = format!("{} on {}", engine.storage_driver, engine.backing_filesystem);
    let groups = format!(
        "version {}, {}",
        engine.cgroup_version, engine.cgroup_driver
    );
    let version = format!(
        "{} {} (API {})",
        engine.kind, engine.version, engine.api_version
    );
    let machine = format!(
        "{}, {} memory, {}",
        units::count(engine.cores, "core"),
        units::bytes(engine.memory_bytes),
        engine.architecture
    );
    let system = format!("{}, kernel {}", engine.operating_system, engine.kernel);
    vec![
        ("engine", Cell::from(version)),
        ("address", Cell::from(&engine.endpoint)),
        ("machine", Cell::from(machine)),
        ("system", Cell::from(system)),
        ("storage", Cell::from(storage)),
        ("data", Cell::from(data)),
        ("control groups", Cell::from(groups)),
        ("security", Cell::from(engine.security_options.join(", "))),
        ("runtimes", Cell::from(engine.runtimes.join(", "))),
        (
            "engine warns",
            Cell::styled(Style::Warning, engine.warnings.join("; ")),
        ),
    ]
}

fn findings(findings: &[Finding], paint: Paint, width: Option<usize>) -> String {
    let names = findings.iter().map(|finding| finding.name.chars().count());
    let names = names.max().unwrap_or(0);
    // Before the text: two spaces, the sign, a space, the name, two spaces.
    let indent = names + 6;
    let room = width.map(|width| width.saturating_sub(indent + 2).max(30));
    let mut text = String::new();
    for finding in findings {
        let (sign, style) = match finding.status {
            FindingStatus::Ok => ("✔", Style::Good),
            FindingStatus::Missing => ("–", Style::Dim),
            FindingStatus::Warning => ("!", Style::Warning),
            FindingStatus::Error => ("✘", Style::Bad),
        };
        let sign = paint.paint(style, sign);
        let name = escape::line(&finding.name);
        let mut lead = format!("  {sign} {name:<names$}  ");
        for line in wrap(&escape::line(&finding.detail), room) {
            text.push_str(format!("{lead}{line}").trim_end());
            text.push('\n');
            lead = " ".repeat(indent);
        }
        let remedy = finding.remedy.as_deref().map(escape::line);
        for (number, line) in remedy
            .iter()
            .flat_map(|remedy| wrap(remedy, room))
            .enumerate()
        {
            let arrow = if number == 0 { "→" } else { " " };
            let line = format!("{:indent$}{arrow} {line}", "");
            text.push_str(&paint.paint(Style::Dim, &line));
            text.push('\n');
        }
    }
    text
}

fn verdict(document: &Document, paint: Paint) -> String {
    let errors = document
        .findings
        .iter()
        .filter(|finding| finding.status == FindingStatus::Error)
        .count();
    let line = if document.usable {
        paint.paint(Style::Good, "tasks can be run here")
    } else if document.engine.is_none() {
        paint.paint(Style::Bad, "tasks cannot be run here: no engine answers")
    } else {
        let errors = units::count(errors as u64, "error");
        paint.paint(Style::Bad, &format!("tasks cannot be run here: {errors}"))
    };
    format!("{line}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_line_up_and_remedies_stand_below() {
        let list = [
            finding("engine", FindingStatus::Ok, "docker"),
            Finding {
                remedy: Some("do this".into()),
                ..finding("base images", FindingStatus::Warning, "missing: rust\x1b")
            },
        ];
        let plain = Paint { colored: false };
        assert_eq!(
            findings(&list, plain, None),
            "  ✔ engine       docker\n  ! base images  missing: rust\\x1b\n                 → do this\n"
        );
        let narrow = findings(
            &[finding("x", FindingStatus::Ok, "word ".repeat(10))],
            plain,
            Some(40),
        );
        assert!(
            narrow.lines().count() > 1 && narrow.lines().all(|line| line.len() <= 42),
            "{narrow}"
        );
    }
}
