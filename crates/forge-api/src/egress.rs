//! Documents between an engine and the egress proxy it started: one JSON object a line, both ways.
//!
//! The engine sends [`ControlRequest`]s and is answered in the same order; [`ControlEvent`]s that
//! are no answers come between.
//!
//! The proxy outlives its engine: policies stay in force, and every record of a connection waits
//! until an engine says that it was taken, so that the next engine gets what the one before it did
//! not hand on.

use std::net::IpAddr;

use forge_core::PhaseName;
use forge_core::connection::{ConnectionRecord, EgressCounters};
use forge_core::egress::EgressPolicy;
use serde::{Deserialize, Serialize};

/// Version of these documents; proxy and engine must have the same.
pub const CONTROL_VERSION: u32 = 2;
/// The longest line either side accepts, in bytes.
pub const CONTROL_LINE_BYTES: usize = 1024 * 1024;
/// The most bytes of one connection to a server that the system keeps for the proxy, and those that
/// it keeps for the server: the engine bounds the proxy's network so, and the proxy counts by it.
pub const TCP_RECEIVE_BYTES: usize = 2 * 1024 * 1024;
/// See [`TCP_RECEIVE_BYTES`].
pub const TCP_SEND_BYTES: usize = 256 * 1024;
/// The name of a sandbox's socket in its folder.
pub const PROXY_SOCKET: &str = "proxy.sock";

/// A request with the number that its answer carries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NumberedRequest {
    /// Chosen by the engine, never used twice on a connection.
    pub id: u64,
    /// What is asked.
    pub request: ControlRequest,
}

/// What the engine asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum ControlRequest {
    /// The first request of a connection. Sent again at any time it renews the list of addresses;
    /// the answer then comes when connections to those now denied are ended, after their records.
    Hello {
        /// [`CONTROL_VERSION`] of the engine.
        version: u32,
        /// Addresses that are denied at every level besides the built-in ones: those of the
        /// engine's machine. They take the place of all that were sent before.
        denied: Vec<forge_core::egress::AddressRange>,
        /// Tells this engine's connections from those of other engines, and no two engines have the
        /// same. The newest engine controls the proxy; one that it took the place of never does
        /// again.
        engine: String,
    },
    /// Opens a sandbox's socket, or changes the policy of one that is open; connections that the
    /// new policy forbids are ended. Answered when the socket listens and they are.
    Set(Box<SandboxPolicy>),
    /// Asks what an earlier engine left of a sandbox. Answered with its counters and
    /// [`Inheritance`], after every record of it that was not taken; with neither where there is no
    /// such sandbox.
    Inherit {
        /// Which sandbox.
        sandbox: String,
    },
    /// The records of a sandbox up to this number were handed on and need not be kept.
    Taken {
        /// Which sandbox.
        sandbox: String,
        /// The number of the last of them.
        number: u64,
    },
    /// Closes a sandbox's socket and ends its connections; success when there is none. Records of
    /// it that were not taken are gone when this is answered.
    Remove {
        /// Which sandbox.
        sandbox: String,
    },
    /// Answered with the counters of a sandbox, after every record of connections that ended.
    Stats {
        /// Which sandbox.
        sandbox: String,
    },
}

/// The policy of one sandbox in one phase.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SandboxPolicy {
    /// Which sandbox; what records carry.
    pub sandbox: String,
    /// The name of its folder, unguessable; one path component of letters and digits.
    pub directory: String,
    /// What holds from now on.
    pub policy: EgressPolicy,
    /// For the log.
    pub context: AuditContext,
}

/// What a record of a connection says about the sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuditContext {
    /// The run.
    pub run: String,
    /// The task.
    pub task: String,
    /// The phase.
    pub phase: PhaseName,
}

/// What the proxy says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum ControlEvent {
    /// The answer to a request.
    Answer {
        /// Its number.
        id: u64,
        /// What went wrong, if anything.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        error: Option<String>,
        /// The counters, where they were asked for.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        counters: Option<EgressCounters>,
        /// What an earlier engine left, where that was asked and there is anything.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        inheritance: Option<Box<Inheritance>>,
    },
    /// A connection ended, or was refused.
    Connection {
        /// Larger than that of every record of this proxy's process before it. The same record
        /// comes again on a new connection when it was not taken.
        number: u64,
        /// What happened.
        record: Box<ConnectionRecord>,
    },
    /// Another engine controls the proxy now; nothing follows.
    Superseded,
}

/// What an earlier engine left of a sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Inheritance {
    /// The policy in force.
    pub policy: SandboxPolicy,
    /// How many records of it were taken.
    pub taken: u64,
}

/// What `forge-egress addresses` prints, in one line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostAddresses {
    /// The addresses of all interfaces of the network that it runs in, those of loopback
    /// included, in order, each once.
    pub addresses: Vec<IpAddr>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_one_line_of_text() {
        let addresses = ["192.0.2.1", "2001:db8::1"].map(|text| text.parse().unwrap());
        let document = HostAddresses {
            addresses: addresses.to_vec(),
        };
        let text = r#"{"addresses":["192.0.2.1","2001:db8::1"]}"#;
        assert_eq!(serde_json::to_string(&document).unwrap(), text);
        assert_eq!(
            serde_json::from_str::<HostAddresses>(text).unwrap(),
            document
        );
    }

    #[test]
    fn documents_come_back_as_they_were() {
        let request = NumberedRequest {
            id: 7,
            request: ControlRequest::Set(Box::new(SandboxPolicy {
                sandbox: "t-1".into(),
                directory: "0123".into(),
                policy: EgressPolicy::isolated(),
                context: AuditContext {
                    run: "r".into(),
                    task: "t".into(),
                    phase: PhaseName::Setup,
                },
            })),
        };
        let text = serde_json::to_string(&request).unwrap();
        assert!(!text.contains('\n'));
        assert_eq!(
            serde_json::from_str::<NumberedRequest>(&text).unwrap(),
            request
        );
        let answer = ControlEvent::Answer {
            id: 7,
            error: None,
            counters: Some(EgressCounters::default()),
            inheritance: None,
        };
        let text = serde_json::to_string(&answer).unwrap();
        assert_eq!(serde_json::from_str::<ControlEvent>(&text).unwrap(), answer);
    }
}
