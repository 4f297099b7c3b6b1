//! What may stand in a task directory, and what may not.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;

use forge_task::{MAX_FILE_BYTES, MAX_SPECIFICATION_BYTES, MAX_TREE_ENTRIES};

use crate::{Fixture, TASK};

#[test]
fn a_full_directory_is_counted() {
    let fixture = Fixture::new()
        .write("README.md", "x")
        .write("LICENSE-MIT", "x")
        .write("src/a.py", "12345")
        .write("src/deep/er/b.py", "678")
        .write("tests/run.sh", "true")
        .write("solution/solution.patch", "patch")
        .write("solution/notes/why.txt", "")
        .write("src/.hidden/.x", "1");
    symlink("deep/er", fixture.at("src/link")).unwrap();
    let odd = fixture.at("src").join(OsStr::from_bytes(b"\xff\n"));
    fs::write(odd, "22").unwrap();
    let task = fixture.task();
    let src = task.src.unwrap();
    assert_eq!(src.root, fixture.at("src"));
    assert_eq!((src.entries, src.bytes), (8, 11));
    let tests = task.tests.unwrap();
    assert_eq!((tests.entries, tests.bytes), (1, 4));
    let solution = task.solution.unwrap();
    assert!(solution.has_patch && !solution.has_script);
    assert_eq!(solution.tree.entries, 3);
}

#[test]
fn names_that_have_no_place_are_refused() {
    let top = "expected only .swe-forge, src, tests, solution, README* and LICENSE*";
    for (name, expected) in [
        ("test/x", format!("test: {top}; \"test\" has no place in a task directory\n  hint: did you mean \"tests\"?")),
        ("task.json", format!("task.json: {top}; \"task.json\" has no place in a task directory\n  hint: move it to .swe-forge/task.json")),
        (".git/HEAD", format!(".git: {top}; \".git\" has no place in a task directory\n  hint: move it into src/ if the task starts from it, or remove it")),
        ("README/x", format!("README: {top}; \"README\" has no place in a task directory\n  hint: move it into src/ if the task starts from it, or remove it")),
        (".swe-forge/config.yml", ".swe-forge/config.yml: expected only task.json, tools.json and config.yaml; \"config.yml\" has no place in .swe-forge\n  hint: did you mean \"config.yaml\"?".to_owned()),
        (".swe-forge/more/x", ".swe-forge/more: expected only task.json, tools.json and config.yaml; \"more\" has no place in .swe-forge\n  hint: remove it".to_owned()),
        (".swe-forge/tools.json/x", ".swe-forge/tools.json: expected a regular file; it is something else\n  hint: put a copy of the file itself in its place".to_owned()),
        ("solution/readme", "solution: expected solve.sh or solution.patch; it holds neither\n  hint: add one of them, or remove the folder".to_owned()),
        ("src", "src: expected a folder; it is a file\n  hint: put a real folder in its place".to_owned()),
    ] {
        assert_eq!(Fixture::new().write(name, "x").report(), expected, "{name}");
    }
}

#[test]
fn a_missing_specification_is_said_once() {
    let fixture = Fixture::new();
    fs::remove_file(fixture.at(".swe-forge/task.json")).unwrap();
    let missing = ".swe-forge/task.json: expected the specification of the task; it is missing\n  hint: every task has one, with id, title, instruction, difficulty, language and verify";
    assert_eq!(fixture.report(), missing);
    fs::remove_dir(fixture.at(".swe-forge")).unwrap();
    assert_eq!(fixture.report(), missing);
}

#[test]
fn links_in_place_of_the_specification_fool_nobody() {
    let fixture = Fixture::new();
    let elsewhere = tempfile::tempdir().unwrap();
    let real = elsewhere.path().join("task.json");
    fs::write(&real, TASK).unwrap();
    fs::remove_file(fixture.at(".swe-forge/task.json")).unwrap();
    symlink(&real, fixture.at(".swe-forge/task.json")).unwrap();
    assert_eq!(
        fixture.report(),
        ".swe-forge/task.json: expected a regular file; it is a symbolic link\n  hint: put a copy of the file itself in its place"
    );
    fs::remove_dir_all(fixture.at(".swe-forge")).unwrap();
    symlink(elsewhere.path(), fixture.at(".swe-forge")).unwrap();
    assert_eq!(
        fixture.report(),
        ".swe-forge: expected a folder; it is a symbolic link\n  hint: put a real folder in its place"
    );
}

#[test]
fn links_in_place_of_a_tree_are_refused() {
    for name in ["src", "tests", "solution"] {
        let fixture = Fixture::new();
        symlink("/etc", fixture.at(name)).unwrap();
        let expected = format!(
            "{name}: expected a folder; it is a symbolic link\n  hint: put a real folder in its place"
        );
        assert_eq!(fixture.report(), expected);
    }
}

#[test]
fn links_may_lead_anywhere_within_their_tree_only() {
    for (link, target, leaves) in [
        ("src/a", "b", false),
        ("src/a", "missing/x", false),
        ("src/d/a", "../x", false),
        ("src/d/a", "..", false),
        ("src/d/a", "../d/../d/x", false),
        ("src/a", "a", false),
        ("src/a", "/etc/passwd", true),
        ("src/a", "/", true),
        ("src/a", "..", true),
        ("src/a", "../tests/x", true),
        ("src/a", "../src/x", true),
        ("src/d/a", "../../x", true),
        ("src/a", "d/../../x", true),
        ("src/a", "missing/../../x", true),
        // By its text this is src/d/e; in truth `up` is src, and this is the directory above.
        ("src/a", "d/e/up/..", true),
        // And the other way round: `down` is src/d/e, so this is src/d.
        ("src/a", "down/..", false),
        ("src/a", "down/../../..", true),
    ] {
        let fixture = Fixture::new()
            .write("src/x", "")
            .write("src/d/e/x", "")
            .write("tests/x", "");
        symlink("../..", fixture.at("src/d/e/up")).unwrap();
        symlink("d/e", fixture.at("src/down")).unwrap();
        symlink(target, fixture.at(link)).unwrap();
        match fixture.load() {
            Ok(_) => assert!(!leaves, "{link} -> {target} was taken"),
            Err(errors) => {
                let shown = fixture.shown(&errors);
                assert!(leaves, "{link} -> {target} was refused: {shown}");
                assert!(shown.starts_with(&format!("{link}: expected a")), "{shown}");
                assert!(
                    shown.contains(&format!("it links to \"{target}\"")),
                    "{shown}"
                );
                assert_eq!(errors.len(), 1, "{shown}");
            }
        }
    }
}

#[test]
fn links_in_a_circle_end() {
    let fixture = Fixture::new().write("src/x", "");
    symlink("b", fixture.at("src/a")).unwrap();
    symlink("a", fixture.at("src/b")).unwrap();
    symlink("c/c/c", fixture.at("src/c")).unwrap();
    assert_eq!(fixture.task().src.unwrap().entries, 4);
}

#[test]
fn what_is_neither_file_nor_folder_is_refused() {
    let fixture = Fixture::new().write("src/x", "").write("tests/x", "");
    let _listener = UnixListener::bind(fixture.at("src/s")).unwrap();
    let pipe = std::process::Command::new("mkfifo")
        .args([fixture.at("tests/p"), fixture.at(".swe-forge/config.yaml")])
        .status();
    assert!(pipe.unwrap().success());
    assert_eq!(
        fixture.report(),
        ".swe-forge/config.yaml: expected a regular file; it is something else\n  hint: put a copy of the file itself in its place
src/s: expected a file, a folder or a symbolic link; it is a socket\n  hint: remove it
tests/p: expected a file, a folder or a symbolic link; it is a named pipe\n  hint: remove it"
    );
}

#[test]
fn setuid_and_setgid_files_are_refused_but_setgid_folders_are_usual() {
    let fixture = Fixture::new().write("src/d/u", "").write("src/g", "");
    for (name, mode) in [("src/d/u", 0o4755), ("src/g", 0o2755), ("src/d", 0o2775)] {
        fs::set_permissions(fixture.at(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    assert_eq!(
        fixture.report(),
        "src/d/u: its setuid bit is set\n  hint: chmod u-s; a sandbox ignores the bit anyway
src/g: its setgid bit is set\n  hint: chmod g-s; a sandbox ignores the bit anyway"
    );
}

fn sparse(fixture: &Fixture, name: &str, bytes: u64) {
    let path = fixture.at(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    File::create(path).unwrap().set_len(bytes).unwrap();
}

#[test]
fn files_and_trees_have_a_largest_size() {
    let fixture = Fixture::new();
    sparse(&fixture, "src/most", MAX_FILE_BYTES);
    fixture.task();
    sparse(&fixture, "src/more", MAX_FILE_BYTES + 1);
    assert_eq!(
        fixture.report(),
        "src/more: expected a file of at most 64 MiB; it has 67108865 bytes\n  hint: put what is large into the image"
    );
    let fixture = Fixture::new();
    for index in 0..9 {
        sparse(&fixture, &format!("tests/{index}"), MAX_FILE_BYTES);
    }
    assert_eq!(
        fixture.report(),
        "tests: expected a tree of at most 512 MiB; it has more bytes\n  hint: put what is large into the image"
    );
}

#[test]
fn a_tree_has_a_largest_number_of_entries() {
    let fixture = Fixture::new().write("src/x", "");
    for index in 0..MAX_TREE_ENTRIES {
        fs::hard_link(fixture.at("src/x"), fixture.at(&format!("src/{index}")))
            .or_else(|_| fs::write(fixture.at(&format!("src/{index}")), ""))
            .unwrap();
    }
    assert_eq!(
        fixture.report(),
        "src: expected a tree of at most 100000 entries; it has more entries\n  hint: put what is large into the image"
    );
}

#[test]
fn a_specification_file_has_a_largest_size() {
    let fixture = Fixture::new();
    sparse(
        &fixture,
        ".swe-forge/config.yaml",
        MAX_SPECIFICATION_BYTES + 1,
    );
    assert_eq!(
        fixture.report(),
        ".swe-forge/config.yaml: expected at most 1 MiB; it has 1048577 bytes\n  hint: put what is large into src/ or tests/"
    );
}

#[test]
fn a_path_that_is_no_directory_is_said() {
    let fixture = Fixture::new().write("README", "x");
    let options = forge_task::LoadOptions::default();
    for name in ["README", "missing"] {
        let errors = forge_task::load_task(&fixture.at(name), &options).unwrap_err();
        assert_eq!(
            fixture.shown(&errors.diagnostics),
            format!("{name}: expected a task directory; there is no such folder")
        );
    }
}
