//! What phases reach at their levels, and what people are told about the rest.

use forge_core::life_cycle::StateName;
use forge_core::{DenialReason, NetworkLevel, PhaseName, Reason};

use crate::support::{Home, Script};

/// A host that exists nowhere: what is refused before it is looked up says so.
const STRANGER: &str = "host.invalid";

#[test]
fn a_refusal_is_seen_by_the_client_in_the_log_in_the_report_and_by_show() {
    let home = Home::new();
    home.find_registries();
    let solve = format!("curl -sS -o /dev/null https://{STRANGER}/ 2>&1; true");
    let script = Script {
        solve: &solve,
        config: "network: {solve: package_only}\n",
        ..Script::default()
    };
    let (code, task) = home.run(&home.task("curious", script));
    assert_eq!((code, task.state), (0, StateName::Completed), "{task:#?}");
    let denied = &task.network.denied[0];
    assert_eq!(
        (
            denied.host.as_str(),
            denied.port,
            denied.reason,
            denied.phase
        ),
        (
            STRANGER,
            443,
            DenialReason::NotOnAllowlist,
            PhaseName::Solve
        )
    );
    let log = String::from_utf8(home.log(&task, "solve")).unwrap();
    assert!(log.contains("403"), "{log}");
    assert!(
        log.contains("swe-forge: 1 connection was refused: host.invalid:443"),
        "{log}"
    );
    assert!(log.contains("network.allow"), "{log}");
    let shown = home.output(&["show", &task.id]);
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.contains("not_on_allowlist"), "{shown}");
}

#[test]
fn a_program_that_knows_no_proxy_is_refused_as_well() {
    let home = Home::new();
    home.find_registries();
    let solve = format!("curl -sS --noproxy '*' https://{STRANGER}/; test $? -ne 0");
    let script = Script {
        solve: &solve,
        config: "network: {solve: package_only}\n",
        ..Script::default()
    };
    let (code, task) = home.run(&home.task("direct", script));
    assert_eq!(code, 0, "{task:#?}");
    assert_eq!(task.network.denied[0].host, STRANGER);
}

#[test]
fn the_level_of_each_phase_holds_and_the_next_one_does_not_inherit_it() {
    let home = Home::new();
    home.find_registries();
    let probe = "python3 -c 'import socket; socket.create_connection((\"127.0.0.1\", 3128), 5)'";
    let solve = probe.to_owned();
    let verify = format!("! {probe} 2>/dev/null");
    let script = Script {
        solve: &solve,
        verify: &verify,
        config: "network: {solve: package_only}\n",
        ..Script::default()
    };
    let (code, task) = home.run(&home.task("levels", script));
    assert_eq!(code, 0, "{task:#?}");
    let levels: Vec<_> = task.phases.iter().map(|phase| phase.network).collect();
    assert_eq!(levels, [NetworkLevel::PackageOnly, NetworkLevel::Isolated]);
}

#[test]
fn a_level_above_the_operator_s_is_refused_before_anything_is_made() {
    let home = Home::new();
    home.find_registries();
    home.configure("[network]\nmax_level = \"package_only\"\n");
    let script = Script {
        config: "network: {solve: full_web}\n",
        ..Script::default()
    };
    let (code, task) = home.run(&home.task("wide", script));
    assert_eq!(
        (code, task.reason),
        (3, Some(Reason::NotPermitted)),
        "{task:#?}"
    );
    assert!(task.message.contains("max_level"), "{}", task.message);
    assert!(task.attestation.is_none());
}

#[test]
fn a_secret_reaches_its_phase_and_no_log_and_no_report() {
    let home = Home::new();
    home.configure_token("correct-horse-battery\n");
    let script = Script {
        solve: "test \"$TOKEN\" = correct-horse-battery && echo \"it is $TOKEN\"",
        verify: "test -z \"$TOKEN\" && ! grep -qa correct-horse /proc/1/environ 2>/dev/null",
        config: "env:\n  TOKEN: {secret: token, phases: [solve]}\n",
        ..Script::default()
    };
    let (code, task) = home.run(&home.task("keeper", script));
    assert_eq!(code, 0, "{task:#?}");
    let log = home.log(&task, "solve");
    assert_eq!(String::from_utf8_lossy(&log), "it is ***\n");
    assert!(
        !serde_json::to_string(&task)
            .unwrap()
            .contains("correct-horse")
    );
}

#[test]
fn nothing_of_swe_forge_s_own_environment_reaches_a_sandbox() {
    let home = Home::new();
    let script = Script {
        solve: "! env | grep -q SWE_FORGE",
        ..Script::default()
    };
    let (code, task) = home.run(&home.task("clean", script));
    assert_eq!(code, 0, "{task:#?}");
}

#[test]
fn a_flood_of_refusals_is_counted_to_the_last_and_hides_no_other_phase() {
    let home = Home::new();
    home.find_registries();
    let ask = r#"
import socket
for number in range(10200):
    with socket.create_connection(("127.0.0.1", 3128), 30) as stream:
        stream.sendall(f"CONNECT h{number % 300}.invalid:443 HTTP/1.1\r\n\r\n".encode())
        while stream.recv(4096):
            pass
"#;
    let setup = format!("python3 -c '{ask}'");
    let solve = format!("curl -sS -o /dev/null https://{STRANGER}/ 2>&1; true");
    let script = Script {
        setup: Some(&setup),
        solve: &solve,
        config: "network: {setup: package_only, solve: package_only}\n\
                 resources: {timeout_seconds: 3600}\n",
        ..Script::default()
    };
    let (code, task) = home.run(&home.task("noisy", script));
    assert_eq!(code, 0, "{task:#?}");
    let network = &task.network;
    assert_eq!(network.denied_count, 10_201, "{:#?}", task.notes);
    assert!(network.unrecorded >= 200, "{}", network.unrecorded);
    let of = |phase| {
        network
            .denied
            .iter()
            .filter(move |each| each.phase == phase)
    };
    assert_eq!(of(PhaseName::Setup).count(), 200);
    assert!(of(PhaseName::Solve).any(|each| each.host == STRANGER));
    let log = String::from_utf8(home.log(&task, "solve")).unwrap();
    assert!(log.contains("swe-forge: 1 connection was refused: host.invalid:443"));
    let shown = home.output(&["show", &task.id]);
    let shown = String::from_utf8(shown.stdout).unwrap();
    let told = format!(
        "10201 refused; {} of them without a record",
        network.unrecorded
    );
    assert!(shown.contains(&told), "{shown}");
}

#[test]
fn an_isolated_client_gives_up_soon_and_its_log_says_why() {
    let home = Home::new();
    let solve = "test \"$PIP_RETRIES\" = 1 && test -z \"$HTTP_PROXY\" || exit 9; \
                 curl -sS https://host.invalid/ 2>&1; exit 3";
    let script = Script {
        solve,
        ..Script::default()
    };
    let (_, task) = home.run(&home.task("offline", script));
    assert_eq!(task.reason, Some(Reason::SolveFailed), "{task:#?}");
    assert!(task.message.contains("code 3"), "{}", task.message);
    let log = String::from_utf8(home.log(&task, "solve")).unwrap();
    assert!(log.contains("the phase is isolated"), "{log}");
}
