//! What every engine must do, on Docker.

use std::sync::Arc;

use async_trait::async_trait;
use forge_core::UserId;
use forge_core::ownership::Ownership;
use forge_engine::conformance::{Act, Bench, Capability, Case, Verdict, cases, examine};
use forge_engine::{Engine, EngineError, Inventory};
use forge_engine_docker::{DiskSharing, DockerEngine};
use futures::StreamExt;

use crate::support::{self, next_user, test_image, with_bench};

/// Cases at a time: they wait for the engine most of the time.
const AT_ONCE: usize = 4;

struct DockerBench {
    bench: Arc<support::Bench>,
    /// The first host process's.
    engine: Arc<DockerEngine>,
}

const PATTERN: &str = "0123456789abcde";

/// A shell's script for an act, and its arguments.
fn script(act: &Act) -> (String, Vec<String>) {
    let none = Vec::new;
    match act {
        Act::Exit(code) => (format!("exit {code}"), none()),
        Act::Signal(signal) => (format!("kill -{signal} $$"), none()),
        Act::Write(bytes) => (format!("yes {PATTERN} | head -c {bytes}"), none()),
        Act::Complain(bytes) => (format!("yes {PATTERN} | head -c {bytes} >&2"), none()),
        Act::Octets(times) => {
            let program =
                "import sys; sys.stdout.buffer.write(bytes(range(256)) * int(sys.argv[1]))";
            (format!("exec python3 -c '{program}' {times}"), none())
        }
        Act::Paced { times, bytes, file } => {
            let script = format!(
                "i=0; while [ $i -lt {times} ]; do yes {PATTERN} | head -c {bytes}; \
                 i=$((i+1)); printf %s $i > \"$1\"; done"
            );
            (script, vec![file.clone()])
        }
        Act::Arguments(arguments) => ("printf '%s\\0' \"$@\"".into(), arguments.clone()),
        Act::Copy => ("exec cat".into(), none()),
        Act::Show(file) => ("exec cat -- \"$1\"".into(), vec![file.clone()]),
        Act::Save(file, text) => (
            "printf %s \"$2\" > \"$1\"".into(),
            vec![file.clone(), text.clone()],
        ),
        Act::Append(file, text) => (
            "printf %s \"$2\" >> \"$1\"".into(),
            vec![file.clone(), text.clone()],
        ),
        Act::Specials(folder) => {
            let socket = "import socket; socket.socket(socket.AF_UNIX).bind(\"socket\")";
            let script = format!(
                "mkdir \"$1\" && cd \"$1\" && printf text > file && mkfifo pipe && \
                 python3 -c '{socket}' && ln -s file in && ln -s /etc/passwd out && \
                 ln -s no-such-file nowhere && truncate -s 1M sparse && printf x >> sparse"
            );
            (script, vec![folder.clone()])
        }
        act => (of_processes(act), none()),
    }
}

/// The scripts of acts that are about processes and what they use.
fn of_processes(act: &Act) -> String {
    match act {
        Act::Sleep(time) => {
            let (seconds, rest) = (time / 1000, time % 1000);
            format!("exec sleep {seconds}.{rest:03}")
        }
        Act::Resist => "trap '' TERM; printf x; exec sleep 1000".into(),
        Act::Work(time) => {
            let program =
                "import sys, time\nwhile time.process_time() * 1000 < int(sys.argv[1]): pass";
            format!("exec python3 -c '{program}' {time}")
        }
        // It must keep everything: there is no end of line.
        Act::Memory => "exec tail -n 1 /dev/zero".into(),
        Act::Crowd => "while sleep 1000 & do :; done; exit 1".into(),
        Act::Escape(count) => format!(
            "for i in $(seq {count}); do \
             setsid sh -c '(trap \"\" TERM HUP INT; exec sleep 1000) &' \
             < /dev/null > /dev/null 2>&1; done; printf x"
        ),
        // PID 1 and the shell itself are not counted; nothing is started to count.
        Act::Count => "n=-2; for p in /proc/[0-9]*; do n=$((n+1)); done; printf %s $n".into(),
        _ => "exec sleep 1000".into(),
    }
}

#[async_trait]
impl Bench for DockerBench {
    fn engine(&self) -> Arc<dyn Engine> {
        self.engine.clone()
    }

    async fn restart(&self) -> Result<Arc<dyn Engine>, EngineError> {
        Ok(Arc::new(self.bench.stranger().await))
    }

    fn image(&self) -> String {
        test_image()
    }

    fn ownership(&self) -> Ownership {
        self.bench.ownership()
    }

    fn user(&self) -> UserId {
        next_user()
    }

    fn argv(&self, act: &Act) -> Vec<String> {
        if *act == Act::Absent {
            return vec!["/no/such/program".into()];
        }
        let (script, arguments) = match act {
            Act::Fill(file) => (
                // A large piece that does not fit is refused whole, and leaves room for small ones.
                "dd if=/dev/zero bs=1M >> \"$1\" 2> /dev/null; exit 1".into(),
                vec![file.clone()],
            ),
            act => script(act),
        };
        let mut argv = vec!["/bin/sh".to_owned(), "-c".into(), script, "sh".into()];
        argv.extend(arguments);
        argv
    }

    fn env(&self) -> Vec<(String, String)> {
        vec![("PATH".into(), "/usr/local/bin:/usr/bin:/bin".into())]
    }

    fn can(&self, _capability: Capability) -> bool {
        true
    }

    async fn census(&self) -> Result<Vec<String>, EngineError> {
        let objects = self.engine.list(Some(&self.bench.owner)).await?;
        let names = objects.into_iter().map(|object| object.name);
        let files = self.bench.images().into_iter().chain(self.bench.channels());
        Ok(names
            .chain(files.map(|path| path.display().to_string()))
            .collect())
    }

    fn cancellations(&self) -> usize {
        3
    }
}

#[expect(
    clippy::print_stdout,
    reason = "one line for each case is what a person looks for"
)]
async fn holds(case: &Case, sharing: DiskSharing) -> bool {
    let fails = std::sync::atomic::AtomicBool::new(true);
    with_bench(sharing, async |bench| {
        let engine = Arc::new(bench.stranger().await);
        let bench = Arc::new(DockerBench { bench, engine });
        let finding = examine(case, bench.clone()).await;
        println!("{finding}");
        let failed = matches!(finding.verdict, Verdict::Fails(_));
        fails.store(failed, std::sync::atomic::Ordering::Relaxed);
        bench.engine.close().await.unwrap();
    })
    .await;
    !fails.into_inner()
}

/// Runs what `choose` wants; everything else was run by the other test, or elsewhere.
async fn all_hold(sharing: DiskSharing, choose: impl Fn(&Case) -> bool) {
    let chosen: Vec<&Case> = cases().iter().filter(|case| choose(case)).collect();
    assert!(!chosen.is_empty());
    let runs = chosen.iter().map(|case| holds(case, sharing));
    let held: Vec<bool> = futures::stream::iter(runs)
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    let failed = held.iter().filter(|held| !**held).count();
    assert_eq!(failed, 0, "cases that do not hold");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_case_holds_by_the_socket_of_a_sandbox() {
    all_hold(DiskSharing::Probe, |_| true).await;
}

/// What is another thing where everything goes through the engine.
const OF_THE_WAY: [&str; 8] = [
    "a_command_goes_on_through_a_restart",
    "a_command_that_nobody_listens_to_runs_to_its_end",
    "a_restart_between_making_and_opening_loses_nothing",
    "a_slow_reader_holds_a_command_up_and_loses_nothing",
    "commands_of_a_sandbox_that_goes_are_lost",
    "every_octet_comes_through_both_ways",
    "making_a_sandbox_may_be_given_up_anywhere",
    "putting_files_may_be_given_up_anywhere",
];

#[tokio::test(flavor = "multi_thread")]
async fn what_depends_on_the_way_holds_through_the_engine_as_well() {
    let there = OF_THE_WAY
        .iter()
        .all(|name| cases().iter().any(|case| case.name == *name));
    assert!(there, "a case was renamed");
    all_hold(DiskSharing::Never, |case| OF_THE_WAY.contains(&case.name)).await;
}
