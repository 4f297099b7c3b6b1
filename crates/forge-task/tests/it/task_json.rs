//! `.swe-forge/task.json`, rule by rule.

use forge_core::task::VerifyContainer;
use forge_core::{CommandLine, Difficulty, ImageChoice, Language};

use crate::{Fixture, task_with};

#[test]
fn a_full_file_becomes_a_task() {
    let text = r#"{
  "$schema": "https://example.org/task.schema.json",
  "id": "py-1", "title": "Täst", "instruction": "Line\nline",
  "difficulty": "hard", "image": "registry.example.org:5000/team/image:1.2@sha256:abababababababababababababababababababababababababababababababab",
  "setup": {"command": "pip install ."}, "solve": {"argv": ["python3", "solve.py", ""]},
  "verify": {"argv": ["pytest"], "container": "same"}, "tags": ["a", "b"]
}"#;
    let task = Fixture::new().task_json(text).task();
    assert_eq!(task.id.as_str(), "py-1");
    assert_eq!(task.title, "Täst");
    assert_eq!(task.difficulty, Difficulty::Hard);
    assert_eq!(
        task.image,
        ImageChoice::Reference("registry.example.org:5000/team/image:1.2@sha256:abababababababababababababababababababababababababababababababab".into())
    );
    assert_eq!(task.setup, Some(CommandLine::Shell("pip install .".into())));
    assert_eq!(
        task.solve,
        Some(CommandLine::Argv(vec![
            "python3".into(),
            "solve.py".into(),
            String::new()
        ]))
    );
    assert_eq!(task.verify, CommandLine::Argv(vec!["pytest".into()]));
    assert_eq!(task.verify_container, VerifyContainer::Same);
    assert_eq!(task.tags, ["a", "b"]);
    assert_eq!(task.specification.len(), 1);
    assert_eq!(task.specification[0].name, "task.json");
    assert_eq!(task.specification[0].contents, text.as_bytes());
}

#[test]
fn what_is_left_out_has_a_default() {
    let task = Fixture::new().task();
    assert_eq!(task.image, ImageChoice::Language(Language::Python));
    assert_eq!(task.limits, Difficulty::Easy.limits());
    assert_eq!(task.verify_container, VerifyContainer::Fresh);
    assert_eq!((task.setup, task.solve, task.user), (None, None, None));
    assert!(!task.tests_visible && task.tags.is_empty() && task.env.is_empty());
    assert_eq!((task.src, task.tests, task.solution), (None, None, None));
}

#[test]
fn an_id_need_not_be_the_name_of_its_directory() {
    assert_eq!(Fixture::new().task().id.as_str(), "t1");
}

/// A line of the file, by its key or added, and what is said about it.
const MISTAKES: &[(&str, &str, &str)] = &[
    (
        "id",
        r#"  "id": "","#,
        "2:9: id: expected letters, digits, '.', '_' and '-', beginning with a letter or digit, at most 80; found \"\": it is empty",
    ),
    (
        "id",
        r#"  "id": "../x","#,
        "2:9: id: expected letters, digits, '.', '_' and '-', beginning with a letter or digit, at most 80; found \"../x\": it holds '.' at byte 0",
    ),
    (
        "id",
        r#"  "id": "a\u001b[2J","#,
        "2:9: id: expected letters, digits, '.', '_' and '-', beginning with a letter or digit, at most 80; found \"a\\u{1b}[2J\": it holds '\\u{1b}' at byte 1",
    ),
    (
        "id",
        r#"  "id": 7,"#,
        "2:9: id: expected text; found 7\n  hint: put it in quotes",
    ),
    (
        "title",
        r#"  "title": " ","#,
        "3:12: title: expected some text; found \" \"",
    ),
    (
        "title",
        r#"  "title": "a\nb","#,
        "3:12: title: expected one line without control characters; it holds '\\n'",
    ),
    (
        "title",
        r#"  "title": "a\u0007","#,
        "3:12: title: expected one line without control characters; it holds '\\u{7}'",
    ),
    (
        "title",
        r#"  "title": null,"#,
        "3:12: title: expected text; found nothing",
    ),
    (
        "instruction",
        r#"  "instruction": "a\u0000b","#,
        "4:18: instruction: it holds a NUL character\n  hint: remove it",
    ),
    (
        "instruction",
        r#"  "instruction": ["a"],"#,
        "4:18: instruction: expected text; found a list",
    ),
    (
        "difficulty",
        r#"  "difficulty": "hrad","#,
        "5:17: difficulty: expected one of easy, medium, hard, expert, nightmare; found \"hrad\"\n  hint: did you mean \"hard\"?",
    ),
    (
        "difficulty",
        r#"  "difficulty": "Hard","#,
        "5:17: difficulty: expected one of easy, medium, hard, expert, nightmare; found \"Hard\"\n  hint: did you mean \"hard\"?",
    ),
    (
        "difficulty",
        r#"  "difficulty": 3,"#,
        "5:17: difficulty: expected one of easy, medium, hard, expert, nightmare; found 3",
    ),
    (
        "language",
        r#"  "language": "javscript","#,
        "6:15: language: expected one of python, javascript, rust, go, c, cpp, shell, multi; found \"javscript\"\n  hint: did you mean \"javascript\"?",
    ),
    (
        "language",
        r#"  "image": "a b","#,
        "6:12: image: expected an image reference like \"python:3.11-slim\"; found \"a b\"",
    ),
    (
        "language",
        r#"  "image": "-v","#,
        "6:12: image: expected an image reference like \"python:3.11-slim\"; found \"-v\"",
    ),
    (
        "language",
        r#"  "image": "https://example.org/x","#,
        "6:12: image: expected an image reference like \"python:3.11-slim\"; found \"https://example.org/x\"\n  hint: an image reference has no scheme; remove it",
    ),
    (
        "image",
        r#"  "image": "python","#,
        "7:15: language: expected either image or language; found both\n  hint: remove one of them",
    ),
    (
        "language",
        "",
        "1:1: language: expected either image or language; found neither\n  hint: add \"language\": \"python\", or the image of your own that it runs in",
    ),
    (
        "title",
        "",
        "1:1: title: this field is required\n  hint: say in one line what the task is about",
    ),
    (
        "setup",
        r#"  "setup": "make","#,
        "2:12: setup: expected an object with command or argv; found \"make\"\n  hint: write {\"command\": \"make\"}",
    ),
    (
        "setup",
        r#"  "setup": ["make"],"#,
        "2:12: setup: expected an object with command or argv; found a list\n  hint: write {\"argv\": […]}",
    ),
    (
        "setup",
        r#"  "setup": {},"#,
        "2:12: setup: expected either command or argv; found neither\n  hint: add \"command\": \"sh tests/run.sh\"",
    ),
    (
        "setup",
        r#"  "setup": {"command": "a", "argv": ["a"]},"#,
        "2:37: setup.argv: expected either command or argv; found both\n  hint: remove one of them",
    ),
    (
        "setup",
        r#"  "setup": {"comand": "a", "command": "a"},"#,
        "2:13: setup.comand: unknown field \"comand\"\n  hint: did you mean \"command\"?",
    ),
    (
        "setup",
        r#"  "setup": {"command": " \n"},"#,
        "2:24: setup.command: expected something to run; found \" \\n\"",
    ),
    (
        "setup",
        r#"  "setup": {"command": "a\u0000"},"#,
        "2:24: setup.command: it holds a NUL character\n  hint: no program can be given one; remove it",
    ),
    (
        "setup",
        r#"  "setup": {"argv": []},"#,
        "2:21: setup.argv: expected a program to run; found an empty list",
    ),
    (
        "setup",
        r#"  "setup": {"argv": ["", "x"]},"#,
        "2:22: setup.argv[0]: expected something to run; found \"\"",
    ),
    (
        "setup",
        r#"  "setup": {"argv": ["x", 1]},"#,
        "2:27: setup.argv[1]: expected text; found 1\n  hint: put it in quotes",
    ),
    (
        "setup",
        r#"  "setup": {"argv": "x"},"#,
        "2:21: setup.argv: expected a list; found \"x\"\n  hint: write [\"x\"]",
    ),
    (
        "setup",
        r#"  "setup": {"command": "x", "container": "same"},"#,
        "2:29: setup.container: unknown field \"container\"\n  hint: the fields here are command, argv",
    ),
    (
        "verify",
        r#"  "verify": {"command": "x", "container": "frsh"}"#,
        "7:43: verify.container: expected one of fresh, same; found \"frsh\"\n  hint: did you mean \"fresh\"?",
    ),
    (
        "tags",
        r#"  "tags": ["a", "a"],"#,
        "2:17: tags[1]: the tag \"a\" is repeated\n  hint: remove one of them",
    ),
    (
        "tags",
        r#"  "tags": ["a", ""],"#,
        "2:17: tags[1]: expected some text; found \"\"",
    ),
    (
        "tags",
        r#"  "tags": "a","#,
        "2:11: tags: expected a list; found \"a\"\n  hint: write [\"a\"]",
    ),
    (
        "dificulty",
        r#"  "dificulty": "easy","#,
        "2:3: dificulty: unknown field \"dificulty\"\n  hint: did you mean \"difficulty\"?",
    ),
    (
        "wholly",
        r#"  "wholly new": 1,"#,
        "2:3: [\"wholly new\"]: unknown field \"wholly new\"\n  hint: the fields here are $schema, id, title, instruction, difficulty, image, language, setup, solve, verify, tags",
    ),
    (
        "$schema",
        r#"  "$schema": 1,"#,
        "2:14: $schema: expected text; found 1\n  hint: put it in quotes",
    ),
];

#[test]
fn each_mistake_has_one_diagnostic() {
    for (key, line, expected) in MISTAKES {
        let report = Fixture::new().task_json(task_with(key, line)).report();
        assert_eq!(report, format!(".swe-forge/task.json:{expected}"), "{line}");
    }
}

#[test]
fn texts_have_a_largest_length() {
    let title = format!("  \"title\": \"{}\",", "ä".repeat(201));
    let command = format!("  \"setup\": {{\"command\": \"{}\"}},", "x".repeat(131_072));
    for (key, line, expected) in [
        (
            "title",
            title,
            "3:12: title: expected at most 200 characters; it has 201",
        ),
        (
            "setup",
            command,
            "2:24: setup.command: expected at most 131071 bytes; it has 131072\n  hint: put it into a file below src/ or tests/",
        ),
    ] {
        let report = Fixture::new().task_json(task_with(key, &line)).report();
        assert_eq!(report, format!(".swe-forge/task.json:{expected}"));
    }
}

#[test]
fn a_repeated_key_is_refused_where_it_stands_again() {
    let text = task_with("title", "  \"title\": \"b\",\"title\": \"a\",");
    assert_eq!(
        Fixture::new().task_json(text).report(),
        ".swe-forge/task.json:3:16: title: the key \"title\" is repeated\n  hint: remove one of them"
    );
}

#[test]
fn a_document_that_is_no_object_is_refused() {
    for (text, found) in [
        ("[]", "a list"),
        ("\"x\"", "\"x\""),
        ("null", "nothing"),
        ("1", "1"),
    ] {
        let report = Fixture::new().task_json(text).report();
        let start = format!(".swe-forge/task.json:1:1: expected an object; found {found}");
        assert!(report.starts_with(&start), "{report}");
    }
}

#[test]
fn all_mistakes_of_a_file_are_said_at_once() {
    let text = "{\r\n  \"id\": \"a b\",\r\n  \"titel\": \"x\",\r\n  \"difficulty\": \"esay\",\r\n  \"verify\": {\"command\": 1, \"container\": true},\r\n  \"tags\": [1, \"ok\", null],\r\n  \"id\": \"c\"\r\n}\r\n";
    assert_eq!(
        Fixture::new().task_json(text).report(),
        r#".swe-forge/task.json:1:1: title: this field is required
  hint: say in one line what the task is about
.swe-forge/task.json:1:1: instruction: this field is required
  hint: say what an agent is asked to do
.swe-forge/task.json:1:1: language: expected either image or language; found neither
  hint: add "language": "python", or the image of your own that it runs in
.swe-forge/task.json:2:9: id: expected letters, digits, '.', '_' and '-', beginning with a letter or digit, at most 80; found "a b": it holds ' ' at byte 1
.swe-forge/task.json:3:3: titel: unknown field "titel"
  hint: did you mean "title"?
.swe-forge/task.json:4:17: difficulty: expected one of easy, medium, hard, expert, nightmare; found "esay"
  hint: did you mean "easy"?
.swe-forge/task.json:5:25: verify.command: expected text; found 1
  hint: put it in quotes
.swe-forge/task.json:5:41: verify.container: expected one of fresh, same; found true
.swe-forge/task.json:6:12: tags[0]: expected text; found 1
  hint: put it in quotes
.swe-forge/task.json:6:21: tags[2]: expected text; found nothing
.swe-forge/task.json:7:3: id: the key "id" is repeated
  hint: remove one of them"#
    );
}

#[test]
fn an_image_that_no_engine_can_find_is_refused_with_the_reason() {
    for (image, reason) in [
        ("Python:3.11", "capital letters"),
        ("registry.example.org/Team/image", "capital letters"),
        ("python@sha256:abc", "64 hexadecimal digits"),
        (&format!("python:{}", "t".repeat(129)), "at most 128"),
        ("https://example.org/image", "no scheme"),
    ] {
        let json = task_with("language", &format!("  \"image\": \"{image}\","));
        let report = Fixture::new().task_json(json).report();
        assert!(report.contains(reason), "{image}: {report}");
    }
    for image in [
        "Registry.Example.org/image:TAG",
        "localhost:5000/a/b",
        "sha256:abc",
    ] {
        let json = task_with("language", &format!("  \"image\": \"{image}\","));
        Fixture::new().task_json(json).task();
    }
}

#[test]
fn arguments_that_fit_no_message_to_a_sandbox_are_refused() {
    let argument = "x".repeat(100_000);
    let json = task_with(
        "verify",
        &format!(
            "  \"verify\": {{\"argv\": [\"a\", \"{argument}\", \"{argument}\", \"{argument}\"]}}"
        ),
    );
    let report = Fixture::new().task_json(json).report();
    assert!(report.contains("at most 262144"), "{report}");
}
