//! The driver: sole owner of a channel's connection and of what is under way on it.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use forge_core::Join;
use forge_core::exec::OutputStream;
use forge_wire::frame::{Data, Lane, decode_message};
use forge_wire::message::{Command, Report, TransferError, TransferLimits, TransferSummary};
use forge_wire::{Event, Frame, Request, WINDOW, is_keyed};
use tokio::sync::{mpsc, oneshot, watch};

use super::Connector;
use super::client::{ChannelIdentity, Fate, RECONNECT_BUDGET, establish};
use super::connection::{Connection, ConnectionError};
use crate::error::{EngineError, EngineErrorKind, Operation};
use crate::sandbox::OutputChunk;

/// Orders wait while more than this is queued towards the sandbox.
const OUTBOX_LIMIT: usize = 4 * 1024 * 1024;

type Answer<T> = oneshot::Sender<Result<T, EngineError>>;

/// What handles ask of the driver.
#[derive(Debug)]
pub(super) enum Order {
    Exec(NewExec),
    OutputTaken {
        exec: u64,
        offset: u64,
    },
    Forget {
        exec: u64,
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

/// A command to start or to join, and where what it does goes.
#[derive(Debug)]
pub(super) struct NewExec {
    pub(super) exec: u64,
    pub(super) command: Command,
    pub(super) join: Option<Join>,
    pub(super) output: mpsc::UnboundedSender<OutputChunk>,
    pub(super) exit: Answer<Report>,
    pub(super) stdin_taken: watch::Sender<u64>,
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
    Health,
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
            Self::Health => Request::Health { request },
            Self::Ping => Request::Ping { request },
        }
    }
}

struct ExecState {
    /// Kept until the sandbox confirms the start, to be sent again after a broken connection; none
    /// as well where it may not be started from here.
    unconfirmed: Option<Command>,
    /// Requests to resume it that the sandbox has not answered on this connection. What comes of the
    /// command before that was meant for whoever followed it earlier, and comes again.
    resuming: u32,
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
    /// Commands with a key whose end is written down, to be said again on a new connection.
    forgotten: Vec<u64>,
    fate: Fate,
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
        fate: Fate,
    ) -> Self {
        Self {
            connector,
            identity,
            orders,
            execs: HashMap::new(),
            transfers: HashMap::new(),
            questions: HashMap::new(),
            forgotten: Vec::new(),
            fate,
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
            Order::Exec(new) => {
                self.begin(connection, new);
                Ok(())
            }
            Order::OutputTaken { exec, offset } => {
                match self.execs.get_mut(&exec) {
                    Some(state) => state.acknowledged = state.acknowledged.max(offset),
                    // What has a key keeps its output beyond its end.
                    None if is_keyed(exec) => {}
                    None => return Ok(()),
                }
                connection.send(&Request::OutputTaken { exec, offset })
            }
            Order::Forget { exec } => {
                if is_keyed(exec) && !self.execs.contains_key(&exec) {
                    self.forgotten.push(exec);
                    connection.send(&Request::Forget { exec })?;
                }
                Ok(())
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

    /// Asks the sandbox to start a command, or whether it knows the one to join.
    fn begin(&mut self, connection: &mut Connection, new: NewExec) {
        let exec = new.exec;
        let followed = self.execs.get(&exec);
        if followed.is_some_and(|state| !state.exit.is_closed()) {
            let message = "the command with this key is followed already";
            // A dropped caller needs no answer, here and below.
            new.exit.send(Err(self.conflict(message))).ok();
            return;
        }
        let unanswered = followed.map_or(0, |state| state.resuming);
        let (from, may_start) = new.join.map_or((0, true), |join| {
            (join.output_from, join.may_start && join.output_from == 0)
        });
        let request = if new.join.is_some() {
            Request::Resume {
                exec,
                from,
                taken: from,
            }
        } else {
            Request::Exec {
                exec,
                command: new.command.clone(),
            }
        };
        if let Err(error) = connection.send(&request) {
            new.exit.send(Err(self.too_long(&error))).ok();
            return;
        }
        let state = ExecState {
            unconfirmed: may_start.then_some(new.command),
            resuming: unanswered + u32::from(new.join.is_some()),
            output: new.output,
            exit: new.exit,
            stdin_taken: new.stdin_taken,
            stdin: VecDeque::new(),
            stdin_ended: false,
            received: from,
            acknowledged: from,
        };
        self.execs.insert(exec, state);
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

    fn conflict(&self, message: &str) -> EngineError {
        let id = self.identity.id.as_str();
        EngineError::new(EngineErrorKind::Conflict, Operation::Exec, id, message)
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
        if state.resuming > 0 {
            return Ok(());
        }
        state.unconfirmed = None;
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
        if state.output.send(chunk).is_err() && !is_keyed(data.id) {
            // Nobody listens: take the output so that the command is not held up. What has a key is:
            // somebody may join it who wants all of it.
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
            Event::Exited { exec, report } => self.exited(connection, exec, report),
            Event::Resumed { exec, from } => self.resumed(exec, from),
            Event::UnknownExec { exec } => self.unknown_exec(connection, exec),
            Event::AlreadyStarted { exec } => {
                let message = "a command with this key was started before; it is not started again";
                self.fail_exec(exec, self.conflict(message));
                Ok(())
            }
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
            | Event::Health { request, .. }
            | Event::Pong { request } => {
                if let Some((_, answer)) = self.questions.remove(&request) {
                    // A caller that stopped waiting needs no answer.
                    answer.send(Ok(event)).ok();
                }
                Ok(())
            }
            Event::Greeting { .. }
            | Event::Welcome { .. }
            | Event::Refused
            | Event::Superseded { .. } => Err(ConnectionError::OutOfTurn),
        }
    }

    fn exited(
        &mut self,
        connection: &mut Connection,
        exec: u64,
        report: Report,
    ) -> Result<(), ConnectionError> {
        if self
            .execs
            .get(&exec)
            .is_some_and(|state| state.resuming > 0)
        {
            return Ok(());
        }
        if let Some(state) = self.execs.remove(&exec) {
            // A caller that stopped waiting needs no answer.
            state.exit.send(Ok(report)).ok();
        }
        if is_keyed(exec) {
            return Ok(());
        }
        connection.send(&Request::Forget { exec })
    }

    /// The sandbox knows a command, and sends its output from `from` on.
    fn resumed(&mut self, exec: u64, from: u64) -> Result<(), ConnectionError> {
        let Some(state) = self.execs.get_mut(&exec) else {
            return Ok(());
        };
        state.resuming = state
            .resuming
            .checked_sub(1)
            .ok_or(ConnectionError::OutOfTurn)?;
        if state.resuming > 0 {
            return Ok(());
        }
        state.unconfirmed = None;
        let wanted = state.received;
        if from != wanted {
            let message = format!(
                "the sandbox has output of the command from byte {from} on; byte {wanted} was asked for"
            );
            let id = self.identity.id.as_str();
            let kind = EngineErrorKind::Corrupt;
            self.fail_exec(exec, EngineError::new(kind, Operation::Exec, id, message));
        }
        Ok(())
    }

    /// The sandbox does not know a command: it never arrived, and is sent again; or it was
    /// started, and its sandbox has lost it.
    fn unknown_exec(
        &mut self,
        connection: &mut Connection,
        exec: u64,
    ) -> Result<(), ConnectionError> {
        // Without a question under way it answers a signal that came before the command was sent.
        let Some(state) = self.execs.get_mut(&exec).filter(|state| state.resuming > 0) else {
            return Ok(());
        };
        state.resuming -= 1;
        if state.resuming > 0 {
            return Ok(());
        }
        let Some(command) = state.unconfirmed.clone() else {
            let message = "the sandbox does not know the command";
            let id = self.identity.id.as_str();
            let kind = EngineErrorKind::Lost;
            self.fail_exec(exec, EngineError::new(kind, Operation::Exec, id, message));
            return Ok(());
        };
        let started = connection.send(&Request::Exec { exec, command });
        let sent = started.map(|()| state.send_input(exec, connection));
        match sent {
            Ok(sent) => sent,
            Err(error) => {
                self.fail_exec(exec, self.too_long(&error));
                Ok(())
            }
        }
    }

    fn fail_exec(&mut self, exec: u64, error: EngineError) {
        if let Some(state) = self.execs.remove(&exec) {
            // A caller that stopped waiting needs no answer.
            state.exit.send(Err(error)).ok();
        }
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
            // Resuming tells the sandbox what has arrived; it may send a window more from there. What
            // has arrived of a command with a key may not be written down yet.
            if !is_keyed(exec) {
                state.acknowledged = state.received;
            }
            state.resuming = 1;
            connection.send(&Request::Resume {
                exec,
                from: state.received,
                taken: state.acknowledged,
            })?;
            state.send_input(exec, connection)?;
        }
        for &exec in &self.forgotten {
            connection.send(&Request::Forget { exec })?;
        }
        for (&request, (question, _)) in &self.questions {
            connection.send(&question.request(request))?;
        }
        Ok(())
    }

    async fn give_up(mut self, error: &EngineError) {
        self.fate.seal(error);
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
