//! Figures and how they are printed.

use std::time::Duration;

use forge_engine::EngineDescription;

/// All figures of one invocation.
pub(crate) struct Report {
    lines: Vec<String>,
}

impl Report {
    pub(crate) fn new() -> Self {
        Self { lines: Vec::new() }
    }

    /// Adds what the figures were measured on.
    pub(crate) fn add_engine(&mut self, engine: &EngineDescription) {
        self.add(format!(
            "{} {} (API {}), kernel {}, {} cores",
            engine.kind, engine.version, engine.api_version, engine.kernel, engine.cores
        ));
    }

    /// Adds a line.
    pub(crate) fn add(&mut self, line: String) {
        self.lines.push(line);
    }

    /// Adds the distribution of `samples` under `name`; gives the median.
    pub(crate) fn add_times(&mut self, name: &str, samples: &[Duration]) -> Duration {
        let median = percentile(samples, 50);
        self.add(format!(
            "{name:<44} p50 {:>9}  p90 {:>9}  p99 {:>9}  n={}",
            show(median),
            show(percentile(samples, 90)),
            show(percentile(samples, 99)),
            samples.len()
        ));
        median
    }

    #[expect(clippy::print_stdout, reason = "figures are what this program is for")]
    pub(crate) fn print(&self) {
        for line in &self.lines {
            println!("{line}");
        }
    }
}

/// The value below which `percent` of the samples lie, by the nearest-rank method.
pub(crate) fn percentile(samples: &[Duration], percent: usize) -> Duration {
    let mut sorted = samples.to_vec();
    sorted.sort_unstable();
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or_default()
}

pub(crate) fn show(duration: Duration) -> String {
    format!("{:.2} ms", milliseconds(duration))
}

pub(crate) fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

/// An error with everything underneath.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

#[expect(
    clippy::print_stderr,
    reason = "errors of a program go to standard error"
)]
pub(crate) fn complain(text: &str) {
    eprintln!("error: {text}");
}
