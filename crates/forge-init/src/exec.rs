//! One program that the client started: its pipes, its output, its limits and how it ended.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::time::{Duration, Instant};

use forge_wire::MAX_DATA;
use forge_wire::frame::{Lane, encode_data_head};
use forge_wire::message::{Command, Ending, Event, Report};
use nix::errno::Errno;
use nix::libc::{SIGCONT, SIGTERM};

use crate::cgroup::Incidents;
use crate::connection::Closed;
use crate::deadline::{Deadline, Due};
use crate::input_buffer::InputBuffer;
use crate::kernel::{ProcessEnd, send_signal};
use crate::output_buffer::OutputBuffer;
use crate::spawn::{OutputPipe, Spawned};

/// A program, from its start until the client forgets it.
#[derive(Debug)]
pub(crate) struct Exec {
    pub(crate) id: u64,
    /// The client of now asked for it, so it gets output and end.
    pub(crate) attached: bool,
    pub(crate) input: InputBuffer,
    pub(crate) output: OutputBuffer,
    pid: i32,
    begun: Instant,
    incidents: Incidents,
    /// Tells whether the program itself was reached; none when that is known.
    outcome: Option<File>,
    announced: bool,
    pipes: [Option<OutputPipe>; 2],
    /// What may still be read of each pipe after the main process has ended.
    drain: Option<[usize; 2]>,
    output_bytes: u64,
    output_limit: u64,
    truncated: bool,
    deadline: Deadline,
    /// Why PID 1 ended it, where it did.
    cause: Option<Ending>,
    signals: u64,
    not_started: Option<i32>,
    end: Option<(ProcessEnd, Duration)>,
    /// The look at the disks that its report waits for, and how long.
    look: Option<(u64, Instant)>,
    report: Option<Report>,
    reported: bool,
}

/// What an exec needs from the main loop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// Nothing.
    Nothing,
    /// Everything must end, for this reason.
    KillAll(Ending),
}

/// The pipes of an exec.
const LANES: [Lane; 2] = [Lane::Stdout, Lane::Stderr];
/// Bytes of output that may pass the limit unread before it is cut.
const PAST_LIMIT: usize = 4096;

impl Exec {
    /// A program that was just started.
    pub(crate) fn started(
        id: u64,
        command: &Command,
        spawned: Spawned,
        incidents: Incidents,
    ) -> Self {
        Self {
            id,
            attached: true,
            input: InputBuffer::new(spawned.stdin),
            output: OutputBuffer::default(),
            pid: spawned.pid,
            begun: spawned.at,
            incidents,
            outcome: Some(spawned.outcome),
            announced: false,
            pipes: [Some(spawned.stdout), Some(spawned.stderr)],
            drain: None,
            output_bytes: 0,
            output_limit: command.output_limit,
            truncated: false,
            deadline: Deadline::new(spawned.at, command.timeout_ms, command.grace_ms),
            cause: None,
            signals: 0,
            not_started: None,
            end: None,
            look: None,
            report: None,
            reported: false,
        }
    }

    /// A program that could not even be tried.
    pub(crate) fn failed(id: u64, errno: Errno, incidents: Incidents, now: Instant) -> Self {
        Self {
            id,
            attached: true,
            input: InputBuffer::new(None),
            output: OutputBuffer::default(),
            pid: 0,
            begun: now,
            incidents,
            outcome: None,
            announced: true,
            pipes: [None, None],
            drain: None,
            output_bytes: 0,
            output_limit: 0,
            truncated: false,
            deadline: Deadline::NEVER,
            cause: None,
            signals: 0,
            not_started: Some(errno as i32),
            end: Some((ProcessEnd::Code(0), Duration::ZERO)),
            look: None,
            report: None,
            reported: false,
        }
    }

    /// Its process, while that has not been reaped; afterwards the number may be another's.
    pub(crate) fn live_pid(&self) -> Option<i32> {
        self.end.is_none().then_some(self.pid)
    }

    /// The outcome of the start, for waiting on it.
    pub(crate) fn outcome(&self) -> Option<&File> {
        self.outcome.as_ref()
    }

    /// Pipes with a reason to wait for output on them.
    pub(crate) fn readable_pipes(&self) -> impl Iterator<Item = &File> {
        let wanted = self.drain.is_none() && self.output.room() > 0;
        self.pipes
            .iter()
            .filter(move |_| wanted)
            .flatten()
            .map(|pipe| &pipe.file)
    }

    /// When this exec needs attention next without anything happening to it.
    pub(crate) fn next_time(&self) -> Option<Instant> {
        if let Some((_, until)) = self.look {
            return self.report.is_none().then_some(until);
        }
        self.live_pid()?;
        self.deadline.next()
    }

    /// Learns whether the program was reached; gives what to tell the client.
    pub(crate) fn check_outcome(&mut self) -> Option<Event> {
        let mut number = [0; 4];
        match self.outcome.as_mut()?.read(&mut number) {
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) =>
            {
                return None;
            }
            Ok(4) => self.not_started = Some(i32::from_ne_bytes(number)),
            _ => {}
        }
        self.outcome = None;
        if self.not_started.is_some() || self.announced {
            return None;
        }
        self.announced = true;
        Some(Event::Started {
            exec: self.id,
            pid: self.pid,
        })
    }

    /// Reads what the program wrote, as far as there is room for it.
    pub(crate) fn read_output(&mut self, scratch: &mut [u8]) -> Need {
        let mut need = Need::Nothing;
        for index in 0..LANES.len() {
            let more = self.read_pipe(index, scratch);
            if more != Need::Nothing {
                need = more;
            }
        }
        need
    }

    fn read_pipe(&mut self, index: usize, scratch: &mut [u8]) -> Need {
        let (Some(lane), Some(slot)) = (LANES.get(index), self.pipes.get_mut(index)) else {
            return Need::Nothing;
        };
        loop {
            let Some(pipe) = slot.as_mut() else {
                return Need::Nothing;
            };
            let room = self.output.room();
            let left = match &self.drain {
                Some(drain) => drain.get(index).copied().unwrap_or(0),
                None => usize::MAX,
            };
            if left == 0 {
                *slot = None;
                return Need::Nothing;
            }
            let length = room.min(left).min(scratch.len());
            if length == 0 {
                return Need::Nothing;
            }
            let read = pipe.file.read(scratch.get_mut(..length).unwrap_or(&mut []));
            let count = match read {
                Ok(0) => {
                    *slot = None;
                    return Need::Nothing;
                }
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => {
                    // Nothing left now; after the end of the main process nothing counts later.
                    if error.kind() != ErrorKind::WouldBlock || self.drain.is_some() {
                        *slot = None;
                    }
                    return Need::Nothing;
                }
            };
            if let Some(left) = self.drain.as_mut().and_then(|drain| drain.get_mut(index)) {
                *left -= count;
            }
            let fits = self.output_limit.saturating_sub(self.output_bytes);
            self.output_bytes += count as u64;
            let kept = usize::try_from(fits).unwrap_or(usize::MAX).min(count);
            self.output.push(*lane, scratch.get(..kept).unwrap_or(&[]));
            if kept < count {
                self.truncated = true;
                self.cause.get_or_insert(Ending::OutputLimit);
                self.pipes = [None, None];
                return Need::KillAll(Ending::OutputLimit);
            }
            // The main loop waits for more; only a rest is read to its end at once.
            if self.drain.is_none() {
                return Need::Nothing;
            }
        }
    }

    /// Output read so far, in bytes.
    pub(crate) fn output_bytes(&self) -> u64 {
        self.output_bytes
    }

    /// Notes that the main process is gone.
    pub(crate) fn ended(&mut self, end: ProcessEnd, now: Instant) {
        self.end = Some((end, now.duration_since(self.begun)));
        self.input.abandon();
        // A pipe holds no more than this; what comes later is from somebody who lives on.
        self.drain = Some([0, 1].map(|index| {
            let pipe = self.pipes.get(index).and_then(Option::as_ref);
            pipe.map_or(0, |pipe| pipe.capacity.max(PAST_LIMIT))
        }));
    }

    /// How much input the program has taken, when the client of now does not know yet.
    pub(crate) fn input_news(&mut self) -> Option<Event> {
        if !self.attached {
            return None;
        }
        self.input.news().map(|offset| Event::StdinTaken {
            exec: self.id,
            offset,
        })
    }

    /// Whether output may be left in the pipes of an ended program.
    pub(crate) fn is_draining(&self) -> bool {
        self.drain.is_some() && self.pipes.iter().any(Option::is_some)
    }

    /// Whether the report is still to be made, and nothing is missing for it.
    pub(crate) fn can_be_reported(&self) -> bool {
        self.report.is_none() && self.end.is_some() && self.pipes.iter().all(Option::is_none)
    }

    /// The look that the report waits for, until when; asked for by `ask` the first time.
    pub(crate) fn look(&mut self, ask: impl FnOnce() -> (u64, Instant)) -> (u64, Instant) {
        *self.look.get_or_insert_with(ask)
    }

    /// Makes the report; `found` is what the last look at the disks found.
    pub(crate) fn make_report(&mut self, incidents: Incidents, found: Option<Ending>) {
        match found {
            // Whatever it made of it: what failed from below is not its doing.
            Some(found @ (Ending::WorkspaceFailed | Ending::EngineDiskFull))
                if self.cause != Some(Ending::Killed) =>
            {
                self.cause = Some(found);
            }
            Some(found) => {
                self.cause.get_or_insert(found);
            }
            None => {}
        }
        let Some((end, duration)) = self.end else {
            return;
        };
        let since = incidents.since(self.incidents);
        self.report = Some(Report {
            ending: self.ending(end),
            output_bytes: self.output_bytes,
            truncated: self.truncated,
            oom_kills: since.oom_kills,
            pids_refused: since.pids_refused,
            duration_us: u64::try_from(duration.as_micros()).unwrap_or(u64::MAX),
        });
    }

    fn ending(&self, end: ProcessEnd) -> Ending {
        if let Some(errno) = self.not_started {
            return Ending::NotStarted(errno);
        }
        if let Some(cause) = self.cause {
            return cause;
        }
        match end {
            ProcessEnd::Code(code) => Ending::Exited(code),
            ProcessEnd::Signal(signal) if self.signals & bit(signal) != 0 => Ending::Killed,
            ProcessEnd::Signal(signal) => Ending::Signalled(signal),
        }
    }

    /// Sends a signal to the group, on request.
    pub(crate) fn signal(&mut self, signal: i32) {
        if self.send(signal) {
            self.signals |= bit(signal);
        }
    }

    fn send(&self, signal: i32) -> bool {
        let Some(pid) = self.live_pid() else {
            return false;
        };
        // The child may not have made its group yet.
        send_signal(-pid, signal)
            .or_else(|_| send_signal(pid, signal))
            .is_ok()
    }

    /// Looks at the clock.
    pub(crate) fn check_time(&mut self, now: Instant) -> Need {
        if self.end.is_some() {
            return Need::Nothing;
        }
        let due = self.deadline.check(now);
        if due != Due::Nothing {
            self.cause.get_or_insert(Ending::DeadlineExceeded);
        }
        match due {
            Due::Nothing => Need::Nothing,
            Due::Ask => {
                self.send(SIGTERM);
                // A stopped process notices nothing else.
                self.send(SIGCONT);
                Need::Nothing
            }
            Due::Force => Need::KillAll(Ending::DeadlineExceeded),
        }
    }

    /// Notes that everything is about to end, for `cause` where there is no other.
    pub(crate) fn doom(&mut self, cause: Ending) {
        if self.end.is_none() {
            self.cause.get_or_insert(cause);
        }
    }

    /// Makes the output from `from` on, and the end, go to the client of now, which will never ask
    /// for what is before `taken`. Gives where the output begins that it gets: elsewhere when there
    /// is none from `from` on, and then it gets nothing.
    pub(crate) fn resume(&mut self, from: u64, taken: u64) -> u64 {
        let nearest = self.output.nearest(from);
        if nearest == from {
            self.attached = true;
            self.reported = false;
            self.output.rewind(from);
            self.output.acknowledge(taken.min(from));
        }
        nearest
    }

    /// Appends output that was not sent, and then the end, to `out` until that holds `limit` bytes.
    pub(crate) fn send_to(&mut self, out: &mut Vec<u8>, limit: usize) -> Result<(), Closed> {
        if !self.attached {
            return Ok(());
        }
        while out.len() < limit {
            let Some(piece) = self.output.peek(MAX_DATA) else {
                break;
            };
            let length = piece.bytes.0.len() + piece.bytes.1.len();
            encode_data_head(self.id, piece.lane, piece.offset, length, out);
            out.extend_from_slice(piece.bytes.0);
            out.extend_from_slice(piece.bytes.1);
            self.output.advance(length);
        }
        if self.reported || !self.output.is_sent() {
            return Ok(());
        }
        if let Some(report) = &self.report {
            let event = Event::Exited {
                exec: self.id,
                report: report.clone(),
            };
            forge_wire::frame::encode_message(&event, out).map_err(|_| Closed)?;
            self.reported = true;
        }
        Ok(())
    }

    /// Whether nothing more happens to it on its own.
    pub(crate) fn is_settled(&self) -> bool {
        self.report.is_some() && (self.reported || !self.attached)
    }
}

fn bit(signal: i32) -> u64 {
    u32::try_from(signal - 1)
        .ok()
        .and_then(|shift| 1_u64.checked_shl(shift))
        .unwrap_or(0)
}
