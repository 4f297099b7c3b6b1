//! Old runs are forgotten, those still needed are not.

use std::path::PathBuf;

use forge_core::PhaseName;

use super::{Home, at, new_attempt, new_run, run_id};
use crate::{
    AttemptFilter, DeletedRun, NewRequest, ObjectKind, RequestKind, RunFiles, Store, StoreError,
};

/// Runs 1 and 2 ended at 10 and 20, run 3 has not, run 4 ended at 5 and left a volume.
async fn runs_of_all_ages(home: &Home) -> Store {
    let store = home.open().await;
    for (run, end) in [(1, Some(10)), (2, Some(20)), (3, None), (4, Some(5))] {
        store.begin_run(&new_run(run)).await.unwrap();
        let attempt = new_attempt(run, "task", 1);
        store.add_attempt(&attempt).await.unwrap();
        store
            .begin_phase(&attempt.id, PhaseName::Setup, at(1))
            .await
            .unwrap();
        let kind = ObjectKind::Volume;
        let name = format!("v{run}");
        store
            .intend_object(&attempt.id, kind, &name, at(1))
            .await
            .unwrap();
        if run != 4 {
            store.object_removed(kind, &name, at(2)).await.unwrap();
        }
        if let Some(end) = end {
            store.end_run(&run_id(run), at(end)).await.unwrap();
        }
    }
    store
}

#[tokio::test]
async fn runs_that_ended_long_ago_and_left_nothing_are_deleted_with_their_attempts() {
    let home = Home::new();
    let store = runs_of_all_ages(&home).await;
    let expired: Vec<_> = store
        .expired_runs(at(15))
        .await
        .unwrap()
        .into_iter()
        .map(|run| run.id)
        .collect();
    assert_eq!(expired, [run_id(1)]);
    let deleted = store.delete_runs_before(at(1000)).await.unwrap();
    let out = |run: u128| DeletedRun {
        id: run_id(run),
        out_directory: PathBuf::from(format!("/out/{run}")),
    };
    assert_eq!(deleted, [out(1), out(2)]);
    let left = store.attempts(&AttemptFilter::default()).await.unwrap();
    let left: Vec<_> = left.into_iter().map(|attempt| attempt.run).collect();
    assert_eq!(left, [run_id(4), run_id(3)]);
    let orphans: i64 = store
        .read("count", |connection| {
            let sql = "SELECT (SELECT count(*) FROM phases) + (SELECT count(*) FROM objects)";
            Ok(connection.query_row(sql, [], |row| row.get(0))?)
        })
        .await
        .unwrap();
    assert_eq!(orphans, 4);
}

#[tokio::test]
async fn runs_whose_files_are_there_come_by_their_end_until_the_files_are_removed() {
    let home = Home::new();
    let store = runs_of_all_ages(&home).await;
    let files = |run: u128, end| RunFiles {
        run: run_id(run),
        out_directory: PathBuf::from(format!("/out/{run}")),
        ended_at: at(end),
    };
    let all = [files(4, 5), files(1, 10), files(2, 20)];
    assert_eq!(store.runs_with_files(9).await.unwrap(), all);
    assert_eq!(store.runs_with_files(2).await.unwrap(), all[..2]);

    assert!(store.files_removed(&run_id(4), at(30)).await.unwrap());
    assert!(!store.files_removed(&run_id(4), at(31)).await.unwrap());
    assert_eq!(store.runs_with_files(9).await.unwrap(), all[1..]);
    let record = store.run(&run_id(4)).await.unwrap();
    assert_eq!(record.files_removed_at, Some(at(30)));
    let unknown = store.files_removed(&run_id(5), at(30)).await;
    assert!(
        matches!(unknown, Err(StoreError::NotFound { .. })),
        "{unknown:?}"
    );
}

#[tokio::test]
async fn a_deleted_run_leaves_nothing_in_any_table() {
    let home = Home::new();
    let store = home.open().await;
    for run in [1, 2] {
        store.begin_run(&new_run(run)).await.unwrap();
        let attempt = new_attempt(run, "task", 1);
        store.add_attempt(&attempt).await.unwrap();
        store.set_report(&attempt.id, "{}").await.unwrap();
        store.set_progress(&attempt.id, "{}").await.unwrap();
        for about in [None, Some(attempt.id)] {
            let request = NewRequest {
                run: run_id(run),
                attempt: about,
                kind: RequestKind::Cancel,
                at: at(1),
            };
            store.request(&request).await.unwrap();
        }
    }
    store.end_run(&run_id(1), at(2)).await.unwrap();
    store.delete_run(&run_id(1)).await.unwrap();
    let left = store
        .read("count", |connection| {
            let mut left = Vec::new();
            for table in [
                "runs", "plans", "attempts", "progress", "reports", "requests",
            ] {
                let sql = format!("SELECT count(*) FROM {table}");
                left.push(connection.query_row(&sql, [], |row| row.get::<_, u32>(0))?);
            }
            Ok(left)
        })
        .await
        .unwrap();
    assert_eq!(left, [1, 1, 1, 1, 1, 2]);
}

#[tokio::test]
async fn a_run_that_is_needed_cannot_be_deleted() {
    let home = Home::new();
    let store = runs_of_all_ages(&home).await;
    for run in [3, 4] {
        let refused = store.delete_run(&run_id(run)).await;
        assert!(
            matches!(refused, Err(StoreError::RunInUse { .. })),
            "{refused:?}"
        );
    }
    store
        .object_removed(ObjectKind::Volume, "v4", at(6))
        .await
        .unwrap();
    store.delete_run(&run_id(4)).await.unwrap();
    let again = store.delete_run(&run_id(4)).await;
    assert!(
        matches!(again, Err(StoreError::NotFound { .. })),
        "{again:?}"
    );
}
