//! A run is carried on by another process: one takes it over, and the former holder is shut out.

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use forge_core::{Attempt, PhaseName, SandboxId, State, TaskId};

use super::{Home, at, new_attempt, new_run, owner, run_id, with_attempt};
use crate::{NewAttempt, NewRequest, ObjectKind, RequestKind, Store, StoreError};

#[tokio::test]
async fn a_run_is_taken_over_from_the_epoch_that_was_read_and_from_no_other() {
    let home = Home::new();
    let (store, _) = with_attempt(&home).await;
    let run = run_id(1);
    let take = async |epoch, holder: &str, second| {
        store
            .take_over_run(&run, epoch, holder, at(second))
            .await
            .unwrap()
    };
    assert_eq!(take(2, "too-new", 5).await, None);
    assert_eq!(take(1, "second", 6).await, Some(2));
    assert_eq!(take(1, "too-late", 7).await, None);
    assert_eq!(take(2, "third", 8).await, Some(3));
    let record = store.run(&run).await.unwrap();
    assert_eq!(
        (record.holder.as_str(), record.epoch, record.renewed_at),
        ("third", 3, Some(at(8)))
    );

    store.end_run(&run, at(9)).await.unwrap();
    assert_eq!(take(3, "after-the-end", 10).await, None);
    assert_eq!(store.run(&run).await.unwrap().holder, "third");
    let unknown = store.take_over_run(&run_id(9), 1, "holder", at(1)).await;
    assert!(
        matches!(unknown, Err(StoreError::NotFound { what: "run", .. })),
        "{unknown:?}"
    );
}

#[tokio::test]
async fn a_sign_of_life_counts_only_from_the_holder() {
    let home = Home::new();
    let (store, _) = with_attempt(&home).await;
    let run = run_id(1);
    assert!(store.renew(&run, 1, at(5)).await.unwrap());
    assert_eq!(store.run(&run).await.unwrap().renewed_at, Some(at(5)));
    store.take_over_run(&run, 1, "second", at(6)).await.unwrap();
    assert!(!store.renew(&run, 1, at(7)).await.unwrap());
    assert_eq!(store.run(&run).await.unwrap().renewed_at, Some(at(6)));
    assert!(store.renew(&run, 2, at(8)).await.unwrap());
    let unknown = store.renew(&run_id(9), 1, at(1)).await;
    assert!(
        matches!(unknown, Err(StoreError::NotFound { what: "run", .. })),
        "{unknown:?}"
    );
}

/// Every method that writes, on `store`, which writes for run 1.
async fn every_write(store: &Store, id: &SandboxId) -> Vec<Result<(), StoreError>> {
    let run = run_id(1);
    let kind = ObjectKind::Container;
    let next = new_attempt(1, "next", 1);
    let request = NewRequest {
        run,
        attempt: None,
        kind: RequestKind::Cancel,
        at: at(1),
    };
    let end = crate::PhaseEnd {
        at: at(2),
        exit_text: "exited".to_owned(),
        exit_code: Some(0),
        duration: std::time::Duration::ZERO,
        output_bytes: 0,
        truncated: false,
        log_path: None,
    };
    let state = store.attempt(id).await.unwrap().state;
    vec![
        store.begin_run(&new_run(2)).await,
        store.add_attempt(&next).await,
        store.add_attempts(&[new_attempt(1, "later", 1)]).await,
        store.transition(id, &state, &State::Creating, at(1)).await,
        store.set_image_digest(id, "sha256:1").await,
        store.set_report_path(id, "/out".as_ref()).await,
        store.set_progress(id, "{}").await,
        store.set_report(id, "{}").await,
        store.begin_anew(id).await,
        store.intend_object(id, kind, "c1", at(1)).await,
        store.object_created(kind, "c1", at(1)).await,
        store.object_removed(kind, "c1", at(1)).await,
        store.begin_phase(id, PhaseName::Setup, at(1)).await,
        store.end_phase(id, PhaseName::Setup, &end).await,
        store.add_artifacts(id, &[]).await,
        store.cleanup_ended(id, at(1)).await,
        store.request(&request).await,
        store.take_requests(&run).await.map(drop),
        store.renew(&run, 1, at(1)).await.map(drop),
        store.end_run(&run, at(3)).await.map(drop),
        store.files_removed(&run, at(3)).await.map(drop),
    ]
}

#[tokio::test]
async fn a_holder_whose_run_was_taken_over_writes_nothing_more() {
    let home = Home::new();
    let (store, id) = with_attempt(&home).await;
    let run = run_id(1);
    let waiting = NewRequest {
        run,
        attempt: None,
        kind: RequestKind::Release,
        at: at(1),
    };
    store.request(&waiting).await.unwrap();
    let former = store.fenced(run, 1);
    let other = home.open().await;
    let epoch = other.take_over_run(&run, 1, "second", at(4)).await.unwrap();
    assert_eq!(epoch, Some(2));
    let before = other.run(&run).await.unwrap();
    for (number, refused) in every_write(&former, &id).await.into_iter().enumerate() {
        assert!(
            matches!(&refused, Err(StoreError::Superseded { run: named, epoch: 1 }) if *named == run),
            "write {number}: {refused:?}"
        );
    }
    assert_eq!(former.run(&run).await.unwrap(), before);
    assert_eq!(former.attempts_of(&run).await.unwrap().len(), 1);
    assert_eq!(former.attempt(&id).await.unwrap().state, State::Pending);
    assert_eq!(other.take_requests(&run).await.unwrap().len(), 1);
}

#[tokio::test]
async fn the_holder_of_a_run_writes_all_it_has_to() {
    let home = Home::new();
    let (store, id) = with_attempt(&home).await;
    for (number, written) in every_write(&store.fenced(run_id(1), 1), &id)
        .await
        .into_iter()
        .enumerate()
    {
        assert!(written.is_ok(), "write {number}: {written:?}");
    }
}

#[tokio::test]
async fn a_holder_whose_run_is_deleted_is_told_so_and_the_error_of_a_take_over_helps() {
    let home = Home::new();
    let (store, id) = with_attempt(&home).await;
    let run = run_id(1);
    let holder = store.fenced(run, 1);
    holder.end_run(&run, at(1)).await.unwrap();
    holder.delete_run(&run).await.unwrap();
    let gone = holder.set_progress(&id, "{}").await;
    assert!(
        matches!(gone, Err(StoreError::NotFound { what: "run", .. })),
        "{gone:?}"
    );
    let taken = StoreError::Superseded { run, epoch: 1 };
    assert_eq!(
        taken.to_string(),
        format!("another process took run {run} over")
    );
    assert!(taken.hint().unwrap().contains(&run.to_string()));
}

#[tokio::test]
async fn how_far_an_attempt_is_reads_as_it_was_written_last() {
    let home = Home::new();
    let (store, id) = with_attempt(&home).await;
    assert_eq!(store.progress(&id).await.unwrap(), None);
    let long = format!("\"{}\"", "é\u{1f980}\0".repeat(100_000));
    for text in ["{\"phase\":1}", &long, ""] {
        store.set_progress(&id, text).await.unwrap();
        assert_eq!(store.progress(&id).await.unwrap().as_deref(), Some(text));
    }
    let stranger = SandboxId::new("no-such-attempt").unwrap();
    for refused in [
        store.progress(&stranger).await.map(drop),
        store.set_progress(&stranger, "{}").await,
        store.set_report(&stranger, "{}").await,
    ] {
        assert!(
            matches!(refused, Err(StoreError::NotFound { .. })),
            "{refused:?}"
        );
    }
}

/// The attempts of run 1, more than fit on a page, in an order that no index but one has.
fn thousand() -> Vec<NewAttempt> {
    let task = |number: u32| TaskId::new(format!("task-{}", 9999 - number)).unwrap();
    (0..1000)
        .map(|number| NewAttempt {
            id: SandboxId::for_attempt(&task(number), &run_id(1), Attempt(1)),
            task: task(number),
            ..new_attempt(1, "task", 1)
        })
        .collect()
}

#[tokio::test]
async fn the_reports_of_a_run_come_page_after_page_in_the_order_of_its_attempts() {
    let home = Home::new();
    let store = home.open().await;
    for run in [1, 2] {
        store.begin_run(&new_run(run)).await.unwrap();
    }
    store
        .add_attempt(&new_attempt(2, "other", 1))
        .await
        .unwrap();
    let attempts = thousand();
    store.add_attempts(&attempts).await.unwrap();
    assert_eq!(store.reports(&run_id(1)).await.unwrap(), []);
    let other = new_attempt(2, "other", 1).id;
    store.set_report(&other, "\"other\"").await.unwrap();
    let mut expected = Vec::new();
    for attempt in attempts.iter().step_by(3) {
        let report = format!("{{\"id\":\"{}\"}}", attempt.id);
        store.set_report(&attempt.id, "\"earlier\"").await.unwrap();
        store.set_report(&attempt.id, &report).await.unwrap();
        expected.push((attempt.id.clone(), report));
    }
    assert_eq!(expected.len(), 334);
    assert_eq!(store.reports(&run_id(1)).await.unwrap(), expected);
    let unknown = store.reports(&run_id(3)).await;
    assert!(
        matches!(unknown, Err(StoreError::NotFound { .. })),
        "{unknown:?}"
    );
}

const CHILD_DATABASE: &str = "FORGE_STORE_TEST_DATABASE";

/// The other process of the next test: waits for the word, then tries to take the run over.
#[tokio::test]
#[ignore = "is started by the test below, as a process of its own"]
async fn another_process_tries_to_take_the_run_over() {
    let Some(path) = std::env::var_os(CHILD_DATABASE) else {
        return;
    };
    let store = Store::open(PathBuf::from(path), owner("child"))
        .await
        .unwrap();
    for from_epoch in 1..=ROUNDS {
        print(&format!("ready {from_epoch}"));
        let mut word = String::new();
        std::io::stdin().read_line(&mut word).unwrap();
        let holder = std::process::id().to_string();
        let taken = store
            .take_over_run(&run_id(1), from_epoch, &holder, at(1))
            .await
            .unwrap();
        print(&format!("taken {taken:?}"));
    }
}

const ROUNDS: u64 = 50;

/// On a line of its own, whatever the test harness wrote before it.
fn print(line: &str) {
    std::io::stdout()
        .write_all(format!("\n{line}\n").as_bytes())
        .unwrap();
}

fn taker(home: &Home) -> (Child, impl Iterator<Item = String>) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "--nocapture"])
        .arg("tests::resuming::another_process_tries_to_take_the_run_over")
        .env(CHILD_DATABASE, home.database())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let told = BufReader::new(child.stdout.take().unwrap())
        .lines()
        .map(Result::unwrap)
        .filter(|line| line.starts_with("ready ") || line.starts_with("taken "));
    (child, told)
}

#[tokio::test]
async fn of_two_processes_that_take_a_run_over_exactly_one_gets_it() {
    let home = Home::new();
    let (store, _) = with_attempt(&home).await;
    let mut children = [taker(&home), taker(&home)];
    for from_epoch in 1..=ROUNDS {
        for (_, told) in &mut children {
            assert_eq!(told.next().unwrap(), format!("ready {from_epoch}"));
        }
        for (child, _) in &mut children {
            child.stdin.as_mut().unwrap().write_all(b"go\n").unwrap();
        }
        let mut answers = children.each_mut().map(|(_, told)| told.next().unwrap());
        answers.sort();
        let won = format!("taken Some({})", from_epoch + 1);
        assert_eq!(answers, ["taken None".to_owned(), won]);
    }
    for (mut child, told) in children {
        told.for_each(drop);
        assert!(child.wait().unwrap().success());
    }
    assert_eq!(store.run(&run_id(1)).await.unwrap().epoch, ROUNDS + 1);
}

#[tokio::test]
async fn an_attempt_that_begins_anew_has_no_phases_and_no_progress() {
    let home = Home::new();
    let (store, id) = with_attempt(&home).await;
    store.set_progress(&id, "{}").await.unwrap();
    for _ in 0..2 {
        store
            .begin_phase(&id, PhaseName::Setup, at(1))
            .await
            .unwrap();
        store.begin_anew(&id).await.unwrap();
        assert_eq!(store.progress(&id).await.unwrap(), None);
        assert_eq!(store.phases(&id).await.unwrap(), []);
    }
}

#[tokio::test]
async fn with_its_report_nobody_needs_to_know_how_far_an_attempt_was() {
    let home = Home::new();
    let (store, id) = with_attempt(&home).await;
    store.set_progress(&id, "{}").await.unwrap();
    store.set_report(&id, "{}").await.unwrap();
    assert_eq!(store.progress(&id).await.unwrap(), None);
}
