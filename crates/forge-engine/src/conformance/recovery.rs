//! The host process goes, by itself or killed; what it made goes on, and is found.

use forge_core::ownership::keys;
use forge_core::{Ending, ExecKey, ExecRequest, Join};

use super::cancel::Given;
use super::output::Expected;
use super::scene::{Scene, credentials, finish};
use super::{Act, Failure};
use crate::engine::Engine;
use crate::error::EngineErrorKind;
use crate::sandbox::RunningExec;

pub(super) async fn a_restart_between_making_and_opening_loses_nothing(
    scene: &Scene,
) -> Result<(), Failure> {
    let made = scene.sandbox().await?;
    let save = Act::Save("kept".into(), "text".into());
    scene.done(&*made.sandbox, &save).await?;
    let next = scene.bench.restart().await?;
    let opened = next.open(made.id(), &credentials(2)).await?;
    let kept = scene.done(&*opened, &Act::Show("kept".into())).await?;
    ensure!(kept == b"text", "its files are gone: {kept:?}");
    ensure!(
        opened.attestation() == made.sandbox.attestation(),
        "it attests something else now"
    );
    // The one before was only stopped, and wakes up.
    let late = scene.run(&*made.sandbox, &Act::Exit(0)).await;
    let late = late.err().map(|error| error.kind);
    let expected = Some(EngineErrorKind::Conflict);
    ensure!(late == expected, "a command of the one before: {late:?}");
    let late = scene.engine.open(made.id(), &credentials(1)).await;
    let late = late.err().map(|error| error.kind);
    ensure!(late == expected, "the one before opened it: {late:?}");
    // Making it again is the same as opening it.
    let second = credentials(2);
    let again = next.create(&made.spec, &scene.image, &second).await?;
    let kept = scene.done(&*again, &Act::Show("kept".into())).await?;
    ensure!(kept == b"text", "it was made anew: {kept:?}");
    drop((opened, again));
    next.destroy(made.id()).await?;
    next.destroy_workspace(made.id()).await?;
    Ok(())
}

const TIMES: u64 = 8;
const BYTES: u64 = 1 << 20;

fn with_key(mut request: ExecRequest, join: Option<Join>) -> ExecRequest {
    request.key = Some(ExecKey(7));
    request.join = join;
    request
}

/// Takes and writes down output until there is that much of it, or the end.
async fn take(
    running: &mut RunningExec,
    expected: &mut Expected,
    until: u64,
) -> Result<(), Failure> {
    while expected.length < until {
        let Some(chunk) = running.output.next().await else {
            return Ok(());
        };
        expected.take(&chunk)?;
        running.output.acknowledge(expected.length);
    }
    Ok(())
}

pub(super) async fn a_command_goes_on_through_a_restart(scene: &Scene) -> Result<(), Failure> {
    let made = scene.sandbox().await?;
    let act = Act::Paced {
        times: TIMES,
        bytes: BYTES,
        file: "progress".into(),
    };
    let mut written = Expected::default();
    let request = with_key(scene.request(&act), None);
    let mut running = made.sandbox.exec(request).await?;
    take(&mut running, &mut written, 3 * BYTES / 2).await?;
    // Taken, and not written down before the process died.
    let lost = running.output.next().await;
    ensure!(lost.is_some(), "it ended in the middle");
    for (epoch, until) in [(2, 4 * BYTES), (3, u64::MAX)] {
        let next = scene.bench.restart().await?;
        let opened = next.open(made.id(), &credentials(epoch)).await?;
        let join = Join {
            output_from: written.length,
            may_start: false,
        };
        let request = with_key(scene.request(&act), Some(join));
        running = opened.exec(request).await?;
        take(&mut running, &mut written, until).await?;
        if until < u64::MAX {
            continue;
        }
        let report = running.exit.await?;
        ensure!(
            report.ending == Ending::Exited(0)
                && report.output_bytes == TIMES * BYTES
                && written.length == TIMES * BYTES,
            "{} bytes are written down: {report:?}",
            written.length
        );
        let progress = Act::Show("progress".into());
        let progress = scene.done(&*opened, &progress).await?;
        ensure!(progress == b"8", "it says {progress:?}");
        ends_are_kept_until_forgotten(scene, &*opened, &act).await?;
        next.destroy(made.id()).await?;
        next.destroy_workspace(made.id()).await?;
    }
    Ok(())
}

/// What holds of the end of the command above.
async fn ends_are_kept_until_forgotten(
    scene: &Scene,
    sandbox: &dyn crate::Sandbox,
    act: &Act,
) -> Result<(), Failure> {
    let join = |may_start| {
        Some(Join {
            output_from: if may_start { 0 } else { TIMES * BYTES },
            may_start,
        })
    };
    let again = async |join| {
        let request = with_key(scene.request(act), join);
        let running = sandbox.exec(request).await?;
        let remote = running.remote.clone();
        finish(running).await.map(|finished| (finished, remote))
    };
    for _ in 0..2 {
        let (finished, _) = again(join(false)).await?;
        ensure!(
            finished.report.ending == Ending::Exited(0) && finished.stdout.is_empty(),
            "its end is told as {:?}",
            finished.report
        );
    }
    let twice = again(None).await.err().map(|error| error.kind);
    ensure!(
        twice == Some(EngineErrorKind::Conflict),
        "it was started twice: {twice:?}"
    );
    let (_, remote) = again(join(false)).await?;
    remote.forget();
    // The next question comes behind it.
    scene.done(sandbox, &Act::Exit(0)).await?;
    for may_start in [false, true] {
        let forgotten = again(join(may_start)).await.err().map(|error| error.kind);
        let refused = [EngineErrorKind::Lost, EngineErrorKind::Conflict];
        ensure!(
            forgotten.is_some_and(|kind| refused.contains(&kind)),
            "forgotten, it is {forgotten:?} (may start: {may_start})"
        );
    }
    let progress = scene.done(sandbox, &Act::Show("progress".into())).await?;
    ensure!(progress == b"8", "it ran again, up to {progress:?}");
    Ok(())
}

/// What a list says of the bench's owner: names, and whether each has what an owner goes by.
async fn listed(scene: &Scene, engine: &dyn Engine) -> Result<Vec<String>, Failure> {
    let ownership = scene.bench.ownership();
    let mut names = Vec::new();
    for object in engine.list(Some(&ownership.owner)).await? {
        let run = ownership.run.to_string();
        let task = ownership.task.to_string();
        let labelled = object.label(keys::RUN) == Some(run.as_str())
            && object.label(keys::TASK_ID) == Some(task.as_str())
            && object.label(keys::ROLE).is_some()
            && object.time(keys::EXPIRES_AT).is_some();
        ensure!(labelled, "{} is not labelled: {object:?}", object.name);
        names.push(object.name);
    }
    names.sort();
    Ok(names)
}

/// How often a list is taken again: what an engine still had in hand when its caller went away may
/// appear after the first.
const PASSES: u32 = 10;

/// Removes everything that a list names, as somebody does who knows nothing else, until none names
/// anything.
async fn remove_listed(scene: &Scene, engine: &dyn Engine) -> Result<(), Failure> {
    let owner = scene.bench.ownership().owner;
    let mut refused = None;
    for _ in 0..PASSES {
        let mut objects = engine.list(Some(&owner)).await?;
        if objects.is_empty() {
            engine.sweep().await;
            return Ok(());
        }
        // Containers hold volumes.
        objects.sort_by_key(|object| object.kind);
        for object in &objects {
            match engine.remove(object).await {
                Ok(()) => engine.remove(object).await?,
                // Held by what was not on the list yet.
                Err(error) if error.kind == EngineErrorKind::Conflict => refused = Some(error),
                Err(error) => return Err(error.into()),
            }
        }
    }
    Err(Failure::new(format!(
        "{PASSES} passes did not remove everything; one was refused: {refused:?}"
    )))
}

pub(super) async fn everything_half_made_is_listed_and_can_be_removed(
    scene: &Scene,
) -> Result<(), Failure> {
    let spec = scene.prepared().await?;
    let polls = Given::polls(scene.make(&spec)).await?;
    scene.remove(&spec.id).await?;
    let mut seen = std::collections::BTreeSet::new();
    for after in Given::points(scene.bench.cancellations(), polls) {
        let (id, user) = (scene.id(), scene.bench.user());
        let workspace = scene.workspace_spec(&id, user);
        let spec = scene.sandbox_spec(&id, user);
        let making = scene.engine.create_workspace(&workspace, &scene.image);
        drop(Given::after(after, &mut Box::pin(making)).await);
        let next = scene.bench.restart().await?;
        listed(scene, &*next).await?;
        remove_listed(scene, &*next).await?;
        // What no object leads to may stay until it is old enough to be nobody's; it goes by its id.
        next.destroy(&id).await?;
        scene.nothing_is_left().await?;

        let made = scene
            .engine
            .create_workspace(&workspace, &scene.image)
            .await;
        made?;
        drop(Given::after(after, &mut Box::pin(scene.make(&spec))).await);
        seen.insert(listed(scene, &*next).await?.len());
        remove_listed(scene, &*next).await?;
        // What no object leads to may stay until it is old enough to be nobody's; it goes by its id.
        next.destroy(&id).await?;
        scene.nothing_is_left().await?;
    }
    ensure!(
        seen.len() > 1,
        "nothing half-made was ever there to be listed: {seen:?} objects"
    );
    Ok(())
}

pub(super) async fn what_is_found_can_be_removed_by_a_stranger(
    scene: &Scene,
) -> Result<(), Failure> {
    let made = scene.sandbox().await?;
    let other = scene.sandbox().await?;
    let next = scene.bench.restart().await?;
    let names = listed(scene, &*next).await?;
    for id in [made.id(), other.id()] {
        let found = names.iter().filter(|name| name.ends_with(id.as_str()));
        let found = found.count();
        ensure!(found >= 2, "{found} objects of {id} are in {names:?}");
    }
    let all = next.list(None).await?;
    let everybody: Vec<_> = all.iter().map(|object| &object.name).collect();
    let missing = names.iter().find(|name| !everybody.contains(name));
    ensure!(missing.is_none(), "{missing:?} is not everybody's");
    remove_listed(scene, &*next).await?;
    let left = listed(scene, &*scene.engine).await?;
    ensure!(left.is_empty(), "there is left {left:?}");
    Ok(())
}

pub(super) async fn sweeping_touches_nothing_that_is_in_use(scene: &Scene) -> Result<(), Failure> {
    let made = scene.sandbox().await?;
    let save = Act::Save("kept".into(), "text".into());
    scene.done(&*made.sandbox, &save).await?;
    let before = listed(scene, &*scene.engine).await?;
    let next = scene.bench.restart().await?;
    for engine in [&scene.engine, &next] {
        engine.sweep().await;
        let after = listed(scene, &**engine).await?;
        ensure!(before == after, "{before:?} became {after:?}");
        let kept = scene.done(&*made.sandbox, &Act::Show("kept".into())).await;
        ensure!(kept? == b"text", "its files are gone");
        let opened = engine.open(made.id(), &credentials(1)).await?;
        scene.done(&*opened, &Act::Exit(0)).await?;
    }
    scene.remove(made.id()).await?;
    for engine in [&scene.engine, &next] {
        engine.sweep().await;
    }
    Ok(())
}
