//! What holds the size of a workspace: the strongest of what this engine and its machine have.
//!
//! * a quota of the engine's own storage, which some have;
//! * a file system of the right size in a file, on a loop device that the engine mounts;
//! * nothing but PID 1, which looks at the size, see `forge-init`.
//!
//! The volume on the engine is made first and removed last, and says on its labels what it is: it
//! leads to file and device whoever dies in between. See `docs/decisions/0008-loop-volumes.md`.

mod helper;
mod host;
mod loop_volume;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use bollard::models::{Volume, VolumeCreateRequest};
use bollard::query_parameters::RemoveVolumeOptions;
use forge_core::ownership::{Role, keys};
use forge_core::{DiskQuota, WorkspaceSpec};
use forge_engine::{EngineError, EngineErrorKind, Operation};
use sha2::{Digest, Sha256};
use tokio::sync::OnceCell;

use crate::context::hex;
use crate::engine::DockerEngine;
use crate::failure::{During, engine_error};
use crate::names::{DISK_POOL, DISK_QUOTA};

/// The folder of the files that hold workspaces, on the engine's machine.
pub const DEFAULT_POOL: &str = "/var/lib/swe-forge/pool";
/// How long `forge-init volume` may take: a file of a hundred gigabytes, preallocated, takes a
/// second.
const PATIENCE: Duration = Duration::from_secs(120);

/// Which quota is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum QuotaChoice {
    /// The strongest there is.
    #[default]
    Strongest,
    /// This one, or no workspace at all.
    Only(DiskQuota),
}

/// How the size of workspaces is held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskOptions {
    /// What shall hold it.
    pub quota: QuotaChoice,
    /// Folder of the files that hold workspaces, as the engine's machine names it; made when
    /// missing, and closed to all but root.
    pub pool: PathBuf,
    /// Whether the disk below is taken when a workspace is made and not when it is written to, so
    /// that the machine's disk cannot be promised twice.
    pub preallocate: bool,
}

impl Default for DiskOptions {
    fn default() -> Self {
        Self {
            quota: QuotaChoice::Strongest,
            pool: PathBuf::from(DEFAULT_POOL),
            preallocate: false,
        }
    }
}

/// What an engine knows of its disk, found out when it is needed first.
#[derive(Debug)]
pub(crate) struct Disk {
    pub(crate) options: DiskOptions,
    rung: OnceCell<DiskQuota>,
    is_here: OnceCell<bool>,
    pool: OnceCell<String>,
    program_digest: OnceLock<String>,
}

impl Disk {
    pub(crate) fn new(options: DiskOptions) -> Self {
        Self {
            options,
            rung: OnceCell::new(),
            is_here: OnceCell::new(),
            pool: OnceCell::new(),
            program_digest: OnceLock::new(),
        }
    }
}

impl DockerEngine {
    /// Tells one `forge-init` from others; none where there is none.
    fn program_digest(&self) -> Option<&str> {
        let bytes = &self.init.bytes;
        let digest = || hex(&Sha256::digest(bytes)[..8]);
        (!bytes.is_empty()).then(|| self.disk.program_digest.get_or_init(digest).as_str())
    }

    /// What holds the size of new workspaces.
    pub(crate) async fn disk_quota(&self) -> Result<DiskQuota, EngineError> {
        let decide = || Box::pin(self.decide_quota());
        self.disk.rung.get_or_try_init(decide).await.copied()
    }

    async fn decide_quota(&self) -> Result<DiskQuota, EngineError> {
        let wanted = match self.disk.options.quota {
            QuotaChoice::Only(only) => Some(only),
            QuotaChoice::Strongest => None,
        };
        if wanted.is_none_or(|only| only == DiskQuota::Driver) {
            if self.driver_has_quota().await? {
                return Ok(DiskQuota::Driver);
            }
            if wanted.is_some() {
                let why = "the engine's storage driver has no quota for volumes";
                return Err(unsupported(DiskQuota::Driver, why));
            }
        }
        if wanted.is_none_or(|only| only == DiskQuota::Loop) {
            match self.probe_loop_volumes().await {
                Ok(()) => return Ok(DiskQuota::Loop),
                // Says nothing about what the machine can do.
                Err(error) if is_passing(error.kind) => return Err(error),
                Err(error) if wanted.is_some() => {
                    // Not as its source: that would say the same once more.
                    let why = format!("pool {}: {}", error.subject, error.message);
                    return Err(unsupported(DiskQuota::Loop, &why));
                }
                Err(error) => tracing::warn!(
                    pool = error.subject,
                    why = error.message,
                    "the pool of workspaces cannot be used, so workspaces have no file system of \
                     their own: PID 1 watches their size instead, and a fast writer may pass it \
                     for a moment"
                ),
            }
        }
        Ok(DiskQuota::Watchdog)
    }

    /// An engine without quotas refuses a volume of a size.
    async fn driver_has_quota(&self) -> Result<bool, EngineError> {
        const OPERATION: Operation = Operation::CreateWorkspace;
        let name = format!("swe-forge-probe-{}", uuid::Uuid::new_v4().simple());
        let mut labels = self.own_labels();
        labels.insert(keys::ROLE.to_owned(), Role::Disk.to_string());
        let request = VolumeCreateRequest {
            name: Some(name.clone()),
            driver: Some("local".to_owned()),
            driver_opts: Some(driver_options(DiskQuota::Driver, &name, 1 << 20)),
            labels: Some(labels.into_iter().collect()),
            ..VolumeCreateRequest::default()
        };
        match self.client.docker.create_volume(request).await {
            Ok(_) => {
                let options = None::<RemoveVolumeOptions>;
                let removed = self.client.docker.remove_volume(&name, options).await;
                removed.during(OPERATION, &name)?;
                Ok(true)
            }
            Err(error) => match engine_error(OPERATION, &name, error) {
                error if is_passing(error.kind) => Err(error),
                error => {
                    tracing::debug!(why = error.message, "the engine has no quota for volumes");
                    Ok(false)
                }
            },
        }
    }

    /// The options and labels by which the engine makes the volume of a workspace.
    pub(crate) async fn disk_settings(
        &self,
        spec: &WorkspaceSpec,
        name: &str,
    ) -> Result<DiskSettings, EngineError> {
        let quota = self.disk_quota().await?;
        let mut labels = vec![(DISK_QUOTA, quota.to_string())];
        if quota == DiskQuota::Loop {
            labels.push((DISK_POOL, self.pool().await?.to_owned()));
        }
        Ok(DiskSettings {
            options: driver_options(quota, name, spec.disk_bytes),
            labels,
        })
    }
}

/// What tells an engine how to make a volume.
#[derive(Debug, Default)]
pub(crate) struct DiskSettings {
    /// For the volume driver.
    pub(crate) options: HashMap<String, String>,
    /// Besides those of every volume.
    pub(crate) labels: Vec<(&'static str, String)>,
}

fn driver_options(quota: DiskQuota, name: &str, bytes: u64) -> HashMap<String, String> {
    let own = |key: &str, value: String| (key.to_owned(), value);
    match quota {
        DiskQuota::Driver => [own("size", bytes.to_string())].into(),
        DiskQuota::Loop => [
            own("type", "ext4".to_owned()),
            own("device", loop_volume::link(name)),
            own("o", loop_volume::MOUNT_OPTIONS.to_owned()),
        ]
        .into(),
        DiskQuota::Watchdog => HashMap::new(),
    }
}

/// What holds the size of a volume, as its labels say; older ones have none.
pub(crate) fn quota_of(volume: &Volume) -> DiskQuota {
    let label = volume.labels.get(DISK_QUOTA).map(String::as_str);
    [DiskQuota::Driver, DiskQuota::Loop]
        .into_iter()
        .find(|quota| label == Some(quota.as_str()))
        .unwrap_or(DiskQuota::Watchdog)
}

fn unsupported(quota: DiskQuota, why: &str) -> EngineError {
    EngineError::new(
        EngineErrorKind::Unsupported,
        Operation::CreateWorkspace,
        "",
        format!("disk quota '{quota}' was asked for and is not to be had: {why}"),
    )
}

/// Whether a failure is one of the moment.
const fn is_passing(kind: EngineErrorKind) -> bool {
    matches!(
        kind,
        EngineErrorKind::Unavailable | EngineErrorKind::Deadline | EngineErrorKind::Exhausted
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_without_a_label_is_watched() {
        let mut volume = Volume::default();
        assert_eq!(quota_of(&volume), DiskQuota::Watchdog);
        for quota in [DiskQuota::Driver, DiskQuota::Loop, DiskQuota::Watchdog] {
            let label = (DISK_QUOTA.to_owned(), quota.to_string());
            volume.labels = [label].into();
            assert_eq!(quota_of(&volume), quota);
        }
    }

    #[test]
    fn a_loop_volume_names_a_link_that_only_it_has() {
        let options = driver_options(DiskQuota::Loop, "swe-forge-workspace-a", 1);
        assert_eq!(options["device"], "/dev/swe-forge/swe-forge-workspace-a");
        assert_eq!(options["type"], "ext4");
        assert!(options["o"].contains("nosuid,nodev"));
        let options = driver_options(DiskQuota::Driver, "x", 5);
        assert_eq!(options, [("size".to_owned(), "5".to_owned())].into());
    }
}
