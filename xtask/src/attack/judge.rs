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
        let logged = task.map(|task| self.logged(task)).unwrap_or_default();
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
                what => Some(self.observe(what, attempt, task, stage)),
            };
            rows.push(match observed {
                Some(observed) => Row::new(attempt, level, expected, &observed),
                None => Row::missing(attempt, level, expected, &ending_and_message(task)),
            });
        }
        if !scene.level.is_empty() {
            self.check_reasons(scene, task, stage, &mut rows);
        }
        rows
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
                let outside = Path::new("/tmp/attack");
                let there = stage.marker().exists() || outside.exists();
                if there { "made" } else { "absent" }.to_owned()
            }
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
            "names" => {
                let kept = fs::read_dir(&output).map_or(0, |entries| {
                    let names = entries.flatten().map(|entry| entry.file_name());
                    names
                        .filter(|name| {
                            name.as_bytes()
                                .iter()
                                .any(|byte| !byte.is_ascii_alphanumeric())
                        })
                        .count()
                });
                if kept >= 8 {
                    "kept".to_owned()
                } else {
                    format!("{kept} kept")
                }
            }
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

    /// Reason and host of every refusal in the connection log.
    fn logged(&self, task: &Value) -> Vec<(String, String)> {
        let Some(log) = task["network"]["log"].as_str() else {
            return Vec::new();
        };
        let log = fs::read_to_string(self.folder.join(log)).unwrap_or_default();
        let one = |line: &str| {
            let record: Value = serde_json::from_str(line).ok()?;
            Some((
                record["reason"].as_str()?.to_owned(),
                text(&record, "host").to_owned(),
            ))
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
    let verdict = if is_bounded { "bounded" } else { "slowed down" };
    format!(
        "{verdict}: median {:.1} times, p99 {:.1} times",
        median / quiet_median,
        p99 / quiet_p99
    )
}
