//! Every way to end has its own reason and cause, and leaves nothing.

use forge_api::report::Exit;
use forge_core::life_cycle::StateName;
use forge_core::{Cause, Deadline, Reason};

use crate::support::{Home, Script};

fn assert_reason(script: Script<'_>, reason: Reason) {
    let home = Home::new();
    let (code, task) = home.run(&home.task("ending", script));
    assert_eq!(
        task.reason,
        Some(reason),
        "{}: {:?}",
        task.message,
        task.phases
    );
    assert_eq!((task.cause, code), (Some(Cause::Task), 1));
    assert!(task.cleanup_ended_at.is_some(), "{:?}", task.notes);
}

#[test]
fn a_task_that_passes_completes_and_says_what_it_used() {
    let home = Home::new();
    let script = Script {
        setup: Some("mkdir build && echo made > build/file"),
        solve: "cat build/file src/file.txt && echo kept > output/result.txt",
        verify: "test -f build/file",
        ..Script::default()
    };
    let (code, task) = home.run(&home.task("good", script));
    assert_eq!(
        (code, task.state),
        (0, StateName::Completed),
        "{}",
        task.message
    );
    assert_eq!(home.log(&task, "solve"), b"made\ntext\n");
    assert_eq!(task.artifacts[0].path, "output/result.txt");
    assert!(task.resources.memory_peak_bytes > 0);
    assert!(task.resources.cpu_seconds > 0.0);
    let attestation = task.attestation.as_ref().unwrap();
    assert_eq!(attestation.capabilities, 0);
    assert_eq!(attestation.interfaces, ["lo"]);
}

#[test]
fn out_of_memory_is_told_from_a_failed_test() {
    let hungry = "tail -c 2000m /dev/zero | tail -n 1 > /dev/null; exit 1";
    let config = "resources: {memory_mb: 64}\n";
    assert_reason(
        Script {
            verify: hungry,
            config,
            ..Script::default()
        },
        Reason::OutOfMemory,
    );
}

#[test]
fn a_full_disk_is_told_from_a_failed_solve() {
    let writer = "while head -c 4m /dev/zero >> output/big$((i=i+1)); do :; done; exit 1";
    let config = "resources: {disk_gb: 0.0625}\n";
    assert_reason(
        Script {
            solve: writer,
            config,
            ..Script::default()
        },
        Reason::DiskFull,
    );
}

#[test]
fn a_single_file_that_grows_past_the_disk_is_told_as_well() {
    let writer = "head -c 200m /dev/zero > output/big";
    let config = "resources: {disk_gb: 0.0625}\n";
    let script = Script {
        solve: writer,
        config,
        ..Script::default()
    };
    assert_reason(script, Reason::DiskFull);
}

#[test]
fn exhausted_processes_are_told_from_a_failed_solve() {
    let forker = "i=0; while [ $i -lt 60 ]; do sleep 30 & i=$((i+1)); done; exit 3";
    let config = "resources: {processes: 20}\n";
    assert_reason(
        Script {
            solve: forker,
            config,
            ..Script::default()
        },
        Reason::PidsExhausted,
    );
}

#[test]
fn a_signal_is_told_from_an_exit_code() {
    let home = Home::new();
    let task = home.task(
        "signal",
        Script {
            verify: "kill -SEGV $$",
            ..Script::default()
        },
    );
    let (code, task) = home.run(&task);
    assert_eq!((code, task.reason), (1, Some(Reason::KilledBySignal)));
    assert_eq!(
        task.phases.last().unwrap().exit,
        Exit::Signalled { signal: 11 }
    );
}

#[test]
fn an_output_flood_is_cut_at_its_limit() {
    let home = Home::new();
    let config = "resources: {output_mb: 3}\n";
    let script = Script {
        solve: "yes abcdefg",
        config,
        ..Script::default()
    };
    let (_, task) = home.run(&home.task("flood", script));
    assert_eq!(task.reason, Some(Reason::OutputLimit));
    assert!(task.phases[0].truncated);
    assert_eq!(home.log(&task, "solve").len(), 3 * 1024 * 1024);
}

#[test]
fn a_deadline_is_a_timeout_in_the_phase_that_passed_it() {
    let cases = [
        (
            Script {
                setup: Some("sleep 60"),
                config: "resources: {timeout_seconds: 1}\n",
                ..Script::default()
            },
            Deadline::Setup,
        ),
        (
            Script {
                solve: "sleep 60",
                config: "resources: {timeout_seconds: 1}\n",
                ..Script::default()
            },
            Deadline::Solve,
        ),
        (
            Script {
                verify: "sleep 60",
                config: "resources: {verify_timeout_seconds: 1}\n",
                ..Script::default()
            },
            Deadline::Verify,
        ),
    ];
    for (script, deadline) in cases {
        let home = Home::new();
        let (code, task) = home.run(&home.task("slow", script));
        assert_eq!(
            (code, task.state, task.deadline),
            (1, StateName::Timeout, Some(deadline))
        );
    }
}

#[test]
fn a_missing_image_is_the_user_s_to_mend_and_not_a_verdict() {
    let home = Home::new();
    let task = home.task_on("imageless", Script::default(), "swe-forge/no-such-image:1");
    let (code, task) = home.run(&task);
    assert_eq!(
        (task.reason, task.cause),
        (Some(Reason::ImageUnavailable), Some(Cause::User))
    );
    assert_eq!(code, 3);
    assert!(
        task.message.contains("swe-forge/no-such-image:1"),
        "{}",
        task.message
    );
}

#[test]
fn a_program_that_is_not_in_the_image_is_named_as_such() {
    let home = Home::new();
    let folder = home.task("missing", Script::default());
    let file = folder.join(".swe-forge/task.json");
    let text = std::fs::read_to_string(&file).unwrap();
    let text = text.replace(r#"{"command":"true"}"#, r#"{"argv":["/no/such/program"]}"#);
    std::fs::write(&file, text).unwrap();
    let (code, task) = home.run(&folder);
    assert_eq!((code, task.reason), (1, Some(Reason::CommandNotRunnable)));
}
