//! Several handles and several processes on one file.

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use forge_core::{PhaseName, SandboxId, State};
use tokio::task::JoinSet;

use super::{Home, at, new_attempt, new_run, owner, with_attempt};
use crate::{AttemptFilter, ObjectKind, RunKind, Store, StoreError};

#[tokio::test(flavor = "multi_thread")]
async fn two_handles_write_at_once_and_nothing_is_lost() {
    const EACH: u32 = 200;
    let home = Home::new();
    let mut writers = JoinSet::new();
    for run in [1, 2] {
        let store = home.open().await;
        store.begin_run(&new_run(run)).await.unwrap();
        for number in 0..EACH {
            let store = store.clone();
            writers.spawn(async move {
                let attempt = new_attempt(run, "task", number);
                store.add_attempt(&attempt).await.unwrap();
                store
                    .transition(&attempt.id, &State::Pending, &State::Creating, at(1))
                    .await
                    .unwrap();
                let name = attempt.id.as_str();
                store
                    .intend_object(&attempt.id, ObjectKind::Container, name, at(2))
                    .await
                    .unwrap();
                // Whatever a handle wrote, it reads.
                assert_eq!(
                    store.attempt(&attempt.id).await.unwrap().state,
                    State::Creating
                );
            });
        }
    }
    while let Some(written) = writers.join_next().await {
        written.unwrap();
    }
    let store = home.open().await;
    let attempts = store.attempts(&AttemptFilter::default()).await.unwrap();
    assert_eq!(attempts.len(), 2 * EACH as usize);
    assert!(
        attempts
            .iter()
            .all(|attempt| attempt.state == State::Creating)
    );
    let objects = store.unremoved_objects(None).await.unwrap();
    assert_eq!(objects.len(), 2 * EACH as usize);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_many_open_first_is_made_once() {
    let home = Home::new();
    let mut openers = JoinSet::new();
    for number in 0..16_u32 {
        let path = home.database();
        openers.spawn(async move {
            let store = Store::open(path, owner(&format!("owner{number}")))
                .await
                .unwrap();
            store.begin_run(&new_run(number.into())).await.unwrap();
            store.owner().clone()
        });
    }
    let mut owners = openers.join_all().await;
    owners.dedup();
    assert_eq!(owners.len(), 1, "{owners:?}");
    assert_eq!(home.open().await.runs(99).await.unwrap().len(), 16);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_that_move_an_attempt_on_one_wins() {
    let home = Home::new();
    let (first, id) = with_attempt(&home).await;
    let second = home.open().await;
    let (one, other) = tokio::join!(
        first.transition(&id, &State::Pending, &State::Creating, at(1)),
        second.transition(&id, &State::Pending, &State::Creating, at(2)),
    );
    let (won, lost) = if one.is_ok() {
        (one, other)
    } else {
        (other, one)
    };
    won.unwrap();
    assert!(
        matches!(lost, Err(StoreError::StateConflict { .. })),
        "{lost:?}"
    );
    assert_eq!(first.transitions(&id).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_handle_leaked_in_the_middle_leaves_the_record_usable() {
    let home = Home::new();
    let (leaked, id) = with_attempt(&home).await;
    leaked
        .transition(&id, &State::Pending, &State::Creating, at(1))
        .await
        .unwrap();
    leaked
        .intend_object(&id, ObjectKind::Container, "half-made", at(1))
        .await
        .unwrap();
    leaked
        .begin_phase(&id, PhaseName::Setup, at(2))
        .await
        .unwrap();
    std::mem::forget(leaked);

    let store = home.open().await;
    let attempt = store.attempt(&id).await.unwrap();
    assert_eq!(attempt.state, State::Creating);
    assert_eq!(
        store.unremoved_objects(None).await.unwrap()[0].name,
        "half-made"
    );
    assert_eq!(store.phases(&id).await.unwrap()[0].end, None);
    assert_eq!(store.unfinished_runs().await.unwrap()[0].kind, RunKind::Run);
    store
        .transition(&id, &State::Creating, &State::Running, at(3))
        .await
        .unwrap();
    store.close().await.unwrap();
}

const CHILD_DATABASE: &str = "FORGE_STORE_TEST_DATABASE";

/// The other process of the next test: writes until it is killed, and tells what is written.
#[tokio::test]
#[ignore = "is started by the test below, as a process of its own"]
async fn another_process_writes_until_it_is_killed() {
    let Some(path) = std::env::var_os(CHILD_DATABASE) else {
        return;
    };
    let store = Store::open(PathBuf::from(path), owner("child"))
        .await
        .unwrap();
    store.begin_run(&new_run(2)).await.unwrap();
    for number in 0.. {
        let attempt = new_attempt(2, "child", number);
        store.add_attempt(&attempt).await.unwrap();
        let line = format!("recorded {}\n", attempt.id);
        std::io::stdout().write_all(line.as_bytes()).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_write_that_returned_survives_the_kill_of_its_process() {
    let home = Home::new();
    let store = home.open().await;
    store.begin_run(&new_run(1)).await.unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "--nocapture"])
        .arg("tests::sharing::another_process_writes_until_it_is_killed")
        .env(CHILD_DATABASE, home.database())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut told = BufReader::new(child.stdout.take().unwrap())
        .lines()
        .map_while(Result::ok)
        .filter_map(|line| Some(SandboxId::new(line.strip_prefix("recorded ")?).unwrap()));
    let mut recorded = Vec::new();
    for number in 0..100 {
        store
            .add_attempt(&new_attempt(1, "parent", number))
            .await
            .unwrap();
        recorded.extend(told.next());
    }
    child.kill().unwrap();
    recorded.extend(told);
    child.wait().unwrap();

    assert!(recorded.len() >= 100);
    for id in &recorded {
        store.attempt(id).await.unwrap();
    }
    store
        .add_attempt(&new_attempt(1, "parent", 100))
        .await
        .unwrap();
    assert_eq!(store.owner(), &owner("0123456789ab"));
}
