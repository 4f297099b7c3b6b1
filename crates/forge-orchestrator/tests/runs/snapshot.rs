//! Images of what setup changed that the engine made and nobody was told of.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use forge_core::ownership::keys;
use forge_core::{Cause, Reason};
use forge_engine::fake::{FakeEngine, FakeExec};
use forge_engine::{EngineErrorKind, FoundObject, ObjectKind, Operation};

use crate::support::Bench;

fn image(name: &str, sandbox: &str) -> FoundObject {
    let labels = [(keys::OWNER, "bench"), (keys::SANDBOX, sandbox)];
    FoundObject {
        kind: ObjectKind::Image,
        name: name.to_owned(),
        labels: BTreeMap::from(labels.map(|(key, value)| (key.to_owned(), value.to_owned()))),
        running: false,
    }
}

/// A bench whose engine has, once setup has run, an image of it and one of another sandbox.
async fn with_images() -> Bench {
    let engine: Arc<OnceLock<FakeEngine>> = Arc::default();
    let shared = Arc::clone(&engine);
    let bench = Bench::new(move |_| {
        if let Some(engine) = shared.get() {
            let calls = engine.calls();
            let setup = calls
                .iter()
                .find_map(|call| call.strip_prefix("create sandbox "))
                .unwrap();
            engine.add_object(image("half", setup));
            engine.add_object(image("other", "other-1-setup"));
        }
        FakeExec::exits(0)
    })
    .await;
    engine.set(bench.engine.clone()).unwrap();
    bench
}

#[tokio::test]
async fn an_image_whose_making_was_not_reported_goes_with_its_attempt_and_no_other_does() {
    let bench = with_images().await;
    // The engine made it, and the answer did not come.
    bench
        .engine
        .fail(Operation::Snapshot, EngineErrorKind::Deadline);
    let summary = bench.run_one(bench.task("t")).await;
    let task = &summary.report.tasks[0];
    assert_eq!(task.reason, Some(Reason::EngineError), "{}", task.message);
    assert!(task.cleanup_ended_at.is_some(), "{:?}", task.notes);
    assert_eq!(bench.engine.objects(), ["other"]);
    let left = bench.store.unremoved_objects(None).await.unwrap();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test]
async fn only_what_the_engine_refuses_to_keep_of_setup_is_the_task_s_own_doing() {
    for (kind, reason, cause) in [
        (
            EngineErrorKind::Rejected,
            Reason::WorkspaceUnusable,
            Cause::Task,
        ),
        (
            EngineErrorKind::Internal,
            Reason::EngineError,
            Cause::Infrastructure,
        ),
        (
            EngineErrorKind::Corrupt,
            Reason::EngineError,
            Cause::Infrastructure,
        ),
    ] {
        let bench = with_images().await;
        bench.engine.fail(Operation::Snapshot, kind);
        let summary = bench.run_one(bench.task("t")).await;
        let task = &summary.report.tasks[0];
        assert_eq!((task.reason, task.cause), (Some(reason), Some(cause)));
    }
}

#[tokio::test]
async fn what_setup_wrote_past_its_disk_is_the_task_s_own_doing() {
    let bench = with_images().await;
    bench
        .engine
        .fail(Operation::Snapshot, EngineErrorKind::Oversized);
    let summary = bench.run_one(bench.task("t")).await;
    let task = &summary.report.tasks[0];
    assert_eq!(task.reason, Some(Reason::DiskFull), "{}", task.message);
    assert_eq!(bench.engine.objects(), ["other"]);
}
