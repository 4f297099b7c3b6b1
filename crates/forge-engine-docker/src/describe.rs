//! What an engine is: its description, and whether its disk is ours.

use std::path::Path;

use bollard::models::{Mount, MountType, SystemInfo, SystemVersion};
use forge_engine::{EngineDescription, EngineError, EngineErrorKind, Operation};

use crate::archive::{Archive, only_file};
use crate::endpoint::Endpoint;
use crate::engine::{DiskSharing, DockerEngine};
use crate::failure::During;
use crate::names::PROBE_IMAGE;
use crate::peer;
use crate::stager::Stager;

/// What an operation must know about the engine's machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Machine {
    /// User ids inside containers are other ids outside: ownership cannot be set from outside.
    pub(crate) remapped: bool,
    /// Containers are confined by labels of files: they cannot use a folder that was made here.
    pub(crate) labelled: bool,
    /// What the engine would leave without the limit that it is asked for.
    pub(crate) unlimited: Option<&'static str>,
}

impl Machine {
    fn of(info: &SystemInfo, has_swap: bool) -> Self {
        let options = info.security_options.as_deref().unwrap_or_default();
        let has = |name: &str| {
            let is = |option: &String| option.split(',').next() == Some(name);
            options.iter().any(is)
        };
        Self {
            remapped: has("name=userns") || has("name=rootless"),
            labelled: has("name=selinux"),
            unlimited: unlimited(info, has_swap),
        }
    }
}

/// What an engine reports as without a limit is what it drops from requests with no more than a
/// warning.
fn unlimited(info: &SystemInfo, has_swap: bool) -> Option<&'static str> {
    let limits = [
        ("memory", info.memory_limit == Some(true)),
        ("swap", info.swap_limit == Some(true) || !has_swap),
        ("processes", info.pids_limit == Some(true)),
    ];
    let missing = limits.into_iter().find(|(_, limited)| !limited);
    missing.map(|(what, _)| what)
}

/// Where the kernel tells how much swap there is.
const MEMORY: &str = "/proc/meminfo";

/// Whether this machine may swap; one that does not say so may.
pub(crate) fn has_swap() -> bool {
    std::fs::read_to_string(MEMORY).map_or(true, |memory| tells_of_swap(&memory))
}

fn tells_of_swap(memory: &str) -> bool {
    let total = memory
        .lines()
        .find_map(|line| line.strip_prefix("SwapTotal:"));
    total.is_none_or(|total| total.trim() != "0 kB")
}

/// Where the probe's folder appears in its container.
const PROBE_TARGET: &str = "/probe";
const PROBE_FILE: &str = "nonce";
/// An archive of one short file is far smaller.
const PROBE_LIMIT: usize = 64 * 1024;

impl DockerEngine {
    pub(crate) async fn describe_engine(&self) -> Result<EngineDescription, EngineError> {
        // Both are awaited: what the probe has made must be removed also when the other fails.
        let (info, shares_disk) = futures::join!(self.info(), self.shares_disk());
        let (info, shares_disk) = (info?, shares_disk?);
        // A failure to set it means that another description was first with the same facts.
        let machine = Machine::of(&info, !shares_disk || has_swap());
        self.machine.set(machine).ok();
        let endpoint = self.client.endpoint.to_string();
        let api_version = self.client.api_version.to_string();
        let version = &self.client.version;
        Ok(description(
            info,
            version,
            api_version,
            endpoint,
            shares_disk,
        ))
    }

    pub(crate) async fn info(&self) -> Result<SystemInfo, EngineError> {
        self.client
            .docker
            .info()
            .await
            .during(Operation::Describe, &self.client.endpoint.to_string())
    }

    pub(crate) async fn machine(&self) -> Result<Machine, EngineError> {
        // On the heap: looking at the disk is large and would make every future above it so.
        let look = || async {
            let (info, shares_disk) = (self.info().await?, self.shares_disk().await?);
            Ok(Machine::of(&info, !shares_disk || has_swap()))
        };
        let ask = || Box::pin(look());
        self.machine.get_or_try_init(ask).await.copied()
    }

    /// Whether the engine's disk is this process's disk, found out once.
    pub(crate) async fn shares_disk(&self) -> Result<bool, EngineError> {
        if self.disk_sharing == DiskSharing::Never {
            return Ok(false);
        }
        self.shares_disk
            .get_or_try_init(|| self.look_at_disk())
            .await
            .copied()
    }

    async fn look_at_disk(&self) -> Result<bool, EngineError> {
        if let Endpoint::Unix(socket) = &self.client.endpoint
            && peer::names_files_as_we_do(socket).await
        {
            return Ok(true);
        }
        self.probe_disk().await
    }

    /// Reads a file made here through the engine. A path that exists on both sides proves
    /// nothing: an engine in another container or another machine has its own `/run`.
    async fn probe_disk(&self) -> Result<bool, EngineError> {
        let nonce = uuid::Uuid::new_v4().simple().to_string();
        let folder = self.channel_root.path().join(format!("probe-{nonce}"));
        let subject = folder.display().to_string();
        std::fs::create_dir(&folder)
            .and_then(|()| std::fs::write(folder.join(PROBE_FILE), &nonce))
            .during(Operation::Describe, &subject)?;
        let result = self.reads_through_engine(&folder, &nonce).await;
        std::fs::remove_dir_all(&folder).during(Operation::Describe, &subject)?;
        result
    }

    async fn reads_through_engine(&self, folder: &Path, nonce: &str) -> Result<bool, EngineError> {
        let stager = match self.probe_stager(folder).await {
            Err(error) if error.kind == EngineErrorKind::NotFound => {
                self.make_probe_image().await?;
                self.probe_stager(folder).await
            }
            other => other,
        };
        let stager = match stager {
            // The engine looks for the folder on its own disk and does not find it.
            Err(error) if error.kind == EngineErrorKind::Rejected => {
                tracing::debug!(%error, "the engine's disk is not ours");
                return Ok(false);
            }
            other => other?,
        };
        let path = format!("{PROBE_TARGET}/{PROBE_FILE}");
        let archive = stager.get(&path, PROBE_LIMIT).await;
        stager.remove().await;
        match archive {
            Ok(archive) => {
                let contents = only_file(&archive, PROBE_LIMIT as u64).unwrap_or_default();
                Ok(contents == nonce.as_bytes())
            }
            Err(error) if error.kind == EngineErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn probe_stager(&self, folder: &Path) -> Result<Stager<'_>, EngineError> {
        let mount = Mount {
            typ: Some(MountType::BIND),
            source: Some(folder.display().to_string()),
            target: Some(PROBE_TARGET.to_owned()),
            read_only: Some(true),
            ..Mount::default()
        };
        let operation = Operation::Describe;
        Stager::create(
            &self.client,
            self.own_labels(),
            PROBE_IMAGE,
            vec![mount],
            operation,
        )
        .await
    }

    /// An image of one empty folder: a container needs some image to be made from.
    async fn make_probe_image(&self) -> Result<(), EngineError> {
        let mut archive = Archive::new();
        let archive = archive
            .folder(PROBE_TARGET.trim_start_matches('/'), 0o755, None)
            .and_then(|()| archive.finish())
            .during(Operation::Describe, PROBE_IMAGE)?;
        self.import_probe_image(archive).await
    }
}

fn description(
    info: SystemInfo,
    version: &SystemVersion,
    api_version: String,
    endpoint: String,
    shares_disk: bool,
) -> EngineDescription {
    let backing = info.driver_status.as_deref().unwrap_or_default();
    let backing_filesystem = backing
        .iter()
        .find_map(|pair| match pair.as_slice() {
            [name, value] if name == "Backing Filesystem" => Some(value.clone()),
            _ => None,
        })
        .unwrap_or_default();
    let mut runtimes: Vec<String> = info.runtimes.unwrap_or_default().into_keys().collect();
    runtimes.sort();
    let number = |value: Option<i64>| value.and_then(|value| u64::try_from(value).ok());
    EngineDescription {
        kind: "docker".to_owned(),
        version: info.server_version.unwrap_or_default(),
        api_version,
        endpoint,
        operating_system: info.operating_system.unwrap_or_default(),
        kernel: info.kernel_version.unwrap_or_default(),
        // The name that images use, `amd64`, where `info` says `x86_64`.
        architecture: version.arch.clone().unwrap_or_default(),
        cores: number(info.ncpu).unwrap_or(0),
        memory_bytes: number(info.mem_total).unwrap_or(0),
        storage_driver: info.driver.unwrap_or_default(),
        backing_filesystem,
        cgroup_driver: info
            .cgroup_driver
            .map(|driver| driver.to_string())
            .unwrap_or_default(),
        cgroup_version: info
            .cgroup_version
            .map(|version| version.to_string())
            .unwrap_or_default(),
        security_options: info.security_options.unwrap_or_default(),
        runtimes,
        data_root: info.docker_root_dir.unwrap_or_default(),
        shares_disk,
        warnings: info.warnings.unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limited() -> SystemInfo {
        SystemInfo {
            memory_limit: Some(true),
            swap_limit: Some(true),
            pids_limit: Some(true),
            ..SystemInfo::default()
        }
    }

    #[test]
    fn what_an_engine_does_not_say_it_limits_is_unlimited() {
        assert_eq!(Machine::of(&limited(), true).unlimited, None);
        type Change = fn(&mut SystemInfo);
        let cases: [(Change, &str); 3] = [
            (|info| info.memory_limit = Some(false), "memory"),
            (|info| info.swap_limit = None, "swap"),
            (|info| info.pids_limit = None, "processes"),
        ];
        for (change, what) in cases {
            let mut info = limited();
            change(&mut info);
            assert_eq!(Machine::of(&info, true).unlimited, Some(what));
        }
    }

    #[test]
    fn swap_needs_no_limit_where_there_is_none() {
        let mut info = limited();
        info.swap_limit = Some(false);
        assert_eq!(Machine::of(&info, false).unlimited, None);
        assert!(!tells_of_swap(
            "MemTotal:  8 kB\nSwapTotal:             0 kB\n"
        ));
        assert!(tells_of_swap(
            "MemTotal:  8 kB\nSwapTotal:          2048 kB\n"
        ));
        assert!(tells_of_swap(""));
    }
}
