//! Benchmarks: the promises of SPECIFICATION.md, measured on a real engine beside the raw engine.
//!
//! `cargo xtask bench [NAME]` builds what is needed and runs this.

mod churn;
mod cold_start;
mod egress;
mod exec;
mod listing;
mod output;
mod queue;
mod raw;
mod recovery;
mod report;
mod stage;
mod transfer;

use std::process::ExitCode;

use report::Report;
use stage::{BenchError, Stage};

const NAMES: [&str; 9] = [
    "churn",
    "cold-start",
    "egress",
    "exec",
    "output",
    "ps",
    "queue",
    "recovery",
    "transfer",
];

#[tokio::main]
async fn main() -> ExitCode {
    let names: Vec<String> = std::env::args().skip(1).collect();
    if let Some(unknown) = names.iter().find(|name| !NAMES.contains(&name.as_str())) {
        report::complain(&format!(
            "'{unknown}' is not a benchmark: {}",
            NAMES.join(", ")
        ));
        return ExitCode::from(2);
    }
    match run(&names).await {
        Ok(report) => {
            report.print();
            ExitCode::SUCCESS
        }
        Err(error) => {
            report::complain(&report::chain(&error));
            ExitCode::FAILURE
        }
    }
}

async fn run(names: &[String]) -> Result<Report, BenchError> {
    let wanted = |name: &str| names.is_empty() || names.iter().any(|each| each == name);
    let mut report = Report::new();
    // These need no engine, and are not to be kept from running by the lack of one. Memory of this
    // process is measured before anything else has used it, and as that takes a quarter of an hour,
    // only for whoever names it.
    if names.iter().any(|name| name == "queue") {
        queue::run(&mut report).await?;
    }
    if wanted("ps") {
        listing::run(&mut report).await?;
    }
    if !names.is_empty()
        && names
            .iter()
            .all(|name| ["ps", "queue"].contains(&name.as_str()))
    {
        return Ok(report);
    }
    let stage = Stage::new().await?;
    report.add_engine(&stage.description);
    if wanted("cold-start") {
        cold_start::run(&stage, &mut report).await?;
    }
    if wanted("exec") {
        exec::run(&stage, &mut report).await?;
    }
    // Before the transfers, whose buffers would hide what output costs in memory.
    if wanted("output") {
        output::run(&stage, &mut report).await?;
    }
    if wanted("transfer") {
        transfer::run(&stage, &mut report).await?;
    }
    if wanted("churn") {
        churn::run(&stage, &mut report)?;
    }
    if wanted("recovery") {
        recovery::run(&stage, &mut report).await?;
    }
    if wanted("egress") {
        egress::run(&stage, &mut report).await?;
    }
    Ok(report)
}
