//! `swe-forge logs`: what the commands of an attempt wrote.
//!
//! On a terminal it is shown escaped; elsewhere the bytes are written exactly as they are. Of several
//! logs each stands below a heading. Logs are read piece by piece, whatever their size.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use forge_core::PhaseName;
use forge_store::{AttemptRecord, PhaseRecord, RunRecord, Store};
use tokio::fs::File;
use tokio::io::AsyncReadExt;

use super::recorded::{self, Standing};
use crate::arguments::LogsArguments;
use crate::error::CliError;
use crate::escape::{LINE_LIMIT, LogEscaper};
use crate::exit_status::ExitStatus;
use crate::printer::Printer;
use crate::session::Session;
use crate::style::Style;

/// Time between two looks at the record and the files while following.
const POLL: Duration = Duration::from_millis(200);
/// Bytes read at once.
const PIECE: usize = 64 * 1024;

pub(super) async fn carry_out(
    session: &Session,
    arguments: LogsArguments,
) -> Result<ExitStatus, CliError> {
    let (store, attempt) = session.attempt(&arguments.attempt.id).await?;
    let run = store.run(&attempt.run).await?;
    let mut reader = LogReader::new(&session.printer, arguments.phase);
    let mut seen = look(&store, attempt, &run).await?;
    // One log alone goes into a pipe as it is. Of several nobody could tell which is which.
    reader.has_headings = arguments.phase.is_none()
        && (session.printer.out_is_terminal() || arguments.follow || seen.phases.len() > 1);
    reader.advance(&seen, &run).await?;
    while arguments.follow && seen.is_live {
        tokio::time::sleep(POLL).await;
        // The record is read before the files, so that nothing written before an end is missed.
        seen = look(&store, seen.attempt, &run).await?;
        reader.advance(&seen, &run).await?;
    }
    reader.finish()?;
    if reader.shown_any {
        return Ok(ExitStatus::Success);
    }
    Err(nothing_to_show(&seen, arguments.phase))
}

/// The record's view of an attempt at one moment.
struct Seen {
    attempt: AttemptRecord,
    phases: Vec<PhaseRecord>,
    is_live: bool,
}

async fn look(store: &Store, attempt: AttemptRecord, run: &RunRecord) -> Result<Seen, CliError> {
    let attempt = store.attempt(&attempt.id).await?;
    let phases = store.phases(&attempt.id).await?;
    let is_live = matches!(Standing::of(&attempt, run), Standing::Live(_));
    Ok(Seen {
        attempt,
        phases,
        is_live,
    })
}

fn nothing_to_show(seen: &Seen, phase: Option<PhaseName>) -> CliError {
    let id = &seen.attempt.id;
    let ran = |phase| seen.phases.iter().any(|record| record.phase == phase);
    let message = match phase {
        Some(phase) if ran(phase) => format!("the log of {phase} of {id} was not kept"),
        Some(phase) => format!("{id} has no phase {phase}"),
        None if seen.phases.is_empty() => format!("no phase of {id} has run"),
        None => format!("the logs of {id} were not kept"),
    };
    let error = CliError::input(message);
    match seen.attempt.outcome().map(|outcome| outcome.message()) {
        Some(why) if !why.is_empty() && seen.phases.is_empty() => {
            error.or_rather(format!("it ended before: {why}"))
        }
        None if seen.is_live => error.or_rather("it is still under way: --follow waits for it"),
        _ => error,
    }
}

/// Writes logs in the order of phases, each from where it was left.
struct LogReader<'a> {
    printer: &'a Printer,
    only: Option<PhaseName>,
    /// Whether each log is headed by its phase.
    has_headings: bool,
    current: Option<OpenLog>,
    done: Vec<PhaseName>,
    shown_any: bool,
}

struct OpenLog {
    phase: PhaseName,
    path: PathBuf,
    file: File,
    escaper: LogEscaper,
    ends_with_newline: bool,
}

impl<'a> LogReader<'a> {
    const fn new(printer: &'a Printer, only: Option<PhaseName>) -> Self {
        Self {
            printer,
            only,
            has_headings: false,
            current: None,
            done: Vec::new(),
            shown_any: false,
        }
    }

    /// Writes what there is now.
    async fn advance(&mut self, seen: &Seen, run: &RunRecord) -> Result<(), CliError> {
        for record in &seen.phases {
            let phase = record.phase;
            if self.done.contains(&phase) || self.only.is_some_and(|only| only != phase) {
                continue;
            }
            if self.current.is_none() {
                self.open(recorded::log_path(&seen.attempt, run, phase), phase)
                    .await?;
            }
            self.drain().await?;
            let over = record.end.is_some() || !seen.is_live;
            if !over {
                break;
            }
            self.finish()?;
            self.done.push(phase);
        }
        Ok(())
    }

    async fn open(&mut self, path: PathBuf, phase: PhaseName) -> Result<(), CliError> {
        let file = match File::open(&path).await {
            Ok(file) => file,
            // Not there yet, or not kept.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(CliError::file("read", path)(error)),
        };
        if self.has_headings {
            let heading = format!("── {phase} ──");
            let heading = self.printer.out_paint().paint(Style::Dim, &heading);
            self.printer.line(&heading)?;
        }
        self.shown_any = true;
        self.current = Some(OpenLog {
            phase,
            path,
            file,
            escaper: LogEscaper::new(LINE_LIMIT),
            ends_with_newline: true,
        });
        Ok(())
    }

    /// Writes the current log up to its present end.
    async fn drain(&mut self) -> Result<(), CliError> {
        let Some(log) = &mut self.current else {
            return Ok(());
        };
        let mut piece = vec![0; PIECE];
        loop {
            let read = log.file.read(&mut piece).await;
            let count = read.map_err(CliError::file("read", &log.path))?;
            if count == 0 {
                return Ok(());
            }
            let bytes = &piece[..count];
            log.ends_with_newline = bytes.ends_with(b"\n");
            if self.printer.out_is_terminal() {
                let mut shown = String::new();
                log.escaper.push(bytes, &mut shown);
                self.printer.text(&shown)?;
            } else {
                self.printer.bytes(bytes)?;
            }
        }
    }

    /// Ends the current log.
    fn finish(&mut self) -> Result<(), CliError> {
        let Some(log) = self.current.take() else {
            return Ok(());
        };
        tracing::debug!(phase = %log.phase, "reached the end of the log");
        if self.printer.out_is_terminal() {
            let mut shown = String::new();
            log.escaper.finish(&mut shown);
            if !log.ends_with_newline {
                shown.push('\n');
            }
            self.printer.text(&shown)?;
        } else if self.has_headings && !log.ends_with_newline {
            self.printer.bytes(b"\n")?;
        }
        Ok(())
    }
}
