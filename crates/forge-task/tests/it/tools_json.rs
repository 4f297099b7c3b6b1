//! `.swe-forge/tools.json`, rule by rule.

use crate::Fixture;

const TOOLS: &str = r#"{"tools": [
  {"name": "grep", "description": "Searches.",
   "parameters": {"type": "object", "properties": {"pattern": {"type": "string"}, "path": true},
                  "required": ["pattern"]},
   "argv": ["grep", "-e", "{pattern}", "--", "./{path}", "{print $1}"]},
  {"name": "ls", "description": "Lists.", "parameters": {}, "argv": ["ls"]}
]}"#;

#[test]
fn a_file_of_tools_is_taken_as_it_stands() {
    let task = Fixture::new().write(".swe-forge/tools.json", TOOLS).task();
    assert_eq!(task.specification.len(), 2);
    assert_eq!(task.specification[1].name, "tools.json");
    assert_eq!(task.specification[1].contents, TOOLS.as_bytes());
    Fixture::new()
        .write(".swe-forge/tools.json", "{\"tools\": []}")
        .task();
}

/// What is replaced in [`TOOLS`], by what, and what is said about it.
const MISTAKES: &[(&str, &str, &str)] = &[
    (
        "\"tools\": [",
        "\"tolls\": [",
        "1:1: tools: this field is required\n  hint: add \"tools\": [], or remove the file\n.swe-forge/tools.json:1:2: tolls: unknown field \"tolls\"\n  hint: did you mean \"tools\"?",
    ),
    (
        "\"ls\"",
        "\"grep\"",
        "6:12: tools[1].name: expected a name of its own; tools[0] has the name \"grep\" too",
    ),
    (
        "\"ls\"",
        "\"Ls\"",
        "6:12: tools[1].name: expected 1 to 64 of a-z, 0-9, '_' and '-'; found \"Ls\"",
    ),
    (
        "\"ls\"",
        "\"\"",
        "6:12: tools[1].name: expected 1 to 64 of a-z, 0-9, '_' and '-'; found \"\"",
    ),
    (
        "\"Lists.\"",
        "\"\"",
        "6:33: tools[1].description: expected some text; found \"\"",
    ),
    (
        ", \"parameters\": {}",
        "",
        "6:3: tools[1].parameters: this field is required\n  hint: add \"parameters\": {\"type\": \"object\", \"properties\": {}}",
    ),
    (
        "\"parameters\": {}",
        "\"parameters\": []",
        "6:57: tools[1].parameters: expected an object; found a list",
    ),
    (
        "\"type\": \"object\"",
        "\"type\": \"string\"",
        "3:27: tools[0].parameters.type: expected one of object; found \"string\"",
    ),
    (
        "\"path\": true",
        "\"path\": \"string\"",
        "3:91: tools[0].parameters.properties.path: expected an object; found \"string\"",
    ),
    (
        "\"path\": true",
        "\"path\": {}, \"path\": {}",
        "3:95: tools[0].parameters.properties.path: the key \"path\" is repeated\n  hint: remove one of them",
    ),
    (
        "[\"pattern\"]",
        "[\"patern\"]",
        "4:32: tools[0].parameters.required[0]: expected the name of a property of parameters; found \"patern\"\n  hint: did you mean \"pattern\"?",
    ),
    (
        "{pattern}",
        "{patern}",
        "5:27: tools[0].argv[2]: expected the name of a property of parameters; found \"patern\"\n  hint: did you mean \"pattern\"?",
    ),
    (
        "[\"ls\"]",
        "[\"ls\", \"{x}\"]",
        "6:76: tools[1].argv[1]: expected the name of a property of parameters; found \"x\"\n  hint: the parameters have no properties",
    ),
    (
        "[\"ls\"]",
        "[]",
        "6:69: tools[1].argv: expected a program to run; found an empty list",
    ),
    (
        "\"argv\": [\"ls\"]",
        "\"command\": \"ls\"",
        "6:3: tools[1].argv: this field is required\n  hint: say which program it is, as a list\n.swe-forge/tools.json:6:61: tools[1].command: unknown field \"command\"\n  hint: the fields here are name, description, parameters, argv",
    ),
    (
        "true}",
        "{\"maximum\": 1e999}}",
        "3:103: expected a number below 1.8e308; the number is too large",
    ),
];

#[test]
fn each_mistake_has_one_diagnostic() {
    for (from, to, expected) in MISTAKES {
        let text = TOOLS.replacen(from, to, 1);
        assert_ne!(text, TOOLS, "{from} is not there");
        let report = Fixture::new().write(".swe-forge/tools.json", text).report();
        assert_eq!(
            report,
            format!(".swe-forge/tools.json:{expected}"),
            "{from}"
        );
    }
}
