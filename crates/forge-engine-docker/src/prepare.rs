//! Making an image runnable: a derived image that holds `forge-init` and the mount points.
//!
//! The image is derived once and found by its tag ever after. A container that runs from it needs
//! nothing copied in, so preparing costs nothing when it matters.

mod accounts;
mod trusted;

use std::collections::BTreeMap;
use std::sync::Arc;

use bollard::models::{ContainerConfig, ImageConfig, ImageInspect};
use bollard::query_parameters::CommitContainerOptions;
use forge_core::ownership::keys;
use forge_engine::{EngineError, EngineErrorKind, Operation, PreparedImage};
use forge_wire::INIT_PATH;
use sha2::{Digest, Sha256};

use crate::archive::Archive;
use crate::context::hex;
use crate::engine::{DockerEngine, environment_map};
use crate::failure::{During, engine_error, is_not_found};
use crate::names::{BASE_IMAGES, IMAGE_OF, PREPARED_AS, PREPARED_REPOSITORY, PREPARED_ROLE};
use crate::reference;
use crate::stager::Stager;
use trusted::Trusted;

/// Grows when what is put into prepared images changes.
const REVISION: u32 = 7;
/// Cargo reads the configuration of every folder above the one it works in.
const CARGO_FOLDER: &str = ".cargo";
const CARGO_CONFIG: &str = ".cargo/config.toml";
/// Variables of an image that are not handed on to commands: they make every program load or run
/// something first, so a reference image that sets one would change what a verdict means. An
/// image that needs a library path keeps it; `LD_LIBRARY_PATH` alone runs nothing.
const DROPPED_VARIABLES: [&str; 5] = ["LD_PRELOAD", "LD_AUDIT", "BASH_ENV", "ENV", "SHELLOPTS"];
/// First part of the labels that have a meaning here.
const OUR_LABELS: &str = "swe-forge.";
/// Volumes that an image may declare; each is filled from the image for every sandbox.
const MAX_VOLUMES: usize = 32;
/// Where programs are looked for when an image does not say.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

const OPERATION: Operation = Operation::PrepareImage;

impl DockerEngine {
    pub(crate) async fn prepare(&self, reference: &str) -> Result<PreparedImage, EngineError> {
        reference::check(reference, OPERATION)?;
        // What making a sandbox must know is found out now, where nobody waits for milliseconds.
        // All is awaited even when one fails: what is half made must be removed as well.
        let (image, machine, shares_disk) = futures::join!(
            self.image_here(reference),
            self.machine(),
            self.shares_disk()
        );
        let source = Source::of(reference, image?)?;
        machine?;
        shares_disk?;
        self.make_runnable(source).await
    }

    /// Makes an image runnable again whose prepared form somebody has removed since: a program with
    /// another `forge-init`, or a person.
    pub(crate) async fn prepare_again(&self, image: &PreparedImage) -> Result<(), EngineError> {
        let reference = &image.reference;
        if !image.runnable.starts_with(PREPARED_REPOSITORY) {
            let message = "what setup has changed is gone: the image of it was removed";
            return Err(absent(reference, message.to_owned()));
        }
        if let Some(found) = self.find_image(reference).await? {
            let again = self.make_runnable(Source::of(reference, found)?).await?;
            if again.runnable == image.runnable {
                return Ok(());
            }
        }
        Err(absent(
            reference,
            "its prepared form is gone, and the reference names another image by now".to_owned(),
        ))
    }

    async fn make_runnable(&self, source: Source) -> Result<PreparedImage, EngineError> {
        source.check_machine(self.client.version.arch.as_deref(), &self.init.bytes)?;
        let tag = self.tag_for(&source.id);
        let runnable = format!("{PREPARED_REPOSITORY}:{tag}");
        if !self.is_prepared(&runnable, &source.id).await? {
            // One at a time; whoever waited finds the work done.
            let _turn = self.preparing.lock().await;
            if !self.is_prepared(&runnable, &source.id).await? {
                self.derive(&source, &tag).await?;
            }
        }
        self.remember_volumes(&runnable, source.volumes.clone());
        Ok(PreparedImage {
            reference: source.reference,
            runnable,
            digest: source.digest,
            size_bytes: source.size_bytes,
            env: source.env,
        })
    }

    /// The labels of what is made for no workspace.
    pub(crate) fn own_labels(&self) -> BTreeMap<String, String> {
        [
            (keys::OWNER, self.owner.to_string()),
            (keys::HOLDER, self.holder.clone()),
        ]
        .map(|(key, value)| (key.to_owned(), value))
        .into()
    }

    fn tag_for(&self, image_id: &str) -> String {
        let mut hasher = Sha256::new();
        for part in [image_id, &self.additions_digest, &REVISION.to_string()] {
            hasher.update(part.as_bytes());
            hasher.update([0]);
        }
        hex(&hasher.finalize()[..8])
    }

    async fn image_here(&self, reference: &str) -> Result<ImageInspect, EngineError> {
        if let Some(image) = self.find_image(reference).await? {
            return Ok(image);
        }
        if reference.contains('@') {
            return Err(absent(
                reference,
                "no image of this name on the engine has this digest".to_owned(),
            ));
        }
        if let Some(base) = reference.strip_prefix(BASE_IMAGES) {
            let name = reference::name(base).trim_end_matches("-base");
            return Err(absent(
                reference,
                format!(
                    "this base image is not here; make it with `swe-forge images build {name}`"
                ),
            ));
        }
        Err(absent(
            reference,
            format!(
                "the image is not on the engine, and none is pulled for a task; get it with \
                 `docker pull {reference}`"
            ),
        ))
    }

    /// The image of a reference; one with a digest is that image or none.
    async fn find_image(&self, reference: &str) -> Result<Option<ImageInspect>, EngineError> {
        let pin = reference::pin(reference, OPERATION)?;
        let found = match (self.inspect_if_there(reference).await?, pin) {
            // An image that was built here has no registry's digest; its identifier is one as well.
            (None, Some(pin)) => self.inspect_if_there(pin).await?,
            (found, _) => found,
        };
        if let (Some(image), Some(pin)) = (&found, pin) {
            check_pin(reference, pin, image)?;
        }
        Ok(found)
    }

    async fn inspect_if_there(&self, name: &str) -> Result<Option<ImageInspect>, EngineError> {
        match self.client.docker.inspect_image(name).await {
            Ok(image) => Ok(Some(image)),
            Err(error) if is_not_found(&error) => Ok(None),
            Err(error) => Err(engine_error(OPERATION, name, error)),
        }
    }

    async fn is_prepared(&self, runnable: &str, image_id: &str) -> Result<bool, EngineError> {
        let Some(image) = self.inspect_if_there(runnable).await? else {
            return Ok(false);
        };
        let labels = image.config.and_then(|config| config.labels);
        let of = labels.and_then(|mut labels| labels.remove(IMAGE_OF));
        Ok(of.as_deref() == Some(image_id))
    }

    async fn derive(&self, source: &Source, tag: &str) -> Result<(), EngineError> {
        // What the image's own labels say would be inherited.
        let mut labels = source.emptied_labels();
        labels.extend(self.own_labels());
        let stager =
            Stager::create(&self.client, labels, &source.id, Vec::new(), OPERATION).await?;
        let config = self.cargo_config.as_deref();
        let result = match self
            .add(&stager, OPERATION, &source.reference, config)
            .await
        {
            Ok(()) => self.commit(&stager, source, tag).await,
            Err(error) => Err(error),
        };
        stager.remove().await;
        result?;
        self.remove_superseded(&source.id, tag).await;
        Ok(())
    }

    /// Puts what is ours on top of the image of a stager, once nothing there would hang the engine.
    pub(crate) async fn add(
        &self,
        stager: &Stager<'_>,
        operation: Operation,
        reference: &str,
        cargo_config: Option<&str>,
    ) -> Result<(), EngineError> {
        // First of all: to send a file, the engine looks up its owner, in the image's own lists.
        let lists = accounts::to_replace(stager, operation, reference).await?;
        let trusted = match &self.certificates {
            Some(certificates) => Some(Trusted::find(stager, certificates).await?),
            None => None,
        };
        let init = Init {
            bytes: &self.init.bytes,
            readable: self.runtime.is_some(),
        };
        let archive = layer(&init, trusted.as_ref(), cargo_config, &lists);
        stager.put(archive.during(operation, reference)?).await
    }

    async fn commit(
        &self,
        stager: &Stager<'_>,
        source: &Source,
        tag: &str,
    ) -> Result<(), EngineError> {
        let runnable = format!("{PREPARED_REPOSITORY}:{tag}");
        if self.is_prepared(&runnable, &source.id).await? {
            // Another process was faster.
            return Ok(());
        }
        // Labels of the stager would be inherited, and an image does not end with it or its maker.
        let ours = [
            (keys::OWNER, self.owner.to_string()),
            (keys::ROLE, PREPARED_ROLE.to_owned()),
            (keys::EXPIRES_AT, String::new()),
            (keys::HOLDER, String::new()),
            (IMAGE_OF, source.id.clone()),
            (PREPARED_AS, tag.to_owned()),
        ];
        let mut labels = source.emptied_labels();
        labels.extend(ours.map(|(key, value)| (key.to_owned(), value)));
        let config = ContainerConfig {
            labels: Some(labels.into_iter().collect()),
            ..ContainerConfig::default()
        };
        let options = CommitContainerOptions {
            container: Some(stager.name().to_owned()),
            repo: Some(PREPARED_REPOSITORY.to_owned()),
            tag: Some(tag.to_owned()),
            pause: false,
            ..CommitContainerOptions::default()
        };
        self.client
            .patient
            .commit_container(options, config)
            .await
            .during(OPERATION, &source.reference)
            .map(|_| ())
    }
}

/// Refuses an image that is not the one its reference pins.
fn check_pin(reference: &str, pin: &str, image: &ImageInspect) -> Result<(), EngineError> {
    let digests = image.repo_digests.as_deref().unwrap_or_default();
    let of_registry = |digest: &String| digest.split_once('@').is_some_and(|(_, d)| d == pin);
    if digests.iter().any(of_registry) {
        return Ok(());
    }
    if image.id.as_deref() != Some(pin) {
        return Err(rejected(
            reference,
            "the engine has another image under this name than the one it is pinned to".to_owned(),
        ));
    }
    // Otherwise any name would do for any image, and rules about names would be worth nothing.
    let tags = image.repo_tags.as_deref().unwrap_or_default();
    let named =
        |other: &String| familiar(reference::name(other)) == familiar(reference::name(reference));
    if tags.iter().chain(digests).any(named) {
        return Ok(());
    }
    Err(rejected(
        reference,
        format!(
            "the image with this identifier has other names: {}",
            tags.join(", ")
        ),
    ))
}

/// A name as people write it.
fn familiar(name: &str) -> &str {
    let name = name.strip_prefix("docker.io/").unwrap_or(name);
    name.strip_prefix("library/").unwrap_or(name)
}

fn absent(reference: &str, message: String) -> EngineError {
    EngineError::new(EngineErrorKind::NotFound, OPERATION, reference, message)
}

/// PID 1 of sandboxes.
struct Init<'a> {
    bytes: &'a [u8],
    /// Whether sandboxes have a kernel that runs nothing else.
    readable: bool,
}

/// What is put on top of an image. Entries replace what has their name, links above all, so an
/// image cannot divert them.
fn layer(
    init: &Init<'_>,
    trusted: Option<&Trusted>,
    cargo_config: Option<&str>,
    lists: &[accounts::List],
) -> std::io::Result<bytes::Bytes> {
    let inside = |path: &'static str| path.trim_start_matches('/');
    let mut archive = Archive::new();
    // A file takes the place of a folder with all that is in it: nothing of the image stays here.
    // In particular no folder for the socket, which forge-init would take for a mount; the engine
    // makes the mount point where there is a mount.
    archive.file(".swe-forge", 0o644, b"")?;
    archive.folder(".swe-forge", 0o755, None)?;
    // Executable without being readable: the kernel then lets no process of the same user look
    // into PID 1.
    let mode = if init.readable { 0o755 } else { 0o711 };
    archive.file(inside(INIT_PATH), mode, init.bytes)?;
    archive.folder("workspace", 0o755, None)?;
    archive.folder("tmp", 0o1777, None)?;
    if let Some(trusted) = trusted {
        trusted.add_to(&mut archive)?;
    }
    if let Some(config) = cargo_config {
        archive.folder(CARGO_FOLDER, 0o755, None)?;
        archive.file(CARGO_CONFIG, 0o644, config.as_bytes())?;
    }
    for (path, contents) in lists {
        archive.file(inside(path), 0o644, contents)?;
    }
    archive.finish()
}

/// An image as its author made it, judged.
struct Source {
    reference: String,
    id: String,
    digest: String,
    size_bytes: u64,
    env: BTreeMap<String, String>,
    volumes: Arc<[String]>,
    /// Names of its labels that have a meaning here, whoever wrote them.
    our_labels: Vec<String>,
    system: String,
    architecture: String,
}

impl Source {
    fn of(reference: &str, image: ImageInspect) -> Result<Self, EngineError> {
        let config = image.config.unwrap_or_default();
        check_config(reference, &config)?;
        let id = image.id.unwrap_or_default();
        let first = image.repo_digests.unwrap_or_default().into_iter().next();
        let first = first.and_then(|text| Some(text.split_once('@')?.1.to_owned()));
        // One image may have several; the author knows the one that is in the reference.
        let pinned = reference::pin(reference, OPERATION)?;
        let digest = pinned.map(str::to_owned).or(first);
        Ok(Self {
            reference: reference.to_owned(),
            digest: digest.unwrap_or_else(|| id.clone()),
            id,
            size_bytes: image
                .size
                .and_then(|size| size.try_into().ok())
                .unwrap_or(0),
            env: environment(config.env.as_deref().unwrap_or_default()),
            volumes: volumes_to_shade(config.volumes.unwrap_or_default()),
            our_labels: config
                .labels
                .unwrap_or_default()
                .into_keys()
                .filter(|key| key.starts_with(OUR_LABELS))
                .collect(),
            system: image.os.unwrap_or_default(),
            architecture: image.architecture.unwrap_or_default(),
        })
    }

    /// Its labels with a meaning here as what is made from it shall have them: saying nothing. One
    /// that is not given is inherited with what the image's author wrote.
    fn emptied_labels(&self) -> BTreeMap<String, String> {
        let labels = self.our_labels.iter();
        labels.map(|key| (key.clone(), String::new())).collect()
    }

    fn check_machine(&self, engine: Option<&str>, init: &[u8]) -> Result<(), EngineError> {
        if self.system != "linux" {
            return Err(rejected(
                &self.reference,
                format!("it is for '{}', sandboxes are Linux", self.system),
            ));
        }
        let engine = engine.unwrap_or_default();
        if self.architecture != engine {
            return Err(rejected(
                &self.reference,
                format!(
                    "it is for {}, the engine's machine is {engine}; emulation would make every \
                     time limit meaningless",
                    self.architecture
                ),
            ));
        }
        match binary_architecture(init) {
            Some(binary) if binary == engine => Ok(()),
            Some(binary) => Err(rejected(
                &self.reference,
                format!("this program's forge-init is for {binary}, the engine is {engine}"),
            )),
            None => Err(rejected(
                &self.reference,
                "forge-init is no executable this program knows".to_owned(),
            )),
        }
    }
}

fn rejected(reference: &str, message: String) -> EngineError {
    EngineError::new(EngineErrorKind::Rejected, OPERATION, reference, message)
}

/// The architecture of an ELF file, by the name images use.
pub(crate) fn binary_architecture(binary: &[u8]) -> Option<&'static str> {
    if !binary.starts_with(b"\x7fELF") {
        return None;
    }
    match binary.get(18..20)? {
        [62, 0] => Some("amd64"),
        [183, 0] => Some("arm64"),
        [243, 0] => Some("riscv64"),
        _ => Some("another architecture"),
    }
}

fn check_config(reference: &str, config: &ImageConfig) -> Result<(), EngineError> {
    let folder = config.working_dir.as_deref().unwrap_or_default();
    if below(folder, "/proc") {
        // The way into the host of CVE-2024-21626.
        return Err(rejected(
            reference,
            format!("its working directory is {folder}; nothing below /proc is allowed"),
        ));
    }
    let volumes = config.volumes.as_deref().unwrap_or_default();
    if volumes.len() > MAX_VOLUMES {
        let many = volumes.len();
        return Err(rejected(
            reference,
            format!("it declares {many} volumes; {MAX_VOLUMES} are allowed"),
        ));
    }
    for volume in volumes {
        let ours = |ours: &&str| below(volume, ours) || below(ours, volume);
        if !is_plain(volume) || UNSHADED.iter().any(ours) {
            return Err(rejected(
                reference,
                format!("it declares a volume at {volume:?}, which swe-forge needs itself"),
            ));
        }
        let inside = below(volume, "/workspace");
        if inside && !MOUNTED.contains(&volume.trim_end_matches('/')) {
            return Err(rejected(
                reference,
                format!("it declares a volume at {volume:?}, inside the workspace"),
            ));
        }
    }
    Ok(())
}

/// Where no volume may be: what is ours, what the engine reads before it starts anything, and what
/// the kernel tells there of the sandbox, which an image must not make up.
const UNSHADED: [&str; 6] = [
    "/.swe-forge",
    "/dev",
    "/etc/group",
    "/etc/passwd",
    "/proc",
    "/sys",
];

/// Where every sandbox has a mount of its own.
const MOUNTED: [&str; 3] = [
    forge_core::sandbox::WORKSPACE,
    forge_core::sandbox::SPECIFICATION,
    "/tmp",
];

/// Whether a path is written in one way only, so that it can be compared.
fn is_plain(path: &str) -> bool {
    let Some(inside) = path.strip_prefix('/') else {
        return false;
    };
    let inside = inside.strip_suffix('/').unwrap_or(inside);
    let odd = |part: &str| matches!(part, "" | "." | "..");
    !inside.split('/').any(odd)
}

fn below(path: &str, folder: &str) -> bool {
    let path = path.trim_end_matches('/');
    let folder = folder.trim_end_matches('/');
    path == folder
        || path
            .strip_prefix(folder)
            .is_some_and(|rest| rest.starts_with('/'))
}

/// The volumes of an image that a sandbox must shade.
pub(crate) fn declared_volumes(image: ImageInspect) -> Arc<[String]> {
    let declared = image.config.and_then(|config| config.volumes);
    volumes_to_shade(declared.unwrap_or_default())
}

/// Declared volumes that no mount of ours covers.
fn volumes_to_shade(declared: Vec<String>) -> Arc<[String]> {
    let mut volumes: Vec<String> = declared
        .into_iter()
        .filter(|volume| !MOUNTED.contains(&volume.trim_end_matches('/')))
        .collect();
    volumes.sort();
    volumes.into()
}

fn environment(lines: &[String]) -> BTreeMap<String, String> {
    let mut env = environment_map(lines);
    env.retain(|name, _| !DROPPED_VARIABLES.contains(&name.as_str()));
    env.entry("PATH".to_owned())
        .or_insert_with(|| DEFAULT_PATH.to_owned());
    env
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(config: ImageConfig) -> ImageInspect {
        ImageInspect {
            id: Some("sha256:00".into()),
            os: Some("linux".into()),
            architecture: Some("amd64".into()),
            config: Some(config),
            ..ImageInspect::default()
        }
    }

    fn with_volumes(volumes: &[&str]) -> Result<Source, EngineError> {
        let volumes = volumes.iter().map(|&volume| volume.to_owned()).collect();
        let config = ImageConfig {
            volumes: Some(volumes),
            ..ImageConfig::default()
        };
        Source::of("x", image(config))
    }

    #[test]
    fn volumes_where_swe_forge_mounts_are_covered_and_others_are_shaded() {
        let source = with_volumes(&["/workspace", "/data", "/tmp/"]).unwrap();
        assert_eq!(&*source.volumes, ["/data"]);
    }

    #[test]
    fn volumes_that_would_hide_what_swe_forge_puts_there_are_refused() {
        for volume in [
            "/.swe-forge",
            "/.swe-forge/channel",
            "/",
            "/workspace/src",
            "/workspace/output",
            "x",
            "/a/../b",
            "//.swe-forge",
            "/./workspace/src",
            "/workspace//src",
            "/etc",
            "/etc/passwd",
            "/etc/group/x",
            "/sys/fs/cgroup",
            "/dev/shm",
        ] {
            let error = with_volumes(&[volume]).err().expect(volume);
            assert_eq!(error.kind, EngineErrorKind::Rejected);
        }
    }

    #[test]
    fn labels_that_imitate_ours_say_nothing_in_what_is_made_of_an_image() {
        let labels = [(keys::RUN, "x"), (keys::ROLE, "y"), ("swe-forgery", "z")];
        let labels = labels.map(|(key, value)| (key.to_owned(), value.to_owned()));
        let config = ImageConfig {
            labels: Some(labels.into()),
            ..ImageConfig::default()
        };
        let source = Source::of("x", image(config)).unwrap();
        let expected = [keys::ROLE, keys::RUN].map(|key| (key.to_owned(), String::new()));
        assert_eq!(source.emptied_labels(), expected.into());
    }

    #[test]
    fn more_volumes_than_any_image_needs_are_refused() {
        let many: Vec<String> = (0..=MAX_VOLUMES).map(|n| format!("/data{n}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert!(with_volumes(&many[1..]).is_ok());
        assert!(with_volumes(&many).is_err());
    }

    #[test]
    fn a_pinned_image_is_that_image_under_that_name() {
        let digest = |digit: &str| format!("sha256:{}", digit.repeat(64));
        let mut here = image(ImageConfig::default());
        here.id = Some(digest("1"));
        here.repo_tags = Some(vec!["box.lan:5000/team/a:1".into(), "python:3".into()]);
        here.repo_digests = Some(vec![format!("mirror/a@{}", digest("2"))]);
        let judge = |name: &str, digit: &str| {
            let reference = format!("{name}@{}", digest(digit));
            check_pin(&reference, &digest(digit), &here)
        };
        for (name, digit) in [
            ("mirror/a", "2"),
            ("box.lan:5000/team/a", "1"),
            ("box.lan:5000/team/a:other", "1"),
            ("docker.io/library/python", "1"),
        ] {
            judge(name, digit).unwrap();
        }
        for (name, digit) in [("mirror/a", "3"), ("trusted/a", "1"), ("team/a", "1")] {
            let error = judge(name, digit).unwrap_err();
            assert_eq!(error.kind, EngineErrorKind::Rejected, "{name} {digit}");
        }
        let reference = format!("mirror/a@{}", digest("2"));
        assert_eq!(Source::of(&reference, here).unwrap().digest, digest("2"));
    }

    const INIT: Init<'_> = Init {
        bytes: b"init",
        readable: false,
    };

    #[test]
    fn authorities_and_configuration_stand_where_programs_look() {
        let trusted = |local, bundle: Option<&str>| Trusted {
            own: Arc::from(*b"OWN"),
            bundle: bundle.map(|text| ("/etc/ssl/certs/ca-certificates.crt", text.into())),
            local,
        };
        let groups = [("/etc/group", b"g".to_vec())];
        let both = trusted(true, Some("IMAGE\nOWN"));
        let all = contents(&layer(&INIT, Some(&both), Some("[net]"), &groups).unwrap());
        assert_eq!(all[".swe-forge/certificates.pem"], "IMAGE\nOWN");
        assert_eq!(all["etc/ssl/certs/ca-certificates.crt"], "IMAGE\nOWN");
        assert_eq!(all["usr/local/share/ca-certificates/swe-forge.crt"], "OWN");
        assert_eq!(all[".cargo/config.toml"], "[net]");
        // Whatever an image has there gives way.
        assert!(all.contains_key(".cargo/"));
        assert_eq!(all["etc/group"], "g");
        let alone = trusted(false, None);
        let all = contents(&layer(&INIT, Some(&alone), None, &[]).unwrap());
        assert_eq!(all[".swe-forge/certificates.pem"], "OWN");
        for absent in [".cargo/", "usr/local/share/ca-certificates/swe-forge.crt"] {
            assert!(!all.contains_key(absent), "{absent}");
        }
        let plain = contents(&layer(&INIT, None, None, &[]).unwrap());
        assert!(!plain.contains_key(".swe-forge/certificates.pem"));
    }

    /// What an archive holds, by path.
    fn contents(archive: &[u8]) -> BTreeMap<String, String> {
        use std::io::Read;
        let mut archive = tar::Archive::new(archive);
        let entries = archive.entries().unwrap().map(|entry| {
            let mut entry = entry.unwrap();
            let mut text = String::new();
            let path = String::from_utf8(entry.path_bytes().into_owned()).unwrap();
            entry.read_to_string(&mut text).unwrap();
            (path, text)
        });
        entries.collect()
    }

    #[test]
    fn pid_1_is_readable_only_to_a_kernel_that_runs_nothing_else() {
        for (readable, expected) in [(false, 0o711), (true, 0o755)] {
            let init = Init { readable, ..INIT };
            let archive = layer(&init, None, None, &[]).unwrap();
            let mut archive = tar::Archive::new(&archive[..]);
            let mut entries = archive.entries().unwrap().map(Result::unwrap);
            let found = entries.find(|entry| &*entry.path_bytes() == b".swe-forge/init");
            assert_eq!(found.unwrap().header().mode().unwrap(), expected);
        }
    }

    #[test]
    fn a_working_directory_below_proc_is_refused() {
        for (folder, good) in [
            ("/proc/self/fd/8", false),
            ("/proc", false),
            ("/process", true),
        ] {
            let config = ImageConfig {
                working_dir: Some(folder.into()),
                ..ImageConfig::default()
            };
            assert_eq!(Source::of("x", image(config)).is_ok(), good, "{folder}");
        }
    }

    #[test]
    fn variables_that_make_every_program_run_something_are_dropped() {
        let lines = [
            "PATH=/p",
            "LD_PRELOAD=/x.so",
            "BASH_ENV=/e",
            "EMPTY=",
            "A=b=c",
        ];
        let env = environment(&lines.map(str::to_owned));
        let expected = [("A", "b=c"), ("EMPTY", ""), ("PATH", "/p")];
        assert!(
            env.iter()
                .map(|(k, v)| (k.as_str(), v.as_str()))
                .eq(expected)
        );
        assert_eq!(environment(&[])["PATH"], DEFAULT_PATH);
    }

    #[test]
    fn another_machine_is_refused_in_words() {
        let mut elf = b"\x7fELF".to_vec();
        elf.resize(18, 0);
        elf.extend([62, 0]);
        let source = Source::of("x", image(ImageConfig::default())).unwrap();
        assert!(source.check_machine(Some("amd64"), &elf).is_ok());
        let error = source.check_machine(Some("arm64"), &elf).unwrap_err();
        assert!(error.message.contains("arm64"), "{error}");
        assert!(source.check_machine(Some("amd64"), b"#!/bin/sh").is_err());
        let mut windows = image(ImageConfig::default());
        windows.os = Some("windows".into());
        let windows = Source::of("x", windows).unwrap();
        assert!(windows.check_machine(Some("amd64"), &elf).is_err());
    }
}
