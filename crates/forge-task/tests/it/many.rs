//! Finding and loading many tasks at once.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use forge_task::{LoadOptions, discover, load_all};
use tempfile::TempDir;

use crate::TASK;

fn folder(tasks: &[(&str, &str)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, id) in tasks {
        let specification = folder.path().join(name).join(".swe-forge");
        fs::create_dir_all(&specification).unwrap();
        fs::write(specification.join("task.json"), TASK.replace("t1", id)).unwrap();
    }
    folder
}

fn names(paths: &[PathBuf]) -> Vec<String> {
    paths
        .iter()
        .map(|path| path.file_name().unwrap().to_string_lossy().into_owned())
        .collect()
}

fn refusal(path: &Path) -> String {
    let errors = discover(path).unwrap_err();
    assert_eq!(errors.len(), 1);
    errors[0]
        .to_string()
        .replace(&path.display().to_string(), "PATH")
}

#[test]
fn a_folder_means_the_tasks_in_it_by_name() {
    let folder = folder(&[("b", "b"), ("a", "a"), (".hidden", "h"), ("c", "c")]);
    fs::write(folder.path().join("notes.txt"), "").unwrap();
    fs::create_dir(folder.path().join("shared")).unwrap();
    symlink("a", folder.path().join("d")).unwrap();
    assert_eq!(
        names(&discover(folder.path()).unwrap()),
        ["a", "b", "c", "d"]
    );
}

#[test]
fn a_task_directory_means_itself() {
    let folder = folder(&[("a", "a"), ("a/src/inner", "x")]);
    let path = folder.path().join("a");
    assert_eq!(discover(&path).unwrap(), [path]);
}

#[test]
fn a_path_without_a_task_is_refused_with_a_hint() {
    let folder = folder(&[("a", "a")]);
    assert_eq!(
        refusal(&folder.path().join("a/.swe-forge")),
        "PATH: expected a task directory or a folder of them; it is the specification of a task\n  hint: give the directory around it"
    );
    assert_eq!(
        refusal(&folder.path().join("a/.swe-forge/task.json")),
        "PATH: expected a task directory or a folder of them; it is a file\n  hint: give the directory that holds .swe-forge"
    );
    let empty = tempfile::tempdir().unwrap();
    assert_eq!(
        refusal(empty.path()),
        "PATH: expected a task directory or a folder of them; there is no task in it\n  hint: a task is a directory with .swe-forge/task.json; it may be one level down"
    );
    assert!(refusal(&empty.path().join("x")).starts_with("PATH: cannot be read: "));
}

#[test]
fn good_tasks_are_loaded_beside_bad_ones() {
    let folder = folder(&[("a", "a"), ("b", "not good"), ("c", "c")]);
    let missing = folder.path().join("missing");
    let loaded = load_all(
        &[folder.path().to_owned(), missing.clone()],
        &LoadOptions::default(),
    );
    let ids: Vec<_> = loaded.tasks.iter().map(|task| task.id.as_str()).collect();
    assert_eq!(ids, ["a", "c"]);
    assert_eq!(loaded.errors.len(), 2);
    assert_eq!(loaded.errors[0].file, missing);
    assert_eq!(loaded.errors[1].field.as_deref(), Some("id"));
}

#[test]
fn two_tasks_with_one_id_are_an_error_that_names_both_files() {
    let folder = folder(&[("a", "same"), ("b", "b"), ("c", "same"), ("d", "same")]);
    let loaded = load_all(&[folder.path().to_owned()], &LoadOptions::default());
    assert_eq!(loaded.tasks.len(), 2);
    let shown: Vec<String> = loaded.errors.iter().map(ToString::to_string).collect();
    let prefix = folder.path().display();
    assert_eq!(
        shown,
        ["c", "d"].map(|name| format!(
            "{prefix}/{name}/.swe-forge/task.json:2:9: id: \"same\" is also the id of the task in {prefix}/a/.swe-forge/task.json:2:9\n  hint: give one of them another id"
        ))
    );
}

#[test]
fn a_directory_that_is_meant_twice_is_loaded_once() {
    let folder = folder(&[("a", "a"), ("b", "b")]);
    symlink("a", folder.path().join("c")).unwrap();
    let paths = [
        folder.path().join("b"),
        folder.path().to_owned(),
        folder.path().join("a/../a"),
    ];
    let loaded = load_all(&paths, &LoadOptions::default());
    let ids: Vec<_> = loaded.tasks.iter().map(|task| task.id.as_str()).collect();
    assert_eq!((ids, loaded.errors), (vec!["b", "a"], vec![]));
}

#[test]
fn the_example_tasks_have_no_mistake() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/tasks");
    let expected = discover(&examples).unwrap().len();
    let loaded = load_all(&[examples], &LoadOptions::default());
    let shown: Vec<String> = loaded.errors.iter().map(ToString::to_string).collect();
    assert_eq!(shown, Vec::<String>::new());
    assert_eq!(loaded.tasks.len(), expected);
}
