//! Output of every kind: kept exactly, shown harmlessly.

use crate::support::{Home, Script};

#[test]
fn odd_bytes_are_kept_exactly_and_shown_escaped() {
    let home = Home::new();
    let solve = r"printf 'a\377\000\033[31mred\033]0;title\007\n'; printf 'err\n' >&2";
    let (code, task) = home.run(&home.task(
        "odd",
        Script {
            solve,
            ..Script::default()
        },
    ));
    assert_eq!(code, 0, "{}", task.message);
    let log = home.log(&task, "solve");
    assert!(
        log.starts_with(b"a\xff\x00\x1b[31mred\x1b]0;title\x07\n"),
        "{log:?}"
    );
    let shown = home.output(&["show", &task.id]);
    assert!(shown.status.success());
    assert!(!shown.stdout.contains(&0x1b) && !shown.stdout.contains(&7));
    let raw = home.output(&["logs", &task.id, "--phase", "solve"]);
    assert_eq!(raw.stdout, log, "a pipe gets the bytes as they are");
}

#[test]
fn two_hundred_megabytes_arrive_whole() {
    let home = Home::new();
    let solve = "head -c 200000000 /dev/zero | tr '\\0' 'x'";
    let (code, task) = home.run(&home.task(
        "big",
        Script {
            solve,
            ..Script::default()
        },
    ));
    assert_eq!(code, 0, "{}", task.message);
    assert_eq!(task.phases[0].output_bytes, 200_000_000);
    assert!(!task.phases[0].truncated);
    assert!(home.log(&task, "solve").iter().all(|byte| *byte == b'x'));
}

#[test]
fn a_line_of_twenty_megabytes_does_not_hurt() {
    let home = Home::new();
    let verify = "head -c 20000000 /dev/zero | tr '\\0' 'y'; exit 1";
    let folder = home.task(
        "line",
        Script {
            verify,
            ..Script::default()
        },
    );
    let words = ["run", folder.to_str().unwrap(), "--agent", "nop"];
    let output = home.output(&words);
    assert_eq!(output.status.code(), Some(1));
    let shown = output.stdout.len() + output.stderr.len();
    assert!(shown < 100_000, "{shown} bytes were shown");
}

#[test]
fn artifacts_with_odd_names_are_kept_and_links_are_not_followed() {
    let home = Home::new();
    let solve = "cd output && printf one > 'new\nline' && printf two > \"$(printf '\\377')\" && \
                 ln -s /etc/passwd link && mkfifo pipe && mkdir -p d/e && printf 3 > d/e/f";
    let (code, task) = home.run(&home.task(
        "names",
        Script {
            solve,
            ..Script::default()
        },
    ));
    assert_eq!(code, 0, "{}", task.message);
    let mut paths: Vec<&str> = task
        .artifacts
        .iter()
        .map(|each| each.path.as_str())
        .collect();
    paths.sort_unstable();
    assert_eq!(paths, ["output/\\xff", "output/d/e/f", "output/new\\nline"]);
    assert!(
        task.notes.iter().any(|note| note.contains("link")),
        "{:?}",
        task.notes
    );
    let target = home.path("copied");
    let words = ["artifacts", &task.id, "--to", target.to_str().unwrap()];
    assert!(home.output(&words).status.success());
    assert_eq!(
        std::fs::read(target.join("output/new\nline")).unwrap(),
        b"one"
    );
}
