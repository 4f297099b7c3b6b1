//! The main loop of PID 1: waits for whatever happens next, and never for anything else.
//!
//! Each round looks at ended processes first, then at running programs, then at the client, then
//! at connections that have proved nothing yet, so that the latter cannot delay the former.
//!
//! Worst-case memory, reached only by a client and a task that do their worst: 64 programs with
//! 1 MiB of output, 4 MiB of runs and 1 MiB of input each; 32 MiB of remembered output; 32
//! transfers of 1 MiB; 3 MiB for the client's connection; 16 KiB for each of 8 other connections;
//! 20 MiB for the network's thread. A sandbox at rest needs less than 2 MiB.

use std::fs::File;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use forge_wire::Event;
use forge_wire::message::{Attested, Ending};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::sys::signalfd::SignalFd;

use crate::cgroup::Counters;
use crate::clients::Clients;
use crate::disk_watch::DiskWatch;
use crate::exec::Need;
use crate::execs::Execs;
use crate::gate::Gate;
use crate::kernel::{Reaped, kill_quietly, reap_one};
use crate::network::Network;
use crate::processes::KillRun;
use crate::spawn::Spawner;
use crate::transfers::Transfers;
use crate::wake::Wake;

/// Ended children that are collected in one round.
const MAX_REAPED: usize = 1024;
/// How often counters without a peak of their own are looked at, and what root may change.
const SAMPLE: Duration = Duration::from_secs(1);
/// How often a disk that can be filled from in here is asked for its room. What is written within
/// this time must be less than its reserve.
const RESERVE_PAUSE: Duration = Duration::from_millis(100);
/// Signals that are read in one round: the task may send them as fast as they are read.
const MAX_SIGNALS: usize = 4;
/// How long a report waits for the last look at the disks.
const LOOK_PATIENCE: Duration = Duration::from_secs(5);
/// Pause between two passes of an end of all processes.
const KILL_PAUSE: Duration = Duration::from_millis(1);
/// How long an unclaimed sandbox lives.
pub(crate) const UNCLAIMED: Duration = Duration::from_secs(120);

/// Why the sandbox is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Over {
    /// The client or the engine asked for it.
    Asked,
    /// Nobody has claimed the sandbox in time.
    Unclaimed,
    /// Its time has passed.
    Lifetime,
    /// The kernel refused something that PID 1 cannot do without.
    Broken,
}

/// Everything PID 1 knows.
pub(crate) struct EventLoop {
    pub(crate) gate: Gate,
    pub(crate) clients: Clients,
    pub(crate) execs: Execs,
    pub(crate) spawner: Spawner,
    pub(crate) counters: Counters,
    pub(crate) transfers: Arc<Transfers>,
    pub(crate) disk: Arc<DiskWatch>,
    pub(crate) network: Arc<Network>,
    pub(crate) attestation: Attested,
    pub(crate) wake: Wake,
    pub(crate) signals: SignalFd,
    pub(crate) random: File,
    pub(crate) scratch: Vec<u8>,
    pub(crate) kill: Option<KillRun>,
    pub(crate) ends_at: Instant,
    pub(crate) over: Option<Over>,
    pub(crate) next_sample: Instant,
    pub(crate) next_reserve: Instant,
    pub(crate) more_to_reap: bool,
}

/// What can be ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Signals,
    Wake,
    Listener(usize),
    Stranger(usize),
    Client,
    Outcome(usize),
    Output(usize),
    Input(usize),
}

impl EventLoop {
    /// Runs until the sandbox is over.
    pub(crate) fn run(mut self) -> Over {
        loop {
            let ready = match self.wait() {
                Ok(ready) => ready,
                Err(Errno::EINTR) => Vec::new(),
                Err(_) => return self.end(Over::Broken),
            };
            self.round(&ready);
            if let Some(over) = self.over {
                return self.end(over);
            }
        }
    }

    fn round(&mut self, ready: &[Source]) {
        if ready.contains(&Source::Signals) {
            self.read_signals();
        }
        if ready.contains(&Source::Signals) || self.kill.is_some() || self.more_to_reap {
            self.reap();
        }
        if ready.contains(&Source::Wake) {
            self.wake.silence();
            if let Some(ending) = self.disk.take_alarm() {
                self.begin_kill(ending, None);
            }
        }
        for source in ready {
            match *source {
                Source::Outcome(index) => self.check_outcome(index),
                Source::Output(index) => self.read_output(index),
                Source::Input(index) => self.write_input(index),
                _ => {}
            }
        }
        if ready.contains(&Source::Client) {
            self.read_client();
        }
        self.serve_client();
        self.check_times();
        self.continue_kill();
        self.serve_strangers(ready);
        self.report();
    }

    /// Connections without a proof come last.
    fn serve_strangers(&mut self, ready: &[Source]) {
        // From the last one back: a connection that goes moves only those behind it.
        for source in ready.iter().rev() {
            if let Source::Stranger(index) = *source {
                self.read_stranger(index);
            }
        }
        for source in ready {
            if let Source::Listener(index) = *source {
                self.accept(index);
            }
        }
        self.clients.drop_late(Instant::now());
    }

    fn wait(&self) -> Result<Vec<Source>, Errno> {
        let read = PollFlags::POLLIN;
        let mut sources = vec![Source::Signals, Source::Wake];
        let mut polled = vec![
            PollFd::new(self.signals.as_fd(), read),
            PollFd::new(self.wake.as_fd(), read),
        ];
        let mut add = |source, poll_fd| {
            sources.push(source);
            polled.push(poll_fd);
        };
        for (index, exec) in self.execs.look().iter().enumerate() {
            if let Some(outcome) = exec.outcome() {
                add(Source::Outcome(index), PollFd::new(outcome.as_fd(), read));
            }
            for pipe in exec.readable_pipes() {
                add(Source::Output(index), PollFd::new(pipe.as_fd(), read));
            }
            if let Some(pipe) = exec.input.wants_to_write() {
                let write = PollFlags::POLLOUT;
                add(Source::Input(index), PollFd::new(pipe.as_fd(), write));
            }
        }
        if let Some(client) = &self.clients.client {
            let mut wanted = PollFlags::empty();
            if self.may_read(client) {
                wanted |= read;
            }
            if client.waiting() > 0 {
                wanted |= PollFlags::POLLOUT;
            }
            if !wanted.is_empty() {
                add(Source::Client, PollFd::new(client.stream().as_fd(), wanted));
            }
        }
        for (index, stranger) in self.clients.strangers.iter().enumerate() {
            add(
                Source::Stranger(index),
                PollFd::new(stranger.stream().as_fd(), read),
            );
        }
        let now = Instant::now();
        for (index, listener) in self.clients.listeners.iter().enumerate() {
            if listener.rests_until(now).is_none() {
                add(Source::Listener(index), PollFd::new(listener.as_fd(), read));
            }
        }
        poll(&mut polled, self.timeout(now))?;
        let ready = |fd: &PollFd<'_>| fd.revents().is_some_and(|flags| !flags.is_empty());
        let ready = sources.iter().zip(&polled).filter(|(_, fd)| ready(fd));
        Ok(ready.map(|(source, _)| *source).collect())
    }

    fn timeout(&self, now: Instant) -> PollTimeout {
        if self.more_to_reap {
            return PollTimeout::ZERO;
        }
        let sample = self.counters.needs_samples() || self.spawner.must_guard_score();
        let sample = sample && self.execs.running() > 0;
        let next = [
            Some(self.ends_at),
            self.execs.next_time(),
            self.kill.as_ref().map(|_| now + KILL_PAUSE),
            self.clients.next_late(),
            self.clients.next_look(now),
            sample.then_some(self.next_sample),
            self.disk.can_fill_others().then_some(self.next_reserve),
        ];
        let next = next.into_iter().flatten().min().unwrap_or(self.ends_at);
        let pause = next.saturating_duration_since(now);
        if pause.is_zero() {
            return PollTimeout::ZERO;
        }
        // A millisecond more: waking up before the time would only mean to wait again.
        let milliseconds = i32::try_from(pause.as_millis()).unwrap_or(i32::MAX - 1) + 1;
        let milliseconds = milliseconds - i32::from(self.kill.is_some());
        PollTimeout::try_from(milliseconds).unwrap_or(PollTimeout::MAX)
    }

    fn read_signals(&mut self) {
        let read = || Some(self.signals.read_signal().ok()??.ssi_signo);
        let has_term = has_term(std::iter::from_fn(read));
        // Once there is a task, it can send this signal as well, and with the user's queue of signals
        // used up it comes without a sender to tell. From then on the sandbox is ended over its
        // channel, or by SIGKILL.
        if has_term && !self.gate.is_claimed() {
            self.over = Some(Over::Asked);
        }
    }

    fn reap(&mut self) {
        let now = Instant::now();
        self.more_to_reap = true;
        for _ in 0..MAX_REAPED {
            let Reaped::Process { pid, end } = reap_one() else {
                self.more_to_reap = false;
                return;
            };
            let Some(exec) = self.execs.by_pid(pid) else {
                continue;
            };
            let started = exec.check_outcome();
            exec.ended(end, now);
            self.disk.look_for_room();
            self.clients.wake_bridge();
            if let Some(started) = started.filter(|_| exec.attached) {
                self.tell(&started);
            }
            if self.counters.needs_samples() {
                self.counters.sample();
            }
        }
    }

    fn check_outcome(&mut self, index: usize) {
        if let Some(exec) = self.execs.active().get_mut(index)
            && let Some(started) = exec.check_outcome()
            && exec.attached
        {
            self.tell(&started);
        }
    }

    fn read_output(&mut self, index: usize) {
        // A program that writes was started: that is said first.
        self.check_outcome(index);
        let need = self.execs.read_output(index, &mut self.scratch);
        self.satisfy(need);
    }

    fn write_input(&mut self, index: usize) {
        if let Some(exec) = self.execs.active().get_mut(index) {
            exec.input.write();
            if let Some(event) = exec.input_news() {
                self.tell(&event);
            }
        }
    }

    fn satisfy(&mut self, need: Need) {
        if let Need::KillAll(ending) = need {
            self.begin_kill(ending, None);
        }
    }

    fn check_times(&mut self) {
        let now = Instant::now();
        if now >= self.ends_at {
            self.over = Some(if self.gate.is_claimed() {
                Over::Lifetime
            } else {
                Over::Unclaimed
            });
        }
        if now >= self.next_sample {
            self.next_sample = now + SAMPLE;
            self.spawner.guard_score();
            if self.counters.needs_samples() && self.execs.running() > 0 {
                self.counters.sample();
            }
        }
        if now >= self.next_reserve && self.disk.can_fill_others() {
            self.next_reserve = now + RESERVE_PAUSE;
            if self.disk.has_reserve_only() {
                self.begin_kill(Ending::EngineDiskFull, None);
            }
        }
        if self.execs.next_time().is_none_or(|at| at > now) {
            return;
        }
        for index in 0..self.execs.look().len() {
            if let Some(exec) = self.execs.active().get_mut(index) {
                let need = exec.check_time(now);
                self.satisfy(need);
            }
        }
    }

    /// Begins to end every process, or joins what has begun already.
    pub(crate) fn begin_kill(&mut self, cause: Ending, request: Option<u64>) {
        for exec in self.execs.active() {
            exec.doom(cause);
        }
        let bridge = self.clients.bridge();
        let run = self
            .kill
            .get_or_insert_with(|| KillRun::new(Instant::now(), bridge));
        run.requests.extend(request);
    }

    fn continue_kill(&mut self) {
        if self.kill.is_none() {
            return;
        }
        let now = Instant::now();
        let bridge = self.clients.bridge();
        let Some(survivors) = self.kill.as_mut().and_then(|run| run.pass(now, bridge)) else {
            return;
        };
        self.reap();
        let requests = self.kill.take().map(|run| run.requests);
        for request in requests.into_iter().flatten() {
            self.tell(&Event::AllKilled { request, survivors });
        }
        // What the client asked for meanwhile was left waiting.
        self.serve_client();
    }

    /// Makes reports, and gives the client what it should get.
    fn report(&mut self) {
        for index in 0..self.execs.look().len() {
            let Some(exec) = self.execs.active().get_mut(index) else {
                break;
            };
            if exec.is_draining() {
                let need = self.execs.read_output(index, &mut self.scratch);
                self.satisfy(need);
            }
            if let Some(exec) = self.execs.active().get_mut(index)
                && exec.can_be_reported()
            {
                let now = Instant::now();
                let (look, until) = exec.look(|| (self.disk.ask(), now + LOOK_PATIENCE));
                let found = self.disk.answer(look);
                if found.is_some() || now >= until {
                    exec.make_report(self.counters.incidents(), found.flatten());
                }
            }
        }
        self.send_to_client();
        self.execs.settle();
    }

    /// Ends everything; the kernel would do so as well when PID 1 is gone.
    fn end(mut self, over: Over) -> Over {
        kill_quietly(-1);
        self.send_to_client();
        over
    }
}

/// Whether SIGTERM is among the next signals. What is not taken here is left for the next round.
fn has_term(signals: impl Iterator<Item = u32>) -> bool {
    let term = u32::try_from(Signal::SIGTERM as i32);
    signals.take(MAX_SIGNALS).any(|signal| Ok(signal) == term)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::libc;

    #[test]
    fn signals_without_end_are_read_in_parts() {
        let mut read = 0;
        let endless = std::iter::repeat_with(|| {
            read += 1;
            libc::SIGCHLD.unsigned_abs()
        });
        assert!(!has_term(endless));
        assert_eq!(read, MAX_SIGNALS);
        let both = [libc::SIGCHLD, libc::SIGTERM];
        assert!(has_term(both.iter().map(|signal| signal.unsigned_abs())));
    }
}
