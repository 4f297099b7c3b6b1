//! Giving up: a future that is dropped anywhere means "stop waiting", never "undo", and the same again
//! comes to the same end.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;

use forge_core::{Ending, SandboxId};

use super::files::{Archive, archive_of};
use super::scene::{Made, Scene, WIDE, credentials};
use super::{Act, Failure};
use crate::error::EngineErrorKind;

const SIGTERM: i32 = 15;

/// A future that is given up after some polls.
pub(super) struct Given;

impl Given {
    /// Runs a future until it would wait for the `after`-th time; its result when it ends before.
    pub(super) async fn after<F: Future>(
        after: usize,
        future: &mut Pin<Box<F>>,
    ) -> Option<F::Output> {
        let mut waits = 0;
        poll_fn(|context| match future.as_mut().poll(context) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending => {
                waits += 1;
                if waits >= after {
                    Poll::Ready(None)
                } else {
                    Poll::Pending
                }
            }
        })
        .await
    }

    /// How often a future waits until it ends.
    pub(super) async fn polls<T, E>(
        future: impl Future<Output = Result<T, E>>,
    ) -> Result<usize, Failure>
    where
        Failure: From<E>,
    {
        let mut future = Box::pin(future);
        let mut waits = 0;
        let output = poll_fn(|context| {
            let poll = future.as_mut().poll(context);
            waits += usize::from(poll.is_pending());
            poll
        });
        output.await?;
        Ok(waits)
    }

    /// At most `most` numbers from 1 to `polls`, spread evenly; the first and the last among them.
    pub(super) fn points(most: usize, polls: usize) -> Vec<usize> {
        let count = polls.min(most.max(2));
        match count {
            0 => vec![1],
            1 => vec![1],
            count => (0..count)
                .map(|number| 1 + number * (polls - 1) / (count - 1))
                .collect(),
        }
    }
}

/// How often a removal is repeated after making was given up.
const PASSES: u32 = 10;

impl Scene {
    /// Removes what making was given up of. An engine may have the request of the one who gave up still
    /// in hand, so that what it makes appears behind a removal that found nothing: the same removal
    /// again must come to an end with nothing left.
    async fn remove_given_up(&self, id: &SandboxId) -> Result<(), Failure> {
        let mut refused = None;
        for _ in 0..PASSES {
            self.engine.destroy(id).await?;
            match self.engine.destroy_workspace(id).await {
                Ok(()) => {}
                Err(error) if error.kind == EngineErrorKind::Conflict => refused = Some(error),
                Err(error) => return Err(error.into()),
            }
            if self.bench.census().await?.is_empty() {
                return Ok(());
            }
        }
        let left = self.bench.census().await?;
        Err(Failure::new(format!(
            "{PASSES} removals leave {left:?}; one was refused: {refused:?}"
        )))
    }

    fn cancellation_points(&self, polls: usize) -> Vec<usize> {
        Given::points(self.bench.cancellations(), polls)
    }
}

pub(super) async fn making_a_workspace_may_be_given_up_anywhere(
    scene: &Scene,
) -> Result<(), Failure> {
    let (id, user) = (scene.id(), scene.bench.user());
    let spec = scene.workspace_spec(&id, user);
    let make = || scene.engine.create_workspace(&spec, &scene.image);
    let polls = Given::polls(make()).await?;
    scene.engine.destroy_workspace(&id).await?;
    for after in scene.cancellation_points(polls) {
        // Given up, and removed: nothing may be there.
        drop(Given::after(after, &mut Box::pin(make())).await);
        scene.remove_given_up(&id).await?;
        // Given up, and made again: it is whole.
        drop(Given::after(after, &mut Box::pin(make())).await);
        make().await?;
        let sandbox = scene.make(&scene.sandbox_spec(&id, user)).await?;
        let specification = Act::Show(".swe-forge/task.json".into());
        let specification = scene.done(&*sandbox, &specification).await?;
        ensure!(
            specification == b"{}",
            "after {after} polls its specification is {specification:?}"
        );
        let save = Act::Save("output/new".into(), "text".into());
        scene.done(&*sandbox, &save).await?;
        scene.remove(&id).await?;
    }
    Ok(())
}

pub(super) async fn making_a_sandbox_may_be_given_up_anywhere(
    scene: &Scene,
) -> Result<(), Failure> {
    let spec = scene.prepared().await?;
    let polls = Given::polls(scene.make(&spec)).await?;
    scene.remove(&spec.id).await?;
    for after in scene.cancellation_points(polls) {
        let spec = scene.prepared().await?;
        drop(Given::after(after, &mut Box::pin(scene.make(&spec))).await);
        scene.remove_given_up(&spec.id).await?;
        let spec = scene.prepared().await?;
        drop(Given::after(after, &mut Box::pin(scene.make(&spec))).await);
        let sandbox = scene.make(&spec).await?;
        scene.done(&*sandbox, &Act::Exit(0)).await?;
        scene.remove(&spec.id).await?;
        scene.nothing_is_left().await?;
    }
    Ok(())
}

pub(super) async fn starting_a_command_may_be_given_up_anywhere(
    scene: &Scene,
) -> Result<(), Failure> {
    let made = scene.sandbox().await?;
    let start = || made.sandbox.exec(scene.request(&Act::Wait));
    let polls = Given::polls(start()).await?;
    for after in scene.cancellation_points(polls) {
        drop(Given::after(after, &mut Box::pin(start())).await);
        // Whether it runs or not, the sandbox works, and it is ended with everything else.
        scene.done(&*made.sandbox, &Act::Exit(0)).await?;
        let survivors = made.sandbox.kill_all().await?;
        ensure!(survivors == 0, "{survivors} live on after {after} polls");
        let left = scene.done(&*made.sandbox, &Act::Count).await?;
        ensure!(left == b"0", "{left:?} are left after {after} polls");
    }
    // Waiting for the end of a command may be given up as well.
    let mut running = start().await?;
    for _ in 0..3 {
        let early = Given::after(1, &mut Box::pin(&mut running.exit)).await;
        ensure!(early.is_none(), "what never ends has ended: {early:?}");
    }
    running.remote.signal(SIGTERM);
    let ending = running.exit.await?.ending;
    ensure!(ending == Ending::Killed, "it ended as {ending:?}");
    scene.remove(made.id()).await?;
    Ok(())
}

async fn put(made: &Made, archive: &Archive) -> Result<u64, Failure> {
    let mut stream = archive.stream();
    let summary = made.sandbox.put("/workspace", &mut stream, WIDE).await?;
    Ok(summary.entries)
}

pub(super) async fn putting_files_may_be_given_up_anywhere(scene: &Scene) -> Result<(), Failure> {
    let made = scene.sandbox().await?;
    let large = vec![7; 4 << 20];
    let archive = archive_of(&[("folder/large", &large), ("folder/last", b"last")]);
    let polls = Given::polls(put(&made, &archive)).await?;
    for after in scene.cancellation_points(polls) {
        drop(Given::after(after, &mut Box::pin(put(&made, &archive))).await);
        let entries = put(&made, &archive).await?;
        ensure!(entries == 2, "{entries} came after {after} polls");
        let last = Act::Show("folder/last".into());
        let last = scene.done(&*made.sandbox, &last).await?;
        ensure!(last == b"last", "the last is {last:?} after {after} polls");
        made.sandbox.remove("/workspace/folder").await?;
    }
    scene.remove(made.id()).await?;
    Ok(())
}

pub(super) async fn getting_files_may_be_given_up_anywhere(scene: &Scene) -> Result<(), Failure> {
    let made = scene.sandbox().await?;
    let large = vec![7; 4 << 20];
    put(&made, &archive_of(&[("folder/large", &large)])).await?;
    let get = || Archive::get(&*made.sandbox, "/workspace/folder", WIDE);
    let polls = Given::polls(get()).await?;
    for after in scene.cancellation_points(polls) {
        drop(Given::after(after, &mut Box::pin(get())).await);
        let (archive, summary) = get().await?;
        ensure!(
            summary.bytes == large.len() as u64 && archive.entries()?.len() == 1,
            "{summary:?} after {after} polls"
        );
    }
    scene.remove(made.id()).await?;
    Ok(())
}

pub(super) async fn removing_may_be_given_up_anywhere(scene: &Scene) -> Result<(), Failure> {
    let made = scene.sandbox().await?;
    let polls = Given::polls(scene.engine.destroy(made.id())).await?;
    let of_workspace = Given::polls(scene.engine.destroy_workspace(made.id())).await?;
    for after in scene.cancellation_points(polls.max(of_workspace)) {
        let made = scene.sandbox().await?;
        let id = made.id();
        drop(Given::after(after, &mut Box::pin(scene.engine.destroy(id))).await);
        scene.engine.destroy(id).await?;
        let opened = scene.engine.open(id, &credentials(1)).await;
        let opened = opened.err().map(|error| error.kind);
        ensure!(
            opened == Some(EngineErrorKind::NotFound),
            "after {after} polls it was {opened:?}"
        );
        drop(Given::after(after, &mut Box::pin(scene.engine.destroy_workspace(id))).await);
        scene.engine.destroy_workspace(id).await?;
        scene.nothing_is_left().await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_cover_a_whole_operation() {
        assert_eq!(Given::points(100, 4), [1, 2, 3, 4]);
        assert_eq!(Given::points(3, 9), [1, 5, 9]);
        assert_eq!(Given::points(3, 1), [1]);
        assert_eq!(Given::points(3, 0), [1]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_future_is_given_up_where_it_would_wait_for_the_nth_time() {
        let work = async || {
            tokio::task::yield_now().await;
            tokio::time::sleep(std::time::Duration::from_secs(1)).await;
            5
        };
        assert_eq!(Given::after(2, &mut Box::pin(work())).await, None);
        assert_eq!(Given::after(3, &mut Box::pin(work())).await, Some(5));
        let polls = Given::polls(async { Ok::<_, Failure>(work().await) });
        assert_eq!(polls.await.unwrap(), 2);
    }
}
