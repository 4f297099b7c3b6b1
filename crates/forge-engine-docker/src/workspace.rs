//! A workspace: volumes that outlive the containers of an attempt.
//!
//! One is of a size that holds, with the folder for what shall be kept in it; another has the
//! specification, and a third, where asked for, is the place for tests. They are filled in place
//! where the engine's disk is ours, and through a container that never starts everywhere else. Both
//! ways leave the same owners, modes and contents.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use bollard::models::{Mount, MountType, MountVolumeOptions, Volume, VolumeCreateRequest};
use bollard::query_parameters::RemoveVolumeOptions;
use forge_core::ownership::{Ownership, Role, keys};
use forge_core::sandbox::{OUTPUT, SPECIFICATION, TESTS, WORKSPACE};
use forge_core::{DiskQuota, SandboxId, SpecificationFile, UserId, WorkspaceSpec};
use forge_engine::{EngineError, EngineErrorKind, Operation, PreparedImage};
use nix::fcntl::OFlag;
use sha2::{Digest, Sha256};

use crate::archive::Archive;
use crate::context::hex;
use crate::disk::{DiskSettings, quota_of};
use crate::engine::DockerEngine;
use crate::failure::{During, engine_error, is_not_found};
use crate::names::{SPECIFICATION_DIGEST, Volumes, is_workspace};
use crate::stager::Stager;

const OPERATION: Operation = Operation::CreateWorkspace;
const FOLDER_MODE: u32 = 0o755;
const FILE_MODE: u32 = 0o644;

impl DockerEngine {
    pub(crate) async fn make_workspace(
        &self,
        spec: &WorkspaceSpec,
        image: &PreparedImage,
    ) -> Result<DiskQuota, EngineError> {
        check_names(spec)?;
        let names = Volumes::of(&spec.id);
        let settings = self.disk_settings(spec, &names.workspace).await?;
        let workspace = async {
            let role = Role::Workspace;
            let volume = self.make_volume(spec, &names.workspace, role, settings);
            let volume = volume.await?;
            if quota_of(&volume) == DiskQuota::Loop {
                self.make_loop_volume(spec, &volume).await?;
            }
            Ok::<_, EngineError>(volume)
        };
        let (role, none) = (Role::Specification, DiskSettings::default());
        let specification = self.make_volume(spec, &names.specification, role, none);
        let tests = async {
            if spec.tests {
                let (role, none) = (Role::Tests, DiskSettings::default());
                self.make_volume(spec, &names.tests, role, none).await?;
            }
            Ok::<_, EngineError>(())
        };
        // All are awaited: one that is still being made could not be removed.
        let (workspace, specification, tests) = futures::join!(workspace, specification, tests);
        let (workspace, specification) = (workspace?, specification?);
        tests?;
        let quota = quota_of(&workspace);
        let visible = Mountpoints {
            workspace: (quota != DiskQuota::Loop).then(|| workspace.mountpoint.into()),
            specification: specification.mountpoint.into(),
        };
        if self.fills_in_place().await? && visible.are_here() {
            let spec = spec.clone();
            let subject = spec.id.to_string();
            tokio::task::spawn_blocking(move || visible.fill(&spec))
                .await
                .map_err(io::Error::other)
                .flatten()
                .during(OPERATION, &subject)?;
        } else {
            self.fill_through_stager(spec, image).await?;
        }
        Ok(quota)
    }

    /// Sees to it that the volumes of a workspace are there: an engine makes one that is missing,
    /// empty, and says nothing. Asked before every sandbox, since a phase that finds an empty
    /// workspace ends in a verdict about nothing.
    pub(crate) async fn check_workspace(
        &self,
        id: &SandboxId,
        tests: bool,
    ) -> Result<(), EngineError> {
        let volumes = Volumes::of(id);
        let looks = volumes.all(tests).map(|name| self.check_volume(id, name));
        futures::future::try_join_all(looks).await.map(drop)
    }

    async fn check_volume(&self, id: &SandboxId, name: &str) -> Result<(), EngineError> {
        let why = match self.client.docker.inspect_volume(name).await {
            // What an engine makes for a mount has the mount's labels and no other.
            Ok(volume) if volume.labels.contains_key(SPECIFICATION_DIGEST) => return Ok(()),
            Ok(_) => format!("volume {name} was lost and is empty"),
            Err(error) if is_not_found(&error) => format!("no volume {name}"),
            Err(error) => return Err(engine_error(Operation::Create, name, error)),
        };
        Err(EngineError::new(
            EngineErrorKind::NotFound,
            Operation::Create,
            id.as_str(),
            format!("its workspace is not there: {why}"),
        ))
    }

    /// Ownership can be set from outside only by root, on the same disk, with the same user ids.
    pub(crate) async fn fills_in_place(&self) -> Result<bool, EngineError> {
        let root = nix::unistd::geteuid().is_root();
        Ok(root && self.shares_disk().await? && !self.machine().await?.remapped)
    }

    async fn make_volume(
        &self,
        spec: &WorkspaceSpec,
        name: &str,
        role: Role,
        disk: DiskSettings,
    ) -> Result<Volume, EngineError> {
        let mut labels = spec.ownership.labels(role);
        labels.insert(SPECIFICATION_DIGEST.to_owned(), digest(spec));
        let of_disk = disk.labels.into_iter();
        labels.extend(of_disk.map(|(key, value)| (key.to_owned(), value)));
        let request = VolumeCreateRequest {
            name: Some(name.to_owned()),
            driver: Some("local".to_owned()),
            driver_opts: Some(disk.options),
            labels: Some(labels.clone().into_iter().collect()),
            ..VolumeCreateRequest::default()
        };
        // An engine answers with the volume that is there, when one is.
        let volume = self.client.docker.create_volume(request).await;
        let volume = volume.during(OPERATION, name)?;
        let decisive = [
            keys::OWNER,
            keys::RUN,
            keys::TASK_ID,
            keys::ATTEMPT,
            SPECIFICATION_DIGEST,
        ];
        match decisive
            .into_iter()
            .find(|&key| volume.labels.get(key) != labels.get(key))
        {
            None => Ok(volume),
            Some(key) => Err(EngineError::new(
                EngineErrorKind::Conflict,
                OPERATION,
                name,
                format!("the volume is there already with another {key}"),
            )),
        }
    }

    async fn fill_through_stager(
        &self,
        spec: &WorkspaceSpec,
        image: &PreparedImage,
    ) -> Result<(), EngineError> {
        let archive = archive(spec).during(OPERATION, spec.id.as_str())?;
        let stager = match self.workspace_stager(spec, image).await {
            Err(error) if error.kind == EngineErrorKind::NotFound => {
                self.prepare_again(image).await?;
                self.workspace_stager(spec, image).await
            }
            other => other,
        }?;
        let result = stager.put(archive).await;
        stager.remove().await;
        result
    }

    async fn workspace_stager(
        &self,
        spec: &WorkspaceSpec,
        image: &PreparedImage,
    ) -> Result<Stager<'_>, EngineError> {
        let labels = spec.ownership.labels(Role::Stager);
        let mounts = mounts(&spec.id, &spec.ownership, false);
        Stager::create(&self.client, labels, &image.runnable, mounts, OPERATION).await
    }

    pub(crate) async fn remove_workspace(&self, id: &SandboxId) -> Result<(), EngineError> {
        let volumes = Volumes::of(id);
        // All are tried, also when one is in use. Whether there are tests is not known to everybody
        // who removes.
        let removals = volumes.all(true).map(|name| self.remove_volume(name));
        let removed = futures::future::join_all(removals).await;
        removed.into_iter().collect()
    }

    pub(crate) async fn remove_volume(&self, name: &str) -> Result<(), EngineError> {
        if is_workspace(name) {
            self.remove_loop_volume(name).await?;
        }
        let options = None::<RemoveVolumeOptions>;
        match self.client.docker.remove_volume(name, options).await {
            Err(error) if is_not_found(&error) => Ok(()),
            other => other.during(Operation::Destroy, name),
        }
    }
}

/// The mounts of a workspace. With `sealed` the specification is read-only, as in a sandbox.
pub(crate) fn mounts(id: &SandboxId, ownership: &Ownership, sealed: bool) -> Vec<Mount> {
    let volumes = Volumes::of(id);
    let (workspace, specification) = (Role::Workspace, Role::Specification);
    let labels = |role| ownership.labels(role);
    vec![
        mount(volumes.workspace, WORKSPACE, labels(workspace), false),
        mount(
            volumes.specification,
            SPECIFICATION,
            labels(specification),
            sealed,
        ),
    ]
}

/// The mount of a workspace's tests; `sealed` as in a sandbox.
pub(crate) fn tests_mount(id: &SandboxId, labels: BTreeMap<String, String>, sealed: bool) -> Mount {
    mount(Volumes::of(id).tests, TESTS, labels, sealed)
}

/// `labels` are for a volume that was removed after it was looked for: by them somebody finds the
/// one that the engine then makes.
fn mount(source: String, target: &str, labels: BTreeMap<String, String>, read_only: bool) -> Mount {
    Mount {
        typ: Some(MountType::VOLUME),
        source: Some(source),
        target: Some(target.to_owned()),
        read_only: Some(read_only),
        volume_options: Some(MountVolumeOptions {
            // What an image has in these places is not part of the task.
            no_copy: Some(true),
            labels: Some(labels.into_iter().collect()),
            ..MountVolumeOptions::default()
        }),
        ..Mount::default()
    }
}

/// File names are part of a path below; they must stay one component of it.
fn check_names(spec: &WorkspaceSpec) -> Result<(), EngineError> {
    let bad = |file: &&SpecificationFile| {
        let name = &file.name;
        name.is_empty() || name == "." || name == ".." || name.contains(['/', '\0'])
    };
    match spec.specification.iter().find(bad) {
        None => Ok(()),
        Some(file) => Err(EngineError::new(
            EngineErrorKind::Rejected,
            OPERATION,
            spec.id.as_str(),
            format!("{:?} is not a file name", file.name),
        )),
    }
}

/// What a workspace is made from, without its labels.
fn digest(spec: &WorkspaceSpec) -> String {
    let mut hasher = Sha256::new();
    hasher.update(spec.user.uid().to_le_bytes());
    hasher.update(spec.user.gid().to_le_bytes());
    hasher.update(spec.disk_bytes.to_le_bytes());
    hasher.update(spec.disk_files.to_le_bytes());
    hasher.update([u8::from(spec.tests)]);
    for file in &spec.specification {
        for part in [file.name.as_bytes(), &file.contents] {
            hasher.update((part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
    }
    hex(&hasher.finalize())
}

/// The workspace as an archive for `/`. An archive's own top folder keeps its owner, so the
/// volumes' roots are set as entries of the folder above.
fn archive(spec: &WorkspaceSpec) -> io::Result<bytes::Bytes> {
    let inside = |path: &'static str| path.trim_start_matches('/');
    let mut archive = Archive::new();
    archive.folder(inside(WORKSPACE), FOLDER_MODE, Some(spec.user))?;
    archive.folder(inside(OUTPUT), FOLDER_MODE, Some(spec.user))?;
    archive.folder(inside(SPECIFICATION), FOLDER_MODE, None)?;
    for file in &spec.specification {
        let path = format!("{}/{}", inside(SPECIFICATION), file.name);
        archive.file(&path, FILE_MODE, &file.contents)?;
    }
    archive.finish()
}

/// Where the engine keeps the volumes.
struct Mountpoints {
    /// None for one that is a file system of its own, which has its folders from the start and is
    /// not there before a container is.
    workspace: Option<PathBuf>,
    specification: PathBuf,
}

impl Mountpoints {
    /// Whether this process sees them. Their names are unique, so what is there is meant.
    fn are_here(&self) -> bool {
        self.workspace
            .iter()
            .chain([&self.specification])
            .all(|path| path.is_absolute() && path.is_dir())
    }

    /// The folders above the volumes belong to the engine, so only the last component of a path
    /// could be a link that a task made; those are opened without following.
    fn fill(&self, spec: &WorkspaceSpec) -> io::Result<()> {
        if let Some(workspace) = &self.workspace {
            own(workspace, Some(spec.user))?;
            // The specification's is a mount point; the engine would make it as well, but only
            // when the first container starts.
            for (name, user) in [(SPECIFICATION, None), (OUTPUT, Some(spec.user))] {
                let name = name.trim_start_matches(WORKSPACE).trim_start_matches('/');
                let path = workspace.join(name);
                make_folder(&path)?;
                own(&path, user)?;
            }
        }
        own(&self.specification, None)?;
        for file in &spec.specification {
            write_file(&self.specification.join(&file.name), &file.contents)?;
        }
        Ok(())
    }
}

fn make_folder(path: &Path) -> io::Result<()> {
    match fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

fn own(folder: &Path, user: Option<UserId>) -> io::Result<()> {
    let folder = OpenOptions::new()
        .read(true)
        .custom_flags((OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW).bits())
        .open(folder)?;
    set(&folder, FOLDER_MODE, user)
}

fn write_file(path: &Path, contents: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(FILE_MODE)
        .custom_flags(OFlag::O_NOFOLLOW.bits())
        .open(path)?;
    file.write_all(contents)?;
    set(&file, FILE_MODE, None)
}

fn set(file: &File, mode: u32, user: Option<UserId>) -> io::Result<()> {
    let (uid, gid) = user.map_or((0, 0), |user| (user.uid(), user.gid()));
    fchown(file, Some(uid), Some(gid))?;
    // Set apart from creation: the process's umask has no say in it.
    file.set_permissions(fs::Permissions::from_mode(mode))
}

#[cfg(test)]
mod tests {
    use super::*;
    use forge_core::{Attempt, Difficulty, OwnerId, RunId, TaskId};

    #[test]
    fn a_link_in_place_of_a_folder_or_file_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("target");
        fs::create_dir(&target).unwrap();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&target, &link).unwrap();
        assert!(own(&link, None).is_err());
        let victim = folder.path().join("victim");
        fs::write(&victim, "kept").unwrap();
        let link = folder.path().join("file");
        std::os::unix::fs::symlink(&victim, &link).unwrap();
        assert!(write_file(&link, b"new").is_err());
        assert_eq!(fs::read(&victim).unwrap(), b"kept");
    }

    #[test]
    fn the_specification_is_read_only_in_a_sandbox_only() {
        let id = SandboxId::new("x").unwrap();
        let read_only = |sealed| {
            mounts(&id, &ownership(), sealed)
                .into_iter()
                .filter(|mount| mount.read_only == Some(true))
                .map(|mount| mount.target.unwrap())
                .collect::<Vec<_>>()
        };
        assert_eq!(read_only(true), [SPECIFICATION]);
        assert!(read_only(false).is_empty());
    }

    #[test]
    fn a_volume_that_the_engine_makes_for_a_mount_can_be_found_and_told_from_a_workspace() {
        let id = SandboxId::new("x").unwrap();
        let tests = tests_mount(&id, ownership().labels(Role::Tests), true);
        let all = mounts(&id, &ownership(), true).into_iter().chain([tests]);
        let roles = all.map(|mount| {
            let labels = mount.volume_options.unwrap().labels.unwrap();
            assert_eq!(labels[keys::OWNER], "me");
            assert_eq!(labels[keys::HOLDER], "1@2");
            assert!(labels.contains_key(keys::EXPIRES_AT));
            assert!(!labels.contains_key(SPECIFICATION_DIGEST));
            labels[keys::ROLE].clone()
        });
        assert!(roles.eq(["workspace", "specification", "tests"]));
    }

    fn ownership() -> Ownership {
        Ownership {
            owner: OwnerId::new("me").unwrap(),
            run: RunId::from_uuid(uuid::Uuid::nil()),
            task: TaskId::new("t").unwrap(),
            attempt: Attempt(1),
            difficulty: Difficulty::Easy,
            created_at: "2026-01-01T00:00:00Z".parse().unwrap(),
            expires_at: "2026-01-01T02:00:00Z".parse().unwrap(),
            holder: "1@2".into(),
        }
    }
}
