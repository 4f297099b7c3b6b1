//! Output and input: every byte, in order, at the pace of whoever reads.

use forge_core::Ending;
use forge_core::exec::OutputStream;
use futures::FutureExt;
use futures::future::join_all;

use super::scene::{Scene, finish};
use super::{Act, Failure, PATTERN};
use crate::sandbox::OutputChunk;

/// Reads a stream of [`PATTERN`] and finds every byte that is wrong.
#[derive(Default)]
pub(super) struct Expected {
    /// Bytes of the pattern so far.
    pub(super) length: u64,
    offset: u64,
}

impl Expected {
    pub(super) fn take(&mut self, chunk: &OutputChunk) -> Result<(), Failure> {
        ensure!(
            chunk.offset == self.offset,
            "a piece stands at {}, {} was expected",
            chunk.offset,
            self.offset
        );
        let start = usize::try_from(self.length % 16).unwrap_or(0);
        // In blocks of the pattern as it stands here, so that a hundred megabytes take no time.
        let block = [&PATTERN[start..], &PATTERN[..start]].concat().repeat(256);
        let mut pieces = chunk.bytes.chunks(block.len());
        let right = pieces.all(|piece| block.get(..piece.len()) == Some(piece));
        ensure!(right, "a byte after {} is wrong", self.length);
        self.length += chunk.bytes.len() as u64;
        self.offset += chunk.bytes.len() as u64;
        Ok(())
    }
}

pub(super) async fn both_streams_arrive_whole_and_in_order(scene: &Scene) -> Result<(), Failure> {
    let made = scene.sandbox().await?;
    const LENGTH: u64 = 300_001;
    for (act, stream) in [
        (Act::Write(LENGTH), OutputStream::Stdout),
        (Act::Complain(LENGTH), OutputStream::Stderr),
    ] {
        let mut running = made.sandbox.exec(scene.request(&act)).await?;
        let mut expected = Expected::default();
        while let Some(chunk) = running.output.next().await {
            ensure!(chunk.stream == stream, "{act:?} came by {:?}", chunk.stream);
            expected.take(&chunk)?;
        }
        let report = running.exit.await?;
        ensure!(
            expected.length == LENGTH && report.output_bytes == LENGTH && !report.truncated,
            "{} bytes came: {report:?}",
            expected.length
        );
    }
    scene.remove(made.id()).await?;
    Ok(())
}

pub(super) async fn every_octet_comes_through_both_ways(scene: &Scene) -> Result<(), Failure> {
    let made = scene.sandbox().await?;
    let octets: Vec<u8> = (0..=u8::MAX).collect();
    let octets = octets.repeat(1000);
    let wrote = scene.done(&*made.sandbox, &Act::Octets(1000)).await?;
    ensure!(wrote == octets, "what came out is not what was written");
    let mut request = scene.request(&Act::Copy);
    request.stdin = true;
    let running = made.sandbox.exec(request).await?;
    let mut remote = running.remote.clone();
    let write = async {
        let written = remote.write_stdin(&octets).await;
        remote.end_stdin();
        written
    };
    let (written, finished) = futures::join!(write, finish(running));
    written?;
    let finished = finished?;
    ensure!(
        finished.stdout == octets && finished.stderr.is_empty(),
        "{} bytes came back of {}",
        finished.stdout.len(),
        octets.len()
    );
    scene.remove(made.id()).await?;
    Ok(())
}

/// Bytes that may be under way between a command and a reader who takes none: pipes, windows and
/// buffers of either end. Far below the whole, and far above what any of them holds.
const UNDER_WAY: u64 = 16;

pub(super) async fn a_slow_reader_holds_a_command_up_and_loses_nothing(
    scene: &Scene,
) -> Result<(), Failure> {
    const TIMES: u64 = 100;
    const BYTES: u64 = 1 << 20;
    let made = scene.sandbox().await?;
    let act = Act::Paced {
        times: TIMES,
        bytes: BYTES,
        file: "progress".into(),
    };
    let mut running = made.sandbox.exec(scene.request(&act)).await?;
    let mut expected = Expected::default();
    let first = running.output.next().await;
    let first = first.ok_or_else(|| Failure::new("it wrote nothing"))?;
    expected.take(&first)?;
    // Nobody reads: whatever is not held up goes on in this time.
    scene.done(&*made.sandbox, &Act::Sleep(1000)).await?;
    let progress = Act::Show("progress".into());
    let progress = scene.run(&*made.sandbox, &progress).await?.text();
    // None at all is no file yet.
    let written: u64 = progress.parse().unwrap_or(0);
    ensure!(
        written <= UNDER_WAY,
        "{written} MiB were written that nobody took"
    );
    ensure!(
        (&mut running.exit).now_or_never().is_none(),
        "it has ended with its output not taken"
    );
    while let Some(chunk) = running.output.next().await {
        expected.take(&chunk)?;
    }
    let report = running.exit.await?;
    ensure!(
        report.ending == Ending::Exited(0) && !report.truncated,
        "it ended as {report:?}"
    );
    ensure!(
        expected.length == TIMES * BYTES && report.output_bytes == TIMES * BYTES,
        "{} bytes came, {} are reported",
        expected.length,
        report.output_bytes
    );
    scene.remove(made.id()).await?;
    Ok(())
}

pub(super) async fn a_command_that_nobody_listens_to_runs_to_its_end(
    scene: &Scene,
) -> Result<(), Failure> {
    let made = scene.sandbox().await?;
    // One whose handle is dropped at once, and one whose output has piled up before.
    for waits in [false, true] {
        let file = format!("progress-{waits}");
        let act = Act::Paced {
            times: 8,
            bytes: 1 << 20,
            file: file.clone(),
        };
        let running = made.sandbox.exec(scene.request(&act)).await?;
        if waits {
            scene.done(&*made.sandbox, &Act::Sleep(500)).await?;
        }
        drop(running);
        let seen = scene.await_file(&*made.sandbox, &file, "8").await?;
        ensure!(seen == "8", "it came to {seen:?} of 8 (waits: {waits})");
    }
    scene.remove(made.id()).await?;
    Ok(())
}

pub(super) async fn many_commands_at_once_do_not_mix(scene: &Scene) -> Result<(), Failure> {
    let made = scene.sandbox().await?;
    let one = async |number: i32| {
        let length = 10_000 * u64::from(number.unsigned_abs());
        let (write, exit) = (Act::Write(length), Act::Exit(number));
        let (wrote, ended) = futures::join!(
            scene.done(&*made.sandbox, &write),
            scene.run(&*made.sandbox, &exit),
        );
        let (wrote, ended) = (wrote?, ended?);
        ensure!(
            wrote.len() as u64 == length && ended.report.ending == Ending::Exited(number),
            "{} bytes of {length}, and {ended:?} for {number}",
            wrote.len()
        );
        Ok(())
    };
    let all = join_all((1..13).map(one)).await;
    all.into_iter().collect::<Result<(), Failure>>()?;
    scene.remove(made.id()).await?;
    Ok(())
}
