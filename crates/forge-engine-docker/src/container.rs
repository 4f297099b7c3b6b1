//! From a sandbox's specification to the container it is: every setting stands here.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use bollard::models::{
    ContainerCreateBody, HealthConfig, HostConfig, HostConfigCgroupnsModeEnum, HostConfigLogConfig,
    Mount, MountType, MountVolumeOptions, ResourcesUlimits, RestartPolicy, RestartPolicyNameEnum,
};
use forge_core::limits::MEBIBYTE;
use forge_core::ownership::{Role, keys};
use forge_core::sandbox::WORKSPACE;
use forge_core::{Limits, Profile, SandboxSpec};
use forge_engine::PreparedImage;
use forge_wire::{INIT_PATH, SOCKET_DIRECTORY};
use sha2::{Digest, Sha256};

use crate::channel_root::{ChannelRoot, HOST_NAME};
use crate::context::hex;
use crate::names::{SHADE_OF, SHADE_ROLE, SPECIFICATION_DIGEST, shade};
use crate::{seccomp, workspace};

/// Processes and threads in a sandbox that are not the task's: `forge-init`'s own threads, and a
/// bridge with the threads of the runtime that starts it.
pub(crate) const OWN_PROCESSES: u64 = 8;
/// The same of a runtime with a kernel of its own, whose threads and those that stand for programs
/// on the machine count as the sandbox's. Without room for them the kernel ends, and the sandbox with
/// it.
const RUNTIME_PROCESSES: u64 = 256;
/// Files a process may have open.
const OPEN_FILES: i64 = 16_384;
/// Files and folders in `/tmp`, one for each 8 KiB of its size.
const BYTES_PER_TMP_FILE: u64 = 8192;
/// Shared memory; counts as memory of the sandbox.
const SHARED_MEMORY: u64 = 64 * MEBIBYTE;
/// The largest parts of a sandbox's memory that files in `/tmp` and shared memory may take. Where
/// they can take all of it, filling them ends programs instead of being refused, and none can be
/// started again for want of memory.
const TMP_PART: u64 = 2;
const SHARED_PART: u64 = 4;
/// Seconds between SIGTERM and SIGKILL when somebody stops the container by hand.
const STOP_SECONDS: i64 = 2;
/// What root needs to install packages.
const BUILD_CAPABILITIES: [&str; 5] = ["CHOWN", "DAC_OVERRIDE", "FOWNER", "SETGID", "SETUID"];
/// Replaced by nothing. The list takes the place of the engine's own, so it holds all of that one,
/// and what tells of the machine: its hardware's names, its power use, its interrupts, its disks
/// (with the files behind them), its pressure. Somebody who waits for pressure by the thousand could
/// not be killed in time.
const MASKED: [&str; 19] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/diskstats",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/partitions",
    "/proc/pressure",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/slabinfo",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/vmallocinfo",
    "/sys/devices/virtual/block",
    "/sys/devices/virtual/dmi",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];
/// The engine's own list, and the folder of control groups, where older kernels have a file system
/// in memory that root of a container may fill.
const READ_ONLY: [&str; 6] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
    "/sys/fs/cgroup",
];
/// Lets PID 1 serve loopback on ports below 1024 without a capability.
const LOW_PORTS: (&str, &str) = ("net.ipv4.ip_unprivileged_port_start", "0");

/// What of this machine goes into a sandbox on the same machine.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Here<'a> {
    /// The folder of its socket, where it has one.
    pub(crate) channel: Option<&'a Path>,
    /// Where the files are that tell it its own name.
    pub(crate) root: &'a ChannelRoot,
}

/// The request that makes the container of a sandbox.
///
/// `volumes` are those the image declares besides ours; `here` is given where the disk is shared.
pub(crate) fn create_body(
    spec: &SandboxSpec,
    image: &PreparedImage,
    volumes: &[String],
    here: Option<Here<'_>>,
) -> ContainerCreateBody {
    let user = match spec.profile {
        Profile::Build => "0:0".to_owned(),
        Profile::Run => format!("{}:{}", spec.user.uid(), spec.user.gid()),
    };
    ContainerCreateBody {
        hostname: Some(HOST_NAME.to_owned()),
        image: Some(image.runnable.clone()),
        entrypoint: Some(vec![INIT_PATH.to_owned(), "init".to_owned()]),
        cmd: Some(Vec::new()),
        user: Some(user),
        env: Some(environment(spec, image)),
        labels: Some(labels(spec, image)),
        working_dir: Some(WORKSPACE.to_owned()),
        // Without it the engine sets up a network of nothing, which takes longer than everything
        // else together, only to write `/etc/hosts`. That file comes from here where it can.
        network_disabled: Some(here.is_some()),
        healthcheck: Some(HealthConfig {
            test: Some(vec!["NONE".to_owned()]),
            ..HealthConfig::default()
        }),
        stop_signal: Some("SIGTERM".to_owned()),
        stop_timeout: Some(STOP_SECONDS),
        attach_stdin: Some(false),
        attach_stdout: Some(false),
        attach_stderr: Some(false),
        host_config: Some(host_config(spec, mounts(spec, volumes, here))),
        ..ContainerCreateBody::default()
    }
}

fn host_config(spec: &SandboxSpec, mounts: Vec<Mount>) -> HostConfig {
    let limits = &spec.limits;
    let memory = signed(limits.memory_bytes);
    let confined = confinement(spec);
    HostConfig {
        network_mode: Some("none".to_owned()),
        // Without it the machine's own name servers stand in /etc/resolv.conf.
        dns: Some(vec!["127.0.0.1".to_owned()]),
        dns_options: Some(vec!["timeout:1".to_owned(), "attempts:1".to_owned()]),
        extra_hosts: Some(vec![format!("{HOST_NAME}:127.0.0.1")]),
        memory: Some(memory),
        // The same again means: no swap on top.
        memory_swap: Some(memory),
        nano_cpus: Some(signed(limits.cpu_millis.saturating_mul(1_000_000))),
        cpuset_cpus: cpu_list(&spec.cores),
        pids_limit: Some(signed(limits.processes.saturating_add(own_processes(spec)))),
        ulimits: Some(vec![
            ulimit("core", 0),
            ulimit("nofile", OPEN_FILES),
            ulimit("fsize", signed(limits.disk_bytes)),
        ]),
        oom_kill_disable: Some(false),
        // The task dies before anything else of the machine does.
        oom_score_adj: Some(500),
        ipc_mode: Some("private".to_owned()),
        shm_size: Some(signed(shared_memory(limits))),
        cgroupns_mode: Some(HostConfigCgroupnsModeEnum::PRIVATE),
        tmpfs: Some([("/tmp".to_owned(), tmp_options(tmp_size(limits)))].into()),
        mounts: Some(mounts),
        restart_policy: Some(RestartPolicy {
            name: Some(RestartPolicyNameEnum::NO),
            maximum_retry_count: None,
        }),
        auto_remove: Some(false),
        // PID 1 prints only why it died; that must be readable, and never much.
        log_config: Some(HostConfigLogConfig {
            typ: Some("json-file".to_owned()),
            config: Some(text_map([("max-size", "1m"), ("max-file", "1")])),
        }),
        init: Some(false),
        runtime: spec.runtime.clone(),
        ..confined
    }
}

fn own_processes(spec: &SandboxSpec) -> u64 {
    match spec.runtime {
        None => OWN_PROCESSES,
        Some(_) => OWN_PROCESSES + RUNTIME_PROCESSES,
    }
}

/// What a sandbox may not do, whatever it uses.
fn confinement(spec: &SandboxSpec) -> HostConfig {
    let build = spec.profile == Profile::Build;
    let added = BUILD_CAPABILITIES.map(str::to_owned).to_vec();
    let low_ports = || text_map([LOW_PORTS]);
    HostConfig {
        readonly_rootfs: Some(!build),
        cap_drop: Some(vec!["ALL".to_owned()]),
        cap_add: build.then_some(added),
        security_opt: Some(vec![
            "no-new-privileges".to_owned(),
            seccomp::option().to_owned(),
        ]),
        privileged: Some(false),
        masked_paths: Some(MASKED.map(str::to_owned).to_vec()),
        readonly_paths: Some(READ_ONLY.map(str::to_owned).to_vec()),
        sysctls: spec.network.as_ref().map(|_| low_ports()),
        ..HostConfig::default()
    }
}

fn mounts(spec: &SandboxSpec, volumes: &[String], here: Option<Here<'_>>) -> Vec<Mount> {
    let mut mounts = workspace::mounts(&spec.workspace, &spec.ownership, true);
    mounts.extend(spec.tests.then(|| {
        let labels = spec.ownership.labels(Role::Tests);
        workspace::tests_mount(&spec.workspace, labels, true)
    }));
    // A volume that the image declares would be writable and count against nothing. One with our
    // name in its place, filled from the image, may be read-only; one without a name may not.
    let mut labels = spec.ownership.labels(spec.role);
    labels.insert(keys::ROLE.to_owned(), SHADE_ROLE.to_owned());
    labels.insert(SHADE_OF.to_owned(), spec.id.to_string());
    mounts.extend(volumes.iter().enumerate().map(|(number, target)| Mount {
        typ: Some(MountType::VOLUME),
        source: Some(shade(&spec.id, number)),
        target: Some(target.clone()),
        read_only: Some(true),
        volume_options: Some(MountVolumeOptions {
            no_copy: Some(false),
            labels: Some(labels.clone().into_iter().collect()),
            ..MountVolumeOptions::default()
        }),
        ..Mount::default()
    }));
    if let Some(here) = here {
        let channel = here.channel;
        mounts.extend(channel.map(|folder| bind(folder, SOCKET_DIRECTORY, false)));
        let files = here.root.name_files();
        mounts.extend(files.map(|(path, target)| bind(&path, target, true)));
    }
    mounts
}

/// Cores as the engine wants them; none is no restriction.
fn cpu_list(cores: &[usize]) -> Option<String> {
    let numbers: Vec<String> = cores.iter().map(ToString::to_string).collect();
    (!numbers.is_empty()).then(|| numbers.join(","))
}

/// Whether an engine refused a container because it may not use these cores itself.
pub(crate) fn lacks_cores(error: &bollard::errors::Error) -> bool {
    matches!(
        error,
        bollard::errors::Error::DockerResponseServerError { status_code: 400, message }
            if message.contains("CPUs are not available")
    )
}

fn bind(source: &Path, target: &str, read_only: bool) -> Mount {
    Mount {
        typ: Some(MountType::BIND),
        source: Some(source.display().to_string()),
        target: Some(target.to_owned()),
        read_only: Some(read_only),
        ..Mount::default()
    }
}

fn tmp_size(limits: &Limits) -> u64 {
    limits.tmp_bytes.min(limits.memory_bytes / TMP_PART)
}

fn shared_memory(limits: &Limits) -> u64 {
    SHARED_MEMORY.min(limits.memory_bytes / SHARED_PART)
}

/// Executable, because build systems run what they put there.
fn tmp_options(size: u64) -> String {
    let files = (size / BYTES_PER_TMP_FILE).max(1024);
    format!("rw,exec,nosuid,nodev,noatime,size={size},mode=1777,nr_inodes={files}")
}

fn environment(spec: &SandboxSpec, image: &PreparedImage) -> Vec<String> {
    let mut env: BTreeMap<&str, &str> = BTreeMap::new();
    if let Some(path) = image.env.get("PATH") {
        env.insert("PATH", path);
    }
    env.extend(
        spec.env
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str())),
    );
    env.into_iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect()
}

fn labels(spec: &SandboxSpec, image: &PreparedImage) -> HashMap<String, String> {
    let mut labels: HashMap<_, _> = spec.ownership.labels(spec.role).into_iter().collect();
    labels.insert(SPECIFICATION_DIGEST.to_owned(), digest(spec, image));
    labels
}

/// What a sandbox is made from, without what differs between two attempts to make the same:
/// times and holder.
pub(crate) fn digest(spec: &SandboxSpec, image: &PreparedImage) -> String {
    let limits = &spec.limits;
    let mut numbers = vec![
        limits.memory_bytes,
        limits.cpu_millis,
        limits.disk_bytes,
        limits.processes,
        limits.tmp_bytes,
        spec.max_lifetime.as_secs(),
        spec.user.uid().into(),
        spec.user.gid().into(),
        spec.tests.into(),
    ];
    let mut texts = vec![
        image.runnable.as_str(),
        spec.workspace.as_str(),
        spec.role.as_str(),
        spec.profile.as_str(),
        spec.runtime.as_deref().unwrap_or_default(),
        spec.ownership.owner.as_str(),
        spec.ownership.task.as_str(),
    ];
    let run = spec.ownership.run.to_string();
    texts.push(&run);
    if let Some(network) = &spec.network {
        texts.push(network.policy.level.as_str());
        numbers.push(network.socks.into());
        numbers.extend(network.ports.iter().map(|&port| u64::from(port)));
    }
    for (name, value) in &spec.env {
        texts.extend([name.as_str(), value.as_str()]);
    }
    let mut hasher = Sha256::new();
    for number in numbers {
        hasher.update(number.to_le_bytes());
    }
    for text in texts {
        hasher.update((text.len() as u64).to_le_bytes());
        hasher.update(text.as_bytes());
    }
    hex(&hasher.finalize())
}

fn ulimit(name: &str, value: i64) -> ResourcesUlimits {
    ResourcesUlimits {
        name: Some(name.to_owned()),
        soft: Some(value),
        hard: Some(value),
    }
}

fn text_map<const N: usize>(pairs: [(&str, &str); N]) -> HashMap<String, String> {
    pairs
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into()
}

/// The engine's numbers are signed; more than they hold is no limit on any machine.
fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use forge_core::egress::EgressPolicy;
    use forge_core::ownership::Ownership;
    use forge_core::{
        Attempt, Difficulty, OwnerId, PhaseName, RunId, SandboxId, SandboxNetwork, TaskId, UserId,
    };
    use serde_json::{Value, json};
    use std::time::Duration;

    fn image() -> PreparedImage {
        PreparedImage {
            reference: "base".into(),
            runnable: "swe-forge/prepared:0123".into(),
            digest: "sha256:00".into(),
            size_bytes: 1,
            env: [("PATH".into(), "/bin".into()), ("NOISE".into(), "1".into())].into(),
        }
    }

    fn spec() -> SandboxSpec {
        let id = SandboxId::new("t-1").unwrap();
        SandboxSpec {
            id: id.clone(),
            ownership: Ownership {
                owner: OwnerId::new("me").unwrap(),
                run: RunId::from_uuid(uuid::Uuid::from_u128(7)),
                task: TaskId::new("t").unwrap(),
                attempt: Attempt(1),
                difficulty: Difficulty::Easy,
                created_at: "2026-01-01T00:00:00Z".parse().unwrap(),
                expires_at: "2026-01-01T02:00:00Z".parse().unwrap(),
                holder: "1@2".into(),
            },
            role: Role::Task,
            workspace: id,
            tests: false,
            limits: Difficulty::Easy.limits(),
            cores: Vec::new(),
            profile: Profile::Run,
            network: None,
            user: UserId::for_slot(3),
            env: [("TASK_ID".into(), "t".into())].into(),
            runtime: None,
            max_lifetime: Duration::from_secs(60),
        }
    }

    fn body_of(spec: &SandboxSpec, volumes: &[String], here: Option<Here<'_>>) -> Value {
        serde_json::to_value(create_body(spec, &image(), volumes, here)).unwrap()
    }

    fn body(volumes: &[String], here: Option<Here<'_>>) -> Value {
        body_of(&spec(), volumes, here)
    }

    fn network() -> SandboxNetwork {
        SandboxNetwork {
            policy: EgressPolicy::isolated(),
            phase: PhaseName::Setup,
            ports: vec![8080],
            socks: false,
        }
    }

    #[test]
    fn every_setting_of_a_container_is_as_decided() {
        let mut seen = body(&[], None);
        let options = seen["HostConfig"]["SecurityOpt"].as_array_mut().unwrap();
        assert_eq!(options.pop().unwrap(), seccomp::option());
        let mounts = seen["HostConfig"]["Mounts"].as_array_mut().unwrap();
        for (mount, role) in mounts.iter_mut().zip(["workspace", "specification"]) {
            assert_eq!(take_labels(mount)["swe-forge.role"], role);
        }
        let labels = seen.as_object_mut().unwrap().remove("Labels").unwrap();
        assert_eq!(labels["swe-forge.owner"], "me");
        assert_eq!(labels["swe-forge.role"], "task");
        assert_eq!(labels["swe-forge.spec"].as_str().unwrap().len(), 64);
        let expected: Value =
            serde_json::from_str(include_str!("../tests/container.json")).unwrap();
        assert_eq!(seen, expected);
    }

    #[test]
    fn what_counts_as_memory_never_takes_all_of_it() {
        let mut small = spec();
        small.limits.memory_bytes = 128 * MEBIBYTE;
        let seen = body_of(&small, &[], None);
        assert_eq!(seen["HostConfig"]["ShmSize"], 32 * MEBIBYTE);
        let options = seen["HostConfig"]["Tmpfs"]["/tmp"].as_str().unwrap();
        let size = format!("size={}", 64 * MEBIBYTE);
        assert!(options.split(',').any(|option| option == size), "{options}");
    }

    #[test]
    fn cores_are_a_setting_of_the_container_and_no_part_of_what_it_is() {
        let (mut kept, any) = (spec(), spec());
        kept.cores = vec![0, 3];
        let seen = body_of(&kept, &[], None);
        assert_eq!(seen["HostConfig"]["CpusetCpus"], "0,3");
        assert_eq!(digest(&kept, &image()), digest(&any, &image()));
    }

    #[test]
    fn setup_is_root_with_five_capabilities_and_otherwise_confined_alike() {
        let mut build = spec();
        build.profile = Profile::Build;
        let (mut build, mut run) = (body_of(&build, &[], None), body(&[], None));
        let differences = [
            ("/User", json!("0:0")),
            ("/HostConfig/ReadonlyRootfs", json!(false)),
            ("/HostConfig/CapAdd", json!(BUILD_CAPABILITIES)),
        ];
        let nothing = json!({"CapAdd": null});
        let host = run["HostConfig"].as_object_mut().unwrap();
        host.extend(nothing.as_object().unwrap().clone());
        for (path, value) in differences {
            let seen = build.pointer_mut(path).unwrap();
            assert_eq!(*seen, value, "{path}");
            *seen = run.pointer(path).unwrap().clone();
        }
        for body in [&mut build, &mut run] {
            body["Labels"]
                .as_object_mut()
                .unwrap()
                .remove(SPECIFICATION_DIGEST);
        }
        assert_eq!(build, run);
    }

    #[test]
    fn a_network_opens_low_ports_on_loopback_and_nothing_else() {
        let mut with = spec();
        with.network = Some(network());
        with.runtime = Some("runsc".into());
        let seen = body_of(&with, &[], None);
        let sysctls = json!({"net.ipv4.ip_unprivileged_port_start": "0"});
        assert_eq!(seen["HostConfig"]["Sysctls"], sysctls);
        assert_eq!(seen["HostConfig"]["NetworkMode"], "none");
        assert_eq!(seen["HostConfig"]["Runtime"], "runsc");
        assert_eq!(body(&[], None)["HostConfig"].get("Sysctls"), None);
    }

    #[test]
    fn a_shared_disk_adds_socket_and_name_files_and_leaves_the_network_out() {
        let root = ChannelRoot::new(Path::new("/run/c")).unwrap();
        let channel = Some(Path::new("/run/c/0123"));
        let root = &root;
        let mut seen = body(&[], Some(Here { channel, root }));
        assert_eq!(seen["NetworkDisabled"], true);
        let bind = |source: &str, target: &str, read_only: bool| {
            json!({
                "Type": "bind", "Source": source, "Target": target, "ReadOnly": read_only
            })
        };
        let expected = json!([
            bind("/run/c/0123", "/.swe-forge/channel", false),
            bind("/run/c/hostname", "/etc/hostname", true),
            bind("/run/c/hosts", "/etc/hosts", true),
            bind("/run/c/resolv.conf", "/etc/resolv.conf", true),
        ]);
        let mounts = seen["HostConfig"]["Mounts"]
            .as_array_mut()
            .unwrap()
            .split_off(2);
        assert_eq!(Value::from(mounts), expected);

        let channel = None;
        let seen = body(&[], Some(Here { channel, root }));
        assert_eq!(seen["NetworkDisabled"], true);
        let mounts = &seen["HostConfig"]["Mounts"].as_array().unwrap()[2..];
        assert_eq!(mounts, &expected.as_array().unwrap()[1..]);
    }

    #[test]
    fn tests_are_a_read_only_volume_over_the_workspace() {
        let mut with = spec();
        with.tests = true;
        let mut seen = body_of(&with, &[], None);
        let mount = &mut seen["HostConfig"]["Mounts"][2];
        assert_eq!(take_labels(mount)["swe-forge.role"], "tests");
        let expected = json!({
            "Type": "volume", "Source": "swe-forge-tests-t-1", "Target": "/workspace/tests",
            "ReadOnly": true, "VolumeOptions": {"NoCopy": true}
        });
        assert_eq!(*mount, expected);
    }

    /// What a volume would be made with where a mount's is gone; all of them have it alike.
    fn take_labels(mount: &mut Value) -> Value {
        let options = mount["VolumeOptions"].as_object_mut().unwrap();
        let labels = options.remove("Labels").unwrap();
        assert_eq!(labels["swe-forge.owner"], "me");
        labels
    }

    #[test]
    fn a_volume_that_the_image_declares_is_shaded_read_only_and_labelled() {
        let seen = body(&["/data".to_owned()], None);
        let shade = &seen["HostConfig"]["Mounts"][2];
        assert_eq!(shade["Source"], "swe-forge-shade-t-1-0");
        assert_eq!(shade["Target"], "/data");
        assert_eq!(shade["ReadOnly"], true);
        let options = &shade["VolumeOptions"];
        assert_eq!(options["NoCopy"], false);
        assert_eq!(options["Labels"]["swe-forge.owner"], "me");
        assert_eq!(options["Labels"]["swe-forge.shade"], "t-1");
    }

    #[test]
    fn the_digest_changes_with_what_a_sandbox_is_and_not_with_who_holds_it() {
        let first = digest(&spec(), &image());
        let mut same = spec();
        same.ownership.holder = "other".into();
        same.ownership.expires_at = "2027-01-01T00:00:00Z".parse().unwrap();
        assert_eq!(digest(&same, &image()), first);
        let mut other = spec();
        other.limits.processes += 1;
        assert_ne!(digest(&other, &image()), first);
        let mut other = spec();
        other.env.insert("A".into(), "b".into());
        assert_ne!(digest(&other, &image()), first);
        for change in [
            |spec: &mut SandboxSpec| spec.profile = Profile::Build,
            |spec: &mut SandboxSpec| spec.tests = true,
            |spec: &mut SandboxSpec| spec.runtime = Some("runsc".into()),
            |spec: &mut SandboxSpec| spec.network = Some(network()),
        ] {
            let mut other = spec();
            change(&mut other);
            assert_ne!(digest(&other, &image()), first);
        }
        let mut other = image();
        other.runnable.push('x');
        assert_ne!(digest(&spec(), &other), first);
    }
}
