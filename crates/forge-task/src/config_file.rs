//! `.swe-forge/config.yaml`: how a task is executed.

use forge_document::{Decoder, Diagnostic, Fields, Located, Most, Problem, Value, optional};
use std::collections::BTreeMap;
use std::path::Path;

use forge_core::limits::MEBIBYTE;
use forge_core::{LimitCeiling, NetworkLevel, PhaseName};

use crate::format::{
    CleanupFields, ConfigFile, EnvField, NetworkFields, ResourceFields, UserField,
};
use crate::host::allow_entry;
use crate::limits::{LEAST_CORES, LEAST_DISK_GB, LEAST_MEMORY_MB};
use crate::text;
use crate::yaml_tree;

/// Longest life of a container: whatever a task says, everything of it is gone after a day.
const MAX_LIFETIME_SECONDS: u64 = 86_400;
/// A year.
const MAX_FORCE_HOURS: u64 = 8760;
/// Ten years.
const MAX_RETENTION_DAYS: u64 = 3650;
/// The last id that is one: the one above means "leave as it is" to the kernel.
const MAX_USER_ID: u32 = u32::MAX - 1;

pub(crate) const CONFIG_FIELDS: &[&str] = &[
    "network",
    "resources",
    "env",
    "user",
    "cleanup",
    "artifacts",
    "tests_visible",
];
pub(crate) const NETWORK_FIELDS: &[&str] = &["setup", "solve", "verify", "allow"];
const SECRET_FIELDS: &[&str] = &["secret", "phases"];
/// Entries of `network.allow`; a task that needs more is asking for `full_web`. Each may name a port
/// that is captured in sandboxes, where up to 128 ports are.
pub(crate) const MOST_HOSTS: usize = 64;
/// Entries of `artifacts`; each is a transfer of its own when an attempt has ended.
const MOST_ARTIFACTS: usize = 64;
pub(crate) const RESOURCE_FIELDS: &[&str] = &[
    "memory_mb",
    "cpu_cores",
    "disk_gb",
    "processes",
    "timeout_seconds",
    "verify_timeout_seconds",
    "tmp_mb",
    "output_mb",
];
pub(crate) const CLEANUP_FIELDS: &[&str] = &[
    "on_success",
    "on_failure",
    "on_timeout",
    "preserve_logs",
    "preserve_artifacts",
    "delay_seconds",
    "force_cleanup_after_hours",
    "log_retention_days",
    "max_lifetime_seconds",
];

/// Decodes `bytes`, which stand in `path`; limits have to fit below `ceiling`.
pub(crate) fn decode(
    path: &Path,
    bytes: &[u8],
    ceiling: &LimitCeiling,
) -> (Option<ConfigFile>, Vec<Diagnostic>) {
    let mut decoder = Decoder::new(path);
    let file = decoder.tree(bytes, yaml_tree::parse).and_then(|root| {
        // A file in which everything is commented out.
        if root.value == Value::Null {
            return Some(ConfigFile::default());
        }
        let located = Located {
            node: &root,
            path: String::new(),
        };
        let fields = decoder.object(&located, CONFIG_FIELDS)?;
        config(&mut decoder, &fields, ceiling)
    });
    (file, decoder.finish())
}

fn config(
    decoder: &mut Decoder,
    fields: &Fields<'_>,
    ceiling: &LimitCeiling,
) -> Option<ConfigFile> {
    let network = optional(fields, "network", |field| network(decoder, field));
    let resources = optional(fields, "resources", |field| {
        resources(decoder, field, ceiling)
    });
    let env = optional(fields, "env", |field| env(decoder, field));
    let user = optional(fields, "user", |field| user(decoder, field));
    let cleanup = optional(fields, "cleanup", |field| cleanup(decoder, field));
    let artifacts = optional(fields, "artifacts", |field| artifact_paths(decoder, field));
    let tests_visible = optional(fields, "tests_visible", |field| decoder.boolean(field));
    let artifacts = artifacts?.unwrap_or_default();
    Some(ConfigFile {
        network: network?,
        resources: resources?,
        env: env?.unwrap_or_default(),
        user: user?,
        cleanup: cleanup?,
        artifacts,
        tests_visible: tests_visible?,
    })
}

fn network(decoder: &mut Decoder, field: &Located<'_>) -> Option<NetworkFields> {
    let fields = decoder.object(field, NETWORK_FIELDS)?;
    let mut level = |name| {
        optional(&fields, name, |field| {
            let choices = NetworkLevel::ALL.map(|each| (each.as_str(), each));
            decoder.choice(field, choices)
        })
    };
    let (setup, solve, verify) = (level("setup"), level("solve"), level("verify"));
    let allow = optional(&fields, "allow", |field| allow_list(decoder, field));
    // An allow-list with a mistake in it is there, and has been reported.
    let empty = matches!(&allow, Some(hosts) if hosts.as_ref().is_none_or(Vec::is_empty));
    for (name, level) in [("setup", setup), ("solve", solve), ("verify", verify)] {
        if level.flatten() == Some(NetworkLevel::LimitedWeb)
            && empty
            && let Some(field) = fields.get(name)
        {
            let problem =
                Problem::new("limited_web without a host in network.allow reaches nothing")
                    .hint("list the hosts in network.allow, or use isolated");
            decoder.refuse(&field, problem);
        }
    }
    Some(NetworkFields {
        setup: setup?,
        solve: solve?,
        verify: verify?,
        allow: allow?.unwrap_or_default(),
    })
}

fn allow_list(decoder: &mut Decoder, field: &Located<'_>) -> Option<Vec<String>> {
    let entries = decoder.texts(field, |text| allow_entry(text).map(|_| ()))?;
    if entries.len() > MOST_HOSTS {
        let problem = Problem::new(format!("{} hosts", entries.len()))
            .expecting(format!("at most {MOST_HOSTS}"))
            .hint("name *.example.org for hosts of one domain, or use the level full_web");
        decoder.refuse(field, problem);
        return None;
    }
    let written = entries.iter().map(|(_, text)| text);
    written.map(|text| allow_entry(text).ok()).collect()
}

fn artifact_paths(decoder: &mut Decoder, field: &Located<'_>) -> Option<Vec<String>> {
    let paths = decoder.texts(field, text::relative_path)?;
    if paths.len() > MOST_ARTIFACTS {
        let problem = Problem::new(format!("{} paths", paths.len()))
            .expecting(format!("at most {MOST_ARTIFACTS}"))
            .hint("name a folder to keep everything in it");
        decoder.refuse(field, problem);
        return None;
    }
    Some(paths.into_iter().map(|(_, path)| path).collect())
}

fn resources(
    decoder: &mut Decoder,
    field: &Located<'_>,
    ceiling: &LimitCeiling,
) -> Option<ResourceFields> {
    let fields = decoder.object(field, RESOURCE_FIELDS)?;
    let mut whole = |name, least, ceiling| {
        optional(&fields, name, |field| {
            decoder.whole(field, least, Most::ceiling(ceiling))
        })
    };
    let seconds = ceiling.timeout.as_secs();
    let memory_mb = whole(
        "memory_mb",
        LEAST_MEMORY_MB,
        ceiling.memory_bytes / MEBIBYTE,
    );
    let processes = whole("processes", 1, ceiling.processes);
    let timeout_seconds = whole("timeout_seconds", 1, seconds);
    let verify_timeout_seconds = whole("verify_timeout_seconds", 1, seconds);
    let tmp_mb = whole("tmp_mb", 1, ceiling.memory_bytes / MEBIBYTE);
    let output_mb = whole("output_mb", 1, ceiling.output_bytes / MEBIBYTE);
    let cpu_cores = optional(&fields, "cpu_cores", |field| {
        let most = Most::scaled_ceiling(ceiling.cpu_millis, 1000);
        decoder.number(field, LEAST_CORES, most)
    });
    let disk_gb = optional(&fields, "disk_gb", |field| {
        let most = Most::scaled_ceiling(ceiling.disk_bytes, 1024 * MEBIBYTE);
        decoder.number(field, LEAST_DISK_GB, most)
    });
    Some(ResourceFields {
        memory_mb: memory_mb?,
        cpu_cores: cpu_cores?,
        disk_gb: disk_gb?,
        processes: processes?,
        timeout_seconds: timeout_seconds?,
        verify_timeout_seconds: verify_timeout_seconds?,
        tmp_mb: tmp_mb?,
        output_mb: output_mb?,
    })
}

fn env(decoder: &mut Decoder, field: &Located<'_>) -> Option<BTreeMap<String, EnvField>> {
    let fields = decoder.open_object(field)?;
    let mut env = BTreeMap::new();
    let mut count = 0;
    for (member, value) in fields.all() {
        count += 1;
        let named = text::env_name(&member.key)
            .map_err(|problem| decoder.refuse_key(member, &value.path, problem))
            .is_ok();
        let found = match &value.node.value {
            // As written: `3.10` stays `3.10`.
            Value::Number(text) => Some(EnvField::Text(text.clone())),
            Value::Object(_) => secret(decoder, &value),
            _ => decoder
                .text(&value, |text| {
                    text::argument(text)?;
                    match member.key.len() + 1 + text.len() {
                        length if length > text::MAX_ARGUMENT_BYTES => {
                            Err(Problem::new(format!("name and value have {length} bytes"))
                                .expecting(format!("at most {}", text::MAX_ARGUMENT_BYTES)))
                        }
                        _ => Ok(()),
                    }
                })
                .map(|text| EnvField::Text(text.to_owned())),
        };
        if let (true, Some(found)) = (named, found) {
            env.insert(member.key.clone(), found);
        }
    }
    let bytes: usize = env
        .iter()
        .map(|(name, value)| match value {
            EnvField::Text(text) => name.len() + text.len() + 2,
            // Its value is the operator's.
            EnvField::Secret { .. } => name.len() + 2,
        })
        .sum();
    if bytes > text::MAX_TOTAL_BYTES {
        let problem = Problem::new(format!("names and values have {bytes} bytes"))
            .expecting(format!("at most {}", text::MAX_TOTAL_BYTES))
            .hint("put what is long into a file below src/");
        decoder.refuse(field, problem);
        return None;
    }
    (env.len() == count).then_some(env)
}

/// A variable whose value is a secret of the operator: its name, and the phases that get it. There
/// is no default for the phases: whoever asks for a secret says where it is needed.
fn secret(decoder: &mut Decoder, field: &Located<'_>) -> Option<EnvField> {
    let fields = decoder.object(field, SECRET_FIELDS)?;
    let name = decoder
        .required(
            &fields,
            "secret",
            "name a secret of the operator's configuration",
        )
        .and_then(|field| decoder.text(&field, text::secret_name));
    let phases = decoder
        .required(
            &fields,
            "phases",
            "list the phases whose commands need it, for example [setup]",
        )
        .and_then(|field| {
            let choices = PhaseName::ALL.map(|each| (each.as_str(), each));
            let items = decoder.list(&field)?;
            if items.is_empty() {
                let problem = Problem::new("an empty list").expecting("at least one phase");
                decoder.refuse(&field, problem);
                return None;
            }
            let phases: Vec<_> = items
                .iter()
                .filter_map(|item| decoder.choice(item, choices))
                .collect();
            (phases.len() == items.len()).then_some(phases)
        });
    Some(EnvField::Secret {
        secret: name?.to_owned(),
        phases: phases?,
    })
}

fn user(decoder: &mut Decoder, field: &Located<'_>) -> Option<UserField> {
    let found = match &field.node.value {
        Value::Number(text) => user_id(text).map(|uid| UserField { uid, gid: uid }),
        Value::Text(text) => text.split_once(':').and_then(|(uid, gid)| {
            Some(UserField {
                uid: user_id(uid)?,
                gid: user_id(gid)?,
            })
        }),
        _ => None,
    };
    if found.is_none() {
        let hint = match &field.node.value {
            Value::Text(text) if user_id(text).is_some() => "remove the quotes",
            Value::Text(text) if text.chars().any(char::is_alphabetic) => {
                "names are not looked up; write the numbers"
            }
            _ => "0 is root, which no task runs as",
        };
        let problem = Problem::new(format!("found {}", field.node.describe()))
            .expecting(format!(
                "a user id from 1 to {MAX_USER_ID}, or \"uid:gid\" of two such numbers"
            ))
            .hint(hint);
        decoder.refuse(field, problem);
    }
    found
}

fn user_id(text: &str) -> Option<u32> {
    let digits = text.chars().all(|character| character.is_ascii_digit());
    let id = text.parse().ok()?;
    (digits && (1..=MAX_USER_ID).contains(&id)).then_some(id)
}

fn cleanup(decoder: &mut Decoder, field: &Located<'_>) -> Option<CleanupFields> {
    let fields = decoder.object(field, CLEANUP_FIELDS)?;
    let mut boolean = |name| optional(&fields, name, |field| decoder.boolean(field));
    let on_success = boolean("on_success");
    let on_failure = boolean("on_failure");
    let on_timeout = boolean("on_timeout");
    let preserve_logs = boolean("preserve_logs");
    let preserve_artifacts = boolean("preserve_artifacts");
    let mut whole = |name, least, most| {
        optional(&fields, name, |field| {
            decoder.whole(field, least, Most::fixed(most))
        })
    };
    let delay_seconds = whole("delay_seconds", 0, MAX_LIFETIME_SECONDS);
    let force_cleanup_after_hours = whole("force_cleanup_after_hours", 1, MAX_FORCE_HOURS);
    let log_retention_days = whole("log_retention_days", 1, MAX_RETENTION_DAYS);
    let max_lifetime_seconds = whole("max_lifetime_seconds", 1, MAX_LIFETIME_SECONDS);
    Some(CleanupFields {
        on_success: on_success?,
        on_failure: on_failure?,
        on_timeout: on_timeout?,
        preserve_logs: preserve_logs?,
        preserve_artifacts: preserve_artifacts?,
        delay_seconds: delay_seconds?,
        force_cleanup_after_hours: force_cleanup_after_hours?,
        log_retention_days: log_retention_days?,
        max_lifetime_seconds: max_lifetime_seconds?,
    })
}
