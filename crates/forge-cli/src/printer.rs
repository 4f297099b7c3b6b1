//! Everything that is written to standard output and standard error goes through here.
//!
//! Standard output carries results and nothing else, so that it can be read by programs; progress,
//! remarks and errors go to standard error. Where the live view is on the screen, it steps aside
//! while something else is written.

use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;

use crate::arguments::ColorChoice;
use crate::error::CliError;
use crate::escape;
use crate::live_view::LiveView;
use crate::style::{Paint, Style};
use crate::table::hanging;

/// Indentation of what of a line goes on below.
const REST: usize = 4;

/// How much is said besides results.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PrinterOptions {
    /// When to use colours.
    pub color: ColorChoice,
    /// The environment says no to colours.
    pub no_color: bool,
    /// The terminal cannot move its cursor.
    pub dumb_terminal: bool,
    /// Only results and errors.
    pub quiet: bool,
}

/// Writes to the two streams of the process. Clones share them.
#[derive(Debug, Clone)]
pub struct Printer {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    out: Stream,
    err: Stream,
    quiet: bool,
    /// What is on the screen below everything else; `None` where the cursor cannot be moved.
    live: Option<Mutex<LiveView>>,
}

#[derive(Debug, Clone, Copy)]
struct Stream {
    terminal: bool,
    paint: Paint,
}

impl Stream {
    fn new(terminal: bool, options: PrinterOptions) -> Self {
        let colored = match options.color {
            ColorChoice::Always => true,
            ColorChoice::Never => false,
            ColorChoice::Auto => terminal && !options.no_color && !options.dumb_terminal,
        };
        Self {
            terminal,
            paint: Paint { colored },
        }
    }
}

impl Printer {
    /// A printer for the streams of this process.
    #[must_use]
    pub fn new(options: PrinterOptions) -> Self {
        let err = Stream::new(io::stderr().is_terminal(), options);
        let live = err.terminal && !options.quiet && !options.dumb_terminal;
        Self {
            shared: Arc::new(Shared {
                out: Stream::new(io::stdout().is_terminal(), options),
                err,
                quiet: options.quiet,
                live: live.then(Mutex::default),
            }),
        }
    }

    /// Whether a person looks at standard output.
    #[must_use]
    pub fn out_is_terminal(&self) -> bool {
        self.shared.out.terminal
    }

    /// The width of standard output, when a person looks at it.
    #[must_use]
    pub fn out_width(&self) -> Option<usize> {
        let size = console::Term::stdout().size_checked();
        size.filter(|_| self.shared.out.terminal)
            .map(|(_, columns)| usize::from(columns))
    }

    /// The width of standard error, when a person looks at it.
    #[must_use]
    pub fn err_width(&self) -> Option<usize> {
        let size = console::Term::stderr().size_checked();
        size.filter(|_| self.shared.err.terminal)
            .map(|(_, columns)| usize::from(columns))
    }

    /// Colours of standard output.
    #[must_use]
    pub fn out_paint(&self) -> Paint {
        self.shared.out.paint
    }

    /// Colours of standard error.
    #[must_use]
    pub fn err_paint(&self) -> Paint {
        self.shared.err.paint
    }

    /// Rows and columns there are for a live view; `None` where there is none.
    #[must_use]
    pub fn live_size(&self) -> Option<(usize, usize)> {
        self.shared.live.as_ref()?;
        let (rows, columns) = console::Term::stderr().size();
        Some((rows.into(), columns.into()))
    }

    /// Shows these lines below everything else, in the place of those shown before; none takes the
    /// view away. Lines must be shorter than the terminal is wide.
    pub fn show_live(&self, lines: Vec<String>) {
        if let Some(live) = &self.shared.live {
            let mut live = live.lock().unwrap_or_else(PoisonError::into_inner);
            write_error_stream(&live.replace(lines));
        }
    }

    /// Writes bytes to standard output exactly as they are.
    ///
    /// # Errors
    /// [`CliError::Output`], also when the reader left.
    pub fn bytes(&self, bytes: &[u8]) -> Result<(), CliError> {
        let mut out = io::stdout().lock();
        out.write_all(bytes)
            .and_then(|()| out.flush())
            .map_err(CliError::Output)
    }

    /// Writes text to standard output.
    ///
    /// # Errors
    /// As [`Printer::bytes`].
    pub fn text(&self, text: &str) -> Result<(), CliError> {
        self.bytes(text.as_bytes())
    }

    /// Writes a line to standard output.
    ///
    /// # Errors
    /// As [`Printer::bytes`].
    pub fn line(&self, line: &str) -> Result<(), CliError> {
        self.text(&format!("{line}\n"))
    }

    /// Writes the one JSON document of a command to standard output, with nothing in it that moves
    /// a cursor or hides text: it may be read on a terminal.
    ///
    /// # Errors
    /// As [`Printer::bytes`].
    pub fn json(&self, document: &impl Serialize) -> Result<(), CliError> {
        let text = serde_json::to_string_pretty(document)
            .map_err(|error| CliError::Output(error.into()))?;
        self.line(&escape::json(&text))
    }

    /// Writes a line about what is going on to standard error, unless that is not wanted. Where it
    /// does not fit, it is broken between words.
    pub fn progress(&self, line: &str) {
        if !self.shared.quiet {
            let line = hanging(line, self.err_width(), REST);
            self.error_stream(&format!("{line}\n"));
        }
    }

    /// Writes a remark to standard error, unless that is not wanted.
    pub fn remark(&self, style: Style, word: &str, text: &str) {
        let word = self.err_paint().paint(style, word);
        self.progress(&format!("{word}: {text}"));
    }

    /// Writes text to standard error in any case.
    pub fn error_stream(&self, text: &str) {
        match &self.shared.live {
            Some(live) => {
                // Held while writing, so that nobody draws in between.
                let live = live.lock().unwrap_or_else(PoisonError::into_inner);
                write_error_stream(&live.around(text));
            }
            None => write_error_stream(text),
        }
    }
}

/// A standard error that is gone cannot be complained about anywhere.
fn write_error_stream(text: &str) {
    io::stderr().lock().write_all(text.as_bytes()).ok();
}

/// The log, as a stream that heeds the live view.
#[derive(Debug, Clone)]
pub struct LogWriter(pub Printer);

impl Write for LogWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.error_stream(&escape::log(bytes, escape::LINE_LIMIT));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
