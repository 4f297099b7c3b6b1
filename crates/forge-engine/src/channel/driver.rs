//! The driver: sole owner of a channel's connection and of what is under way on it.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use forge_core::exec::OutputStream;
use forge_wire::frame::{Data, Lane, decode_message};
use forge_wire::message::{Command, Report, TransferError, TransferLimits, TransferSummary};
use forge_wire::{Event, Frame, Request, WINDOW};
use tokio::sync::{mpsc, oneshot, watch};

use super::Connector;
use super::client::{ChannelIdentity, RECONNECT_BUDGET, closed, establish};
use super::connection::{Connection, ConnectionError};
use crate::error::{EngineError, EngineErrorKind, Operation};
use crate::sandbox::OutputChunk;

/// Orders wait while more than this is queued towards the sandbox.
const OUTBOX_LIMIT: usize = 4 * 1024 * 1024;

type Answer<T> = oneshot::Sender<Result<T, EngineError>>;

/// What handles ask of the driver.
#[derive(Debug)]
pub(super) enum Order {
    Exec {
        exec: u64,
        command: Command,
        output: mpsc::UnboundedSender<OutputChunk>,
        exit: Answer<Report>,
        stdin_taken: watch::Sender<u64>,
    },
    OutputTaken {
        exec: u64,
        offset: u64,
    },
    Stdin {
        exec: u64,
        offset: u64,
        bytes: Bytes,
    },
    StdinEnd {
        exec: u64,
    },
    Signal {
        exec: u64,
        signal: i32,
    },
    Put {
        transfer: u64,
        directory: String,
        limits: TransferLimits,
        taken: watch::Sender<u64>,
        done: Answer<TransferSummary>,
    },
    Upload {
        transfer: u64,
        offset: u64,
        bytes: Bytes,
    },
    PutEnd {
        transfer: u64,
    },
    Get {
        transfer: u64,
        path: String,
        limits: TransferLimits,
        pieces: mpsc::UnboundedSender<Bytes>,
        done: Answer<TransferSummary>,
    },
    TransferTaken {
        transfer: u64,
        offset: u64,
    },
    TransferCancel {
        transfer: u64,
    },
    Ask {
        request: u64,
        question: Question,
        answer: Answer<Event>,
    },
}

/// Requests with one answer; all may be repeated without harm.
#[derive(Debug, Clone)]
pub(super) enum Question {
    Remove(String),
    HandOver {
        path: String,
        user: forge_core::UserId,
    },
    KillAll,
    Usage,
    Ping,
}

impl Question {
    fn request(&self, request: u64) -> Request {
        match self {
            Self::Remove(path) => Request::Remove {
                request,
                path: path.clone(),
            },
            Self::HandOver { path, user } => Request::HandOver {
                request,
                path: path.clone(),
                uid: user.uid(),
                gid: user.gid(),
            },
            Self::KillAll => Request::KillAll { request },
            Self::Usage => Request::Usage { request },
            Self::Ping => Request::Ping { request },
        }
    }
}

struct ExecState {
    /// Kept until the sandbox confirms the start, to be sent again after a broken connection.
    unconfirmed: Option<Command>,
    output: mpsc::UnboundedSender<OutputChunk>,
    exit: Answer<Report>,
    stdin_taken: watch::Sender<u64>,
    /// Input that the program has not taken yet, to be sent again after a broken connection.
    stdin: VecDeque<(u64, Bytes)>,
    stdin_ended: bool,
    received: u64,
    acknowledged: u64,
}

impl ExecState {
    /// Sends the input again that the program has not taken; the sandbox leaves out what it knows.
    fn send_input(&self, exec: u64, connection: &mut Connection) -> Result<(), ConnectionError> {
        for (offset, bytes) in &self.stdin {
            connection.send_data(exec, Lane::Stdin, *offset, bytes);
        }
        if self.stdin_ended {
            connection.send(&Request::StdinEnd { exec })?;
        }
        Ok(())
    }
}

enum TransferState {
    Upload {
        taken: watch::Sender<u64>,
        done: Answer<TransferSummary>,
    },
    Download {
        pieces: mpsc::UnboundedSender<Bytes>,
        done: Answer<TransferSummary>,
        received: u64,
        acknowledged: u64,
    },
}

pub(super) struct Driver {
    connector: Arc<dyn Connector>,
    identity: ChannelIdentity,
    orders: mpsc::UnboundedReceiver<Order>,
    execs: HashMap<u64, ExecState>,
    transfers: HashMap<u64, TransferState>,
    questions: HashMap<u64, (Question, Answer<Event>)>,
}

/// Why the driver leaves its loop.
enum Stop {
    /// Every handle was dropped.
    Released,
    /// The connection is of no further use.
    Connection(ConnectionError),
}

impl From<ConnectionError> for Stop {
    fn from(error: ConnectionError) -> Self {
        Self::Connection(error)
    }
}

impl Driver {
    pub(super) fn new(
        connector: Arc<dyn Connector>,
        identity: ChannelIdentity,
        orders: mpsc::UnboundedReceiver<Order>,
    ) -> Self {
        Self {
            connector,
            identity,
            orders,
            execs: HashMap::new(),
            transfers: HashMap::new(),
            questions: HashMap::new(),
        }
    }

    pub(super) async fn run(mut self, mut connection: Connection) {
        loop {
            match self.serve(&mut connection).await {
                Stop::Released => return,
                Stop::Connection(error) if error.is_final() => {
                    let id = self.identity.id.as_str();
                    let kind = EngineErrorKind::Corrupt;
                    let error = EngineError::new(kind, Operation::Open, id, error.to_string());
                    return self.give_up(&error).await;
                }
                Stop::Connection(error) => {
                    tracing::debug!(sandbox = %self.identity.id, %error, "channel broke");
                }
            }
            self.fail_transfers();
            let again = establish(&*self.connector, &self.identity, None, RECONNECT_BUDGET).await;
            match again {
                Ok((fresh, _)) => connection = fresh,
                Err(error) => return self.give_up(&error).await,
            }
            if let Err(error) = self.reintroduce(&mut connection) {
                tracing::debug!(sandbox = %self.identity.id, %error, "resuming failed");
            }
        }
    }

    async fn serve(&mut self, connection: &mut Connection) -> Stop {
        loop {
            match self.pump(connection).await {
                Ok(()) => {}
                Err(stop) => return stop,
            }
        }
    }

    async fn pump(&mut self, connection: &mut Connection) -> Result<(), Stop> {
        while let Some(frame) = connection.ready_frame()? {
            self.frame(connection, frame)?;
        }
        let room = connection.queued() < OUTBOX_LIMIT;
        tokio::select! {
            progress = connection.progress() => progress?,
            order = self.orders.recv(), if room => match order {
                None => return Err(Stop::Released),
                Some(order) => self.order(connection, order)?,
            },
        }
        Ok(())
    }

    fn order(&mut self, connection: &mut Connection, order: Order) -> Result<(), ConnectionError> {
        match order {
            Order::Exec {
                exec,
                command,
                output,
                exit,
                stdin_taken,
            } => {
                let request = Request::Exec {
                    exec,
                    command: command.clone(),
                };
                if let Err(error) = connection.send(&request) {
                    // The caller is told; a dropped caller needs no answer.
                    exit.send(Err(self.too_long(&error))).ok();
                    return Ok(());
                }
                let state = ExecState {
                    unconfirmed: Some(command),
                    output,
                    exit,
                    stdin_taken,
                    stdin: VecDeque::new(),
                    stdin_ended: false,
                    received: 0,
                    acknowledged: 0,
                };
                self.execs.insert(exec, state);
                Ok(())
            }
            Order::OutputTaken { exec, offset } => {
                let Some(state) = self.execs.get_mut(&exec) else {
                    return Ok(());
                };
                state.acknowledged = state.acknowledged.max(offset);
                connection.send(&Request::OutputTaken { exec, offset })
            }
            Order::Stdin {
                exec,
                offset,
                bytes,
            } => {
                if let Some(state) = self.execs.get_mut(&exec) {
                    connection.send_data(exec, Lane::Stdin, offset, &bytes);
                    state.stdin.push_back((offset, bytes));
                }
                Ok(())
            }
            Order::StdinEnd { exec } => {
                if let Some(state) = self.execs.get_mut(&exec) {
                    state.stdin_ended = true;
                }
                connection.send(&Request::StdinEnd { exec })
            }
            Order::Signal { exec, signal } => connection.send(&Request::Signal { exec, signal }),
            Order::Ask {
                request,
                question,
                answer,
            } => {
                connection.send(&question.request(request))?;
                self.questions.insert(request, (question, answer));
                Ok(())
            }
            transfer => self.transfer_order(connection, transfer),
        }
    }

    fn transfer_order(
        &mut self,
        connection: &mut Connection,
        order: Order,
    ) -> Result<(), ConnectionError> {
        match order {
            Order::Put {
                transfer,
                directory,
                limits,
                taken,
                done,
            } => {
                self.transfers
                    .insert(transfer, TransferState::Upload { taken, done });
                connection.send(&Request::Put {
                    transfer,
                    directory,
                    limits,
                })
            }
            Order::Upload {
                transfer,
                offset,
                bytes,
            } => {
                if self.transfers.contains_key(&transfer) {
                    connection.send_data(transfer, Lane::Upload, offset, &bytes);
                }
                Ok(())
            }
            Order::PutEnd { transfer } if self.transfers.contains_key(&transfer) => {
                connection.send(&Request::PutEnd { transfer })
            }
            Order::Get {
                transfer,
                path,
                limits,
                pieces,
                done,
            } => {
                let state = TransferState::Download {
                    pieces,
                    done,
                    received: 0,
                    acknowledged: 0,
                };
                self.transfers.insert(transfer, state);
                connection.send(&Request::Get {
                    transfer,
                    path,
                    limits,
                })
            }
            Order::TransferTaken { transfer, offset } => {
                if let Some(TransferState::Download { acknowledged, .. }) =
                    self.transfers.get_mut(&transfer)
                {
                    *acknowledged = offset;
                    connection.send(&Request::TransferTaken { transfer, offset })?;
                }
                Ok(())
            }
            Order::TransferCancel { transfer } => {
                if self.transfers.remove(&transfer).is_some() {
                    connection.send(&Request::TransferCancel { transfer })?;
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn too_long(&self, error: &ConnectionError) -> EngineError {
        EngineError::new(
            EngineErrorKind::Rejected,
            Operation::Exec,
            self.identity.id.as_str(),
            format!("the command line and its environment are too long: {error}"),
        )
    }

    fn frame(&mut self, connection: &mut Connection, frame: Frame) -> Result<(), ConnectionError> {
        match frame {
            Frame::Data(data) => self.data(connection, data),
            Frame::Message(body) => {
                let event = decode_message(&body)?;
                self.event(connection, event)
            }
        }
    }

    fn data(&mut self, connection: &mut Connection, data: Data) -> Result<(), ConnectionError> {
        let stream = match data.lane {
            Lane::Stdout => OutputStream::Stdout,
            Lane::Stderr => OutputStream::Stderr,
            Lane::Download => return self.download(connection, data),
            Lane::Stdin | Lane::Upload => return Err(ConnectionError::OutOfTurn),
        };
        // Data of a command we no longer know was on its way when it was forgotten.
        let Some(state) = self.execs.get_mut(&data.id) else {
            return Ok(());
        };
        let end = data.offset + data.bytes.len() as u64;
        if data.offset > state.received || end > state.acknowledged + WINDOW {
            return Err(ConnectionError::OutOfTurn);
        }
        let known = usize::try_from(state.received - data.offset).unwrap_or(usize::MAX);
        if known >= data.bytes.len() {
            return Ok(());
        }
        let bytes = Bytes::from(data.bytes).slice(known..);
        let chunk = OutputChunk {
            stream,
            offset: state.received,
            bytes,
        };
        state.received = end;
        if state.output.send(chunk).is_err() {
            // Nobody listens: take the output so that the command is not held up.
            state.acknowledged = end;
            connection.send(&Request::OutputTaken {
                exec: data.id,
                offset: end,
            })?;
        }
        Ok(())
    }

    fn download(&mut self, connection: &mut Connection, data: Data) -> Result<(), ConnectionError> {
        // As above: data of a cancelled transfer may still be on its way.
        let Some(state) = self.transfers.get_mut(&data.id) else {
            return Ok(());
        };
        let TransferState::Download {
            pieces,
            received,
            acknowledged,
            ..
        } = state
        else {
            return Err(ConnectionError::OutOfTurn);
        };
        let end = data.offset + data.bytes.len() as u64;
        if data.offset != *received || end > *acknowledged + WINDOW {
            return Err(ConnectionError::OutOfTurn);
        }
        *received = end;
        if pieces.send(Bytes::from(data.bytes)).is_err() {
            self.transfers.remove(&data.id);
            connection.send(&Request::TransferCancel { transfer: data.id })?;
        }
        Ok(())
    }

    fn event(&mut self, connection: &mut Connection, event: Event) -> Result<(), ConnectionError> {
        match event {
            Event::Started { exec, .. } => {
                if let Some(state) = self.execs.get_mut(&exec) {
                    state.unconfirmed = None;
                }
                Ok(())
            }
            Event::Exited { exec, report } => {
                if let Some(state) = self.execs.remove(&exec) {
                    // A caller that stopped waiting needs no answer.
                    state.exit.send(Ok(report)).ok();
                }
                connection.send(&Request::Forget { exec })
            }
            Event::UnknownExec { exec } => self.unknown_exec(connection, exec),
            Event::StdinTaken { exec, offset } => {
                if let Some(state) = self.execs.get_mut(&exec) {
                    state
                        .stdin
                        .retain(|(start, bytes)| start + bytes.len() as u64 > offset);
                    state.stdin_taken.send_replace(offset);
                }
                Ok(())
            }
            Event::TransferTaken { transfer, offset } => {
                if let Some(TransferState::Upload { taken, .. }) = self.transfers.get(&transfer) {
                    taken.send_replace(offset);
                }
                Ok(())
            }
            Event::TransferDone { transfer, summary } => {
                self.end_transfer(transfer, Ok(summary));
                Ok(())
            }
            Event::TransferFailed {
                transfer,
                error,
                message,
            } => {
                self.end_transfer(transfer, Err((transfer_error(error), message)));
                Ok(())
            }
            Event::Removed { request, .. }
            | Event::HandedOver { request, .. }
            | Event::AllKilled { request, .. }
            | Event::Usage { request, .. }
            | Event::Pong { request } => {
                if let Some((_, answer)) = self.questions.remove(&request) {
                    // A caller that stopped waiting needs no answer.
                    answer.send(Ok(event)).ok();
                }
                Ok(())
            }
            Event::Greeting { .. } | Event::Welcome { .. } | Event::Refused => {
                Err(ConnectionError::OutOfTurn)
            }
        }
    }

    /// The sandbox does not know a command: it never arrived, and is sent again; or it was
    /// started, and its sandbox has lost it.
    fn unknown_exec(
        &mut self,
        connection: &mut Connection,
        exec: u64,
    ) -> Result<(), ConnectionError> {
        match self.execs.get(&exec) {
            None => return Ok(()),
            Some(
                state @ ExecState {
                    unconfirmed: Some(command),
                    ..
                },
            ) => {
                connection.send(&Request::Exec {
                    exec,
                    command: command.clone(),
                })?;
                return state.send_input(exec, connection);
            }
            Some(_) => {}
        }
        if let Some(state) = self.execs.remove(&exec) {
            // A caller that stopped waiting needs no answer.
            state
                .exit
                .send(Err(closed(Operation::Exec, &self.identity.id)))
                .ok();
        }
        Ok(())
    }

    fn end_transfer(
        &mut self,
        transfer: u64,
        result: Result<TransferSummary, (EngineErrorKind, String)>,
    ) {
        let (done, operation) = match self.transfers.remove(&transfer) {
            Some(TransferState::Upload { done, .. }) => (done, Operation::Put),
            Some(TransferState::Download { done, .. }) => (done, Operation::Get),
            None => return,
        };
        let id = self.identity.id.as_str();
        let result =
            result.map_err(|(kind, message)| EngineError::new(kind, operation, id, message));
        // A caller that stopped waiting needs no answer.
        done.send(result).ok();
    }

    fn fail_transfers(&mut self) {
        let transfers: Vec<u64> = self.transfers.keys().copied().collect();
        for transfer in transfers {
            let message = "the connection broke during the transfer".to_owned();
            self.end_transfer(transfer, Err((EngineErrorKind::Lost, message)));
        }
    }

    /// On a new connection: resume every command, ask every open question again.
    fn reintroduce(&mut self, connection: &mut Connection) -> Result<(), ConnectionError> {
        for (&exec, state) in &mut self.execs {
            // Resuming tells the sandbox what has arrived; it may send a window more from there.
            state.acknowledged = state.received;
            connection.send(&Request::Resume {
                exec,
                offset: state.received,
            })?;
            state.send_input(exec, connection)?;
        }
        for (&request, (question, _)) in &self.questions {
            connection.send(&question.request(request))?;
        }
        Ok(())
    }

    async fn give_up(mut self, error: &EngineError) {
        let id = &self.identity.id;
        let reason =
            |operation| EngineError::new(error.kind, operation, id.as_str(), error.message.clone());
        // Callers that stopped waiting need no answer.
        for state in self.execs.into_values() {
            state.exit.send(Err(reason(Operation::Exec))).ok();
        }
        for state in self.transfers.into_values() {
            match state {
                TransferState::Upload { done, .. } => done.send(Err(reason(Operation::Put))).ok(),
                TransferState::Download { done, .. } => done.send(Err(reason(Operation::Get))).ok(),
            };
        }
        for (_, answer) in self.questions.into_values() {
            answer.send(Err(reason(Operation::Open))).ok();
        }
        // An order that is being sent while the receiver is dropped would keep its caller waiting
        // for ever; closing first, then taking what is there, drops every answer's sender.
        self.orders.close();
        while self.orders.recv().await.is_some() {}
    }
}

const fn transfer_error(error: TransferError) -> EngineErrorKind {
    match error {
        TransferError::NotFound => EngineErrorKind::NotFound,
        TransferError::Limit => EngineErrorKind::Rejected,
        TransferError::Malformed => EngineErrorKind::Corrupt,
        TransferError::NoSpace => EngineErrorKind::Exhausted,
        TransferError::Io | TransferError::Cancelled => EngineErrorKind::Internal,
    }
}
