//! Volumes whose contents are a file of the pool.

use std::collections::HashSet;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, SystemTime};

use bollard::models::Volume;
use bollard::query_parameters::ListVolumesOptions;
use forge_core::{SandboxId, WorkspaceSpec};
use forge_engine::{EngineError, EngineErrorKind, Operation};
use sha2::{Digest, Sha256};

use super::{host, quota_of};
use crate::context::hex;
use crate::engine::{DiskSharing, DockerEngine};
use crate::failure::{During, is_not_found};
use crate::names::{DISK_POOL, Volumes};
use forge_core::DiskQuota;

/// How the engine mounts a file system. Without barriers a task cannot make the machine's disk
/// wait for it, and nothing in it has to outlive the machine. Inode tables are zero already.
pub(super) const MOUNT_OPTIONS: &str = "nosuid,nodev,noatime,nobarrier,noinit_itable";
/// Where `forge-init volume` puts its links.
const LINKS: &str = "/dev/swe-forge";
/// How it names the files of the pool.
const SUFFIX: &str = ".img";
/// First part of the names of files it makes to see whether it can.
const PROBE: &str = "probe-";
/// How long such a file may be at work.
const PROBE_AGE: Duration = Duration::from_secs(60);
/// A younger file of another machine's pool may belong to a volume that was not seen.
const REMOTE_AGE: Duration = Duration::from_secs(600);

/// The device of a volume.
pub(super) fn link(name: &str) -> String {
    format!("{LINKS}/{name}")
}

impl DockerEngine {
    /// The folder of this engine's files: engines that share a machine do not share a folder, so
    /// that neither takes the other's files for left ones.
    pub(super) async fn pool(&self) -> Result<&str, EngineError> {
        let name = || async {
            let info = self.info().await?;
            let mut hasher = Sha256::new();
            for part in [info.id, info.docker_root_dir] {
                hasher.update(part.unwrap_or_default());
                hasher.update([0]);
            }
            let name = hex(&hasher.finalize()[..8]);
            let path = self.disk.options.pool.join(name);
            path.to_str().map(str::to_owned).ok_or_else(|| {
                EngineError::new(
                    EngineErrorKind::Rejected,
                    Operation::CreateWorkspace,
                    path.display().to_string(),
                    "the folder of workspaces must have a name in UTF-8",
                )
            })
        };
        let pool = self.disk.pool.get_or_try_init(name).await;
        pool.map(String::as_str)
    }

    /// Makes a small one and removes it.
    pub(super) async fn probe_loop_volumes(&self) -> Result<(), EngineError> {
        let pool = self.pool().await?;
        let operation = Operation::CreateWorkspace;
        let arguments = vec!["probe".to_owned(), pool.to_owned()];
        self.volume_command(operation, pool, arguments).await?;
        if !self.devices_are_here().await? {
            // What left files there is gone by now; where the disk is ours `gc` does it.
            self.sweep_remote_pool(pool).await?;
        }
        Ok(())
    }

    /// Makes the file and the device of a volume, or finds them made.
    pub(crate) async fn make_loop_volume(
        &self,
        spec: &WorkspaceSpec,
        volume: &Volume,
    ) -> Result<(), EngineError> {
        const OPERATION: Operation = Operation::CreateWorkspace;
        let pool = pool_of(volume, OPERATION)?;
        let kind = if self.disk.options.preallocate {
            "preallocated"
        } else {
            "sparse"
        };
        let arguments = vec![
            "make".to_owned(),
            pool.to_owned(),
            volume.name.clone(),
            spec.disk_bytes.to_string(),
            spec.disk_files.to_string(),
            spec.user.uid().to_string(),
            spec.user.gid().to_string(),
            kind.to_owned(),
        ];
        self.volume_command(OPERATION, pool, arguments).await?;
        Ok(())
    }

    /// Takes away device and file of a volume that no container has, before the volume itself:
    /// as long as that is there, somebody can find what is left.
    pub(crate) async fn remove_loop_volume(&self, name: &str) -> Result<(), EngineError> {
        const OPERATION: Operation = Operation::Destroy;
        let volume = match self.client.docker.inspect_volume(name).await {
            Err(error) if is_not_found(&error) => return Ok(()),
            other => other.during(OPERATION, name)?,
        };
        if quota_of(&volume) != DiskQuota::Loop {
            return Ok(());
        }
        let filters = [("volume".to_owned(), vec![name.to_owned()])].into();
        let users = self.list_containers(filters).await?;
        if let Some(user) = users.first() {
            return Err(EngineError::new(
                EngineErrorKind::Conflict,
                OPERATION,
                name,
                format!("the volume is in use by container {}", user.name),
            ));
        }
        let pool = pool_of(&volume, OPERATION)?;
        let arguments = vec!["remove".to_owned(), pool.to_owned(), name.to_owned()];
        self.volume_command(OPERATION, pool, arguments).await?;
        Ok(())
    }

    /// Whether the engine still finds in the workspace's volume what was put there. After a start
    /// of the machine it finds nothing; a device that somebody took away by hand may by now have
    /// somebody else's contents.
    pub(crate) async fn check_disk(&self, id: &SandboxId) -> Result<(), EngineError> {
        if !self.devices_are_here().await? {
            return Ok(());
        }
        let name = Volumes::of(id).workspace;
        let image = Path::new(self.pool().await?).join(format!("{name}{SUFFIX}"));
        let attached = match image.try_exists() {
            Ok(false) => return Ok(()),
            Ok(true) => backing_file(&link(&name)),
            Err(error) => Err(error),
        };
        match attached {
            // The folder is another one for a device that a helper made.
            Ok(file) if file.file_name() == image.file_name() => Ok(()),
            other => Err(EngineError::new(
                EngineErrorKind::Lost,
                Operation::Create,
                id.as_str(),
                format!(
                    "its workspace is no longer on its device ({}); the machine may have started \
                     again",
                    match other {
                        Ok(file) => format!("that has {}", file.display()),
                        Err(error) => error.to_string(),
                    }
                ),
            )),
        }
    }

    /// Removes files on this disk that no volume of this engine belongs to. Quiet, since nobody
    /// asked for it.
    pub(crate) async fn sweep_pool(&self) {
        let is_root = nix::unistd::geteuid().is_root();
        let has_pool = self.disk.options.pool.is_dir();
        if self.disk_sharing == DiskSharing::Never || !is_root || !has_pool {
            return;
        }
        if let Err(error) = Box::pin(self.sweep_own_pool()).await {
            tracing::debug!(%error, "left files of workspaces were not looked for");
        }
    }

    async fn sweep_own_pool(&self) -> Result<(), EngineError> {
        const OPERATION: Operation = Operation::List;
        let pool = self.pool().await?;
        let swept = host::remove_left(
            &self.disk.options.pool,
            Path::new(pool),
            self.program_digest(),
        );
        if let Err(error) = swept {
            tracing::debug!(%error, "left programs and pools were not looked for");
        }
        let files = names_in(Path::new(pool)).during(OPERATION, pool)?;
        if files.is_empty() {
            return Ok(());
        }
        // Asked after the files were seen: a volume is made before its file.
        let volumes = self.volume_names().await?;
        let left: Vec<String> = files
            .into_iter()
            .filter(|name| !volumes.contains(name))
            .collect();
        if left.is_empty() {
            return Ok(());
        }
        tracing::debug!(?left, "left files of workspaces are removed");
        let mut arguments = vec!["remove".to_owned(), pool.to_owned()];
        arguments.extend(left);
        self.volume_command_here(OPERATION, pool, arguments).await?;
        Ok(())
    }

    async fn sweep_remote_pool(&self, pool: &str) -> Result<(), EngineError> {
        let volumes = self.volume_names().await?;
        let age = REMOTE_AGE.as_secs().to_string();
        let mut arguments = vec!["sweep".to_owned(), pool.to_owned(), age];
        arguments.extend(volumes);
        let operation = Operation::CreateWorkspace;
        let left = self.volume_command(operation, pool, arguments).await?;
        if !left.is_empty() {
            tracing::debug!(left, "left files of workspaces are removed");
        }
        Ok(())
    }

    /// The volumes of workspaces on this engine, whoever made them.
    async fn volume_names(&self) -> Result<HashSet<String>, EngineError> {
        let filters = [("label".to_owned(), vec![DISK_POOL.to_owned()])].into();
        let options = ListVolumesOptions {
            filters: Some(filters),
        };
        let found = self.client.docker.list_volumes(Some(options)).await;
        let found = found.during(Operation::List, "volumes")?;
        let volumes = found.volumes.unwrap_or_default();
        Ok(volumes.into_iter().map(|volume| volume.name).collect())
    }

    /// Runs `forge-init volume` where the engine's devices are; gives what it prints.
    async fn volume_command(
        &self,
        operation: Operation,
        pool: &str,
        arguments: Vec<String>,
    ) -> Result<String, EngineError> {
        if self.devices_are_here().await? {
            return self.volume_command_here(operation, pool, arguments).await;
        }
        Box::pin(self.volume_command_in_helper(operation, pool, arguments)).await
    }

    /// Whether this process may make loop devices that the engine then finds: it is root, on the
    /// engine's disk, kernel and devices.
    async fn devices_are_here(&self) -> Result<bool, EngineError> {
        let ask = || async {
            if !nix::unistd::geteuid().is_root() || !self.shares_disk().await? {
                return Ok(false);
            }
            let kernel = self.info().await?.kernel_version;
            Ok(host::has_devices() && kernel.is_some() && kernel == host::kernel())
        };
        self.disk.is_here.get_or_try_init(ask).await.copied()
    }
}

/// The folder that the labels of a volume name. What is done there is done as root, so a label that
/// leads anywhere else than to a pool is none of ours.
fn pool_of(volume: &Volume, operation: Operation) -> Result<&str, EngineError> {
    let pool = volume.labels.get(DISK_POOL).map(String::as_str);
    pool.filter(|pool| is_path_of_pool(Path::new(pool)))
        .ok_or_else(|| {
            EngineError::new(
                EngineErrorKind::Corrupt,
                operation,
                &volume.name,
                format!("the volume has no {DISK_POOL} label that is the path of a pool"),
            )
        })
}

fn is_path_of_pool(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    let is_plain = path
        .components()
        .all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    path.is_absolute() && is_plain && name.is_some_and(host::is_pool)
}

/// The file that a link's device has.
fn backing_file(link: &str) -> io::Result<PathBuf> {
    let device = std::fs::read_link(link)?;
    let name = device.file_name().ok_or(io::ErrorKind::InvalidData)?;
    let path = Path::new("/sys/block").join(name).join("loop/backing_file");
    let text = std::fs::read_to_string(path)?;
    Ok(PathBuf::from(text.trim_end_matches('\n')))
}

/// The names of what is in a pool, without probes that may be at work.
fn names_in(pool: &Path) -> io::Result<Vec<String>> {
    let entries = match std::fs::read_dir(pool) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let is_settled = |entry: &std::fs::DirEntry, name: &str| {
        let changed = entry.metadata().and_then(|found| found.modified());
        let age = changed.map(|changed| SystemTime::now().duration_since(changed));
        !name.starts_with(PROBE) || matches!(age, Ok(Ok(age)) if age >= PROBE_AGE)
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry?;
        let file = entry.file_name();
        let name = file.to_str().and_then(|file| file.strip_suffix(SUFFIX));
        names.extend(
            name.filter(|name| is_settled(&entry, name))
                .map(str::to_owned),
        );
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_at_work_is_not_taken_for_left() {
        let pool = tempfile::tempdir().unwrap();
        for name in ["a.img", "probe-1.img", "other", "forge-init-1"] {
            std::fs::write(pool.path().join(name), "").unwrap();
        }
        assert_eq!(names_in(pool.path()).unwrap(), ["a"]);
        let old = std::fs::File::open(pool.path().join("probe-1.img")).unwrap();
        old.set_modified(SystemTime::now() - 2 * PROBE_AGE).unwrap();
        let mut names = names_in(pool.path()).unwrap();
        names.sort();
        assert_eq!(names, ["a", "probe-1"]);
        assert!(names_in(&pool.path().join("absent")).unwrap().is_empty());
    }

    #[test]
    fn a_volume_that_does_not_say_where_its_file_is_is_refused() {
        let mut volume = Volume::default();
        assert!(pool_of(&volume, Operation::Destroy).is_err());
        for pool in [
            "0123456789abcdef",
            "/etc/x",
            "/pool/0123456789ABCDEF",
            "/pool/../0123456789abcdef",
            "/0123456789abcdef/..",
            "/",
        ] {
            volume.labels = [(DISK_POOL.to_owned(), pool.to_owned())].into();
            let error = pool_of(&volume, Operation::Destroy).unwrap_err();
            assert_eq!(error.kind, EngineErrorKind::Corrupt, "{pool}");
        }
        let pool = "/pool/0123456789abcdef";
        volume.labels = [(DISK_POOL.to_owned(), pool.to_owned())].into();
        assert_eq!(pool_of(&volume, Operation::Destroy).unwrap(), pool);
    }
}
