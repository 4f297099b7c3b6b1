//! From making a sandbox to its removal.

use forge_core::Ending;
use forge_wire::Secret;
use futures::future::join_all;

use super::cancel::Given;
use super::scene::{Scene, credentials};
use super::{Act, Failure};
use crate::engine::Credentials;
use crate::error::EngineErrorKind;
use crate::sandbox::Condition;

pub(super) async fn a_command_runs_and_its_output_and_code_come_back(
    scene: &Scene,
) -> Result<(), Failure> {
    let made = scene.sandbox().await?;
    ensure!(
        made.sandbox.id() == made.id(),
        "it says that it is {}",
        made.sandbox.id()
    );
    let finished = scene.run(&*made.sandbox, &Act::Exit(7)).await?;
    ensure!(
        finished.report.ending == Ending::Exited(7),
        "it ended as {finished:?}"
    );
    let wrote = scene.done(&*made.sandbox, &Act::Write(16)).await?;
    ensure!(wrote == super::PATTERN, "it wrote {wrote:?}");
    let condition = made.sandbox.condition().await?;
    ensure!(condition == Condition::Running, "it is {condition:?}");
    scene.remove(made.id()).await?;
    let condition = made.sandbox.condition().await?;
    ensure!(condition == Condition::Gone, "it is {condition:?}");
    Ok(())
}

pub(super) async fn the_same_made_again_is_the_one_that_is_there(
    scene: &Scene,
) -> Result<(), Failure> {
    let made = scene.sandbox().await?;
    let save = Act::Save("kept".into(), "text".into());
    scene.done(&*made.sandbox, &save).await?;
    let workspace = scene.workspace_spec(made.id(), made.spec.user);
    for _ in 0..3 {
        let engine = &scene.engine;
        engine.create_workspace(&workspace, &scene.image).await?;
        let mut again = made.spec.clone();
        // What differs between two attempts to make the same.
        again.ownership.created_at += jiff::SignedDuration::from_secs(1);
        again.ownership.holder = "another".into();
        let again = scene.make(&again).await?;
        let kept = scene.done(&*again, &Act::Show("kept".into())).await?;
        ensure!(kept == b"text", "its files are others: {kept:?}");
    }
    scene.remove(made.id()).await?;
    Ok(())
}

pub(super) async fn the_same_made_at_once_is_made_once(scene: &Scene) -> Result<(), Failure> {
    let (id, user) = (scene.id(), scene.bench.user());
    let workspace = scene.workspace_spec(&id, user);
    let makes = (0..4).map(|_| scene.engine.create_workspace(&workspace, &scene.image));
    for made in join_all(makes).await {
        made?;
    }
    let spec = scene.sandbox_spec(&id, user);
    let mut sandboxes = Vec::new();
    for made in join_all((0..4).map(|_| scene.make(&spec))).await {
        sandboxes.push(made?);
    }
    for (number, sandbox) in sandboxes.iter().enumerate() {
        let add = Act::Append("shared".into(), number.to_string());
        scene.done(&**sandbox, &add).await?;
    }
    for sandbox in &sandboxes {
        let shared = scene.done(&**sandbox, &Act::Show("shared".into())).await?;
        ensure!(shared == b"0123", "they are not one: {shared:?}");
    }
    scene.remove(&id).await?;
    Ok(())
}

pub(super) async fn another_specification_under_the_same_id_is_a_conflict(
    scene: &Scene,
) -> Result<(), Failure> {
    let made = scene.sandbox().await?;
    let mut other = made.spec.clone();
    other.env.insert("OTHER".into(), "1".into());
    let refused = scene.make(&other).await.err().map(|error| error.kind);
    let expected = Some(EngineErrorKind::Conflict);
    ensure!(refused == expected, "another sandbox: {refused:?}");
    let mut other = scene.workspace_spec(made.id(), made.spec.user);
    other.disk_bytes *= 2;
    let refused = scene.engine.create_workspace(&other, &scene.image).await;
    let refused = refused.err().map(|error| error.kind);
    ensure!(refused == expected, "another workspace: {refused:?}");
    // Nothing has come of it for the one that is there.
    scene.done(&*made.sandbox, &Act::Exit(0)).await?;
    scene.remove(made.id()).await?;
    Ok(())
}

pub(super) async fn a_sandbox_is_not_made_without_its_workspace(
    scene: &Scene,
) -> Result<(), Failure> {
    let spec = scene.sandbox_spec(&scene.id(), scene.bench.user());
    let refused = scene.make(&spec).await.err().map(|error| error.kind);
    ensure!(
        refused == Some(EngineErrorKind::NotFound),
        "it was {refused:?}"
    );
    scene.remove(&spec.id).await?;
    Ok(())
}

pub(super) async fn what_is_gone_is_removed_once_more_without_complaint(
    scene: &Scene,
) -> Result<(), Failure> {
    let made = scene.sandbox().await?;
    let engine = &scene.engine;
    for removed in join_all((0..3).map(|_| engine.destroy(made.id()))).await {
        removed?;
    }
    engine.destroy(made.id()).await?;
    for removed in join_all((0..3).map(|_| engine.destroy_workspace(made.id()))).await {
        removed?;
    }
    engine.destroy_workspace(made.id()).await?;
    // And what never was.
    scene.remove(&scene.id()).await?;
    Ok(())
}

pub(super) async fn removing_while_it_is_made_leaves_nothing(scene: &Scene) -> Result<(), Failure> {
    let spec = scene.prepared().await?;
    let polls = Given::polls(scene.make(&spec)).await?;
    scene.engine.destroy(&spec.id).await?;
    for after in Given::points(scene.bench.cancellations(), polls) {
        let mut making = Box::pin(scene.make(&spec));
        let early = Given::after(after, &mut making).await;
        match early {
            Some(made) => drop(made?),
            None => {
                let (made, removed) = futures::join!(making, scene.engine.destroy(&spec.id));
                removed?;
                // Whichever came first, there is an answer.
                drop(made);
            }
        }
        scene.engine.destroy(&spec.id).await?;
        let opened = scene.engine.open(&spec.id, &credentials(1)).await;
        let opened = opened.err().map(|error| error.kind);
        ensure!(
            opened == Some(EngineErrorKind::NotFound),
            "after {after} polls: {opened:?}"
        );
    }
    scene.remove(&spec.id).await?;
    Ok(())
}

pub(super) async fn a_workspace_in_use_is_not_removed(scene: &Scene) -> Result<(), Failure> {
    let made = scene.sandbox().await?;
    let save = Act::Save("kept".into(), "text".into());
    scene.done(&*made.sandbox, &save).await?;
    let refused = scene.engine.destroy_workspace(made.id()).await;
    let refused = refused.err().map(|error| error.kind);
    ensure!(
        refused == Some(EngineErrorKind::Conflict),
        "it was {refused:?}"
    );
    let kept = scene
        .done(&*made.sandbox, &Act::Show("kept".into()))
        .await?;
    ensure!(kept == b"text", "its files are gone");
    scene.remove(made.id()).await?;
    Ok(())
}

pub(super) async fn what_is_gone_cannot_be_opened(scene: &Scene) -> Result<(), Failure> {
    let made = scene.sandbox().await?;
    scene.remove(made.id()).await?;
    for id in [made.id(), &scene.id()] {
        let refused = scene.engine.open(id, &credentials(1)).await;
        let refused = refused.err().map(|error| error.kind);
        ensure!(
            refused == Some(EngineErrorKind::NotFound),
            "{id} was {refused:?}"
        );
    }
    let refused = scene.run(&*made.sandbox, &Act::Exit(0)).await;
    let refused = refused.err().map(|error| error.kind);
    let lost = [EngineErrorKind::Lost, EngineErrorKind::NotFound];
    ensure!(
        refused.is_some_and(|kind| lost.contains(&kind)),
        "a command in it was {refused:?}"
    );
    Ok(())
}

pub(super) async fn only_the_secret_opens(scene: &Scene) -> Result<(), Failure> {
    let made = scene.sandbox().await?;
    let wrong = Credentials {
        secret: Secret::new([1; 32]),
        epoch: 1,
    };
    let refused = scene.engine.open(made.id(), &wrong).await;
    let refused = refused.err().map(|error| error.kind);
    let expected = Some(EngineErrorKind::Corrupt);
    ensure!(refused == expected, "opening it was {refused:?}");
    let refused = scene.engine.create(&made.spec, &scene.image, &wrong).await;
    let refused = refused.err().map(|error| error.kind);
    ensure!(refused == expected, "making it again was {refused:?}");
    // Whoever was refused has disturbed nobody.
    scene.done(&*made.sandbox, &Act::Exit(0)).await?;
    let again = scene.engine.open(made.id(), &credentials(1)).await?;
    scene.done(&*again, &Act::Exit(0)).await?;
    scene.remove(made.id()).await?;
    Ok(())
}

pub(super) async fn counters_grow_with_what_is_used(scene: &Scene) -> Result<(), Failure> {
    let made = scene.sandbox().await?;
    let before = made.sandbox.usage().await?;
    scene.done(&*made.sandbox, &Act::Work(200)).await?;
    let after = made.sandbox.usage().await?;
    let worked = after.cpu_seconds > before.cpu_seconds;
    ensure!(worked, "no time of a processor: {before:?}, then {after:?}");
    ensure!(
        after.memory_peak_bytes > 0 && after.pids_peak > 0,
        "neither memory nor processes: {after:?}"
    );
    let kept = after.memory_peak_bytes >= before.memory_peak_bytes
        && after.disk_peak_bytes >= before.disk_peak_bytes;
    ensure!(kept, "a peak shrank: {before:?}, then {after:?}");
    ensure!(
        after.oom_kills == 0 && after.pids_refused == 0 && !after.disk_full,
        "it is blamed for what it did not do: {after:?}"
    );
    scene.remove(made.id()).await?;
    Ok(())
}
