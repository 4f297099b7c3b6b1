//! What is written is what is read.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use forge_core::life_cycle::StateName;
use forge_core::{
    Attestation, Cause, Deadline, Outcome, PhaseName, Reason, ResourceUsage, SandboxId, State,
    Transition,
};

use super::{Home, at, failure, new_attempt, new_run, run_id, with_attempt};
use crate::{ArtifactRecord, ObjectKind, PhaseEnd, RunRecord, Store, StoreError};

#[tokio::test]
async fn a_run_reads_as_it_was_written() {
    let home = Home::new();
    let store = home.open().await;
    let mut run = new_run(7);
    run.out_directory = PathBuf::from(OsString::from_vec(b"/out/\xff\xfe".to_vec()));
    store.begin_run(&run).await.unwrap();
    let mut expected = RunRecord {
        id: run.id,
        kind: run.kind,
        agent: run.agent,
        created_at: run.created_at,
        ended_at: None,
        out_directory: run.out_directory,
        holder: run.holder,
        arguments: run.arguments,
        engine: run.engine,
        engine_version: run.engine_version,
        epoch: 1,
        renewed_at: Some(run.created_at),
        files_removed_at: None,
    };
    assert_eq!(store.run(&run.id).await.unwrap(), expected);
    assert_eq!(store.unfinished_runs().await.unwrap(), [expected.clone()]);
    assert_eq!(store.plan(&run.id).await.unwrap(), run.plan);
    let unknown = store.plan(&run_id(8)).await;
    assert!(
        matches!(unknown, Err(StoreError::NotFound { .. })),
        "{unknown:?}"
    );

    assert!(store.end_run(&run.id, at(9)).await.unwrap());
    assert!(!store.end_run(&run.id, at(10)).await.unwrap());
    expected.ended_at = Some(at(9));
    assert_eq!(store.run(&run.id).await.unwrap(), expected);
    assert_eq!(store.unfinished_runs().await.unwrap(), []);
}

#[tokio::test]
async fn runs_are_listed_newest_first_up_to_the_limit() {
    let home = Home::new();
    let store = home.open().await;
    for (number, created_at) in [(1, 10), (2, 30), (3, 20), (4, 30)] {
        let mut run = new_run(number);
        run.created_at = at(created_at);
        store.begin_run(&run).await.unwrap();
    }
    let listed: Vec<_> = store
        .runs(3)
        .await
        .unwrap()
        .into_iter()
        .map(|run| run.id)
        .collect();
    assert_eq!(listed, [run_id(4), run_id(2), run_id(3)]);
    assert_eq!(store.run_ids(3).await.unwrap(), listed);
}

async fn advance(store: &Store, id: &SandboxId, steps: &[Transition]) -> Vec<State> {
    let mut states = vec![State::Pending];
    for (step, second) in steps.iter().zip(1..) {
        let from = states.last().unwrap().clone();
        let to = from.advance(step.clone()).unwrap();
        store.transition(id, &from, &to, at(second)).await.unwrap();
        assert_eq!(store.attempt(id).await.unwrap().state, to);
        states.push(to);
    }
    states
}

#[tokio::test]
async fn every_way_through_the_life_cycle_is_recorded_with_its_data() {
    use Transition::{CleanUp, Complete, Create, Fail, Run, TimeOut};
    let home = Home::new();
    let (store, _) = with_attempt(&home).await;
    let ways = [
        vec![Create, Run, Complete, CleanUp],
        vec![Create, Run, Fail(failure()), CleanUp],
        vec![Create, Run, TimeOut(Deadline::Verify), CleanUp],
        vec![Create, Fail(failure()), CleanUp],
        vec![Fail(failure()), CleanUp],
    ];
    for (way, number) in ways.iter().zip(10..) {
        let attempt = new_attempt(1, "way", number);
        store.add_attempt(&attempt).await.unwrap();
        let states = advance(&store, &attempt.id, way).await;
        let noted = store.transitions(&attempt.id).await.unwrap();
        assert_eq!(noted.len(), way.len());
        for (index, step) in noted.iter().enumerate() {
            assert_eq!(step.sequence as usize, index + 1);
            assert_eq!(step.from, states[index].name());
            assert_eq!(step.to, states[index + 1].name());
        }
    }
}

#[tokio::test]
async fn a_failed_attempt_keeps_reason_and_times_through_clean_up() {
    let home = Home::new();
    let (store, id) = with_attempt(&home).await;
    let steps = [
        Transition::Create,
        Transition::Run,
        Transition::Fail(failure()),
        Transition::CleanUp,
    ];
    advance(&store, &id, &steps).await;
    store.cleanup_ended(&id, at(20)).await.unwrap();
    let attempt = store.attempt(&id).await.unwrap();
    let outcome = attempt.outcome().unwrap();
    assert_eq!(outcome, Outcome::Failed(failure()));
    assert_eq!(outcome.reason(), Some(Reason::TestsFailed));
    assert_eq!(outcome.cause(), Some(Cause::Task));
    assert_eq!(attempt.created_at, at(0));
    assert_eq!(attempt.started_at, Some(at(2)));
    assert_eq!(attempt.ended_at, Some(at(3)));
    assert_eq!(attempt.cleanup_ended_at, Some(at(20)));
    let noted = store.transitions(&id).await.unwrap();
    assert_eq!(noted[2].at, at(3));
    let detail = noted[2].detail.as_deref().unwrap();
    assert_eq!(detail, "tests_failed: 2 of 7 failed\nsee verify.log");
    assert_eq!(noted[3].detail, None);
}

#[tokio::test]
async fn a_transition_from_another_state_than_the_recorded_one_changes_nothing() {
    let home = Home::new();
    let (store, id) = with_attempt(&home).await;
    let refused = store
        .transition(&id, &State::Creating, &State::Running, at(1))
        .await
        .unwrap_err();
    let StoreError::StateConflict {
        stored, expected, ..
    } = &refused
    else {
        panic!("{refused:?}");
    };
    assert_eq!(
        (&**stored, &**expected),
        (&State::Pending, &State::Creating)
    );
    assert_eq!(
        refused.to_string(),
        format!("attempt {id} is PENDING, not CREATING")
    );
    assert_eq!(store.attempt(&id).await.unwrap().state, State::Pending);
    assert_eq!(store.transitions(&id).await.unwrap(), []);

    let stranger = SandboxId::new("no-such-attempt").unwrap();
    let refused = store
        .transition(&stranger, &State::Pending, &State::Creating, at(1))
        .await;
    assert!(
        matches!(refused, Err(StoreError::NotFound { .. })),
        "{refused:?}"
    );
}

#[tokio::test]
async fn what_is_learnt_about_an_attempt_is_added_to_it() {
    let home = Home::new();
    let (store, id) = with_attempt(&home).await;
    let usage = ResourceUsage {
        memory_peak_bytes: u64::MAX,
        cpu_seconds: 1.5,
        pids_peak: 7,
        ..ResourceUsage::default()
    };
    let attestation = Attestation {
        capabilities: 0,
        bounding_capabilities: u64::MAX,
        no_new_privileges: true,
        seccomp_mode: 2,
        uid: 200_000,
        gid: 200_000,
        interfaces: vec!["lo".to_owned()],
        routes: 0,
        writable_mounts: vec!["/workspace".to_owned()],
        read_only_mounts: vec!["/workspace/tests".to_owned()],
        read_only_root: true,
        vsock_refused: true,
        metadata_unreachable: true,
        network_served: false,
        network_failure: None,
        kernel: "6.1.0".to_owned(),
    };
    store.set_image_digest(&id, "sha256:abc").await.unwrap();
    store.set_usage(&id, &usage).await.unwrap();
    store.set_attestation(&id, &attestation).await.unwrap();
    store
        .set_report_path(&id, Path::new("/out/1/report.json"))
        .await
        .unwrap();
    let attempt = store.attempt(&id).await.unwrap();
    assert_eq!(attempt.image_digest.as_deref(), Some("sha256:abc"));
    assert_eq!(attempt.usage, Some(usage));
    assert_eq!(attempt.attestation, Some(attestation));
    assert_eq!(
        attempt.report_path,
        Some(PathBuf::from("/out/1/report.json"))
    );
    assert_eq!(attempt.state.name(), StateName::Pending);
    assert_eq!(attempt.outcome(), None);
}

#[tokio::test]
async fn a_phase_has_no_end_until_it_ended() {
    let home = Home::new();
    let (store, id) = with_attempt(&home).await;
    let early = store.phases(&id).await.unwrap();
    assert_eq!(early, []);
    store
        .begin_phase(&id, PhaseName::Setup, at(1))
        .await
        .unwrap();
    assert_eq!(store.phases(&id).await.unwrap()[0].end, None);
    let end = PhaseEnd {
        at: at(2),
        exit_text: "exited".to_owned(),
        exit_code: Some(0),
        duration: Duration::from_millis(987),
        output_bytes: 12_345,
        truncated: true,
        log_path: Some(PathBuf::from("/out/1/setup.log")),
    };
    store.end_phase(&id, PhaseName::Setup, &end).await.unwrap();
    store
        .begin_phase(&id, PhaseName::Solve, at(3))
        .await
        .unwrap();
    let phases = store.phases(&id).await.unwrap();
    assert_eq!(phases[0].phase, PhaseName::Setup);
    assert_eq!(phases[0].started_at, at(1));
    assert_eq!(phases[0].end, Some(end.clone()));
    assert_eq!((phases[1].phase, &phases[1].end), (PhaseName::Solve, &None));

    let other = new_attempt(1, "py-lru", 2);
    store.add_attempt(&other).await.unwrap();
    let ids = [other.id.clone(), id.clone()];
    let under_way = store.phases_under_way(&ids).await.unwrap();
    assert_eq!(under_way, [None, Some(PhaseName::Solve)]);
    store.end_phase(&id, PhaseName::Solve, &end).await.unwrap();
    assert_eq!(store.phases_under_way(&ids).await.unwrap(), [None, None]);
    let stranger = SandboxId::new("no-such-attempt").unwrap();
    let unknown = store.phases_under_way(&[stranger]).await;
    assert!(
        matches!(unknown, Err(StoreError::NotFound { .. })),
        "{unknown:?}"
    );

    let never_began = store.end_phase(&id, PhaseName::Verify, &end).await;
    assert!(
        matches!(never_began, Err(StoreError::NotFound { .. })),
        "{never_began:?}"
    );
    let twice = store.begin_phase(&id, PhaseName::Setup, at(4)).await;
    assert!(
        matches!(twice, Err(StoreError::Constraint { .. })),
        "{twice:?}"
    );
}

#[tokio::test]
async fn an_object_counts_as_left_from_its_announcement_until_it_is_seen_gone() {
    let home = Home::new();
    let (store, id) = with_attempt(&home).await;
    let kind = ObjectKind::Container;
    store.intend_object(&id, kind, "c1", at(1)).await.unwrap();
    store
        .intend_object(&id, ObjectKind::Volume, "c1", at(2))
        .await
        .unwrap();
    store.object_created(kind, "c1", at(3)).await.unwrap();
    let left = store.unremoved_objects(None).await.unwrap();
    assert_eq!(left.len(), 2);
    assert_eq!(
        (&left[0].attempt, left[0].kind, left[0].name.as_str()),
        (&id, kind, "c1")
    );
    assert_eq!(
        (left[0].created_at, left[1].created_at),
        (Some(at(3)), None)
    );

    store.intend_object(&id, kind, "c1", at(4)).await.unwrap();
    let again = store.objects(&id).await.unwrap();
    assert_eq!(
        (again[0].intended_at, again[0].created_at),
        (at(4), Some(at(3)))
    );

    store.object_removed(kind, "c1", at(5)).await.unwrap();
    let left = store.unremoved_objects(Some(&run_id(1))).await.unwrap();
    assert_eq!(left.len(), 1);
    assert_eq!(left[0].kind, ObjectKind::Volume);
    assert_eq!(store.objects(&id).await.unwrap()[0].removed_at, Some(at(5)));

    store.intend_object(&id, kind, "c1", at(6)).await.unwrap();
    let reborn = store.objects(&id).await.unwrap();
    assert_eq!((reborn[0].created_at, reborn[0].removed_at), (None, None));

    let unknown = store.object_removed(kind, "c2", at(7)).await;
    assert!(
        matches!(unknown, Err(StoreError::NotFound { .. })),
        "{unknown:?}"
    );
}

#[tokio::test]
async fn a_name_of_an_object_belongs_to_one_attempt() {
    let home = Home::new();
    let (store, id) = with_attempt(&home).await;
    let other = new_attempt(1, "py-lru", 2);
    store.add_attempt(&other).await.unwrap();
    let kind = ObjectKind::Network;
    store.intend_object(&id, kind, "n1", at(1)).await.unwrap();
    let taken = store.intend_object(&other.id, kind, "n1", at(2)).await;
    assert!(
        matches!(taken, Err(StoreError::Constraint { .. })),
        "{taken:?}"
    );
    assert_eq!(store.objects(&id).await.unwrap()[0].intended_at, at(1));
}

#[tokio::test]
async fn an_artifact_collected_again_replaces_the_earlier_one() {
    let home = Home::new();
    let (store, id) = with_attempt(&home).await;
    let hostile = PathBuf::from(OsString::from_vec(b"\xffname\nwith\x1bnoise".to_vec()));
    let artifact = |path: &Path, size_bytes| ArtifactRecord {
        relative_path: path.to_owned(),
        size_bytes,
        kind: "file".to_owned(),
        stored_path: Path::new("/out/1/artifacts").join(path),
    };
    let first = [artifact(Path::new("a.txt"), 1), artifact(&hostile, 2)];
    store.add_artifacts(&id, &first).await.unwrap();
    let second = artifact(Path::new("a.txt"), 3);
    store
        .add_artifacts(&id, std::slice::from_ref(&second))
        .await
        .unwrap();
    assert_eq!(
        store.artifacts(&id).await.unwrap(),
        [second, first[1].clone()]
    );
}
