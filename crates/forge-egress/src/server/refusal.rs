//! What a client is told when it is refused.

use forge_core::NetworkLevel;
use forge_core::egress::DenialReason;

use crate::server::leg::Asked;

/// The status of an answer.
///
/// What the rules forbid is 403, what failed outside 502, what is too much 429; [`BUSY`] and
/// [`TOO_SLOW`] are for bounds of their own.
pub(crate) const fn status(reason: DenialReason) -> u16 {
    match reason {
        DenialReason::BadRequest => 400,
        DenialReason::DnsFailure | DenialReason::ConnectFailed => 502,
        DenialReason::Limit => 429,
        _ => 403,
    }
}

/// The status when there are too many connections.
pub(crate) const BUSY: u16 = 503;
/// The status when a request does not come to its end.
pub(crate) const TOO_SLOW: u16 = 408;

/// A whole answer of HTTP. `asked` is escaped already; a port of 0 stands for one that could not be
/// read.
pub(crate) fn answer(
    status: u16,
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
    let body = format!("{phrase}\n{}\n", hint(reason, level));
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
const fn hint(reason: DenialReason, level: NetworkLevel) -> &'static str {
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
        (DenialReason::Limit, _) => {
            "The bounds of this phase on connections, bytes or time are used up."
        }
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
        let answer = answer(status(reason), reason, &asked, NetworkLevel::PackageOnly);
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
            assert!((400..600).contains(&status(reason)));
            for level in NetworkLevel::ALL {
                assert!(!hint(reason, level).is_empty());
            }
        }
    }
}
