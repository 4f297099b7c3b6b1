//! `.swe-forge/config.yaml`, rule by rule.

use std::time::Duration;

use forge_core::limits::MEBIBYTE;
use forge_core::{CleanupPolicy, LimitCeiling, NetworkLevel, PhaseName, UserId};
use forge_task::{LoadOptions, load_task};

use crate::{Fixture, task_with};

fn with(config: &str) -> Fixture {
    Fixture::new().write(".swe-forge/config.yaml", config)
}

#[test]
fn a_full_file_becomes_settings() {
    let text = "\
# Settings
network:
  setup: limited_web
  solve: isolated
  verify: full_web
  allow: [Index.Example.org, 'files.example.org:8443', \"*.example.org\"]
resources: {memory_mb: 0x400, cpu_cores: 1.25, disk_gb: 0.5, processes: 64, timeout_seconds: 1200,
  tmp_mb: 32, output_mb: 8}
env:
  VERSION: 3.10
  GREETING: \"a: b\\n\"
  EMPTY: ''
user: 1000:100
cleanup:
  on_failure: false
  delay_seconds: 0
  force_cleanup_after_hours: 6
  log_retention_days: 7
  max_lifetime_seconds: 5000
artifacts:
  - dist/report.html
  - \"build logs\"
tests_visible: true
";
    let task = with(text).task();
    assert_eq!(task.network.setup, NetworkLevel::LimitedWeb);
    assert_eq!(task.network.verify, NetworkLevel::FullWeb);
    let allow: Vec<String> = task.network.allow.iter().map(ToString::to_string).collect();
    assert_eq!(
        allow,
        [
            "index.example.org",
            "files.example.org:8443",
            "*.example.org"
        ]
    );
    let limits = task.limits;
    assert_eq!(limits.memory_bytes, 1024 * MEBIBYTE);
    assert_eq!(
        (limits.cpu_millis, limits.disk_bytes),
        (1250, 512 * MEBIBYTE)
    );
    assert_eq!((limits.processes, limits.tmp_bytes), (64, 32 * MEBIBYTE));
    assert_eq!(limits.output_bytes, 8 * MEBIBYTE);
    assert_eq!(limits.timeout, Duration::from_secs(1200));
    assert_eq!(limits.verify_timeout, Duration::from_secs(600));
    assert_eq!(task.env["VERSION"], "3.10");
    assert_eq!(task.env["GREETING"], "a: b\n");
    assert_eq!(task.env["EMPTY"], "");
    assert_eq!(task.user, UserId::new(1000, 100));
    assert_eq!(
        task.cleanup,
        CleanupPolicy {
            on_failure: false,
            delay: Some(Duration::ZERO),
            force_after: Duration::from_secs(6 * 3600),
            log_retention_days: 7,
            max_lifetime: Duration::from_secs(5000),
            ..CleanupPolicy::default()
        }
    );
    assert_eq!(task.artifacts, ["dist/report.html", "build logs"]);
    assert!(task.tests_visible);
    assert_eq!(task.specification[1].contents, text.as_bytes());
}

#[test]
fn an_empty_file_changes_nothing() {
    for text in ["", "# nothing\n", "---\n", "{}"] {
        let task = with(text).task();
        assert_eq!(task.network.setup, NetworkLevel::Isolated);
        assert_eq!(task.cleanup, CleanupPolicy::default());
    }
}

#[test]
fn verification_has_the_time_of_the_rest_but_at_most_ten_minutes() {
    for (config, seconds) in [
        ("timeout_seconds: 100", 100),
        ("timeout_seconds: 601", 600),
        ("timeout_seconds: 100, verify_timeout_seconds: 3000", 3000),
    ] {
        let task = with(&format!("resources: {{{config}}}\n")).task();
        assert_eq!(task.limits.verify_timeout.as_secs(), seconds, "{config}");
    }
}

#[test]
fn a_container_outlives_its_deadlines_unless_the_author_says_otherwise() {
    for (config, container, seconds) in [
        ("", "fresh", 7260),
        ("resources: {timeout_seconds: 10000}", "fresh", 10_060),
        ("resources: {timeout_seconds: 7200}", "same", 7860),
        ("cleanup: {max_lifetime_seconds: 60}", "same", 60),
        ("cleanup: {delay_seconds: 0}", "fresh", 7200),
        ("cleanup: {delay_seconds: 3600}", "fresh", 10_800),
    ] {
        let verify = format!("\"verify\": {{\"command\": \"x\", \"container\": \"{container}\"}}");
        let task = with(config).task_json(task_with("verify", &verify)).task();
        assert_eq!(task.cleanup.max_lifetime.as_secs(), seconds, "{config}");
    }
}

#[test]
fn what_a_task_says_of_its_clean_up_goes_before_what_the_operator_does() {
    let options = LoadOptions {
        cleanup: CleanupPolicy {
            on_failure: false,
            delay: Some(Duration::from_secs(600)),
            log_retention_days: 90,
            ..CleanupPolicy::default()
        },
        ..LoadOptions::default()
    };
    let silent = with("");
    let task = load_task(silent.path(), &options).unwrap();
    let lasting = CleanupPolicy {
        max_lifetime: Duration::from_secs(7800),
        ..options.cleanup
    };
    assert_eq!(task.cleanup, lasting);
    let outspoken = with("cleanup: {on_failure: true, delay_seconds: 5}");
    let task = load_task(outspoken.path(), &options).unwrap();
    let expected = CleanupPolicy {
        on_failure: true,
        delay: Some(Duration::from_secs(5)),
        max_lifetime: Duration::from_secs(7205),
        ..options.cleanup
    };
    assert_eq!(task.cleanup, expected);
}

#[test]
fn a_user_alone_is_its_own_group() {
    assert_eq!(with("user: 1000").task().user, UserId::new(1000, 1000));
}

const USER: &str = "expected a user id from 1 to 4294967294, or \"uid:gid\" of two such numbers";

#[test]
fn each_mistake_has_one_diagnostic() {
    for (config, expected) in [
        ("netwrok: {}", "1:1: netwrok: unknown field \"netwrok\"\n  hint: did you mean \"network\"?".to_owned()),
        ("network: {solve: internet}", "1:18: network.solve: expected one of isolated, package_only, limited_web, full_web; found \"internet\"".into()),
        ("network: {solve: limited-web}", "1:18: network.solve: expected one of isolated, package_only, limited_web, full_web; found \"limited-web\"\n  hint: did you mean \"limited_web\"?".into()),
        ("network: isolated", "1:10: network: expected an object; found \"isolated\"".into()),
        ("network:", "1:8: network: expected an object; found nothing\n  hint: give it a value, or remove the key".into()),
        ("network:\n  verify: limited_web\n", "2:11: network.verify: limited_web without a host in network.allow reaches nothing\n  hint: list the hosts in network.allow, or use isolated".into()),
        ("network: {solve: limited_web, allow: []}", "1:18: network.solve: limited_web without a host in network.allow reaches nothing\n  hint: list the hosts in network.allow, or use isolated".into()),
        ("network: {solve: limited_web, allow: [10.0.0.1]}", "1:39: network.allow[0]: expected a host: \"example.org\", \"example.org:8443\" or \"*.example.org\"; found \"10.0.0.1\"\n  hint: addresses are not allowed, only names".into()),
        ("network: {solve: limited_web, allow: ['*.com']}", "1:39: network.allow[0]: expected a host: \"example.org\", \"example.org:8443\" or \"*.example.org\"; found \"*.com\"\n  hint: a whole top-level domain is too wide; name at least one more label".into()),
        ("network: {allow: example.org}", "1:18: network.allow: expected a list; found \"example.org\"\n  hint: write [\"example.org\"]".into()),
        ("resources: {memory: 5}", "1:13: resources.memory: unknown field \"memory\"\n  hint: did you mean \"memory_mb\"?".into()),
        ("resources: {memory_mb: 0}", "1:24: resources.memory_mb: expected a whole number from 6 to 16384 (the operator's ceiling); found 0".into()),
        ("resources: {memory_mb: -1}", "1:24: resources.memory_mb: expected a whole number from 6 to 16384 (the operator's ceiling); found -1".into()),
        ("resources: {memory_mb: 16385}", "1:24: resources.memory_mb: expected a whole number from 6 to 16384 (the operator's ceiling); found 16385".into()),
        ("resources: {memory_mb: 99999999999999999999999}", "1:24: resources.memory_mb: expected a whole number from 6 to 16384 (the operator's ceiling); found 99999999999999999999999".into()),
        ("resources: {memory_mb: 1.5}", "1:24: resources.memory_mb: expected a whole number from 6 to 16384 (the operator's ceiling); found 1.5".into()),
        ("resources: {memory_mb: \"512\"}", "1:24: resources.memory_mb: expected a whole number from 6 to 16384 (the operator's ceiling); found \"512\"\n  hint: remove the quotes".into()),
        ("resources: {memory_mb: 1_024}", "1:24: resources.memory_mb: expected a whole number from 6 to 16384 (the operator's ceiling); found \"1_024\"\n  hint: write 1024".into()),
        ("resources: {memory_mb: 1g}", "1:24: resources.memory_mb: expected a whole number from 6 to 16384 (the operator's ceiling); found \"1g\"".into()),
        ("resources: {cpu_cores: .nan}", "1:24: resources.cpu_cores: expected a number from 0.01 to 16 (the operator's ceiling); found .nan".into()),
        ("resources: {cpu_cores: .inf}", "1:24: resources.cpu_cores: expected a number from 0.01 to 16 (the operator's ceiling); found .inf".into()),
        ("resources: {cpu_cores: 0}", "1:24: resources.cpu_cores: expected a number from 0.01 to 16 (the operator's ceiling); found 0".into()),
        ("resources: {disk_gb: 1e400}", "1:22: resources.disk_gb: expected a number from 0.001 to 100 (the operator's ceiling); found 1e400".into()),
        ("resources: {processes: 2001}", "1:24: resources.processes: expected a whole number from 1 to 2000 (the operator's ceiling); found 2001".into()),
        ("resources: {timeout_seconds: 14401}", "1:30: resources.timeout_seconds: expected a whole number from 1 to 14400 (the operator's ceiling); found 14401".into()),
        ("resources: {verify_timeout_seconds: 0}", "1:37: resources.verify_timeout_seconds: expected a whole number from 1 to 14400 (the operator's ceiling); found 0".into()),
        ("resources: {tmp_mb: 0}", "1:21: resources.tmp_mb: expected a whole number from 1 to 16384 (the operator's ceiling); found 0".into()),
        ("resources: {output_mb: 4097}", "1:24: resources.output_mb: expected a whole number from 1 to 4096 (the operator's ceiling); found 4097".into()),
        ("env: {1A: x}", "1:7: env.1A: expected a name of letters, digits and '_' that does not begin with a digit; found \"1A\"".into()),
        ("env: {\"A\\x1b\": x}", "1:7: env[\"A\\u{1b}\"]: expected a name of letters, digits and '_' that does not begin with a digit; found \"A\\u{1b}\"".into()),
        ("env: {A=B: x}", "1:7: env[\"A=B\"]: expected a name of letters, digits and '_' that does not begin with a digit; found \"A=B\"".into()),
        ("env: {'': x}", "1:7: env[\"\"]: expected a name of letters, digits and '_' that does not begin with a digit; found \"\"".into()),
        ("env: {A: \"x\\0\"}", "1:10: env.A: it holds a NUL character\n  hint: no program can be given one; remove it".into()),
        ("env: {A: true}", "1:10: env.A: expected text; found true\n  hint: put it in quotes".into()),
        ("env: {A: [x]}", "1:10: env.A: expected text; found a list".into()),
        ("env: {A: x, A: y}", "1:13: env.A: the key \"A\" is repeated\n  hint: remove one of them".into()),
        ("env: [A=x]", "1:6: env: expected an object; found a list".into()),
        ("user: 0", format!("1:7: user: {USER}; found 0\n  hint: 0 is root, which no task runs as")),
        ("user: 1000:0", format!("1:7: user: {USER}; found \"1000:0\"\n  hint: 0 is root, which no task runs as")),
        ("user: 0x0", format!("1:7: user: {USER}; found 0x0\n  hint: 0 is root, which no task runs as")),
        ("user: root", format!("1:7: user: {USER}; found \"root\"\n  hint: names are not looked up; write the numbers")),
        ("user: \"1000\"", format!("1:7: user: {USER}; found \"1000\"\n  hint: remove the quotes")),
        ("user: 4294967295", format!("1:7: user: {USER}; found 4294967295\n  hint: 0 is root, which no task runs as")),
        ("cleanup: {on_success: yes}", "1:23: cleanup.on_success: expected true or false; found \"yes\"\n  hint: write true".into()),
        ("cleanup: {on_sucess: true}", "1:11: cleanup.on_sucess: unknown field \"on_sucess\"\n  hint: did you mean \"on_success\"?".into()),
        ("cleanup: {max_lifetime_seconds: 86401}", "1:33: cleanup.max_lifetime_seconds: expected a whole number from 1 to 86400; found 86401".into()),
        ("cleanup: {delay_seconds: 86401}", "1:26: cleanup.delay_seconds: expected a whole number from 0 to 86400; found 86401".into()),
        ("cleanup: {delay: 5}", "1:11: cleanup.delay: unknown field \"delay\"\n  hint: did you mean \"delay_seconds\"?".into()),
        ("cleanup: {force_cleanup_after_hours: 0}", "1:38: cleanup.force_cleanup_after_hours: expected a whole number from 1 to 8760; found 0".into()),
        ("cleanup: {log_retention_days: 1.5}", "1:31: cleanup.log_retention_days: expected a whole number from 1 to 3650; found 1.5".into()),
        ("artifacts: [../x]", "1:13: artifacts[0]: expected a path without \"..\"; found \"../x\"\n  hint: paths may not leave /workspace".into()),
        ("artifacts: [a/../../x]", "1:13: artifacts[0]: expected a path without \"..\"; found \"a/../../x\"\n  hint: paths may not leave /workspace".into()),
        ("artifacts: [/etc/passwd]", "1:13: artifacts[0]: expected a relative path; found \"/etc/passwd\"\n  hint: paths are relative to /workspace; remove what leads there".into()),
        ("artifacts: [./a//b/]", "1:13: artifacts[0]: expected names separated by single slashes; found \"./a//b/\"\n  hint: write \"a/b\"".into()),
        ("artifacts: ['']", "1:13: artifacts[0]: expected names separated by single slashes; found \"\"".into()),
        ("artifacts: [\"a\\0b\"]", "1:13: artifacts[0]: expected a path without control characters; found \"a\\0b\"".into()),
        ("tests_visible: 1", "1:16: tests_visible: expected true or false; found 1".into()),
        ("tests_visible: True\ntests_visible: false", "2:1: tests_visible: the key \"tests_visible\" is repeated\n  hint: remove one of them".into()),
        ("- a", "1:1: expected an object; found a list".into()),
        ("a: &x 1", "1:4: found the anchor \"&x\"\n  hint: anchors, aliases and merge keys are not used here; write the value out".into()),
    ] {
        let report = with(config).report();
        assert_eq!(report, format!(".swe-forge/config.yaml:{expected}"), "{config}");
    }
}

#[test]
fn all_mistakes_of_all_files_are_said_at_once() {
    let fixture = with("network:\n  solve: full\nresources:\n  cpu_cores: lots\nuser: 0\n")
        .task_json(task_with("title", "  \"title\": \"\","))
        .write(".swe-forge/tools.json", "[]")
        .write("extra.txt", "");
    assert_eq!(
        fixture.report(),
        format!(
            r#".swe-forge/config.yaml:2:10: network.solve: expected one of isolated, package_only, limited_web, full_web; found "full"
  hint: did you mean "full_web"?
.swe-forge/config.yaml:4:14: resources.cpu_cores: expected a number from 0.01 to 16 (the operator's ceiling); found "lots"
.swe-forge/config.yaml:5:7: user: {USER}; found 0
  hint: 0 is root, which no task runs as
.swe-forge/task.json:3:12: title: expected some text; found ""
.swe-forge/tools.json:1:1: expected an object; found a list
extra.txt: expected only .swe-forge, src, tests, solution, README* and LICENSE*; "extra.txt" has no place in a task directory
  hint: move it into src/ if the task starts from it, or remove it"#
        )
    );
}

#[test]
fn a_difficulty_above_the_ceiling_is_refused_unless_the_config_lowers_it() {
    let options = LoadOptions {
        ceiling: LimitCeiling {
            memory_bytes: 1024 * MEBIBYTE,
            cpu_millis: 1500,
            ..LimitCeiling::default()
        },
        ..LoadOptions::default()
    };
    let hard = task_with("difficulty", "  \"difficulty\": \"hard\",");
    let fixture = with("resources: {cpu_cores: 1.5}").task_json(&hard);
    let errors = load_task(fixture.path(), &options).unwrap_err();
    assert_eq!(
        fixture.shown(&errors.diagnostics),
        ".swe-forge/task.json:5:17: difficulty: hard gets memory_mb 2048, the operator allows 1024\n  hint: set resources.memory_mb in config.yaml to a smaller value"
    );
    let fixture = with("resources: {cpu_cores: 1.5, memory_mb: 1024}").task_json(&hard);
    let task = load_task(fixture.path(), &options).unwrap();
    assert_eq!(task.limits.cpu_millis, 1500);
}

#[test]
fn a_variable_may_be_a_secret_of_the_operator_for_the_phases_that_list_it() {
    let text = "env:\n  TOKEN: {secret: registry-token, phases: [setup, solve]}\n  PLAIN: x\n";
    let task = with(text).task();
    let secret = &task.secrets[0];
    assert_eq!(
        (secret.variable.as_str(), secret.secret.as_str()),
        ("TOKEN", "registry-token")
    );
    assert_eq!(secret.phases, [PhaseName::Setup, PhaseName::Solve]);
    assert_eq!(task.env.len(), 1);
}

#[test]
fn a_secret_without_name_or_phases_is_refused_where_it_stands() {
    for (text, said) in [
        ("env: {TOKEN: {phases: [setup]}}", "required"),
        ("env: {TOKEN: {secret: a}}", "required"),
        ("env: {TOKEN: {secret: a, phases: []}}", "empty list"),
        (
            "env: {TOKEN: {secret: a, phases: [install]}}",
            "one of setup, solve, verify",
        ),
        (
            "env: {TOKEN: {secret: 'a b', phases: [setup]}}",
            "name of a secret",
        ),
        (
            "env: {TOKEN: {secret: a, phases: [setup], value: x}}",
            "value",
        ),
    ] {
        let errors = with(text).report();
        assert!(errors.contains(said), "{text}: {errors}");
    }
}

#[test]
fn setup_may_reach_registries_unless_the_author_says_otherwise() {
    let with_setup = task_with("setup", "  \"setup\": {\"command\": \"true\"},");
    let fixture = Fixture::new().write(".swe-forge/task.json", &with_setup);
    assert_eq!(fixture.task().network.setup, NetworkLevel::PackageOnly);
    assert_eq!(Fixture::new().task().network.setup, NetworkLevel::Isolated);
    let isolated = fixture.write(".swe-forge/config.yaml", "network: {setup: isolated}\n");
    assert_eq!(isolated.task().network.setup, NetworkLevel::Isolated);
}

#[test]
fn more_hosts_and_ports_than_a_sandbox_serves_are_refused() {
    let list = |count: u16| {
        let hosts: Vec<String> = (0..count)
            .map(|number| format!("h{number}.example.org:{}", 2000 + number))
            .collect();
        format!(
            "network: {{solve: limited_web, allow: [{}]}}\n",
            hosts.join(", ")
        )
    };
    assert_eq!(with(&list(64)).task().network.allow.len(), 64);
    for count in [65, 129, 400] {
        let report = with(&list(count)).report();
        let expected = format!("network.allow: expected at most 64; {count} hosts");
        assert!(report.contains(&expected), "{report}");
    }
}

#[test]
fn variables_that_never_reach_a_command_as_written_are_refused() {
    let long = "x".repeat(100_000);
    for (text, said) in [
        ("env: {TASK_ID: mine}\n", "cannot be changed"),
        ("env: {DATAFORGE_MODE: test}\n", "cannot be changed"),
        (
            &format!("env: {{A: {long}, B: {long}, C: {long}}}\n"),
            "expected at most 262144",
        ),
    ] {
        let report = with(text).report();
        assert!(report.contains(said), "{report}");
    }
}

#[test]
fn artifacts_that_no_file_system_holds_are_refused() {
    for (path, said) in [
        ("a/".repeat(3000) + "b", "at most 4000 bytes"),
        ("a".repeat(256), "at most 255 bytes"),
    ] {
        let report = with(&format!("artifacts: [{path}]\n")).report();
        assert!(report.contains(said), "{report}");
    }
}
