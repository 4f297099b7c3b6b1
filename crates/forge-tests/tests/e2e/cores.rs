//! Cores of their own for what runs at once.

use crate::support::{Home, Script};

#[test]
fn a_sandbox_sees_as_many_cores_as_it_may_use() {
    let home = Home::new();
    let (code, task) = home.run(&home.task(
        "one-core",
        Script {
            solve: "nproc",
            verify: "test \"$(nproc)\" = 1",
            config: "resources: {cpu_cores: 1}",
            ..Script::default()
        },
    ));
    assert_eq!(code, 0, "{}", task.message);
    assert_eq!(home.log(&task, "solve"), b"1\n");
}

#[test]
fn an_operator_may_let_attempts_run_wherever_there_is_time() {
    let home = Home::new();
    home.configure("[hardening]\nown_cores = false\n");
    let task = home.task(
        "any-core",
        Script {
            solve: "nproc",
            config: "resources: {cpu_cores: 0.5}",
            ..Script::default()
        },
    );
    let (code, report) = home.run_all(&task, &["--agent", "command"]);
    let task = &report.tasks[0];
    assert_eq!(code, 0, "{}", task.message);
    // Not those of its machine: the engine may have been given a part of them.
    let cores = report.engine.cores;
    assert_eq!(home.log(task, "solve"), format!("{cores}\n").as_bytes());
}

#[test]
fn more_attempts_than_cores_run_wherever_there_is_time() {
    let home = Home::new();
    for number in 0..6 {
        let script = Script {
            solve: "nproc",
            config: "resources: {cpu_cores: 1}",
            ..Script::default()
        };
        home.task(&format!("many-{number}"), script);
    }
    let words = ["--agent", "command", "--jobs", "6"];
    let (code, report) = home.run_all(&home.path("tasks"), &words);
    assert_eq!(code, 0);
    assert_eq!(report.tasks.len(), 6);
}
