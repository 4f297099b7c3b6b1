//! An engine without containers, for tests of decisions and faults.
//!
//! It keeps what it "made" in memory, writes every call down in order, fails where it is told to,
//! and answers commands from a script.

mod sandbox;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use forge_core::sandbox::{SPECIFICATION, TESTS, WORKSPACE};
use forge_core::{
    Attestation, DiskQuota, Ending, ExecRequest, ExitReport, Health, OwnerId, Processes, Profile,
    Role, SandboxId, SandboxSpec, WorkspaceSpec,
};
use tokio::io::AsyncReadExt;

use crate::engine::{
    Credentials, Engine, EngineDescription, Fixtures, FoundObject, Inventory, ObjectKind,
    PreparedImage, TarStream,
};
use crate::error::{EngineError, EngineErrorKind, Operation};
use crate::images::ImageStore;
use crate::sandbox::{EgressRecords, Sandbox};
use sandbox::FakeSandbox;

/// What a command does in the fake.
#[derive(Debug, Clone)]
pub enum FakeExec {
    /// It writes this to standard output and ends so.
    Ends {
        /// Its output.
        output: Vec<u8>,
        /// Its end.
        report: ExitReport,
    },
    /// It never ends.
    Hangs,
    /// Contact with its sandbox is lost.
    Lost,
}

impl FakeExec {
    /// A command that ends by itself with `code`.
    #[must_use]
    pub fn exits(code: i32) -> Self {
        Self::ends(Ending::Exited(code))
    }

    /// A command that ends in this way.
    #[must_use]
    pub fn ends(ending: Ending) -> Self {
        Self::Ends {
            output: b"output\n".to_vec(),
            report: ExitReport {
                ending,
                output_bytes: 7,
                truncated: false,
                oom_kills: 0,
                pids_refused: 0,
                duration: Duration::from_millis(5),
            },
        }
    }
}

type Script = dyn Fn(&ExecRequest) -> FakeExec + Send + Sync;

#[derive(Default)]
pub(crate) struct World {
    calls: Vec<String>,
    faults: HashMap<Operation, EngineErrorKind>,
    /// Parts of calls as they are written down, and how these fail.
    single_faults: Vec<(String, EngineErrorKind)>,
    /// What PID 1 of every sandbox ended with.
    ended: Option<i64>,
    objects: BTreeMap<String, FoundObject>,
    survivors: u32,
    attestation: Option<Attestation>,
    health: Option<Health>,
    egress: EgressRecords,
}

/// The fake engine; clones share one world.
#[derive(Clone)]
pub struct FakeEngine {
    world: Arc<Mutex<World>>,
    script: Arc<Script>,
}

impl std::fmt::Debug for FakeEngine {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("FakeEngine")
    }
}

impl FakeEngine {
    /// An engine whose commands do what `script` says.
    pub fn new(script: impl Fn(&ExecRequest) -> FakeExec + Send + Sync + 'static) -> Self {
        Self {
            world: Arc::new(Mutex::new(World::default())),
            script: Arc::new(script),
        }
    }

    /// From now on `operation` fails in this way.
    pub fn fail(&self, operation: Operation, kind: EngineErrorKind) {
        self.world().faults.insert(operation, kind);
    }

    /// From now on every call that is written down with `part` in it fails in this way.
    pub fn fail_where(&self, part: &str, kind: EngineErrorKind) {
        self.world().single_faults.push((part.to_owned(), kind));
    }

    /// From now on PID 1 of every sandbox has ended with `code`.
    pub fn set_ended(&self, code: i64) {
        self.world().ended = Some(code);
    }

    /// From now on this many processes resist being ended.
    pub fn set_survivors(&self, survivors: u32) {
        self.world().survivors = survivors;
    }

    /// From now on sandboxes attest this.
    pub fn set_attestation(&self, attestation: Attestation) {
        self.world().attestation = Some(attestation);
    }

    /// From now on every sandbox is like this.
    pub fn set_health(&self, health: Health) {
        self.world().health = Some(health);
    }

    /// What the next sandbox that is asked for records of connections gives.
    pub fn set_egress(&self, records: EgressRecords) {
        self.world().egress = records;
    }

    /// Puts an object there that somebody else made.
    pub fn add_object(&self, object: FoundObject) {
        self.world().objects.insert(object.name.clone(), object);
    }

    /// Every call so far, in order.
    #[must_use]
    pub fn calls(&self) -> Vec<String> {
        self.world().calls.clone()
    }

    /// Names of the objects that exist.
    #[must_use]
    pub fn objects(&self) -> Vec<String> {
        self.world().objects.keys().cloned().collect()
    }

    fn world(&self) -> MutexGuard<'_, World> {
        // Nothing in here panics while it holds the lock.
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes a call down, and fails it when it shall fail.
    pub(crate) fn call(&self, operation: Operation, subject: &str) -> Result<(), EngineError> {
        let mut world = self.world();
        let call = format!("{operation} {subject}");
        let single = world.single_faults.iter();
        let single = single.filter(|(part, _)| call.contains(part.as_str()));
        let fault = single.map(|(_, kind)| *kind).next();
        let fault = fault.or_else(|| world.faults.get(&operation).copied());
        world.calls.push(call);
        match fault {
            Some(kind) => Err(EngineError::new(
                kind,
                operation,
                subject,
                "as the test asked",
            )),
            None => Ok(()),
        }
    }

    fn make(&self, kind: ObjectKind, name: &str, labels: BTreeMap<String, String>) {
        let running = kind == ObjectKind::Container;
        let object = FoundObject {
            kind,
            name: name.to_owned(),
            labels,
            running,
        };
        self.world().objects.insert(name.to_owned(), object);
    }

    fn health(&self) -> Health {
        let processes = Processes {
            sleeping: 1,
            ..Processes::default()
        };
        self.world().health.unwrap_or(Health {
            specification: Some(true),
            processes,
            ..Health::default()
        })
    }

    fn attestation(&self, spec: &SandboxSpec) -> Attestation {
        let root = spec.profile == Profile::Build;
        self.world()
            .attestation
            .clone()
            .unwrap_or_else(|| Attestation {
                capabilities: spec.profile.capabilities(),
                bounding_capabilities: spec.profile.capabilities(),
                no_new_privileges: true,
                seccomp_mode: 2,
                uid: if root { 0 } else { spec.user.uid() },
                gid: if root { 0 } else { spec.user.gid() },
                interfaces: vec!["lo".to_owned()],
                routes: 0,
                writable_mounts: vec!["/tmp".to_owned(), WORKSPACE.to_owned()],
                read_only_mounts: [SPECIFICATION]
                    .into_iter()
                    .chain(spec.tests.then_some(TESTS))
                    .map(str::to_owned)
                    .collect(),
                read_only_root: !root,
                vsock_refused: true,
                metadata_unreachable: true,
                network_served: spec.network.is_some(),
                network_failure: None,
                kernel: "fake".to_owned(),
            })
    }
}

#[async_trait]
impl Inventory for FakeEngine {
    async fn list(&self, owner: Option<&OwnerId>) -> Result<Vec<FoundObject>, EngineError> {
        self.call(Operation::List, "")?;
        let key = forge_core::ownership::keys::OWNER;
        let world = self.world();
        let ours = world.objects.values().filter(|object| match owner {
            Some(owner) => object.label(key) == Some(owner.as_str()),
            None => object.label(key).is_some(),
        });
        Ok(ours.cloned().collect())
    }

    async fn remove(&self, object: &FoundObject) -> Result<(), EngineError> {
        self.call(Operation::Destroy, &object.name)?;
        self.world().objects.remove(&object.name);
        Ok(())
    }

    async fn sweep(&self) {
        self.world().calls.push("sweep".to_owned());
    }
}

#[async_trait]
impl Fixtures for FakeEngine {
    async fn put_tests(
        &self,
        id: &SandboxId,
        _image: &PreparedImage,
        mut tar: TarStream,
    ) -> Result<(), EngineError> {
        let subject = format!("workspace-{id}: {TESTS}");
        self.call(Operation::Put, &subject)?;
        tar.read_to_end(&mut Vec::new()).await.map_err(|error| {
            EngineError::new(
                EngineErrorKind::Internal,
                Operation::Put,
                subject,
                "the tests could not be read",
            )
            .with_source(error)
        })?;
        Ok(())
    }
}

#[async_trait]
impl Engine for FakeEngine {
    async fn describe(&self) -> Result<EngineDescription, EngineError> {
        self.call(Operation::Describe, "")?;
        Ok(EngineDescription {
            kind: "fake".to_owned(),
            version: "1".to_owned(),
            api_version: "1".to_owned(),
            endpoint: "memory".to_owned(),
            operating_system: "none".to_owned(),
            kernel: "none".to_owned(),
            architecture: "none".to_owned(),
            cores: 2,
            memory_bytes: 1 << 34,
            storage_driver: "memory".to_owned(),
            backing_filesystem: String::new(),
            cgroup_driver: "none".to_owned(),
            cgroup_version: "2".to_owned(),
            security_options: Vec::new(),
            runtimes: Vec::new(),
            data_root: String::new(),
            shares_disk: false,
            warnings: Vec::new(),
        })
    }

    async fn prepare_image(&self, reference: &str) -> Result<PreparedImage, EngineError> {
        self.call(Operation::PrepareImage, reference)?;
        Ok(PreparedImage {
            reference: reference.to_owned(),
            runnable: reference.to_owned(),
            digest: format!("sha256:{reference}"),
            size_bytes: 1,
            env: BTreeMap::from([("PATH".to_owned(), "/bin".to_owned())]),
        })
    }

    async fn create_workspace(
        &self,
        spec: &WorkspaceSpec,
        _image: &PreparedImage,
    ) -> Result<DiskQuota, EngineError> {
        self.call(Operation::CreateWorkspace, spec.id.as_str())?;
        let name = format!("workspace-{}", spec.id);
        self.make(
            ObjectKind::Volume,
            &name,
            spec.ownership.labels(Role::Workspace),
        );
        Ok(DiskQuota::Loop)
    }

    async fn create(
        &self,
        spec: &SandboxSpec,
        _image: &PreparedImage,
        _credentials: &Credentials,
    ) -> Result<Arc<dyn Sandbox>, EngineError> {
        self.call(Operation::Create, spec.id.as_str())?;
        self.make(
            ObjectKind::Container,
            spec.id.as_str(),
            spec.ownership.labels(spec.role),
        );
        let attestation = self.attestation(spec);
        Ok(Arc::new(FakeSandbox::new(self.clone(), spec, attestation)))
    }

    async fn open(
        &self,
        id: &SandboxId,
        _credentials: &Credentials,
    ) -> Result<Arc<dyn Sandbox>, EngineError> {
        self.call(Operation::Open, id.as_str())?;
        Err(EngineError::new(
            EngineErrorKind::NotFound,
            Operation::Open,
            id.as_str(),
            "the fake engine keeps no sandboxes between handles",
        ))
    }

    async fn destroy(&self, id: &SandboxId) -> Result<(), EngineError> {
        self.call(Operation::Destroy, id.as_str())?;
        self.world().objects.remove(id.as_str());
        Ok(())
    }

    async fn destroy_workspace(&self, id: &SandboxId) -> Result<(), EngineError> {
        let name = format!("workspace-{id}");
        self.call(Operation::Destroy, &name)?;
        self.world().objects.remove(&name);
        Ok(())
    }

    async fn snapshot(
        &self,
        id: &SandboxId,
        image: &PreparedImage,
    ) -> Result<PreparedImage, EngineError> {
        self.call(Operation::Snapshot, id.as_str())?;
        Ok(image.clone())
    }

    async fn close(&self) -> Result<(), EngineError> {
        self.call(Operation::Close, "")
    }

    fn images(&self) -> Option<&dyn ImageStore> {
        None
    }
}
