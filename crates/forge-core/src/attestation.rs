//! What the inside of a sandbox says about its own confinement.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What PID 1 of a sandbox saw before any instruction of the task ran.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Attestation {
    /// Effective capabilities, as the kernel's bit mask.
    pub capabilities: u64,
    /// The capability bounding set, as the kernel's bit mask.
    pub bounding_capabilities: u64,
    /// Whether `no_new_privs` is set.
    pub no_new_privileges: bool,
    /// Seccomp mode: 0 off, 1 strict, 2 filter.
    pub seccomp_mode: u32,
    /// User id of PID 1.
    pub uid: u32,
    /// Group id of PID 1.
    pub gid: u32,
    /// Network interfaces, by name.
    pub interfaces: Vec<String>,
    /// Number of IPv4 and IPv6 routes that do not belong to loopback.
    pub routes: u32,
    /// Mount points that are not read-only, without the kernel's own (`/proc`, `/dev`, …).
    pub writable_mounts: Vec<String>,
    /// Mount points that are read-only, without the kernel's own and the root.
    #[serde(default)]
    pub read_only_mounts: Vec<String>,
    /// Whether the root file system is read-only.
    pub read_only_root: bool,
    /// Whether opening an `AF_VSOCK` socket was refused.
    pub vsock_refused: bool,
    /// Whether there is no way to the address of cloud machines' metadata, 169.254.169.254.
    #[serde(default)]
    pub metadata_unreachable: bool,
    /// Whether PID 1 serves the loopback network that leads to the egress proxy.
    #[serde(default)]
    pub network_served: bool,
    /// Why it does not, where it was to.
    #[serde(default)]
    pub network_failure: Option<String>,
    /// Release of the kernel.
    pub kernel: String,
}
