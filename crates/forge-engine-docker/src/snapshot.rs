//! Images of what setup has changed, so that what follows runs on it.
//!
//! Setup was root and could write everywhere, also where `forge-init` is. So what is ours is put
//! on top once more: whatever setup left there, PID 1 of the next sandbox is our own.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::{fs, io};

use bollard::models::{
    ChangeType, ContainerConfig, ContainerInspectResponse, FilesystemChange, ImageSummary,
};
use bollard::query_parameters::{
    CommitContainerOptions, InspectContainerOptions, ListImagesOptions, RemoveImageOptions,
};
use forge_core::SandboxId;
use forge_core::ownership::{Role, keys};
use forge_engine::{EngineError, FoundObject, ObjectKind, Operation, PreparedImage};

use crate::engine::{DockerEngine, environment_map};
use crate::failure::{During, engine_error, is_not_found};
use crate::names::container;
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
        if !self.has_changed(&name, &found).await? {
            return Ok(image.clone());
        }
        let config = found.config.unwrap_or_default();
        let labels = labels(config.labels.unwrap_or_default());
        let env = without_values(config.env.unwrap_or_default(), &image.env);
        let tag = id.as_str();
        let changed = self.commit_as_image(&name, None, &labels, env).await?;
        let result = self.put_ours_on_top(&changed, image, tag, &labels).await;
        if result.is_err() {
            self.remove_snapshot(&changed).await?;
        }
        let runnable = result?;
        if let Some(volumes) = self.known_volumes(&image.runnable) {
            self.remember_volumes(&runnable, volumes);
        }
        Ok(PreparedImage {
            runnable,
            ..image.clone()
        })
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
    ) -> Result<bool, EngineError> {
        let mounted = mounted(found);
        let storage = found.graph_driver.as_ref();
        let layer = storage.and_then(|driver| driver.data.get("UpperDir"));
        if let Some(layer) = layer
            && self.shares_disk().await?
            // Fails where the engine's data is not ours to read.
            && let Ok(changed) = layer_holds_anything(Path::new(layer), &mounted)
        {
            return Ok(changed);
        }
        // The engine finds changes by comparing every file of the image, which takes seconds, and
        // what its layer weighs in less than one. Only without a file of any size are there still
        // removals, folders and links to look for.
        if self.inspect(name, true).await?.size_rw > Some(0) {
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
        let result = match self.add(&stager, &image.reference, None).await {
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
            self.remove_snapshot(&earlier).await?;
        }
        Ok(made)
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
        Ok(images.into_iter().map(found).collect())
    }

    /// Removes a snapshot by its name or identifier; one that is gone is no failure.
    pub(crate) async fn remove_snapshot(&self, name: &str) -> Result<(), EngineError> {
        let options = None::<RemoveImageOptions>;
        match self.client.docker.remove_image(name, options, None).await {
            Err(error) if is_not_found(&error) => Ok(()),
            other => other.during(Operation::Destroy, name).map(|_| ()),
        }
    }
}

fn found(image: ImageSummary) -> FoundObject {
    let named = |tag: &&String| *tag != "<none>:<none>";
    let name = image.repo_tags.iter().find(named).unwrap_or(&image.id);
    FoundObject {
        kind: ObjectKind::Image,
        name: name.clone(),
        labels: image.labels.into_iter().collect(),
        running: false,
    }
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
fn labels(sandbox: HashMap<String, String>) -> BTreeMap<String, String> {
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
        let labels = labels(sandbox.into());
        let expected = [
            (crate::names::IMAGE_OF, ""),
            (crate::names::PREPARED_AS, ""),
            (keys::OWNER, "me"),
            (keys::ROLE, "snapshot"),
        ];
        let expected = expected.map(|(key, value)| (key.to_owned(), value.to_owned()));
        assert_eq!(labels, expected.into());
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
