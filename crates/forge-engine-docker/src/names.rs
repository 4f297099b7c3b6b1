//! What the objects of a sandbox are called on the engine, and the labels only this engine uses.

use forge_core::SandboxId;
use forge_core::ownership::keys;

use crate::context::is_hex;

/// Digest of the specification an object was made from.
pub(crate) const SPECIFICATION_DIGEST: &str = "swe-forge.spec";
/// On a prepared image: the identifier of the image it was made from.
pub(crate) const IMAGE_OF: &str = "swe-forge.image.of";
/// On a prepared image: the tag it was made for.
pub(crate) const PREPARED_AS: &str = "swe-forge.image.prepared_as";
/// Repository of prepared images.
pub(crate) const PREPARED_REPOSITORY: &str = "swe-forge/prepared";
/// Role of prepared images.
pub(crate) const PREPARED_ROLE: &str = "prepared-image";
/// Role of the image that disk sharing is probed with.
pub(crate) const PROBE_ROLE: &str = "probe-image";
/// Repository and tag of that image.
pub(crate) const PROBE_IMAGE: &str = "swe-forge/probe:1";
/// On a volume that shades one declared by an image: the sandbox it is for.
pub(crate) const SHADE_OF: &str = "swe-forge.shade";
/// Role of such volumes.
pub(crate) const SHADE_ROLE: &str = "shade";
/// Repository of the egress proxy's image.
pub(crate) const EGRESS_REPOSITORY: &str = "swe-forge/egress";
/// Role of that image.
pub(crate) const EGRESS_IMAGE_ROLE: &str = "egress-image";
/// On a sandbox with a network: the folder of its socket.
pub(crate) const EGRESS_FOLDER: &str = "swe-forge.egress.folder";
/// On a sandbox with a network: the proxy that serves the socket.
pub(crate) const EGRESS_PROXY: &str = "swe-forge.egress.proxy";
/// On the proxy: what it was made by.
pub(crate) const EGRESS_PLAN: &str = "swe-forge.egress.plan";
/// On the volume of a workspace: what holds its size.
pub(crate) const DISK_QUOTA: &str = "swe-forge.disk";
/// On one that is a file of a pool: the pool.
pub(crate) const DISK_POOL: &str = "swe-forge.disk.pool";
/// Repository of the image that makes such files where this process cannot.
pub(crate) const DISK_REPOSITORY: &str = "swe-forge/disk";
/// Role of that image.
pub(crate) const DISK_IMAGE_ROLE: &str = "disk-image";
/// First part of the names of base images; these are built here, never pulled.
pub(crate) const BASE_IMAGES: &str = "swe-forge/";

/// First part of every name that is given here to what can be removed by it.
const OURS: &str = "swe-forge-";
/// Digits of the identifier that stands for a name.
const IDENTIFIER: usize = 64;

const CONTAINER: &str = "swe-forge-task-";
const WORKSPACE: &str = "swe-forge-workspace-";

/// The container of a sandbox.
pub(crate) fn container(id: &SandboxId) -> String {
    format!("{CONTAINER}{id}")
}

/// The container, network and volume of the egress proxy that `distinction` tells from others.
pub(crate) fn egress_name(distinction: &str) -> String {
    format!("swe-forge-egress-{distinction}")
}

/// The sandbox of a container name.
pub(crate) fn sandbox_of(container: &str) -> Option<SandboxId> {
    SandboxId::new(container.strip_prefix(CONTAINER)?).ok()
}

/// The volumes of a workspace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Volumes {
    /// `/workspace`.
    pub(crate) workspace: String,
    /// `/workspace/.swe-forge`.
    pub(crate) specification: String,
    /// `/workspace/tests`, where the workspace was made with a place for them.
    pub(crate) tests: String,
}

impl Volumes {
    /// The volumes of workspace `id`.
    pub(crate) fn of(id: &SandboxId) -> Self {
        Self {
            workspace: format!("{WORKSPACE}{id}"),
            specification: format!("swe-forge-spec-{id}"),
            tests: format!("swe-forge-tests-{id}"),
        }
    }

    /// Their names; that of the tests only where there is a place for them.
    pub(crate) fn all(&self, tests: bool) -> impl Iterator<Item = &str> {
        let tests = tests.then_some(self.tests.as_str());
        [self.workspace.as_str(), &self.specification]
            .into_iter()
            .chain(tests)
    }
}

/// Whether a volume is that of a `/workspace`.
pub(crate) fn is_workspace(volume: &str) -> bool {
    volume.starts_with(WORKSPACE)
}

/// The volume that shades the one with this number of those an image declares.
pub(crate) fn shade(id: &SandboxId, number: usize) -> String {
    format!("{}{number}", shades(id))
}

/// First part of the names of all that shade for a sandbox.
pub(crate) fn shades(id: &SandboxId) -> String {
    format!("swe-forge-shade-{id}-")
}

/// Whether what carries an owner label is ours by its name as well. The label alone says nothing: a
/// container inherits those of its image, which anybody may write, and one that somebody runs from
/// a snapshot has ours. With `own`, the label of this installation, an identifier will do: the name
/// of a container is taken away before the container is.
pub(crate) fn is_ours(name: &str, own: bool) -> bool {
    name.starts_with(OURS) || (own && is_hex(name, IDENTIFIER))
}

/// A filter that finds what carries an owner label: of `owner`, or of anybody.
pub(crate) fn owner_filter(owner: Option<&str>) -> std::collections::HashMap<String, Vec<String>> {
    let label = match owner {
        Some(owner) => format!("{}={owner}", keys::OWNER),
        None => keys::OWNER.to_owned(),
    };
    [("label".to_owned(), vec![label])].into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_name_leads_back_to_its_sandbox() {
        let id = SandboxId::new("py-lru-1a2b3c4d-1-verify").unwrap();
        assert_eq!(sandbox_of(&container(&id)), Some(id));
        assert_eq!(sandbox_of("somebody-elses"), None);
        assert_eq!(sandbox_of("swe-forge-task-../x"), None);
    }

    #[test]
    fn only_what_has_a_name_of_ours_is_ours_but_for_what_is_losing_its_name() {
        let id = SandboxId::new("a").unwrap();
        let volumes = Volumes::of(&id);
        let names = volumes.all(true).map(str::to_owned);
        let others = [container(&id), egress_name("x"), shade(&id, 0)];
        for name in names.chain(others) {
            assert!(is_ours(&name, false), "{name}");
        }
        for name in ["eager_pike", "swe-forge", "my-swe-forge-task-a", ""] {
            assert!(!is_ours(name, true), "{name}");
        }
        let identifier = "0a".repeat(32);
        assert!(is_ours(&identifier, true) && !is_ours(&identifier, false));
        assert!(!is_ours(&identifier[1..], true) && !is_ours(&"xy".repeat(32), true));
    }
}
