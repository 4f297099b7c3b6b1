//! Exec: the round trip of a command that does nothing.

use std::time::Instant;

use crate::report::Report;
use crate::stage::{BenchError, Stage, complete};

const ROUNDS: u32 = 2000;
const WARM_UP: u32 = 50;
const NUMBER: u32 = 10_001;

pub(crate) async fn run(stage: &Stage, report: &mut Report) -> Result<(), BenchError> {
    let sandbox = stage.sandbox(NUMBER).await?;
    let mut samples = Vec::new();
    let all = Instant::now();
    for round in 0..WARM_UP + ROUNDS {
        let began = Instant::now();
        complete(&*sandbox, stage.request(&["/bin/true"])).await?;
        if round >= WARM_UP {
            samples.push(began.elapsed());
        }
    }
    let rate = f64::from(WARM_UP + ROUNDS) / all.elapsed().as_secs_f64();
    report.add_times("exec of /bin/true", &samples);
    report.add(format!(
        "exec of /bin/true, one after the other        {rate:.0} per second"
    ));
    stage.destroy(NUMBER).await
}
