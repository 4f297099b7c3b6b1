//! `cargo xtask chaos`: runs on a real engine while everything around them is killed, stopped and
//! filled, and a census of what that cost.
//!
//! Each cycle follows from a seed of its own: some tasks with the one verdict that each may come to,
//! and some faults at moments of their own. Afterwards every task is there once, no attempt ran
//! twice, nothing is left, and what belongs to somebody else is as it was. The engine is one of the
//! suite's own; the machine's is not asked for anything.

mod census;
mod clean_up;
mod drive;
mod engine;
mod foreign;
mod http;
mod lane;
mod plan;
mod processes;
mod random;
mod tasks;
mod verdicts;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use self::lane::{Lane, Outcome};
use self::plan::{Plan, fault_names};
use self::verdicts::Sort;
use crate::build;
use crate::shell::{self, Failure};

/// Programs of this machine that a second engine needs.
const PROGRAMS: [&str; 7] = [
    "dockerd",
    "unshare",
    "nsenter",
    "mkfs.ext4",
    "losetup",
    "fallocate",
    "tar",
];
/// After so many cycles that went wrong the rest would say nothing new.
const MOST_FAILURES: usize = 10;
const USAGE: &str = "chaos takes --cycles N, --seed S, --cycle SEED, --lanes N, --faults NAME,NAME and \
                     --binary PATH";

/// What was asked for on the command line.
#[derive(Debug)]
struct Wanted {
    cycles: usize,
    seed: u64,
    /// The seed of the one cycle to repeat.
    cycle: Option<u64>,
    lanes: usize,
    faults: Vec<&'static str>,
    binary: Option<PathBuf>,
}

/// Runs the suite and fails when anything went wrong.
pub(crate) fn run(words: &[&str]) -> Result<(), Failure> {
    if let [clean_up::OPTION, folder] = words {
        return clean_up::wait_and_remove(Path::new(folder));
    }
    let wanted = read(words)?;
    if !shell::is_root() {
        return Err(Failure::new("only root may start a second engine"));
    }
    if let Some(missing) = PROGRAMS.into_iter().find(|name| !shell::has(name)) {
        return Err(Failure::new(format!(
            "a second engine needs the program {missing}"
        )));
    }
    let binary = match &wanted.binary {
        Some(binary) => std::path::absolute(binary)
            .map_err(|error| Failure::new(format!("{}: {error}", binary.display())))?,
        None => build::all()?.binary,
    };
    let seeds = match wanted.cycle {
        Some(seed) => vec![seed; wanted.cycles],
        None => plan::seeds(wanted.seed, wanted.cycles),
    };
    let began = Instant::now();
    let suite = Suite {
        binary,
        seeds,
        faults: wanted.faults,
        next: AtomicUsize::new(0),
        totals: Mutex::new(Totals::default()),
    };
    let broken = suite.run(wanted.lanes);
    let totals = suite.totals.into_inner();
    let totals = totals.unwrap_or_else(PoisonError::into_inner);
    shell::step(&format!("… took {} s", began.elapsed().as_secs()));
    shell::say(&totals.line());
    match (broken, totals.verdict()) {
        (Err(one), Err(other)) => Err(Failure::new(format!("{one}\n{other}"))),
        (one, other) => one.and(other),
    }
}

fn read(words: &[&str]) -> Result<Wanted, Failure> {
    let mut wanted = Wanted {
        cycles: 5,
        seed: 1,
        cycle: None,
        lanes: 2,
        faults: fault_names().collect(),
        binary: None,
    };
    let mut is_counted = false;
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let Some(value) = words.next() else {
            return Err(Failure::new(USAGE));
        };
        let number = || {
            let number = value.parse::<u64>();
            number.map_err(|_| Failure::new(format!("'{value}' is no number")))
        };
        let count = || {
            let count = value.parse().ok().filter(|count| *count > 0);
            count.ok_or_else(|| Failure::new(format!("'{value}' is no number from 1")))
        };
        match *word {
            "--cycles" => (wanted.cycles, is_counted) = (count()?, true),
            "--seed" => wanted.seed = number()?,
            "--cycle" => wanted.cycle = Some(number()?),
            "--lanes" => wanted.lanes = count()?,
            "--faults" => wanted.faults = faults(value)?,
            "--binary" => wanted.binary = Some(PathBuf::from(value)),
            _ => return Err(Failure::new(USAGE)),
        }
    }
    if wanted.cycle.is_some() && !is_counted {
        wanted.cycles = 1;
    }
    wanted.lanes = wanted.lanes.min(wanted.cycles);
    Ok(wanted)
}

fn faults(list: &str) -> Result<Vec<&'static str>, Failure> {
    let names = list.split(',').map(|name| {
        let known = fault_names().find(|known| *known == name);
        known.ok_or_else(|| {
            let all: Vec<&str> = fault_names().collect();
            Failure::new(format!("'{name}' is no fault: {}", all.join(", ")))
        })
    });
    names.collect()
}

/// Everything that lanes share.
struct Suite {
    binary: PathBuf,
    seeds: Vec<u64>,
    faults: Vec<&'static str>,
    next: AtomicUsize,
    totals: Mutex<Totals>,
}

/// What all cycles came to.
#[derive(Debug, Default)]
struct Totals {
    cycles: usize,
    /// How many problems of each sort.
    problems: BTreeMap<Sort, usize>,
    /// Seeds of cycles that went wrong, and where everything of them is.
    failed: Vec<(u64, PathBuf)>,
}

impl Suite {
    fn run(&self, lanes: usize) -> Result<(), Failure> {
        shell::step(&format!(
            "{} cycles of chaos, {lanes} at once, each on an engine of its own",
            self.seeds.len()
        ));
        let results: Vec<Result<(), Failure>> = std::thread::scope(|scope| {
            let all: Vec<_> = (0..lanes)
                .map(|number| scope.spawn(move || self.run_lane(number)))
                .collect();
            let ended = all.into_iter().map(|lane| lane.join());
            ended
                .map(|result| result.unwrap_or_else(|_| Err(Failure::new("a lane broke off"))))
                .collect()
        });
        results.into_iter().collect()
    }

    /// Cycles one after the other; after one that went wrong in a lane that is made anew, so that
    /// what it left is not counted again.
    fn run_lane(&self, number: usize) -> Result<(), Failure> {
        let folder = std::env::temp_dir();
        let folder = folder.join(format!("swe-forge-chaos-{}-{number}", std::process::id()));
        let keep =
            std::env::temp_dir().join(format!("swe-forge-chaos-kept-{}", std::process::id()));
        let mut lane = None;
        while let Some(seed) = self.next() {
            let mut here = match lane.take() {
                Some(lane) => lane,
                None => Lane::new(&self.binary, &folder)?,
            };
            let plan = Plan::new(seed, &self.faults);
            let began = Instant::now();
            let outcome = here.cycle(&plan, &keep)?;
            self.tell(&plan, &outcome, began.elapsed().as_secs_f64());
            if outcome.problems.is_empty() {
                lane = Some(here);
            } else {
                here.remove()?;
            }
        }
        lane.map_or(Ok(()), Lane::remove)
    }

    fn next(&self) -> Option<u64> {
        if self.totals().failed.len() >= MOST_FAILURES {
            return None;
        }
        let index = self.next.fetch_add(1, Ordering::Relaxed);
        self.seeds.get(index).copied()
    }

    fn totals(&self) -> std::sync::MutexGuard<'_, Totals> {
        self.totals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, plan: &Plan, outcome: &Outcome, seconds: f64) {
        let mark = if outcome.problems.is_empty() {
            "✔"
        } else {
            "✘"
        };
        let mut line = format!("{mark} {:>10}  {seconds:>4.1} s  {plan}", plan.seed);
        if outcome.missed > 0 {
            line.push_str(&format!("; {} never came", outcome.missed));
        }
        if !outcome.collected.is_empty() {
            line.push_str(&format!("; gc removed {}", counted(&outcome.collected)));
        }
        if outcome.forgotten > 0 {
            line.push_str(&format!("; the engine forgot {}", outcome.forgotten));
        }
        for problem in &outcome.problems {
            line.push_str(&format!("\n    {problem}"));
        }
        shell::say(&line);
        self.totals().add(plan.seed, outcome);
    }
}

/// Each of some words once, with how often it is there when that is more than once.
fn counted(words: &[String]) -> String {
    let mut counts = BTreeMap::<&str, usize>::new();
    for word in words {
        *counts.entry(word).or_default() += 1;
    }
    let shown = counts.into_iter().map(|(word, count)| match count {
        1 => word.to_owned(),
        count => format!("{count} × {word}"),
    });
    shown.collect::<Vec<_>>().join(", ")
}

impl Totals {
    fn add(&mut self, seed: u64, outcome: &Outcome) {
        self.cycles += 1;
        for problem in &outcome.problems {
            *self.problems.entry(problem.sort).or_default() += 1;
        }
        if let Some(kept) = &outcome.kept {
            self.failed.push((seed, kept.clone()));
        }
    }

    fn line(&self) -> String {
        let count = |sort| self.problems.get(&sort).copied().unwrap_or(0);
        format!(
            "chaos: {} cycles, {} lost, {} doubled, {} leaked, {} foreign touched, {} wrong",
            self.cycles,
            count(Sort::Lost),
            count(Sort::Doubled),
            count(Sort::Leaked),
            count(Sort::Foreign),
            count(Sort::Wrong)
        )
    }

    fn verdict(&self) -> Result<(), Failure> {
        if self.failed.is_empty() {
            return Ok(());
        }
        let lines = self.failed.iter().map(|(seed, kept)| {
            format!("  cargo xtask chaos --cycle {seed}    # {}", kept.display())
        });
        let lines: Vec<String> = lines.collect();
        Err(Failure::new(format!(
            "cycles went wrong; to repeat them, and what they left:\n{}",
            lines.join("\n")
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::verdicts::Problem;
    use super::*;

    #[test]
    fn what_is_asked_for_is_read_and_nonsense_is_refused() {
        let wanted = read(&["--cycles", "7", "--seed", "3", "--lanes", "9"]).unwrap();
        assert_eq!((wanted.cycles, wanted.seed, wanted.lanes), (7, 3, 7));
        let one = read(&["--cycle", "42"]).unwrap();
        assert_eq!((one.cycle, one.cycles), (Some(42), 1));
        let again = read(&["--cycle", "42", "--cycles", "9"]).unwrap();
        assert_eq!(again.cycles, 9);
        for words in [
            &["--cycles", "0"][..],
            &["--cycles"],
            &["--seed", "x"],
            &["--faults", "flood"],
            &["--engine", "docker"],
        ] {
            assert!(read(words).is_err(), "{words:?}");
        }
    }

    #[test]
    fn words_are_told_once_with_their_count() {
        let words = ["a volume", "a container", "a volume"].map(str::to_owned);
        assert_eq!(counted(&words), "a container, 2 × a volume");
    }

    #[test]
    fn one_cycle_that_went_wrong_fails_the_suite_and_names_its_seed() {
        let mut totals = Totals::default();
        let outcome = |problems, kept| Outcome {
            problems,
            kept,
            ..Outcome::default()
        };
        totals.add(1, &outcome(Vec::new(), None));
        assert!(totals.verdict().is_ok());
        let problem = Problem::new(Sort::Leaked, "a volume");
        totals.add(77, &outcome(vec![problem], Some(PathBuf::from("/kept/77"))));
        assert_eq!(
            totals.line(),
            "chaos: 2 cycles, 0 lost, 0 doubled, 1 leaked, 0 foreign touched, 0 wrong"
        );
        let failure = totals.verdict().unwrap_err().to_string();
        assert!(failure.contains("--cycle 77"), "{failure}");
    }
}
