//! The clients of package registries in base images, for machines that have none of their own.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use forge_config::{Configuration, Group};
use forge_core::exec::{DEFAULT_GRACE, OutputStream};
use forge_core::{
    Attempt, Difficulty, Ending, ExecRequest, OwnerId, Ownership, Profile, Role, RunId, SandboxId,
    SandboxSpec, TaskId, UserId, WorkspaceSpec,
};
use forge_engine::{Credentials, Engine, EngineError, Sandbox};
use forge_images::BaseImage;
use forge_orchestrator::failure::chain;
use forge_orchestrator::holder;
use forge_registries::{
    Clients, HostClients, HostResolver, HttpFetch, Images, InImage, MAX_FILE_BYTES, Output,
    PATIENCE, Place, Places, Refresh, Refreshed, up_to_date,
};
use forge_wire::Secret;
use jiff::{SignedDuration, Timestamp};
use tokio::sync::OnceCell;
use tokio::time::timeout;
use uuid::Uuid;

use crate::error::CliError;
use crate::operator::engine_settings;
use crate::provider::Need;
use crate::session::Session;
use crate::style::Style;

/// Longest that a sandbox takes to be there; its image may have to be prepared first.
const OPENING: Duration = Duration::from_secs(120);
/// What the end of a client may take above what it is given.
const ENDING: Duration = Duration::from_secs(15);
/// How long a sandbox is there at most, whatever becomes of this process.
const LIFETIME: Duration = Duration::from_secs(900);
/// The user of clients; runs give other numbers to their attempts.
const SLOT: u16 = u16::MAX;
/// The kernel's number for a program that is not there.
const NO_ENTRY: i32 = 2;
/// The code of `env` and of shells for the same.
const NO_PROGRAM: i32 = 127;

/// Brings what is known of registries up to date: from the clients of this machine, and from those
/// in base images where it has none.
pub(crate) async fn find_out(
    session: &Session,
    refresh: Refresh<'_>,
) -> Result<Refreshed, CliError> {
    let images = BaseImages::new(session, refresh.configuration);
    let places = Places {
        host: &HostClients,
        images: Some(&images),
    };
    let fetch = |bundle: Option<PathBuf>| HttpFetch::new(bundle.as_deref());
    let refreshed = up_to_date(refresh, places, &HostResolver, fetch).await;
    images.close().await;
    Ok(refreshed?)
}

/// The images that may have the client of `group`, the one to ask first before others.
fn candidates(group: Group) -> &'static [BaseImage] {
    use BaseImage::{Multi, Node, Python, Rust};
    match group {
        Group::Pypi => &[Python, Multi],
        Group::Npm => &[Node, Multi],
        Group::Cargo => &[Rust, Multi],
        Group::Go => &[Multi],
        Group::Apt => &[Multi, Python, Node, Rust],
        Group::Maven | Group::Gradle | Group::Gems => &[],
    }
}

/// The base images on the engine. The engine is connected to, and a sandbox made of an image, when
/// it is asked for the first time.
struct BaseImages<'s> {
    session: &'s Session,
    configuration: &'s Configuration,
    run: RunId,
    engine: Once<(Arc<dyn Engine>, OwnerId)>,
    rooms: [Once<InImage>; BaseImage::ALL.len()],
}

/// What is made when it is asked for first, or why it could not be.
type Once<T> = OnceCell<Result<T, String>>;

impl<'s> BaseImages<'s> {
    fn new(session: &'s Session, configuration: &'s Configuration) -> Self {
        Self {
            session,
            configuration,
            run: RunId::from_uuid(Uuid::now_v7()),
            engine: OnceCell::new(),
            rooms: Default::default(),
        }
    }

    async fn connect(&self) -> Result<(Arc<dyn Engine>, OwnerId), CliError> {
        let owner = self.session.record().await?.owner().clone();
        let settings = engine_settings(self.configuration);
        let engine = self.session.engine_with(&owner, Need::Sandboxes, settings);
        Ok((engine.await?, owner))
    }

    async fn open(
        &self,
        image: BaseImage,
        engine: &dyn Engine,
        owner: &OwnerId,
    ) -> Result<InImage, String> {
        let name = image.repository();
        let line = format!("asking the clients in {name} where their registries are");
        self.session.printer.progress(&line);
        let id = room(self.run, image)?;
        let ownership = ownership(owner, self.run)?;
        let runtime = self.configuration.hardening.runtime.clone();
        let reference = image.latest();
        let opening = Room::open(engine, &reference, id, ownership, runtime);
        let room = match timeout(OPENING, opening).await {
            Ok(opened) => opened.map_err(|error| format!("{name}: {}", chain(&error)))?,
            Err(_) => return Err(format!("{name} was not ready in {} s", OPENING.as_secs())),
        };
        Ok(InImage {
            image: name.to_owned(),
            clients: Arc::new(room),
        })
    }

    /// Removes what was made. What cannot be removed is found by `gc`.
    async fn close(&self) {
        let Some(Ok((engine, _))) = self.engine.get() else {
            return;
        };
        let begun = BaseImage::ALL.into_iter().zip(&self.rooms);
        for (image, _) in begun.filter(|(_, room)| room.initialized()) {
            let Ok(id) = room(self.run, image) else {
                continue;
            };
            if let Err(error) = remove(&**engine, &id).await {
                let text = format!("{id} could not be removed: {}", chain(&error));
                self.session
                    .printer
                    .remark(Style::Warning, "warning", &text);
            }
        }
        if let Err(error) = engine.close().await {
            let text = chain(&error);
            self.session
                .printer
                .remark(Style::Warning, "warning", &text);
        }
    }
}

#[async_trait]
impl Images for BaseImages<'_> {
    async fn with_client(&self, group: Group) -> Result<InImage, String> {
        let connecting = || async { self.connect().await.map_err(|error| chain(&error)) };
        let (engine, owner) = match self.engine.get_or_init(connecting).await {
            Ok(connected) => connected,
            Err(why) => return Err(why.clone()),
        };
        let Some(store) = engine.images() else {
            return Err("the engine does not manage images".to_owned());
        };
        let candidates = candidates(group);
        for &image in candidates {
            let found = store.inspect_image(&image.latest()).await;
            if found.map_err(|error| chain(&error))?.is_some() {
                let [python, node, rust, multi] = &self.rooms;
                let room = match image {
                    BaseImage::Python => python,
                    BaseImage::Node => node,
                    BaseImage::Rust => rust,
                    BaseImage::Multi => multi,
                };
                let opened = room.get_or_init(|| self.open(image, &**engine, owner));
                return opened.await.clone();
            }
        }
        let names: Vec<&str> = candidates.iter().map(|image| image.repository()).collect();
        Err(format!("there is no image {}", names.join(" or ")))
    }
}

fn room(run: RunId, image: BaseImage) -> Result<SandboxId, String> {
    let name = format!("registries-{}-{}", run.short(), image.name());
    SandboxId::new(name).map_err(|error| error.to_string())
}

fn ownership(owner: &OwnerId, run: RunId) -> Result<Ownership, String> {
    let now = Timestamp::now();
    let lifetime = SignedDuration::try_from(LIFETIME).map_err(|error| error.to_string())?;
    Ok(Ownership {
        owner: owner.clone(),
        run,
        task: TaskId::new("registries").map_err(|error| error.to_string())?,
        attempt: Attempt(1),
        difficulty: Difficulty::Easy,
        created_at: now,
        expires_at: now + lifetime,
        holder: holder::this_process(),
    })
}

async fn remove(engine: &dyn Engine, id: &SandboxId) -> Result<(), EngineError> {
    engine.destroy(id).await?;
    engine.destroy_workspace(id).await
}

/// A sandbox without a network, in which clients are asked.
struct Room {
    sandbox: Arc<dyn Sandbox>,
    env: Vec<(String, String)>,
}

impl Room {
    async fn open(
        engine: &dyn Engine,
        image: &str,
        id: SandboxId,
        ownership: Ownership,
        runtime: Option<String>,
    ) -> Result<Self, EngineError> {
        let user = UserId::for_slot(SLOT);
        let cores = engine.describe().await?.cores;
        let (limits, _) = ownership.difficulty.limits().clamped_to_cores(cores);
        let image = engine.prepare_image(image).await?;
        let workspace = WorkspaceSpec {
            id: id.clone(),
            ownership: ownership.clone(),
            user,
            disk_bytes: limits.disk_bytes,
            disk_files: limits.disk_files,
            specification: Vec::new(),
            tests: false,
        };
        engine.create_workspace(&workspace, &image).await?;
        let spec = SandboxSpec {
            id: id.clone(),
            ownership,
            role: Role::Sandbox,
            workspace: id,
            tests: false,
            limits,
            cores: Vec::new(),
            profile: Profile::Run,
            network: None,
            runtime,
            user,
            env: image.env.clone(),
            max_lifetime: LIFETIME,
        };
        let mut env = image.env.clone();
        for (name, value) in [
            ("HOME", forge_core::sandbox::WORKSPACE),
            ("LC_ALL", "C.UTF-8"),
            ("NO_COLOR", "1"),
        ] {
            env.insert(name.to_owned(), value.to_owned());
        }
        Ok(Self {
            sandbox: engine.create(&spec, &image, &fresh_credentials()).await?,
            env: env.into_iter().collect(),
        })
    }

    async fn carry_out(&self, request: ExecRequest) -> Result<(Ending, Output), EngineError> {
        let mut exec = self.sandbox.exec(request).await?;
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        while let Some(chunk) = exec.output.next().await {
            match chunk.stream {
                OutputStream::Stdout => stdout.extend_from_slice(&chunk.bytes),
                OutputStream::Stderr => stderr.extend_from_slice(&chunk.bytes),
            }
        }
        let ending = exec.exit.await?.ending;
        let output = Output {
            success: ending == Ending::Exited(0),
            stdout: String::from_utf8_lossy(&stdout).into_owned(),
            stderr: String::from_utf8_lossy(&stderr).into_owned(),
        };
        Ok((ending, output))
    }
}

#[async_trait]
impl Clients for Room {
    fn place(&self) -> Place {
        Place::Image
    }

    async fn run(&self, argv: &[&str]) -> io::Result<Output> {
        let program = argv.first().copied().unwrap_or_default();
        let late = || {
            let message = format!("{program} did not answer within {} s", PATIENCE.as_secs());
            io::Error::new(io::ErrorKind::TimedOut, message)
        };
        let request = ExecRequest {
            argv: argv.iter().map(|&word| word.to_owned()).collect(),
            env: self.env.clone(),
            working_directory: "/".to_owned(),
            stdin: false,
            timeout: Some(PATIENCE),
            grace: DEFAULT_GRACE,
            output_limit: MAX_FILE_BYTES,
            key: None,
            join: None,
        };
        let ended = timeout(PATIENCE + ENDING, self.carry_out(request)).await;
        let (ending, output) = ended.map_err(|_| late())?.map_err(io::Error::other)?;
        match ending {
            Ending::Exited(NO_PROGRAM) | Ending::NotStarted { errno: NO_ENTRY } => {
                Err(io::ErrorKind::NotFound.into())
            }
            Ending::Exited(_) => Ok(output),
            Ending::DeadlineExceeded => Err(late()),
            other => Err(io::Error::other(format!("{program} ended so: {other:?}"))),
        }
    }

    async fn read(&self, path: &Path) -> io::Result<Option<String>> {
        let path = path
            .to_str()
            .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        if !self.run(&["test", "-e", path]).await?.success {
            return Ok(None);
        }
        let output = self.run(&["cat", "--", path]).await?;
        match output.success {
            true => Ok(Some(output.stdout)),
            false => Err(io::Error::other(output.stderr.trim().to_owned())),
        }
    }
}

/// 244 random bits: two version 4 UUIDs.
fn fresh_credentials() -> Credentials {
    let mut bytes = [0; 32];
    bytes[..16].copy_from_slice(Uuid::new_v4().as_bytes());
    bytes[16..].copy_from_slice(Uuid::new_v4().as_bytes());
    Credentials {
        secret: Secret::new(bytes),
        epoch: 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use forge_engine::fake::{FakeEngine, FakeExec};
    use forge_engine::{EngineErrorKind, Operation};

    fn engine() -> FakeEngine {
        FakeEngine::new(|request| {
            assert_eq!(request.working_directory, "/");
            assert!(request.timeout.is_some());
            match request.argv.last().map(String::as_str) {
                Some("/gone") => FakeExec::exits(1),
                Some("behind-env") => FakeExec::exits(NO_PROGRAM),
                Some("missing") => FakeExec::ends(Ending::NotStarted { errno: NO_ENTRY }),
                Some("slow") => FakeExec::ends(Ending::DeadlineExceeded),
                Some("loud") => FakeExec::ends(Ending::OutputLimit),
                Some("lost") => FakeExec::Lost,
                _ => FakeExec::exits(0),
            }
        })
    }

    async fn open(engine: &FakeEngine) -> (SandboxId, Result<Room, EngineError>) {
        let run = RunId::from_uuid(Uuid::now_v7());
        let owner = OwnerId::new("owner").unwrap();
        let ownership = ownership(&owner, run).unwrap();
        let id = room(run, BaseImage::Python).unwrap();
        let opened = Room::open(engine, "image:latest", id.clone(), ownership, None).await;
        (id, opened)
    }

    #[tokio::test]
    async fn clients_in_a_sandbox_end_as_they_do_on_a_machine() {
        let (_, room) = open(&engine()).await;
        let room = room.unwrap();
        let output = room.run(&["pip", "config"]).await.unwrap();
        assert!(output.success && output.stdout == "output\n");
        assert!(!room.run(&["/gone"]).await.unwrap().success);
        for (program, kind) in [
            ("missing", io::ErrorKind::NotFound),
            ("behind-env", io::ErrorKind::NotFound),
            ("slow", io::ErrorKind::TimedOut),
            ("loud", io::ErrorKind::Other),
            ("lost", io::ErrorKind::Other),
        ] {
            let error = room.run(&["env", program]).await.unwrap_err();
            assert_eq!(error.kind(), kind, "{program}");
        }
        assert_eq!(room.read(Path::new("/gone")).await.unwrap(), None);
        let there = room.read(Path::new("/there")).await.unwrap();
        assert_eq!(there.as_deref(), Some("output\n"));
    }

    #[tokio::test]
    async fn what_was_made_carries_labels_and_is_removed_also_when_half_of_it_failed() {
        for fails in [false, true] {
            let engine = engine();
            if fails {
                engine.fail(Operation::Create, EngineErrorKind::Unavailable);
            }
            let (id, opened) = open(&engine).await;
            assert_eq!(opened.is_err(), fails);
            // The fake lists what has the label of an owner.
            let owner = OwnerId::new("owner").unwrap();
            let listed = forge_engine::Inventory::list(&engine, Some(&owner)).await;
            assert_eq!(listed.unwrap().len(), if fails { 1 } else { 2 });
            remove(&engine, &id).await.unwrap();
            assert!(engine.objects().is_empty());
        }
    }

    #[test]
    fn every_group_whose_client_an_image_has_names_that_image_first() {
        for group in Group::ALL {
            let has_client = !matches!(group, Group::Maven | Group::Gradle | Group::Gems);
            assert_eq!(
                candidates(group).contains(&BaseImage::Multi),
                has_client,
                "{group}"
            );
        }
        assert_eq!(candidates(Group::Npm)[0], BaseImage::Node);
    }
}
