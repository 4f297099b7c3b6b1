//! What is around the sandboxes: another network with a listener in it, addresses of this machine,
//! and somebody who takes it all away again whatever becomes of us.

use std::io::{BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use serde_json::{Value, json};

use super::canaries::{self, Canaries, Heard, Kind};
use super::tables;
use crate::shell::{self, Failure};

/// The name that resolves to the listener from within the proxy's own network.
pub(super) const REBINDING: &str = "rebind.attack.test";
const IMAGE: &str = "swe-forge/python-base:latest";
const TCP: u16 = 7411;
const UDP: u16 = 7412;
/// Where attempts ask for names.
const DNS: u16 = 53;
/// What the engine gives to networks unless it was told otherwise.
const DEFAULT_POOL: (Ipv4Addr, u8) = (Ipv4Addr::new(172, 16, 0, 0), 12);
/// Where the listener takes whatever it gets, for a host that an operator allowed.
pub(super) const SINK: (&str, u16) = ("sink.attack.test", 7413);
const OWNER: &str = "swe-forge.owner=attack-suite";

/// Everything that stands outside while sandboxes attack.
#[derive(Debug)]
pub(super) struct Outside {
    /// The name of container and network, and the beginning of the names of images.
    pub name: String,
    /// Listeners on this machine.
    pub canaries: Canaries,
    /// What the listener on the other network heard.
    pub neighbour: Heard,
    /// How much the host that is allowed took, a number of bytes for each connection.
    pub taken: Heard,
    /// Addresses and ports, as programs are told.
    pub parameters: Value,
    _container: Container,
    // Last: it ends what is left.
    _janitor: Janitor,
}

impl Outside {
    pub(super) fn start() -> Result<Self, Failure> {
        let name = format!("swe-forge-attack-{}", std::process::id());
        let janitor = Janitor::start(&name)?;
        let canaries = Canaries::start()?;
        docker(&["network", "create", "--label", OWNER, &name])?;
        let container = Container::start(&name)?;
        let networks = format!("{{{{(index .NetworkSettings.Networks \"{name}\").IPAddress}}}}");
        let address = docker(&["container", "inspect", "--format", &networks, &name])?;
        let bridge_gateway = gateway(&name)?;
        let docker0 = gateway("bridge").unwrap_or_else(|_| bridge_gateway.clone());
        let neighbour = container.heard.clone();
        for (kind, port) in [
            (Kind::Tcp, TCP),
            (Kind::Udp, UDP),
            (Kind::Tcp, DNS),
            (Kind::Udp, DNS),
        ] {
            canaries::prove(kind, &address, port, &neighbour)?;
        }
        let mut parameters = machine();
        let ours = [
            ("docker0_v4", json!(docker0)),
            ("bridge_gateway", json!(bridge_gateway)),
            ("bridge_v4", json!(address)),
            ("bridge_tcp", json!(TCP)),
            ("bridge_udp", json!(UDP)),
            ("tcp", json!(canaries.tcp)),
            ("udp", json!(canaries.udp)),
            ("abstract", json!(canaries.local)),
        ];
        for (key, value) in ours {
            parameters[key] = value;
        }
        Ok(Self {
            name,
            canaries,
            neighbour,
            taken: container.taken.clone(),
            parameters,
            _container: container,
            _janitor: janitor,
        })
    }

    /// Everything that was heard.
    pub(super) fn heard(&self) -> Vec<String> {
        let mut all = self.canaries.heard.all();
        all.extend(self.neighbour.all());
        all
    }

    /// Whether an address is one that a sandbox or this machine may have: of a network of the
    /// engine's, or of this machine.
    pub(super) fn may_be_ours(&self, address: IpAddr) -> bool {
        let IpAddr::V4(address) = address.to_canonical() else {
            return true;
        };
        let own = [&self.parameters["host_v4"], &self.parameters["docker0_v4"]];
        let is_own = own
            .iter()
            .any(|own| own.as_str() == Some(&address.to_string()));
        let mut networks = networks();
        networks.push(DEFAULT_POOL);
        is_own || address.is_loopback() || networks.iter().any(|&network| is_in(network, address))
    }

    /// Puts the listener beside a proxy, under the name that resolves there.
    pub(super) fn stand_beside(&self, network: &str) -> Result<(), Failure> {
        docker(&[
            "network", "connect", "--alias", REBINDING, network, &self.name,
        ])
        .map(drop)
    }

    /// Lets a proxy reach the listener's own network, where the allowed host is.
    pub(super) fn let_in(&self, proxy: &str) {
        if let Err(failure) = docker(&["network", "connect", &self.name, proxy]) {
            remark(&failure.to_string());
        }
    }

    /// Takes it away again, so that the network can be removed.
    pub(super) fn step_aside(&self, network: &str) {
        // It may be gone with its network.
        drop(docker(&[
            "network",
            "disconnect",
            "--force",
            network,
            &self.name,
        ]));
    }
}

/// The address of a network that its gateway has; the engine does not always say it.
fn gateway(network: &str) -> Result<String, Failure> {
    let format = "{{(index .IPAM.Config 0).Gateway}} {{(index .IPAM.Config 0).Subnet}}";
    let said = docker(&["network", "inspect", "--format", format, network])?;
    let (gateway, subnet) = said.rsplit_once(' ').unwrap_or(("", &said));
    if !gateway.is_empty() {
        return Ok(gateway.to_owned());
    }
    let (first, _) = parsed(subnet)
        .ok_or_else(|| Failure::new(format!("the engine's network {network} has no gateway")))?;
    Ok(Ipv4Addr::from(u32::from(first) + 1).to_string())
}

/// The networks of version 4 that the engine has at this moment.
fn networks() -> Vec<(Ipv4Addr, u8)> {
    let format = "{{range .IPAM.Config}}{{.Subnet}} {{end}}";
    let mut words = vec!["network", "inspect", "--format", format];
    let listed = docker(&["network", "ls", "--quiet"]).unwrap_or_default();
    words.extend(listed.lines());
    let said = docker(&words).unwrap_or_default();
    said.split_whitespace().filter_map(parsed).collect()
}

fn parsed(network: &str) -> Option<(Ipv4Addr, u8)> {
    let (address, length) = network.split_once('/')?;
    Some((address.parse().ok()?, length.parse().ok()?))
}

fn is_in((network, length): (Ipv4Addr, u8), address: Ipv4Addr) -> bool {
    let mask = u32::MAX
        .checked_shl(32 - u32::from(length.min(32)))
        .unwrap_or(0);
    u32::from(network) & mask == u32::from(address) & mask
}

/// Runs the engine's own client and gives what it says.
pub(super) fn docker(words: &[&str]) -> Result<String, Failure> {
    let output = Command::new("docker")
        .args(words)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| {
            Failure::new(format!(
                "the attack suite needs the program docker: {error}"
            ))
        })?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
    }
    let words = words.join(" ");
    let problem = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(Failure::new(format!("docker {words}: {problem}")))
}

/// The listener on another network.
#[derive(Debug)]
struct Container {
    child: Child,
    heard: Heard,
    taken: Heard,
}

impl Container {
    fn start(name: &str) -> Result<Self, Failure> {
        let path = tables::folder().join("canary.py");
        let program = std::fs::read_to_string(&path)
            .map_err(|error| Failure::new(format!("{}: {error}", path.display())))?;
        let mut child = Command::new("docker")
            .args([
                "run",
                "--rm",
                "--interactive",
                "--name",
                name,
                "--network",
                name,
                "--network-alias",
                SINK.0,
            ])
            .args([
                "--label",
                OWNER,
                "--entrypoint",
                "python3",
                IMAGE,
                "-c",
                &program,
            ])
            .args([TCP, UDP, SINK.1].map(|port| port.to_string()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| Failure::new(format!("docker could not be started: {error}")))?;
        let (heard, taken) = (Heard::default(), Heard::default());
        let (ready, is_ready) = mpsc::channel();
        if let Some(stdout) = child.stdout.take() {
            let (heard, taken) = (heard.clone(), taken.clone());
            std::thread::spawn(move || {
                for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                    match line.split_once(' ') {
                        Some(("heard", words)) => {
                            heard.note(format!("on the other network, {words}"));
                        }
                        Some(("sink", count)) => taken.note(count.to_owned()),
                        // Nobody waits any more when it took too long.
                        _ => drop(ready.send(())),
                    }
                }
            });
        }
        let container = Self {
            child,
            heard,
            taken,
        };
        is_ready
            .recv_timeout(Duration::from_secs(300))
            .map_err(|_| Failure::new("the listener on another network does not start"))?;
        Ok(container)
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        // It ends with its input.
        drop(self.child.stdin.take());
        drop(self.child.wait());
    }
}

/// Removes everything when we are gone, also when we were killed: its input ends then.
#[derive(Debug)]
struct Janitor {
    child: Child,
    input: Option<ChildStdin>,
}

impl Janitor {
    fn start(name: &str) -> Result<Self, Failure> {
        // What was made of an image keeps it, and has its label without the value.
        let script = "trap '' INT TERM HUP; cat >/dev/null; exec >/dev/null 2>&1; docker rm -f \"$0\"; \
                      docker network rm \"$0\"; \
                      for image in $(docker images -q --no-trunc --filter label=swe-forge.attack=\"$0\"); do \
                      for other in $(docker images -aq --no-trunc --filter since=\"$image\"); do \
                      test \"$(docker inspect -f '{{.Parent}}' \"$other\")\" != \"$image\" || docker rmi -f \"$other\"; done; \
                      docker rmi -f \"$image\"; done";
        let mut child = Command::new("sh")
            .args(["-c", script, name])
            .stdin(Stdio::piped())
            // Not in our group: Ctrl-C is not for it.
            .process_group(0)
            .spawn()
            .map_err(|error| Failure::new(format!("sh could not be started: {error}")))?;
        let input = child.stdin.take();
        Ok(Self { child, input })
    }
}

impl Drop for Janitor {
    fn drop(&mut self) {
        drop(self.input.take());
        drop(self.child.wait());
    }
}

/// Addresses of this machine in all their forms.
fn machine() -> Value {
    // Nothing is sent by this; it asks which address would be used.
    let address = UdpSocket::bind("0.0.0.0:0")
        .and_then(|socket| {
            socket.connect("192.0.2.1:9")?;
            socket.local_addr()
        })
        .ok()
        .and_then(|address| match address.ip() {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(_) => None,
        })
        .unwrap_or(Ipv4Addr::new(172, 17, 0, 1));
    let [a, b, c, d] = address.octets();
    let (global, link_local) = version_6();
    json!({
        "host_v4": address.to_string(),
        "host_decimal": u32::from(address).to_string(),
        "host_hex": format!("0x{:08x}", u32::from(address)),
        "host_octal": format!("0{a:o}.0{b:o}.0{c:o}.0{d:o}"),
        "host_6to4": format!("2002:{a:02x}{b:02x}:{c:02x}{d:02x}"),
        "host_bytes": format!("\\x{a:02x}\\x{b:02x}\\x{c:02x}\\x{d:02x}"),
        "host_v6": global.to_string(),
        "host_link_local": link_local.to_string(),
    })
}

/// An address of version 6 of this machine, and one of its links; invented ones where it has none.
fn version_6() -> (Ipv6Addr, Ipv6Addr) {
    let table = std::fs::read_to_string("/proc/net/if_inet6").unwrap_or_default();
    let addresses: Vec<Ipv6Addr> = table
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .filter_map(|digits| u128::from_str_radix(digits, 16).ok())
        .map(Ipv6Addr::from)
        .filter(|address| !address.is_loopback())
        .collect();
    let is_local = |address: &&Ipv6Addr| address.is_unicast_link_local();
    let local = addresses.iter().find(is_local);
    let global = addresses.iter().find(|address| !is_local(address));
    (
        global
            .copied()
            .unwrap_or(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2)),
        local
            .copied()
            .unwrap_or(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2)),
    )
}

/// The hosts of registries, as they are found out at this moment: one for TLS, one for plain HTTP.
/// None where there is no way to any.
pub(super) fn registries(text: &str) -> (Option<String>, Option<String>) {
    let document: Value = serde_json::from_str(text).unwrap_or_default();
    let groups = document["registries"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let host = |group: &str, port: u64| {
        let hosts = groups.iter().filter(|each| each["group"] == group);
        let hosts = hosts.filter_map(|each| each["hosts"].as_array()).flatten();
        let mut fitting = hosts.filter(|host| {
            let ports = host["ports"].as_array();
            host["subdomains"] != true && ports.is_some_and(|ports| ports.contains(&json!(port)))
        });
        fitting
            .next()
            .and_then(|host| host["name"].as_str())
            .map(str::to_owned)
    };
    (host("pypi", 443), host("apt", 80))
}

/// Says what is not as usual.
pub(super) fn remark(text: &str) {
    shell::step(&format!("… {text}"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_in_its_network_only() {
        let network = parsed("172.18.0.0/16").unwrap();
        assert!(is_in(network, Ipv4Addr::new(172, 18, 255, 1)));
        assert!(!is_in(network, Ipv4Addr::new(172, 19, 0, 1)));
        assert!(is_in(parsed("0.0.0.0/0").unwrap(), Ipv4Addr::BROADCAST));
        assert_eq!(parsed("fd00::/8"), None);
    }
}
