//! Which file is read.

use std::fs;

use forge_config::{ConfigError, ConfigPlaces, Configuration, load};

#[test]
fn the_first_place_with_a_file_is_taken_and_a_named_one_must_be_there() {
    let folder = tempfile::tempdir().unwrap();
    let place = |name: &str, processes: u32| {
        let root = folder.path().join(name);
        fs::create_dir_all(root.join("swe-forge")).unwrap();
        let text = format!("[limits]\nprocesses = {processes}\n");
        fs::write(root.join("swe-forge/config.toml"), text).unwrap();
        root
    };
    let mut places = ConfigPlaces {
        named: None,
        user_folder: Some(folder.path().join("user")),
        machine_folder: Some(folder.path().join("etc")),
    };
    assert_eq!(load(&places).unwrap(), Configuration::default());
    place("etc", 1);
    assert_eq!(load(&places).unwrap().limits.processes, 1);
    let user = place("user", 2);
    let read = load(&places).unwrap();
    assert_eq!(read.limits.processes, 2);
    assert_eq!(read.file, Some(user.join("swe-forge/config.toml")));
    places.named = Some(folder.path().join("none.toml"));
    let error = load(&places).unwrap_err();
    assert!(matches!(error, ConfigError::Unreadable { .. }), "{error}");
}

#[test]
fn a_file_that_is_there_and_cannot_be_used_is_no_missing_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("swe-forge/config.toml");
    let places = ConfigPlaces {
        user_folder: Some(folder.path().to_owned()),
        ..ConfigPlaces::default()
    };
    fs::create_dir_all(&file).unwrap();
    assert!(load(&places).is_err(), "a folder");
    fs::remove_dir(&file).unwrap();
    fs::write(&file, b"\xff\xfe").unwrap();
    assert!(load(&places).is_err(), "no UTF-8");
    fs::write(&file, "#".repeat(1024 * 1024 + 1)).unwrap();
    assert!(load(&places).is_err(), "too large");
}
