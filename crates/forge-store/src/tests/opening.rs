//! Opening: new, old, newer, foreign and damaged files.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rusqlite::Connection;

use super::{Home, new_run, owner, run_id, with_attempt};
use crate::{Store, StoreError, connection, schema};

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

async fn refusal(path: &Path) -> StoreError {
    Store::open(path, owner("ffffffffffff")).await.unwrap_err()
}

#[tokio::test]
async fn a_new_record_is_private_to_its_user() {
    let home = Home::new();
    let (store, _) = with_attempt(&home).await;
    let database = home.database();
    assert_eq!(mode(database.parent().unwrap()), 0o700);
    for file in ["swe-forge.db", "swe-forge.db-wal", "swe-forge.db-shm"] {
        assert_eq!(mode(&database.with_file_name(file)), 0o600, "{file}");
    }
    store.close().await.unwrap();
    assert!(!database.with_file_name("swe-forge.db-wal").exists());
}

#[tokio::test]
async fn the_first_owner_stays_the_owner() {
    let home = Home::new();
    let first = Store::open(home.database(), owner("aaaaaaaaaaaa"))
        .await
        .unwrap();
    let second = Store::open(home.database(), owner("bbbbbbbbbbbb"))
        .await
        .unwrap();
    assert_eq!(first.owner(), &owner("aaaaaaaaaaaa"));
    assert_eq!(second.owner(), &owner("aaaaaaaaaaaa"));
    assert_eq!(second.path(), home.database());
}

#[tokio::test]
async fn a_file_of_version_zero_is_migrated() {
    let home = Home::new();
    let empty = home.folder().join("empty.db");
    fs::write(&empty, b"").unwrap();
    let bare = home.folder().join("bare.db");
    let raw = Connection::open(&bare).unwrap();
    raw.execute_batch("VACUUM").unwrap();
    raw.close().unwrap();
    for path in [empty, bare] {
        let store = Store::open(&path, owner("aaaaaaaaaaaa")).await.unwrap();
        store.begin_run(&new_run(1)).await.unwrap();
        store.close().await.unwrap();
        let raw = Connection::open(&path).unwrap();
        let version: u32 = raw
            .pragma_query_value(None, "user_version", |row| row.get(0))
            .unwrap();
        assert_eq!(version as usize, schema::MIGRATIONS.len());
    }
}

/// A record as the first version left it: one run that ended, with one attempt.
fn first_version(home: &Home) -> PathBuf {
    let path = home.folder().join("first.db");
    let mut raw = Connection::open(&path).unwrap();
    schema::migrate(&mut raw, &path, &schema::MIGRATIONS[..1]).unwrap();
    let uuid = run_id(1).to_string();
    raw.execute_batch(&format!(
        "INSERT INTO installation (id, owner) VALUES (1, 'aaaaaaaaaaaa');
         INSERT INTO runs (uuid, kind, agent, created_at, ended_at, out_directory, holder,
                           arguments, engine, engine_version)
         VALUES ('{uuid}', 'run', 'oracle', 1, 2, '/out/1', 'holder', '[]', 'docker', '20.10');
         INSERT INTO attempts (public_id, run_id, task_id, attempt, repetition, title, difficulty,
                               image, state, created_at)
         VALUES ('old-1', 1, 'old', 1, 1, 'Old', 'easy', 'image', 'PENDING', 1);"
    ))
    .unwrap();
    raw.close().unwrap();
    path
}

#[tokio::test]
async fn a_record_of_the_first_version_keeps_its_runs_and_takes_what_is_new() {
    let home = Home::new();
    let path = first_version(&home);
    let outdated = Store::open_read_only(&path).await.unwrap_err();
    assert!(
        matches!(outdated, StoreError::Outdated { .. }),
        "{outdated:?}"
    );
    let store = Store::open(&path, owner("bbbbbbbbbbbb")).await.unwrap();
    assert_eq!(store.owner(), &owner("aaaaaaaaaaaa"));
    let run = store.run(&run_id(1)).await.unwrap();
    assert_eq!((run.epoch, run.renewed_at), (1, None));
    assert_eq!(store.plan(&run_id(1)).await.unwrap(), "");
    assert_eq!(store.runs_with_files(9).await.unwrap().len(), 1);
    let attempts = store.attempts_of(&run_id(1)).await.unwrap();
    assert_eq!(attempts.len(), 1);
    let id = &attempts[0].id;
    assert_eq!(store.progress(id).await.unwrap(), None);
    store.set_progress(id, "{}").await.unwrap();
    assert_eq!(store.progress(id).await.unwrap().as_deref(), Some("{}"));
}

#[tokio::test]
async fn what_a_run_keeps_to_itself_is_private_on_every_opening() {
    let home = Home::new();
    let (store, id) = with_attempt(&home).await;
    store.close().await.unwrap();
    for _ in 0..2 {
        let store = home.open().await;
        store.set_progress(&id, "\"secret\"").await.unwrap();
        store.set_report(&id, "\"secret\"").await.unwrap();
        store.reports(&run_id(1)).await.unwrap();
        let folder = home.database().parent().unwrap().to_owned();
        assert_eq!(mode(&folder), 0o700);
        let mut files: Vec<_> = fs::read_dir(&folder)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        files.sort();
        let names = ["swe-forge.db", "swe-forge.db-shm", "swe-forge.db-wal"];
        assert_eq!(files, names.map(|name| folder.join(name)));
        for file in files {
            assert_eq!(mode(&file), 0o600, "{}", file.display());
        }
        store.close().await.unwrap();
    }
}

#[tokio::test]
async fn a_migration_keeps_what_is_recorded_and_is_done_once() {
    let home = Home::new();
    let (store, id) = with_attempt(&home).await;
    store.close().await.unwrap();
    let path = home.database();
    let mut steps = schema::MIGRATIONS.to_vec();
    steps.push("ALTER TABLE attempts ADD COLUMN colour TEXT");
    let mut connection = connection::open_for_writing(&path).unwrap();
    for _ in 0..2 {
        schema::migrate(&mut connection, &path, &steps).unwrap();
    }
    let (found, colour): (String, Option<String>) = connection
        .query_row("SELECT public_id, colour FROM attempts", [], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .unwrap();
    assert_eq!((found.as_str(), colour), (id.as_str(), None));
}

#[tokio::test]
async fn a_migration_that_fails_leaves_the_old_version() {
    let home = Home::new();
    let path = home.made().await;
    let mut steps = schema::MIGRATIONS.to_vec();
    steps.push("CREATE TABLE half (id INTEGER); CREATE TABLE runs (id INTEGER)");
    let mut connection = connection::open_for_writing(&path).unwrap();
    schema::migrate(&mut connection, &path, &steps).unwrap_err();
    let half: i64 = connection
        .query_row(
            "SELECT count(*) FROM sqlite_schema WHERE name = 'half'",
            [],
            |row| row.get(0),
        )
        .unwrap();
    assert_eq!(half, 0);
    connection.close().unwrap();
    home.open().await;
}

#[tokio::test]
async fn a_newer_schema_is_refused_and_left_as_it_is() {
    let home = Home::new();
    let path = home.made().await;
    let raw = Connection::open(&path).unwrap();
    raw.pragma_update(None, "user_version", 99).unwrap();
    raw.close().unwrap();
    let before = fs::read(&path).unwrap();
    let error = refusal(&path).await;
    assert!(
        matches!(
            error,
            StoreError::NewerSchema {
                found: 99,
                supported: 3,
                ..
            }
        ),
        "{error:?}"
    );
    assert!(error.hint().is_some());
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[tokio::test]
async fn the_database_of_another_program_is_refused_and_left_as_it_is() {
    let home = Home::new();
    let path = home.folder().join("places.sqlite");
    let raw = Connection::open(&path).unwrap();
    raw.execute_batch("CREATE TABLE places (url TEXT); PRAGMA user_version = 75")
        .unwrap();
    raw.close().unwrap();
    let before = fs::read(&path).unwrap();
    let error = refusal(&path).await;
    assert!(matches!(error, StoreError::Foreign { .. }), "{error:?}");
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[tokio::test]
async fn a_damaged_file_is_refused_by_name_and_left_as_it_is() {
    let home = Home::new();
    let whole = fs::read(home.made().await).unwrap();
    let mut scribbled = whole.clone();
    scribbled[100..4000].fill(0x5a);
    let damages: [(&str, &[u8]); 4] = [
        (
            "text",
            b"this was never a database, whatever its name says\n",
        ),
        ("short", b"x"),
        ("cut", &whole[..whole.len() / 2]),
        ("scribbled", &scribbled),
    ];
    for (name, damaged) in damages {
        let path = home.folder().join(name);
        fs::write(&path, damaged).unwrap();
        let error = refusal(&path).await;
        assert!(
            matches!(error, StoreError::Corrupt { .. }),
            "{name}: {error:?}"
        );
        let shown = path.display().to_string();
        assert!(error.to_string().contains(&shown), "{error}");
        assert!(error.hint().unwrap().contains(&shown));
        assert_eq!(fs::read(&path).unwrap(), damaged, "{name}");
    }
}

#[tokio::test]
async fn an_emptied_file_with_a_log_beside_it_is_refused_and_both_are_left() {
    let home = Home::new();
    let path = home.folder().join("emptied");
    let log = home.folder().join("emptied-wal");
    fs::write(&path, b"").unwrap();
    fs::write(&log, b"all that is left").unwrap();
    let error = refusal(&path).await;
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error:?}");
    assert_eq!(fs::read(&path).unwrap(), b"");
    assert_eq!(fs::read(&log).unwrap(), b"all that is left");
}

/// A folder that nobody can make files in, not even root, whom permissions do not stop.
fn read_only_folder(home: &Home) -> PathBuf {
    let folder = home.folder().join("locked");
    fs::create_dir(&folder).unwrap();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o500)).unwrap();
    match fs::write(folder.join("probe"), b"") {
        Ok(()) => PathBuf::from("/proc/self"),
        Err(_) => folder,
    }
}

#[tokio::test]
async fn a_folder_that_cannot_be_written_is_named() {
    let home = Home::new();
    let folder = read_only_folder(&home);
    let file_in_the_way = home.folder().join("file");
    fs::write(&file_in_the_way, b"").unwrap();
    for path in [
        folder.join("swe-forge.db"),
        file_in_the_way.join("state").join("swe-forge.db"),
    ] {
        let error = refusal(&path).await;
        let StoreError::Io { path: named, .. } = &error else {
            panic!("{error:?}");
        };
        assert!(path.starts_with(named), "{error}");
        assert!(error.hint().unwrap().contains(&named.display().to_string()));
    }
}

#[tokio::test]
async fn a_folder_in_place_of_the_file_is_refused() {
    let home = Home::new();
    let error = refusal(home.folder()).await;
    assert!(matches!(error, StoreError::Io { .. }), "{error:?}");
    let store = home.open().await;
    let missing = store.run(&run_id(1)).await;
    assert!(
        matches!(missing, Err(StoreError::NotFound { .. })),
        "{missing:?}"
    );
}

#[tokio::test]
async fn a_record_opened_for_reading_shows_everything_and_takes_nothing() {
    let home = Home::new();
    let (writer, id) = with_attempt(&home).await;
    let beside_a_writer = Store::open_read_only(home.database()).await.unwrap();
    assert_eq!(beside_a_writer.owner(), writer.owner());
    beside_a_writer.attempt(&id).await.unwrap();
    writer.begin_run(&new_run(2)).await.unwrap();
    beside_a_writer.run(&run_id(2)).await.unwrap();
    let refused = beside_a_writer.begin_run(&new_run(3)).await.unwrap_err();
    assert!(
        matches!(refused, StoreError::ReadOnly { .. }),
        "{refused:?}"
    );
    beside_a_writer.close().await.unwrap();
    writer.close().await.unwrap();
    let alone = Store::open_read_only(home.database()).await.unwrap();
    alone.attempt(&id).await.unwrap();
}

#[tokio::test]
async fn a_record_in_a_folder_that_cannot_be_written_can_be_read() {
    let home = Home::new();
    let database = home.made().await;
    let folder = database.parent().unwrap();
    fs::set_permissions(folder, fs::Permissions::from_mode(0o500)).unwrap();
    let store = Store::open_read_only(&database).await.unwrap();
    assert_eq!(store.runs(10).await.unwrap(), []);
    store.close().await.unwrap();
    fs::set_permissions(folder, fs::Permissions::from_mode(0o700)).unwrap();
    // Permissions do not stop root, so what is done without them is looked at by itself.
    let unchanging = connection::open_unchanging(&database).unwrap();
    schema::check_current(&unchanging, &database).unwrap();
}

#[tokio::test]
async fn what_would_have_to_be_migrated_or_is_damaged_is_not_read() {
    let home = Home::new();
    let path = home.folder().join("file");
    for (content, expected) in [
        (&b""[..], "has to be brought up to date"),
        (b"short", "is damaged or not a database"),
    ] {
        fs::write(&path, content).unwrap();
        let error = Store::open_read_only(&path).await.unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
        assert_eq!(fs::read(&path).unwrap(), content);
    }
    let error = Store::open_read_only(home.folder().join("missing"))
        .await
        .unwrap_err();
    assert!(matches!(error, StoreError::Io { .. }), "{error:?}");
}
