//! What an operator can set, with every default filled in.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use forge_core::egress::{AddressException, AddressRange, AllowedHost, EgressLimits};
use forge_core::{DiskQuota, LimitCeiling, NetworkLevel};
use serde::{Deserialize, Serialize};

use crate::cleanup::CleanupSettings;
use crate::images::ImageSettings;
use crate::secrets::SecretSource;

/// Everything an operator can set.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Configuration {
    /// The file it was read from; `None` when there is none and everything is a default.
    pub file: Option<PathBuf>,
    /// `[limits]`: the most that any task may ask for.
    pub limits: LimitCeiling,
    /// `[network]`.
    pub network: NetworkSettings,
    /// `[registries]`.
    pub registries: RegistrySettings,
    /// `[disk]`.
    pub disk: DiskSettings,
    /// `[images]`.
    pub images: ImageSettings,
    /// `[hardening]`.
    pub hardening: HardeningSettings,
    /// `[capacity]`.
    pub capacity: CapacitySettings,
    /// `[retry]`.
    pub retry: RetrySettings,
    /// `[cleanup]`.
    pub cleanup: CleanupSettings,
    /// `[secrets]`: where each value is; [`Configuration::secret`] reads it.
    pub(crate) secrets: BTreeMap<String, SecretSource>,
}

/// `[network]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkSettings {
    /// The widest level a phase may have.
    pub max_level: NetworkLevel,
    /// Addresses at which registries may be although they are not public.
    pub registry_exceptions: Vec<AddressRange>,
    /// Addresses that are reached although they are not public, each for its own hosts.
    pub exceptions: Vec<AddressException>,
    /// Addresses that are denied besides the built-in ones, whatever the exceptions say.
    pub denied: Vec<AddressRange>,
    /// Name servers for sandboxes; none means those of the engine's machine.
    pub resolvers: Vec<IpAddr>,
    /// Certificate authorities for all clients in sandboxes, a PEM file that was checked; `None`
    /// means the file that clients on this machine are set to, if any.
    pub ca_bundle: Option<PathBuf>,
    /// Bounds other than those of the level.
    pub bounds: EgressOverrides,
}

impl Default for NetworkSettings {
    fn default() -> Self {
        Self {
            max_level: NetworkLevel::FullWeb,
            registry_exceptions: Vec::new(),
            exceptions: Vec::new(),
            denied: Vec::new(),
            resolvers: Vec::new(),
            ca_bundle: None,
            bounds: EgressOverrides::default(),
        }
    }
}

/// Bounds of an operator's on what one sandbox may do through the proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EgressOverrides {
    /// Connections open at once.
    pub connections: Option<u32>,
    /// Bytes sent out.
    pub upload_bytes: Option<u64>,
    /// Bytes received.
    pub download_bytes: Option<u64>,
}

impl EgressOverrides {
    /// The bounds of `level` with these in their place.
    #[must_use]
    pub fn over(&self, level: NetworkLevel) -> EgressLimits {
        let limits = EgressLimits::of(level);
        if level == NetworkLevel::Isolated {
            return limits;
        }
        EgressLimits {
            connections: self.connections.unwrap_or(limits.connections),
            upload_bytes: self.upload_bytes.unwrap_or(limits.upload_bytes),
            download_bytes: self.download_bytes.unwrap_or(limits.download_bytes),
            idle_seconds: limits.idle_seconds,
        }
    }
}

/// An ecosystem of packages, whose registry is found out and reached as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Group {
    /// Python packages, by pip.
    Pypi,
    /// JavaScript packages, by npm.
    Npm,
    /// Rust crates, by cargo.
    Cargo,
    /// Packages of the image's distribution, by apt.
    Apt,
    /// Go modules; opt-in.
    Go,
    /// Java artifacts, by Maven; opt-in.
    Maven,
    /// Java artifacts, by Gradle; opt-in.
    Gradle,
    /// Ruby gems; opt-in.
    Gems,
}

impl Group {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Pypi,
        Self::Npm,
        Self::Cargo,
        Self::Apt,
        Self::Go,
        Self::Maven,
        Self::Gradle,
        Self::Gems,
    ];

    /// The name used in files and on the command line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pypi => "pypi",
            Self::Npm => "npm",
            Self::Cargo => "cargo",
            Self::Apt => "apt",
            Self::Go => "go",
            Self::Maven => "maven",
            Self::Gradle => "gradle",
            Self::Gems => "gems",
        }
    }

    /// Whether it is looked for when nothing is said about it.
    #[must_use]
    pub const fn is_usual(self) -> bool {
        matches!(self, Self::Pypi | Self::Npm | Self::Cargo | Self::Apt)
    }
}

impl fmt::Display for Group {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.as_str())
    }
}

impl FromStr for Group {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|group| group.as_str() == text)
            .ok_or_else(|| {
                let names = Self::ALL.map(Self::as_str).join(", ");
                format!("'{text}' is no group of registries: {names}")
            })
    }
}

/// `[registries]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegistrySettings {
    /// What was found out is found out again after so many days.
    pub refresh_days: u32,
    /// What is said about groups.
    pub groups: BTreeMap<Group, GroupSettings>,
}

impl Default for RegistrySettings {
    fn default() -> Self {
        Self {
            refresh_days: 7,
            groups: BTreeMap::new(),
        }
    }
}

impl RegistrySettings {
    /// Whether sandboxes reach the registry of `group`: the usual ones unless they are switched
    /// off, the others when there is a section for them.
    #[must_use]
    pub fn is_enabled(&self, group: Group) -> bool {
        match self.groups.get(&group) {
            Some(settings) => settings.enabled,
            None => group.is_usual(),
        }
    }

    /// What is said about `group`.
    #[must_use]
    pub fn group(&self, group: Group) -> GroupSettings {
        self.groups.get(&group).cloned().unwrap_or_default()
    }
}

/// `[registries.<group>]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupSettings {
    /// Whether sandboxes reach it.
    pub enabled: bool,
    /// Where its index is, instead of where the client says; an `http` or `https` address with a
    /// name in it and without credentials.
    pub index: Option<String>,
    /// Its hosts; when there are any, nothing is found out.
    pub hosts: Vec<AllowedHost>,
}

impl Default for GroupSettings {
    fn default() -> Self {
        Self {
            enabled: true,
            index: None,
            hosts: Vec::new(),
        }
    }
}

/// What is to hold the size of workspaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum QuotaChoice {
    /// The strongest of what the engine's machine offers.
    #[default]
    Auto,
    /// This and nothing weaker: where it cannot be had, tasks fail.
    Only(DiskQuota),
}

/// `[disk]`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DiskSettings {
    /// What is to hold the size of workspaces.
    pub quota: QuotaChoice,
    /// A folder on the engine's disk for files that hold file systems.
    pub pool: Option<PathBuf>,
    /// Whether these files take their whole size at once, so that the disk cannot run full later.
    pub preallocate: bool,
}

/// `[hardening]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HardeningSettings {
    /// The runtime that the engine is to use for sandboxes; its default when `None`.
    pub runtime: Option<String>,
    /// Whether attempts are kept to cores that no other attempt of the run has, while there are
    /// enough.
    pub own_cores: bool,
}

impl Default for HardeningSettings {
    fn default() -> Self {
        Self {
            runtime: None,
            own_cores: true,
        }
    }
}

/// `[capacity]`: how much of the engine's machine attempts may be promised together. What is not set
/// is left to the orchestrator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CapacitySettings {
    /// How often each core is promised, in thousandths.
    pub cpu_permille: Option<u64>,
    /// How often each byte of memory is promised, in thousandths.
    pub memory_permille: Option<u64>,
    /// How often each byte of the disk is promised, in thousandths.
    pub disk_permille: Option<u64>,
    /// Bytes of memory that nobody is promised.
    pub memory_reserve_bytes: Option<u64>,
    /// Bytes of the disk that nobody is promised.
    pub disk_reserve_bytes: Option<u64>,
}

/// `[retry]`: what becomes of attempts that the infrastructure ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetrySettings {
    /// Tries in all, the first one among them.
    pub attempts: u32,
    /// The pause after the first.
    pub first_pause: Duration,
    /// The longest pause.
    pub longest_pause: Duration,
}

impl Default for RetrySettings {
    fn default() -> Self {
        Self {
            attempts: 3,
            first_pause: Duration::from_secs(1),
            longest_pause: Duration::from_secs(60),
        }
    }
}
