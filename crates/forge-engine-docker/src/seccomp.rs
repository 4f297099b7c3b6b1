//! The seccomp profile of everything that runs here: an allow-list of the kernel's calls.
//!
//! `seccomp/profile.json` is made by `cargo xtask seccomp` from the tables beside it, where every
//! refusal has its reason. The engine's own profile is not relied on: it differs between versions,
//! and opens with the capabilities a container has.

use std::sync::LazyLock;

use serde_json::Value;

const PROFILE: &str = include_str!("../seccomp/profile.json");

static OPTION: LazyLock<String> = LazyLock::new(|| {
    // Sent with every container: without the line breaks it is half as long.
    let compact = serde_json::from_str::<Value>(PROFILE).map(|profile| profile.to_string());
    // A profile that cannot be read is the engine's to refuse; a test sees that it can.
    format!("seccomp={}", compact.as_deref().unwrap_or(PROFILE))
});

/// The security option of a container that puts the profile in force.
pub(crate) fn option() -> &'static str {
    &OPTION
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn data(text: &str) -> Value {
        serde_json::from_str(text).unwrap()
    }

    fn names(value: &Value) -> BTreeSet<&str> {
        let names = value["names"].as_array().unwrap();
        names.iter().map(|name| name.as_str().unwrap()).collect()
    }

    fn profile() -> Value {
        data(option().strip_prefix("seccomp=").unwrap())
    }

    fn policy() -> Value {
        data(include_str!("../seccomp/policy.json"))
    }

    #[test]
    fn what_is_not_named_is_refused_and_only_limited_forms_have_conditions() {
        let profile = profile();
        assert_eq!(profile["defaultAction"], "SCMP_ACT_ERRNO");
        let rules = profile["syscalls"].as_array().unwrap();
        let conditional = rules
            .iter()
            .skip(1)
            .flat_map(names)
            .collect::<BTreeSet<_>>();
        let limited = ["clone", "clone3", "personality", "socket", "socketpair"];
        assert_eq!(conditional, limited.into());
        assert!(names(&rules[0]).is_disjoint(&conditional));
        for rule in &rules[1..] {
            let bound = rule["args"].as_array().is_some_and(|args| !args.is_empty());
            assert!(bound || rule["action"] == "SCMP_ACT_ERRNO", "{rule}");
        }
    }

    #[test]
    fn nothing_depends_on_capabilities_kernels_or_other_architectures() {
        let profile = profile();
        for rule in profile["syscalls"].as_array().unwrap() {
            assert!(rule.get("includes").is_none() && rule.get("excludes").is_none());
        }
        for architecture in profile["archMap"].as_array().unwrap() {
            assert_eq!(architecture["subArchitectures"], serde_json::json!([]));
        }
    }

    /// The difference to the engine's own profile, spelled out so that no change of the tables goes
    /// unseen.
    #[test]
    fn these_calls_are_refused_that_engines_allow() {
        let policy = policy();
        let groups = policy["refused"].as_array().unwrap();
        let of = |default: &str| {
            let groups = groups.iter().filter(|group| group["default"] == default);
            groups.flat_map(names).collect::<BTreeSet<_>>()
        };
        let always = [
            "adjtimex",
            "clock_adjtime",
            "fanotify_mark",
            "ioprio_set",
            "listmount",
            "map_shadow_stack",
            "memfd_secret",
            "modify_ldt",
            "name_to_handle_at",
            "process_mrelease",
            "process_vm_readv",
            "process_vm_writev",
            "ptrace",
            "remap_file_pages",
            "statmount",
            "tee",
            "uretprobe",
            "vmsplice",
        ];
        assert_eq!(of("allowed"), always.into());
        let with_a_capability = of("capability");
        assert_eq!(with_a_capability.len(), 42, "{with_a_capability:?}");
        for name in ["mount", "unshare", "setns", "bpf", "chroot", "pidfd_getfd"] {
            assert!(with_a_capability.contains(name), "{name}");
        }
        let profile = profile();
        let allowed = names(&profile["syscalls"][0]);
        for name in groups.iter().flat_map(names) {
            assert!(!allowed.contains(name), "{name}");
        }
    }

    #[test]
    fn every_refusal_and_limit_says_why() {
        let policy = policy();
        for list in ["refused", "limited"] {
            for entry in policy[list].as_array().unwrap() {
                assert!(!entry["why"].as_str().unwrap().is_empty(), "{entry}");
            }
        }
    }
}
