//! Levels of phases, what a task tried to reach, setup's own sandbox, and secrets.

use forge_api::report::TaskReport;
use forge_core::connection::{ConnectionMode, ConnectionRecord, ConnectionVerdict, EgressCounters};
use forge_core::task::VerifyContainer;
use forge_core::{
    Cause, CommandLine, DenialReason, NetworkLevel, PhaseName, Reason, SecretVariable, Task, TaskId,
};
use forge_engine::fake::FakeExec;
use forge_engine::{EgressRecords, EngineErrorKind, Operation};
use forge_orchestrator::Agent;
use forge_orchestrator::run::Purpose;
use jiff::Timestamp;

use crate::support::{Bench, only};

fn succeed(_: &forge_core::ExecRequest) -> FakeExec {
    FakeExec::exits(0)
}

fn refused(host: &str) -> ConnectionRecord {
    ConnectionRecord {
        time: Timestamp::UNIX_EPOCH,
        sandbox: "s".into(),
        run: "r".into(),
        task: "t".into(),
        phase: PhaseName::Setup,
        level: NetworkLevel::PackageOnly,
        verdict: ConnectionVerdict::Denied,
        reason: Some(DenialReason::NotOnAllowlist),
        mode: ConnectionMode::Connect,
        host: host.into(),
        port: 443,
        sni: None,
        ip: None,
        bytes_up: 3,
        bytes_down: 0,
        ms: 1,
    }
}

fn calls_with(bench: &Bench, part: &str) -> Vec<String> {
    let calls = bench.engine.calls().into_iter();
    calls.filter(|call| call.contains(part)).collect()
}

#[tokio::test]
async fn what_the_operator_forbids_ends_a_task_before_anything_is_made() {
    let mut bench = Bench::new(succeed).await;
    bench.operator.forbidden = Some("no such image here".to_owned());
    let summary = bench.run_one(bench.task("curious")).await;
    let task = &summary.report.tasks[0];
    assert_eq!(task.reason, Some(Reason::NotPermitted));
    assert_eq!(task.message, "no such image here");
    let calls = bench.calls();
    assert_eq!(calls, ["ask the engine ", "close the engine "]);
}

#[tokio::test]
async fn setup_runs_in_a_sandbox_of_its_own_and_the_workspace_is_given_to_the_task_s_user() {
    let bench = Bench::new(succeed).await;
    let summary = bench.run_one(bench.task("t")).await;
    let task = &summary.report.tasks[0];
    assert_eq!(summary.report.totals.completed, 1, "{}", task.message);
    let calls = bench.engine.calls();
    let at = |part: &str| calls.iter().position(|call| call.contains(part)).unwrap();
    let setup = format!("create sandbox {}-setup", task.id);
    let order = [
        at(&setup),
        at(": setup"),
        at("hand /workspace to"),
        at("keep the changes"),
        at(&format!("remove {}-setup", task.id)),
        at(": solve"),
    ];
    assert!(order.is_sorted(), "{calls:#?}");
    // The report shows the sandbox of solve, which is no root.
    assert_ne!(task.attestation.as_ref().unwrap().uid, 0);
}

#[tokio::test]
async fn an_isolated_task_never_speaks_to_the_proxy() {
    let bench = Bench::new(succeed).await;
    bench.run_one(bench.task("quiet")).await;
    assert_eq!(calls_with(&bench, "control the network"), [""; 0]);
}

#[tokio::test]
async fn a_sandbox_that_serves_two_phases_changes_its_level_between_them() {
    let bench = Bench::new(succeed).await;
    let mut task = bench.task("two");
    task.setup = None;
    task.verify_container = VerifyContainer::Same;
    task.network.solve = NetworkLevel::LimitedWeb;
    let summary = bench.run_one(task).await;
    assert_eq!(summary.report.totals.completed, 1);
    let set: Vec<_> = calls_with(&bench, " at ")
        .into_iter()
        .filter_map(|call| call.split(": ").last().map(str::to_owned))
        .collect();
    // Each phase ends isolated, so that nothing goes on at its level.
    let expected = [
        "solve at limited_web",
        "solve at isolated",
        "verify at isolated",
        "verify at isolated",
    ];
    assert_eq!(set, expected);
    let levels: Vec<_> = summary.report.tasks[0]
        .phases
        .iter()
        .map(|phase| phase.network)
        .collect();
    assert_eq!(levels, [NetworkLevel::LimitedWeb, NetworkLevel::Isolated]);
}

#[tokio::test]
async fn refusals_are_in_the_report_in_the_log_and_in_a_line_for_each_connection() {
    let bench = Bench::new(succeed).await;
    bench.engine.set_egress(EgressRecords {
        connections: vec![refused("a.test"), refused("a.test"), refused("b.test")],
        counters: EgressCounters {
            denied: 3,
            bytes_up: 9,
            unrecorded: 2,
            ..EgressCounters::default()
        },
        lost: true,
    });
    let mut task = bench.task("curious");
    task.network.setup = NetworkLevel::PackageOnly;
    let summary = bench.run_one(task).await;
    let task = &summary.report.tasks[0];
    let network = &task.network;
    // The command passed, so that a lost proxy is no more than a gap in what is told.
    assert_eq!(task.reason, None);
    assert_eq!((network.denied_count, network.bytes_up), (3, 9));
    assert_eq!(network.unrecorded, 2);
    assert_eq!(
        (network.denied[0].host.as_str(), network.denied[0].count),
        ("a.test", 2)
    );
    assert!(
        task.notes
            .iter()
            .any(|note| note.contains("proxy was lost") && note.contains("incomplete"))
    );
    let root = summary.layout.root();
    let log = std::fs::read_to_string(root.join(&task.phases[0].output)).unwrap();
    assert!(
        log.contains("swe-forge: 3 connections were refused: a.test:443"),
        "{log}"
    );
    let lines = std::fs::read_to_string(root.join(network.log.as_ref().unwrap())).unwrap();
    assert_eq!(lines.lines().count(), 3);
}

#[tokio::test]
async fn a_level_that_cannot_be_set_fails_the_task_before_its_command_runs() {
    let bench = Bench::new(succeed).await;
    bench
        .engine
        .fail(Operation::Network, EngineErrorKind::Unavailable);
    let mut task = bench.task("curious");
    task.network.setup = NetworkLevel::PackageOnly;
    let summary = bench.run_one(task).await;
    let task = &summary.report.tasks[0];
    assert_eq!(task.reason, Some(Reason::NetworkPolicyUnavailable));
    assert_eq!(calls_with(&bench, "run a command"), [""; 0]);
}

fn three_refusals() -> EgressRecords {
    EgressRecords {
        connections: vec![refused("a.test"), refused("a.test"), refused("b.test")],
        counters: EgressCounters {
            denied: 3,
            ..EgressCounters::default()
        },
        lost: false,
    }
}

#[tokio::test]
async fn what_a_phase_left_running_is_ended_before_its_records_are_taken() {
    let bench = Bench::new(succeed).await;
    let mut task = bench.task("busy");
    task.network.setup = NetworkLevel::PackageOnly;
    bench.run_one(task).await;
    let calls = bench.engine.calls();
    let at = |part: &str| calls.iter().position(|call| call.contains(part)).unwrap();
    let order = [
        at(": setup"),
        at("end the processes of"),
        at("setup at isolated"),
        at(": records"),
    ];
    assert!(order.is_sorted(), "{calls:#?}");
}

#[tokio::test]
async fn refusals_are_told_of_a_phase_whose_connections_cannot_be_ended() {
    let uncut = |exec| async move {
        let bench = Bench::new(only("setup", exec)).await;
        let failure = EngineErrorKind::Unavailable;
        bench.engine.fail_where("setup at isolated", failure);
        bench.engine.set_egress(three_refusals());
        let mut task = bench.task("curious");
        task.network.setup = NetworkLevel::PackageOnly;
        let mut summary = bench.run_one(task).await;
        summary.report.tasks.remove(0)
    };
    for (exec, told) in [
        (FakeExec::exits(0), "as the test asked"),
        (FakeExec::exits(3), "lost during setup"),
    ] {
        let task = uncut(exec).await;
        assert_eq!(task.reason, Some(Reason::NetworkPolicyUnavailable));
        assert!(task.message.contains(told), "{}", task.message);
        assert_eq!(task.network.denied_count, 3);
        assert_eq!(task.network.denied.len(), 2);
        let mut said = task.notes.iter().chain([&task.message]);
        assert!(said.any(|said| said.contains("as the test asked")));
    }
}

#[tokio::test]
async fn a_phase_that_fails_while_its_proxy_is_lost_is_no_verdict() {
    let bench = Bench::new(only("setup", FakeExec::exits(3))).await;
    bench.engine.set_egress(EgressRecords {
        lost: true,
        ..EgressRecords::default()
    });
    let mut task = bench.task("innocent");
    task.network.setup = NetworkLevel::PackageOnly;
    let summary = bench.run_one(task).await;
    let task = &summary.report.tasks[0];
    assert_eq!(task.reason, Some(Reason::NetworkPolicyUnavailable));
    assert_eq!(task.cause, Some(Cause::Infrastructure));
    assert!(
        task.message.contains("lost during setup"),
        "{}",
        task.message
    );
    assert!(task.message.contains("code 3"), "{}", task.message);
}

#[tokio::test]
async fn a_phase_that_has_no_network_is_judged_whatever_becomes_of_the_proxy() {
    let bench = Bench::new(only("verify", FakeExec::exits(1))).await;
    let mut task = bench.task("sealed");
    task.setup = None;
    task.verify_container = VerifyContainer::Same;
    task.network.verify = NetworkLevel::LimitedWeb;
    task.network.solve = NetworkLevel::Isolated;
    let failed = bench.run_one(task.clone()).await;
    let failed = failed.report.tasks[0].reason;
    assert_eq!(failed, Some(Reason::TestsFailed));

    let bench = Bench::new(only("solve", FakeExec::exits(1))).await;
    bench.engine.set_egress(EgressRecords {
        lost: true,
        ..EgressRecords::default()
    });
    let summary = bench.run_one(task).await;
    assert_eq!(
        summary.report.tasks[0].reason,
        Some(Reason::SolveFailed),
        "{}",
        summary.report.tasks[0].message
    );
}

#[tokio::test]
async fn an_isolated_client_that_finds_no_host_is_told_why() {
    let bench = Bench::new(|request: &forge_core::ExecRequest| {
        let mut exec = FakeExec::exits(1);
        if let FakeExec::Ends { output, .. } = &mut exec {
            *output = b"curl: (6) Could not resolve host: a.test\n".to_vec();
        }
        match request.argv.last() {
            Some(last) if last == "setup" => exec,
            _ => FakeExec::exits(0),
        }
    })
    .await;
    let summary = bench.run_one(bench.task("offline")).await;
    let task = &summary.report.tasks[0];
    assert_eq!(task.reason, Some(Reason::SetupFailed));
    let log = summary.layout.root().join(&task.phases[0].output);
    let log = std::fs::read_to_string(log).unwrap();
    assert!(log.contains("swe-forge: a host was looked for"), "{log}");
    assert!(log.contains("the phase is isolated"), "{log}");
}

#[tokio::test]
async fn a_secret_reaches_the_phases_that_list_it_and_no_log() {
    let mut bench = Bench::new(|request: &forge_core::ExecRequest| {
        let token = request.env.iter().find(|(name, _)| name == "TOKEN");
        let mut exec = FakeExec::exits(0);
        if let FakeExec::Ends { output, .. } = &mut exec {
            let value = token.map_or("none", |(_, value)| value.as_str());
            *output = format!("token {value}\n").into_bytes();
        }
        exec
    })
    .await;
    bench
        .operator
        .secrets
        .insert("registry".into(), "s3cr3t-value".into());
    let mut task = bench.task("keeper");
    task.secrets.push(SecretVariable {
        variable: "TOKEN".into(),
        secret: "registry".into(),
        phases: vec![PhaseName::Setup],
    });
    let summary = bench.run_one(task).await;
    let task = &summary.report.tasks[0];
    let log = |index: usize| {
        let path = summary.layout.root().join(&task.phases[index].output);
        std::fs::read_to_string(path).unwrap()
    };
    assert_eq!(log(0), "token ***\n");
    assert_eq!(log(1), "token none\n");
}

#[tokio::test]
async fn a_secret_in_the_name_of_a_host_is_in_nothing_that_is_written() {
    let mut bench = Bench::new(succeed).await;
    let secrets = &mut bench.operator.secrets;
    secrets.insert("registry".into(), "S3cr3t-Value".into());
    bench.engine.set_egress(EgressRecords {
        connections: vec![ConnectionRecord {
            sni: Some("x.s3cr3t-value.test".into()),
            ..refused("s3cr3t-value.a.test")
        }],
        counters: EgressCounters::default(),
        lost: false,
    });
    let mut task = bench.task("curious");
    task.network.setup = NetworkLevel::PackageOnly;
    task.secrets.push(SecretVariable {
        variable: "TOKEN".into(),
        secret: "registry".into(),
        phases: vec![PhaseName::Setup],
    });
    let summary = bench.run_one(task).await;
    let task = &summary.report.tasks[0];
    assert_eq!(task.network.denied[0].host, "***.a.test");
    assert!(task.notes.iter().any(|note| note.contains("***.a.test")));
    let root = summary.layout.root();
    let log = root.join(task.network.log.as_ref().unwrap());
    for file in [
        log,
        root.join(&task.phases[0].output),
        root.join("report.json"),
    ] {
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(text.contains("***.a.test"), "{}: {text}", file.display());
        assert!(!text.contains("s3cr3t"), "{}: {text}", file.display());
    }
}

#[tokio::test]
async fn a_secret_that_is_not_there_ends_a_task_before_anything_is_made() {
    let bench = Bench::new(succeed).await;
    let mut task = bench.task("keeper");
    task.secrets.push(SecretVariable {
        variable: "TOKEN".into(),
        secret: "missing".into(),
        phases: vec![PhaseName::Solve],
    });
    let summary = bench.run_one(task).await;
    let task = &summary.report.tasks[0];
    assert_eq!(task.reason, Some(Reason::SecretUnavailable));
    assert!(task.message.contains("missing"));
    assert_eq!(calls_with(&bench, "create"), [""; 0]);
}

/// A task that gets `secrets` in every phase.
fn keeper(bench: &Bench, secrets: &[&str]) -> Task {
    let mut task = bench.task("keeper");
    for (number, secret) in secrets.iter().enumerate() {
        task.secrets.push(SecretVariable {
            variable: format!("TOKEN_{number}"),
            secret: (*secret).to_owned(),
            phases: PhaseName::ALL.to_vec(),
        });
    }
    task
}

#[tokio::test]
async fn a_secret_on_the_command_line_is_masked_however_early_an_attempt_ends() {
    for (forbidden, is_cancelled, asked) in [
        (Some("not S3cr3t-Value here"), false, &["registry"][..]),
        (None, true, &["registry"]),
        (None, false, &["registry", "missing"]),
    ] {
        let mut bench = Bench::new(succeed).await;
        let secrets = &mut bench.operator.secrets;
        secrets.insert("registry".into(), "S3cr3t-Value".into());
        bench.arguments = vec!["--command".into(), "login S3cr3t-Value".into()];
        bench.operator.forbidden = forbidden.map(str::to_owned);
        if is_cancelled {
            bench.cancellation.cancel();
        }
        // One of three waits for its turn, and is dropped without one when the run is cancelled.
        let tasks = ["a", "b", "c"].map(|id| Task {
            id: TaskId::new(id).unwrap(),
            ..keeper(&bench, asked)
        });
        let command = CommandLine::Shell("login S3cr3t-Value".into());
        let agent = Agent::Command(Some(command));
        let summary = bench.run(tasks.to_vec(), Purpose::Run(agent)).await;
        let began = |task: &TaskReport| !task.phases.is_empty();
        assert!(!summary.report.tasks.iter().any(began));
        let runs = bench.store.runs(1).await.unwrap();
        assert_eq!(runs[0].arguments, ["--command", "login ***"]);
        let report = std::fs::read_to_string(summary.layout.report()).unwrap();
        assert_eq!(report.matches("login ***").count(), 3, "{report}");
        assert!(!report.contains("S3cr3t"), "{report}");
    }
}

#[tokio::test]
async fn secrets_that_no_command_can_be_given_end_a_task_before_anything_is_made() {
    let mut bench = Bench::new(succeed).await;
    let names: Vec<String> = (0..5).map(|number| format!("large-{number}")).collect();
    for name in &names {
        let value = "v".repeat(64 * 1024);
        bench.operator.secrets.insert(name.clone(), value);
    }
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let fits = bench.run_one(keeper(&bench, &names[..3])).await;
    assert_eq!(fits.report.totals.completed, 1);
    let summary = bench.run_one(keeper(&bench, &names)).await;
    let task = &summary.report.tasks[0];
    assert_eq!(task.reason, Some(Reason::NotPermitted));
    assert!(task.message.contains("262144"), "{}", task.message);
    assert_eq!(task.image.digest, None);
}

#[tokio::test]
async fn an_attempt_that_fails_in_setup_leaves_nothing() {
    let bench = Bench::new(only("setup", FakeExec::exits(3))).await;
    let summary = bench.run_one(bench.task("t")).await;
    assert_eq!(summary.report.tasks[0].reason, Some(Reason::SetupFailed));
    assert_eq!(bench.engine.objects(), [""; 0]);
    assert!(
        bench
            .store
            .unremoved_objects(None)
            .await
            .unwrap()
            .is_empty()
    );
}
