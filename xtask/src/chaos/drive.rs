//! One cycle under way: a run, whatever happens to it, and the orchestrators that go on with it.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use super::engine::signal;
use super::foreign::is_foreign;
use super::lane::Lane;
use super::plan::{Fault, Plan, Strike};
use super::processes::is_in_group;
use super::verdicts::{Problem, Sort, exit_code, reports};
use crate::files::{at, has_said, run_folder, says, write};
use crate::shell::Failure;

/// A run that takes longer than this is stuck.
const LONGEST: Duration = Duration::from_secs(120);
/// How often the logs are looked at.
const PAUSE: Duration = Duration::from_millis(10);
/// Exit code of `--resume` when there is nothing to go on with.
const NOTHING_TO_RESUME: i32 = 2;
/// Exit code when the run could not be carried out.
const NOT_CARRIED_OUT: i32 = 3;
const RESTART_PAUSE: Duration = Duration::from_millis(300);
/// One that cannot go on after so many starts never will.
const MOST_STARTS: usize = 12;
/// What a user is told first by who goes on.
const RECOVERED: &str = "recovered: ";
/// The containers in which something of a task runs.
const SANDBOXES: [&str; 3] = ["setup", "task", "verify"];
const PROXY: [&str; 1] = ["egress"];

/// A cycle under way.
pub(super) struct Drive<'a> {
    lane: &'a mut Lane,
    plan: &'a Plan,
    folder: PathBuf,
    out: PathBuf,
    began: Instant,
    child: Child,
    /// How many orchestrators there were.
    starts: usize,
    resumes: bool,
    /// Whether there was a report already when an orchestrator was killed.
    was_over: bool,
    /// What happened when.
    events: Vec<String>,
    ended: Ended,
}

/// What a cycle came to.
#[derive(Debug, Default)]
pub(super) struct Ended {
    /// Strikes whose moment never came.
    pub missed: usize,
    /// How often the engine was started again.
    pub engine_restarts: usize,
    /// What went wrong besides what the report says.
    pub problems: Vec<Problem>,
}

/// A strike that is still to come.
struct Pending {
    strike: Strike,
    /// Since when its word is said.
    said: Option<Instant>,
}

impl Pending {
    fn is_due(&mut self, began: Instant, out: &Path) -> bool {
        let moment = self.strike.moment;
        if self.said.is_none() {
            self.said = match moment.word {
                "" => Some(began),
                word => has_said(out, word).then(Instant::now),
            };
        }
        self.said.is_some_and(|said| said.elapsed() >= moment.then)
    }
}

impl<'a> Drive<'a> {
    /// Writes the tasks and starts the run.
    pub(super) fn new(lane: &'a mut Lane, plan: &'a Plan, folder: &Path) -> Result<Self, Failure> {
        for task in &plan.tasks {
            let specification = folder.join("tasks").join(&task.id).join(".swe-forge");
            let file = task.kind.file(&task.id).to_string();
            write(&specification.join("task.json"), &file)?;
            write(&specification.join("config.yaml"), task.kind.config)?;
        }
        write(&folder.join("plan.txt"), &format!("{} {plan}\n", plan.seed))?;
        let out = folder.join("out");
        let child = start(lane, plan, folder, 1, false)?;
        Ok(Self {
            lane,
            plan,
            folder: folder.to_owned(),
            out,
            began: Instant::now(),
            child,
            starts: 1,
            resumes: false,
            was_over: false,
            events: Vec::new(),
            ended: Ended::default(),
        })
    }

    /// Waits for the end of the run, and lets happen what is planned meanwhile.
    pub(super) fn finish(mut self) -> Result<Ended, Failure> {
        let strikes = self.plan.strikes.iter();
        let mut pending: Vec<Pending> = strikes
            .map(|strike| Pending {
                strike: *strike,
                said: None,
            })
            .collect();
        let ended = loop {
            if self.has_ended()? {
                break Ok(());
            }
            if self.began.elapsed() > LONGEST {
                break Err(format!("the run is not over after {} s", LONGEST.as_secs()));
            }
            for index in (0..pending.len()).rev() {
                let is_due = pending[index].is_due(self.began, &self.out);
                if is_due && self.strike(pending[index].strike)? {
                    pending.remove(index);
                }
            }
            std::thread::sleep(PAUSE);
        };
        if let Err(text) = ended {
            self.note(&text);
            self.ended.problems.push(Problem::new(Sort::Lost, text));
            self.end_orchestrator()?;
        }
        self.ended.missed = pending.len();
        for left in pending {
            self.note(&format!("{} never came", left.strike));
        }
        write(
            &self.folder.join("events.txt"),
            &(self.events.join("\n") + "\n"),
        )?;
        Ok(self.ended)
    }

    fn note(&mut self, text: &str) {
        let at = self.began.elapsed().as_millis();
        self.events.push(format!("{at:>6} ms  {text}"));
    }

    /// Whether the last orchestrator has ended and the run with it.
    fn has_ended(&mut self) -> Result<bool, Failure> {
        let status = self
            .child
            .try_wait()
            .map_err(|error| Failure::new(format!("swe-forge was lost: {error}")))?;
        let Some(status) = status else {
            return Ok(false);
        };
        self.note(&format!("swe-forge ended with {status}"));
        let has_report = !reports(&self.out).is_empty();
        if has_report {
            self.judge_end(status.code());
        }
        if self.starts >= MOST_STARTS || has_report {
            return Ok(true);
        }
        if self.resumes && status.code() == Some(NOTHING_TO_RESUME) {
            // It was killed before there was a run.
            self.start(false)?;
            return Ok(false);
        }
        if status.code() == Some(NOT_CARRIED_OUT) {
            // No engine answered at its start: a user starts it again.
            std::thread::sleep(RESTART_PAUSE);
            self.start(self.resumes || run_folder(&self.out).is_some())?;
            return Ok(false);
        }
        Ok(true)
    }

    /// Whether who brought the run to its end said so, in words and by its code.
    fn judge_end(&mut self, code: Option<i32>) {
        if self.resumes && self.was_over && code == Some(NOTHING_TO_RESUME) {
            return;
        }
        if self.resumes && !says(&self.told(), RECOVERED) {
            let text = "who went on with the run does not say what was recovered";
            self.ended.problems.push(Problem::new(Sort::Wrong, text));
        }
        let must = exit_code(self.plan);
        if code != Some(must) {
            let text = format!("swe-forge ends with code {code:?} and not with {must}");
            self.ended.problems.push(Problem::new(Sort::Wrong, text));
        }
    }

    /// What the last orchestrator said to its user.
    fn told(&self) -> PathBuf {
        self.folder.join(format!("{}.stderr", self.starts))
    }

    fn start(&mut self, resumes: bool) -> Result<(), Failure> {
        self.starts += 1;
        self.resumes = resumes;
        self.child = start(self.lane, self.plan, &self.folder, self.starts, resumes)?;
        let what = if resumes { "goes on" } else { "begins anew" };
        self.note(&format!("swe-forge {what} as process {}", self.child.id()));
        Ok(())
    }

    fn end_orchestrator(&mut self) -> Result<(), Failure> {
        let ended = self.child.kill().and_then(|()| self.child.wait());
        ended
            .map(drop)
            .map_err(|error| Failure::new(format!("swe-forge could not be killed: {error}")))
    }

    /// Lets something happen; whether there was anything that it could happen to.
    fn strike(&mut self, strike: Strike) -> Result<bool, Failure> {
        let happened = match strike.fault {
            Fault::Orchestrator { pause } => {
                self.end_orchestrator()?;
                self.note("swe-forge is killed");
                // The report is written last but for the word in the record that the run is over.
                self.was_over = !reports(&self.out).is_empty();
                std::thread::sleep(Duration::from_millis(pause));
                self.start(true)?;
                true
            }
            Fault::Init => self.kill_first_process(&SANDBOXES, strike.number)?,
            Fault::Proxy => self.kill_first_process(&PROXY, strike.number)?,
            Fault::Kill => self.strike_container("kill", strike.number),
            Fault::Remove => self.strike_container("remove", strike.number),
            Fault::Client { follows, pause } => self.drop_client(follows, pause, strike.number)?,
            Fault::EngineKill => {
                self.lane.engine.kill()?;
                self.note("the engine is killed");
                self.restarted(true)?
            }
            Fault::EngineStop { keeps } => {
                self.lane.engine.stop(keeps)?;
                self.note("the engine is stopped");
                self.restarted(keeps)?
            }
            Fault::EngineFreeze { pause } => {
                self.note("the engine freezes");
                self.lane.engine.freeze(Duration::from_millis(pause))?;
                true
            }
            Fault::EngineDisk { pause } => {
                self.note("the engine's disk is full");
                self.lane.engine.fill_disk(Duration::from_millis(pause))?;
                true
            }
        };
        if happened {
            self.note(&format!("happened: {strike}"));
        }
        Ok(happened)
    }

    fn restarted(&mut self, keeps: bool) -> Result<bool, Failure> {
        self.lane.engine.start_again()?;
        self.ended.engine_restarts += 1;
        if !keeps {
            self.lane.settle_foreign()?;
        }
        Ok(true)
    }

    /// The running container of one of these roles that a number chooses: identifier and name.
    fn container(&self, roles: &[&str], number: u64) -> Option<(String, String)> {
        // An engine that does not answer at this moment has nothing to be struck.
        let all = self.lane.engine.client().list("/containers/json").ok()?;
        let mut fitting: Vec<(String, String)> = all
            .iter()
            .filter(|each| {
                let role = each["Labels"]["swe-forge.role"].as_str();
                role.is_some_and(|role| roles.contains(&role))
            })
            .filter_map(|each| {
                let name = each["Names"][0].as_str()?.to_owned();
                Some((each["Id"].as_str()?.to_owned(), name))
            })
            .filter(|(_, name)| !is_foreign(name))
            .collect();
        fitting.sort_by(|one, other| one.1.cmp(&other.1));
        let index = usize::try_from(number).ok()?.checked_rem(fitting.len())?;
        fitting.get(index).cloned()
    }

    /// Kills PID 1 of a container, as the kernel does when memory runs out.
    fn kill_first_process(&mut self, roles: &[&str], number: u64) -> Result<bool, Failure> {
        let Some((id, name)) = self.container(roles, number) else {
            return Ok(false);
        };
        let path = format!("/containers/{id}/json");
        let Ok(found) = self.lane.engine.client().get(&path) else {
            return Ok(false);
        };
        let pid = found["State"]["Pid"].as_u64();
        let Some(pid) = pid.and_then(|pid| u32::try_from(pid).ok()) else {
            return Ok(false);
        };
        // It may have ended, and its number be somebody else's now.
        let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        if pid < 2 || !is_in_group(&groups, self.lane.name()) {
            return Ok(false);
        }
        // It may end at this very moment.
        let killed = signal(pid, "KILL").is_ok();
        if killed {
            self.note(&format!("PID 1 of {name} is killed"));
        }
        Ok(killed)
    }

    fn strike_container(&mut self, what: &str, number: u64) -> bool {
        let Some((id, name)) = self.container(&SANDBOXES, number) else {
            return false;
        };
        let client = self.lane.engine.client();
        let answer = if what == "kill" {
            client.post(&format!("/containers/{id}/kill"), &serde_json::Value::Null)
        } else {
            client.delete(&format!("/containers/{id}?force=true"))
        };
        if answer.is_ok() {
            self.note(&format!("{name}: {what}"));
        }
        answer.is_ok()
    }

    /// Starts a client that looks on, and kills it.
    fn drop_client(&mut self, follows: bool, pause: u64, number: u64) -> Result<bool, Failure> {
        let count = u64::try_from(self.plan.tasks.len()).unwrap_or(1);
        let index = usize::try_from(number % count).unwrap_or(0);
        let task = &self.plan.tasks[index].id;
        let words: &[&str] = if follows {
            &["logs", "--follow", task]
        } else {
            &["ps", "--all", "--format", "json"]
        };
        let mut command = self.lane.command(words);
        let client = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let failure = |error| Failure::new(format!("a client was lost: {error}"));
        let mut client = client.map_err(failure)?;
        std::thread::sleep(Duration::from_millis(pause));
        client
            .kill()
            .and_then(|()| client.wait())
            .map_err(failure)?;
        Ok(true)
    }
}

/// Starts an orchestrator that begins the run or goes on with it.
fn start(
    lane: &Lane,
    plan: &Plan,
    folder: &Path,
    number: usize,
    resumes: bool,
) -> Result<Child, Failure> {
    let file = |end: &str| {
        let path = folder.join(format!("{number}.{end}"));
        fs::File::create(&path).map_err(|error| at(&path, &error))
    };
    let mut command = if resumes {
        lane.command(&["run", "--resume", "--format", "json"])
    } else {
        let mut command = lane.command(&["run", "--format", "json", "--agent", "command"]);
        command
            .args(["--jobs", &plan.jobs.to_string()])
            .arg("--out")
            .arg(folder.join("out"))
            .arg(folder.join("tasks"));
        command
    };
    command
        .stdout(file("stdout")?)
        .stderr(file("stderr")?)
        // Ctrl-C is not for it.
        .process_group(0)
        .spawn()
        .map_err(|error| Failure::new(format!("swe-forge could not be started: {error}")))
}
