//! Runs the programs of the fake's language, step by step, against a workspace in memory.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use forge_core::exec::OutputStream;
use forge_core::{Ending, SandboxId};
use tokio::time::Instant;

use super::FakeEngine;
use super::command::{Command, Fate, Incident};
use super::files::{Failed, Node};
use super::program::{Step, octets, pattern};

const SIGKILL: i32 = 9;
/// Length of the hole in the file that `specials` makes.
pub(super) const HOLE: usize = 1 << 20;

/// A program and all that bounds it.
pub(super) struct Program {
    pub(super) engine: FakeEngine,
    pub(super) id: SandboxId,
    pub(super) number: u64,
    pub(super) command: Arc<Command>,
    pub(super) steps: Vec<Step>,
    pub(super) arguments: Vec<String>,
    pub(super) timeout: Option<Duration>,
    pub(super) grace: Duration,
    /// When its sandbox ends by itself.
    pub(super) lifetime: Instant,
    pub(super) bytes_per_second: Option<u64>,
}

/// Why a program ends before its last step.
enum Stop {
    Ending(Ending),
    /// With everything else in the sandbox, as what passes a limit does.
    All(Ending),
}

impl Program {
    /// Runs it to its end.
    pub(super) async fn run(self) {
        let outcome = tokio::select! {
            biased;
            fate = self.command.ended() => Err(fate),
            stop = self.deadline() => Ok(stop),
            () = tokio::time::sleep_until(self.lifetime) => {
                self.engine.end_sandbox(&self.id, 0);
                Err(Fate::Lost)
            }
            stop = self.steps() => Ok(stop),
        };
        match outcome {
            Ok(Stop::Ending(ending)) => self.command.end(ending),
            Ok(Stop::All(ending)) => self.engine.end_commands(&self.id, ending),
            Err(Fate::Ended | Fate::Lost) => {}
        }
        self.engine.retire_command(&self.id, self.number);
    }

    async fn deadline(&self) -> Stop {
        let Some(timeout) = self.timeout else {
            return std::future::pending().await;
        };
        tokio::time::sleep(timeout).await;
        if !self.command.is_deaf() {
            return Stop::Ending(Ending::DeadlineExceeded);
        }
        tokio::time::sleep(self.grace).await;
        Stop::All(Ending::DeadlineExceeded)
    }

    async fn steps(&self) -> Stop {
        for step in &self.steps {
            if let Err(stop) = self.step(step).await {
                return stop;
            }
        }
        Stop::Ending(Ending::Exited(0))
    }

    async fn step(&self, step: &Step) -> Result<(), Stop> {
        match step {
            Step::Write(stream, bytes) => self.write(*stream, 0, *bytes).await,
            Step::Octets(times) => {
                for _ in 0..*times {
                    self.print(octets()).await?;
                }
                Ok(())
            }
            Step::Paced(times, bytes, file) => {
                for done in 1..=*times {
                    self.write(OutputStream::Stdout, (done - 1) * bytes, *bytes)
                        .await?;
                    self.save(file, done.to_string())?;
                }
                Ok(())
            }
            Step::Arguments => {
                for argument in &self.arguments {
                    let line = [argument.as_bytes(), &[0]].concat();
                    self.print(line.into()).await?;
                }
                Ok(())
            }
            Step::Copy => {
                while let Some(bytes) = self.command.read().await {
                    self.print(bytes).await?;
                }
                Ok(())
            }
            Step::Show(file) => match self.engine.read_file(&self.id, file) {
                Some(bytes) => self.print(bytes).await,
                None => Err(Stop::Ending(Ending::Exited(1))),
            },
            Step::Save(file, text) => self.save(file, text.clone()),
            Step::Append(file, text) => {
                let old = self.engine.read_file(&self.id, file).unwrap_or_default();
                self.save(file, [&old[..], text.as_bytes()].concat())
            }
            Step::Sleep(time) => {
                tokio::time::sleep(*time).await;
                Ok(())
            }
            Step::Wait => std::future::pending().await,
            _ => self.system(step).await,
        }
    }

    /// Steps that are about the sandbox and not about bytes.
    async fn system(&self, step: &Step) -> Result<(), Stop> {
        match step {
            Step::Specials(folder) => self.specials(folder),
            Step::Deaf => {
                self.command.turn_deaf();
                Ok(())
            }
            Step::Work(time) => {
                tokio::time::sleep(*time).await;
                self.engine.note_work(&self.id, *time);
                Ok(())
            }
            Step::Memory => {
                self.engine.note_out_of_memory(&self.id);
                self.command.note(Incident::OutOfMemory);
                Err(Stop::Ending(Ending::Signalled(SIGKILL)))
            }
            Step::Fill(file) => {
                self.engine.fill(&self.id, file);
                // What holds the size of a workspace here is its file system, which only refuses.
                Err(Stop::Ending(Ending::Exited(1)))
            }
            Step::Crowd => {
                self.engine.note_crowd(&self.id);
                self.command.note(Incident::ProcessRefused);
                Err(Stop::Ending(Ending::Exited(1)))
            }
            Step::Escape(count) => {
                self.engine.escape(&self.id, *count);
                Ok(())
            }
            Step::Count => {
                let count = self.engine.processes(&self.id, self.number);
                self.print(count.to_string().into_bytes().into()).await
            }
            Step::Exit(code) => Err(Stop::Ending(Ending::Exited(*code))),
            Step::Signal(signal) => Err(Stop::Ending(Ending::Signalled(*signal))),
            _ => Ok(()),
        }
    }

    async fn print(&self, bytes: Bytes) -> Result<(), Stop> {
        self.send(OutputStream::Stdout, bytes).await
    }

    async fn write(&self, stream: OutputStream, offset: u64, length: u64) -> Result<(), Stop> {
        let mut done = 0;
        while done < length {
            let piece = pattern(offset + done, length - done);
            done += piece.len() as u64;
            self.send(stream, piece).await?;
        }
        Ok(())
    }

    async fn send(&self, stream: OutputStream, bytes: Bytes) -> Result<(), Stop> {
        if let Some(speed) = self.bytes_per_second {
            tokio::time::sleep(super::time_of(bytes.len() as u64, speed)).await;
        }
        if self.command.write(stream, bytes).await {
            Ok(())
        } else {
            Err(Stop::All(Ending::OutputLimit))
        }
    }

    fn save(&self, file: &str, bytes: impl Into<Bytes>) -> Result<(), Stop> {
        self.place(file, Node::file(bytes))
    }

    fn place(&self, file: &str, node: Node) -> Result<(), Stop> {
        let placed: Result<(), Failed> = self.engine.place_file(&self.id, file, node);
        placed.map_err(|(_, message)| {
            // As a shell does, and without waiting: whoever fills a disk has no reader to wait for.
            self.command
                .push(OutputStream::Stderr, message.into_bytes().into());
            Stop::Ending(Ending::Exited(2))
        })
    }

    fn specials(&self, folder: &str) -> Result<(), Stop> {
        let inside = |name: &str| format!("{folder}/{name}");
        let link = |target: &str| Node::Link(target.as_bytes().to_vec());
        self.place(&inside("file"), Node::file("text"))?;
        self.place(&inside("pipe"), Node::Other)?;
        self.place(&inside("socket"), Node::Other)?;
        self.place(&inside("in"), link("file"))?;
        self.place(&inside("out"), link("/etc/passwd"))?;
        self.place(&inside("nowhere"), link("no-such-file"))?;
        let mut sparse = vec![0; HOLE];
        sparse.push(b'x');
        self.place(&inside("sparse"), Node::file(sparse))
    }
}
