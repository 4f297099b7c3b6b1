//! Every way an attempt can end, and what is left after it.

use forge_core::life_cycle::StateName;
use forge_core::task::VerifyContainer;
use forge_core::{
    Attestation, Cause, Deadline, Ending, NetworkLevel, Outcome, PhaseName, Reason, State,
};
use forge_engine::fake::{FakeExec, Fault, Faults, When};
use forge_engine::{EngineErrorKind, Operation};
use forge_orchestrator::Agent;
use forge_orchestrator::run::Purpose;

use crate::support::{Bench, only};

fn succeed(_: &forge_core::ExecRequest) -> FakeExec {
    FakeExec::exits(0)
}

#[tokio::test]
async fn a_task_that_passes_goes_through_every_phase_in_order() {
    let bench = Bench::new(succeed).await;
    let summary = bench.run_one(bench.task("good")).await;
    let task = &summary.report.tasks[0];
    assert_eq!((task.state, task.reason), (StateName::Completed, None));
    let phases: Vec<PhaseName> = task.phases.iter().map(|phase| phase.name).collect();
    assert_eq!(phases, PhaseName::ALL);
    assert!(task.cleanup_ended_at.is_some(), "{:?}", task.notes);
    assert!(bench.engine.objects().is_empty());

    let id = task.id.as_str();
    let calls: Vec<String> = bench
        .calls()
        .iter()
        .map(|call| call.replace(id, "ID"))
        .map(|call| match call.split_once("/workspace to ") {
            Some((start, _)) => format!("{start}/workspace to USER"),
            None => call,
        })
        .collect();
    assert_eq!(
        calls,
        [
            "ask the engine ",
            "prepare image example:1",
            "create workspace ID",
            "copy files into workspace-ID: /workspace/tests",
            "create sandbox ID-setup",
            "copy files into ID-setup: /workspace",
            "run a command in ID-setup: setup",
            "end the processes of ID-setup: ",
            "copy files into ID-setup: hand /workspace to USER",
            "keep the changes of ID-setup",
            "read the counters of ID-setup: ",
            "remove ID-setup",
            "create sandbox ID",
            "run a command in ID: solve",
            "end the processes of ID: ",
            "copy files into ID: remove /workspace/tests",
            "copy files into ID: /workspace",
            "read the counters of ID: ",
            "create sandbox ID-verify",
            "run a command in ID-verify: verify",
            "end the processes of ID-verify: ",
            "copy files out of ID-verify: /workspace/output",
            "read the counters of ID-verify: ",
            "remove ID",
            "remove ID-verify",
            "remove workspace-ID",
            "close the engine ",
        ]
    );
}

#[tokio::test]
async fn logs_artifacts_report_and_record_are_there_afterwards() {
    let bench = Bench::new(succeed).await;
    let summary = bench.run_one(bench.task("good")).await;
    let task = &summary.report.tasks[0];
    let root = summary.layout.root();
    for phase in &task.phases {
        assert_eq!(
            std::fs::read(root.join(&phase.output)).unwrap(),
            b"output\n"
        );
    }
    assert_eq!(
        std::fs::read(root.join(&task.artifacts[0].file)).unwrap(),
        b"done"
    );
    let written = std::fs::read(summary.layout.report()).unwrap();
    let read: forge_api::report::Report = serde_json::from_slice(&written).unwrap();
    assert_eq!(read, summary.report);
    let junit = std::fs::read_to_string(summary.layout.junit()).unwrap();
    assert!(
        junit.contains("<testcase classname=\"easy\" name=\"good (command)\""),
        "{junit}"
    );

    let record = bench.store.find_attempt(&task.id).await.unwrap();
    let transitions = bench.store.transitions(&record.id).await.unwrap();
    let states: Vec<StateName> = transitions.iter().map(|transition| transition.to).collect();
    assert_eq!(
        states,
        [
            StateName::Creating,
            StateName::Running,
            StateName::Completed,
            StateName::Cleanup
        ]
    );
    assert!(
        bench
            .store
            .unremoved_objects(None)
            .await
            .unwrap()
            .is_empty()
    );
    assert!(record.cleanup_ended_at.is_some());
}

/// A command that ends so after the kernel killed one of its processes for want of memory.
fn starved(ending: Ending) -> FakeExec {
    let mut exec = FakeExec::ends(ending);
    if let FakeExec::Ends { report, .. } = &mut exec {
        report.oom_kills = 1;
    }
    exec
}

#[tokio::test]
async fn each_end_of_a_phase_becomes_its_own_reason_and_leaves_nothing() {
    let cases = [
        (
            "setup",
            FakeExec::exits(1),
            Reason::SetupFailed,
            Cause::Task,
        ),
        (
            "solve",
            FakeExec::exits(1),
            Reason::SolveFailed,
            Cause::Task,
        ),
        (
            "verify",
            FakeExec::exits(1),
            Reason::TestsFailed,
            Cause::Task,
        ),
        (
            "verify",
            starved(Ending::Signalled(9)),
            Reason::OutOfMemory,
            Cause::Task,
        ),
        (
            "solve",
            FakeExec::ends(Ending::DiskFull),
            Reason::DiskFull,
            Cause::Task,
        ),
        (
            "solve",
            FakeExec::ends(Ending::OutputLimit),
            Reason::OutputLimit,
            Cause::Task,
        ),
        (
            "solve",
            FakeExec::ends(Ending::Signalled(11)),
            Reason::KilledBySignal,
            Cause::Task,
        ),
        (
            "setup",
            FakeExec::ends(Ending::NotStarted { errno: 2 }),
            Reason::CommandNotRunnable,
            Cause::Task,
        ),
    ];
    for (word, exec, reason, cause) in cases {
        let bench = Bench::new(only(word, exec)).await;
        let summary = bench.run_one(bench.task("bad")).await;
        let task = &summary.report.tasks[0];
        assert_eq!(
            (task.state, task.reason, task.cause),
            (StateName::Failed, Some(reason), Some(cause)),
            "{word}"
        );
        assert!(
            bench.engine.objects().is_empty(),
            "{reason}: {:?}",
            bench.engine.objects()
        );
    }
}

#[tokio::test]
async fn a_deadline_is_a_timeout_that_says_which() {
    for (word, deadline) in [
        ("setup", Deadline::Setup),
        ("solve", Deadline::Solve),
        ("verify", Deadline::Verify),
    ] {
        let bench = Bench::new(only(word, FakeExec::ends(Ending::DeadlineExceeded))).await;
        let summary = bench.run_one(bench.task("slow")).await;
        let task = &summary.report.tasks[0];
        assert_eq!(
            (task.state, task.deadline),
            (StateName::Timeout, Some(deadline))
        );
        assert_eq!(summary.report.totals.timeout, 1);
        assert!(bench.engine.objects().is_empty());
    }
}

#[tokio::test]
async fn an_engine_that_fails_anywhere_is_never_a_verdict_and_leaves_nothing() {
    let cases = [
        (
            Operation::PrepareImage,
            EngineErrorKind::NotFound,
            Reason::ImageUnavailable,
        ),
        (
            Operation::PrepareImage,
            EngineErrorKind::Unavailable,
            Reason::EngineUnavailable,
        ),
        (
            Operation::CreateWorkspace,
            EngineErrorKind::Internal,
            Reason::EngineError,
        ),
        (
            Operation::Create,
            EngineErrorKind::Exhausted,
            Reason::EngineError,
        ),
        (Operation::Put, EngineErrorKind::Lost, Reason::Lost),
        (Operation::Exec, EngineErrorKind::Lost, Reason::Lost),
        (
            Operation::Kill,
            EngineErrorKind::Corrupt,
            Reason::EngineError,
        ),
    ];
    for (operation, kind, reason) in cases {
        let bench = Bench::new(succeed).await;
        bench.engine.fail(operation, kind);
        let summary = bench.run_one(bench.task("victim")).await;
        let task = &summary.report.tasks[0];
        assert_eq!(task.state, StateName::Failed);
        assert_eq!(task.reason, Some(reason), "{operation}: {}", task.message);
        assert_ne!(task.cause, Some(Cause::Task));
        assert!(bench.engine.objects().is_empty(), "{operation}");
    }
}

#[tokio::test]
async fn what_cannot_be_removed_is_said_and_left_to_gc() {
    let bench = Bench::new(succeed).await;
    bench
        .engine
        .fail(Operation::Destroy, EngineErrorKind::Unavailable);
    let summary = bench.run_one(bench.task("stubborn")).await;
    let task = &summary.report.tasks[0];
    assert_eq!(task.state, StateName::Completed);
    assert_eq!(task.cleanup_ended_at, None);
    assert!(
        task.notes.iter().any(|note| note.contains("left for gc")),
        "{:?}",
        task.notes
    );
    // The sandboxes of setup, solve and verify, and the workspace.
    assert_eq!(bench.store.unremoved_objects(None).await.unwrap().len(), 4);
}

#[tokio::test]
async fn a_life_that_ends_while_files_are_put_in_place_is_recorded_as_such() {
    for has_setup in [true, false] {
        let bench = Bench::new(succeed).await;
        let mut task = bench.task("large");
        let place = match has_setup {
            true => "-setup: /workspace",
            false => ": /workspace",
        };
        if !has_setup {
            (task.setup, task.tests) = (None, None);
        }
        bench.engine.fail_where(place, EngineErrorKind::Lost);
        bench.engine.set_ended(124);
        let summary = bench.run_one(task).await;
        let task = &summary.report.tasks[0];
        assert_eq!(task.deadline, Some(Deadline::Lifetime), "{}", task.message);
        let mut notes = task.notes.iter();
        assert!(!notes.any(|note| note.contains("the record")));
        let record = bench.store.find_attempt(&task.id).await.unwrap();
        let ended = State::Cleanup(Outcome::Timeout(Deadline::Lifetime));
        assert_eq!(record.state, ended);
    }
}

/// Refuses to have `state` written into the record of `bench` from now on.
fn refuse_state(bench: &Bench, state: StateName) {
    let record = rusqlite::Connection::open(bench.folder.path().join("record.sqlite")).unwrap();
    let trigger = format!(
        "CREATE TRIGGER refuse BEFORE UPDATE ON attempts WHEN NEW.state = '{state}' \
         BEGIN SELECT RAISE(ABORT, 'no room for it'); END"
    );
    record.execute_batch(&trigger).unwrap();
}

#[tokio::test]
async fn an_end_that_cannot_be_recorded_is_recorded_as_a_failure() {
    let bench = Bench::new(succeed).await;
    refuse_state(&bench, StateName::Completed);
    let summary = bench.run_one(bench.task("unlucky")).await;
    let task = &summary.report.tasks[0];
    assert_eq!(task.reason, Some(Reason::InternalError));
    let record = bench.store.find_attempt(&task.id).await.unwrap();
    let State::Cleanup(Outcome::Failed(failure)) = record.state else {
        panic!("{:?}", record.state);
    };
    assert_eq!(failure.reason, Reason::InternalError);
    let notes = task.notes.iter();
    let about = notes.filter(|note| note.contains("the record is incomplete"));
    assert_eq!(about.count(), 1, "{:?}", task.notes);
    assert!(bench.engine.objects().is_empty());
}

#[tokio::test]
async fn a_step_that_cannot_be_recorded_keeps_no_later_one_from_being_recorded() {
    let bench = Bench::new(succeed).await;
    refuse_state(&bench, StateName::Running);
    let summary = bench.run_one(bench.task("unlucky")).await;
    let task = &summary.report.tasks[0];
    assert_eq!(task.reason, Some(Reason::InternalError));
    assert_eq!(task.notes, [""; 0]);
    let record = bench.store.find_attempt(&task.id).await.unwrap();
    assert!(matches!(record.state, State::Cleanup(Outcome::Failed(_))));
}

#[tokio::test]
async fn a_workspace_that_is_kept_without_a_sandbox_is_told_of() {
    let bench = Bench::new(succeed).await;
    let failure = EngineErrorKind::Internal;
    bench.engine.fail(Operation::CreateWorkspace, failure);
    let mut task = bench.task("kept");
    task.cleanup.on_failure = false;
    let summary = bench.run_one(task).await;
    let notes = &summary.report.tasks[0].notes;
    assert!(notes.iter().any(|note| note.contains("were kept")));
}

#[tokio::test]
async fn an_attempt_that_breaks_off_removes_what_is_recorded_and_nothing_else() {
    let bench = Bench::new(|request: &forge_core::ExecRequest| {
        let is_solve = request.argv.last().is_some_and(|last| last == "solve");
        assert!(!is_solve, "a fault of this test's making");
        FakeExec::exits(0)
    })
    .await;
    let summary = bench.run_one(bench.task("broken")).await;
    let task = &summary.report.tasks[0];
    assert_eq!(task.reason, Some(Reason::InternalError));
    assert_eq!(task.notes, [""; 0]);
    assert!(task.cleanup_ended_at.is_some());
    assert!(bench.engine.objects().is_empty());
    let left = bench.store.unremoved_objects(None).await.unwrap();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test]
async fn a_level_of_a_phase_that_does_not_exist_does_not_matter() {
    let bench = Bench::new(succeed).await;
    let mut task = bench.task("no-setup");
    task.setup = None;
    task.network.setup = NetworkLevel::PackageOnly;
    let summary = bench.run_one(task).await;
    assert_eq!(summary.report.totals.completed, 1);
}

#[tokio::test]
async fn processes_that_survive_solve_forbid_a_verdict() {
    let bench = Bench::new(succeed).await;
    bench.engine.set_survivors(2);
    let summary = bench.run_one(bench.task("undead")).await;
    let task = &summary.report.tasks[0];
    assert_eq!(task.reason, Some(Reason::KillFailed));
    assert!(
        !bench
            .engine
            .calls()
            .iter()
            .any(|call| call.ends_with(": verify"))
    );
}

#[tokio::test]
async fn a_sandbox_less_confined_than_asked_runs_nothing_of_the_task() {
    let bench = Bench::new(succeed).await;
    bench.engine.set_attestation(Attestation {
        capabilities: 0,
        bounding_capabilities: 0,
        no_new_privileges: true,
        seccomp_mode: 0,
        uid: 1,
        gid: 1,
        interfaces: vec!["lo".to_owned()],
        routes: 0,
        writable_mounts: Vec::new(),
        read_only_mounts: Vec::new(),
        read_only_root: true,
        vsock_refused: true,
        metadata_unreachable: true,
        network_served: false,
        network_failure: None,
        kernel: String::new(),
    });
    let summary = bench.run_one(bench.task("loose")).await;
    let task = &summary.report.tasks[0];
    assert_eq!(task.reason, Some(Reason::HardeningUnavailable));
    assert!(task.message.contains("seccomp mode 0"), "{}", task.message);
    assert!(
        !bench
            .engine
            .calls()
            .iter()
            .any(|call| call.starts_with("run a command"))
    );
}

#[tokio::test]
async fn cancelling_ends_what_runs_drops_what_waits_and_leaves_nothing() {
    let bench = Bench::new(only("solve", FakeExec::Hangs)).await;
    let tasks = ["a", "b", "c", "d"].map(|id| bench.task(id)).to_vec();
    let cancellation = bench.cancellation.clone();
    let engine = bench.engine.clone();
    let both_hang = async move {
        // Two attempts run at once; both must be in solve before the run is cancelled.
        while engine
            .calls()
            .iter()
            .filter(|call| call.ends_with(": solve"))
            .count()
            < 2
        {
            tokio::task::yield_now().await;
        }
        cancellation.cancel();
    };
    let run = bench.run(tasks, Purpose::Run(Agent::Command(None)));
    let (summary, ()) = tokio::join!(run, both_hang);
    assert!(summary.cancelled);
    assert_eq!(summary.report.totals.cancelled, 4);
    assert_eq!(summary.report.tasks.len(), 4);
    assert!(bench.engine.objects().is_empty());
}

#[tokio::test]
async fn the_oracle_s_solution_is_gone_before_verification() {
    let bench = Bench::new(succeed).await;
    let summary = bench
        .run(vec![bench.task("solved")], Purpose::Run(Agent::Oracle))
        .await;
    assert_eq!(
        summary.report.totals.completed, 1,
        "{:?}",
        summary.report.tasks[0]
    );
    let calls = bench.engine.calls();
    let place = |part: &str| calls.iter().position(|call| call.contains(part));
    let removed = place("remove /workspace/solution");
    assert!(removed.is_some());
    assert!(removed < place("create sandbox solved").and(place("-verify")));
}

#[tokio::test]
async fn tests_in_the_sandbox_of_solve_are_put_there_after_it_unless_they_are_visible() {
    for visible in [false, true] {
        let bench = Bench::new(succeed).await;
        let mut task = bench.task("same");
        task.verify_container = VerifyContainer::Same;
        task.tests_visible = visible;
        let summary = bench.run_one(task).await;
        assert_eq!(summary.report.totals.completed, 1);
        let calls = bench.engine.calls();
        let id = &summary.report.tasks[0].id;
        let place = |part: String| calls.iter().position(|call| *call == part).unwrap();
        let put = place(format!("copy files into workspace-{id}: /workspace/tests"));
        let solved = place(format!("end the processes of {id}: "));
        let verified = place(format!("run a command in {id}: verify"));
        assert_eq!(put > solved, !visible, "{calls:#?}");
        assert!(put < verified);
        // What setup left there is gone before the place is mounted, and never removed in it.
        let cleared = place(format!(
            "copy files into {id}-setup: remove /workspace/tests"
        ));
        assert!(cleared < place(format!("create sandbox {id}")));
        let removed = format!("copy files into {id}: remove /workspace/tests");
        assert!(!calls.contains(&removed));
    }
}

#[tokio::test]
async fn without_tests_nothing_stands_in_their_place() {
    for container in [VerifyContainer::Fresh, VerifyContainer::Same] {
        let bench = Bench::new(succeed).await;
        let mut task = bench.task("bare");
        task.tests = None;
        task.verify_container = container;
        let summary = bench.run_one(task).await;
        assert_eq!(summary.report.totals.completed, 1);
        let calls = bench.engine.calls();
        let id = &summary.report.tasks[0].id;
        let removed = format!("copy files into {id}: remove /workspace/tests");
        let at = calls.iter().position(|call| *call == removed);
        let verify = calls.iter().position(|call| call.ends_with(": verify"));
        assert!(at.is_some() && at < verify, "{calls:#?}");
        assert!(
            !calls
                .iter()
                .any(|call| call.ends_with(": /workspace/tests"))
        );
    }
}

#[tokio::test]
async fn tests_that_do_not_get_to_their_place_end_the_attempt_before_it_begins() {
    let bench = Bench::new(succeed).await;
    bench
        .engine
        .fail(Operation::Put, EngineErrorKind::Exhausted);
    let summary = bench.run_one(bench.task("full")).await;
    let task = &summary.report.tasks[0];
    assert!(task.phases.is_empty());
    // Their place is no part of the workspace that the task has a size for.
    assert_eq!(task.reason, Some(Reason::EngineError));
    assert!(bench.engine.objects().is_empty());
}

#[tokio::test]
async fn a_workspace_that_solve_left_full_is_the_task_s_own_doing() {
    let bench = std::sync::Arc::new(std::sync::OnceLock::<forge_engine::fake::FakeEngine>::new());
    let engine = std::sync::Arc::clone(&bench);
    let filled = move |request: &forge_core::ExecRequest| {
        // What solve does to the workspace is that nothing fits into it from here on.
        if request.argv.last().is_some_and(|last| last == "solve") {
            let engine = engine.get().unwrap();
            engine.fail(Operation::Put, EngineErrorKind::Exhausted);
        }
        FakeExec::exits(0)
    };
    let full = Bench::new(filled).await;
    bench.set(full.engine.clone()).ok();
    let summary = full.run_one(full.task("full")).await;
    let task = &summary.report.tasks[0];
    assert_eq!(task.reason, Some(Reason::DiskFull), "{}", task.message);
    assert_eq!(task.cause, Some(Cause::Task));
    assert!(task.message.contains("handed over"), "{}", task.message);
    assert!(full.engine.objects().is_empty());
}

#[tokio::test]
async fn artifacts_of_a_sandbox_that_is_lost_after_the_verdict_are_taken_through_another() {
    let bench = Bench::new(succeed).await;
    // After setup, after solve, and when everything is over.
    let last = Fault::Error(EngineErrorKind::Lost);
    let faults = Faults::none().on(Operation::Kill, When::Call(3), last);
    bench.engine.set_faults(faults);
    let summary = bench.run_one(bench.task("good")).await;
    let task = &summary.report.tasks[0];
    assert_eq!(task.state, StateName::Completed, "{task:#?}");
    let kept: Vec<&str> = task
        .artifacts
        .iter()
        .map(|kept| kept.path.as_str())
        .collect();
    assert_eq!(kept, ["output/result.txt"]);
    let note = "the sandbox did not end its processes";
    assert!(task.notes.iter().any(|told| told.contains(note)));
    assert!(task.cleanup_ended_at.is_some());
    assert!(bench.engine.objects().is_empty());
}
