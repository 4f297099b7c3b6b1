//! Prints what a decision of the queue costs with 100,000 jobs of 100 runs in it:
//! `cargo run --release -p forge-plan --example queue_cost`. The largest figures are those of calls
//! during which something else had the core.
#![expect(clippy::print_stdout, reason = "its figures are its purpose")]

use std::collections::VecDeque;
use std::fs;
use std::time::{Duration, Instant};

use forge_plan::capacity::Amount;
use forge_plan::queue::{Action, Event, Job, Queue, RunNumber, Scope, Submission};

const JOBS: u64 = 100_000;
const RUNS: u64 = 100;
const MEBIBYTE: u64 = 1 << 20;

/// What the five difficulties reserve: cores in thousandths, memory and disk in mebibytes,
/// processes.
const AMOUNTS: [(u64, u64, u64, u64); 5] = [
    (250, 256, 2048, 50),
    (500, 512, 5120, 100),
    (1000, 1024, 10_240, 200),
    (2000, 2048, 20_480, 500),
    (4000, 4096, 51_200, 1000),
];

/// How long the calls of one kind took.
struct Cost {
    what: &'static str,
    times: Vec<Duration>,
}

impl Cost {
    const fn new(what: &'static str) -> Self {
        Self {
            what,
            times: Vec::new(),
        }
    }

    fn of<T>(&mut self, call: impl FnOnce() -> T) -> T {
        let began = Instant::now();
        let result = call();
        self.times.push(began.elapsed());
        result
    }

    fn print(mut self) {
        self.times.sort_unstable();
        let micros = |time: Duration| time.as_secs_f64() * 1e6;
        let count = self.times.len();
        let total: Duration = self.times.iter().sum();
        let at = |thousandth: usize| micros(self.times[(count - 1) * thousandth / 1000]);
        println!(
            "{:38} {count:>7} calls   mean {:>7.2} µs   p50 {:>7.2}   p99.9 {:>8.2}   most {:>9.2}",
            self.what,
            micros(total) / f64::from(u32::try_from(count).unwrap_or(u32::MAX)),
            at(500),
            at(999),
            at(1000),
        );
    }
}

fn main() {
    for (title, kinds) in [("five amounts", 5), ("every job another amount", JOBS)] {
        println!("{title}");
        measure(kinds);
    }
}

fn measure(kinds: u64) {
    let host = Amount {
        cpu_millis: 256_000,
        memory_bytes: 256 * 1024 * MEBIBYTE,
        disk_bytes: 8_000_000 * MEBIBYTE,
        processes: 100_000,
    };
    let before = resident();
    let mut queue = Queue::new(None, host, 64);
    let mut now = Duration::ZERO;
    let mut starting = VecDeque::new();

    let mut submitted = Cost::new("submitted");
    for number in 0..JOBS {
        let event = Event::Submitted {
            job: Job(number),
            submission: submission(number, kinds),
        };
        let actions = submitted.of(|| queue.handle(event, now));
        take(&actions, &mut starting);
    }
    submitted.print();
    if let Some((before, after)) = before.zip(resident()) {
        println!(
            "{:38} {:>7} bytes of memory a job",
            "",
            (after - before) / JOBS
        );
    }

    why(&queue);
    let (mut started, mut ended) = (Cost::new("started"), Cost::new("ended"));
    let mut running = VecDeque::new();
    for turn in 0_u64..60_000 {
        now += Duration::from_millis(10);
        if let Some(job) = starting.pop_front() {
            let actions = started.of(|| queue.handle(Event::Started(job), now));
            take(&actions, &mut starting);
            running.push_back(job);
        }
        // Once the host is full, one ends for each that starts.
        if (starting.is_empty() || turn > 1000)
            && let Some(job) = running.pop_front()
        {
            let again = (job.0 % 10 == 0).then(|| now + Duration::from_secs(60));
            let actions = ended.of(|| queue.handle(Event::Ended { job, again }, now));
            take(&actions, &mut starting);
        }
    }
    started.print();
    ended.print();
    why(&queue);
    println!(
        "{:38} {} wait, {} run",
        "",
        queue.waiting(),
        queue.running()
    );

    let mut cancelled = Cost::new("one job cancelled");
    for number in (0..JOBS).rev().step_by(97) {
        let event = Event::Cancelled(Scope::Job(Job(number)));
        cancelled.of(|| queue.handle(event, now));
    }
    cancelled.print();
    let mut cancelled = Cost::new("a run cancelled, 1,000 jobs or fewer");
    for run in 0..RUNS {
        let run = RunNumber(u32::try_from(run).unwrap_or(0));
        cancelled.of(|| queue.handle(Event::Cancelled(Scope::Run(run)), now));
    }
    cancelled.print();
    println!();
}

fn submission(number: u64, kinds: u64) -> Submission {
    let random = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33;
    let index = usize::try_from(random % 5).unwrap_or(0);
    let (cpu_millis, memory, disk, processes) = AMOUNTS[index];
    let extra = if kinds > 5 { number % kinds } else { 0 };
    Submission {
        run: RunNumber(u32::try_from(number % RUNS).unwrap_or(0)),
        priority: i8::try_from(random / 5 % 3).unwrap_or(0),
        amount: Amount {
            cpu_millis,
            memory_bytes: memory * MEBIBYTE + extra * 1024,
            disk_bytes: disk * MEBIBYTE,
            processes,
        },
        ready_at: Duration::ZERO,
    }
}

fn take(actions: &[Action], starting: &mut VecDeque<Job>) {
    starting.extend(actions.iter().filter_map(|action| match action {
        Action::Start { job, .. } => Some(*job),
        _ => None,
    }));
}

fn why(queue: &Queue) {
    let mut asked = Cost::new("why a job waits");
    for number in (0..JOBS).step_by(17) {
        asked.of(|| queue.why_waiting(Job(number)));
    }
    asked.print();
}

/// Memory of this process in bytes, where the kernel says so.
fn resident() -> Option<u64> {
    let text = fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = text.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * 4096)
}
