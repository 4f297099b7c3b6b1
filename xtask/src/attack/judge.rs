//! Rows from what runs left: their reports, the results that attempts wrote, the connection logs.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::outside::Outside;
use super::scenes::{Scene, Stage};
use super::tables::{self, Row, text};

/// How much longer than alone a neighbour's programs may take.
const MOST_SLOWDOWN: f64 = 2.0;
/// Differences below this, in milliseconds, are those of whatever else runs on the machine.
const NOISE: f64 = 10.0;

/// The verdict on a neighbour that is disturbed more than it may be.
pub(super) const SLOWED: &str = "slowed down";
/// What stands for the reason of what was allowed.
const ALLOWED: &str = "allowed";

/// What one run left.
#[derive(Debug)]
pub(super) struct Left {
    folder: PathBuf,
    report: Value,
}

impl Left {
    pub(super) fn read(folder: PathBuf) -> Self {
        let text = fs::read_to_string(folder.join("report.json")).unwrap_or_default();
        let report = serde_json::from_str(&text).unwrap_or_default();
        Self { folder, report }
    }

    fn task(&self, id: &str) -> Option<&Value> {
        let mut tasks = self.report["tasks"].as_array()?.iter();
        tasks.find(|task| task["task_id"] == id)
    }

    fn output(&self, task: &Value) -> PathBuf {
        self.folder
            .join("attempts")
            .join(text(task, "id"))
            .join("artifacts/output")
    }

    /// The first result that a task wrote.
    pub(super) fn result(&self, id: &str) -> Option<Value> {
        let path = self.output(self.task(id)?).join("results.jsonl");
        let lines = fs::read_to_string(path).ok()?;
        serde_json::from_str(lines.lines().next()?).ok()
    }

    /// The host of every refusal in a task's connection log.
    pub(super) fn hosts(&self, id: &str) -> Vec<String> {
        let task = self.task(id);
        let mut logged = task.map(|task| self.logged(task)).unwrap_or_default();
        logged.retain(|(reason, _)| reason != ALLOWED);
        logged.into_iter().map(|(_, host)| host).collect()
    }

    /// What the neighbour of a scene measured: median and 99th percentile, in milliseconds.
    pub(super) fn times(&self, id: &str) -> Option<(f64, f64)> {
        let path = self.output(self.task(id)?).join("times.json");
        let times: Value = serde_json::from_str(&fs::read_to_string(path).ok()?).ok()?;
        Some((times["median"].as_f64()?, times["p99"].as_f64()?))
    }

    /// The rows of a scene.
    pub(super) fn rows(
        &self,
        scene: &Scene,
        stage: &Stage,
        outside: &Outside,
        quiet: Option<(f64, f64)>,
    ) -> Vec<Row> {
        let Some(task) = self.task(&scene.id()) else {
            return absent(scene, "its task is not in the report");
        };
        let results = results(&self.output(task));
        let mut rows = Vec::new();
        for attempt in &scene.attempts {
            let level = scene.shown_level();
            let expected = tables::expected(attempt, level).unwrap_or_default();
            let observed = match text(attempt, "observe") {
                "" | "result" => results.get(text(attempt, "name")).cloned(),
                "taken" => Some(taken(outside, attempt)),
                "neighbour" => Some(slowdown(self.times(&scene.id()), quiet)),
                "users" => Some(self.users(&scene.id(), text(attempt, "with"))),
                what => Some(self.observe(what, attempt, task, stage)),
            };
            rows.push(match observed {
                Some(observed) => Row::new(attempt, level, expected, &observed),
                None => Row::missing(attempt, level, expected, &ending_and_message(task)),
            });
        }
        if scene.level.is_empty() {
            self.check_hosts(scene, task, &mut rows);
        } else {
            self.check_reasons(scene, task, stage, &mut rows);
        }
        rows
    }

    /// Whether two tasks had different users, which each wrote with its result.
    fn users(&self, one: &str, other: &str) -> String {
        let [one, other] = [one, other].map(|id| self.result(id)?["user"].as_u64());
        match (one, other) {
            (Some(one), Some(other)) if one != other && one > 0 && other > 0 => "differ".to_owned(),
            (one, other) => format!("{one:?} and {other:?}"),
        }
    }

    /// What a program asked for is in the connection log with the reason why it did not get it, and
    /// was never allowed.
    fn check_hosts(&self, scene: &Scene, task: &Value, rows: &mut [Row]) {
        let logged = self.logged(task);
        for (attempt, row) in scene.attempts.iter().zip(rows) {
            let (reason, host) = (text(attempt, "reason"), text(attempt, "host"));
            if host.is_empty() {
                continue;
            }
            let mut of_host = logged.iter().filter(|entry| entry.1 == host).peekable();
            let is_logged = of_host.peek().is_some() && of_host.all(|entry| entry.0 == reason);
            row.also(&format!(", logged as {reason}"), is_logged);
        }
    }

    fn observe(&self, what: &str, attempt: &Value, task: &Value, stage: &Stage) -> String {
        let output = self.output(task);
        match what {
            "ending" => ending(task),
            "disk_quota" => text(task, "disk_quota").to_owned(),
            "within" => {
                let took = phase(task, "solve")["duration_ms"]
                    .as_f64()
                    .unwrap_or(f64::MAX)
                    / 1000.0;
                let most = attempt["seconds"].as_f64().unwrap_or(0.0);
                yes_or(took <= most, &format!("{took:.1} s"))
            }
            "log_mb" => {
                let bytes = phase(task, "solve")["output_bytes"]
                    .as_u64()
                    .unwrap_or(u64::MAX);
                let most = attempt["most"].as_u64().unwrap_or(0) * 1024 * 1024;
                yes_or(bytes <= most + 64 * 1024, &format!("{bytes} bytes"))
            }
            "noted" => {
                let notes = task["notes"].as_array().cloned().unwrap_or_default();
                let wanted = text(attempt, "text");
                let is_noted = notes
                    .iter()
                    .any(|note| note.as_str().is_some_and(|note| note.contains(wanted)));
                yes_or(is_noted, "no note")
            }
            "marker" => {
                let there = stage.marker().exists();
                if there { "made" } else { "absent" }.to_owned()
            }
            "kept" | "kept_mb" | "kept_names" => bounded(what, attempt, &output),
            "logged" => {
                let reason = text(attempt, "reason");
                let is_logged = self.logged(task).iter().any(|entry| entry.0 == reason);
                yes_or(is_logged, "it does not")
            }
            "links" => first(&output, |path, kind| {
                kind.is_symlink() && path.exists() || kind.is_symlink()
            }),
            "special" => first(&output, |_, kind| {
                !kind.is_dir() && !kind.is_file() && !kind.is_symlink()
            }),
            "foreign" => first(&output, |path, kind| {
                kind.is_file() && fs::read(path).is_ok_and(|bytes| bytes.starts_with(b"root:"))
            }),
            "names" => odd_names(&output),
            other => format!("'{other}' cannot be observed"),
        }
    }

    /// Each refusal has its reason in the connection log and in the report. Where a client is not
    /// told, the log alone says it.
    fn check_reasons(&self, scene: &Scene, task: &Value, stage: &Stage, rows: &mut Vec<Row>) {
        let logged = self.logged(task);
        let count = |reason: &str, host: Option<&str>| {
            let same = |entry: &&(String, String)| {
                entry.0 == reason && host.is_none_or(|host| entry.1 == host)
            };
            logged.iter().filter(same).count()
        };
        let mut needed: BTreeMap<(String, Option<String>), usize> = BTreeMap::new();
        for (attempt, row) in scene.attempts.iter().zip(rows.iter_mut()) {
            let observed = row.observed.split(tables::AND);
            let denied: Vec<&str> = observed
                .filter_map(|one| one.strip_prefix("denied:"))
                .collect();
            if !denied.is_empty() {
                for reason in denied {
                    *needed.entry((reason.to_owned(), None)).or_default() += 1;
                }
            } else if let Some(reason) = attempt["reason"][scene.level.as_str()].as_str() {
                let host = attempt["host"].as_str().map(|host| match host {
                    "{registry}" => text(&stage.parameters, "registry").to_owned(),
                    host => host.to_owned(),
                });
                let needed = needed.entry((reason.to_owned(), host.clone())).or_default();
                *needed += 1;
                row.also(
                    &format!(", logged as {reason}"),
                    count(reason, host.as_deref()) >= *needed,
                );
            }
        }
        let reported = task["network"]["denied"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
        for ((reason, _), count) in &needed {
            *reasons.entry(reason).or_default() += count;
        }
        for (reason, needed) in reasons {
            let found = count(reason, None);
            let is_reported = reported.iter().any(|denied| denied["reason"] == reason);
            let attempt = serde_json::json!({
                "case": 3,
                "name": format!("log-{reason}"),
                "what": format!("each refusal as {reason} is in the connection log, and the report has some"),
            });
            let observed = match (found >= needed, is_reported) {
                (true, true) => "yes".to_owned(),
                (true, false) => "not in the report".to_owned(),
                (false, _) => format!("{found} of {needed} in the log"),
            };
            rows.push(Row::new(&attempt, &scene.level, "yes", &observed));
        }
    }

    /// Reason and host of everything in the connection log.
    fn logged(&self, task: &Value) -> Vec<(String, String)> {
        let Some(log) = task["network"]["log"].as_str() else {
            return Vec::new();
        };
        let log = fs::read_to_string(self.folder.join(log)).unwrap_or_default();
        let one = |line: &str| {
            let record: Value = serde_json::from_str(line).ok()?;
            let reason = record["reason"].as_str().unwrap_or(ALLOWED);
            Some((reason.to_owned(), text(&record, "host").to_owned()))
        };
        log.lines().filter_map(one).collect()
    }
}

/// Rows for a scene that has no results.
pub(super) fn absent(scene: &Scene, why: &str) -> Vec<Row> {
    let level = scene.shown_level();
    let row = |attempt: &Value| {
        Row::missing(
            attempt,
            level,
            tables::expected(attempt, level).unwrap_or_default(),
            why,
        )
    };
    scene.attempts.iter().map(row).collect()
}

/// Whether the host that is allowed got less than so many MiB.
fn taken(outside: &Outside, attempt: &Value) -> String {
    let counts = outside.taken.all();
    let all: u64 = counts
        .iter()
        .filter_map(|count| count.parse::<u64>().ok())
        .sum();
    let most = attempt["most"].as_u64().unwrap_or(0) * 1024 * 1024;
    yes_or((1..most).contains(&all), &format!("{all} bytes"))
}

fn yes_or(good: bool, otherwise: &str) -> String {
    if good {
        "yes".to_owned()
    } else {
        otherwise.to_owned()
    }
}

fn ending(task: &Value) -> String {
    match task["reason"].as_str() {
        Some(reason) => reason.to_owned(),
        None => text(task, "state").to_owned(),
    }
}

fn ending_and_message(task: &Value) -> String {
    format!("{}: {}", ending(task), text(task, "message"))
}

fn phase<'a>(task: &'a Value, name: &str) -> &'a Value {
    let phases = task["phases"].as_array();
    let found = phases.and_then(|phases| phases.iter().find(|phase| phase["name"] == name));
    found.unwrap_or(&Value::Null)
}

fn results(output: &Path) -> BTreeMap<String, String> {
    let lines = fs::read_to_string(output.join("results.jsonl")).unwrap_or_default();
    let one = |line: &str| {
        let result: Value = serde_json::from_str(line).ok()?;
        Some((
            result["attempt"].as_str()?.to_owned(),
            result["outcome"].as_str()?.to_owned(),
        ))
    };
    lines.lines().filter_map(one).collect()
}

/// The first entry below a folder, links not followed, that is of a kind; `none` otherwise.
fn first(folder: &Path, is_wanted: impl Fn(&Path, fs::FileType) -> bool) -> String {
    let mut folders = vec![folder.to_owned()];
    let mut looked_at = 0;
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else {
            continue;
        };
        for entry in entries.flatten() {
            looked_at += 1;
            let (path, Ok(kind)) = (entry.path(), entry.file_type()) else {
                continue;
            };
            if is_wanted(&path, kind) {
                return format!("found {}", path.display());
            }
            if kind.is_dir() {
                folders.push(path);
            }
        }
    }
    // Nothing at all was kept: that is no proof.
    if looked_at == 0 {
        "nothing was kept"
    } else {
        "none"
    }
    .to_owned()
}

/// Whether what was kept is as much as it should be.
fn bounded(what: &str, attempt: &Value, output: &Path) -> String {
    let (count, bytes, names) = kept(output);
    let found = match what {
        "kept" => count,
        "kept_mb" => bytes.div_ceil(1024 * 1024),
        _ => names,
    };
    let bound = |key: &str, otherwise| attempt[key].as_u64().unwrap_or(otherwise);
    let is_within = (bound("least", 1)..=bound("most", 0)).contains(&found);
    yes_or(is_within, &format!("{found} kept"))
}

/// Whether names that are more than letters and digits were kept.
fn odd_names(output: &Path) -> String {
    let is_odd = |name: &std::ffi::OsString| {
        let mut bytes = name.as_bytes().iter();
        bytes.any(|byte| !byte.is_ascii_alphanumeric())
    };
    let entries = fs::read_dir(output).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name());
    match names.filter(is_odd).count() {
        8.. => "kept".to_owned(),
        few => format!("{few} kept"),
    }
}

/// How many files are below a folder, and how many bytes they and their names have.
fn kept(folder: &Path) -> (u64, u64, u64) {
    let mut sum = (0, 0, 0);
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let Ok(metadata) = entry.metadata() else {
                continue;
            };
            if metadata.is_dir() {
                folders.push(entry.path());
            }
            let name = u64::try_from(entry.file_name().len()).unwrap_or(u64::MAX);
            sum = (sum.0 + 1, sum.1 + metadata.len(), sum.2 + name);
        }
    }
    sum
}

/// Compares a neighbour's times with those it had alone.
fn slowdown(times: Option<(f64, f64)>, quiet: Option<(f64, f64)>) -> String {
    let (Some((median, p99)), Some((quiet_median, quiet_p99))) = (times, quiet) else {
        return "not measured".to_owned();
    };
    super::outside::remark(&format!(
        "a neighbour's programs: median {quiet_median:.1} ms alone, {median:.1} ms beside attacks ({:.2} times); \
         p99 {quiet_p99:.1} ms and {p99:.1} ms ({:.2} times)",
        median / quiet_median,
        p99 / quiet_p99
    ));
    let is_slower = |now: f64, before: f64| now > before * MOST_SLOWDOWN && now > before + NOISE;
    let is_bounded = !is_slower(median, quiet_median) && !is_slower(p99, quiet_p99);
    let verdict = if is_bounded { "bounded" } else { SLOWED };
    format!(
        "{verdict}: median {:.1} times, p99 {:.1} times",
        median / quiet_median,
        p99 / quiet_p99
    )
}
