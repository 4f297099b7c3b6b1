//! What `doctor` says about a Docker engine and the programs that run in its containers.

use std::path::Path;

use forge_engine::diagnosis::{Diagnosis, Finding, FindingStatus};
use forge_engine::{Engine, EngineDescription, EngineError};
use forge_engine_docker::{CapabilityFinding, CapabilityStatus, DockerEngine};

use crate::programs::{Loaded, Origin, Program, ProgramError};

const GIBIBYTE: u64 = 1024 * 1024 * 1024;
/// Less free disk than this deserves a remark.
const LITTLE_DISK: u64 = 5 * GIBIBYTE;
/// With less free disk than this no task gets far.
const NO_DISK: u64 = GIBIBYTE;

/// The diagnosis when no engine answers.
pub(crate) fn without_engine(error: &EngineError, programs: &Programs) -> Diagnosis {
    let mut findings = vec![engine_error(error)];
    findings.extend(programs.findings(None));
    Diagnosis {
        engine: None,
        findings,
    }
}

/// The diagnosis of an engine that answers.
pub(crate) async fn with_engine(engine: &DockerEngine, programs: &Programs) -> Diagnosis {
    let description = match engine.describe().await {
        Ok(description) => description,
        Err(error) => return without_engine(&error, programs),
    };
    let mut findings = vec![finding(
        "engine",
        FindingStatus::Ok,
        format!("{} {} answers", description.kind, description.version),
    )];
    findings.extend(programs.findings(Some(&description)));
    findings.extend(disk(&description));
    match engine.capabilities().await {
        Ok(capabilities) => findings.extend(capabilities.into_iter().map(capability)),
        Err(error) => findings.push(engine_error(&error)),
    }
    Diagnosis {
        engine: Some(description),
        findings,
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

fn engine_error(error: &EngineError) -> Finding {
    let mut detail = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        detail.push_str(": ");
        detail.push_str(&cause.to_string());
        source = cause.source();
    }
    Finding {
        // `doctor` is running: the general hint would send people in a circle.
        remedy: Some(
            "start the engine, or say where it is with --engine-host, SWE_FORGE_ENGINE or \
             DOCKER_HOST"
                .to_owned(),
        ),
        ..finding("engine", FindingStatus::Error, detail)
    }
}

/// The programs that run in containers, as far as they could be had.
pub(crate) struct Programs {
    pub(crate) init: Result<Loaded, ProgramError>,
    pub(crate) egress: Result<Loaded, ProgramError>,
}

impl Programs {
    fn findings(&self, engine: Option<&EngineDescription>) -> [Finding; 2] {
        [
            program_finding(Program::Init, &self.init, engine),
            program_finding(Program::Egress, &self.egress, engine),
        ]
    }
}

fn program_finding(
    program: Program,
    loaded: &Result<Loaded, ProgramError>,
    engine: Option<&EngineDescription>,
) -> Finding {
    let name = program.name();
    let loaded = match loaded {
        Ok(loaded) => loaded,
        Err(error) => {
            let status = match program {
                Program::Init => FindingStatus::Error,
                // Isolated tasks run without it.
                Program::Egress => FindingStatus::Warning,
            };
            return Finding {
                remedy: Some(program.hint().to_owned()),
                ..finding(name, status, error.to_string())
            };
        }
    };
    if let (Some(ours), Some(engine)) = (loaded.architecture, engine)
        && ours != common_name(&engine.architecture)
    {
        let detail = format!(
            "it is for {ours}, the engine's machine is {}",
            engine.architecture
        );
        return Finding {
            remedy: Some(format!("build {name} for the engine's machine")),
            ..finding(name, FindingStatus::Error, detail)
        };
    }
    let kibibytes = loaded.bytes.len() / 1024;
    let detail = match &loaded.origin {
        Origin::BuiltIn => format!("built in, {kibibytes} KiB"),
        Origin::File(path) => format!("{}, {kibibytes} KiB", path.display()),
    };
    finding(name, FindingStatus::Ok, detail)
}

/// Engines name architectures as the kernel or as Go does.
fn common_name(architecture: &str) -> &str {
    match architecture {
        "amd64" => "x86_64",
        "arm64" => "aarch64",
        other => other,
    }
}

/// Free space where the engine keeps its data, when that is a disk of this machine.
fn disk(engine: &EngineDescription) -> Option<Finding> {
    const NAME: &str = "free disk";
    if !engine.shares_disk {
        return None;
    }
    let path = Path::new(&engine.data_root);
    let status = nix::sys::statvfs::statvfs(path).ok()?;
    let free = status
        .blocks_available()
        .saturating_mul(status.fragment_size());
    let detail = format!(
        "{}.{} GiB in {}",
        free / GIBIBYTE,
        free % GIBIBYTE * 10 / GIBIBYTE,
        engine.data_root
    );
    let status = match free {
        0..NO_DISK => FindingStatus::Error,
        NO_DISK..LITTLE_DISK => FindingStatus::Warning,
        _ => return Some(finding(NAME, FindingStatus::Ok, detail)),
    };
    Some(Finding {
        remedy: Some(
            "free disk on the engine's machine; `swe-forge gc` removes leftovers".to_owned(),
        ),
        ..finding(NAME, status, detail)
    })
}

/// A capability as a finding: what tasks cannot do without is an error when it is missing.
fn capability(capability: CapabilityFinding) -> Finding {
    let status = match (capability.status, capability.name) {
        (CapabilityStatus::Available, _) => FindingStatus::Ok,
        (CapabilityStatus::Missing, "seccomp" | "memory-limit" | "pids-limit" | "cpu-quota") => {
            FindingStatus::Error
        }
        (CapabilityStatus::Missing, "swap-limit") => FindingStatus::Warning,
        (CapabilityStatus::Missing | CapabilityStatus::Unknown, _) => FindingStatus::Missing,
    };
    Finding {
        remedy: (!capability.remedy.is_empty()).then(|| capability.remedy.to_owned()),
        ..finding(
            &capability.name.replace('-', " "),
            status,
            capability.detail,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_tasks_cannot_do_without_is_an_error() {
        for (name, status, expected) in [
            ("seccomp", CapabilityStatus::Missing, FindingStatus::Error),
            (
                "pids-limit",
                CapabilityStatus::Missing,
                FindingStatus::Error,
            ),
            ("pids-limit", CapabilityStatus::Available, FindingStatus::Ok),
            (
                "swap-limit",
                CapabilityStatus::Missing,
                FindingStatus::Warning,
            ),
            (
                "apparmor",
                CapabilityStatus::Missing,
                FindingStatus::Missing,
            ),
            (
                "storage-quota",
                CapabilityStatus::Unknown,
                FindingStatus::Missing,
            ),
        ] {
            let found = capability(CapabilityFinding {
                name,
                status,
                detail: String::new(),
                remedy: "",
            });
            assert_eq!((found.status, found.remedy), (expected, None), "{name}");
        }
    }
}
