//! Files that are meant to do harm, and files that mean nothing.

use std::path::PathBuf;

use forge_task::{Diagnostic, MAX_DIAGNOSTICS, TaskErrors};
use proptest::prelude::*;

use crate::{Fixture, TASK};

const FILES: [&str; 3] = ["task.json", "tools.json", "config.yaml"];

#[test]
fn every_file_must_be_utf_8_without_a_mark() {
    for name in FILES {
        for (contents, expected) in [
            (
                &b"{\n \"\xff\": 1}"[..],
                "2:3: expected UTF-8; found the byte 0xff\n  hint: save the file as UTF-8",
            ),
            (
                b"\xff\xfe{\0}\0",
                "1:1: expected UTF-8; found the byte 0xff\n  hint: save the file as UTF-8",
            ),
            (
                b"\xef\xbb\xbf{}",
                "1:1: expected UTF-8 without a byte order mark; it begins with a byte order mark\n  hint: save the file as \"UTF-8\", not as \"UTF-8 with BOM\"",
            ),
        ] {
            let report = Fixture::new()
                .write(&format!(".swe-forge/{name}"), contents)
                .report();
            assert_eq!(report, format!(".swe-forge/{name}:{expected}"));
        }
    }
}

#[test]
fn nul_bytes_hide_nothing() {
    for name in FILES {
        let fixture = Fixture::new().write(&format!(".swe-forge/{name}"), "{}\0 garbage");
        assert!(
            fixture.report().contains(&format!("{name}:1:3: ")),
            "{}",
            fixture.report()
        );
    }
}

#[test]
fn deep_nesting_reaches_a_limit_before_the_stack() {
    for open in ["[", "{\"a\":", "- ", "{a: ", "[{\"a\":["] {
        for name in FILES {
            let text = open.repeat(1_000_000 / open.len());
            let report = Fixture::new()
                .write(&format!(".swe-forge/{name}"), text)
                .report();
            let refused = report.contains("64 levels") || report.contains("expected a");
            assert!(refused, "{name} {open}: {report}");
        }
    }
}

#[test]
fn a_file_of_mistakes_stays_readable() {
    let unknown: String = (0..50_000)
        .map(|index| format!("\"k{index}\": 1,\n"))
        .collect();
    let fixture = Fixture::new().task_json(format!("{{{unknown} \"id\": \"x\"}}"));
    let errors = fixture.load().unwrap_err();
    assert_eq!(errors.len(), MAX_DIAGNOSTICS + 1);
    assert_eq!(
        errors.last().unwrap().message,
        "only the first 100 mistakes are shown"
    );
}

/// Shapes that make a careless reader take time or memory out of proportion.
fn shapes() -> Vec<(&'static str, String)> {
    const SIZE: usize = 1024 * 1024;
    let fill = |unit: &str| unit.repeat(SIZE / unit.len() - 1);
    let aliases = format!("a: &a [x]\nb: [{}*a]", fill("*a, ").split_at(SIZE - 64).0);
    let long_key = format!(
        "{{\"{}\": [{}1]}}",
        "k".repeat(SIZE / 2),
        "1,".repeat(SIZE / 4 - 8)
    );
    let references = format!(
        "{{\"tools\": [{{\"name\": \"a\", \"description\": \"b\", \"parameters\": {{\"properties\": {{{}}}}}, \"argv\": [\"x\", {}\"\"]}}]}}",
        (0..40_000)
            .map(|index| format!("\"a{index}\":{{}}"))
            .collect::<Vec<_>>()
            .join(","),
        "\"{q}{a7}\",".repeat(30_000),
    );
    let repeated = format!(
        "{{{}\"a\":1}}",
        fill("\"a\":1,").split_at(SIZE / 6 * 6 - 24).0
    );
    vec![
        ("commas", fill(",")),
        ("spaces", fill(" ")),
        ("quotes", fill("\"")),
        (
            "escapes",
            format!("\"{}\"", fill("\\u0041").split_at(SIZE / 6 * 6 - 24).0),
        ),
        (
            "empty lists",
            format!("[{}[]]", fill("[],").split_at(SIZE / 3 * 3 - 24).0),
        ),
        ("digits", fill("9")),
        ("colons", fill(": ")),
        ("question marks", fill("? ")),
        ("dashes", fill("-\n")),
        (
            "keys",
            (0..80_000).map(|index| format!("k{index}: x\n")).collect(),
        ),
        ("one key", format!("{}: x", fill("k"))),
        ("comments", fill("#\n")),
        ("bars", fill("|\n")),
        ("anchors", fill("&a ")),
        ("aliases", aliases),
        ("tags", fill("!!a ")),
        ("documents", fill("---\n")),
        ("ampersands", fill("&")),
        ("flow in flow", fill("[{a: b}, ")),
        ("carriage returns", fill("\r")),
        ("words", fill("a ")),
        (
            "indents",
            (0..1400)
                .map(|depth| format!("{}a:\n", " ".repeat(depth)))
                .collect(),
        ),
        ("long key", long_key),
        ("references", references),
        ("repeated", repeated),
    ]
}

#[test]
fn a_mebibyte_of_anything_is_read_quickly() {
    for (label, text) in shapes() {
        for name in FILES {
            let fixture = Fixture::new().write(&format!(".swe-forge/{name}"), &text);
            // What takes more than its size in time would be read for hours.
            let result = fixture.load();
            let broken = result.is_err() || name == "config.yaml";
            assert!(broken, "{name} {label} was taken");
        }
    }
}

#[test]
fn text_of_a_stranger_cannot_move_the_cursor() {
    let diagnostic = Diagnostic {
        file: PathBuf::from("a\u{1b}[2J/\u{202e}b"),
        line: Some(1),
        column: Some(2),
        field: Some("x\ny".to_owned()),
        message: "m\u{7}".to_owned(),
        expected: None,
        hint: Some("h\r".to_owned()),
    };
    assert_eq!(
        diagnostic.to_string(),
        "a\\u{1b}[2J/\\u{202e}b:1:2: x\\ny: m\\u{7}\n  hint: h\\r"
    );
}

#[test]
fn diagnostics_are_plain_data_too() {
    let fixture = Fixture::new().task_json(TASK.replace("easy", "esay"));
    let errors = fixture.load().unwrap_err();
    let json = serde_json::to_value(&errors[0]).unwrap();
    assert_eq!(
        json,
        serde_json::json!({
            "file": fixture.at(".swe-forge/task.json"),
            "line": 5,
            "column": 17,
            "field": "difficulty",
            "message": "found \"esay\"",
            "expected": "one of easy, medium, hard, expert, nightmare",
            "hint": "did you mean \"easy\"?",
        })
    );
    let all = TaskErrors {
        diagnostics: vec![errors[0].clone(), errors[0].clone()],
    };
    assert_eq!(all.to_string(), format!("{0}\n{0}", errors[0]));
}

/// Pieces from which something close to a file can come about.
fn pieces() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "{",
        "}",
        "[",
        "]",
        ":",
        ": ",
        ",",
        ", ",
        "\"",
        "'",
        "\n",
        "\n  ",
        "- ",
        "#",
        "&a ",
        "*a",
        "!!str ",
        "|",
        ">",
        "? ",
        "%",
        "---\n",
        "\\",
        "\\u12",
        "\\ud800",
        "null",
        "true",
        "1e9",
        "-",
        "0x",
        ".nan",
        "\"id\"",
        "\"verify\"",
        "network",
        "resources",
        "memory_mb",
        "env",
        "user",
        "1000",
        "ü",
        "\t",
        "\r\n",
        "\u{feff}",
        "\0",
        "<<",
        "\"tools\"",
        "\"argv\"",
    ]);
    prop::collection::vec(piece, 0..60).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        read_as_each(&bytes);
    }

    #[test]
    fn almost_files_never_panic(text in pieces()) {
        read_as_each(text.as_bytes());
    }

    #[test]
    fn a_cut_or_damaged_task_never_panics(end in 0..TASK.len(), at in 0..TASK.len(), byte: u8) {
        let mut bytes = TASK.as_bytes().to_vec();
        bytes[at] = byte;
        bytes.truncate(end);
        read_as_each(&bytes);
    }
}

fn read_as_each(bytes: &[u8]) {
    let mut fixture = Fixture::new();
    for name in FILES {
        fixture = fixture.write(&format!(".swe-forge/{name}"), bytes);
    }
    if let Err(errors) = fixture.load() {
        assert!(!errors.is_empty());
        for error in errors {
            // Every mistake within a file has its place.
            assert!(error.line.is_some_and(|line| line >= 1), "{error}");
            assert!(error.column.is_some_and(|column| column >= 1), "{error}");
        }
    }
}
