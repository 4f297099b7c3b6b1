//! Help, manual and completions.

use crate::{Home, run};

const COMMANDS: [&str; 16] = [
    "run",
    "validate",
    "check",
    "doctor",
    "images",
    "registries",
    "egress",
    "ps",
    "show",
    "logs",
    "artifacts",
    "release",
    "cancel",
    "gc",
    "completions",
    "man",
];

#[test]
fn help_names_every_command_exit_code_and_variable() {
    let home = Home::new();
    let help = run(home.swe_forge(&["--help"])).expect(0, &[]).stdout;
    for text in COMMANDS.iter().chain(&[
        "Exit codes:",
        "130",
        "SWE_FORGE_HOME",
        "SWE_FORGE_CONFIG",
        "SWE_FORGE_ENGINE",
        "SWE_FORGE_INIT",
        "NO_COLOR",
    ]) {
        assert!(help.contains(text), "{text} not in:\n{help}");
    }
    for command in COMMANDS {
        let ended = run(home.swe_forge(&[command, "--help"])).expect(0, &[]);
        assert!(ended.stdout.contains("Usage: swe-forge"), "{command}");
    }
    let version = run(home.swe_forge(&["--version"])).expect(0, &[]).stdout;
    assert_eq!(
        version,
        format!("swe-forge {}\n", env!("CARGO_PKG_VERSION"))
    );
}

#[test]
fn every_shell_gets_completions() {
    let home = Home::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = run(home.swe_forge(&["completions", shell]))
            .expect(0, &[])
            .stdout;
        assert!(script.contains("validate"), "{shell}");
    }
}

#[test]
fn the_manual_has_a_page_for_every_command() {
    let home = Home::new();
    let main = run(home.swe_forge(&["man"])).expect(0, &[]).stdout;
    assert!(main.contains(".TH swe-forge 1"), "{main}");
    run(home.swe_forge(&["man", "--to", "pages/man1"])).expect(0, &[]);
    for command in COMMANDS {
        let page = home
            .path()
            .join(format!("pages/man1/swe-forge-{command}.1"));
        assert!(page.is_file(), "{}", page.display());
    }
}

#[test]
fn colours_are_a_matter_of_choice() {
    let home = Home::new();
    home.good_task("one");
    let colored = |arguments: &[&str]| {
        let ended = run(home.swe_forge(arguments));
        ended.stdout.contains("\x1b[")
    };
    assert!(!colored(&["check", "tasks"]));
    assert!(colored(&["check", "tasks", "--color", "always"]));
    assert!(!colored(&["check", "tasks", "--color=never"]));
    assert!(colored(&["--color=always", "--help"]));
}
