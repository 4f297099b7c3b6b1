//! Every way for a command to end, each told from all others.

use std::time::Duration;

use forge_core::Ending;

use super::scene::{Scene, finish, first_byte};
use super::{Act, Failure, PATTERN};
use crate::error::EngineErrorKind;

const MEBIBYTE: u64 = 1 << 20;
const SIGTERM: i32 = 15;
const ENOENT: i32 = 2;

pub(super) async fn a_code_a_signal_and_a_program_that_is_not_there_are_told_apart(
    scene: &Scene,
) -> Result<(), Failure> {
    let made = scene.sandbox().await?;
    for (act, ending) in [
        (Act::Exit(0), Ending::Exited(0)),
        (Act::Exit(255), Ending::Exited(255)),
        // What a shell would say of a signal, said by a program itself.
        (Act::Exit(137), Ending::Exited(137)),
        (Act::Signal(9), Ending::Signalled(9)),
        (Act::Signal(SIGTERM), Ending::Signalled(SIGTERM)),
        (Act::Absent, Ending::NotStarted { errno: ENOENT }),
    ] {
        let finished = scene.run(&*made.sandbox, &act).await?;
        ensure!(
            finished.report.ending == ending,
            "{act:?} ended as {:?}",
            finished.report
        );
        let wrote = (&finished.stdout, &finished.stderr);
        ensure!(
            wrote.0.is_empty() && wrote.1.is_empty(),
            "{act:?} wrote {wrote:?}"
        );
    }
    scene.remove(made.id()).await?;
    Ok(())
}

pub(super) async fn a_deadline_ends_also_what_is_deaf_to_it(scene: &Scene) -> Result<(), Failure> {
    let made = scene.sandbox().await?;
    for act in [Act::Wait, Act::Resist] {
        let mut request = scene.request(&act);
        // Long enough for it to turn deaf first.
        request.timeout = Some(Duration::from_secs(1));
        request.grace = Duration::from_millis(200);
        let finished = finish(made.sandbox.exec(request).await?).await?;
        ensure!(
            finished.report.ending == Ending::DeadlineExceeded,
            "{act:?} ended as {:?}",
            finished.report
        );
    }
    let left = scene.done(&*made.sandbox, &Act::Count).await?;
    ensure!(left == b"0", "{:?} processes live on", text(&left));
    scene.remove(made.id()).await?;
    Ok(())
}

pub(super) async fn output_past_its_limit_ends_the_command_and_is_cut_there(
    scene: &Scene,
) -> Result<(), Failure> {
    let made = scene.sandbox().await?;
    const LIMIT: u64 = 100_000;
    for (length, passes) in [(LIMIT, false), (LIMIT + 1, true), (64 * MEBIBYTE, true)] {
        let mut request = scene.request(&Act::Write(length));
        request.output_limit = LIMIT;
        let finished = finish(made.sandbox.exec(request).await?).await?;
        let report = &finished.report;
        let ending = if passes {
            Ending::OutputLimit
        } else {
            Ending::Exited(0)
        };
        ensure!(
            report.ending == ending && report.truncated == passes,
            "{length} bytes ended as {report:?}"
        );
        let expected = PATTERN.iter().copied().cycle();
        let came = finished.stdout.len() as u64;
        ensure!(
            came == LIMIT && finished.stdout.iter().copied().eq(expected.take(100_000)),
            "{came} bytes came of {length}"
        );
    }
    scene.remove(made.id()).await?;
    Ok(())
}

pub(super) async fn what_takes_all_memory_is_ended_and_counted(
    scene: &Scene,
) -> Result<(), Failure> {
    let small = |limits: &mut forge_core::Limits| limits.memory_bytes = 64 * MEBIBYTE;
    let made = scene.sandbox_with(small).await?;
    let finished = scene.run(&*made.sandbox, &Act::Memory).await?;
    let report = &finished.report;
    ensure!(
        report.ending != Ending::Exited(0) && report.oom_kills > 0,
        "it ended as {report:?}"
    );
    let usage = made.sandbox.usage().await?;
    ensure!(usage.oom_kills > 0, "the sandbox counts {usage:?}");
    // The sandbox goes on, and the next command is not blamed.
    let finished = scene.run(&*made.sandbox, &Act::Exit(0)).await?;
    ensure!(
        finished.report.ending == Ending::Exited(0) && finished.report.oom_kills == 0,
        "the next one ended as {:?}",
        finished.report
    );
    scene.remove(made.id()).await?;
    Ok(())
}

pub(super) async fn what_takes_all_disk_is_ended_and_told(scene: &Scene) -> Result<(), Failure> {
    let small = |limits: &mut forge_core::Limits| limits.disk_bytes = 48 * MEBIBYTE;
    let made = scene.sandbox_with(small).await?;
    let finished = scene.run(&*made.sandbox, &Act::Fill("full".into())).await?;
    // Refused, where the size is held by a file system; ended, where somebody looks at it.
    ensure!(
        finished.report.ending != Ending::Exited(0),
        "it ended as {:?}",
        finished.report
    );
    let usage = made.sandbox.usage().await?;
    ensure!(usage.disk_full, "the sandbox counts {usage:?}");
    scene.remove(made.id()).await?;
    Ok(())
}

pub(super) async fn processes_past_their_limit_are_refused_and_counted(
    scene: &Scene,
) -> Result<(), Failure> {
    let few = |limits: &mut forge_core::Limits| limits.processes = 20;
    let made = scene.sandbox_with(few).await?;
    let finished = scene.run(&*made.sandbox, &Act::Crowd).await?;
    let report = &finished.report;
    ensure!(
        report.ending != Ending::Exited(0) && report.pids_refused > 0,
        "it ended as {report:?}"
    );
    let survivors = made.sandbox.kill_all().await?;
    ensure!(survivors == 0, "{survivors} of the crowd live on");
    let usage = made.sandbox.usage().await?;
    ensure!(
        usage.pids_refused > 0 && usage.pids_peak > 1,
        "the sandbox counts {usage:?}"
    );
    scene.done(&*made.sandbox, &Act::Exit(0)).await?;
    scene.remove(made.id()).await?;
    Ok(())
}

pub(super) async fn a_command_ended_on_request_says_so(scene: &Scene) -> Result<(), Failure> {
    let made = scene.sandbox().await?;
    let running = made.sandbox.exec(scene.request(&Act::Wait)).await?;
    running.remote.signal(SIGTERM);
    let finished = finish(running).await?;
    ensure!(
        finished.report.ending == Ending::Killed,
        "a signal: {:?}",
        finished.report
    );
    let mut running = made.sandbox.exec(scene.request(&Act::Resist)).await?;
    first_byte(&mut running.output).await?;
    running.remote.signal(SIGTERM);
    let survivors = made.sandbox.kill_all().await?;
    ensure!(survivors == 0, "{survivors} processes live on");
    let finished = finish(running).await?;
    ensure!(
        finished.report.ending == Ending::Killed,
        "all were ended: {:?}",
        finished.report
    );
    scene.remove(made.id()).await?;
    Ok(())
}

pub(super) async fn nothing_escapes_the_end_of_all(scene: &Scene) -> Result<(), Failure> {
    let made = scene.sandbox().await?;
    scene.done(&*made.sandbox, &Act::Escape(5)).await?;
    let there = scene.done(&*made.sandbox, &Act::Count).await?;
    let there: u32 = text(&there).parse().unwrap_or(0);
    ensure!(there >= 5, "{there} processes are there to be ended");
    let mut running = made.sandbox.exec(scene.request(&Act::Resist)).await?;
    first_byte(&mut running.output).await?;
    let survivors = made.sandbox.kill_all().await?;
    ensure!(survivors == 0, "{survivors} processes resist");
    let left = scene.done(&*made.sandbox, &Act::Count).await?;
    ensure!(left == b"0", "{:?} processes live on", text(&left));
    // With nothing to end it is the same.
    let survivors = made.sandbox.kill_all().await?;
    ensure!(survivors == 0, "{survivors} processes that are not there");
    scene.remove(made.id()).await?;
    Ok(())
}

pub(super) async fn commands_of_a_sandbox_that_goes_are_lost(scene: &Scene) -> Result<(), Failure> {
    let made = scene.sandbox().await?;
    let mut running = made.sandbox.exec(scene.request(&Act::Resist)).await?;
    first_byte(&mut running.output).await?;
    scene.engine.destroy(made.id()).await?;
    while running.output.next().await.is_some() {}
    let ended = running.exit.await.map_err(|error| error.kind);
    let lost = [EngineErrorKind::Lost, EngineErrorKind::NotFound];
    ensure!(
        ended.as_ref().is_err_and(|kind| lost.contains(kind)),
        "it ended as {ended:?}"
    );
    scene.remove(made.id()).await?;
    Ok(())
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
