//! Failures while the record is open, each with its type.

use std::sync::mpsc;
use std::time::Duration;

use forge_core::{ResourceUsage, SandboxId};
use jiff::Timestamp;
use rusqlite::Connection;

use super::{Home, at, new_attempt, new_run, run_id, with_attempt};
use crate::{AttemptFilter, Store, StoreError};

async fn on_writer<T: Send + 'static>(
    store: &Store,
    job: impl FnOnce(&mut Connection) -> rusqlite::Result<T> + Send + 'static,
) -> T {
    store.writer().call(job).await.unwrap().unwrap()
}

#[tokio::test]
async fn a_full_disk_is_told_and_what_was_recorded_stays() {
    let home = Home::new();
    let (store, _) = with_attempt(&home).await;
    on_writer(&store, |connection| {
        let pages: i64 = connection.pragma_query_value(None, "page_count", |row| row.get(0))?;
        connection.pragma_update_and_check(None, "max_page_count", pages + 2, |_| Ok(()))
    })
    .await;
    let mut recorded = 1;
    let error = loop {
        match store.add_attempt(&new_attempt(1, "filler", recorded)).await {
            Ok(()) => recorded += 1,
            Err(error) => break error,
        }
        assert!(recorded < 10_000, "the database never filled up");
    };
    assert!(matches!(error, StoreError::Full { .. }), "{error:?}");
    assert!(error.hint().is_some());
    on_writer(&store, |connection| {
        connection.pragma_update_and_check(None, "max_page_count", 1_000_000, |_| Ok(()))
    })
    .await;
    store
        .add_attempt(&new_attempt(1, "filler", recorded))
        .await
        .unwrap();
    let all = store.attempts(&AttemptFilter::default()).await.unwrap();
    assert_eq!(all.len(), recorded as usize + 1);
}

#[tokio::test]
async fn a_lock_held_for_too_long_is_told() {
    let home = Home::new();
    let (store, _) = with_attempt(&home).await;
    on_writer(&store, |connection| {
        connection.busy_timeout(Duration::from_millis(20))
    })
    .await;
    let other = Connection::open(home.database()).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let error = store.begin_run(&new_run(2)).await.unwrap_err();
    assert!(matches!(error, StoreError::Busy { .. }), "{error:?}");
    // Reading goes on meanwhile.
    assert_eq!(store.runs(9).await.unwrap().len(), 1);
    other.execute_batch("ROLLBACK").unwrap();
    store.begin_run(&new_run(2)).await.unwrap();
}

#[tokio::test]
async fn recording_a_thing_twice_breaks_a_constraint() {
    let home = Home::new();
    let (store, _) = with_attempt(&home).await;
    let run = store.begin_run(&new_run(1)).await;
    assert!(matches!(run, Err(StoreError::Constraint { .. })), "{run:?}");
    let same = store.add_attempt(&new_attempt(1, "py-lru", 1)).await;
    assert!(
        matches!(same, Err(StoreError::Constraint { .. })),
        "{same:?}"
    );

    let mut other_id = new_attempt(1, "py-lru", 1);
    other_id.id = SandboxId::new("another-id").unwrap();
    let same_try = store.add_attempt(&other_id).await;
    assert!(
        matches!(same_try, Err(StoreError::Constraint { .. })),
        "{same_try:?}"
    );
    other_id.repetition = 2;
    store.add_attempt(&other_id).await.unwrap();

    let no_run = store.add_attempt(&new_attempt(9, "py-lru", 1)).await;
    assert!(
        matches!(no_run, Err(StoreError::NotFound { what: "run", .. })),
        "{no_run:?}"
    );
}

#[tokio::test]
async fn a_value_that_does_not_fit_is_refused() {
    let home = Home::new();
    let (store, id) = with_attempt(&home).await;
    let usage = ResourceUsage {
        cpu_seconds: f64::NAN,
        ..ResourceUsage::default()
    };
    let refused = store.set_usage(&id, &usage).await;
    assert!(
        matches!(refused, Err(StoreError::Value { .. })),
        "{refused:?}"
    );
    let refused = store.cleanup_ended(&id, Timestamp::MAX).await;
    assert!(
        matches!(refused, Err(StoreError::Value { .. })),
        "{refused:?}"
    );
    let attempt = store.attempt(&id).await.unwrap();
    assert_eq!((attempt.usage, attempt.cleanup_ended_at), (None, None));
}

#[tokio::test]
async fn a_recorded_value_of_a_later_version_is_told() {
    let home = Home::new();
    let (store, id) = with_attempt(&home).await;
    for change in [
        "state = 'FAILED', reason = 'struck_by_lightning'",
        "state = 'FAILED', reason = NULL",
        "state = 'TIMEOUT', deadline = NULL",
        "state = 'PENDING', usage = '[]'",
    ] {
        let sql = format!("UPDATE attempts SET {change}");
        on_writer(&store, move |connection| connection.execute(&sql, [])).await;
        let error = store.attempt(&id).await.unwrap_err();
        assert!(
            matches!(error, StoreError::Unreadable { .. }),
            "{change}: {error:?}"
        );
    }
}

#[tokio::test]
async fn damage_that_opening_does_not_see_is_told_when_it_is_met() {
    let home = Home::new();
    let (store, id) = with_attempt(&home).await;
    store.close().await.unwrap();
    let mut bytes = std::fs::read(home.database()).unwrap();
    let root = {
        let raw = Connection::open(home.database()).unwrap();
        raw.query_row(
            "SELECT rootpage FROM sqlite_schema WHERE name = 'attempts'",
            [],
            |row| row.get::<_, u32>(0),
        )
        .unwrap()
    };
    let page = root as usize * 4096;
    bytes[page - 4096..page].fill(0xee);
    std::fs::write(home.database(), &bytes).unwrap();
    let store = home.open().await;
    let error = store.attempt(&id).await.unwrap_err();
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error:?}");
    store.close().await.unwrap();
    assert_eq!(std::fs::read(home.database()).unwrap(), bytes);
}

#[tokio::test]
async fn a_writer_thread_that_died_is_told_and_reading_goes_on() {
    let home = Home::new();
    let (store, id) = with_attempt(&home).await;
    let died = store
        .writer()
        .call(|_| panic!("this panic is part of the test"))
        .await;
    assert!(
        matches!(died, Err(StoreError::ThreadGone { .. })),
        "{died:?}"
    );
    let write = store.end_run(&run_id(1), at(1)).await;
    assert!(
        matches!(write, Err(StoreError::ThreadGone { .. })),
        "{write:?}"
    );
    assert_eq!(store.attempt(&id).await.unwrap().id, id);
    let closed = store.close().await;
    assert!(
        matches!(closed, Err(StoreError::ThreadGone { .. })),
        "{closed:?}"
    );
}

#[tokio::test]
async fn a_closed_record_refuses_and_closes_again_without_complaint() {
    let home = Home::new();
    let (store, id) = with_attempt(&home).await;
    let clone = store.clone();
    store.close().await.unwrap();
    let write = clone.end_run(&run_id(1), at(1)).await;
    assert!(matches!(write, Err(StoreError::Closed { .. })), "{write:?}");
    let read = clone.attempt(&id).await;
    assert!(matches!(read, Err(StoreError::Closed { .. })), "{read:?}");
    clone.close().await.unwrap();
}

#[tokio::test]
async fn dropping_the_last_handle_neither_waits_nor_loses_what_was_sent() {
    let home = Home::new();
    let (store, _) = with_attempt(&home).await;
    let (let_go, held) = mpsc::channel::<()>();
    let (ended, ending) = mpsc::channel::<()>();
    let mut holding = Box::pin(store.writer().call(move |_| {
        // Ends when the writer is let go, and tells by `ended` being dropped when it is all over.
        held.recv().unwrap();
    }));
    let run = new_run(2);
    let mut sent = Box::pin(store.begin_run(&run));
    let mut last = Box::pin(store.writer().call(move |_| drop(ended)));
    // One poll each puts them into the queue.
    tokio::select! {
        biased;
        _ = &mut holding => panic!("nothing let the writer go"),
        _ = &mut sent => panic!("the writer was held"),
        _ = &mut last => panic!("the writer was held"),
        () = std::future::ready(()) => {}
    }
    drop((holding, sent, last));
    drop(store);
    let_go.send(()).unwrap();
    ending.recv().unwrap_err();
    let reopened = home.open().await;
    assert_eq!(reopened.run(&run_id(2)).await.unwrap().id, run_id(2));
}
