//! Carries out what the client asks for.

use std::time::Instant;

use forge_wire::frame::{Data, Lane, decode_message};
use forge_wire::message::{Command, Ending, Health};
use forge_wire::{Event, Frame, Request};
use nix::errno::Errno;

use crate::connection::Closed;
use crate::event_loop::{EventLoop, Over};
use crate::exec::Exec;
use crate::hand_over::Heir;
use crate::processes;
use crate::transfers::Job;

impl EventLoop {
    /// Carries out one frame; a client that breaks the protocol is disconnected.
    pub(crate) fn serve(&mut self, frame: Frame) -> Result<(), Closed> {
        match frame {
            Frame::Message(body) => {
                let request = decode_message(&body).map_err(|_| Closed)?;
                self.request(request)
            }
            Frame::Data(data) => self.data(data),
        }
    }

    fn data(&mut self, data: Data) -> Result<(), Closed> {
        match data.lane {
            Lane::Stdin => {
                // Input for what has ended and was forgotten is nobody's.
                let Some(exec) = self.execs.find(data.id) else {
                    return Ok(());
                };
                exec.input
                    .push(data.offset, &data.bytes)
                    .map_err(|_| Closed)?;
                exec.input.write();
                if let Some(event) = exec.input_news() {
                    self.tell(&event);
                }
                Ok(())
            }
            Lane::Upload => {
                self.disk.touch();
                self.transfers
                    .upload(data.id, data.offset, data.bytes)
                    .map_err(|_| Closed)
            }
            Lane::Stdout | Lane::Stderr | Lane::Download => Err(Closed),
        }
    }

    fn request(&mut self, request: Request) -> Result<(), Closed> {
        match request {
            Request::Claim { .. } | Request::Prove { .. } => return Err(Closed),
            Request::Exec { exec, command } => return self.start(exec, &command),
            Request::StdinEnd { exec } => {
                if let Some(exec) = self.execs.find(exec) {
                    exec.input.end();
                }
            }
            Request::Signal { exec, signal } => match self.execs.find(exec) {
                Some(exec) => exec.signal(signal),
                None => self.tell(&Event::UnknownExec { exec }),
            },
            Request::OutputTaken { exec, offset } => {
                if let Some(exec) = self.execs.find(exec) {
                    exec.output.acknowledge(offset);
                }
            }
            Request::Resume { exec, from, taken } => self.resume(exec, from, taken),
            Request::Forget { exec } => self.execs.forget(exec),
            Request::PutEnd { transfer } => self.transfers.end_upload(transfer),
            Request::TransferTaken { transfer, offset } => self.transfers.taken(transfer, offset),
            Request::TransferCancel { transfer } => self.transfers.cancel(transfer),
            Request::KillAll { request } => self.begin_kill(Ending::Killed, Some(request)),
            Request::Usage { request } => {
                let (peak, is_full) = (self.disk.peak(), self.disk.had_no_room());
                let usage = self.counters.usage(peak, is_full);
                self.tell(&Event::Usage { request, usage });
            }
            Request::Health { request } => {
                let health = self.health();
                self.tell(&Event::Health { request, health });
            }
            Request::Ping { request } => self.tell(&Event::Pong { request }),
            Request::Shutdown => self.over = Some(Over::Asked),
            Request::Put { .. }
            | Request::Get { .. }
            | Request::Remove { .. }
            | Request::HandOver { .. } => return self.begin_job(request),
        }
        Ok(())
    }

    /// How the sandbox is. Whatever might keep the loop waiting was looked at elsewhere.
    fn health(&self) -> Health {
        Health {
            specification: self.disk.has_specification(),
            processes: processes::count(),
            cpu_us: self.counters.cpu_us(),
            output_bytes: self.execs.output_bytes(),
        }
    }

    fn workspace(&self) -> String {
        let settings = self.gate.settings();
        settings.map_or_else(String::new, |settings| settings.workspace.clone())
    }

    /// Gives the file thread something to do.
    fn begin_job(&self, request: Request) -> Result<(), Closed> {
        let workspace = self.workspace();
        let job = match request {
            Request::Put {
                transfer,
                directory,
                limits,
            } => Job::Put {
                transfer,
                workspace,
                directory,
                limits,
            },
            Request::Get {
                transfer,
                path,
                limits,
            } => Job::Get {
                transfer,
                workspace,
                path,
                limits,
            },
            Request::Remove { request, path } => Job::Remove {
                request,
                workspace,
                path,
            },
            Request::HandOver {
                request,
                path,
                uid,
                gid,
            } => Job::HandOver {
                request,
                workspace,
                path,
                heir: Heir { uid, gid },
            },
            _ => return Err(Closed),
        };
        self.transfers.begin(job).map_err(|_| Closed)
    }

    fn resume(&mut self, id: u64, from: u64, taken: u64) {
        let Some(from) = self.execs.resume(id, from, taken) else {
            self.tell(&Event::UnknownExec { exec: id });
            return;
        };
        self.tell(&Event::Resumed { exec: id, from });
        // The client cannot know how much of its input arrived before the connection was lost.
        if let Some(exec) = self.execs.find(id)
            && exec.live_pid().is_some()
        {
            exec.input.tell_again();
            if let Some(event) = exec.input_news() {
                self.tell(&event);
            }
        }
    }

    fn start(&mut self, id: u64, command: &Command) -> Result<(), Closed> {
        if self.execs.was_started(id) {
            // Whoever asks knows no better: another client may have started it.
            self.tell(&Event::AlreadyStarted { exec: id });
            return Ok(());
        }
        if self.execs.contains(id) {
            return Err(Closed);
        }
        let incidents = self.counters.incidents();
        let spawned = if self.execs.has_room_for(id) {
            self.execs.note_start(id);
            self.spawner.spawn(command)
        } else {
            Err(Errno::EAGAIN)
        };
        let exec = match spawned {
            Ok(spawned) => Exec::started(id, command, spawned, incidents),
            Err(errno) => {
                if errno == Errno::EAGAIN {
                    self.counters.note_refused_fork();
                }
                Exec::failed(id, errno, incidents, Instant::now())
            }
        };
        self.execs.active().push(exec);
        Ok(())
    }
}
