//! Making what an attempt needs: image, workspace, sandboxes, files.

use std::sync::Arc;

use forge_core::sandbox::{TESTS, WORKSPACE};
use forge_core::{Failure, Outcome, Role, SandboxId, SandboxSpec, WorkspaceSpec};
use forge_engine::{EngineError, PreparedImage, Sandbox};
use forge_store::ObjectKind;
use forge_wire::Secret;
use forge_wire::message::TransferLimits;
use jiff::Timestamp;

use super::Attempt;
use crate::archive::{self, Member};
use crate::{attestation, failure};

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
            specification: self.task().specification.clone(),
        };
        let made = self.context.engine.create_workspace(&spec, image).await;
        made.map_err(|error| engine_failure(&error))?;
        self.made(ObjectKind::Volume, &id).await;
        Ok(())
    }

    /// Makes a sandbox, for verification when `part` names one, and checks its attestation.
    pub(super) async fn make_sandbox(
        &mut self,
        image: &PreparedImage,
        part: Option<&str>,
    ) -> Result<Arc<dyn Sandbox>, Outcome> {
        let id = part.map_or_else(|| self.job.id.clone(), |part| self.job.id.with_part(part));
        let spec = SandboxSpec {
            id: id.clone(),
            ownership: self.ownership.clone(),
            role: if part.is_some() {
                Role::Verify
            } else {
                Role::Task
            },
            workspace: self.job.id.clone(),
            limits: self.limits,
            network: forge_core::NetworkLevel::Isolated,
            user: self.user,
            env: super::environment(self.task(), image).into_iter().collect(),
            max_lifetime: self.task().cleanup.max_lifetime,
        };
        self.intend(ObjectKind::Container, &id).await?;
        self.sandboxes.push(id.clone());
        let sandbox = self
            .context
            .engine
            .create(&spec, image, &fresh_secret())
            .await;
        let sandbox = sandbox.map_err(|error| engine_failure(&error))?;
        self.made(ObjectKind::Container, &id).await;
        self.current = Some(Arc::clone(&sandbox));
        self.attestation
            .get_or_insert_with(|| sandbox.attestation().clone());
        attestation::check(&spec, sandbox.attestation()).map_err(Outcome::Failed)?;
        self.check_cancelled()?;
        Ok(sandbox)
    }

    pub(super) async fn upload_sources(&mut self, sandbox: &dyn Sandbox) -> Result<(), Outcome> {
        let task = self.task();
        let mut members = Vec::new();
        if let Some(src) = &task.src {
            members.push(Member {
                root: src.root.clone(),
                name: "src",
            });
        }
        if let (true, Some(tests)) = (task.tests_visible, &task.tests) {
            members.push(Member {
                root: tests.root.clone(),
                name: "tests",
            });
        }
        self.upload(sandbox, members).await
    }

    /// Puts the author's tests in the place of whatever stands there.
    pub(super) async fn replace_tests(&mut self, sandbox: &dyn Sandbox) -> Result<(), Outcome> {
        if let Err(error) = sandbox.remove(TESTS).await {
            return Err(self.unusable(sandbox, &error).await);
        }
        let members = self.task().tests.iter();
        let members = members
            .map(|tests| Member {
                root: tests.root.clone(),
                name: "tests",
            })
            .collect();
        self.upload(sandbox, members).await
    }

    pub(super) async fn upload_solution(&mut self, sandbox: &dyn Sandbox) -> Result<(), Outcome> {
        let members = self.task().solution.iter();
        let members = members
            .map(|solution| Member {
                root: solution.tree.root.clone(),
                name: "solution",
            })
            .collect();
        self.upload(sandbox, members).await
    }

    async fn upload(&self, sandbox: &dyn Sandbox, members: Vec<Member>) -> Result<(), Outcome> {
        if members.is_empty() {
            return Ok(());
        }
        let (mut tar, packing) = archive::pack(members);
        let sent = sandbox.put(WORKSPACE, &mut tar, UPLOAD_LIMITS).await;
        // Without a reader the packing ends as well.
        drop(tar);
        let packed = packing.await;
        match packed {
            Ok(Err(error)) if error.kind() != std::io::ErrorKind::BrokenPipe => {
                let message = format!("the task's files could not be read: {error}");
                Err(Outcome::Failed(Failure::new(
                    forge_core::Reason::InternalError,
                    message,
                )))
            }
            Err(error) => {
                let message = format!("packing the task's files broke off: {error}");
                Err(Outcome::Failed(Failure::new(
                    forge_core::Reason::InternalError,
                    message,
                )))
            }
            Ok(_) => match sent {
                Ok(_) => Ok(()),
                // Before its first phase the task has not touched anything.
                Err(error) if self.phases.is_empty() => Err(self.lost(sandbox, &error).await),
                Err(error) => Err(self.unusable(sandbox, &error).await),
            },
        }
    }

    /// Announces an object in the record before the engine hears of it.
    async fn intend(&self, kind: ObjectKind, id: &SandboxId) -> Result<(), Outcome> {
        let store = &self.context.store;
        let now = Timestamp::now();
        store
            .intend_object(&self.job.id, kind, id.as_str(), now)
            .await
            .map_err(|error| {
                let message = failure::chain(&error);
                Outcome::Failed(Failure::new(forge_core::Reason::InternalError, message))
            })
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

/// 244 random bits: two version 4 UUIDs.
fn fresh_secret() -> Secret {
    let mut bytes = [0; 32];
    bytes[..16].copy_from_slice(uuid::Uuid::new_v4().as_bytes());
    bytes[16..].copy_from_slice(uuid::Uuid::new_v4().as_bytes());
    Secret::new(bytes)
}
