//! What confinement an engine's machine can give, as facts with remedies.

use std::os::unix::fs::MetadataExt;

use bollard::models::{SystemInfo, SystemVersion};
use forge_engine::EngineError;
use serde::Serialize;

use crate::describe::has_swap;
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
    /// Whether it is known to have no swap.
    swapless: bool,
    /// Whether the engine's data is on a file system of its own; `None` where it cannot be seen.
    own_data_disk: Option<bool>,
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
            swapless: same_machine && !has_swap(),
            own_data_disk: same_machine
                .then(|| has_own_disk(info.docker_root_dir.as_deref()?))
                .flatten(),
        };
        Ok(findings(&info, &self.client.version, here))
    }
}

fn has_own_disk(folder: &str) -> Option<bool> {
    let device = |path: &str| std::fs::metadata(path).ok().map(|found| found.dev());
    Some(device(folder)? != device("/")?)
}

fn findings(info: &SystemInfo, version: &SystemVersion, here: Here) -> Vec<CapabilityFinding> {
    let mut findings = security(info);
    findings.extend(versions(info, version));
    findings.push(live_restore(info));
    findings.extend(limits(info, here));
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
        "use a kernel and an engine built with seccomp; no sandbox can be made without it",
    );
    if seccomp.status == CapabilityStatus::Available {
        seccomp.detail = format!("sandboxes have a profile of their own; {}", seccomp.detail);
    }
    let mut apparmor = has(
        "apparmor",
        "enable AppArmor (or SELinux) on the machine for a second fence around containers",
    );
    if apparmor.status == CapabilityStatus::Missing
        && let Some(selinux) = option("selinux")
    {
        apparmor = finding("apparmor", true, format!("{selinux} in its place"), "");
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
    let mut all = vec![seccomp, apparmor, userns];
    if all[2].status == CapabilityStatus::Available {
        all.push(CapabilityFinding {
            name: "user-ids",
            status: CapabilityStatus::Unknown,
            detail: "tasks run as users 200000 and above, inside of the range that is mapped"
                .into(),
            remedy: "give the mapped range 300000 ids or more in /etc/subuid and /etc/subgid",
        });
    }
    all
}

/// The first engine that asks no resolver of the machine from an internal network.
const ENGINE: [u64; 3] = [25, 0, 4];
/// The first versions of runc whose masked paths cannot be diverted, of each line that has one.
const RUNC: [[u64; 3]; 2] = [[1, 2, 8], [1, 3, 3]];

fn versions(info: &SystemInfo, version: &SystemVersion) -> [CapabilityFinding; 2] {
    let engine = info.server_version.as_deref().unwrap_or("unknown");
    let components = version.components.as_deref().unwrap_or_default();
    let runc = components
        .iter()
        .find(|component| component.name == "runc")
        .map_or("unknown", |component| component.version.as_str());
    let recent = |text: &str, good: &dyn Fn([u64; 3]) -> bool| numbers(text).map(good);
    [
        version_finding(
            "engine-version",
            engine,
            recent(engine, &|version| version >= ENGINE),
            "use 25.0.4 or later, or make sure that the distribution has fixed CVE-2024-29018 and \
             CVE-2024-21626 in this one",
        ),
        version_finding(
            "runc-version",
            runc,
            recent(runc, &runc_is_recent),
            "use 1.2.8, 1.3.3 or later, or make sure that the distribution has fixed \
             CVE-2025-31133, CVE-2025-52565 and CVE-2025-52881 in this one",
        ),
    ]
}

fn runc_is_recent(version: [u64; 3]) -> bool {
    let [of_its_line, newest] = RUNC;
    version >= newest || (version >= of_its_line && version[..2] == of_its_line[..2])
}

fn version_finding(
    name: &'static str,
    version: &str,
    recent: Option<bool>,
    remedy: &'static str,
) -> CapabilityFinding {
    let detail = format!("version {version}");
    match recent {
        Some(recent) => finding(name, recent, detail, remedy),
        None => CapabilityFinding {
            name,
            status: CapabilityStatus::Unknown,
            detail,
            remedy,
        },
    }
}

/// The first three numbers of a version, whatever follows them.
fn numbers(version: &str) -> Option<[u64; 3]> {
    let mut parts = version.trim_start_matches('v').splitn(3, '.').map(|part| {
        let end = part.find(|c: char| !c.is_ascii_digit());
        part[..end.unwrap_or(part.len())].parse().ok()
    });
    Some([parts.next()??, parts.next()??, parts.next()??])
}

fn live_restore(info: &SystemInfo) -> CapabilityFinding {
    let on = info.live_restore_enabled == Some(true);
    finding(
        "live-restore",
        on,
        if on { "on" } else { "off" },
        "set `live-restore` in the engine's configuration: tasks then live on while the engine \
         itself is restarted, but for those in setup",
    )
}

fn limits(info: &SystemInfo, here: Here) -> Vec<CapabilityFinding> {
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
            "enable the memory controller: boot with cgroup_enable=memory; no sandbox can be made \
             without it",
        ),
        finding(
            "swap-limit",
            yes(info.swap_limit) || here.swapless,
            if here.swapless {
                "the machine has no swap"
            } else {
                ""
            },
            "boot with swapaccount=1, or turn swap off where this is run on the engine's machine; \
             no sandbox can be made while a task could use swap beyond its memory",
        ),
        finding(
            "cpu-quota",
            yes(info.cpu_cfs_quota),
            "",
            "use a kernel with CONFIG_CFS_BANDWIDTH; no sandbox can be made without it",
        ),
        finding(
            "pids-limit",
            yes(info.pids_limit),
            "",
            "enable the pids controller: nothing else stops a fork bomb, and no sandbox can be \
             made without it",
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
            "nothing need be done where loop devices can be had; otherwise put the engine's data \
             on xfs mounted with `pquota`",
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
    vec![quota, loops, data_disk(info, here)]
}

fn data_disk(info: &SystemInfo, here: Here) -> CapabilityFinding {
    let name = "data-disk";
    let folder = info.docker_root_dir.as_deref().unwrap_or("unknown");
    match here.own_data_disk {
        Some(own) => finding(
            name,
            own,
            format!(
                "the engine's data, {folder}, is on {}",
                if own {
                    "a file system of its own"
                } else {
                    "the machine's"
                }
            ),
            "put the engine's data on a file system of its own: one that is full then stops \
             nothing else of the machine",
        ),
        None => CapabilityFinding {
            name,
            status: CapabilityStatus::Unknown,
            detail: format!("the engine's data is at {folder}"),
            remedy: "",
        },
    }
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
        "a runtime with a kernel of its own confines hostile input further; docs/operators.md says what \
         it needs",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use bollard::models::SystemVersionComponents;

    fn status(findings: &[CapabilityFinding], name: &str) -> CapabilityStatus {
        findings
            .iter()
            .find(|finding| finding.name == name)
            .unwrap_or_else(|| panic!("no finding about {name}"))
            .status
    }

    fn version(runc: &str) -> SystemVersion {
        let runc = SystemVersionComponents {
            name: "runc".into(),
            version: runc.into(),
            ..SystemVersionComponents::default()
        };
        SystemVersion {
            components: Some(vec![runc]),
            ..SystemVersion::default()
        }
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
        let all = findings(&info, &version("1.1.5+ds1"), Here::default());
        assert_eq!(status(&all, "seccomp"), CapabilityStatus::Available);
        assert_eq!(status(&all, "apparmor"), CapabilityStatus::Missing);
        assert_eq!(status(&all, "userns"), CapabilityStatus::Available);
        assert_eq!(status(&all, "storage-quota"), CapabilityStatus::Unknown);
        assert_eq!(status(&all, "loop-devices"), CapabilityStatus::Unknown);
        assert_eq!(status(&all, "pids-limit"), CapabilityStatus::Available);
        assert_eq!(status(&all, "swap-limit"), CapabilityStatus::Missing);
        assert_eq!(status(&all, "user-ids"), CapabilityStatus::Unknown);
        assert_eq!(status(&all, "runc-version"), CapabilityStatus::Missing);
        assert_eq!(status(&all, "engine-version"), CapabilityStatus::Unknown);
        assert_eq!(status(&all, "live-restore"), CapabilityStatus::Missing);
        assert_eq!(status(&all, "data-disk"), CapabilityStatus::Unknown);
        for finding in all {
            let silent = finding.status == CapabilityStatus::Missing && finding.remedy.is_empty();
            assert!(!silent, "no remedy for {}", finding.name);
        }
    }

    #[test]
    fn swap_that_is_not_there_needs_no_limit() {
        let here = Here {
            swapless: true,
            ..Here::default()
        };
        let all = findings(&SystemInfo::default(), &version("1.3.3"), here);
        assert_eq!(status(&all, "swap-limit"), CapabilityStatus::Available);
    }

    #[test]
    fn an_engine_without_a_profile_of_its_own_puts_ours_in_force_all_the_same() {
        let info = SystemInfo {
            security_options: Some(vec!["name=seccomp,profile=unconfined".into()]),
            ..SystemInfo::default()
        };
        let all = findings(&info, &SystemVersion::default(), Here::default());
        assert_eq!(status(&all, "seccomp"), CapabilityStatus::Available);
        let none = findings(
            &SystemInfo::default(),
            &SystemVersion::default(),
            Here::default(),
        );
        assert_eq!(status(&none, "seccomp"), CapabilityStatus::Missing);
    }

    #[test]
    fn versions_with_known_holes_are_told_from_later_ones() {
        let (good, bad) = (CapabilityStatus::Available, CapabilityStatus::Missing);
        for (engine, expected) in [
            ("20.10.24+dfsg1", bad),
            ("25.0.3", bad),
            ("25.0.4", good),
            ("26.1.5+dfsg1", good),
            ("29.1.0-rc.1", good),
            ("dev", CapabilityStatus::Unknown),
        ] {
            let info = SystemInfo {
                server_version: Some(engine.into()),
                ..SystemInfo::default()
            };
            let all = findings(&info, &version("1.3.3"), Here::default());
            assert_eq!(status(&all, "engine-version"), expected, "{engine}");
        }
        for (runc, expected) in [
            ("1.1.15", bad),
            ("1.2.7", bad),
            ("1.2.8", good),
            ("1.3.2", bad),
            ("1.3.3", good),
            ("1.4.0-rc.3", good),
            ("v2.0.0", good),
            ("", CapabilityStatus::Unknown),
        ] {
            let all = findings(&SystemInfo::default(), &version(runc), Here::default());
            assert_eq!(status(&all, "runc-version"), expected, "{runc}");
        }
    }
}
