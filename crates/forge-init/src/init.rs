//! Starts PID 1: hardens the process, starts the helper threads, looks around, listens.

use std::fs::File;
use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::Instant;

use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{SigHandler, SigSet, Signal, signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::stat::{Mode, umask};

use crate::attestation;
use crate::cgroup::Counters;
use crate::clients::Clients;
use crate::disk_watch::DiskWatch;
use crate::event_loop::{EventLoop, Over, UNCLAIMED};
use crate::execs::Execs;
use crate::file_worker;
use crate::gate::Gate;
use crate::listeners;
use crate::network::Network;
use crate::seccomp;
use crate::spawn::Spawner;
use crate::transfers::Transfers;
use crate::wake::Wake;

/// Bytes that are read at a time.
const SCRATCH: usize = 256 * 1024;

/// Runs as PID 1 until the sandbox is over.
pub(crate) fn run() -> io::Result<Over> {
    // Anywhere else, ending every process would end the machine's.
    if std::process::id() != 1 {
        return Err(io::Error::other("this is not process 1 of a sandbox"));
    }
    let spawner = harden()?;
    // What the engine set is what is attested, not what is added here.
    let seccomp_mode = attestation::seccomp_mode();
    let mut mask = SigSet::empty();
    mask.add(Signal::SIGCHLD);
    mask.add(Signal::SIGTERM);
    mask.thread_block()?;
    let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
    let wake = Wake::new()?;
    let transfers = Transfers::new(wake.clone());
    // Started now, because later the task may have used up all the processes that are allowed.
    file_worker::start(Arc::clone(&transfers))?;
    let disk = DiskWatch::start(wake.clone())?;
    let network = Network::start()?;
    // After the last thread is started, whose ids it holds, and before the first program, which
    // takes it over.
    seccomp::confine()?;
    let attestation = attestation::gather(seccomp_mode);
    let now = Instant::now();
    let event_loop = EventLoop {
        gate: Gate::default(),
        execs: Execs::default(),
        spawner,
        counters: Counters::open(attestation.own_threads),
        transfers,
        disk,
        network,
        attestation,
        wake,
        signals,
        random: File::open("/dev/urandom")?,
        scratch: vec![0; SCRATCH],
        kill: None,
        ends_at: now + UNCLAIMED,
        over: None,
        next_sample: now,
        next_reserve: now,
        more_to_reap: false,
        clients: Clients::new(listeners::open()?),
    };
    Ok(event_loop.run())
}

/// Closes what an engine left open: a folder of the host among it would be a way out of the sandbox
/// for every program that is started.
fn close_inherited() -> io::Result<()> {
    let open = std::fs::read_dir("/proc/self/fd")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<RawFd>().ok())
        .filter(|descriptor| *descriptor > 2)
        .collect::<Vec<_>>();
    for descriptor in open {
        // The listing itself is among them, and closed by now.
        let _was_listing = nix::unistd::close(descriptor);
    }
    Ok(())
}

/// Closes this process to its own user, which the task has as well.
fn harden() -> io::Result<Spawner> {
    close_inherited()?;
    let ignored = attestation::ignored_signals();
    // The file behind the score of children belongs to the process's user only while the process is
    // dumpable. Nothing of the task runs yet, and there is no secret yet.
    prctl::set_dumpable(true)?;
    let spawner = Spawner::new(ignored);
    prctl::set_dumpable(false)?;
    default_faults()?;
    umask(Mode::from_bits_truncate(0o022));
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    spawner
}

/// Takes away the handlers that Rust's runtime has for faults. A program may send these signals with
/// any address in them, and the handler ends the process over one that looks like a full stack;
/// without a handler, only a fault of its own ends PID 1.
fn default_faults() -> io::Result<()> {
    for fault in [Signal::SIGSEGV, Signal::SIGBUS] {
        // SAFETY: the default action is no handler, which could break a rule of handlers.
        unsafe { signal(fault, SigHandler::SigDfl) }?;
    }
    Ok(())
}
