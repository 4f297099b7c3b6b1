//! What a client is told when it is refused.

use forge_core::NetworkLevel;
use forge_core::egress::DenialReason;

use crate::server::leg::Asked;

/// What a refusal comes from, besides its reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// The request, by the rules of its phase.
    Rules,
    /// The sandbox has as many connections as it may have.
    Crowded,
    /// The proxy has no room left, which the sandbox need not be the cause of.
    Busy,
    /// The request did not come to its end.
    Slow,
}

/// The status of an answer.
///
/// What the rules forbid is 403, what failed outside 502, what is too much 429, or 503 where it may
/// be less a moment later.
const fn status(cause: Cause, reason: DenialReason) -> u16 {
    match (cause, reason) {
        (_, DenialReason::Isolated) => 403,
        (Cause::Crowded | Cause::Busy, _) => 503,
        (Cause::Slow, _) => 408,
        (Cause::Rules, DenialReason::BadRequest) => 400,
        (Cause::Rules, DenialReason::DnsFailure | DenialReason::ConnectFailed) => 502,
        (Cause::Rules, DenialReason::Limit) => 429,
        (Cause::Rules, _) => 403,
    }
}

/// A whole answer of HTTP. `asked` is escaped already; a port of 0 stands for one that could not be
/// read.
pub(crate) fn answer(
    cause: Cause,
    reason: DenialReason,
    asked: &Asked,
    level: NetworkLevel,
) -> Vec<u8> {
    let to = match (asked.host.as_str(), asked.port) {
        ("", _) => String::new(),
        (host, 0) => format!("{host} "),
        (host, port) => format!("{host}:{port} "),
    };
    let phrase = format!("Blocked by swe-forge egress policy: {to}{reason} (level {level})");
    let body = format!("{phrase}\n{}\n", hint(cause, reason, level));
    let status = status(cause, reason);
    let length = body.len();
    format!(
        "HTTP/1.1 {status} {phrase}\r\n\
         X-Swe-Forge-Egress: denied; reason={reason}\r\n\
         Content-Type: text/plain; charset=utf-8\r\n\
         Content-Length: {length}\r\n\
         Connection: close\r\n\r\n{body}"
    )
    .into_bytes()
}

/// What the author of a task can do about it.
const fn hint(cause: Cause, reason: DenialReason, level: NetworkLevel) -> &'static str {
    match (reason, level) {
        (DenialReason::Isolated, _) => {
            "This phase has no network; raise the phase's network level if it must have one."
        }
        (DenialReason::NotOnAllowlist | DenialReason::Port, NetworkLevel::LimitedWeb) => {
            "Allow it with network.allow in .swe-forge/config.yaml if the task must reach it."
        }
        (DenialReason::NotOnAllowlist | DenialReason::Port, NetworkLevel::PackageOnly) => {
            "Only package registries are reached at this level; to reach others raise the phase's \
             level to limited_web and allow them with network.allow in .swe-forge/config.yaml."
        }
        (DenialReason::Port, _) => "Ports of mail are closed at every level.",
        (DenialReason::IpLiteral, _) => "Use the name of the host instead of its address.",
        (DenialReason::PrivateAddress, _) => {
            "Addresses that are not public are closed at every level, but for exceptions that the \
             operator makes."
        }
        (DenialReason::BadRequest | DenialReason::BadHostname, _) => {
            "The request is not one that can be passed on."
        }
        (DenialReason::DnsFailure | DenialReason::ConnectFailed, _) => {
            "The rules allow it, but the host does not answer."
        }
        (DenialReason::Limit, _) => match cause {
            Cause::Rules => "The bounds of this phase on bytes are used up.",
            Cause::Crowded => {
                "The task has as many connections open as it may have at once; it can go on once \
                 it closes some."
            }
            Cause::Busy => {
                "The proxy, which all tasks share, has no room for this connection now; no bound \
                 of this phase is used up. It can be tried again."
            }
            Cause::Slow => "The request did not come to its end in time.",
        },
        (DenialReason::NotTls | DenialReason::SniMismatch | DenialReason::Ech, _) => {
            "On this port only TLS that names the same host openly is passed on."
        }
        _ => "The rules of this phase do not allow it.",
    }
}

#[cfg(test)]
mod tests {
    use forge_core::connection::ConnectionMode;

    use super::*;
    use crate::audit::shown;

    fn text(host: &[u8], port: u16) -> String {
        let asked = Asked {
            mode: ConnectionMode::Connect,
            host: shown(host),
            port,
        };
        let reason = DenialReason::NotOnAllowlist;
        let answer = answer(Cause::Rules, reason, &asked, NetworkLevel::PackageOnly);
        String::from_utf8(answer).unwrap()
    }

    #[test]
    fn the_reason_stands_in_the_phrase_and_in_a_header() {
        let answer = text(b"example.org", 443);
        let first = "HTTP/1.1 403 Blocked by swe-forge egress policy: example.org:443 \
                     not_on_allowlist (level package_only)\r\n\
                     X-Swe-Forge-Egress: denied; reason=not_on_allowlist\r\n";
        assert!(answer.starts_with(first), "{answer}");
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("\r\nContent-Length: {}\r\n", body.len())));
    }

    #[test]
    fn a_host_with_line_ends_adds_no_header() {
        let answer = text(b"a\r\nX-Other: 1", 80);
        assert!(!answer.contains("\r\nX-Other"));
        assert!(text(b"", 0).contains("policy: not_on_allowlist ("));
    }

    #[test]
    fn every_reason_has_a_status_and_a_hint() {
        for reason in DenialReason::ALL {
            for cause in [Cause::Rules, Cause::Crowded, Cause::Busy, Cause::Slow] {
                assert!((400..600).contains(&status(cause, reason)));
                for level in NetworkLevel::ALL {
                    assert!(!hint(cause, reason, level).is_empty());
                }
            }
        }
    }
}
