//! What an unruly solve command tries against the verdict.

use forge_core::life_cycle::StateName;
use forge_core::{Deadline, Reason};

use crate::support::{Home, Script};

/// Double-forks into a session of its own, ignores SIGTERM, keeps standard output open, and writes
/// to the workspace for as long as it lives.
const DAEMON: &str = "(setsid sh -c 'trap \"\" TERM HUP INT; while :; do \
                      date +%s%N > /workspace/output/alive; done' &) ; ";

#[test]
fn nothing_of_a_solve_that_passed_its_deadline_is_alive() {
    let home = Home::new();
    let config = "resources: {timeout_seconds: 2}\n";
    let solve = format!("{DAEMON} trap '' TERM; while :; do sleep 1; done");
    let script = Script {
        solve: &solve,
        config,
        ..Script::default()
    };
    let (_, task) = home.run(&home.task("undead", script));
    assert_eq!(
        (task.state, task.deadline),
        (StateName::Timeout, Some(Deadline::Solve))
    );
    // PID 1 itself ended it: the orchestrator gives up on a sandbox 20 s later only.
    let took = task.phases[0].duration_ms;
    assert!((2000..20_000).contains(&took), "ended after {took} ms");
}

#[test]
fn nothing_of_the_solve_phase_is_alive_when_verify_starts() {
    let verify = "test $(ls -d /proc/[0-9]* | wc -l) -le 6 && a=$(cat output/alive) && sleep 1 && \
                  test \"$a\" = \"$(cat output/alive)\"";
    for container in ["fresh", "same"] {
        let home = Home::new();
        let solve = format!("{DAEMON} while [ ! -s output/alive ]; do :; done");
        let folder = home.task(
            "daemon",
            Script {
                solve: &solve,
                verify,
                ..Script::default()
            },
        );
        let file = folder.join(".swe-forge/task.json");
        let mut task: serde_json::Value =
            serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        task["verify"]["container"] = container.into();
        std::fs::write(&file, task.to_string()).unwrap();
        let (code, task) = home.run(&folder);
        assert_eq!(
            (code, task.state),
            (0, StateName::Completed),
            "{container}: {task:#?}"
        );
    }
}

#[test]
fn tests_are_hidden_until_verification_and_replaced_whole() {
    let home = Home::new();
    let solve = "test ! -e tests && mkdir tests && echo 'exit 0' > tests/run.sh && \
                 echo extra > tests/planted.sh";
    let verify = "test ! -e tests/planted.sh && sh tests/run.sh";
    let folder = home.task(
        "cheat",
        Script {
            solve,
            verify,
            ..Script::default()
        },
    );
    std::fs::create_dir(folder.join("tests")).unwrap();
    std::fs::write(folder.join("tests/run.sh"), "exit 9\n").unwrap();
    let (code, task) = home.run(&folder);
    assert_eq!((code, task.reason), (1, Some(Reason::TestsFailed)));
    assert!(task.message.contains("code 9"), "{}", task.message);
}

#[test]
fn tests_planted_as_a_link_are_replaced_and_the_link_is_not_followed() {
    let home = Home::new();
    let solve = "mkdir elsewhere && echo precious > elsewhere/file && ln -s elsewhere tests";
    let verify = "test -d tests && test ! -L tests && cat elsewhere/file";
    let folder = home.task(
        "link",
        Script {
            solve,
            verify,
            ..Script::default()
        },
    );
    std::fs::create_dir(folder.join("tests")).unwrap();
    std::fs::write(folder.join("tests/t"), "").unwrap();
    let (code, task) = home.run(&folder);
    assert_eq!(code, 0, "{task:#?}");
}

#[test]
fn the_specification_can_neither_be_written_nor_moved_away() {
    let home = Home::new();
    let solve = "test -s .swe-forge/task.json && \
                 ! (echo x > .swe-forge/task.json) 2>/dev/null && \
                 ! (echo x > .swe-forge/new) 2>/dev/null && \
                 ! mv .swe-forge moved 2>/dev/null && ! rm -rf .swe-forge 2>/dev/null && \
                 ! rm -f .swe-forge/task.json 2>/dev/null; test -s .swe-forge/task.json";
    let (code, task) = home.run(&home.task(
        "spec",
        Script {
            solve,
            ..Script::default()
        },
    ));
    assert_eq!(code, 0, "{task:#?}");
}

#[test]
fn the_sandbox_gives_nothing_to_hold_on_to() {
    let home = Home::new();
    let solve = "set -e; ! touch /etc/x 2>/dev/null; ! touch /x 2>/dev/null; touch /tmp/x; \
                 test $(id -u) -ge 200000; ! kill -9 1 2>/dev/null || kill -0 1; \
                 ! cat /.swe-forge/init > /dev/null 2>&1; \
                 ! rm -f /.swe-forge/channel/init.sock 2>/dev/null; \
                 ! cat /proc/1/environ > /dev/null 2>&1; ! ls /proc/1/fd > /dev/null 2>&1; \
                 test \"$(cat /proc/net/route | wc -l)\" -le 1; \
                 ! mount -t tmpfs none /mnt 2>/dev/null; ! unshare -r true 2>/dev/null; \
                 grep -q 'CapEff:.*0000000000000000' /proc/self/status; \
                 grep -q 'NoNewPrivs:.*1' /proc/self/status; test -z \"$SWE_FORGE_HOME\"";
    let (code, task) = home.run(&home.task(
        "hold",
        Script {
            solve,
            ..Script::default()
        },
    ));
    assert_eq!(code, 0, "{task:#?}");
}

#[test]
fn an_agent_cannot_turn_its_failure_into_an_accident_of_the_infrastructure() {
    for solve in [
        "chmod 000 /workspace",
        "chmod 555 /workspace",
        "mkdir tests && chmod 000 tests",
        "mkdir -p tests/a/b && chmod 000 tests/a",
    ] {
        let home = Home::new();
        let verify = "sh tests/run.sh";
        let folder = home.task(
            "closed",
            Script {
                solve,
                verify,
                ..Script::default()
            },
        );
        std::fs::create_dir(folder.join("tests")).unwrap();
        std::fs::write(folder.join("tests/run.sh"), "exit 7\n").unwrap();
        let (code, task) = home.run(&folder);
        assert_eq!(
            (code, task.reason),
            (1, Some(Reason::TestsFailed)),
            "{solve}: {task:#?}"
        );
    }
}

/// Tries, by system calls, what a program could do to the command that tests it and to PID 1.
const REACH: &str = r"
import ctypes, os, socket, sys
libc = ctypes.CDLL(None, use_errno=True)
PTRACE_ATTACH, PRIO_USER, RLIMIT_NOFILE = 16, 2, 7
limits = (ctypes.c_ulong * 2)(3, 3)
reached = []
if libc.ptrace(PTRACE_ATTACH, os.getppid(), 0, 0) == 0: reached.append('ptrace')
if libc.setpriority(PRIO_USER, 0, 19) == 0: reached.append('setpriority')
if libc.prlimit(1, RLIMIT_NOFILE, limits, 0) == 0: reached.append('prlimit')
if libc.sched_setaffinity(1, 8, (ctypes.c_ulong * 1)(1)) == 0: reached.append('affinity')
try:
    socket.socket(40, socket.SOCK_STREAM); reached.append('vsock')
except OSError:
    pass
if libc.syscall(425, 1, 0) >= 0 or ctypes.get_errno() != 1: reached.append('io_uring')
sys.exit(' '.join(reached) or 0)
";

#[test]
fn a_program_reaches_neither_the_command_that_tests_it_nor_pid_1() {
    let home = Home::new();
    let verify = format!("python3 -c \"{REACH}\" && kill -TERM 1 && exit 0");
    let (code, task) = home.run(&home.task(
        "reach",
        Script {
            verify: &verify,
            ..Script::default()
        },
    ));
    let log = home.log(&task, "verify");
    assert_eq!(code, 0, "{}", String::from_utf8_lossy(&log));
}
