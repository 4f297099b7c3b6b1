//! What the proxy consists of on an engine: every name and setting stands here.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::IpAddr;

use bollard::models::{
    ContainerCreateBody, EndpointSettings, HealthConfig, HostConfig, Ipam, IpamConfig, Mount,
    MountType, MountVolumeOptions, NetworkCreateRequest, NetworkingConfig, RestartPolicy,
    RestartPolicyNameEnum, VolumeCreateRequest,
};
use bytes::Bytes;
use forge_api::egress::{TCP_RECEIVE_BYTES, TCP_SEND_BYTES};
use forge_core::UserId;
use forge_core::egress::AddressRange;
use forge_core::limits::MEBIBYTE;
use forge_core::ownership::{Role, keys};
use jiff::{SignedDuration, Timestamp};
use sha2::{Digest, Sha256};

use crate::archive::Archive;
use crate::context::hex;
use crate::helper::{self, text_map};
use crate::names::{EGRESS_IMAGE_ROLE, EGRESS_PLAN, EGRESS_REPOSITORY};

/// Who the proxy is: neither root nor anybody who has an account or a task.
const USER: u32 = 65_532;
/// Where the program is in its image.
const PROGRAM: &str = "/forge-egress";
/// Where the volume is that holds the folders of sandboxes.
const SOCKETS: &str = "/sockets";
/// Where the proxy is controlled: in memory of its own, where no sandbox has a mount.
const CONTROL: &str = "/run/control.sock";
const MEMORY: u64 = 256 * MEBIBYTE;
const PROCESSES: i64 = 64;
/// Two for each of 4,096 connections, and room.
const OPEN_FILES: i64 = 16_384;
/// After this time anybody may remove what a process left that cannot be looked up.
const LIFETIME: SignedDuration = SignedDuration::from_hours(24);
/// The same for the container that looks at the machine's addresses and is gone in a moment.
const SCOUT_LIFETIME: SignedDuration = SignedDuration::from_mins(10);
const SCOUT_MEMORY: u64 = 64 * MEBIBYTE;
const SCOUT_PROCESSES: i64 = 16;

/// The proxy of one engine handle.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    /// The name of container, network and volume.
    pub(super) name: String,
    /// The image that holds the program.
    pub(super) image: String,
    /// Name servers that the proxy asks instead of the machine's.
    pub(super) resolvers: Vec<IpAddr>,
    /// Whose it is.
    pub(super) owner: BTreeMap<String, String>,
}

impl Plan {
    pub(super) fn new(
        name: String,
        program: &[u8],
        resolvers: Vec<IpAddr>,
        owner: BTreeMap<String, String>,
    ) -> Self {
        let digest = hex(&Sha256::digest(program)[..8]);
        Self {
            name,
            image: format!("{EGRESS_REPOSITORY}:{digest}"),
            resolvers,
            owner,
        }
    }

    pub(super) fn labels(&self) -> HashMap<String, String> {
        self.labels_for(LIFETIME)
    }

    fn labels_for(&self, lifetime: SignedDuration) -> HashMap<String, String> {
        let now = Timestamp::now();
        let expires_at = now.checked_add(lifetime).unwrap_or(Timestamp::MAX);
        let mut labels: HashMap<_, _> = self.owner.clone().into_iter().collect();
        labels.extend(
            [
                (keys::ROLE, Role::Egress.to_string()),
                (keys::CREATED_AT, now.to_string()),
                (keys::EXPIRES_AT, expires_at.to_string()),
            ]
            .map(|(key, value)| (key.to_owned(), value)),
        );
        labels
    }

    pub(super) fn network(&self, subnet: AddressRange) -> NetworkCreateRequest {
        NetworkCreateRequest {
            name: self.name.clone(),
            driver: Some("bridge".to_owned()),
            internal: Some(false),
            attachable: Some(false),
            enable_ipv6: Some(false),
            ipam: Some(Ipam {
                config: Some(vec![IpamConfig {
                    subnet: Some(subnet.to_string()),
                    ..IpamConfig::default()
                }]),
                ..Ipam::default()
            }),
            // Whatever else is put on this network has nothing to say to the proxy.
            options: Some(text_map([(
                "com.docker.network.bridge.enable_icc",
                "false",
            )])),
            labels: Some(self.labels()),
            ..NetworkCreateRequest::default()
        }
    }

    pub(super) fn volume(&self) -> VolumeCreateRequest {
        VolumeCreateRequest {
            name: Some(self.name.clone()),
            driver: Some("local".to_owned()),
            labels: Some(self.labels()),
            ..VolumeCreateRequest::default()
        }
    }

    pub(super) fn container(&self) -> ContainerCreateBody {
        let mut body = self.unlabelled();
        let mut labels = self.labels();
        labels.insert(EGRESS_PLAN.to_owned(), self.digest());
        body.labels = Some(labels);
        if let Some(host) = &mut body.host_config {
            host.mounts = Some(vec![self.sockets(Some(self.labels()))]);
        }
        body
    }

    /// Tells a proxy that was made by this plan from one that was made by another.
    pub(super) fn digest(&self) -> String {
        // As a value, whose fields are in order.
        let body = serde_json::to_value(self.unlabelled()).unwrap_or_default();
        hex(&Sha256::digest(body.to_string())[..8])
    }

    /// All of it that is the same whenever it is made.
    fn unlabelled(&self) -> ContainerCreateBody {
        let words = [PROGRAM, "serve", "--sockets", SOCKETS, "--control", CONTROL];
        let endpoint = (self.name.clone(), EndpointSettings::default());
        ContainerCreateBody {
            hostname: Some("egress".to_owned()),
            image: Some(self.image.clone()),
            entrypoint: Some(words.map(str::to_owned).to_vec()),
            cmd: Some(Vec::new()),
            user: Some(format!("{USER}:{USER}")),
            working_dir: Some("/".to_owned()),
            healthcheck: Some(no_healthcheck()),
            stop_signal: Some("SIGTERM".to_owned()),
            attach_stdin: Some(false),
            attach_stdout: Some(false),
            attach_stderr: Some(false),
            networking_config: Some(NetworkingConfig {
                endpoints_config: Some([endpoint].into()),
            }),
            host_config: Some(self.host_config()),
            ..ContainerCreateBody::default()
        }
    }

    fn host_config(&self) -> HostConfig {
        let resolvers = self.resolvers.iter().map(IpAddr::to_string).collect();
        let mut confined = helper::confinement(MEMORY, PROCESSES);
        let ulimits = confined.ulimits.get_or_insert_default();
        ulimits.push(helper::ulimit("nofile", OPEN_FILES));
        HostConfig {
            network_mode: Some(self.name.clone()),
            dns: (!self.resolvers.is_empty()).then_some(resolvers),
            tmpfs: Some(text_map([(
                "/run",
                "rw,noexec,nosuid,nodev,size=1m,mode=0700,uid=65532,gid=65532",
            )])),
            mounts: Some(vec![self.sockets(None)]),
            sysctls: Some(bounds()),
            restart_policy: Some(RestartPolicy {
                name: Some(RestartPolicyNameEnum::UNLESS_STOPPED),
                maximum_retry_count: None,
            }),
            ..confined
        }
    }

    fn sockets(&self, labels: Option<HashMap<String, String>>) -> Mount {
        Mount {
            typ: Some(MountType::VOLUME),
            source: Some(self.name.clone()),
            target: Some(SOCKETS.to_owned()),
            read_only: Some(false),
            volume_options: Some(MountVolumeOptions {
                // From there the volume's root has its owner and mode.
                no_copy: Some(false),
                // Where the volume is gone by now, the engine makes it anew with these.
                labels,
                ..MountVolumeOptions::default()
            }),
            ..Mount::default()
        }
    }

    /// The name of the container that looks at the machine's addresses.
    pub(super) fn scout_name(&self) -> String {
        format!("{}-addresses", self.name)
    }

    /// A container in the network of the engine's machine, where the program does nothing but
    /// print that network's addresses. Who it is and what it may do is as with the proxy, but for
    /// files: it has none.
    pub(super) fn scout(&self, remapped: bool) -> ContainerCreateBody {
        let words = [PROGRAM, "addresses"];
        ContainerCreateBody {
            image: Some(self.image.clone()),
            entrypoint: Some(words.map(str::to_owned).to_vec()),
            cmd: Some(Vec::new()),
            user: Some(format!("{USER}:{USER}")),
            working_dir: Some("/".to_owned()),
            labels: Some(self.labels_for(SCOUT_LIFETIME)),
            healthcheck: Some(no_healthcheck()),
            attach_stdin: Some(false),
            attach_stdout: Some(false),
            attach_stderr: Some(false),
            host_config: Some(HostConfig {
                network_mode: Some("host".to_owned()),
                // An engine that maps users shares no network of its machine with a mapped one.
                userns_mode: remapped.then(|| "host".to_owned()),
                ..helper::confinement(SCOUT_MEMORY, SCOUT_PROCESSES)
            }),
            ..ContainerCreateBody::default()
        }
    }

    /// What is run in the container to control the proxy.
    pub(super) fn control() -> Vec<String> {
        [PROGRAM, "control", "--control", CONTROL]
            .map(str::to_owned)
            .to_vec()
    }

    /// The settings of the image, as lines of a Dockerfile.
    pub(super) fn image_changes() -> Vec<String> {
        vec![format!("LABEL \"{}\"=\"{EGRESS_IMAGE_ROLE}\"", keys::ROLE)]
    }
}

/// What the system keeps of each connection to a server: at least, at first, and at most. It counts as
/// the proxy's memory, and grows with what flows.
fn bounds() -> HashMap<String, String> {
    text_map([
        (
            "net.ipv4.tcp_rmem",
            &format!("4096 131072 {TCP_RECEIVE_BYTES}"),
        ),
        ("net.ipv4.tcp_wmem", &format!("4096 16384 {TCP_SEND_BYTES}")),
    ])
}

fn no_healthcheck() -> HealthConfig {
    HealthConfig {
        test: Some(vec!["NONE".to_owned()]),
        ..HealthConfig::default()
    }
}

/// The image: the program and nothing else.
pub(super) fn image_archive(program: &[u8]) -> io::Result<Bytes> {
    let inside = |path: &'static str| path.trim_start_matches('/');
    let mut archive = Archive::new();
    archive.file(inside(PROGRAM), 0o555, program)?;
    // Passed through by name, never listed.
    archive.folder(inside(SOCKETS), 0o711, UserId::new(USER, USER))?;
    archive.folder("run", 0o755, None)?;
    archive.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn plan() -> Plan {
        let owner = [
            (keys::OWNER.to_owned(), "me".to_owned()),
            (keys::HOLDER.to_owned(), "1@2".to_owned()),
        ];
        let resolvers = vec!["192.0.2.53".parse().unwrap()];
        Plan::new("swe-forge-egress-x".into(), b"one", resolvers, owner.into())
    }

    #[test]
    fn every_setting_of_the_proxy_is_as_decided() {
        let mut body = serde_json::to_value(plan().container()).unwrap();
        let labels = body.as_object_mut().unwrap().remove("Labels").unwrap();
        assert_eq!(labels["swe-forge.owner"], "me");
        assert_eq!(labels["swe-forge.holder"], "1@2");
        assert_eq!(labels["swe-forge.role"], "egress");
        assert_eq!(labels["swe-forge.egress.plan"], plan().digest());
        let sockets = body.pointer_mut("/HostConfig/Mounts/0/VolumeOptions");
        let options = sockets.unwrap().as_object_mut().unwrap();
        let of_volume = options.remove("Labels").unwrap();
        for key in [keys::OWNER, keys::HOLDER, keys::ROLE] {
            assert_eq!(of_volume[key], labels[key]);
        }
        assert!(of_volume[keys::EXPIRES_AT].is_string());
        let host = body["HostConfig"].as_object_mut().unwrap();
        let options = host.remove("SecurityOpt").unwrap();
        assert_eq!(options[0], "no-new-privileges");
        assert!(options[1].as_str().unwrap().starts_with("seccomp={"));
        let expected: Value =
            serde_json::from_str(include_str!("../../tests/egress-container.json")).unwrap();
        assert_eq!(body, expected);
    }

    #[test]
    fn the_scout_has_the_machine_s_network_and_nothing_else() {
        let plan = plan();
        let mut body = serde_json::to_value(plan.scout(false)).unwrap();
        let labels = body.as_object_mut().unwrap().remove("Labels").unwrap();
        assert_eq!(labels["swe-forge.role"], "egress");
        assert_eq!(labels["swe-forge.owner"], "me");
        assert!(labels["swe-forge.expires_at"].is_string());
        let host = body["HostConfig"].as_object_mut().unwrap();
        let options = host.remove("SecurityOpt").unwrap();
        assert_eq!(options[0], "no-new-privileges");
        assert!(options[1].as_str().unwrap().starts_with("seccomp={"));
        let expected = json!({
            "User": "65532:65532",
            "AttachStdin": false,
            "AttachStdout": false,
            "AttachStderr": false,
            "Cmd": [],
            "Healthcheck": { "Test": ["NONE"] },
            "Image": plan.image,
            "WorkingDir": "/",
            "Entrypoint": ["/forge-egress", "addresses"],
            "HostConfig": {
                "Memory": 64 << 20,
                "MemorySwap": 64 << 20,
                "PidsLimit": 16,
                "Ulimits": [{ "Name": "core", "Soft": 0, "Hard": 0 }],
                "Init": false,
                "LogConfig": {
                    "Type": "json-file",
                    "Config": { "max-size": "1m", "max-file": "2" }
                },
                "NetworkMode": "host",
                "AutoRemove": false,
                "CapDrop": ["ALL"],
                "CgroupnsMode": "private",
                "IpcMode": "private",
                "Privileged": false,
                "ReadonlyRootfs": true,
            },
        });
        assert_eq!(body, expected);
        let mapped = serde_json::to_value(plan.scout(true)).unwrap();
        assert_eq!(mapped["HostConfig"]["UsernsMode"], "host");
    }

    #[test]
    fn network_and_volume_are_labelled_and_the_network_is_small() {
        let subnet = "192.168.240.8/29".parse().unwrap();
        let network = serde_json::to_value(plan().network(subnet)).unwrap();
        assert_eq!(
            network["IPAM"]["Config"],
            json!([{"Subnet": "192.168.240.8/29"}])
        );
        assert_eq!(network["EnableIPv6"], false);
        let volume = serde_json::to_value(plan().volume()).unwrap();
        for object in [&network, &volume] {
            assert_eq!(object["Labels"]["swe-forge.role"], "egress");
            assert!(object["Labels"]["swe-forge.expires_at"].is_string());
        }
    }

    #[test]
    fn another_program_is_another_image() {
        let other = Plan::new("n".into(), b"two", Vec::new(), BTreeMap::new());
        assert_ne!(other.image, plan().image);
        assert!(other.image.starts_with("swe-forge/egress:"));
    }

    #[test]
    fn whoever_holds_it_makes_no_other_plan_and_every_setting_does() {
        let mut same = plan();
        same.owner.insert(keys::HOLDER.to_owned(), "2@3".to_owned());
        assert_eq!(same.digest(), plan().digest());
        let resolvers = plan().resolvers;
        let others = [
            Plan::new(plan().name, b"two", resolvers, BTreeMap::new()),
            Plan::new(plan().name, b"one", Vec::new(), BTreeMap::new()),
        ];
        for other in others {
            assert_ne!(other.digest(), plan().digest());
        }
    }

    #[test]
    fn the_image_holds_the_program_and_the_folder_that_is_passed_through() {
        let archive = image_archive(b"program").unwrap();
        let mut archive = tar::Archive::new(&archive[..]);
        let found: Vec<_> = archive
            .entries()
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                let header = entry.header();
                let path = entry.path().unwrap().display().to_string();
                (path, header.mode().unwrap(), header.uid().unwrap())
            })
            .collect();
        let expected = [
            ("forge-egress", 0o555, 0),
            ("sockets/", 0o711, 65_532),
            ("run/", 0o755, 0),
        ];
        assert_eq!(
            found,
            expected.map(|(path, mode, uid)| (path.to_owned(), mode, uid))
        );
    }
}
