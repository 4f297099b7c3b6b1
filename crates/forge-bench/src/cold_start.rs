//! Cold start: from nothing to the end of the first command, beside the raw engine's create and
//! start. The two take turns, so that both see the same drift of the machine.

use std::time::Instant;

use crate::raw::RawEngine;
use crate::report::{Report, show};
use crate::stage::{BenchError, IMAGE, Stage, complete};

const ROUNDS: u32 = 30;
/// Not counted: the first starts load what the later ones find in memory.
const WARM_UP: u32 = 3;

pub(crate) async fn run(stage: &Stage, report: &mut Report) -> Result<(), BenchError> {
    let raw = RawEngine::new(&stage.description)?;
    let (mut raws, mut ours, mut made) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..WARM_UP + ROUNDS {
        let name = format!("swe-forge-bench-raw-{}-{round}", std::process::id());
        let raw_time = raw.start(&name, IMAGE)?;
        raw.remove(&name)?;

        let began = Instant::now();
        let sandbox = stage.sandbox(round).await?;
        let ready = began.elapsed();
        complete(&*sandbox, stage.request(&["/bin/true"])).await?;
        let first_command = began.elapsed();
        drop(sandbox);
        stage.destroy(round).await?;
        if round >= WARM_UP {
            raws.push(raw_time);
            made.push(ready);
            ours.push(first_command);
        }
    }
    let raw_median = report.add_times("cold start: raw create + start", &raws);
    report.add_times("cold start: sandbox ready", &made);
    let our_median = report.add_times("cold start: first command ended", &ours);
    let difference = if our_median >= raw_median {
        format!("+{}", show(our_median - raw_median))
    } else {
        format!("-{}", show(raw_median - our_median))
    };
    report.add(format!(
        "cold start: over the raw engine, medians      {difference}"
    ));
    Ok(())
}
