//! The egress proxy, PID 1 of its own container, and the engine's way to it.
//!
//! Exit codes: 0 when the end was asked for, 1 when it could not run, 2 when the arguments make no
//! sense.

use std::error::Error;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use forge_api::egress::HostAddresses;
use forge_egress::control;
use forge_egress::resolve::{Internet, RESOLVER_FILE, own_addresses};
use forge_egress::server::{Options, Server, Timing};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};

const USAGE: &str = "usage: forge-egress serve --sockets DIR --control PATH\n       \
                     forge-egress control --control PATH\n       \
                     forge-egress addresses\n       \
                     forge-egress version";
const MISUSED: u8 = 2;
/// Threads that move bytes.
const WORKERS: usize = 2;

enum Command {
    Serve { sockets: PathBuf, control: PathBuf },
    Control { control: PathBuf },
    Addresses,
    Version,
}

fn main() -> ExitCode {
    let Some(command) = read(std::env::args().skip(1)) else {
        say(&mut io::stderr(), USAGE);
        return ExitCode::from(MISUSED);
    };
    let result = match command {
        Command::Serve { sockets, control } => serve(sockets, &control),
        Command::Control { control } => control::relay::run(&control).map_err(Into::into),
        Command::Addresses => addresses(),
        Command::Version => {
            say(
                &mut io::stdout(),
                concat!("forge-egress ", env!("CARGO_PKG_VERSION")),
            );
            Ok(())
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let mut text = format!("forge-egress: {error}");
            let mut cause = error.source();
            while let Some(next) = cause {
                text = format!("{text}: {next}");
                cause = next.source();
            }
            say(&mut io::stderr(), &text);
            ExitCode::FAILURE
        }
    }
}

fn read(mut arguments: impl Iterator<Item = String>) -> Option<Command> {
    let command = arguments.next()?;
    let (mut sockets, mut control) = (None, None);
    while let Some(option) = arguments.next() {
        let value = Some(PathBuf::from(arguments.next()?));
        let place = match option.as_str() {
            "--sockets" => &mut sockets,
            "--control" => &mut control,
            _ => return None,
        };
        if place.is_some() {
            return None;
        }
        *place = value;
    }
    match (command.as_str(), sockets, control) {
        ("serve", Some(sockets), Some(control)) => Some(Command::Serve { sockets, control }),
        ("control", None, Some(control)) => Some(Command::Control { control }),
        ("addresses", None, None) => Some(Command::Addresses),
        ("version", None, None) => Some(Command::Version),
        _ => None,
    }
}

fn serve(sockets: PathBuf, control: &Path) -> Result<(), Box<dyn Error>> {
    // Each connection takes two descriptors.
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    let runtime = Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .enable_all()
        .build()?;
    runtime.block_on(async {
        // First of all: as PID 1 a signal without a handler does nothing.
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let internet = Internet::new(Path::new(RESOLVER_FILE))?;
        let server = Arc::new(Server::new(Options {
            sockets,
            outside: Arc::new(internet),
            timing: Timing::default(),
        })?);
        let listener = control::listen(control)?;
        say(&mut io::stdout(), "ready");
        tokio::select! {
            () = control::serve(server.clone(), listener) => {}
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        server.close().await;
        // What is left behind answers nobody.
        drop(std::fs::remove_file(control));
        Ok(())
    })
}

/// Prints the addresses of this network as one line of JSON, which must arrive: whoever asked
/// denies them to sandboxes.
fn addresses() -> Result<(), Box<dyn Error>> {
    let addresses = own_addresses()?;
    let mut line = serde_json::to_vec(&HostAddresses { addresses })?;
    line.push(b'\n');
    let mut output = io::stdout();
    output.write_all(&line)?;
    Ok(output.flush()?)
}

fn say(to: &mut dyn Write, text: &str) {
    // Nobody may be reading; the exit code says it as well.
    drop(writeln!(to, "{text}").and_then(|()| to.flush()));
}
