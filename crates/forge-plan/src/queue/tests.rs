//! The queue: scripts of what happens and what is decided.

mod random;

use super::*;
use proptest::prelude::*;

const GIB: u64 = 1 << 30;

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn memory(gibibytes: u64) -> Amount {
    Amount {
        memory_bytes: gibibytes * GIB,
        ..Amount::ZERO
    }
}

/// A host with so many GiB of memory and of everything else enough.
fn host(gibibytes: u64) -> Amount {
    Amount {
        memory_bytes: gibibytes * GIB,
        ..Amount::UNLIMITED
    }
}

fn submission(run: u32, priority: i8, gibibytes: u64) -> Submission {
    Submission {
        run: RunNumber(run),
        priority,
        amount: memory(gibibytes),
        ready_at: Duration::ZERO,
    }
}

fn submitted(job: u64, run: u32, priority: i8, gibibytes: u64) -> Event {
    Event::Submitted {
        job: Job(job),
        submission: submission(run, priority, gibibytes),
    }
}

fn ended(job: u64) -> Event {
    Event::Ended {
        job: Job(job),
        again: None,
    }
}

fn failed(job: u64, again: u64) -> Event {
    Event::Ended {
        job: Job(job),
        again: Some(seconds(again)),
    }
}

fn start(job: u64, slot: u16) -> Action {
    Action::Start {
        job: Job(job),
        slot,
    }
}

fn held(reason: &str, probes: u32) -> Event {
    let reason = reason.to_owned();
    Event::Held(Some(Hold { reason, probes }))
}

/// A queue in which nothing starts yet, with these jobs: number, run, priority, GiB.
fn waiting_queue(limit: u32, total: u64, jobs: &[(u64, u32, i8, u64)]) -> Queue {
    let mut queue = Queue::new(Some(limit), host(total), u32::MAX);
    queue.handle(held("not yet", 0), Duration::ZERO);
    for &(job, run, priority, gibibytes) in jobs {
        let event = submitted(job, run, priority, gibibytes);
        queue.handle(event, Duration::ZERO);
    }
    queue
}

fn started_by(actions: &[Action]) -> Vec<u64> {
    let job = |action: &Action| match action {
        Action::Start { job, .. } => Some(job.0),
        _ => None,
    };
    actions.iter().filter_map(job).collect()
}

/// Ends whatever runs, one after the other, and returns the order in which jobs started.
fn order_of_starts(queue: &mut Queue) -> Vec<u64> {
    let mut order = started_by(&queue.handle(Event::Held(None), Duration::ZERO));
    let mut next = 0;
    while let Some(&job) = order.get(next) {
        order.extend(started_by(&queue.handle(ended(job), Duration::ZERO)));
        next += 1;
    }
    order
}

fn why(queue: &Queue, job: u64) -> (usize, String) {
    let waiting = queue.why_waiting(Job(job)).unwrap();
    (waiting.position, waiting.reason.to_string())
}

#[test]
fn jobs_start_in_order_and_no_more_than_allowed() {
    let mut queue = Queue::new(Some(2), Amount::UNLIMITED, 100);
    let mut handle = |event| queue.handle(event, Duration::ZERO);
    assert_eq!(handle(submitted(10, 0, 0, 1)), [start(10, 0)]);
    assert_eq!(handle(submitted(11, 0, 0, 1)), [start(11, 1)]);
    assert_eq!(handle(submitted(12, 0, 0, 1)), []);
    assert_eq!(handle(submitted(12, 0, 0, 1)), [], "it is there already");
    assert_eq!(handle(ended(11)), [start(12, 1)]);
    assert_eq!(handle(ended(10)), []);
    assert_eq!(handle(ended(10)), [], "it is gone already");
    assert_eq!(handle(ended(12)), [Action::Idle]);
}

#[test]
fn without_a_limit_there_are_as_many_places_as_user_ids() {
    let mut queue = Queue::new(None, Amount::UNLIMITED, u32::MAX);
    let places = u64::from(MAX_SLOTS);
    for job in 0..places {
        let actions = queue.handle(submitted(job, 0, 0, 1), Duration::ZERO);
        assert_eq!(started_by(&actions), [job]);
    }
    assert_eq!(queue.handle(submitted(places, 0, 0, 1), Duration::ZERO), []);
    let (_, reason) = why(&queue, places);
    assert_eq!(reason, "4096 may run at once, and do");
}

#[test]
fn runs_take_turns_however_many_jobs_they_have() {
    let jobs = [
        (0, 0, 0, 1),
        (1, 0, 0, 1),
        (2, 0, 0, 1),
        (3, 0, 0, 1),
        (4, 1, 0, 1),
        (5, 1, 0, 1),
        (6, 2, 0, 1),
    ];
    let mut queue = waiting_queue(6, 100, &jobs);
    let actions = queue.handle(Event::Held(None), Duration::ZERO);
    assert_eq!(started_by(&actions), [0, 4, 6, 1, 5, 2]);
}

#[test]
fn the_run_with_the_smallest_share_goes_first() {
    let jobs = [(0, 0, 0, 4), (1, 0, 0, 4), (2, 1, 0, 1), (3, 1, 0, 1)];
    let mut queue = waiting_queue(4, 100, &jobs);
    let actions = queue.handle(Event::Held(None), Duration::ZERO);
    assert_eq!(started_by(&actions), [0, 2, 3, 1]);
}

#[test]
fn higher_priority_goes_first_and_every_eighth_start_to_the_oldest() {
    let mut jobs: Vec<(u64, u32, i8, u64)> = (0..3).map(|job| (job, 0, -5, 1)).collect();
    jobs.extend((3..20).map(|job| (job, 0, 5, 1)));
    jobs.extend((20..23).map(|job| (job, 1, 0, 1)));
    let mut queue = waiting_queue(1, 100, &jobs);
    let expected: Vec<u64> = (3..10)
        .chain([0])
        .chain(10..17)
        .chain([1])
        .chain(17..23)
        .chain([2])
        .collect();
    assert_eq!(order_of_starts(&mut queue), expected);
}

#[test]
fn a_job_that_does_not_fit_lets_smaller_ones_pass_and_then_holds_the_door() {
    let mut queue = Queue::new(None, host(10), 100);
    queue.handle(submitted(0, 0, 0, 4), Duration::ZERO);
    queue.handle(submitted(1, 0, 0, 2), Duration::ZERO);
    let large = queue.handle(submitted(2, 0, 0, 8), seconds(1));
    assert_eq!(large, []);
    assert_eq!(
        why(&queue, 2),
        (
            1,
            "memory: wants 8.0 GiB, 4.0 GiB of 10.0 GiB are free".to_owned()
        )
    );
    let passes = queue.handle(submitted(3, 0, 0, 1), seconds(30));
    assert_eq!(started_by(&passes), [3]);
    let urgent = queue.handle(submitted(4, 1, 100, 1), seconds(31));
    assert_eq!(urgent, [], "the door is held for everybody");
    assert_eq!(why(&queue, 4), (2, "others go first".to_owned()));
    assert_eq!(queue.handle(ended(0), seconds(40)), []);
    assert_eq!(started_by(&queue.handle(ended(3), seconds(41))), [2]);
    assert_eq!(started_by(&queue.handle(ended(1), seconds(42))), [4]);
}

#[test]
fn the_door_is_let_go_when_who_holds_it_is_cancelled_or_its_run_is_full() {
    let mut queue = Queue::new(None, host(10), 100);
    let limited = Event::RunLimited {
        run: RunNumber(0),
        limit: Some(2),
    };
    queue.handle(limited, Duration::ZERO);
    queue.handle(submitted(0, 0, 0, 4), Duration::ZERO);
    queue.handle(submitted(1, 0, 0, 8), Duration::ZERO);
    let small = queue.handle(submitted(2, 0, 0, 1), seconds(1));
    assert_eq!(started_by(&small), [2]);
    let other_run = queue.handle(submitted(3, 1, 0, 1), seconds(60));
    assert_eq!(started_by(&other_run), [3], "run 0 may not start anything");
    queue.handle(ended(2), seconds(61));
    let waits = queue.handle(submitted(4, 1, 0, 1), seconds(62));
    assert_eq!(waits, []);
    let cancelled = queue.handle(Event::Cancelled(Scope::Job(Job(1))), seconds(63));
    assert_eq!(cancelled, [Action::Drop(Job(1)), start(4, 1)]);
}

#[test]
fn what_can_never_fit_is_refused_and_too_many_cores_are_not() {
    let mut queue = Queue::new(None, host(10), 100);
    let refused = queue.handle(submitted(0, 0, 0, 11), Duration::ZERO);
    let [Action::Refuse { job, shortage }, Action::Idle] = refused[..] else {
        panic!("{refused:?}");
    };
    assert_eq!(job, Job(0));
    assert_eq!(
        shortage.to_string(),
        "memory: wants 11.0 GiB, the host has 10.0 GiB to give in all"
    );
    let two_cores = Amount {
        cpu_millis: 2000,
        ..host(10)
    };
    queue.handle(Event::CapacityChanged(two_cores), Duration::ZERO);
    let eight_cores = Submission {
        amount: Amount {
            cpu_millis: 8000,
            ..memory(1)
        },
        ..submission(0, 0, 1)
    };
    let event = Event::Submitted {
        job: Job(1),
        submission: eight_cores,
    };
    assert_eq!(queue.handle(event, Duration::ZERO), [start(1, 0)]);
}

#[test]
fn what_no_longer_ever_fits_is_refused_when_its_turn_comes() {
    let mut queue = waiting_queue(10, 10, &[(0, 0, 0, 9), (1, 0, 0, 1)]);
    queue.handle(Event::CapacityChanged(host(5)), Duration::ZERO);
    let actions = queue.handle(Event::Held(None), Duration::ZERO);
    assert!(matches!(
        actions[..],
        [
            Action::Refuse { job: Job(0), .. },
            Action::Start { job: Job(1), .. }
        ]
    ));
}

#[test]
fn starts_in_flight_stay_within_the_window() {
    let mut queue = Queue::new(None, Amount::UNLIMITED, 1);
    queue.handle(submitted(0, 0, 0, 1), Duration::ZERO);
    assert_eq!(queue.handle(submitted(1, 0, 0, 1), Duration::ZERO), []);
    queue.handle(submitted(2, 0, 0, 1), Duration::ZERO);
    let expected = "the engine is busy with 1 start(s)".to_owned();
    assert_eq!(why(&queue, 2), (2, expected));
    let actions = queue.handle(Event::Started(Job(0)), Duration::ZERO);
    assert_eq!(actions, [start(1, 1)]);
    let again = queue.handle(Event::Started(Job(0)), Duration::ZERO);
    assert_eq!(again, [], "a start is counted once");
    let actions = queue.handle(ended(1), Duration::ZERO);
    assert_eq!(actions, [start(2, 1)], "a start that failed is over too");
    assert_eq!(queue.starting(), 1);
}

#[test]
fn a_hold_lets_only_probes_start_and_leaves_alone_what_runs() {
    let mut queue = Queue::new(None, Amount::UNLIMITED, 100);
    queue.handle(submitted(0, 0, 0, 1), Duration::ZERO);
    queue.handle(held("the disk is nearly full", 0), Duration::ZERO);
    for job in 1..4 {
        assert_eq!(queue.handle(submitted(job, 0, 0, 1), Duration::ZERO), []);
    }
    assert_eq!(why(&queue, 3), (3, "the disk is nearly full".to_owned()));
    assert_eq!(queue.running(), 1);
    let probe = queue.handle(held("the engine failed", 1), Duration::ZERO);
    assert_eq!(started_by(&probe), [1]);
    assert_eq!(queue.handle(ended(1), Duration::ZERO), []);
    let released = queue.handle(Event::Held(None), Duration::ZERO);
    assert_eq!(started_by(&released), [2, 3]);
}

#[test]
fn a_job_that_is_tried_again_waits_for_its_time_and_keeps_its_place() {
    let mut queue = Queue::new(Some(1), Amount::UNLIMITED, 100);
    for job in 0..3 {
        queue.handle(submitted(job, 0, 0, 1), Duration::ZERO);
    }
    let actions = queue.handle(failed(0, 10), seconds(1));
    assert_eq!(actions, [start(1, 0), Action::WakeAt(seconds(10))]);
    assert_eq!(
        queue.why_waiting(Job(0)).unwrap().reason,
        WaitReason::BackOff(seconds(10))
    );
    assert_eq!(queue.handle(Event::Tick, seconds(10)), []);
    assert_eq!(queue.handle(ended(1), seconds(11)), [start(0, 0)]);
    let at_once = queue.handle(failed(0, 5), seconds(12));
    assert_eq!(at_once, [start(0, 0)], "its time has passed already");
}

#[test]
fn a_job_that_shall_start_later_does() {
    let mut queue = Queue::new(None, Amount::UNLIMITED, 100);
    let later = Submission {
        ready_at: seconds(5),
        ..submission(0, 0, 1)
    };
    let event = Event::Submitted {
        job: Job(0),
        submission: later,
    };
    assert_eq!(
        queue.handle(event, seconds(1)),
        [Action::WakeAt(seconds(5))]
    );
    assert_eq!(queue.handle(Event::Tick, seconds(5)), [start(0, 0)]);
}

#[test]
fn a_run_has_no_more_jobs_at_once_than_its_own_limit() {
    let mut queue = waiting_queue(10, 100, &[(0, 0, 9, 1), (1, 0, 9, 1), (2, 1, 0, 1)]);
    let limit = |limit| Event::RunLimited {
        run: RunNumber(0),
        limit,
    };
    queue.handle(limit(Some(1)), Duration::ZERO);
    let actions = queue.handle(Event::Held(None), Duration::ZERO);
    assert_eq!(started_by(&actions), [0, 2]);
    assert_eq!(why(&queue, 1), (1, "1 may run at once, and do".to_owned()));
    let actions = queue.handle(limit(None), Duration::ZERO);
    assert_eq!(started_by(&actions), [1]);
}

#[test]
fn cancelling_drops_what_waits_in_its_scope_and_lets_the_rest_be() {
    let jobs = [(0, 0, 0, 1), (1, 0, 0, 1), (2, 1, 0, 1), (3, 1, 0, 1)];
    let mut queue = waiting_queue(1, 100, &jobs);
    let cancelled = |scope| Event::Cancelled(scope);
    queue.handle(Event::Held(None), Duration::ZERO);
    assert_eq!(
        queue.handle(cancelled(Scope::Job(Job(2))), Duration::ZERO),
        [Action::Drop(Job(2))]
    );
    assert_eq!(
        queue.handle(cancelled(Scope::Run(RunNumber(0))), Duration::ZERO),
        [Action::Drop(Job(1))]
    );
    let late = queue.handle(submitted(4, 0, 0, 1), Duration::ZERO);
    assert_eq!(late, [Action::Drop(Job(4))]);
    let retried = queue.handle(failed(0, 9), Duration::ZERO);
    assert_eq!(retried, [Action::Drop(Job(0)), start(3, 0)]);
    let all = queue.handle(cancelled(Scope::Everything), Duration::ZERO);
    assert_eq!(all, []);
    let late = queue.handle(submitted(5, 7, 0, 1), Duration::ZERO);
    assert_eq!(late, [Action::Drop(Job(5))]);
    assert_eq!(queue.handle(ended(3), Duration::ZERO), [Action::Idle]);
}

#[test]
fn a_running_job_that_was_cancelled_is_not_tried_again() {
    let mut queue = Queue::new(None, Amount::UNLIMITED, 100);
    queue.handle(submitted(0, 0, 0, 1), Duration::ZERO);
    let cancelled = queue.handle(Event::Cancelled(Scope::Job(Job(0))), Duration::ZERO);
    assert_eq!(cancelled, []);
    assert_eq!(
        queue.handle(failed(0, 1), Duration::ZERO),
        [Action::Drop(Job(0)), Action::Idle]
    );
}

#[test]
fn what_is_found_running_keeps_its_slot_and_counts_whatever_the_limits_say() {
    let mut queue = Queue::new(Some(1), host(4), 1);
    let adopted = |job, slot| Event::Adopted {
        job: Job(job),
        submission: submission(0, 0, 3),
        slot,
    };
    queue.handle(adopted(0, Some(0)), Duration::ZERO);
    queue.handle(adopted(1, Some(0)), Duration::ZERO);
    queue.handle(adopted(2, None), Duration::ZERO);
    assert_eq!((queue.running(), queue.starting()), (3, 0));
    assert_eq!(queue.handle(submitted(3, 0, 0, 1), Duration::ZERO), []);
    assert_eq!(queue.handle(ended(0), Duration::ZERO), []);
    assert_eq!(queue.handle(ended(1), Duration::ZERO), []);
    assert_eq!(queue.handle(ended(2), Duration::ZERO), [start(3, 0)]);
}

#[test]
fn a_run_is_forgotten_with_its_last_job() {
    let mut queue = Queue::new(None, Amount::UNLIMITED, 100);
    let run = RunNumber(3);
    let limited = Event::RunLimited {
        run,
        limit: Some(4),
    };
    queue.handle(limited, Duration::ZERO);
    queue.handle(submitted(0, 3, 0, 1), Duration::ZERO);
    queue.handle(ended(0), Duration::ZERO);
    assert_eq!(queue.runs.len(), 1, "its limit is still needed");
    queue.handle(Event::RunClosed(run), Duration::ZERO);
    queue.handle(submitted(1, 4, 0, 1), Duration::ZERO);
    queue.handle(ended(1), Duration::ZERO);
    assert_eq!(queue.runs.len(), 0);
}

#[test]
fn positions_say_in_which_order_jobs_will_start() {
    let jobs = [
        (0, 0, 0, 1),
        (1, 0, 0, 2),
        (2, 0, 3, 1),
        (3, 1, 0, 1),
        (4, 1, 0, 1),
        (5, 1, 0, 1),
        (6, 2, 0, 1),
    ];
    let mut queue = waiting_queue(10, 100, &jobs);
    let mut order: Vec<(usize, u64)> = (0..7).map(|job| (why(&queue, job).0, job)).collect();
    order.sort_unstable();
    let actions = queue.handle(Event::Held(None), Duration::ZERO);
    assert_eq!(started_by(&actions), [2, 3, 6, 0, 4, 1, 5]);
    // Round by round, each run in turn; that run 0 already has job 2 then is not foreseen.
    let foreseen = [(1, 2), (2, 0), (3, 3), (4, 6), (5, 1), (6, 4), (7, 5)];
    assert_eq!(order, foreseen);
}

proptest! {
    #[test]
    fn positions_are_all_different_and_have_no_gaps(
        jobs in prop::collection::vec((0_u32..5, 0_i8..3, 1_u64..4), 1..60),
    ) {
        let numbered = (0_u64..).zip(jobs);
        let numbered = numbered.map(|(job, (run, priority, size))| (job, run, priority, size));
        let jobs: Vec<_> = numbered.collect();
        let mut queue = waiting_queue(3, 6, &jobs);
        queue.handle(Event::Held(None), Duration::ZERO);
        let waiting = jobs.iter().filter_map(|job| queue.why_waiting(Job(job.0)));
        let mut positions: Vec<usize> = waiting.map(|waiting| waiting.position).collect();
        positions.sort_unstable();
        prop_assert_eq!(positions, (1..=queue.waiting()).collect::<Vec<_>>());
    }

    #[test]
    fn no_job_waits_for_ever_behind_smaller_and_more_urgent_ones(
        large in 3_u64..=10, running in 1_u64..10, runs in 1_u32..4,
    ) {
        let mut queue = Queue::new(None, host(10), 100);
        let mut jobs = 0;
        let mut small = |queue: &mut Queue, now| {
            jobs += 1;
            let run = u32::try_from(jobs).unwrap() % runs;
            queue.handle(submitted(jobs, run, 9, 1), now)
        };
        let mut alive: Vec<u64> = Vec::new();
        for _ in 0..20 {
            alive.extend(started_by(&small(&mut queue, Duration::ZERO)));
        }
        let victim = 1_000_000;
        let large = submitted(victim, 0, -9, large);
        let mut started = started_by(&queue.handle(large, Duration::ZERO));
        for second in 1..200 {
            for _ in 0..running {
                started.extend(started_by(&small(&mut queue, seconds(second))));
            }
            for _ in 0..running.min(alive.len() as u64) {
                started.extend(started_by(&queue.handle(ended(alive.remove(0)), seconds(second))));
            }
            alive.append(&mut started);
            if alive.contains(&victim) {
                return Ok(());
            }
        }
        prop_assert!(false, "it still waits");
    }
}
