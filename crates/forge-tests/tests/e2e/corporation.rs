//! A company's network: mirrors and a git host behind certificates of the company's own, at an
//! address that is not public.

use std::io::{BufRead, BufReader};
use std::net::Ipv4Addr;
use std::process::{Child, Command, Stdio};

use forge_api::report::TaskReport;
use forge_core::egress::DenialReason;
use forge_core::life_cycle::StateName;
use forge_core::{PhaseName, Reason};

use crate::support::{Home, Script, image};

/// The container that is that network; it is gone when this is dropped.
struct Corporation {
    name: String,
    process: Child,
    address: Ipv4Addr,
    authorities: String,
}

fn run(program: &str, line: &str) -> String {
    let output = Command::new(program).args(line.split(' ')).output();
    let output = output.unwrap_or_else(|error| panic!("{program} is needed: {error}"));
    assert!(output.status.success(), "{program} {line}: {output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

impl Corporation {
    /// `number` tells those of one process from each other.
    fn start(number: u32) -> Self {
        let tag = std::process::id().wrapping_mul(4).wrapping_add(number) % (1 << 14);
        let first = u32::from(Ipv4Addr::new(10, 213, 0, 0)) + tag * 4;
        let [near, address] = [first + 1, first + 2].map(Ipv4Addr::from);
        let name = format!("swe-forge-e2e-corporation-{tag}");
        let mut process = Command::new("docker")
            .args(["run", "--rm", "--network", "none", "--name", &name])
            .args(["--label", "swe-forge.test=e2e", "--entrypoint", "python3"])
            .arg(image())
            .args(["-c", include_str!("corporation.py"), &address.to_string()])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("docker is needed: {error}"));
        let stdout = BufReader::new(process.stdout.take().unwrap());
        let lines = stdout.lines().map(Result::unwrap);
        let authorities = lines
            .take_while(|line| line != "ready")
            .map(|line| line + "\n")
            .collect();
        let corporation = Self {
            name,
            process,
            address,
            authorities,
        };
        let format = "inspect --format {{.State.Pid}}";
        let pid = run("docker", &format!("{format} {}", corporation.name));
        let (ours, theirs) = (format!("sfc{tag}"), format!("sfd{tag}"));
        run(
            "ip",
            &format!("link add {ours} type veth peer name {theirs}"),
        );
        run("ip", &format!("link set {theirs} netns {pid}"));
        run("ip", &format!("addr add {near}/30 dev {ours}"));
        run("ip", &format!("link set {ours} up"));
        let inside = format!("-t {pid} -n ip");
        run(
            "nsenter",
            &format!("{inside} addr add {address}/30 dev {theirs}"),
        );
        run("nsenter", &format!("{inside} link set {theirs} up"));
        run("nsenter", &format!("{inside} route add default via {near}"));
        corporation
    }

    /// What its operator sets.
    fn configure(&self, home: &Home) {
        let bundle = home.path("authorities.pem");
        std::fs::write(&bundle, &self.authorities).unwrap();
        let (address, bundle) = (self.address, bundle.display());
        home.configure(&format!(
            r#"
[network]
resolvers = ["{address}"]
ca_bundle = "{bundle}"
exceptions = ["{address}/32"]
[[network.exception]]
hosts = ["git.corp.example"]
ranges = ["{address}/32"]
[registries.pypi]
index = "https://python.corp.example/simple"
hosts = ["python.corp.example"]
[registries.npm]
index = "https://node.corp.example/"
hosts = ["node.corp.example"]
[registries.cargo]
index = "https://rust.corp.example/index/"
hosts = ["rust.corp.example"]
[registries.apt]
enabled = false
"#
        ));
    }
}

impl Drop for Corporation {
    fn drop(&mut self) {
        // Its end of the way goes with its network name space, and ours with that.
        let removed = Command::new("docker")
            .args(["rm", "-f", &self.name])
            .output();
        let ended = self.process.wait();
        assert!(removed.is_ok() && ended.is_ok(), "{removed:?} {ended:?}");
    }
}

fn setup_in(corporation: &Corporation, setup: &str, config: &str) -> (TaskReport, String) {
    let home = Home::new();
    corporation.configure(&home);
    let script = Script {
        setup: Some(setup),
        config,
        ..Script::default()
    };
    let (_, task) = home.run(&home.task("employee", script));
    let log = String::from_utf8(home.log(&task, "setup")).unwrap();
    (task, log)
}

#[test]
fn every_client_works_behind_mirrors_with_certificates_of_the_company_s_own() {
    let corporation = Corporation::start(0);
    let setup = "set -e; git clone -q https://git.corp.example/tiny.git src/tiny; cat src/tiny/answer; \
                 pip install -q tiny; python3 -c 'import tiny; print(tiny.ANSWER)'; \
                 mkdir /opt/app; cd /opt/app; npm install --silent tiny; node -p 'require(\"tiny\")'; \
                 cargo init -q --name app; cargo add -q tiny; \
                 echo 'fn main() { println!(\"{}\", tiny::ANSWER); }' > src/main.rs; cargo run -q; \
                 curl -s https://git.corp.example/tiny.git/HEAD";
    let config = "network: {setup: limited_web, allow: [git.corp.example]}\n\
                  resources: {memory_mb: 1024, processes: 400, cpu_cores: 2, timeout_seconds: 3600}\n";
    let (task, log) = setup_in(&corporation, setup, config);
    assert_eq!(task.state, StateName::Completed, "{}\n{log}", task.message);
    let answers = log.lines().filter(|line| *line == "42").count();
    assert_eq!(answers, 4, "{log}");
    assert!(log.contains("ref: refs/heads/"), "{log}");
    assert_eq!(task.network.denied_count, 0, "{:#?}", task.network.denied);
}

#[test]
fn what_a_level_does_not_reach_is_refused_to_every_client_in_words() {
    let corporation = Corporation::start(1);
    // The mirrors are reached, the git host and another index are not.
    let setup = "git clone -q https://git.corp.example/tiny.git src/tiny; \
                 pip install tiny --index-url https://other.corp.example/simple; \
                 npm install tiny --registry https://elsewhere.corp.example/; \
                 cargo init -q --name app /opt/app; cd /opt/app; \
                 cargo add -q --git https://forge.corp.example/tiny.git tiny; \
                 curl -sS https://files.corp.example/; apt-get -o Acquire::Retries=0 update; \
                 pip install -q tiny && false";
    let config =
        "resources: {memory_mb: 1024, processes: 400, cpu_cores: 2, timeout_seconds: 3600}\n";
    let (task, log) = setup_in(&corporation, setup, config);
    assert_eq!(task.reason, Some(Reason::SetupFailed), "{log}");
    for host in ["git", "other", "elsewhere", "forge", "files"] {
        let host = format!("{host}.corp.example");
        let mut denied = task.network.denied.iter();
        let is_told = denied.any(|each| {
            (each.host.as_str(), each.reason, each.phase)
                == (&host, DenialReason::NotOnAllowlist, PhaseName::Setup)
        });
        assert!(is_told, "{host}: {:#?}", task.network.denied);
    }
    // Each client in its own words, with the reason where it repeats what a proxy says.
    let policy = "Blocked by swe-forge egress policy: ";
    for words in [
        "'https://git.corp.example/tiny.git/': CONNECT tunnel failed, response 403",
        &format!("{policy}other.corp.example:443 not_on_allowlist (level package_only)"),
        &format!("npm ERR! 403 403 {policy}elsewhere.corp.example:443 not_on_allowlist"),
        "Unable to update https://forge.corp.example/tiny.git",
        "curl: (56) CONNECT tunnel failed, response 403",
        &format!("403  {policy}"),
    ] {
        assert!(log.contains(words), "{words}: {log}");
    }
    let hint = "to allow a host, list it in network.allow";
    assert!(log.contains(hint), "{log}");
}
