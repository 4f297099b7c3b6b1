//! The seccomp profile of sandboxes, made from the kernel's calls and the table of what is refused.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use crate::shell::{self, Failure};

/// Where data and profile are.
const FOLDER: &str = "crates/forge-engine-docker/seccomp";
const ALLOW: &str = "SCMP_ACT_ALLOW";
const REFUSE: &str = "SCMP_ACT_ERRNO";
/// Without sub-architectures: `forge-init` ends programs of another architecture than the
/// machine's as well.
const ARCHITECTURES: [&str; 2] = ["SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64"];

pub(crate) fn write() -> Result<(), Failure> {
    shell::step("writing the seccomp profile");
    let path = folder().join("profile.json");
    std::fs::write(&path, profile()?)
        .map_err(|error| Failure::new(format!("{} cannot be written: {error}", path.display())))
}

fn folder() -> PathBuf {
    shell::root().join(FOLDER)
}

/// The profile as it should be checked in.
fn profile() -> Result<String, Failure> {
    let (calls, policy) = (read("calls.json")?, read("policy.json")?);
    let profile = generate(&calls, &policy).map_err(|problem| {
        Failure::new(format!("the data below {FOLDER} is not sound: {problem}"))
    })?;
    let text = serde_json::to_string_pretty(&profile)
        .map_err(|error| Failure::new(format!("the profile cannot be written: {error}")))?;
    Ok(text + "\n")
}

fn read(name: &str) -> Result<Value, Failure> {
    let path = folder().join(name);
    let failure = |problem: &dyn std::fmt::Display| {
        Failure::new(format!("{} cannot be read: {problem}", path.display()))
    };
    let text = std::fs::read_to_string(Path::new(&path)).map_err(|error| failure(&error))?;
    serde_json::from_str(&text).map_err(|error| failure(&error))
}

/// An engine's profile: every call of the kernel that is neither refused nor limited, and the
/// forms in which limited ones are allowed or get another answer than EPERM. What is not named is refused.
fn generate(calls: &Value, policy: &Value) -> Result<Value, String> {
    let mut allowed = names(calls, "names")?;
    let refused = list(policy, "refused")?;
    for group in refused {
        for name in names(group, "names")? {
            take(&mut allowed, &name)?;
        }
    }
    let mut rules = Vec::new();
    for limit in list(policy, "limited")? {
        let name = text(limit, "name")?;
        take(&mut allowed, name)?;
        for arguments in list(limit, "rules")? {
            rules.push(json!({"names": [name], "action": ALLOW, "args": arguments}));
        }
        for answer in list(limit, "answers").unwrap_or_default() {
            let (errno, arguments) = (number(answer, "errno")?, list(answer, "args")?);
            rules.push(json!({
                "names": [name], "action": REFUSE, "errnoRet": errno, "args": arguments
            }));
        }
    }
    rules.insert(0, json!({"names": allowed, "action": ALLOW}));
    let architectures = ARCHITECTURES.map(|name| {
        let none: [&str; 0] = [];
        json!({"architecture": name, "subArchitectures": none})
    });
    let mut profile = Map::new();
    profile.insert("defaultAction".to_owned(), REFUSE.into());
    profile.insert("archMap".to_owned(), json!(architectures));
    profile.insert("syscalls".to_owned(), rules.into());
    Ok(profile.into())
}

/// A name that stands twice, or that the kernel does not have, is a slip that would leave a hole.
fn take(allowed: &mut BTreeSet<String>, name: &str) -> Result<(), String> {
    if allowed.remove(name) {
        return Ok(());
    }
    Err(format!("{name} is no call of the kernel, or stands twice"))
}

fn names(value: &Value, key: &str) -> Result<BTreeSet<String>, String> {
    let name = |name: &Value| name.as_str().map(str::to_owned);
    let names: Option<Vec<_>> = list(value, key)?.iter().map(name).collect();
    Ok(names
        .ok_or_else(|| format!("{key} holds what is no name"))?
        .into_iter()
        .collect())
}

fn list<'a>(value: &'a Value, key: &str) -> Result<&'a [Value], String> {
    let found = value.get(key).and_then(Value::as_array);
    let found = found.ok_or_else(|| format!("{key} is missing"))?;
    Ok(found)
}

fn number(value: &Value, key: &str) -> Result<u64, String> {
    let found = value.get(key).and_then(Value::as_u64);
    found.ok_or_else(|| format!("{key} is missing"))
}

fn text<'a>(value: &'a Value, key: &str) -> Result<&'a str, String> {
    let found = value.get(key).and_then(Value::as_str);
    found.ok_or_else(|| format!("{key} is missing"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checked_in_profile_is_that_of_the_data() {
        let path = folder().join("profile.json");
        let seen = std::fs::read_to_string(path).unwrap();
        assert!(
            seen == profile().unwrap(),
            "seccomp/profile.json is out of date: run `cargo xtask seccomp`"
        );
    }

    #[test]
    fn a_name_that_the_kernel_does_not_have_is_an_error() {
        let calls = json!({"names": ["read", "ptrace", "clone"]});
        let refused = |name: &str| json!({"refused": [{"names": [name]}], "limited": []});
        assert!(generate(&calls, &refused("ptrce")).is_err());
        let twice = json!({
            "refused": [{"names": ["ptrace"]}],
            "limited": [{"name": "ptrace", "rules": []}]
        });
        assert!(generate(&calls, &twice).is_err());
        let profile = generate(&calls, &refused("ptrace")).unwrap();
        assert_eq!(profile["syscalls"][0]["names"], json!(["clone", "read"]));
    }
}
