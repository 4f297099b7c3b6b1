//! `check`: good and bad task folders.

use crate::{Home, run};

#[test]
fn good_tasks_are_listed() {
    let home = Home::new();
    home.good_task("one");
    home.good_task("two");
    let ended = run(home.swe_forge(&["check", "tasks"])).expect(0, &["2 tasks fine"]);
    assert!(ended.stdout.contains("one   easy"), "{}", ended.stdout);
    assert!(!ended.stdout.contains('\x1b'), "colours in a pipe");
}

#[test]
fn mistakes_are_told_with_file_line_and_field_and_good_tasks_are_still_listed() {
    let home = Home::new();
    home.good_task("one");
    home.task(
        "tasks/bad",
        "{\n  \"id\": \"bad\",\n  \"difficulty\": \"brutal\"\n}",
    );
    let ended = run(home.swe_forge(&["check", "tasks"]));
    let ended = ended.expect(
        2,
        &[
            "tasks/bad/.swe-forge/task.json:3:",
            "difficulty",
            "1 task fine",
        ],
    );
    assert!(ended.stdout.contains("one"), "{}", ended.stdout);
}

#[test]
fn what_a_task_says_reaches_no_terminal_raw() {
    let home = Home::new();
    let specification = "{\"id\": \"x\", \"ti\\u001b[2Jtle\": \"\\u202eevil\"}";
    home.task("bad", specification);
    for format in ["human", "json"] {
        let ended = run(home.swe_forge(&["check", "bad", "--format", format])).expect(2, &[]);
        for text in [&ended.stdout, &ended.stderr] {
            assert!(!text.contains(['\x1b', '\u{202e}']), "{text:?}");
        }
    }
}

#[test]
fn json_shows_no_character_that_moves_a_cursor_or_hides_text() {
    let home = Home::new();
    for name in ["\u{9b}dir", "\u{202e}rid", "d\u{feff}ir"] {
        let ended = run(home.swe_forge(&["check", name, "--format", "json"])).expect(2, &[]);
        assert!(!ended.stdout.contains(name), "{:?}", ended.stdout);
        ended.json();
    }
    // The document says the same as before: the character, written as its number.
    std::fs::create_dir(home.path().join("\u{202e}")).unwrap();
    home.task("\u{202e}/task", "[]");
    let ended = run(home.swe_forge(&["check", "\u{202e}", "--format", "json"])).expect(2, &[]);
    assert!(ended.stdout.contains("\\u202e"), "{}", ended.stdout);
    let file = ended.json()["errors"][0]["file"].clone();
    assert!(file.as_str().unwrap().contains('\u{202e}'), "{file}");
}

#[test]
fn json_is_one_document_with_tasks_and_errors() {
    let home = Home::new();
    home.good_task("one");
    home.task("tasks/bad", "[]");
    let ended = run(home.swe_forge(&["check", "tasks", "--format", "json"])).expect(2, &[]);
    let document = ended.json();
    assert_eq!(document["tasks"][0]["id"], "one");
    assert_eq!(document["tasks"][0]["network"]["solve"], "isolated");
    assert!(
        document["errors"][0]["file"]
            .as_str()
            .unwrap()
            .ends_with("task.json")
    );
}
