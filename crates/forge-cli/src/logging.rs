//! The program's own log, on standard error.

use tracing_subscriber::EnvFilter;

use crate::printer::{LogWriter, Printer};
use crate::style::Style;

/// Starts logging; how much follows from the number of `-v`, or from a filter.
pub(crate) fn start(verbose: u8, filter: Option<&str>, printer: &Printer) {
    // Targets match by their beginning: `forge` stands for each of our crates.
    let usual = match verbose {
        0 => "off,forge=warn,swe_forge=warn",
        1 => "off,forge=info,swe_forge=info",
        2 => "warn,forge=debug,swe_forge=debug",
        _ => "debug,forge=trace,swe_forge=trace",
    };
    let filter = EnvFilter::builder()
        .parse(filter.unwrap_or(usual))
        .unwrap_or_else(|error| {
            let text = format!("SWE_FORGE_LOG is no filter and is not used: {error}");
            printer.remark(Style::Warning, "warning", &crate::escape::line(&text));
            EnvFilter::new(usual)
        });
    let writer = printer.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(false)
        .with_target(verbose > 1)
        .with_writer(move || LogWriter(writer.clone()))
        .finish();
    if tracing::subscriber::set_global_default(subscriber).is_err() {
        // Only an embedding program can have set one, and then its choice stands.
        printer.remark(Style::Warning, "warning", "logging was set up already");
    }
}
