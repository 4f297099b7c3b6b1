//! The egress proxy of an engine handle: one container through which every sandbox that is not
//! isolated reaches what its policy allows.
//!
//! ```text
//! sandbox ── /.swe-forge/egress/proxy.sock ── volume ── proxy ── bridge of its own ── outside
//! engine handle ── one long exec, JSON lines ───────────┘
//! ```
//!
//! It is made when the first sandbox needs it and removed by `close`. Every failure leaves a
//! sandbox without a network, never with more than its policy: a socket exists only while the
//! proxy that serves it has a policy for it.
//!
//! The proxy outlives a process that ends without `close`: policies stay in force, and records of
//! connections wait. A process with the same [`GateIdentity`] goes on with it. Of two such at once the
//! newer has the proxy, and the older gets an error for whatever it asks.
//!
//! A sandbox under a runtime that keeps host sockets out (`runsc` without `--host-uds=open`) finds
//! its socket dead, and so is isolated.

mod driver;
mod identity;
mod ledger;
mod link;
mod machine;
mod place;
mod plan;
mod subnet;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use async_trait::async_trait;
use bollard::models::{ContainerCreateBody, Mount};
use forge_api::egress::{AuditContext, PROXY_SOCKET, SandboxPolicy};
use forge_core::egress::{AddressRange, HTTP_PORT, HTTPS_PORT};
use forge_core::ownership::keys;
use forge_core::{EgressPolicy, PhaseName, SandboxId, SandboxNetwork, SandboxSpec};
use forge_engine::task::{self, OwnedTask};
use forge_engine::{Egress, EgressRecords, EngineError, EngineErrorKind, Operation};
use forge_wire::EGRESS_DIRECTORY;
use forge_wire::message::Network;
use sha2::{Digest, Sha256};
use tokio::sync::{Mutex, OnceCell, mpsc, oneshot};

use crate::context::hex;
use crate::engine::DockerEngine;
use crate::names::{EGRESS_FOLDER, EGRESS_PROXY, egress_name};
use crate::prepare::binary_architecture;

use driver::{End, Order};
use place::Place;
use plan::Plan;

pub use identity::{GateIdentity, InvalidGateIdentity};

const OPERATION: Operation = Operation::Network;
/// Orders on their way to the driver; more wait their turn.
const ORDERS: usize = 64;

/// How an engine handle runs its egress proxy.
#[derive(Clone, Default)]
pub struct EgressOptions {
    /// The proxy: statically linked, for the engine's architecture. Empty where there is none at
    /// hand; then only isolated sandboxes can be made.
    pub program: Arc<[u8]>,
    /// Name servers that the proxy asks instead of those of the engine's machine.
    pub resolvers: Vec<IpAddr>,
    /// Addresses that no sandbox reaches, besides those that none ever does. No exception opens
    /// them.
    pub denied: Vec<AddressRange>,
    /// That of an earlier process, whose proxy is taken over where it still stands. `None` where
    /// nobody is to take over this one's either.
    pub identity: Option<GateIdentity>,
}

impl std::fmt::Debug for EgressOptions {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("EgressOptions")
            .field("program", &format_args!("{} bytes", self.program.len()))
            .field("resolvers", &self.resolvers)
            .field("denied", &self.denied)
            .field("identity", &self.identity)
            .finish()
    }
}

/// The proxy of one engine handle, running or not.
pub(crate) struct Gate {
    options: EgressOptions,
    /// Of container, network and volume; the same after a `close`.
    name: String,
    /// Decides which subnet is tried first.
    seed: u32,
    /// What the names of folders are made from; nothing else knows it.
    secret: [u8; 32],
    /// Whether the proxy may be there already, with sandboxes of an earlier process.
    inherits: bool,
    running: Mutex<Option<Running>>,
}

impl std::fmt::Debug for Gate {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Gate({})", self.name)
    }
}

struct Running {
    place: Arc<Place>,
    orders: mpsc::Sender<Order>,
    driver: OwnedTask<End>,
}

impl Gate {
    pub(crate) fn new(options: EgressOptions) -> Self {
        let identity = options.identity.clone();
        let inherits = identity.is_some();
        let identity = identity.unwrap_or_else(GateIdentity::random);
        let [first, second, third, fourth, ..] = identity.derive("subnet");
        Self {
            options,
            name: egress_name(&hex(&identity.derive("name")[..6])),
            seed: u32::from_be_bytes([first, second, third, fourth]),
            secret: identity.derive("folders"),
            inherits,
            running: Mutex::default(),
        }
    }

    /// Starts the task that controls the proxy, and makes it when it must.
    fn drive(&self, place: Arc<Place>) -> Running {
        let (orders, receiver) = mpsc::channel(ORDERS);
        let engine = uuid::Uuid::new_v4().simple().to_string();
        let driving = driver::run(place.clone(), receiver, engine, self.inherits);
        Running {
            place,
            orders,
            driver: task::spawn("egress proxy", driving),
        }
    }

    /// The folder of a sandbox: always the same for this identity, and not to be guessed by anybody
    /// who does not have the secret.
    fn folder(&self, id: &SandboxId) -> String {
        let mut hasher = Sha256::new_with_prefix(self.secret);
        hasher.update(id.as_str().as_bytes());
        hex(&hasher.finalize()[..16])
    }
}

/// What the container of a sandbox needs for its network.
#[derive(Debug, Clone)]
pub(crate) struct Attachment {
    /// The folder of its socket.
    mount: Mount,
    /// By which a later process finds the folder and its proxy again.
    labels: [(&'static str, String); 2],
}

impl Attachment {
    /// Adds it to the request that makes the container.
    pub(crate) fn add_to(self, body: &mut ContainerCreateBody) {
        let labels = self.labels.map(|(key, value)| (key.to_owned(), value));
        body.labels.get_or_insert_default().extend(labels);
        let host = body.host_config.get_or_insert_default();
        host.mounts.get_or_insert_default().push(self.mount);
    }
}

impl DockerEngine {
    /// Opens a sandbox's socket with its first policy in force; `None` where it is isolated for
    /// its whole life.
    pub(crate) async fn attach(
        &self,
        spec: &SandboxSpec,
    ) -> Result<Option<Attachment>, EngineError> {
        let Some(network) = &spec.network else {
            return Ok(None);
        };
        let (place, orders) = self.proxy().await?;
        let sandbox = SandboxEgress {
            sandbox: spec.id.to_string(),
            folder: self.gate.folder(&spec.id),
            run: spec.ownership.run.to_string(),
            task: spec.ownership.task.to_string(),
            orders: Some(orders),
        };
        sandbox.set_policy(&network.policy, network.phase).await?;
        Ok(Some(Attachment {
            mount: place.mount(&sandbox.folder).await?,
            labels: [
                (EGRESS_FOLDER, sandbox.folder),
                (EGRESS_PROXY, self.gate.name.clone()),
            ],
        }))
    }

    /// The network of a sandbox as its labels tell of it; `None` where it has none. One that an
    /// earlier process made is looked after from then on.
    ///
    /// A sandbox of a process with another identity, which has a proxy of its own, cannot be
    /// controlled from here: its policy stays as it is for as long as that proxy lives.
    pub(crate) async fn egress_of(
        &self,
        id: &SandboxId,
        label: impl Fn(&str) -> Option<String>,
    ) -> Result<Option<SandboxEgress>, EngineError> {
        // An empty one is inherited from an image.
        let Some(proxy) = label(EGRESS_PROXY).filter(|proxy| !proxy.is_empty()) else {
            return Ok(None);
        };
        let orders = if proxy != self.gate.name {
            None
        } else if self.gate.inherits {
            let (_, orders) = self.proxy().await?;
            let sandbox = id.to_string();
            // A driver that was closed meanwhile says so to whoever asks it for something.
            orders.send(Order::Inherit { sandbox }).await.ok();
            Some(orders)
        } else {
            self.running_orders().await
        };
        Ok(Some(SandboxEgress {
            sandbox: id.to_string(),
            folder: label(EGRESS_FOLDER).unwrap_or_default(),
            run: label(keys::RUN).unwrap_or_default(),
            task: label(keys::TASK_ID).unwrap_or_default(),
            orders,
        }))
    }

    async fn running_orders(&self) -> Option<mpsc::Sender<Order>> {
        let running = self.gate.running.lock().await;
        running.as_ref().map(|running| running.orders.clone())
    }

    /// Closes the socket of a sandbox that is gone, if it had one. Where it was made by an earlier
    /// process, `inherited`, it may have one without this handle knowing.
    pub(crate) async fn detach(&self, id: &SandboxId, inherited: bool) {
        let inherited = inherited && self.gate.inherits;
        let orders = if inherited {
            match self.proxy().await {
                // No proxy is made for that alone.
                Ok((_, orders)) => Some(orders),
                Err(error) => {
                    tracing::debug!(sandbox = %id, %error, "its socket stays with the proxy");
                    None
                }
            }
        } else {
            self.running_orders().await
        };
        let Some(orders) = orders else { return };
        let (reply, removed) = oneshot::channel();
        let order = Order::Remove {
            sandbox: id.to_string(),
            inherited,
            reply,
        };
        let asked = orders.send(order).await;
        if asked.is_err() || removed.await.is_err() {
            tracing::debug!(sandbox = %id, "the egress proxy is gone, and with it the socket");
        }
    }

    /// The proxy, which is made when there is none. That it can be reached is seen by whoever asks
    /// it for something.
    async fn proxy(&self) -> Result<(Arc<Place>, mpsc::Sender<Order>), EngineError> {
        self.check_program()?;
        let place = self.place().await?;
        let mut running = self.gate.running.lock().await;
        if let Some(running) = &*running
            && !running.orders.is_closed()
        {
            return Ok((running.place.clone(), running.orders.clone()));
        }
        let started = self.gate.drive(Arc::new(place));
        let (place, orders) = (started.place.clone(), started.orders.clone());
        *running = Some(started);
        Ok((place, orders))
    }

    /// Where the proxy stands, or will.
    async fn place(&self) -> Result<Place, EngineError> {
        let gate = &self.gate;
        let mut owner = self.own_labels();
        if let Some(run) = &self.run {
            owner.insert(keys::RUN.to_owned(), run.to_string());
        }
        let plan = Plan::new(
            gate.name.clone(),
            &gate.options.program,
            gate.options.resolvers.clone(),
            owner,
        );
        Ok(Place {
            client: self.client.clone(),
            plan,
            program: gate.options.program.clone(),
            denied: gate.options.denied.clone(),
            same_machine: self.shares_disk().await?,
            remapped: self.machine().await?.remapped,
            seed: gate.seed,
            mountpoint: OnceCell::new(),
            attached: AtomicBool::new(false),
        })
    }

    fn check_program(&self) -> Result<(), EngineError> {
        let unsupported = |message: String| {
            Err(EngineError::new(
                EngineErrorKind::Unsupported,
                OPERATION,
                "",
                message,
            ))
        };
        let program = &self.gate.options.program;
        if program.is_empty() {
            return unsupported(
                "forge-egress, the proxy that every network level but 'isolated' needs, is not at \
                 hand: `cargo xtask build` builds it in, SWE_FORGE_EGRESS names a file"
                    .to_owned(),
            );
        }
        let engine = self.client.version.arch.as_deref().unwrap_or_default();
        match binary_architecture(program) {
            Some(architecture) if architecture == engine => Ok(()),
            Some(architecture) => unsupported(format!(
                "forge-egress is for {architecture}, the engine is {engine}"
            )),
            None => unsupported("forge-egress is no executable this program knows".to_owned()),
        }
    }

    /// Removes the proxy with network and volume, also one that an earlier process of the same
    /// identity left. One that is needed again is made again; one that another process has taken
    /// over stays.
    pub(crate) async fn close_egress(&self) -> Result<(), EngineError> {
        let mut running = self.gate.running.lock().await;
        let Some(Running {
            place,
            orders,
            driver,
        }) = running.take()
        else {
            if self.gate.inherits {
                return self.place().await?.remove().await;
            }
            return Ok(());
        };
        // Closed already when this fails.
        orders.send(Order::Close).await.ok();
        match driver.join().await {
            Ok(End::Closed) => {}
            Ok(End::Superseded) => return Ok(()),
            Err(error) => {
                tracing::warn!(%error, "the egress proxy's driver did not end by itself");
            }
        }
        let removed = place.remove().await;
        if removed.is_err() {
            // So that another `close` tries again.
            *running = Some(self.gate.drive(place));
        }
        removed
    }
}

/// What PID 1 is told about the network.
pub(crate) fn settings(network: &SandboxNetwork) -> Network {
    let mut ports = vec![HTTP_PORT, HTTPS_PORT];
    ports.extend(&network.ports);
    ports.sort_unstable();
    ports.dedup();
    Network {
        socket: format!("{EGRESS_DIRECTORY}/{PROXY_SOCKET}"),
        ports,
        socks: network.socks,
    }
}

/// The proxy as far as it serves one sandbox.
pub(crate) struct SandboxEgress {
    sandbox: String,
    folder: String,
    run: String,
    task: String,
    /// `None` where the proxy is that of another identity.
    orders: Option<mpsc::Sender<Order>>,
}

impl SandboxEgress {
    /// Asks the driver and waits for its answer.
    async fn ask<T>(
        &self,
        order: impl FnOnce(driver::Reply<T>) -> Order + Send,
    ) -> Result<T, EngineError> {
        let Some(orders) = &self.orders else {
            return Err(self.unavailable("its egress proxy belongs to another process"));
        };
        let (reply, answer) = oneshot::channel();
        let closed = || self.unavailable("the egress proxy was closed");
        orders.send(order(reply)).await.map_err(|_| closed())?;
        answer.await.map_err(|_| closed())?
    }

    fn unavailable(&self, message: &str) -> EngineError {
        EngineError::new(
            EngineErrorKind::Unavailable,
            OPERATION,
            &self.sandbox,
            message,
        )
    }
}

#[async_trait]
impl Egress for SandboxEgress {
    async fn set_policy(&self, policy: &EgressPolicy, phase: PhaseName) -> Result<(), EngineError> {
        let policy = Box::new(SandboxPolicy {
            sandbox: self.sandbox.clone(),
            directory: self.folder.clone(),
            policy: policy.clone(),
            context: AuditContext {
                run: self.run.clone(),
                task: self.task.clone(),
                phase,
            },
        });
        self.ask(|reply| Order::Set { policy, reply }).await
    }

    async fn take_records(&self) -> Result<EgressRecords, EngineError> {
        let sandbox = self.sandbox.clone();
        self.ask(|reply| Order::Take { sandbox, reply }).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_the_same_again_and_another_for_every_sandbox_and_handle() {
        let gate = Gate::new(EgressOptions::default());
        let id = |text: &str| SandboxId::new(text).unwrap();
        let folder = gate.folder(&id("one"));
        assert_eq!(folder.len(), 32);
        assert!(folder.bytes().all(|byte| byte.is_ascii_hexdigit()));
        assert_eq!(gate.folder(&id("one")), folder);
        assert_ne!(gate.folder(&id("two")), folder);
        let other = Gate::new(EgressOptions::default());
        assert_ne!(other.folder(&id("one")), folder);
        assert_ne!(other.name, gate.name);
    }

    #[test]
    fn handles_of_one_identity_have_the_same_proxy_and_folders() {
        let gate = |identity: u8| {
            Gate::new(EgressOptions {
                identity: Some(GateIdentity::from_bytes([identity; 32])),
                ..EgressOptions::default()
            })
        };
        let id = SandboxId::new("one").unwrap();
        let (one, same, other) = (gate(1), gate(1), gate(2));
        assert_eq!((&one.name, one.seed), (&same.name, same.seed));
        assert_eq!(one.folder(&id), same.folder(&id));
        assert_ne!(one.name, other.name);
        assert_ne!(one.folder(&id), other.folder(&id));
    }

    #[test]
    fn the_ports_of_http_are_always_captured_and_none_twice() {
        let network = SandboxNetwork {
            policy: EgressPolicy::isolated(),
            phase: PhaseName::Setup,
            ports: vec![443, 8443, 8443],
            socks: true,
        };
        let settings = settings(&network);
        assert_eq!(settings.ports, [80, 443, 8443]);
        assert_eq!(settings.socket, "/.swe-forge/egress/proxy.sock");
        assert!(settings.socks);
    }
}
