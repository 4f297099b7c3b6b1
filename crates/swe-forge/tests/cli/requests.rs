//! `cancel` and `release`, on a record that another process wrote.

use forge_core::{Attempt, Difficulty, OwnerId, RunId, SandboxId, State, TaskId, Transition};
use forge_orchestrator::holder;
use forge_store::{NewAttempt, NewRun, Request, RequestKind, RunKind, Store};
use jiff::Timestamp;

use crate::{Home, run};

const COMPLETED: [Transition; 3] = [Transition::Create, Transition::Run, Transition::Complete];

/// A record in a home, with the runtime to write it.
struct Record {
    home: Home,
    store: Store,
    runtime: tokio::runtime::Runtime,
}

impl Record {
    fn new() -> Self {
        let home = Home::new();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let path = home.path().join("state/record.sqlite");
        let owner = OwnerId::new("test").unwrap();
        let store = runtime.block_on(Store::open(path, owner)).unwrap();
        Self {
            home,
            store,
            runtime,
        }
    }

    /// A run that this process drives, or one that has ended its own.
    fn run(&self, alive: bool) -> RunId {
        let id = RunId::from_uuid(uuid::Uuid::now_v7());
        let this = holder::this_process();
        let new_run = NewRun {
            id,
            kind: RunKind::Run,
            agent: "nop".to_owned(),
            created_at: Timestamp::now(),
            out_directory: self.home.path().join("out"),
            holder: match alive {
                true => this,
                false => format!("{this}0"),
            },
            arguments: Vec::new(),
            engine: "fake".to_owned(),
            engine_version: "1".to_owned(),
            plan: String::new(),
        };
        let begun = self.store.begin_run(&new_run);
        self.runtime.block_on(begun).unwrap();
        id
    }

    /// An attempt at `task` in `run`, as far as `transitions` have taken it.
    fn attempt(&self, run: &RunId, task: &str, transitions: &[Transition]) -> SandboxId {
        let now = Timestamp::now();
        let task = TaskId::new(task).unwrap();
        let id = SandboxId::for_attempt(&task, run, Attempt(1));
        let attempt = NewAttempt {
            id: id.clone(),
            run: *run,
            task,
            attempt: Attempt(1),
            repetition: 1,
            title: "A task".to_owned(),
            difficulty: Difficulty::Easy,
            image: "example:1".to_owned(),
            created_at: now,
        };
        self.runtime.block_on(async {
            self.store.add_attempt(&attempt).await.unwrap();
            let mut state = State::Pending;
            for transition in transitions {
                let next = state.advance(transition.clone()).unwrap();
                let moved = self.store.transition(&id, &state, &next, now);
                moved.await.unwrap();
                state = next;
            }
        });
        id
    }

    fn end(&self, run: &RunId) {
        let ended = self.store.end_run(run, Timestamp::now());
        self.runtime.block_on(ended).unwrap();
    }

    fn requests(&self, run: &RunId) -> Vec<(RequestKind, Option<SandboxId>)> {
        let taken = self.runtime.block_on(self.store.take_requests(run));
        let each = |request: Request| (request.kind, request.attempt);
        taken.unwrap().into_iter().map(each).collect()
    }

    fn expect(&self, arguments: &[&str], code: i32, said: &[&str]) {
        run(self.home.swe_forge(arguments)).expect(code, said);
    }
}

#[test]
fn a_run_or_an_attempt_of_it_is_asked_to_end_by_the_process_that_drives_it() {
    let record = Record::new();
    let run = record.run(true);
    let id = record.attempt(&run, "endless", &COMPLETED[..2]);
    for name in [run.to_string(), run.short()] {
        let said = format!("asked run {run} to end");
        record.expect(&["cancel", &name], 0, &[&said]);
        assert_eq!(record.requests(&run), [(RequestKind::Cancel, None)]);
    }
    for name in ["endless", "endl", id.as_str()] {
        record.expect(&["cancel", name], 0, &["asked the run of endless-"]);
        let expected = [(RequestKind::Cancel, Some(id.clone()))];
        assert_eq!(record.requests(&run), expected, "{name}");
    }
    record.expect(&["cancel", "--all"], 0, &["asked 1 run to end"]);
    assert_eq!(record.requests(&run), [(RequestKind::Cancel, None)]);
}

#[test]
fn what_has_ended_cannot_be_cancelled() {
    let record = Record::new();
    let run = record.run(true);
    let id = record.attempt(&run, "done", &COMPLETED);
    let said = [id.as_str(), "has ended already: COMPLETED"];
    record.expect(&["cancel", "done"], 2, &said);
    record.end(&run);
    let name = run.to_string();
    record.expect(&["cancel", &name], 2, &[&name, "has ended already"]);
    record.expect(&["cancel", "--all"], 0, &["nothing is under way"]);
    assert_eq!(record.requests(&run), []);
}

#[test]
fn nobody_is_asked_to_end_what_was_interrupted() {
    let record = Record::new();
    let run = record.run(false);
    let id = record.attempt(&run, "half-done", &COMPLETED[..2]);
    let resume = format!("swe-forge run --resume {run}");
    let hints = [resume.as_str(), "swe-forge gc --interrupted"];
    for (arguments, code) in [
        (["cancel", &run.to_string()], 2),
        (["cancel", id.as_str()], 2),
        (["cancel", "--all"], 0),
        (["release", id.as_str()], 2),
    ] {
        record.expect(&arguments, code, &hints);
    }
    assert_eq!(record.requests(&run), []);
}

#[test]
fn a_name_that_fits_a_run_and_an_attempt_is_not_guessed() {
    let record = Record::new();
    let run = record.run(true);
    // The beginning of the run's id, and of the task's.
    let beginning = run.to_string()[..6].to_owned();
    let task = format!("{beginning}x");
    record.attempt(&run, &task, &[]);
    record.expect(&["cancel", &beginning], 2, &["fits several"]);
    // A task's whole name means the task.
    record.attempt(&run, &beginning, &[]);
    record.expect(&["cancel", &beginning], 0, &["asked the run of"]);
    let requests = record.requests(&run);
    assert_eq!(requests.len(), 1);
    assert!(requests[0].1.is_some(), "{requests:?}");
}

#[test]
fn a_window_for_inspection_is_ended_by_the_process_that_keeps_it() {
    let record = Record::new();
    let run = record.run(true);
    record.attempt(&run, "working", &COMPLETED[..2]);
    let said = ["has not ended", "`swe-forge cancel working-"];
    record.expect(&["release", "working"], 2, &said);
    assert_eq!(record.requests(&run), []);
    let id = record.attempt(&run, "shown", &COMPLETED);
    record.expect(&["release", "shown"], 0, &["asked the process of run"]);
    let expected = [(RequestKind::Release, Some(id))];
    assert_eq!(record.requests(&run), expected);
}

#[test]
fn what_nobody_keeps_any_more_is_removed_here() {
    let record = Record::new();
    for (task, ends) in [("kept", true), ("left", false)] {
        let run = record.run(false);
        record.attempt(&run, task, &COMPLETED);
        if ends {
            record.end(&run);
        }
        // The engine is asked for, and there is none.
        record.expect(&["release", task], 3, &["nobody.sock"]);
        assert_eq!(record.requests(&run), []);
    }
    let run = record.run(false);
    let cleaned = [&COMPLETED[..], &[Transition::CleanUp]].concat();
    let id = record.attempt(&run, "gone", &cleaned);
    let ended = record.store.cleanup_ended(&id, Timestamp::now());
    record.runtime.block_on(ended).unwrap();
    record.expect(&["release", "gone"], 0, &["nothing is left of gone-"]);
}
