//! What confinement an engine's machine can give, as facts with remedies.

use bollard::models::SystemInfo;
use forge_engine::EngineError;
use serde::Serialize;

use crate::engine::DockerEngine;

/// Whether the engine's machine has something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CapabilityStatus {
    /// It does.
    Available,
    /// It does not.
    Missing,
    /// It cannot be told from here.
    Unknown,
}

/// One thing that an engine's machine can or cannot do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CapabilityFinding {
    /// What.
    pub name: &'static str,
    /// Whether.
    pub status: CapabilityStatus,
    /// What was seen.
    pub detail: String,
    /// What a person can do about it; empty when nothing need be done.
    pub remedy: &'static str,
}

/// What is seen of the engine's machine from this process, when it is the same machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Here {
    same_machine: bool,
    root: bool,
    loop_control: bool,
}

impl DockerEngine {
    /// What hardening and which disk limits are possible here.
    ///
    /// # Errors
    /// When the engine cannot be asked.
    pub async fn capabilities(&self) -> Result<Vec<CapabilityFinding>, EngineError> {
        let (same_machine, info) = (self.shares_disk().await?, self.info().await?);
        let here = Here {
            same_machine,
            root: nix::unistd::geteuid().is_root(),
            loop_control: std::path::Path::new("/dev/loop-control").exists(),
        };
        Ok(findings(&info, here))
    }
}

fn findings(info: &SystemInfo, here: Here) -> Vec<CapabilityFinding> {
    let mut findings = security(info);
    findings.extend(limits(info));
    findings.extend(disk(info, here));
    findings.push(sandboxed_runtime(info));
    findings
}

fn finding(
    name: &'static str,
    available: bool,
    detail: impl Into<String>,
    remedy: &'static str,
) -> CapabilityFinding {
    CapabilityFinding {
        name,
        status: if available {
            CapabilityStatus::Available
        } else {
            CapabilityStatus::Missing
        },
        detail: detail.into(),
        remedy: if available { "" } else { remedy },
    }
}

fn security(info: &SystemInfo) -> Vec<CapabilityFinding> {
    let options = info.security_options.as_deref().unwrap_or_default();
    let option = |name: &str| {
        let key = format!("name={name}");
        let is = |option: &&String| option.split(',').next() == Some(&key);
        options.iter().find(is)
    };
    let has = |name: &'static str, remedy: &'static str| {
        let found = option(name);
        let detail = found.cloned().unwrap_or_else(|| "not reported".to_owned());
        finding(name, found.is_some(), detail, remedy)
    };
    let mut seccomp = has(
        "seccomp",
        "use a kernel and an engine built with seccomp; sandboxes are not safe without it",
    );
    if seccomp.detail.contains("unconfined") {
        seccomp.status = CapabilityStatus::Missing;
        seccomp.remedy = "remove `seccomp-profile: unconfined` from the engine's configuration";
    }
    let mut userns = has(
        "userns",
        "consider `userns-remap` in the engine's configuration: root of a container is then \
         nobody on the machine",
    );
    if userns.status == CapabilityStatus::Missing
        && let Some(rootless) = option("rootless")
    {
        userns = finding("userns", true, rootless.clone(), "");
    }
    vec![
        seccomp,
        has(
            "apparmor",
            "enable AppArmor (or SELinux) on the machine for a second fence around containers",
        ),
        userns,
    ]
}

fn limits(info: &SystemInfo) -> Vec<CapabilityFinding> {
    let version = info
        .cgroup_version
        .map_or_else(|| "1".to_owned(), |version| version.to_string());
    let yes = |value: Option<bool>| value == Some(true);
    vec![
        finding(
            "cgroup-v2",
            version == "2",
            format!("cgroup version {version}"),
            "version 1 works and is at the end of its life: boot with \
             systemd.unified_cgroup_hierarchy=1",
        ),
        finding(
            "memory-limit",
            yes(info.memory_limit),
            "",
            "enable the memory controller: boot with cgroup_enable=memory",
        ),
        finding(
            "swap-limit",
            yes(info.swap_limit),
            "",
            "boot with swapaccount=1, or turn swap off: a task could use swap beyond its memory",
        ),
        finding(
            "cpu-quota",
            yes(info.cpu_cfs_quota),
            "",
            "use a kernel with CONFIG_CFS_BANDWIDTH",
        ),
        finding(
            "pids-limit",
            yes(info.pids_limit),
            "",
            "enable the pids controller: nothing else stops a fork bomb",
        ),
    ]
}

fn disk(info: &SystemInfo, here: Here) -> Vec<CapabilityFinding> {
    let driver = info.driver.as_deref().unwrap_or("unknown");
    let status = info.driver_status.as_deref().unwrap_or_default();
    let backing = status.iter().find_map(|pair| match pair.as_slice() {
        [name, value] if name == "Backing Filesystem" => Some(value.as_str()),
        _ => None,
    });
    let backing = backing.unwrap_or("unknown");
    let detail = format!("{driver} on {backing}");
    let quota = match (driver, backing) {
        ("btrfs" | "zfs" | "windowsfilter", _) => finding("storage-quota", true, detail, ""),
        // The engine does not say whether the file system is mounted with project quotas.
        ("overlay2", "xfs") => CapabilityFinding {
            name: "storage-quota",
            status: CapabilityStatus::Unknown,
            detail,
            remedy: "works when the engine's data is on xfs mounted with `pquota`",
        },
        _ => finding(
            "storage-quota",
            false,
            detail,
            "put the engine's data on xfs mounted with `pquota`; until then the size of a \
             workspace is watched, not enforced by the kernel",
        ),
    };
    let loops = if here.same_machine {
        finding(
            "loop-devices",
            here.root && here.loop_control,
            format!(
                "running as {}, /dev/loop-control is {}",
                if here.root {
                    "root"
                } else {
                    "an ordinary user"
                },
                if here.loop_control {
                    "there"
                } else {
                    "not there"
                },
            ),
            "run as root on the engine's machine, with the loop module loaded",
        )
    } else {
        CapabilityFinding {
            name: "loop-devices",
            status: CapabilityStatus::Unknown,
            detail: "the engine is on another machine".to_owned(),
            remedy: "",
        }
    };
    vec![quota, loops]
}

fn sandboxed_runtime(info: &SystemInfo) -> CapabilityFinding {
    let mut names: Vec<&str> = info
        .runtimes
        .iter()
        .flatten()
        .map(|(name, _)| name.as_str())
        .collect();
    names.sort_unstable();
    let strong = names
        .iter()
        .any(|name| name.contains("runsc") || name.contains("kata"));
    finding(
        "sandboxed-runtime",
        strong,
        format!("runtimes: {}", names.join(", ")),
        "install gVisor (runsc) or Kata for input that is known to be hostile",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(findings: &[CapabilityFinding], name: &str) -> CapabilityStatus {
        findings
            .iter()
            .find(|finding| finding.name == name)
            .unwrap_or_else(|| panic!("no finding about {name}"))
            .status
    }

    #[test]
    fn what_the_engine_reports_becomes_findings() {
        let info = SystemInfo {
            security_options: Some(vec![
                "name=seccomp,profile=default".into(),
                "name=rootless".into(),
            ]),
            driver: Some("overlay2".into()),
            driver_status: Some(vec![vec!["Backing Filesystem".into(), "xfs".into()]]),
            pids_limit: Some(true),
            ..SystemInfo::default()
        };
        let all = findings(&info, Here::default());
        assert_eq!(status(&all, "seccomp"), CapabilityStatus::Available);
        assert_eq!(status(&all, "apparmor"), CapabilityStatus::Missing);
        assert_eq!(status(&all, "userns"), CapabilityStatus::Available);
        assert_eq!(status(&all, "storage-quota"), CapabilityStatus::Unknown);
        assert_eq!(status(&all, "loop-devices"), CapabilityStatus::Unknown);
        assert_eq!(status(&all, "pids-limit"), CapabilityStatus::Available);
        assert_eq!(status(&all, "swap-limit"), CapabilityStatus::Missing);
        for finding in all {
            let silent = finding.status == CapabilityStatus::Missing && finding.remedy.is_empty();
            assert!(!silent, "no remedy for {}", finding.name);
        }
    }

    #[test]
    fn an_unconfined_engine_has_no_seccomp() {
        let info = SystemInfo {
            security_options: Some(vec!["name=seccomp,profile=unconfined".into()]),
            ..SystemInfo::default()
        };
        let all = findings(&info, Here::default());
        assert_eq!(status(&all, "seccomp"), CapabilityStatus::Missing);
    }
}
