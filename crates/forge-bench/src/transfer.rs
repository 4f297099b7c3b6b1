//! Files: 64 MB and 2,000 small ones, in and out.

use std::io::Cursor;
use std::time::{Duration, Instant};

use forge_engine::Sandbox;
use forge_wire::message::TransferLimits;

use crate::output::megabytes;
use crate::report::{Report, percentile, show};
use crate::stage::{BenchError, Stage};

const ROUNDS: usize = 7;
const LARGE: usize = 64_000_000;
const SMALL_FILES: usize = 2000;
const SMALL_SIZE: usize = 512;
const NUMBER: u32 = 10_002;
const LIMITS: TransferLimits = TransferLimits {
    bytes: 1 << 32,
    entries: 1 << 20,
};

pub(crate) async fn run(stage: &Stage, report: &mut Report) -> Result<(), BenchError> {
    let sandbox = stage.sandbox(NUMBER).await?;
    let large = archive(1, LARGE);
    let (up, down) = rounds(&*sandbox, &large, "/workspace/file-0").await?;
    let rate =
        |samples: &[Duration]| megabytes(LARGE as u64) / percentile(samples, 50).as_secs_f64();
    report.add(format!(
        "64 MB in, median                              {:.0} MB/s",
        rate(&up)
    ));
    report.add(format!(
        "64 MB out, median                             {:.0} MB/s",
        rate(&down)
    ));
    let small = archive(SMALL_FILES, SMALL_SIZE);
    let (up, _) = rounds(&*sandbox, &small, "/workspace/file-1").await?;
    report.add(format!(
        "2,000 files of 512 bytes in, median           {}",
        show(percentile(&up, 50))
    ));
    report.add(format!(
        "the same files written to the local disk      {}",
        show(percentile(&local_files()?, 50))
    ));
    stage.destroy(NUMBER).await
}

/// What the disk itself takes for as many files, replaced each round as the transfers do.
fn local_files() -> Result<Vec<Duration>, BenchError> {
    let io = |source| BenchError::Io {
        what: "write local files",
        source,
    };
    let folder = tempfile::tempdir().map_err(io)?;
    let mut samples = Vec::new();
    for round in 0..=ROUNDS {
        let began = Instant::now();
        for number in 0..SMALL_FILES {
            let path = folder.path().join(format!("file-{number}"));
            if round > 0 {
                std::fs::remove_file(&path).map_err(io)?;
            }
            std::fs::write(&path, [b'x'; SMALL_SIZE]).map_err(io)?;
        }
        if round > 0 {
            samples.push(began.elapsed());
        }
    }
    Ok(samples)
}

async fn rounds(
    sandbox: &dyn Sandbox,
    archive: &[u8],
    path: &str,
) -> Result<(Vec<Duration>, Vec<Duration>), BenchError> {
    let (mut up, mut down) = (Vec::new(), Vec::new());
    for round in 0..=ROUNDS {
        let began = Instant::now();
        sandbox
            .put("/workspace", &mut Cursor::new(archive), LIMITS)
            .await?;
        let put = began.elapsed();
        let began = Instant::now();
        let mut download = sandbox.get(path, LIMITS).await?;
        while download.next().await.is_some() {}
        download.finish().await?;
        if round > 0 {
            up.push(put);
            down.push(began.elapsed());
        }
    }
    Ok((up, down))
}

/// A tar stream of `count` files of `size` bytes, made by hand: 512 bytes of header each.
fn archive(count: usize, size: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(count * (size + 1024) + 1024);
    for number in 0..count {
        let mut header = [0_u8; 512];
        let name = format!("file-{number}");
        header[..name.len()].copy_from_slice(name.as_bytes());
        header[100..107].copy_from_slice(b"0000644");
        header[108..115].copy_from_slice(b"0000000");
        header[116..123].copy_from_slice(b"0000000");
        header[124..135].copy_from_slice(format!("{size:011o}").as_bytes());
        header[136..147].copy_from_slice(b"00000000000");
        header[148..156].copy_from_slice(b"        ");
        header[156] = b'0';
        header[257..265].copy_from_slice(b"ustar\x0000");
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        out.extend_from_slice(&header);
        out.resize(out.len() + size.next_multiple_of(512), b'x');
    }
    out.resize(out.len() + 1024, 0);
    out
}
