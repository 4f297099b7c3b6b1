//! Images of what setup has changed, so that what follows runs on it.
//!
//! Setup was root and could write everywhere, also where `forge-init` is. So what is ours is put
//! on top once more: whatever setup left there, PID 1 of the next sandbox is our own.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bollard::errors::Error as BollardError;
use bollard::models::{
    ChangeType, ContainerConfig, ContainerInspectResponse, FilesystemChange, ImageSummary,
};
use bollard::query_parameters::{
    CommitContainerOptions, InspectContainerOptions, ListImagesOptions, RemoveImageOptions,
};
use forge_core::SandboxId;
use forge_core::ownership::{Role, keys};
use forge_engine::{
    EngineError, EngineErrorKind, FoundObject, ObjectKind, Operation, PreparedImage,
};

use crate::client::in_passing;
use crate::engine::{DockerEngine, environment_map};
use crate::failure::{During, engine_error, is_conflict, is_not_found};
use crate::names::container;
use crate::reference;
use crate::stager::Stager;

const OPERATION: Operation = Operation::Snapshot;
const REPOSITORY: &str = "swe-forge/snapshot";
/// First part of the labels that have a meaning here.
const OUR_LABELS: &str = "swe-forge.";
/// Labels of a sandbox that its snapshot has as well.
const KEPT: [&str; 8] = [
    keys::OWNER,
    keys::RUN,
    keys::TASK_ID,
    keys::ATTEMPT,
    keys::DIFFICULTY,
    keys::CREATED_AT,
    keys::EXPIRES_AT,
    keys::HOLDER,
];
/// How often a snapshot is tried to be removed that has another one on top, and how far apart.
const CHILD_ATTEMPTS: u32 = 10;
const CHILD_PAUSE: Duration = Duration::from_millis(200);
/// The least that a file counts: it takes room in the file system's own lists.
const LEAST: u64 = 4096;
/// What the engine itself writes when it starts a container, besides its mounts.
const ENGINES_OWN: [&str; 3] = ["/etc/hosts", "/etc/hostname", "/etc/resolv.conf"];

impl DockerEngine {
    /// Every process of the sandbox but PID 1 has ended before this: nothing is paused for it.
    pub(crate) async fn snapshot_sandbox(
        &self,
        id: &SandboxId,
        image: &PreparedImage,
    ) -> Result<PreparedImage, EngineError> {
        let name = container(id);
        let found = self.inspect(&name, false).await?;
        let layer = self.layer(&found).await?;
        if !self.has_changed(&name, &found, layer.as_deref()).await? {
            return Ok(image.clone());
        }
        self.check_size(id, &name, &found, layer).await?;
        let config = found.config.unwrap_or_default();
        let labels = labels(id, config.labels.unwrap_or_default());
        let env = without_values(config.env.unwrap_or_default(), &image.env);
        let tag = id.as_str();
        let changed = self.commit_as_image(&name, None, &labels, env).await?;
        let result = self.put_ours_on_top(&changed, image, tag, &labels).await;
        let runnable = match result {
            Ok(runnable) => runnable,
            Err(error) => return Err(self.discard(&changed, error).await),
        };
        if let Some(volumes) = self.known_volumes(&image.runnable) {
            self.remember_volumes(&runnable, volumes);
        }
        Ok(PreparedImage {
            runnable,
            ..image.clone()
        })
    }

    /// Removes what came of a failure, which stays the one that is told.
    async fn discard(&self, changed: &str, mut error: EngineError) -> EngineError {
        if let Err(left) = self.remove_snapshot(changed).await {
            tracing::warn!(image = changed, error = %left, "half of a snapshot was left behind");
            let note = format!("; its image {changed} is left for gc: {}", left.message);
            error.message.push_str(&note);
        }
        error
    }

    /// The folder where the engine keeps what a container has changed, where that is on our disk.
    async fn layer(
        &self,
        found: &ContainerInspectResponse,
    ) -> Result<Option<PathBuf>, EngineError> {
        let storage = found.graph_driver.as_ref();
        let layer = storage.and_then(|driver| driver.data.get("UpperDir"));
        Ok(match layer {
            Some(layer) if self.shares_disk().await? => Some(layer.into()),
            _ => None,
        })
    }

    /// Refuses what is larger than the sandbox's disk. PID 1 watches that as well, but from time
    /// to time, and by what files take up: an image holds every byte of a file with holes.
    async fn check_size(
        &self,
        id: &SandboxId,
        name: &str,
        found: &ContainerInspectResponse,
        layer: Option<PathBuf>,
    ) -> Result<(), EngineError> {
        let Some(limit) = disk_limit(found) else {
            return Ok(());
        };
        let seen = match layer {
            Some(layer) => tokio::task::spawn_blocking(move || weight(&layer, limit))
                .await
                .map_err(io::Error::other)
                .flatten()
                .ok(),
            None => None,
        };
        let size = match seen {
            Some(size) => size,
            None => {
                let told = told_size(self.inspect(name, true).await?.size_rw);
                told.map_err(|(kind, why)| EngineError::new(kind, OPERATION, id.as_str(), why))?
            }
        };
        if size <= limit {
            return Ok(());
        }
        let message = format!(
            "it wrote more outside of its workspace than its disk has: at least {size} bytes of \
             {limit}, holes in files included"
        );
        let kind = EngineErrorKind::Oversized;
        Err(EngineError::new(kind, OPERATION, id.as_str(), message))
    }

    async fn inspect(
        &self,
        name: &str,
        size: bool,
    ) -> Result<ContainerInspectResponse, EngineError> {
        let options = Some(InspectContainerOptions { size });
        let found = self.client.patient.inspect_container(name, options).await;
        found.during(OPERATION, name)
    }

    async fn has_changed(
        &self,
        name: &str,
        found: &ContainerInspectResponse,
        layer: Option<&Path>,
    ) -> Result<bool, EngineError> {
        let mounted = mounted(found);
        if let Some(layer) = layer
            // Fails where the engine's data is not ours to read.
            && let Ok(changed) = layer_holds_anything(layer, &mounted)
        {
            return Ok(changed);
        }
        // The engine finds changes by comparing every file of the image, which takes seconds, and
        // what its layer weighs in less than one. Only without a file of any size are there still
        // removals, folders and links to look for.
        let size = self.inspect(name, true).await?.size_rw;
        if size.is_some_and(|size| size != 0) {
            return Ok(true);
        }
        let changes = self.client.patient.container_changes(name).await;
        let changes = changes.during(OPERATION, name)?.unwrap_or_default();
        Ok(changes_anything(&changes, &mounted))
    }

    async fn put_ours_on_top(
        &self,
        changed: &str,
        image: &PreparedImage,
        tag: &str,
        labels: &BTreeMap<String, String>,
    ) -> Result<String, EngineError> {
        let earlier = self.tagged(tag).await?;
        let own = self.own_labels();
        let stager = Stager::create(&self.client, own, changed, Vec::new(), OPERATION).await?;
        let added = self.add(&stager, OPERATION, &image.reference, None).await;
        let result = match added {
            Ok(()) => {
                let name = stager.name();
                self.commit_as_image(name, Some(tag), labels, Vec::new())
                    .await
            }
            Err(error) => Err(error),
        };
        stager.remove().await;
        let made = result?;
        // Made by an attempt that did not live to say so; it has no name any more.
        if let Some(earlier) = earlier.filter(|earlier| *earlier != made) {
            in_passing("an earlier snapshot", self.remove_earlier(&earlier)).await;
        }
        Ok(made)
    }

    async fn remove_earlier(&self, image: &str) {
        if let Err(error) = self.remove_snapshot(image).await {
            // Its labels lead gc to it, and the new one is good.
            tracing::warn!(image, %error, "an earlier snapshot was left behind");
        }
    }

    async fn tagged(&self, tag: &str) -> Result<Option<String>, EngineError> {
        let name = format!("{REPOSITORY}:{tag}");
        match self.client.docker.inspect_image(&name).await {
            Ok(image) => Ok(image.id),
            Err(error) if is_not_found(&error) => Ok(None),
            Err(error) => Err(engine_error(OPERATION, &name, error)),
        }
    }

    /// The identifier of the image that a container is now.
    async fn commit_as_image(
        &self,
        name: &str,
        tag: Option<&str>,
        labels: &BTreeMap<String, String>,
        env: Vec<String>,
    ) -> Result<String, EngineError> {
        let options = CommitContainerOptions {
            container: Some(name.to_owned()),
            repo: tag.map(|_| REPOSITORY.to_owned()),
            tag: tag.map(str::to_owned),
            pause: false,
            ..CommitContainerOptions::default()
        };
        let config = ContainerConfig {
            labels: Some(labels.clone().into_iter().collect()),
            env: Some(env),
            ..ContainerConfig::default()
        };
        let committed = self.client.patient.commit_container(options, config).await;
        Ok(committed.during(OPERATION, name)?.id)
    }

    /// Snapshots among the images with these labels.
    pub(crate) async fn list_snapshots(
        &self,
        mut filters: HashMap<String, Vec<String>>,
    ) -> Result<Vec<FoundObject>, EngineError> {
        let role = format!("{}={}", keys::ROLE, Role::Snapshot);
        filters.entry("label".to_owned()).or_default().push(role);
        let options = ListImagesOptions {
            filters: Some(filters),
            ..ListImagesOptions::default()
        };
        let images = self.client.docker.list_images(Some(options)).await;
        let images = images.during(Operation::List, "images")?;
        Ok(images.into_iter().filter_map(found).collect())
    }

    /// Removes a snapshot by its name or identifier; one that is gone is no failure.
    ///
    /// An engine goes on with a commit whose client has died, so a half-made snapshot may get the
    /// other half on top of it at any moment: that goes first.
    pub(crate) async fn remove_snapshot(&self, name: &str) -> Result<(), EngineError> {
        let mut attempts = 1;
        loop {
            let options = None::<RemoveImageOptions>;
            match self.client.docker.remove_image(name, options, None).await {
                Err(error) if is_not_found(&error) => return Ok(()),
                Err(error) if has_children(&error) && attempts < CHILD_ATTEMPTS => {
                    attempts += 1;
                    self.remove_children(name).await?;
                    tokio::time::sleep(CHILD_PAUSE).await;
                }
                other => return other.during(Operation::Destroy, name).map(|_| ()),
            }
        }
    }

    /// Removes the snapshots that were made on top of one.
    async fn remove_children(&self, name: &str) -> Result<(), EngineError> {
        const DESTROY: Operation = Operation::Destroy;
        let parent = match self.client.docker.inspect_image(name).await {
            Err(error) if is_not_found(&error) => return Ok(()),
            other => other.during(DESTROY, name)?.id,
        };
        let role = format!("{}={}", keys::ROLE, Role::Snapshot);
        let options = ListImagesOptions {
            filters: Some(HashMap::from([("label".to_owned(), vec![role])])),
            ..ListImagesOptions::default()
        };
        let images = self.client.docker.list_images(Some(options)).await;
        let images = images.during(DESTROY, "images")?.into_iter();
        let on_top = images.filter(|image| Some(&image.parent_id) == parent.as_ref());
        for child in on_top.filter_map(found) {
            let options = None::<RemoveImageOptions>;
            let removed = self.client.docker.remove_image(&child.name, options, None);
            if let Err(error) = removed.await
                && !is_not_found(&error)
            {
                tracing::debug!(image = child.name, %error, "a snapshot on top of one stays");
            }
        }
        Ok(())
    }
}

/// Whether the engine keeps an image because of another one on top of it.
fn has_children(error: &BollardError) -> bool {
    is_conflict(error) && error.to_string().contains("dependent child")
}

/// An image as an object of ours. One that somebody made from a snapshot, or whose author wrote
/// labels like ours, has its own name and is left alone.
fn found(image: ImageSummary) -> Option<FoundObject> {
    let is_ours = |tag: &&String| reference::name(tag) == REPOSITORY;
    let mut names = image
        .repo_tags
        .iter()
        .filter(|tag| *tag != "<none>:<none>")
        .peekable();
    let name = match names.peek() {
        // Half made, or its name was taken by a later one.
        None => &image.id,
        Some(_) => names.find(is_ours)?,
    };
    Some(FoundObject {
        kind: ObjectKind::Image,
        name: name.clone(),
        labels: image.labels.into_iter().collect(),
        running: false,
    })
}

/// How much an engine says that a container has written. Where it does not say it, nothing is known
/// to be within a limit.
fn told_size(size: Option<i64>) -> Result<u64, (EngineErrorKind, &'static str)> {
    let Some(size) = size else {
        let why = "the engine does not say how much it wrote outside of its workspace";
        return Err((EngineErrorKind::Internal, why));
    };
    // An engine says so by a negative number, and a task can bring it to that.
    let unknown = |_| {
        let why = "what it wrote outside of its workspace cannot be added up; a path that is too \
                   long to be followed does that";
        (EngineErrorKind::Oversized, why)
    };
    u64::try_from(size).map_err(unknown)
}

/// The size of a sandbox's disk, which is also the limit of every single file in it.
fn disk_limit(container: &ContainerInspectResponse) -> Option<u64> {
    let host = container.host_config.as_ref()?;
    let mut limits = host.ulimits.iter().flatten();
    let limit = limits.find(|limit| limit.name.as_deref() == Some("fsize"))?;
    u64::try_from(limit.hard?).ok()
}

/// How many bytes an image of a layer has, as far as needed to see that it is past `limit`.
/// Follows nothing there. What cannot be reached by its path is not in an image either.
///
/// # Errors
/// The layer itself cannot be read.
fn weight(layer: &Path, limit: u64) -> io::Result<u64> {
    let mut size = 0_u64;
    let mut folders = vec![fs::read_dir(layer)?];
    while let Some(mut folder) = folders.pop() {
        while let Some(entry) = folder.next() {
            let Ok(entry) = entry else { continue };
            let Ok(metadata) = entry.metadata() else {
                continue;
            };
            size = size.saturating_add(weight_of(&metadata));
            if size > limit {
                return Ok(size);
            }
            if metadata.is_dir()
                && let Ok(below) = fs::read_dir(entry.path())
            {
                // Depth first: as many folders are open as are nested.
                folders.push(folder);
                folder = below;
            }
        }
    }
    Ok(size)
}

/// A file with several names is written once; each of them counts its part.
fn weight_of(metadata: &Metadata) -> u64 {
    if metadata.is_dir() {
        return LEAST;
    }
    metadata.len().max(LEAST).div_ceil(metadata.nlink().max(1))
}

/// Where something else than the container's own file system is.
fn mounted(container: &ContainerInspectResponse) -> Vec<String> {
    let mounts = container.mounts.iter().flatten();
    let mounts = mounts.filter_map(|mount| mount.destination.clone());
    let host = container.host_config.as_ref();
    let memory = host.and_then(|host| host.tmpfs.as_ref());
    let memory = memory.into_iter().flat_map(HashMap::keys).cloned();
    mounts
        .chain(memory)
        .chain(ENGINES_OWN.map(str::to_owned))
        .collect()
}

fn below(path: &str, folder: &str) -> bool {
    let rest = path.strip_prefix(folder.trim_end_matches('/'));
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// The same as [`changes_anything`], from the folder where the engine keeps what was changed.
/// Follows nothing there, and goes only into folders that are above a mount.
fn layer_holds_anything(layer: &Path, mounted: &[String]) -> io::Result<bool> {
    let mut folders = vec![String::new()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(layer.join(folder.trim_start_matches('/')))? {
            let entry = entry?;
            // A name that is no text is no mount's either.
            let Ok(name) = entry.file_name().into_string() else {
                return Ok(true);
            };
            let path = format!("{folder}/{name}");
            if mounted.iter().any(|mount| below(&path, mount)) {
                continue;
            }
            let above = mounted.iter().any(|mount| below(mount, &path));
            if !above || !entry.file_type()?.is_dir() {
                return Ok(true);
            }
            folders.push(path);
        }
    }
    Ok(false)
}

/// Whether a container has changed more than the engine does when it puts mounts in place: the
/// mount points themselves, and that the folders above them were written to.
fn changes_anything(changes: &[FilesystemChange], mounted: &[String]) -> bool {
    changes.iter().any(|change| {
        let by_engine = mounted.iter().any(|mount| {
            let above = change.kind == ChangeType::_0 && below(mount, &change.path);
            above || below(&change.path, mount)
        });
        !by_engine
    })
}

/// The labels of a sandbox as those of its snapshot. One that shall not be inherited must be
/// overwritten: a commit keeps what it is not told.
fn labels(id: &SandboxId, sandbox: HashMap<String, String>) -> BTreeMap<String, String> {
    let ours = sandbox
        .into_iter()
        .filter(|(key, _)| key.starts_with(OUR_LABELS));
    let mut labels: BTreeMap<String, String> = ours
        .map(|(key, value)| {
            let kept = KEPT.contains(&key.as_str());
            (key, if kept { value } else { String::new() })
        })
        .collect();
    labels.insert(keys::ROLE.to_owned(), Role::Snapshot.to_string());
    labels.insert(keys::SANDBOX.to_owned(), id.to_string());
    labels
}

/// Empties the variables that the sandbox was given: they were for its phase alone.
fn without_values(container: Vec<String>, image: &BTreeMap<String, String>) -> Vec<String> {
    environment_map(&container)
        .into_iter()
        .map(|(name, value)| match image.get(&name) {
            Some(of_image) if *of_image == value => format!("{name}={value}"),
            _ => format!("{name}="),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(kind: ChangeType, path: &str) -> FilesystemChange {
        FilesystemChange {
            path: path.into(),
            kind,
        }
    }

    #[test]
    fn only_what_the_engine_does_not_do_by_itself_counts_as_a_change() {
        let mounted = ["/workspace", "/.swe-forge/channel", "/etc/hosts"].map(str::to_owned);
        let (modified, added) = (ChangeType::_0, ChangeType::_1);
        let engines = [
            change(modified, "/.swe-forge"),
            change(added, "/.swe-forge/channel"),
            change(added, "/workspace/output"),
            change(modified, "/etc"),
            change(added, "/etc/hosts"),
        ];
        assert!(!changes_anything(&engines, &mounted));
        assert!(!changes_anything(&[], &mounted));
        for setups in [
            change(added, "/usr"),
            change(added, "/.swe-forge"),
            change(modified, "/.swe-forge/init"),
            change(added, "/workspaces"),
            change(ChangeType::_2, "/etc/hosts.allow"),
        ] {
            let all = [engines.to_vec(), vec![setups.clone()]].concat();
            assert!(changes_anything(&all, &mounted), "{setups:?}");
        }
    }

    #[test]
    fn a_layer_is_judged_like_the_engine_s_list_of_changes() {
        let mounted = ["/workspace", "/a/b/mount", "/etc/hosts"].map(str::to_owned);
        let folder = tempfile::tempdir().unwrap();
        let holds = || layer_holds_anything(folder.path(), &mounted).unwrap();
        for engines in ["workspace/output", "a/b/mount", "etc"] {
            fs::create_dir_all(folder.path().join(engines)).unwrap();
        }
        fs::write(folder.path().join("etc/hosts"), "").unwrap();
        assert!(!holds());
        for setups in ["usr", "etc/x", "a/b/c", "workspaces"] {
            let path = folder.path().join(setups);
            fs::create_dir(&path).unwrap();
            assert!(holds(), "{setups}");
            fs::remove_dir(&path).unwrap();
        }
        // What takes the place of a folder, as a removal does.
        fs::remove_dir_all(folder.path().join("a")).unwrap();
        std::os::unix::fs::symlink("/", folder.path().join("a")).unwrap();
        assert!(holds());
        assert!(layer_holds_anything(&folder.path().join("absent"), &mounted).is_err());
    }

    #[test]
    fn a_snapshot_has_its_sandbox_s_owner_and_nothing_that_would_make_it_a_prepared_image() {
        let sandbox = [
            (keys::OWNER, "me"),
            (keys::ROLE, "setup"),
            (crate::names::IMAGE_OF, "sha256:00"),
            (crate::names::PREPARED_AS, "tag"),
            ("maintainer", "somebody"),
        ];
        let sandbox = sandbox.map(|(key, value)| (key.to_owned(), value.to_owned()));
        let id = SandboxId::new("t-1-setup").unwrap();
        let labels = labels(&id, sandbox.into());
        let expected = [
            (crate::names::IMAGE_OF, ""),
            (crate::names::PREPARED_AS, ""),
            (keys::OWNER, "me"),
            (keys::ROLE, "snapshot"),
            (keys::SANDBOX, "t-1-setup"),
        ];
        let expected = expected.map(|(key, value)| (key.to_owned(), value.to_owned()));
        assert_eq!(labels, expected.into());
    }

    #[test]
    fn an_image_that_somebody_named_is_not_ours_whatever_its_labels_say() {
        let image = |names: &[&str]| ImageSummary {
            id: "sha256:00".into(),
            repo_tags: names.iter().map(|&name| name.to_owned()).collect(),
            ..ImageSummary::default()
        };
        let name = |names: &[&str]| found(image(names)).map(|object| object.name);
        assert_eq!(name(&[]).as_deref(), Some("sha256:00"));
        assert_eq!(name(&["<none>:<none>"]).as_deref(), Some("sha256:00"));
        let ours = "swe-forge/snapshot:t-1-setup";
        assert_eq!(name(&["kept:1", ours]).as_deref(), Some(ours));
        assert_eq!(name(&["theirs:1"]), None);
        assert_eq!(name(&["swe-forge/snapshots:1"]), None);
    }

    #[test]
    fn what_an_engine_does_not_say_the_size_of_is_within_no_limit() {
        assert_eq!(told_size(Some(7)), Ok(7));
        let kind = |size| told_size(size).unwrap_err().0;
        assert_eq!(kind(Some(-1)), EngineErrorKind::Oversized);
        assert_eq!(kind(None), EngineErrorKind::Internal);
    }

    #[test]
    fn a_layer_weighs_what_an_image_of_it_would() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::create_dir_all(path("a/b")).unwrap();
        fs::write(path("a/b/empty"), "").unwrap();
        assert_eq!(weight(folder.path(), u64::MAX).unwrap(), 3 * LEAST);
        let holes = fs::File::create(path("a/holes")).unwrap();
        holes.set_len(1 << 40).unwrap();
        fs::hard_link(path("a/holes"), path("second")).unwrap();
        // Neither of them leads out of the layer.
        std::os::unix::fs::symlink("/", path("link")).unwrap();
        nix::unistd::mkfifo(&path("pipe"), nix::sys::stat::Mode::S_IRUSR).unwrap();
        let all = weight(folder.path(), u64::MAX).unwrap();
        assert_eq!(all, (1 << 40) + 5 * LEAST);
        assert!(weight(folder.path(), 1 << 20).unwrap() > 1 << 20);
        assert!(weight(&path("absent"), 1).is_err());
    }

    #[test]
    fn what_a_sandbox_was_given_is_in_no_image() {
        let image = BTreeMap::from([("PATH".to_owned(), "/bin".to_owned())]);
        let container = ["PATH=/bin", "TOKEN=secret", "TASK_ID=t"].map(str::to_owned);
        let env = without_values(container.to_vec(), &image);
        assert_eq!(env, ["PATH=/bin", "TASK_ID=", "TOKEN="]);
        let other = ["PATH=/other".to_owned()];
        assert_eq!(without_values(other.to_vec(), &image), ["PATH="]);
    }
}
