//! What code under test tries against the tests that are still to run.

use std::fs;
use std::path::{Path, PathBuf};

use forge_core::Reason;

use crate::support::{Home, Script};

/// Every way to change a file that is still to run, or to put another in its place. Each prints what
/// became of it; the code of the tests is decided by a file that they try to change.
const ATTACK: &str = r#"
import ctypes, errno, os
libc = ctypes.CDLL(None, use_errno=True)
T, F = '/workspace/tests', '/workspace/tests/later.sh'
def call(name, action):
    try:
        action()
        print('ATTACK', name, 'DONE')
    except OSError as error:
        print('ATTACK', name, errno.errorcode.get(error.errno, error.errno))
def system(function, *words):
    if function(*words) < 0:
        raise OSError(ctypes.get_errno(), 'refused')
def mount(source, kind, flags):
    system(libc.mount, source, T.encode(), kind, flags, None)
def write(path):
    with open(path, 'w') as file: file.write('exit 0\n')
own = '/workspace/own.sh'
write(own)
call('open', lambda: write(F))
call('append', lambda: os.close(os.open(F, os.O_WRONLY | os.O_APPEND)))
call('truncate', lambda: os.truncate(F, 0))
fd = os.open(F, os.O_RDONLY)
call('reopen', lambda: write(f'/proc/self/fd/{fd}'))
call('root', lambda: write('/proc/self/root/workspace/tests/later.sh'))
call('create', lambda: write(T + '/conftest.py'))
call('mkdir', lambda: os.mkdir(T + '/__pycache__'))
call('unlink', lambda: os.unlink(F))
call('rename', lambda: os.rename(F, T + '/x'))
call('rename_out', lambda: os.rename(F, '/workspace/x'))
call('rename_in', lambda: os.rename(own, F))
call('rename_parent', lambda: os.rename(T, '/workspace/moved'))
call('rmdir_parent', lambda: os.rmdir(T))
call('exchange', lambda: system(libc.renameat2, -100, T.encode(), -100, b'/workspace/src', 2))
call('exchange_file', lambda: system(libc.renameat2, -100, F.encode(), -100, own.encode(), 2))
call('rename_workspace', lambda: os.rename('/workspace', '/tmp/workspace'))
call('link_out', lambda: os.link(F, '/workspace/linked'))
call('link_in', lambda: os.link(own, T + '/linked'))
call('symlink', lambda: os.symlink(own, T + '/link'))
call('chmod', lambda: os.chmod(F, 0o777))
call('chmod_parent', lambda: os.chmod(T, 0o000))
call('fchmod', lambda: os.fchmod(fd, 0o777))
call('chown', lambda: os.chown(F, os.getuid(), os.getgid()))
call('utime', lambda: os.utime(F, (1, 1)))
call('setxattr', lambda: os.setxattr(F, 'user.x', b'1'))
call('mmap', lambda: os.close(os.open(F, os.O_RDWR)))
call('unnamed', lambda: os.close(os.open(T, os.O_TMPFILE | os.O_WRONLY)))
call('remount', lambda: mount(b'none', None, 32 | 4096))
call('remount_plain', lambda: mount(b'none', None, 32))
call('bind', lambda: mount(b'/workspace/src', None, 4096))
call('tmpfs', lambda: mount(b'none', b'tmpfs', 0))
call('unmount', lambda: system(libc.umount2, T.encode(), 2))
call('unshare', lambda: system(libc.unshare, 0x10000000 | 0x20000))
call('mount_setattr', lambda: system(libc.syscall, 442, -100, T.encode(), 0, None, 0))
call('open_tree', lambda: system(libc.syscall, 428, -100, T.encode(), 1))
call('chroot', lambda: os.chroot('/workspace/src'))
print('ATTACK over')
"#;

/// Writes a task whose tests run the agent's `src/attack.py` first and then `tests/later.sh`.
fn attacked(home: &Home, id: &str, container: &str) -> PathBuf {
    let folder = task(home, id, container, "true");
    fs::write(folder.join("src/attack.py"), ATTACK).unwrap();
    let run = "python3 src/attack.py\nsh tests/later.sh\n";
    fs::write(folder.join("tests/run.sh"), run).unwrap();
    fs::write(folder.join("tests/later.sh"), "exit 3\n").unwrap();
    folder
}

/// A task with a folder of tests.
fn task(home: &Home, id: &str, container: &str, solve: &str) -> PathBuf {
    let script = Script {
        solve,
        verify: "sh tests/run.sh",
        ..Script::default()
    };
    let folder = home.task(id, script);
    change(&folder, |task| {
        task["verify"]["container"] = container.into();
    });
    fs::create_dir(folder.join("tests")).unwrap();
    folder
}

fn change(folder: &Path, change: impl FnOnce(&mut serde_json::Value)) {
    let file = folder.join(".swe-forge/task.json");
    let mut task: serde_json::Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    change(&mut task);
    fs::write(&file, task.to_string()).unwrap();
}

#[test]
fn code_under_test_changes_nothing_of_the_tests_that_are_still_to_run() {
    for container in ["fresh", "same"] {
        let home = Home::new();
        let (code, task) = home.run(&attacked(&home, "attacked", container));
        assert_eq!(
            (code, task.reason),
            (1, Some(Reason::TestsFailed)),
            "{task:#?}"
        );
        assert!(task.message.contains("code 3"), "{}", task.message);
        let log = String::from_utf8(home.log(&task, "verify")).unwrap();
        let found: Vec<(&str, &str)> = log
            .lines()
            .filter_map(|line| line.strip_prefix("ATTACK ")?.split_once(' '))
            .collect();
        assert_eq!(found.len(), ATTACK.matches("\ncall(").count(), "{log}");
        for (name, became) in &found {
            let expected: &[&str] = match *name {
                "rename_out" | "rename_in" | "exchange_file" | "link_out" | "link_in" => {
                    &["EXDEV", "EROFS"]
                }
                "rename_parent" | "rmdir_parent" | "exchange" => &["EBUSY"],
                "rename_workspace" => &["EBUSY", "EXDEV", "EROFS"],
                "remount" | "remount_plain" | "bind" | "tmpfs" | "unmount" | "unshare"
                | "chroot" | "mount_setattr" | "open_tree" => &["EPERM", "ENOSYS"],
                _ => &["EROFS"],
            };
            assert!(expected.contains(became), "{name}: {became}\n{log}");
        }
        let attested = task.attestation.unwrap();
        assert!(attested.read_only_root, "{attested:?}");
        home.assert_nothing_left();
    }
}

/// What stands at `tests` when solve or setup is over, each a program for the shell.
const LEFT: [&str; 9] = [
    "mkdir tests && echo exit 0 > tests/run.sh && chmod -R 500 tests",
    "mkdir -p tests/a/b && chmod 000 tests",
    "echo exit 0 > tests",
    "mkdir src/mine && echo exit 0 > src/mine/run.sh && ln -s src/mine tests",
    "ln -s /tmp tests",
    "ln -s /workspace tests",
    "ln -s nowhere tests",
    "ln -s tests tests",
    "mkfifo tests",
];

#[test]
fn what_was_left_in_the_place_of_the_tests_does_not_matter() {
    let home = Home::new();
    for (number, left) in LEFT.iter().enumerate() {
        let fresh = task(&home, &format!("solve-{number}"), "fresh", left);
        let setup = task(&home, &format!("setup-{number}"), "same", "true");
        change(&setup, |task| {
            task["setup"] = serde_json::json!({"command": left})
        });
        for folder in [fresh, setup] {
            fs::write(folder.join("tests/run.sh"), "test ! -e tests/a && exit 7\n").unwrap();
        }
    }
    let (code, report) = home.run_all(&home.path("tasks"), &["--agent", "command"]);
    assert_eq!((code, report.tasks.len()), (1, 2 * LEFT.len()));
    for task in &report.tasks {
        assert_eq!(task.reason, Some(Reason::TestsFailed), "{task:#?}");
        assert!(task.message.contains("code 7"), "{task:#?}");
    }
    home.assert_nothing_left();
}

#[test]
fn hidden_tests_are_not_seen_in_solve_and_visible_ones_are_whole() {
    for (container, visible) in [("fresh", true), ("same", true), ("same", false)] {
        let home = Home::new();
        let solve = if visible {
            "grep -q 5 tests/run.sh"
        } else {
            "test ! -e tests/run.sh && test -z \"$(ls -A tests)\" && ! touch tests/x"
        };
        let folder = task(&home, "seen", container, solve);
        let config = format!("tests_visible: {visible}\n");
        fs::write(folder.join(".swe-forge/config.yaml"), config).unwrap();
        fs::write(folder.join("tests/run.sh"), "exit 5\n").unwrap();
        let (_, task) = home.run(&folder);
        assert_eq!(task.reason, Some(Reason::TestsFailed), "{task:#?}");
        assert!(task.message.contains("code 5"), "{task:#?}");
    }
}

#[test]
fn a_workspace_that_is_full_at_hand_over_is_the_agent_s_doing() {
    for fill in [
        "head -c 100m /dev/zero > full 2>/dev/null; head -c 1m /dev/zero >> full",
        "i=0; while : > f$i; do i=$((i + 1)); done",
    ] {
        let home = Home::new();
        let solve = format!("({fill}) 2>/dev/null; exit 0");
        let folder = task(&home, "full", "fresh", &solve);
        fs::write(folder.join("tests/run.sh"), "exit 7\n").unwrap();
        let config = "resources: {disk_gb: 0.05}\n";
        fs::write(folder.join(".swe-forge/config.yaml"), config).unwrap();
        let (_, task) = home.run(&folder);
        // Where the folder for the tests still fits, verify runs and decides.
        let reason = task.reason.unwrap();
        assert!(
            [Reason::DiskFull, Reason::TestsFailed].contains(&reason),
            "{task:#?}"
        );
        assert_eq!(task.cause, Some(forge_core::Cause::Task), "{task:#?}");
        home.assert_nothing_left();
    }
}

#[test]
fn an_agent_that_fills_its_workspace_gets_a_verdict_of_its_own_doing() {
    let home = Home::new();
    let solve = "cat /dev/zero > full; i=0; while : > f$i; do i=$((i + 1)); done; true";
    let folder = task(&home, "full", "fresh", solve);
    fs::write(folder.join("tests/run.sh"), "exit 7\n").unwrap();
    let config = "resources: {disk_gb: 0.0625}\n";
    fs::write(folder.join(".swe-forge/config.yaml"), config).unwrap();
    let (_, task) = home.run(&folder);
    let reason = task.reason.unwrap();
    assert!(
        [
            Reason::TestsFailed,
            Reason::WorkspaceUnusable,
            Reason::DiskFull
        ]
        .contains(&reason),
        "{task:#?}"
    );
    home.assert_nothing_left();
}
