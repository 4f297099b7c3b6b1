//! Every key and what it sets.

use std::fs;
use std::path::Path;
use std::time::Duration;

use forge_config::{
    CapacitySettings, CleanupSettings, Configuration, DiskSettings, Group, QuotaChoice,
    RegistrySettings, RetrySettings, parse,
};
use forge_core::limits::MEBIBYTE;
use forge_core::{CleanupBounds, CleanupPolicy, DiskQuota, LimitCeiling, NetworkLevel};

fn read(text: &str) -> Configuration {
    parse(Path::new("config.toml"), text).unwrap()
}

#[test]
fn nothing_written_is_everything_by_default() {
    for text in [
        "",
        "# all commented out\n",
        "[limits]\n[network]\n[secrets]\n",
    ] {
        let read = read(text);
        let mut defaults = Configuration::default();
        defaults.file.clone_from(&read.file);
        assert_eq!(read, defaults);
    }
    let defaults = Configuration::default();
    assert_eq!(defaults.limits, LimitCeiling::default());
    assert_eq!(defaults.network.max_level, NetworkLevel::FullWeb);
    assert!(defaults.images.allows("anything"));
}

#[test]
fn limits_are_those_of_every_task() {
    let limits = read(
        "[limits]\nmemory_mb = 2048\ncpu_cores = 1.5\ndisk_gb = 0.5\nprocesses = 100\n\
         timeout_seconds = 60\noutput_mb = 16\n",
    )
    .limits;
    let expected = LimitCeiling {
        memory_bytes: 2048 * MEBIBYTE,
        cpu_millis: 1500,
        disk_bytes: 512 * MEBIBYTE,
        processes: 100,
        timeout: Duration::from_secs(60),
        output_bytes: 16 * MEBIBYTE,
    };
    assert_eq!(limits, expected);
}

#[test]
fn the_network_has_a_ceiling_exceptions_and_bounds() {
    let network = read(
        r#"
[network]
max_level = "limited_web"
exceptions = ["10.1.0.0/16", "203.0.113.80"]
denied = ["198.51.100.0/24"]
resolvers = ["10.1.0.53", "192.0.2.53"]
upload_mb = 10
connections = 8

[[network.exception]]
hosts = ["git.corp.test:8443", "*.corp.test"]
ranges = ["10.2.0.0/16"]

[[network.exception]]
hosts = ["mirror"]
ranges = ["fd00::/8"]
"#,
    )
    .network;
    assert_eq!(network.max_level, NetworkLevel::LimitedWeb);
    let ranges: Vec<String> = network
        .registry_exceptions
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(ranges, ["10.1.0.0/16", "203.0.113.80/32"]);
    assert_eq!(network.denied[0].to_string(), "198.51.100.0/24");
    let resolvers: Vec<String> = network.resolvers.iter().map(ToString::to_string).collect();
    assert_eq!(resolvers, ["10.1.0.53", "192.0.2.53"]);
    assert_eq!(network.exceptions.len(), 2);
    assert_eq!(network.exceptions[0].hosts[1].to_string(), "*.corp.test");
    let bounds = network.bounds.over(NetworkLevel::PackageOnly);
    assert_eq!(
        (bounds.upload_bytes, bounds.connections),
        (10 * MEBIBYTE, 8)
    );
    assert_eq!(bounds.download_bytes, 5 * 1024 * MEBIBYTE);
    let isolated = network.bounds.over(NetworkLevel::Isolated);
    assert_eq!(isolated.upload_bytes, 0, "no override opens what is shut");
}

#[test]
fn registries_are_set_by_group() {
    use Group::{Apt, Cargo, Go, Maven, Pypi};
    let registries = read(
        r#"
[registries]
refresh_days = 30
[registries.pypi]
index = "https://Mirror.corp.test/simple"
[registries.npm]
enabled = false
[registries.go]
[registries.maven]
hosts = ["maven.corp.test", "maven.corp.test:8081"]
"#,
    )
    .registries;
    assert_eq!(registries.refresh_days, 30);
    assert_eq!(
        registries.group(Pypi).index.as_deref(),
        Some("https://mirror.corp.test/simple")
    );
    let enabled: Vec<Group> = Group::ALL
        .into_iter()
        .filter(|&group| registries.is_enabled(group))
        .collect();
    assert_eq!(enabled, [Pypi, Cargo, Apt, Go, Maven]);
    let hosts = registries.group(Maven).hosts;
    assert_eq!(hosts[0].to_string(), "maven.corp.test:443,8081");
    assert!(!RegistrySettings::default().is_enabled(Go));
}

#[test]
fn disks_images_and_hardening_are_read() {
    let read = read(
        r#"
[disk]
quota = "loop"
pool = "/srv/pool"
preallocate = true
[images]
allow = ["swe-forge/*"]
require_digest = true
[hardening]
runtime = "runsc"
own_cores = false
"#,
    );
    let disk = DiskSettings {
        quota: QuotaChoice::Only(DiskQuota::Loop),
        pool: Some("/srv/pool".into()),
        preallocate: true,
    };
    assert_eq!(read.disk, disk);
    assert!(read.images.require_digest);
    assert!(!read.images.allows("elsewhere/x"));
    assert_eq!(read.hardening.runtime.as_deref(), Some("runsc"));
    assert!(!read.hardening.own_cores);
}

#[test]
fn capacity_and_retries_are_read() {
    let read = read(
        r#"
[capacity]
cpu_ratio = 2.5
memory_reserve_mb = 512
disk_reserve_gb = 0.5
[retry]
attempts = 5
longest_pause_seconds = 10
"#,
    );
    let capacity = CapacitySettings {
        cpu_permille: Some(2500),
        memory_reserve_bytes: Some(512 << 20),
        disk_reserve_bytes: Some(512 << 20),
        ..CapacitySettings::default()
    };
    assert_eq!(read.capacity, capacity);
    let retry = RetrySettings {
        attempts: 5,
        longest_pause: Duration::from_secs(10),
        ..RetrySettings::default()
    };
    assert_eq!(read.retry, retry);
}

#[test]
fn what_is_said_of_clean_up_is_a_default_a_bound_or_both() {
    let read = read(
        r#"
[cleanup]
on_failure = false
delay_seconds = 0
max_delay_seconds = 600
max_lifetime_seconds = 7200
force_cleanup_after_hours = 48
log_retention_days = 90
images_retention_days = 7
budget_gb = 0.5
"#,
    );
    let expected = CleanupSettings {
        defaults: CleanupPolicy {
            on_failure: false,
            delay: Some(Duration::ZERO),
            force_after: Duration::from_secs(48 * 3600),
            log_retention_days: 90,
            ..CleanupPolicy::default()
        },
        bounds: CleanupBounds {
            max_delay: Duration::from_secs(600),
            max_lifetime: Duration::from_secs(7200),
            force_after: Duration::from_secs(48 * 3600),
            log_retention_days: 90,
        },
        images_retention_days: 7,
        budget_bytes: Some(512 << 20),
    };
    assert_eq!(read.cleanup, expected);
}

#[test]
fn secrets_are_named_and_not_read() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("not-there-yet");
    let read = read(&format!(
        "[secrets]\nAPI_TOKEN = {{ env = \"MY_TOKEN\" }}\ndb.file = {:?}\n",
        file.to_str().unwrap()
    ));
    let names: Vec<&str> = read.secret_names().collect();
    assert_eq!(names, ["API_TOKEN", "db"]);
    fs::write(&file, "value\n").unwrap();
    assert_eq!(read.secret("db", |_| None).unwrap().expose(), "value");
}

#[test]
fn the_documented_example_is_right() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/operators.md");
    let document = fs::read_to_string(path).unwrap();
    let blocks: Vec<&str> = document
        .split("```toml\n")
        .skip(1)
        .filter_map(|rest| rest.split("```").next())
        .collect();
    assert!(!blocks.is_empty());
    let folder = tempfile::tempdir().unwrap();
    let bundle = folder.path().join("ca.pem");
    let pem = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n";
    fs::write(&bundle, pem).unwrap();
    for block in blocks {
        let there = block.replace("/etc/swe-forge/ca.pem", bundle.to_str().unwrap());
        read(&there);
    }
}
