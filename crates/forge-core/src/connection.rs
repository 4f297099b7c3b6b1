//! What the egress proxy notes about the connections of a sandbox.

use std::net::IpAddr;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::egress::DenialReason;
use crate::network::NetworkLevel;
use crate::phase::PhaseName;

/// What a sandbox did through the proxy so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EgressCounters {
    /// Connections that were allowed.
    pub allowed: u64,
    /// Connections that were refused, or ended against the client's will.
    pub denied: u64,
    /// Bytes sent out.
    pub bytes_up: u64,
    /// Bytes received.
    pub bytes_down: u64,
    /// Connections that have no record, because there were too many.
    pub unrecorded: u64,
}

/// How a connection reached the proxy, as the sandbox says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ConnectionMode {
    /// A tunnel by `CONNECT`.
    Connect,
    /// A plain HTTP request.
    Http,
    /// Captured on loopback.
    Transparent,
    /// Through the SOCKS5 proxy.
    Socks,
}

/// Whether a connection was allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ConnectionVerdict {
    /// It was.
    Allowed,
    /// It was refused, or ended against the client's will.
    Denied,
}

/// One line of the log of connections. Text that came from the sandbox has its control characters
/// escaped and is cut at 255 characters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ConnectionRecord {
    /// When it ended.
    #[schemars(with = "String")]
    pub time: Timestamp,
    /// The sandbox.
    pub sandbox: String,
    /// The run.
    pub run: String,
    /// The task.
    pub task: String,
    /// The phase in which it began.
    pub phase: PhaseName,
    /// The level at which it was decided.
    pub level: NetworkLevel,
    /// Whether it was allowed.
    pub verdict: ConnectionVerdict,
    /// Why it was denied, or what ended it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<DenialReason>,
    /// How it came.
    pub mode: ConnectionMode,
    /// The host asked for, without port; as far as it could be read.
    pub host: String,
    /// The port asked for; 0 when it could not be read.
    pub port: u16,
    /// The name in the TLS handshake.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sni: Option<String>,
    /// The address connected to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub ip: Option<IpAddr>,
    /// Bytes sent out.
    pub bytes_up: u64,
    /// Bytes received.
    pub bytes_down: u64,
    /// How long it lasted, in milliseconds.
    pub ms: u64,
}
