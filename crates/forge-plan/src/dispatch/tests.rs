//! What the dispatcher makes of scripts of events.

use super::*;
use crate::queue::{RunNumber, WaitReason};
use crate::retry::Jitter;

const RUN: RunNumber = RunNumber(1);

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn policy() -> Policy {
    Policy {
        concurrency: None,
        total: Amount {
            cpu_millis: 16_000,
            memory_bytes: 64,
            disk_bytes: 1000,
            processes: 1000,
        },
        cores: 4,
        retry: RetryPolicy {
            attempts: 3,
            first: seconds(2),
            factor: 2,
            most: seconds(60),
            jitter: Jitter::Equal,
        },
        breaker: BreakerPolicy {
            failures: 3,
            ..BreakerPolicy::default()
        },
        hold: HoldPolicy {
            memory_reserve: 100,
            disk_reserve: 100,
            psi_memory_some: 20.0,
            psi_io_full: 60.0,
        },
    }
}

/// A dispatcher with `count` jobs of the same size handed in at 0.
fn with_jobs(policy: Policy, count: u64) -> (Dispatcher, Vec<Action>) {
    let mut dispatcher = Dispatcher::new(policy);
    let mut actions = Vec::new();
    for number in 0..count {
        actions.extend(dispatcher.handle(submitted(number, 1), Duration::ZERO));
    }
    (dispatcher, actions)
}

fn submitted(number: u64, memory_bytes: u64) -> Event {
    Event::Submitted {
        job: Job(number),
        submission: Submission {
            run: RUN,
            priority: 0,
            amount: Amount {
                cpu_millis: 1000,
                memory_bytes,
                disk_bytes: 1,
                processes: 1,
            },
            ready_at: Duration::ZERO,
        },
        earlier: 0,
    }
}

fn started(actions: &[Action]) -> Vec<(u64, u32)> {
    let starts = actions.iter().filter_map(|action| match action {
        Action::Start { job, attempt, .. } => Some((job.0, attempt.0)),
        _ => None,
    });
    starts.collect()
}

fn ended(number: u64, reason: Option<Reason>) -> Event {
    let job = Job(number);
    Event::Ended { job, reason }
}

fn up(number: u64) -> Event {
    Event::Up {
        job: Job(number),
        took: Duration::from_millis(50),
    }
}

fn measured(memory_available: u64) -> Event {
    Event::Measured(Measured {
        memory_available,
        memory_total: 2000,
        disk_free: 2000,
        disk_total: 2000,
        psi_memory_some10: None,
        psi_io_full10: None,
    })
}

#[test]
fn so_many_starts_are_in_flight_as_the_engine_takes_and_the_next_follows_one_that_is_up() {
    let (mut dispatcher, actions) = with_jobs(policy(), 20);
    assert_eq!(started(&actions).len(), 8, "two for each core");
    let waiting = dispatcher.why_waiting(Job(8)).unwrap();
    assert_eq!(
        (waiting.position, waiting.reason),
        (1, WaitReason::StartWindow(8))
    );
    assert_eq!(started(&dispatcher.handle(up(0), seconds(1))), [(8, 1)]);
    // The same said twice makes no difference.
    assert_eq!(started(&dispatcher.handle(up(0), seconds(1))), []);
    assert_eq!(dispatcher.queue().running(), 9);
}

#[test]
fn what_the_infrastructure_did_is_tried_again_after_a_pause_and_no_more_than_allowed() {
    let (mut dispatcher, _) = with_jobs(policy(), 1);
    let mut now = seconds(1);
    for attempt in 1..3 {
        dispatcher.handle(up(0), now);
        let actions = dispatcher.handle(ended(0, Some(Reason::KillFailed)), now);
        let [Action::Again { job: Job(0), pause }] = actions[..] else {
            panic!("{actions:?}");
        };
        let whole = seconds(2) * attempt;
        assert!(pause >= whole / 2 && pause <= whole, "{pause:?}");
        let wake = dispatcher.wake_at().unwrap();
        assert_eq!(wake, now + pause);
        assert_eq!(
            dispatcher.why_waiting(Job(0)).unwrap().reason,
            WaitReason::BackOff(wake)
        );
        assert_eq!(dispatcher.handle(Event::Tick, wake - pause / 2), []);
        now = wake;
        let again = dispatcher.handle(Event::Tick, now);
        assert_eq!(started(&again), [(0, attempt + 1)]);
    }
    let last = dispatcher.handle(ended(0, Some(Reason::KillFailed)), now);
    assert_eq!(last, [Action::Idle]);
}

#[test]
fn without_a_pause_the_next_try_follows_at_once() {
    let mut policy = policy();
    policy.retry.first = Duration::ZERO;
    let (mut dispatcher, _) = with_jobs(policy, 1);
    let actions = dispatcher.handle(ended(0, Some(Reason::Lost)), seconds(1));
    assert!(
        matches!(actions[..], [Action::Again { .. }, Action::Start { .. }]),
        "{actions:?}"
    );
    assert_eq!(started(&actions), [(0, 2)]);
}

#[test]
fn what_the_task_or_its_user_did_is_never_tried_again() {
    for reason in Reason::ALL {
        let (mut dispatcher, _) = with_jobs(policy(), 1);
        let actions = dispatcher.handle(ended(0, Some(reason)), seconds(1));
        let is_again = matches!(actions[..], [Action::Again { .. }]);
        assert_eq!(is_again, reason.is_retried(), "{reason}: {actions:?}");
    }
    let (mut dispatcher, _) = with_jobs(policy(), 1);
    assert_eq!(
        dispatcher.handle(ended(0, None), seconds(1)),
        [Action::Idle]
    );
}

#[test]
fn an_engine_that_keeps_failing_is_left_alone_and_probed_with_one_job() {
    let (mut dispatcher, _) = with_jobs(policy(), 20);
    let fault = Some(Reason::EngineUnavailable);
    for number in 0..3 {
        dispatcher.handle(ended(number, fault), seconds(1));
    }
    let waiting = dispatcher.why_waiting(Job(19)).unwrap();
    assert!(
        matches!(&waiting.reason, WaitReason::Held(why) if why.contains("kept failing")),
        "{waiting:?}"
    );
    // Everybody else who was under way ends as well; nobody follows.
    for number in 3..11 {
        assert_eq!(
            started(&dispatcher.handle(ended(number, fault), seconds(1))),
            []
        );
    }
    let (mut probe, mut probing) = (Duration::ZERO, Vec::new());
    while probing.is_empty() {
        probe = dispatcher.wake_at().unwrap();
        probing = started(&dispatcher.handle(Event::Tick, probe));
    }
    assert_eq!((probe, probing.len()), (seconds(6), 1), "{probing:?}");
    assert_eq!(started(&dispatcher.handle(Event::Tick, probe)), []);
    // It works again: everybody may.
    let after = dispatcher.handle(up(probing[0].0), probe + seconds(1));
    assert!(!started(&after).is_empty());
}

#[test]
fn a_host_under_pressure_starts_nothing_and_ends_nothing() {
    let (mut dispatcher, _) = with_jobs(policy(), 20);
    assert_eq!(dispatcher.handle(measured(50), seconds(1)), []);
    assert_eq!(started(&dispatcher.handle(up(0), seconds(1))), []);
    assert_eq!(started(&dispatcher.handle(ended(1, None), seconds(1))), []);
    let why = dispatcher.why_waiting(Job(19)).unwrap().reason.to_string();
    assert!(why.contains("memory"), "{why}");
    let calm = dispatcher.handle(measured(1000), seconds(6));
    assert_eq!(started(&calm).len(), 2);
}

#[test]
fn a_job_that_the_host_can_never_have_room_for_is_refused() {
    let mut dispatcher = Dispatcher::new(policy());
    let actions = dispatcher.handle(submitted(0, 65), Duration::ZERO);
    let [Action::Refuse { job, shortage }, Action::Idle] = actions[..] else {
        panic!("{actions:?}");
    };
    assert_eq!((job, shortage.never()), (Job(0), true));
}

#[test]
fn what_is_cancelled_is_not_tried_again() {
    let (mut dispatcher, _) = with_jobs(policy(), 10);
    let dropped = dispatcher.handle(Event::Cancelled(Scope::Run(RUN)), seconds(1));
    assert_eq!(dropped, [Action::Drop(Job(8)), Action::Drop(Job(9))]);
    for number in 0..8 {
        let actions = dispatcher.handle(ended(number, Some(Reason::Lost)), seconds(2));
        assert_eq!(actions[0], Action::Drop(Job(number)));
        let rest: &[Action] = if number == 7 { &[Action::Idle] } else { &[] };
        assert_eq!(&actions[1..], rest, "{number}");
    }
}

#[test]
fn one_that_waits_to_be_tried_again_is_dropped_with_the_rest() {
    let (mut dispatcher, _) = with_jobs(policy(), 1);
    dispatcher.handle(ended(0, Some(Reason::Lost)), seconds(1));
    assert_eq!(
        dispatcher.handle(Event::Cancelled(Scope::Everything), seconds(1)),
        [Action::Drop(Job(0)), Action::Idle]
    );
}

fn lingers(number: u64, firm: bool) -> Event {
    let job = Job(number);
    Event::Lingers { job, firm }
}

fn adopted(number: u64, attempt: u32) -> Event {
    let Event::Submitted {
        job, submission, ..
    } = submitted(number, 1)
    else {
        unreachable!("that is what it makes")
    };
    Event::Adopted {
        job,
        submission,
        slot: Some(7),
        attempt: Attempt(attempt),
    }
}

#[test]
fn what_is_found_under_way_runs_already_and_has_had_its_tries() {
    let mut dispatcher = Dispatcher::new(policy());
    assert_eq!(dispatcher.handle(adopted(0, 3), Duration::ZERO), []);
    assert_eq!(dispatcher.queue().running(), 1);
    assert_eq!(dispatcher.queue().starting(), 0);
    let actions = dispatcher.handle(ended(0, Some(Reason::Lost)), seconds(1));
    assert_eq!(actions, [Action::Idle], "three tries are all there are");
    dispatcher.handle(adopted(1, 2), seconds(1));
    let actions = dispatcher.handle(ended(1, Some(Reason::Lost)), seconds(2));
    assert!(matches!(actions[..], [Action::Again { job: Job(1), .. }]));
}

#[test]
fn a_job_that_was_tried_before_has_fewer_tries_left() {
    let mut dispatcher = Dispatcher::new(policy());
    let Event::Submitted {
        job, submission, ..
    } = submitted(0, 1)
    else {
        unreachable!("that is what it makes")
    };
    let event = Event::Submitted {
        job,
        submission,
        earlier: 2,
    };
    assert_eq!(started(&dispatcher.handle(event, Duration::ZERO)), [(0, 3)]);
    let actions = dispatcher.handle(ended(0, Some(Reason::Lost)), seconds(1));
    assert_eq!(actions, [Action::Idle]);
}

#[test]
fn what_lingers_goes_when_its_place_is_wanted_the_longest_first() {
    let mut policy = policy();
    policy.concurrency = Some(2);
    let (mut dispatcher, _) = with_jobs(policy, 3);
    dispatcher.handle(up(0), seconds(1));
    dispatcher.handle(up(1), seconds(1));
    let actions = dispatcher.handle(lingers(1, true), seconds(2));
    assert_eq!(actions, [Action::Release(Job(1))]);
    assert_eq!(
        dispatcher.handle(lingers(0, false), seconds(3)),
        [],
        "one place is enough for one job"
    );
    let actions = dispatcher.handle(ended(1, None), seconds(4));
    assert_eq!(started(&actions), [(2, 1)]);
    assert!(!actions.contains(&Action::Release(Job(0))));
}

#[test]
fn what_lingers_by_default_goes_with_the_last_that_runs_and_what_does_firmly_stays() {
    let (mut dispatcher, _) = with_jobs(policy(), 3);
    for number in 0..3 {
        dispatcher.handle(up(number), seconds(1));
    }
    assert_eq!(dispatcher.handle(lingers(0, false), seconds(2)), []);
    assert_eq!(dispatcher.handle(lingers(1, true), seconds(2)), []);
    let actions = dispatcher.handle(ended(2, None), seconds(3));
    assert_eq!(actions, [Action::Release(Job(0))]);
    assert_eq!(dispatcher.handle(ended(0, None), seconds(4)), []);
    let actions = dispatcher.handle(ended(1, None), seconds(64));
    assert_eq!(actions, [Action::Idle]);
}

#[test]
fn a_host_that_is_short_of_memory_has_nothing_linger() {
    let (mut dispatcher, _) = with_jobs(policy(), 3);
    for number in 0..3 {
        dispatcher.handle(up(number), seconds(1));
    }
    assert_eq!(dispatcher.handle(lingers(0, true), seconds(2)), []);
    assert_eq!(dispatcher.handle(lingers(1, false), seconds(2)), []);
    let actions = dispatcher.handle(measured(10), seconds(3));
    let released = [0, 1].map(|number| Action::Release(Job(number)));
    assert_eq!(actions, released);
}
