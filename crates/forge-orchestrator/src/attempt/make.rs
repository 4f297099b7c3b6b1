//! Making what an attempt needs: image, workspace, sandboxes, files.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use forge_core::sandbox::{TESTS, WORKSPACE};
use forge_core::task::{SourceTree, VerifyContainer};
use forge_core::{
    Attestation, Failure, Outcome, PhaseName, Profile, Reason, Role, SandboxId, SandboxSpec, State,
    Transition, WorkspaceSpec,
};
use forge_engine::{Credentials, EngineError, PreparedImage, Sandbox};
use forge_store::ObjectKind;
use forge_wire::Secret;
use forge_wire::message::TransferLimits;
use jiff::Timestamp;

use super::Attempt;
use crate::archive::{self, Member};
use crate::context::News;
use crate::{attestation, cleanup, failure};

/// Bounds on what an author's folders may hold; the loader of task directories has smaller ones.
const UPLOAD_LIMITS: TransferLimits = TransferLimits {
    bytes: 4 * 1024 * 1024 * 1024,
    entries: 1_000_000,
};

fn engine_failure(error: &EngineError) -> Outcome {
    Outcome::Failed(failure::from_engine(error))
}

impl Attempt<'_> {
    pub(super) async fn prepare_image(&mut self) -> Result<PreparedImage, Outcome> {
        let reference = self.task().image.reference();
        let image = self.context.engine.prepare_image(reference).await;
        let image = image.map_err(|error| engine_failure(&error))?;
        let recorded = self
            .context
            .store
            .set_image_digest(&self.job.id, &image.digest)
            .await;
        self.note_record(recorded);
        self.image = Some(image.clone());
        Ok(image)
    }

    pub(super) async fn make_workspace(&mut self, image: &PreparedImage) -> Result<(), Outcome> {
        let id = self.job.id.clone();
        self.intend(ObjectKind::Volume, &id).await?;
        self.workspace = Some(id.clone());
        let spec = WorkspaceSpec {
            id: id.clone(),
            ownership: self.ownership.clone(),
            user: self.user,
            disk_bytes: self.limits.disk_bytes,
            disk_files: self.limits.disk_files,
            specification: self.task().specification.clone(),
            tests: self.task().tests.is_some(),
        };
        let made = self.context.engine.create_workspace(&spec, image).await;
        self.disk_quota = Some(made.map_err(|error| engine_failure(&error))?);
        self.made(ObjectKind::Volume, &id).await;
        // Their place is in no sandbox before it may be seen there, so they can be put into it now.
        if !self.tests_wait_for_verify() {
            self.put_tests(image).await?;
        }
        Ok(())
    }

    /// Whether the tests' place is in a sandbox in which they must not be seen yet.
    pub(super) fn tests_wait_for_verify(&self) -> bool {
        let task = self.task();
        task.verify_container == VerifyContainer::Same && !task.tests_visible
    }

    /// Puts the author's tests in their place, where sandboxes can only read.
    pub(super) async fn put_tests(&self, image: &PreparedImage) -> Result<(), Outcome> {
        let Some(tests) = &self.task().tests else {
            return Ok(());
        };
        let (tar, packing) = archive::pack(vec![self.member(tests, "tests")]);
        let engine = &self.context.engine;
        let sent = engine.put_tests(&self.job.id, image, Box::new(tar)).await;
        packed(packing.await)?;
        sent.map_err(|error| engine_failure(&error))
    }

    /// Removes whatever stands where the tests will be, in the last sandbox that could put something
    /// there, and leaves a folder to mount them on: an engine would follow a link.
    pub(super) async fn clear_tests(&self, sandbox: &dyn Sandbox) -> Result<(), Outcome> {
        if let Err(error) = sandbox.remove(TESTS).await {
            return Err(self.unusable(sandbox, &error).await);
        }
        if self.task().tests.is_none() {
            return Ok(());
        }
        let folder = archive::folder("tests", self.user);
        let folder = folder.map_err(|error| unreadable(&error))?;
        let mut tar = folder.as_slice();
        match sandbox.put(WORKSPACE, &mut tar, UPLOAD_LIMITS).await {
            Ok(_) => Ok(()),
            Err(error) => Err(self.unusable(sandbox, &error).await),
        }
    }

    fn member(&self, tree: &SourceTree, name: &'static str) -> Member {
        Member {
            root: tree.root.clone(),
            name,
            owner: self.user,
        }
    }

    /// The sandbox in which solve begins, and the image it runs. With a setup, that ran before, in a
    /// sandbox of its own in which it is root; what it changed is in the image.
    pub(super) async fn begin(
        &mut self,
        image: PreparedImage,
    ) -> Result<(Arc<dyn Sandbox>, PreparedImage), Outcome> {
        let Some(setup) = self.task().setup.clone() else {
            let sandbox = self.make_sandbox(&image, Role::Task).await?;
            self.run_in(&*sandbox).await?;
            return Ok((sandbox, image));
        };
        let sandbox = self.make_sandbox(&image, Role::Setup).await?;
        self.run_in(&*sandbox).await?;
        self.setup(&setup, &*sandbox, &image).await?;
        let image = self.keep_setup(&*sandbox, &image).await?;
        if self.task().verify_container == VerifyContainer::Same {
            self.clear_tests(&*sandbox).await?;
        }
        self.retire_current().await;
        drop(sandbox);
        let done = self.job.id.with_part(super::SETUP);
        self.remove_sandbox(&done).await;
        let sandbox = self.make_sandbox(&image, Role::Task).await?;
        Ok((sandbox, image))
    }

    /// Begins to run in the first sandbox, which may come to the end of its life from here on.
    async fn run_in(&mut self, sandbox: &dyn Sandbox) -> Result<(), Outcome> {
        // One that begins anew ran before.
        if self.state != State::Running {
            self.advance(Transition::Run).await?;
        }
        self.upload_sources(sandbox).await
    }

    /// Ends what setup left running, gives the workspace to the task's user, and keeps what was
    /// changed elsewhere.
    async fn keep_setup(
        &mut self,
        sandbox: &dyn Sandbox,
        image: &PreparedImage,
    ) -> Result<PreparedImage, Outcome> {
        self.kill(sandbox).await?;
        if let Err(error) = sandbox.hand_over(WORKSPACE, self.user).await {
            return Err(self.unusable(sandbox, &error).await);
        }
        self.check_cancelled()?;
        let id = sandbox.id().clone();
        self.intend(ObjectKind::Image, &id).await?;
        let snapshot = self.context.engine.snapshot(&id, image).await;
        let snapshot = match snapshot {
            Ok(snapshot) => snapshot,
            Err(error) => return Err(self.unusable(sandbox, &error).await),
        };
        if snapshot.runnable == image.runnable {
            let store = &self.context.store;
            let recorded = store
                .object_removed(ObjectKind::Image, id.as_str(), Timestamp::now())
                .await;
            self.note_record(recorded);
        } else {
            self.snapshot = Some(snapshot.clone());
            self.made(ObjectKind::Image, &id).await;
        }
        Ok(snapshot)
    }

    /// Removes a sandbox that is done with ahead of the others; what fails is done at the end.
    async fn remove_sandbox(&mut self, id: &SandboxId) {
        if let Err(error) = cleanup::destroy(&*self.context.engine, id).await {
            tracing::debug!(%id, error = failure::chain(&error), "left for the end");
            return;
        }
        self.sandboxes.retain(|each| each != id);
        let recorded = self
            .context
            .store
            .object_removed(ObjectKind::Container, id.as_str(), Timestamp::now())
            .await;
        self.note_record(recorded);
    }

    /// Makes a sandbox for setup, solve, verification or what is kept, and checks its attestation.
    pub(super) async fn make_sandbox(
        &mut self,
        image: &PreparedImage,
        role: Role,
    ) -> Result<Arc<dyn Sandbox>, Outcome> {
        let (part, profile) = match role {
            Role::Setup => (Some(super::SETUP), Profile::Build),
            Role::Verify => (Some(super::VERIFY), Profile::Run),
            Role::Artifacts => (Some(super::ARTIFACTS), Profile::Run),
            _ => (None, Profile::Run),
        };
        let phases: &[PhaseName] = match (role, self.task().verify_container) {
            (Role::Setup, _) => &[PhaseName::Setup],
            (Role::Verify, _) => &[PhaseName::Verify],
            // Nothing of the task runs in it.
            (Role::Artifacts, _) => &[],
            (_, VerifyContainer::Fresh) => &[PhaseName::Solve],
            (_, VerifyContainer::Same) => &[PhaseName::Solve, PhaseName::Verify],
        };
        let id = part.map_or_else(|| self.job.id.clone(), |part| self.job.id.with_part(part));
        let spec = SandboxSpec {
            id: id.clone(),
            ownership: self.ownership.clone(),
            role,
            workspace: self.job.id.clone(),
            tests: self.task().tests.is_some() && phases.contains(&PhaseName::Verify),
            limits: self.limits,
            cores: self.cores(),
            profile,
            network: self.network.of_sandbox(phases),
            user: self.user,
            env: self.sandbox_environment(),
            runtime: self.context.operator.runtime(),
            max_lifetime: self.cleanup.max_lifetime,
        };
        self.intend(ObjectKind::Container, &id).await?;
        self.sandboxes.retain(|each| *each != id);
        self.sandboxes.push(id.clone());
        let secret = fresh_secret();
        self.keys.insert(id.clone(), secret.clone());
        self.save().await?;
        let epoch = self.context.epoch;
        let credentials = Credentials { secret, epoch };
        let began = Instant::now();
        let sandbox = self.context.engine.create(&spec, image, &credentials).await;
        let sandbox = sandbox.map_err(|error| engine_failure(&error))?;
        // Nobody waits for it any more when the run is over.
        let (number, took) = (self.job.number, began.elapsed());
        self.context.news.send(News::Up { number, took }).ok();
        self.made(ObjectKind::Container, &id).await;
        self.current = Some(Arc::clone(&sandbox));
        // The report shows the sandbox in which solve runs; all of them are checked.
        if !matches!(self.attestation, Some((Profile::Run, _))) {
            self.attestation = Some((profile, sandbox.attestation().clone()));
        }
        self.check_attestation(&spec, sandbox.attestation()).await?;
        self.check_cancelled()?;
        Ok(sandbox)
    }

    async fn check_attestation(
        &mut self,
        spec: &SandboxSpec,
        attested: &Attestation,
    ) -> Result<(), Outcome> {
        let machine = match &spec.runtime {
            None => None,
            Some(_) => {
                let described = self.context.engine.describe().await;
                Some(described.map_err(|error| engine_failure(&error))?.kernel)
            }
        };
        let checked = attestation::check(spec, attested, machine.as_deref());
        checked.map_err(Outcome::Failed)?;
        if let Some(note) = attestation::reservation(spec, attested)
            && !self.notes.contains(&note)
        {
            self.notes.push(note);
        }
        Ok(())
    }

    pub(super) async fn upload_sources(&mut self, sandbox: &dyn Sandbox) -> Result<(), Outcome> {
        let task = self.task();
        let mut members = Vec::new();
        members.extend(task.src.iter().map(|src| self.member(src, "src")));
        // Where their own place is in the sandbox, they are there already.
        let elsewhere =
            sandbox.id() != &self.job.id || task.verify_container != VerifyContainer::Same;
        if let (true, true, Some(tests)) = (elsewhere, task.tests_visible, &task.tests) {
            members.push(self.member(tests, "tests"));
        }
        self.upload(sandbox, members).await
    }

    pub(super) async fn upload_solution(&mut self, sandbox: &dyn Sandbox) -> Result<(), Outcome> {
        let solution = self.task().solution.iter();
        let members = solution.map(|solution| self.member(&solution.tree, "solution"));
        self.upload(sandbox, members.collect()).await
    }

    async fn upload(&self, sandbox: &dyn Sandbox, members: Vec<Member>) -> Result<(), Outcome> {
        if members.is_empty() {
            return Ok(());
        }
        let (mut tar, packing) = archive::pack(members);
        let sent = sandbox.put(WORKSPACE, &mut tar, UPLOAD_LIMITS).await;
        // Without a reader the packing ends as well.
        drop(tar);
        packed(packing.await)?;
        match sent {
            Ok(_) => Ok(()),
            Err(error)
                if self.phases.is_empty() && self.is_workspace_full(sandbox, &error).await =>
            {
                let message = format!(
                    "the task's files do not fit into its workspace: {}",
                    failure::chain(&error)
                );
                Err(Outcome::Failed(Failure::new(Reason::DiskFull, message)))
            }
            // Before its first phase the task has not touched anything.
            Err(error) if self.phases.is_empty() => Err(self.lost(sandbox, &error).await),
            Err(error) => Err(self.unusable(sandbox, &error).await),
        }
    }

    /// Announces an object in the record before the engine hears of it.
    async fn intend(&self, kind: ObjectKind, id: &SandboxId) -> Result<(), Outcome> {
        let store = &self.context.store;
        let now = Timestamp::now();
        store
            .intend_object(&self.job.id, kind, id.as_str(), now)
            .await
            .map_err(|error| self.unrecorded(&error))
    }

    async fn made(&mut self, kind: ObjectKind, id: &SandboxId) {
        let recorded = self
            .context
            .store
            .object_created(kind, id.as_str(), Timestamp::now())
            .await;
        self.note_record(recorded);
    }
}

/// How packing ended; that its reader stopped reading is told by the reader.
fn packed(ended: Result<io::Result<()>, tokio::task::JoinError>) -> Result<(), Outcome> {
    match ended {
        Ok(Err(error)) if error.kind() != io::ErrorKind::BrokenPipe => Err(unreadable(&error)),
        Err(error) => Err(unreadable(&io::Error::other(error))),
        Ok(_) => Ok(()),
    }
}

fn unreadable(error: &io::Error) -> Outcome {
    let message = format!("the task's files could not be packed: {error}");
    Outcome::Failed(Failure::new(Reason::InternalError, message))
}

/// 244 random bits: two version 4 UUIDs.
fn fresh_secret() -> Secret {
    let mut bytes = [0; 32];
    bytes[..16].copy_from_slice(uuid::Uuid::new_v4().as_bytes());
    bytes[16..].copy_from_slice(uuid::Uuid::new_v4().as_bytes());
    Secret::new(bytes)
}
