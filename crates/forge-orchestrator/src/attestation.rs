//! Compares what a sandbox says about its confinement with what was asked for.

use forge_core::sandbox::{SPECIFICATION, TESTS};
use forge_core::{Attestation, Failure, Profile, Reason, SandboxSpec};

/// Mount points that a sandbox may write to.
const WRITABLE: [&str; 3] = ["/workspace", "/workspace/output", "/tmp"];
/// Writable as well where the root file system is: it, and files of one container that engines mount
/// over those of the image.
const WRITABLE_IN_BUILD: [&str; 4] = ["/", "/etc/hostname", "/etc/hosts", "/etc/resolv.conf"];
/// Writable, but of no use to a task: the channel, which is locked, and shared memory.
const TOLERATED: [&str; 2] = ["/.swe-forge/channel", "/dev/shm"];

/// Checks an attestation against the specification it must fulfil. `machine` is the kernel of the
/// engine's machine, where it is known.
///
/// A runtime with a kernel of its own stands between the task and the machine, and may show no filter
/// of system calls because it has none: every call is its own. That it is one is told by its kernel,
/// which is another than the machine's; what shares the machine's has the filter or is refused.
///
/// # Errors
/// `hardening_unavailable` or `network_policy_unavailable`, naming every difference.
pub(crate) fn check(
    spec: &SandboxSpec,
    attestation: &Attestation,
    machine: Option<&str>,
) -> Result<(), Failure> {
    let network = ways_out(spec, attestation);
    if !network.is_empty() {
        let message = format!("the sandbox has {}", network.join(" and "));
        return Err(Failure::new(Reason::NetworkPolicyUnavailable, message));
    }
    let mut missing = Vec::new();
    let capabilities = spec.profile.capabilities();
    if attestation.capabilities != capabilities || attestation.bounding_capabilities != capabilities
    {
        missing.push(format!(
            "capabilities {:#x}, bounding set {:#x}, instead of {capabilities:#x}",
            attestation.capabilities, attestation.bounding_capabilities
        ));
    }
    if !attestation.no_new_privileges {
        missing.push("no_new_privs is off".to_owned());
    }
    if attestation.seccomp_mode != 2 && !has_own_kernel(spec, attestation, machine) {
        missing.push(format!("seccomp mode {}", attestation.seccomp_mode));
    }
    let user = match spec.profile {
        Profile::Build => (0, 0),
        Profile::Run => (spec.user.uid(), spec.user.gid()),
    };
    if (attestation.uid, attestation.gid) != user {
        missing.push(format!("user {}:{}", attestation.uid, attestation.gid));
    }
    if spec.profile == Profile::Run && !attestation.read_only_root {
        missing.push("a writable root file system".to_owned());
    }
    let allowed = |mount: &&String| {
        let of_build =
            spec.profile == Profile::Build && WRITABLE_IN_BUILD.contains(&mount.as_str());
        !of_build && !WRITABLE.contains(&mount.as_str()) && !TOLERATED.contains(&mount.as_str())
    };
    missing.extend(
        attestation
            .writable_mounts
            .iter()
            .filter(allowed)
            .map(|mount| format!("writable {mount}")),
    );
    // That a place is not among the writable mounts says nothing: it may be no mount at all.
    let sealed = [SPECIFICATION]
        .into_iter()
        .chain(spec.tests.then_some(TESTS));
    let attested = &attestation.read_only_mounts;
    missing.extend(
        sealed
            .filter(|place| !attested.iter().any(|mount| mount == place))
            .map(|place| format!("{place} is not read-only")),
    );
    if missing.is_empty() {
        return Ok(());
    }
    let message = format!(
        "the sandbox is not as confined as asked: {}",
        missing.join("; ")
    );
    Err(Failure::new(Reason::HardeningUnavailable, message))
}

/// Whether a sandbox has another kernel than the machine, as its runtime was asked to give it.
fn has_own_kernel(spec: &SandboxSpec, attestation: &Attestation, machine: Option<&str>) -> bool {
    let own = attestation.kernel.as_str();
    spec.runtime.is_some()
        && !own.is_empty()
        && machine.is_some_and(|machine| !machine.is_empty() && machine != own)
}

/// What is to be said of a sandbox that passed: what its runtime does not show.
pub(crate) fn reservation(spec: &SandboxSpec, attestation: &Attestation) -> Option<String> {
    let runtime = spec.runtime.as_ref()?;
    (attestation.seccomp_mode != 2).then(|| {
        format!(
            "the runtime '{runtime}' gives sandboxes a kernel of their own ({}) without a filter of \
             system calls",
            attestation.kernel
        )
    })
}

/// What a task could reach others by, or could not that it was to.
fn ways_out(spec: &SandboxSpec, attestation: &Attestation) -> Vec<String> {
    let mut network = Vec::new();
    // Every sandbox has loopback: an empty list is one that it could not read.
    if attestation.interfaces.is_empty() {
        network.push("network interfaces that it cannot tell".to_owned());
    } else if attestation.interfaces != ["lo"] {
        network.push(format!(
            "network interfaces {}",
            attestation.interfaces.join(", ")
        ));
    }
    if attestation.routes > 0 {
        network.push(format!("{} routes", attestation.routes));
    }
    if !attestation.vsock_refused {
        network.push("sockets to the hypervisor (AF_VSOCK)".to_owned());
    }
    if !attestation.metadata_unreachable {
        network.push("a way to the addresses of cloud metadata".to_owned());
    }
    match (spec.network.is_some(), attestation.network_served) {
        (true, false) => {
            let why = attestation.network_failure.as_deref();
            let why = why.unwrap_or("it does not say why");
            network.push(format!("no way to its egress proxy: {why}"));
        }
        (false, true) => network.push("a way to an egress proxy".to_owned()),
        _ => {}
    }
    network
}

#[cfg(test)]
mod tests {
    use super::*;
    use forge_core::{
        Attempt, Difficulty, OwnerId, Ownership, Role, RunId, SandboxId, TaskId, UserId,
    };
    use jiff::Timestamp;

    fn sandbox_spec() -> SandboxSpec {
        let id = SandboxId::new("example").unwrap();
        let limits = Difficulty::Easy.limits();
        SandboxSpec {
            id: id.clone(),
            ownership: Ownership {
                owner: OwnerId::new("owner").unwrap(),
                run: RunId::from_uuid(uuid::Uuid::from_u128(1)),
                task: TaskId::new("example").unwrap(),
                attempt: Attempt(1),
                difficulty: Difficulty::Easy,
                created_at: Timestamp::UNIX_EPOCH,
                expires_at: Timestamp::UNIX_EPOCH,
                holder: String::new(),
            },
            role: Role::Task,
            workspace: id,
            tests: true,
            limits,
            cores: Vec::new(),
            profile: Profile::Run,
            network: None,
            runtime: None,
            user: UserId::for_slot(0),
            env: std::collections::BTreeMap::new(),
            max_lifetime: limits.timeout,
        }
    }

    fn confined() -> Attestation {
        Attestation {
            capabilities: 0,
            bounding_capabilities: 0,
            no_new_privileges: true,
            seccomp_mode: 2,
            uid: 200_000,
            gid: 200_000,
            interfaces: vec!["lo".into()],
            routes: 0,
            writable_mounts: vec!["/workspace".into(), "/tmp".into()],
            read_only_mounts: vec![SPECIFICATION.into(), TESTS.into()],
            read_only_root: true,
            vsock_refused: true,
            metadata_unreachable: true,
            network_served: false,
            network_failure: None,
            kernel: "6".into(),
        }
    }

    #[test]
    fn every_difference_fails_the_task() {
        assert_eq!(check(&sandbox_spec(), &confined(), None), Ok(()));
        type Change = fn(&mut Attestation);
        let cases: [(Change, Reason); 15] = [
            (
                |found| found.vsock_refused = false,
                Reason::NetworkPolicyUnavailable,
            ),
            (
                |found| found.interfaces.push("eth0".into()),
                Reason::NetworkPolicyUnavailable,
            ),
            (
                |found| found.interfaces.clear(),
                Reason::NetworkPolicyUnavailable,
            ),
            (|found| found.routes = 1, Reason::NetworkPolicyUnavailable),
            (
                |found| found.metadata_unreachable = false,
                Reason::NetworkPolicyUnavailable,
            ),
            (
                |found| found.network_served = true,
                Reason::NetworkPolicyUnavailable,
            ),
            (|found| found.capabilities = 1, Reason::HardeningUnavailable),
            (
                |found| found.bounding_capabilities = 1,
                Reason::HardeningUnavailable,
            ),
            (
                |found| found.no_new_privileges = false,
                Reason::HardeningUnavailable,
            ),
            (|found| found.seccomp_mode = 0, Reason::HardeningUnavailable),
            (|found| found.uid = 0, Reason::HardeningUnavailable),
            (
                |found| found.read_only_root = false,
                Reason::HardeningUnavailable,
            ),
            (
                |found| found.writable_mounts.push("/etc".into()),
                Reason::HardeningUnavailable,
            ),
            (
                |found| found.read_only_mounts.retain(|mount| mount != TESTS),
                Reason::HardeningUnavailable,
            ),
            (
                |found| found.read_only_mounts.retain(|mount| mount == TESTS),
                Reason::HardeningUnavailable,
            ),
        ];
        for (change, reason) in cases {
            let mut found = confined();
            change(&mut found);
            assert_eq!(
                check(&sandbox_spec(), &found, None).unwrap_err().reason,
                reason,
                "{found:?}"
            );
        }
    }

    #[test]
    fn no_filter_is_enough_behind_a_kernel_that_is_not_the_machine_s_and_only_there() {
        let mut found = confined();
        found.seccomp_mode = 0;
        let mut isolated = sandbox_spec();
        isolated.runtime = Some("runsc".into());
        assert_eq!(check(&isolated, &found, Some("7")), Ok(()));
        assert!(reservation(&isolated, &found).is_some_and(|note| note.contains("runsc")));
        assert_eq!(reservation(&isolated, &confined()), None);
        for machine in [Some("6"), Some(""), None] {
            assert!(check(&isolated, &found, machine).is_err(), "{machine:?}");
        }
        assert!(check(&sandbox_spec(), &found, Some("7")).is_err());
        found.kernel = String::new();
        assert!(check(&isolated, &found, Some("7")).is_err());
    }

    #[test]
    fn tests_elsewhere_than_in_their_place_are_as_good_as_writable() {
        let mut found = confined();
        found.read_only_mounts = vec![SPECIFICATION.into(), "/workspace/elsewhere".into()];
        let error = check(&sandbox_spec(), &found, None).unwrap_err();
        assert!(error.message.contains(TESTS), "{}", error.message);
        let mut without = sandbox_spec();
        without.tests = false;
        assert_eq!(check(&without, &found, None), Ok(()));
    }

    #[test]
    fn setup_is_root_with_five_capabilities_on_a_writable_root_and_nothing_else_is() {
        let mut build = sandbox_spec();
        build.profile = Profile::Build;
        let found = Attestation {
            capabilities: Profile::Build.capabilities(),
            bounding_capabilities: Profile::Build.capabilities(),
            uid: 0,
            gid: 0,
            read_only_root: false,
            writable_mounts: vec!["/".into(), "/etc/hostname".into(), "/workspace".into()],
            ..confined()
        };
        assert_eq!(check(&build, &found, None), Ok(()));
        assert!(check(&sandbox_spec(), &found, None).is_err());
        let more = Attestation {
            capabilities: u64::MAX,
            ..found
        };
        assert!(check(&build, &more, None).is_err());
    }
}
