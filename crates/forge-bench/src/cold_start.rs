//! Cold start: from nothing to the end of the first command, beside the raw engine's create and
//! start. The two take turns, so that both see the same drift of the machine.

use std::time::Instant;

use crate::raw::{Isolation, RawEngine};
use crate::report::{Report, milliseconds};
use crate::stage::{BenchError, IMAGE, Stage, complete};

const ROUNDS: u32 = 30;
/// Not counted: the first starts load what the later ones find in memory.
const WARM_UP: u32 = 3;

pub(crate) async fn run(stage: &Stage, report: &mut Report) -> Result<(), BenchError> {
    let raw = RawEngine::new(&stage.description)?;
    let (mut raws, mut disabled) = (Vec::new(), Vec::new());
    let (mut ours, mut made) = (Vec::new(), Vec::new());
    for round in 0..WARM_UP + ROUNDS {
        let name = format!("swe-forge-bench-raw-{}-{round}", std::process::id());
        let raw_time = raw.start(&name, IMAGE, Isolation::None)?;
        raw.remove(&name)?;
        let disabled_time = raw.start(&name, IMAGE, Isolation::Disabled)?;
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
            disabled.push(disabled_time);
            made.push(ready);
            ours.push(first_command);
        }
    }
    let raw_median = report.add_times("raw create + start, mode none", &raws);
    let disabled_median = report.add_times("raw create + start, networking off", &disabled);
    report.add_times("sandbox ready", &made);
    let our_median = report.add_times("first command ended", &ours);
    for (name, median) in [
        ("mode none", raw_median),
        ("networking off", disabled_median),
    ] {
        let difference = milliseconds(our_median) - milliseconds(median);
        report.add(format!(
            "first command, over the raw engine with {name}: {difference:+.2} ms"
        ));
    }
    Ok(())
}
