//! A blocking client of the channel, and sandboxes made of namespaces, for tests only.

mod sandbox;

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::Duration;

use forge_wire::frame::{Lane, decode_message, encode_data, encode_message};
use forge_wire::handshake::End;
use forge_wire::message::{Attested, Command, Health, Report, Settings, TransferLimits, Usage};
use forge_wire::{Data, Event, Frame, FrameDecoder, Nonce, Proof, Request, Secret, WINDOW};

pub use sandbox::{Sandbox, wait_until};

/// How long anything may take before a test fails; nothing waits this long when all is well.
pub const PATIENCE: Duration = Duration::from_secs(60);
pub const SECRET: [u8; 32] = [7; 32];
/// The epoch of clients that claim, and prove, without one of their own.
pub const EPOCH: u64 = 3;
pub const LIMITS: TransferLimits = TransferLimits {
    bytes: 1 << 30,
    entries: 100_000,
};

/// What comes from the sandbox.
#[derive(Debug, PartialEq)]
pub enum Incoming {
    Event(Event),
    Data(Data),
}

pub struct Client {
    writer: Box<dyn Write + Send>,
    socket: Option<UnixStream>,
    pieces: Receiver<Vec<u8>>,
    decoder: FrameDecoder,
    later: VecDeque<Incoming>,
    next_id: u64,
    pub sandbox_nonce: Nonce,
    pub claimed: bool,
}

/// All that a program gave.
#[derive(Debug)]
pub struct Outcome {
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    pub report: Report,
}

impl Client {
    /// Speaks over a socket; reads the greeting.
    pub fn over_socket(socket: UnixStream) -> Self {
        let reader = socket.try_clone().unwrap();
        let writer = socket.try_clone().unwrap();
        Self::new(reader, writer, Some(socket))
    }

    pub fn new(
        mut reader: impl Read + Send + 'static,
        writer: impl Write + Send + 'static,
        socket: Option<UnixStream>,
    ) -> Self {
        let (sender, pieces) = sync_channel(16);
        std::thread::spawn(move || {
            let mut piece = vec![0; 256 * 1024];
            while let Ok(count) = reader.read(&mut piece) {
                if count == 0 || sender.send(piece[..count].to_vec()).is_err() {
                    return;
                }
            }
        });
        let mut client = Self {
            writer: Box::new(writer),
            socket,
            pieces,
            decoder: FrameDecoder::default(),
            later: VecDeque::new(),
            next_id: 1,
            sandbox_nonce: [0; 32],
            claimed: false,
        };
        match client.receive() {
            Some(Incoming::Event(Event::Greeting { nonce, claimed, .. })) => {
                client.sandbox_nonce = nonce;
                client.claimed = claimed;
            }
            other => panic!("no greeting but {other:?}"),
        }
        client
    }

    /// An id that was not used before; `base` keeps the ids of several clients apart.
    pub fn id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    pub fn start_ids_at(&mut self, base: u64) {
        self.next_id = base;
    }

    pub fn send(&mut self, request: &Request) {
        let mut bytes = Vec::new();
        encode_message(request, &mut bytes).unwrap();
        // A connection that was closed shows when something is read from it.
        drop(self.writer.write_all(&bytes));
        drop(self.writer.flush());
    }

    pub fn send_data(&mut self, id: u64, lane: Lane, offset: u64, bytes: &[u8]) {
        let mut frame = Vec::new();
        encode_data(id, lane, offset, bytes, &mut frame);
        drop(self.writer.write_all(&frame));
        drop(self.writer.flush());
    }

    pub fn send_raw(&mut self, bytes: &[u8]) {
        drop(self.writer.write_all(bytes));
        drop(self.writer.flush());
    }

    /// The next thing that comes; none when the connection was closed.
    pub fn receive(&mut self) -> Option<Incoming> {
        self.receive_within(PATIENCE)
            .expect("nothing came from the sandbox")
    }

    /// As [`Self::receive`], but `Err` when nothing comes within `patience`.
    pub fn receive_within(&mut self, patience: Duration) -> Result<Option<Incoming>, ()> {
        if let Some(incoming) = self.later.pop_front() {
            return Ok(Some(incoming));
        }
        loop {
            match self.decoder.next_frame().unwrap() {
                Some(Frame::Message(body)) => {
                    return Ok(Some(Incoming::Event(decode_message(&body).unwrap())));
                }
                Some(Frame::Data(data)) => return Ok(Some(Incoming::Data(data))),
                None => {}
            }
            match self.pieces.recv_timeout(patience) {
                Ok(piece) => self.decoder.push(&piece),
                Err(RecvTimeoutError::Timeout) => return Err(()),
                Err(RecvTimeoutError::Disconnected) => return Ok(None),
            }
        }
    }

    /// The next event that `wanted` takes; everything else is kept for later.
    pub fn wait_for<T>(&mut self, wanted: impl Fn(&Event) -> Option<T>) -> T {
        let mut kept = VecDeque::new();
        let found = loop {
            match self.receive() {
                Some(Incoming::Event(event)) => match wanted(&event) {
                    Some(found) => break found,
                    None => kept.push_back(Incoming::Event(event)),
                },
                Some(data) => kept.push_back(data),
                None => panic!("the sandbox closed the connection; before: {kept:?}"),
            }
        };
        kept.append(&mut self.later);
        self.later = kept;
        found
    }

    pub fn claim(&mut self, settings: Settings) -> Box<Attested> {
        let nonce = [2; 32];
        self.send(&Request::Claim {
            nonce,
            secret: Secret::new(SECRET),
            epoch: EPOCH,
            settings,
        });
        self.welcome(EPOCH, &nonce)
    }

    pub fn prove(&mut self) -> Box<Attested> {
        self.prove_epoch(EPOCH)
    }

    pub fn prove_epoch(&mut self, epoch: u64) -> Box<Attested> {
        let nonce = self.send_proof(epoch);
        self.welcome(epoch, &nonce)
    }

    /// Proves an epoch that the sandbox has left behind; gives the one that it says it serves.
    pub fn prove_superseded(&mut self, epoch: u64) -> u64 {
        let nonce = self.send_proof(epoch);
        match self.receive() {
            Some(Incoming::Event(Event::Superseded { epoch, proof })) => {
                let secret = Secret::new(SECRET);
                assert!(proof.is_from(&secret, End::Sandbox, epoch, &self.sandbox_nonce, &nonce));
                assert_eq!(self.receive(), None);
                epoch
            }
            other => panic!("not superseded but {other:?}"),
        }
    }

    fn send_proof(&mut self, epoch: u64) -> Nonce {
        let nonce = [3; 32];
        let proof = Proof::make(
            &Secret::new(SECRET),
            End::Client,
            epoch,
            &self.sandbox_nonce,
            &nonce,
        );
        self.send(&Request::Prove {
            nonce,
            epoch,
            proof,
        });
        nonce
    }

    fn welcome(&mut self, epoch: u64, nonce: &Nonce) -> Box<Attested> {
        match self.receive() {
            Some(Incoming::Event(Event::Welcome { proof, attestation })) => {
                let secret = Secret::new(SECRET);
                assert!(proof.is_from(&secret, End::Sandbox, epoch, &self.sandbox_nonce, nonce));
                attestation
            }
            other => panic!("no welcome but {other:?}"),
        }
    }

    /// Starts a program and waits until it runs.
    pub fn start(&mut self, command: &Command) -> (u64, i32) {
        let exec = self.id();
        self.send(&Request::Exec {
            exec,
            command: command.clone(),
        });
        let pid = self.wait_for(|event| match event {
            Event::Started { exec: id, pid } if *id == exec => Some(*pid),
            _ => None,
        });
        (exec, pid)
    }

    /// Runs a program to its end.
    pub fn run(&mut self, command: &Command) -> Outcome {
        let exec = self.id();
        self.send(&Request::Exec {
            exec,
            command: command.clone(),
        });
        self.finish(exec)
    }

    /// Reads a program's output, from its start, to its end.
    pub fn finish(&mut self, exec: u64) -> Outcome {
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let mut have = 0;
        let mut kept = VecDeque::new();
        let report = loop {
            match self.receive() {
                Some(Incoming::Data(data)) if data.id == exec => {
                    assert_eq!(data.offset, have, "output is missing or came twice");
                    have += data.bytes.len() as u64;
                    match data.lane {
                        Lane::Stdout => stdout.extend(data.bytes),
                        Lane::Stderr => stderr.extend(data.bytes),
                        lane => panic!("output on {lane:?}"),
                    }
                    self.send(&Request::OutputTaken { exec, offset: have });
                }
                Some(Incoming::Event(Event::Exited { exec: id, report })) if id == exec => {
                    break report;
                }
                Some(Incoming::Event(Event::Started { exec: id, .. })) if id == exec => {}
                Some(other) => kept.push_back(other),
                None => panic!("the sandbox closed the connection"),
            }
        };
        kept.append(&mut self.later);
        self.later = kept;
        Outcome {
            stdout,
            stderr,
            report,
        }
    }

    /// Resumes an exec from an offset that the sandbox has.
    pub fn resume(&mut self, exec: u64, from: u64, taken: u64) {
        assert_eq!(self.resume_anywhere(exec, from, taken), from);
    }

    /// Resumes an exec; gives the offset that the sandbox names.
    pub fn resume_anywhere(&mut self, exec: u64, from: u64, taken: u64) -> u64 {
        self.send(&Request::Resume { exec, from, taken });
        self.wait_for(|event| match event {
            Event::Resumed { exec: id, from } if *id == exec => Some(*from),
            _ => None,
        })
    }

    pub fn exited(&mut self, exec: u64) -> Report {
        self.wait_for(|event| match event {
            Event::Exited { exec: id, report } if *id == exec => Some(report.clone()),
            _ => None,
        })
    }

    pub fn kill_all(&mut self) -> u32 {
        let request = self.id();
        self.send(&Request::KillAll { request });
        self.wait_for(|event| match event {
            Event::AllKilled {
                request: id,
                survivors,
            } if *id == request => Some(*survivors),
            _ => None,
        })
    }

    pub fn ping(&mut self) {
        let request = self.id();
        self.send(&Request::Ping { request });
        self.wait_for(|event| (*event == Event::Pong { request }).then_some(()));
    }

    pub fn remove(&mut self, path: &str) -> Option<String> {
        let request = self.id();
        self.send(&Request::Remove {
            request,
            path: path.to_owned(),
        });
        self.wait_for(|event| match event {
            Event::Removed { request: id, error } if *id == request => Some(error.clone()),
            _ => None,
        })
    }

    pub fn hand_over(&mut self, path: &str, uid: u32, gid: u32) -> Option<String> {
        let request = self.id();
        self.send(&Request::HandOver {
            request,
            path: path.to_owned(),
            uid,
            gid,
        });
        self.wait_for(|event| match event {
            Event::HandedOver { request: id, error } if *id == request => Some(error.clone()),
            _ => None,
        })
    }

    pub fn usage(&mut self) -> Usage {
        let request = self.id();
        self.send(&Request::Usage { request });
        self.wait_for(|event| match event {
            Event::Usage { request: id, usage } if *id == request => Some(*usage),
            _ => None,
        })
    }

    pub fn health(&mut self) -> Health {
        let request = self.id();
        self.send(&Request::Health { request });
        self.wait_for(|event| match event {
            Event::Health {
                request: id,
                health,
            } if *id == request => Some(*health),
            _ => None,
        })
    }

    /// Sends a tar stream; gives how the transfer ended.
    pub fn put(&mut self, directory: &str, stream: &[u8]) -> Event {
        let transfer = self.id();
        self.send(&Request::Put {
            transfer,
            directory: directory.to_owned(),
            limits: LIMITS,
        });
        let mut sent = 0;
        let mut taken = 0;
        for piece in stream.chunks(256 * 1024) {
            while sent + piece.len() as u64 - taken > WINDOW {
                match self.transfer_event(transfer) {
                    Event::TransferTaken { offset, .. } => taken = offset,
                    result => return result,
                }
            }
            self.send_data(transfer, Lane::Upload, sent, piece);
            sent += piece.len() as u64;
        }
        self.send(&Request::PutEnd { transfer });
        loop {
            match self.transfer_event(transfer) {
                Event::TransferTaken { .. } => {}
                result => return result,
            }
        }
    }

    fn transfer_event(&mut self, transfer: u64) -> Event {
        self.wait_for(|event| match event {
            Event::TransferTaken { transfer: id, .. }
            | Event::TransferDone { transfer: id, .. }
            | Event::TransferFailed { transfer: id, .. }
                if *id == transfer =>
            {
                Some(event.clone())
            }
            _ => None,
        })
    }

    /// Fetches a path as a tar stream; gives how the transfer ended as well.
    pub fn get(&mut self, path: &str) -> (Vec<u8>, Event) {
        let transfer = self.id();
        self.send(&Request::Get {
            transfer,
            path: path.to_owned(),
            limits: LIMITS,
        });
        let mut stream = Vec::new();
        loop {
            match self.receive() {
                Some(Incoming::Data(data)) => {
                    assert_eq!((data.id, data.lane), (transfer, Lane::Download));
                    assert_eq!(data.offset, stream.len() as u64);
                    stream.extend(data.bytes);
                    self.send(&Request::TransferTaken {
                        transfer,
                        offset: stream.len() as u64,
                    });
                }
                Some(Incoming::Event(event)) => return (stream, event),
                None => panic!("the sandbox closed the connection"),
            }
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        if let Some(socket) = &self.socket {
            drop(socket.shutdown(std::net::Shutdown::Both));
        }
    }
}

/// A program with the usual settings.
pub fn program(argv: &[&str]) -> Command {
    Command {
        argv: argv.iter().map(|&word| word.to_owned()).collect(),
        env: vec![("PATH".into(), "/usr/bin:/bin".into())],
        working_directory: "/workspace".into(),
        stdin: false,
        timeout_ms: 0,
        grace_ms: 0,
        output_limit: u64::MAX,
    }
}

/// A shell script.
pub fn script(text: &str) -> Command {
    program(&["/bin/sh", "-c", text])
}

/// What a sandbox is told to watch, unless a test wants something else.
pub fn settings() -> Settings {
    Settings {
        workspace: "/workspace".into(),
        disk_limit: u64::MAX,
        lifetime_seconds: 600,
        network: None,
    }
}
