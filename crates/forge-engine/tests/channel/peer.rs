//! The other end of a channel: hands out streams, shakes hands, and speaks as the test says.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use forge_core::{ExecRequest, SandboxId};
use forge_engine::channel::{ChannelIdentity, Connector, Duplex};
use forge_engine::{Credentials, EngineError, EngineErrorKind, Operation};
use forge_wire::frame::{Lane, decode_message, encode_data, encode_message};
use forge_wire::handshake::End;
use forge_wire::message::{Attested, Ending, Report, Settings};
use forge_wire::{Event, Frame, FrameDecoder, PROTOCOL_VERSION, Proof, Request, Secret};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

/// Gives out the streams that the test put there, in order; then it says that all is lost.
#[derive(Default)]
pub(crate) struct Streams(Mutex<VecDeque<DuplexStream>>);

impl Streams {
    /// Puts one more connection there and gives its other end.
    pub(crate) fn add(&self) -> Peer {
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        self.0.lock().unwrap().push_back(ours);
        Peer {
            stream: theirs,
            decoder: FrameDecoder::default(),
        }
    }

    /// Connections that nobody has taken.
    pub(crate) fn left(&self) -> usize {
        self.0.lock().unwrap().len()
    }
}

#[async_trait]
impl Connector for Streams {
    async fn connect(&self) -> Result<Box<dyn Duplex>, EngineError> {
        let next = self.0.lock().unwrap().pop_front();
        next.map(|stream| Box::new(stream) as Box<dyn Duplex>)
            .ok_or_else(|| {
                EngineError::new(
                    EngineErrorKind::Lost,
                    Operation::Open,
                    "sandbox",
                    "it is gone",
                )
            })
    }
}

pub(crate) fn streams() -> Arc<Streams> {
    Arc::new(Streams::default())
}

pub(crate) fn identity() -> ChannelIdentity {
    ChannelIdentity {
        id: SandboxId::new("sandbox").unwrap(),
        credentials: Credentials {
            secret: secret(),
            epoch: EPOCH,
        },
    }
}

/// The client's epoch.
pub(crate) const EPOCH: u64 = 3;

pub(crate) fn secret() -> Secret {
    Secret::new([9; 32])
}

pub(crate) fn settings() -> Settings {
    Settings {
        workspace: "/workspace".to_owned(),
        disk_limit: 1,
        lifetime_seconds: 1,
        network: None,
    }
}

pub(crate) fn request() -> ExecRequest {
    ExecRequest {
        argv: vec!["program".to_owned()],
        env: Vec::new(),
        working_directory: "/".to_owned(),
        stdin: true,
        timeout: None,
        grace: Duration::ZERO,
        output_limit: 1 << 40,
        key: None,
        join: None,
    }
}

pub(crate) fn report(output_bytes: u64) -> Report {
    Report {
        ending: Ending::Exited(0),
        output_bytes,
        truncated: false,
        oom_kills: 0,
        pids_refused: 0,
        duration_us: 1,
    }
}

/// One connection, seen from the sandbox.
pub(crate) struct Peer {
    stream: DuplexStream,
    decoder: FrameDecoder,
}

impl Peer {
    pub(crate) async fn say(&mut self, event: Event) {
        let mut bytes = Vec::new();
        encode_message(&event, &mut bytes).unwrap();
        self.stream.write_all(&bytes).await.unwrap();
    }

    pub(crate) async fn output(&mut self, exec: u64, offset: u64, bytes: &[u8]) {
        let mut frame = Vec::new();
        encode_data(exec, Lane::Stdout, offset, bytes, &mut frame);
        self.stream.write_all(&frame).await.unwrap();
    }

    /// The next frame; `None` when the client hung up.
    pub(crate) async fn frame(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.decoder.next_frame().unwrap() {
                return Some(frame);
            }
            let mut piece = [0; 4096];
            match self.stream.read(&mut piece).await.unwrap() {
                0 => return None,
                length => self.decoder.push(&piece[..length]),
            }
        }
    }

    pub(crate) async fn hear(&mut self) -> Request {
        match self.frame().await {
            Some(Frame::Message(body)) => decode_message(&body).unwrap(),
            other => panic!("a message was expected, not {other:?}"),
        }
    }

    pub(crate) async fn answer_ping(&mut self) {
        match self.hear().await {
            Request::Ping { request } => self.say(Event::Pong { request }).await,
            other => panic!("a ping was expected, not {other:?}"),
        }
    }

    /// Says the first word and nothing more.
    pub(crate) async fn only_greet(&mut self, claimed: bool) {
        self.say(Event::Greeting {
            version: PROTOCOL_VERSION,
            nonce: [1; 32],
            claimed,
        })
        .await;
    }

    /// Answers the client's introduction as a sandbox that serves another client, of `epoch`; `own`
    /// is the secret that it knows.
    pub(crate) async fn supersede(&mut self, epoch: u64, own: Secret) {
        self.only_greet(true).await;
        let Request::Prove { nonce, .. } = self.hear().await else {
            panic!("no proof")
        };
        let proof = Proof::make(&own, End::Sandbox, epoch, &[1; 32], &nonce);
        self.say(Event::Superseded { epoch, proof }).await;
    }

    /// Shakes hands as the sandbox that knows the secret.
    pub(crate) async fn greet(&mut self, claimed: bool) {
        self.greet_with(claimed, secret(), secret()).await;
    }

    /// Checks the client's proof by `expected`, and proves itself by `own`.
    pub(crate) async fn greet_with(&mut self, claimed: bool, expected: Secret, own: Secret) {
        let nonce = [1; 32];
        self.only_greet(claimed).await;
        let theirs = match self.hear().await {
            Request::Claim { nonce, .. } => nonce,
            Request::Prove {
                nonce: theirs,
                epoch,
                proof,
            } => {
                assert_eq!(epoch, EPOCH);
                assert!(proof.is_from(&expected, End::Client, EPOCH, &nonce, &theirs));
                theirs
            }
            other => panic!("an introduction was expected, not {other:?}"),
        };
        let proof = Proof::make(&own, End::Sandbox, EPOCH, &nonce, &theirs);
        let attestation = Box::new(Attested {
            capabilities: 0,
            bounding_capabilities: 0,
            no_new_privileges: true,
            seccomp_mode: 2,
            uid: 1,
            gid: 1,
            interfaces: Vec::new(),
            routes: 0,
            writable_mounts: Vec::new(),
            read_only_mounts: Vec::new(),
            read_only_root: true,
            vsock_refused: true,
            metadata_unreachable: true,
            network_served: false,
            network_failure: None,
            kernel: String::new(),
            own_threads: 3,
        });
        self.say(Event::Welcome { proof, attestation }).await;
    }
}
