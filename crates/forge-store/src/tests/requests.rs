//! What is asked of the process that drives a run reaches it once.

use super::{Home, at, new_attempt, new_run, run_id, with_attempt};
use crate::{NewRequest, Request, RequestKind, Store, StoreError};

fn cancel(run: u128) -> NewRequest {
    NewRequest {
        run: run_id(run),
        attempt: None,
        kind: RequestKind::Cancel,
        at: at(1),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_taken_once_and_in_their_order_by_the_run_they_are_for() {
    let home = Home::new();
    let (holder, id) = with_attempt(&home).await;
    holder.begin_run(&new_run(2)).await.unwrap();
    let asking = home.open().await;
    let release = NewRequest {
        attempt: Some(id.clone()),
        kind: RequestKind::Release,
        at: at(9),
        ..cancel(1)
    };
    // The later one carries the earlier time: the order is that of the asking.
    asking.request(&release).await.unwrap();
    asking.request(&cancel(2)).await.unwrap();
    asking.request(&cancel(1)).await.unwrap();
    let expected = [
        Request {
            attempt: Some(id),
            kind: RequestKind::Release,
            at: at(9),
        },
        Request {
            attempt: None,
            kind: RequestKind::Cancel,
            at: at(1),
        },
    ];
    let run = run_id(1);
    let (one, other) = tokio::join!(holder.take_requests(&run), asking.take_requests(&run));
    let mut taken = [one.unwrap(), other.unwrap()];
    taken.sort_by_key(Vec::len);
    assert_eq!(taken, [vec![], expected.to_vec()]);
    assert_eq!(holder.take_requests(&run_id(2)).await.unwrap().len(), 1);
}

#[tokio::test]
async fn looking_for_requests_where_there_is_none_writes_nothing() {
    let home = Home::new();
    let (store, _) = with_attempt(&home).await;
    store.close().await.unwrap();
    let read_only = Store::open_read_only(home.database()).await.unwrap();
    assert_eq!(read_only.take_requests(&run_id(1)).await.unwrap(), []);
    let asking = home.open().await;
    asking.request(&cancel(1)).await.unwrap();
    let refused = read_only.take_requests(&run_id(1)).await;
    assert!(
        matches!(refused, Err(StoreError::ReadOnly { .. })),
        "{refused:?}"
    );
}

#[tokio::test]
async fn a_request_about_nothing_that_is_recorded_is_refused() {
    let home = Home::new();
    let (store, _) = with_attempt(&home).await;
    store.begin_run(&new_run(2)).await.unwrap();
    let of_another_run = NewRequest {
        attempt: Some(new_attempt(1, "py-lru", 1).id),
        ..cancel(2)
    };
    for (request, missing) in [(cancel(3), "run"), (of_another_run, "attempt")] {
        let refused = store.request(&request).await;
        assert!(
            matches!(refused, Err(StoreError::NotFound { what, .. }) if what == missing),
            "{refused:?}"
        );
    }
    let unknown = store.take_requests(&run_id(3)).await;
    assert!(
        matches!(unknown, Err(StoreError::NotFound { .. })),
        "{unknown:?}"
    );
}
