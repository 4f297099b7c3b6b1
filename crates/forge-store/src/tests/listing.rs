//! Attempts are found by filter and by what a person types, without reading them all.

use std::collections::BTreeSet;

use forge_core::life_cycle::StateName;
use forge_core::{SandboxId, State, TaskId};
use rusqlite::{Connection, params_from_iter};

use super::{Home, at, failure, new_attempt, new_run, run_id};
use crate::listing::{IN_ORDER, Listing, waiting};
use crate::{AttemptFilter, AttemptRecord, Store, StoreError};

fn ids(attempts: &[AttemptRecord]) -> Vec<&str> {
    attempts.iter().map(|attempt| attempt.id.as_str()).collect()
}

/// Two runs; `alpha`, `beta`, `beta-2` in the first, `alpha` twice in the second.
async fn some(home: &Home) -> Store {
    let store = home.open().await;
    for run in [1, 2] {
        store.begin_run(&new_run(run)).await.unwrap();
    }
    for (run, task, attempt) in [
        (1, "alpha", 1),
        (1, "beta", 1),
        (1, "beta-2", 1),
        (2, "alpha", 1),
        (2, "alpha", 2),
    ] {
        store
            .add_attempt(&new_attempt(run, task, attempt))
            .await
            .unwrap();
    }
    let failed = State::Failed(failure());
    let id = new_attempt(1, "beta", 1).id;
    store
        .transition(&id, &State::Pending, &failed, at(1))
        .await
        .unwrap();
    let id = new_attempt(2, "alpha", 1).id;
    store
        .transition(&id, &State::Pending, &State::Creating, at(1))
        .await
        .unwrap();
    store
}

#[tokio::test]
async fn each_condition_of_a_filter_holds_and_the_newest_come_first() {
    let home = Home::new();
    let store = some(&home).await;
    let filter =
        |run: Option<u128>, states: &[StateName], live_only, prefix: Option<&str>| AttemptFilter {
            run: run.map(run_id),
            states: states.to_vec(),
            live_only,
            task_prefix: prefix.map(str::to_owned),
            ..AttemptFilter::default()
        };
    let two_states = [StateName::Creating, StateName::Failed];
    let everything = ["alpha-00000002-2", "alpha-00000002-1", "beta-2-00000001-1"];
    let everything = [&everything[..], &["beta-00000001-1", "alpha-00000001-1"]].concat();
    let betas = vec!["beta-2-00000001-1", "beta-00000001-1"];
    let first_live = vec!["beta-2-00000001-1", "alpha-00000001-1"];
    let by_state = vec!["alpha-00000002-1", "beta-00000001-1"];
    let cases = [
        (filter(None, &[], false, None), everything.clone()),
        (filter(None, &[], false, Some("")), everything.clone()),
        (filter(Some(2), &[], false, None), everything[..2].to_vec()),
        (filter(None, &[], false, Some("bet")), betas.clone()),
        (filter(None, &[], false, Some("%")), vec![]),
        (filter(None, &two_states, false, None), by_state),
        (
            filter(Some(1), &two_states, false, Some("beta")),
            betas[1..].to_vec(),
        ),
        (filter(Some(1), &[], true, None), first_live),
        (
            filter(None, &two_states, true, None),
            everything[1..2].to_vec(),
        ),
        (filter(None, &[StateName::Failed], true, None), vec![]),
    ];
    for (filter, expected) in cases {
        let found = store.attempts(&filter).await.unwrap();
        assert_eq!(ids(&found), expected, "{filter:?}");
        let limited = AttemptFilter {
            limit: Some(1),
            ..filter
        };
        let found = store.attempts(&limited).await.unwrap();
        assert_eq!(
            ids(&found),
            expected[..expected.len().min(1)],
            "{limited:?}"
        );
    }
    let unknown = filter(Some(3), &[], false, None);
    let answer = store.attempts(&unknown).await;
    assert!(
        matches!(answer, Err(StoreError::NotFound { .. })),
        "{answer:?}"
    );
}

#[tokio::test]
async fn a_person_finds_an_attempt_by_id_by_task_and_by_the_beginning_of_an_id() {
    let home = Home::new();
    let store = some(&home).await;
    for (text, expected) in [
        ("alpha-00000001-1", "alpha-00000001-1"),
        ("alpha", "alpha-00000002-2"),
        ("beta", "beta-00000001-1"),
        ("beta-0", "beta-00000001-1"),
        ("alpha-00000001", "alpha-00000001-1"),
    ] {
        assert_eq!(
            store.find_attempt(text).await.unwrap().id.as_str(),
            expected,
            "{text}"
        );
    }
    for text in [
        "",
        "gamma",
        "alpha-00000001-1-",
        "%",
        "alph_",
        "b\u{10ffff}",
    ] {
        let answer = store.find_attempt(text).await;
        assert!(
            matches!(answer, Err(StoreError::NotFound { .. })),
            "{text}: {answer:?}"
        );
    }
}

#[tokio::test]
async fn a_beginning_that_fits_several_attempts_names_them() {
    let home = Home::new();
    let store = some(&home).await;
    let error = store.find_attempt("bet").await.unwrap_err();
    let StoreError::Ambiguous { candidates, .. } = &error else {
        panic!("{error:?}");
    };
    let candidates: Vec<_> = candidates.iter().map(SandboxId::as_str).collect();
    assert_eq!(candidates, ["beta-2-00000001-1", "beta-00000001-1"]);
    assert!(
        error
            .hint()
            .unwrap()
            .contains("beta-2-00000001-1, beta-00000001-1")
    );
}

/// Fills the record with 100,000 attempts in 10 runs: 99 of 100 are over.
async fn many(store: &Store) {
    for run in 0..10 {
        store.begin_run(&new_run(run)).await.unwrap();
    }
    store
        .writer()
        .call(|connection| {
            connection.execute_batch(
                "BEGIN;
                 WITH RECURSIVE number (n) AS (
                     SELECT 0 UNION ALL SELECT n + 1 FROM number WHERE n < 99999
                 )
                 INSERT INTO attempts (public_id, run_id, task_id, attempt, repetition, title,
                                       difficulty, image, state, created_at)
                 SELECT printf('py-%05d-%08x-1', n / 10, n % 10), n % 10 + 1,
                        printf('py-%05d', n / 10), 1, 1, 'Fix the cache', 'easy', 'image',
                        iif(n % 100 = 99, 'RUNNING', 'CLEANUP'), n
                 FROM number;
                 COMMIT;",
            )
        })
        .await
        .unwrap()
        .unwrap();
}

fn plan(connection: &Connection, sql: &str, parameters: Vec<rusqlite::types::Value>) -> String {
    let mut statement = connection
        .prepare(&format!("EXPLAIN QUERY PLAN {sql}"))
        .unwrap();
    let steps: Vec<String> = statement
        .query_map(params_from_iter(parameters), |row| row.get("detail"))
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap();
    steps.join("\n")
}

/// Every filter with at least one condition that has an index.
fn filters() -> Vec<AttemptFilter> {
    let mut filters = Vec::new();
    for bits in 1..16_u8 {
        filters.push(AttemptFilter {
            run: (bits & 1 != 0).then(|| run_id(3)),
            states: if bits & 2 != 0 {
                vec![StateName::Cleanup, StateName::Failed]
            } else {
                Vec::new()
            },
            live_only: bits & 4 != 0 && bits & 2 == 0,
            task_prefix: (bits & 8 != 0).then(|| "py-".to_owned()),
            older_than: None,
            limit: Some(50),
        });
    }
    filters
}

#[tokio::test]
async fn no_listing_of_a_hundred_thousand_attempts_reads_the_whole_table() {
    let home = Home::new();
    let store = home.open().await;
    many(&store).await;
    let last = SandboxId::new("py-05000-00000005-1").unwrap();
    let plans = store
        .read("explain", move |connection| {
            let mut plans = Vec::new();
            for mut filter in filters() {
                for older_than in [None, Some(last.clone())] {
                    filter.older_than = older_than;
                    let listing = Listing::new(connection, &filter)?.unwrap();
                    plans.push((
                        filter.clone(),
                        plan(connection, &listing.sql, listing.parameters),
                    ));
                }
            }
            Ok(plans)
        })
        .await
        .unwrap();
    assert_eq!(plans.len(), 30);
    for (filter, plan) in plans {
        let context = format!("{filter:?}\n{plan}");
        assert!(
            plan.contains("SEARCH attempts USING COVERING INDEX"),
            "{context}"
        );
        assert!(
            plan.contains("SEARCH attempts USING INTEGER PRIMARY KEY"),
            "{context}"
        );
        assert!(!plan.contains("SCAN attempts"), "{context}");
        assert!(!plan.contains("SCAN runs"), "{context}");
    }
}

#[tokio::test]
async fn the_attempts_of_a_run_come_in_the_order_they_were_recorded_without_sorting() {
    let home = Home::new();
    let store = some(&home).await;
    store
        .add_attempts(&[new_attempt(1, "alpha", 2), new_attempt(1, "aa", 1)])
        .await
        .unwrap();
    let found = store.attempts_of(&run_id(1)).await.unwrap();
    let expected = ["alpha-00000001-1", "beta-00000001-1", "beta-2-00000001-1"];
    let expected = [&expected[..], &["alpha-00000001-2", "aa-00000001-1"]].concat();
    assert_eq!(ids(&found), expected);
    assert!(found.iter().all(|attempt| attempt.run == run_id(1)));
    let unknown = store.attempts_of(&run_id(3)).await;
    assert!(
        matches!(unknown, Err(StoreError::NotFound { .. })),
        "{unknown:?}"
    );
    let plan = store
        .read("explain", |connection| {
            let parameters = vec![1.into(), String::new().into()];
            Ok(plan(connection, IN_ORDER, parameters))
        })
        .await
        .unwrap();
    assert_eq!(
        plan,
        "SEARCH attempts USING INDEX attempts_in_order (run_id=?)"
    );
}

#[tokio::test]
async fn what_waits_comes_in_its_order_from_an_index_alone() {
    let home = Home::new();
    let store = some(&home).await;
    let pending = async |run: Option<u128>, limit| {
        let run = run.map(run_id);
        let found = store.pending(run.as_ref(), limit).await.unwrap();
        found
            .into_iter()
            .map(|attempt| attempt.id.to_string())
            .collect::<Vec<_>>()
    };
    let all = ["alpha-00000001-1", "beta-2-00000001-1", "alpha-00000002-2"];
    assert_eq!(pending(None, 9).await, all);
    assert_eq!(pending(None, 2).await, all[..2]);
    assert_eq!(pending(Some(2), 9).await, all[2..]);
    let unknown = store.pending(Some(&run_id(3)), 9).await;
    assert!(
        matches!(unknown, Err(StoreError::NotFound { .. })),
        "{unknown:?}"
    );
    let plans = store
        .read("explain", |connection| {
            let one = plan(connection, &waiting(true), vec![9.into(), 1.into()]);
            Ok([plan(connection, &waiting(false), vec![9.into()]), one])
        })
        .await
        .unwrap();
    for plan in plans {
        assert!(
            plan.contains("SCAN attempts USING COVERING INDEX attempts_waiting"),
            "{plan}"
        );
        assert!(!plan.contains("TEMP B-TREE"), "{plan}");
    }
}

#[tokio::test]
async fn attempts_recorded_together_are_recorded_all_or_none() {
    let home = Home::new();
    let store = some(&home).await;
    let twice = [
        new_attempt(1, "gamma", 1),
        new_attempt(2, "gamma", 1),
        new_attempt(1, "beta", 1),
    ];
    let refused = store.add_attempts(&twice).await;
    assert!(
        matches!(refused, Err(StoreError::Constraint { .. })),
        "{refused:?}"
    );
    let all = store.attempts(&AttemptFilter::default()).await.unwrap();
    assert_eq!(all.len(), 5);
    store.add_attempts(&twice[..2]).await.unwrap();
    for attempt in &twice[..2] {
        assert_eq!(
            store.attempt(&attempt.id).await.unwrap().state,
            State::Pending
        );
    }
    store.add_attempts(&[]).await.unwrap();
}

#[tokio::test]
async fn pages_of_a_hundred_thousand_attempts_follow_each_other_without_gap_or_repeat() {
    let home = Home::new();
    let store = home.open().await;
    many(&store).await;
    let mut filter = AttemptFilter {
        live_only: true,
        limit: Some(300),
        ..AttemptFilter::default()
    };
    let mut seen = Vec::new();
    loop {
        let page = store.attempts(&filter).await.unwrap();
        let Some(last) = page.last() else { break };
        filter.older_than = Some(last.id.clone());
        seen.extend(page.into_iter().map(|attempt| attempt.id));
    }
    assert_eq!(seen.len(), 1000);
    assert_eq!(seen.iter().collect::<BTreeSet<_>>().len(), 1000);
    assert_eq!(seen[0].as_str(), "py-09999-00000009-1");
    let found = store.find_attempt("py-00042-00000003").await.unwrap();
    assert_eq!(found.task, TaskId::new("py-00042").unwrap());
    let many = store.find_attempt("py-0").await;
    assert!(
        matches!(&many, Err(StoreError::Ambiguous { candidates, .. }) if candidates.len() == 20),
        "{many:?}"
    );
}
