//! Output: 200 MB of a command's output, and what holding on to it costs in memory.

use std::time::Instant;

use crate::report::Report;
use crate::stage::{BenchError, Stage, complete};

const BYTES: u64 = 200_000_000;
const NUMBER: u32 = 10_003;

pub(crate) async fn run(stage: &Stage, report: &mut Report) -> Result<(), BenchError> {
    let sandbox = stage.sandbox(NUMBER).await?;
    let before = resident_kilobytes();
    let began = Instant::now();
    let command = format!("head -c {BYTES} /dev/zero");
    let bytes = complete(&*sandbox, stage.request(&["/bin/sh", "-c", &command])).await?;
    let seconds = began.elapsed().as_secs_f64();
    let grown = peak_kilobytes().saturating_sub(before);
    report.add(format!(
        "output of 200 MB                              {bytes} bytes, {:.0} MB/s, peak memory grew by {:.1} MB",
        megabytes(bytes) / seconds,
        f64::from(u32::try_from(grown).unwrap_or(u32::MAX)) / 1000.0
    ));
    stage.destroy(NUMBER).await
}

pub(crate) fn megabytes(bytes: u64) -> f64 {
    // Far below 2^52, so nothing is lost.
    #[expect(
        clippy::cast_precision_loss,
        reason = "the sizes measured here are small"
    )]
    let bytes = bytes as f64;
    bytes / 1e6
}

fn resident_kilobytes() -> u64 {
    status("VmRSS:")
}

fn peak_kilobytes() -> u64 {
    status("VmHWM:")
}

fn status(key: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(key));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok())
        .unwrap_or(0)
}
