//! The sections of the file.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use forge_core::egress::{AddressException, AllowedHost};
use forge_core::limits::MEBIBYTE;
use forge_core::{DiskQuota, LimitCeiling, NetworkLevel};
use forge_document::{Decoder, Located, Most, Node, Problem, Value, optional};
use url::{Host, Url};

use crate::certificates::check_certificates;
use crate::cleanup;
use crate::hosts;
use crate::images::{self, ImageSettings};
use crate::secrets::SecretSource;
use crate::settings::{
    CapacitySettings, Configuration, DiskSettings, EgressOverrides, Group, GroupSettings,
    HardeningSettings, NetworkSettings, QuotaChoice, RegistrySettings, RetrySettings,
};

const SECTIONS: &[&str] = &[
    "limits",
    "network",
    "registries",
    "disk",
    "images",
    "hardening",
    "capacity",
    "retry",
    "cleanup",
    "secrets",
];
const LIMITS: &[&str] = &[
    "memory_mb",
    "cpu_cores",
    "disk_gb",
    "processes",
    "timeout_seconds",
    "output_mb",
];
const NETWORK: &[&str] = &[
    "max_level",
    "exceptions",
    "exception",
    "denied",
    "resolvers",
    "ca_bundle",
    "upload_mb",
    "download_mb",
    "connections",
];
/// No engine asks more of them.
const MOST_RESOLVERS: usize = 3;
const GROUP: &[&str] = &["enabled", "index", "hosts"];
const CAPACITY: &[&str] = &[
    "cpu_ratio",
    "memory_ratio",
    "disk_ratio",
    "memory_reserve_mb",
    "disk_reserve_gb",
];
/// What is promised more often than this is not bounded any more.
const MOST_RATIO: u64 = 1000;
/// Tries beyond this only hide that something is broken.
const MOST_ATTEMPTS: u64 = 10;
/// An hour.
const MOST_PAUSE: u64 = 3600;
/// A mebibyte count above this would not be a number of bytes any more.
const MOST_MEBIBYTES: u64 = 1 << 30;
/// A day is the most a container lives, whatever is configured.
const MOST_SECONDS: u64 = 86_400;

/// The document; `None` when a mistake was noted.
pub(crate) fn configuration(decoder: &mut Decoder, root: &Node) -> Option<Configuration> {
    let fields = decoder.object(&Located::root(root), SECTIONS)?;
    let limits = optional(&fields, "limits", |field| limits(decoder, field));
    let network = optional(&fields, "network", |field| network(decoder, field));
    let registries = optional(&fields, "registries", |field| registries(decoder, field));
    let disk = optional(&fields, "disk", |field| disk(decoder, field));
    let images = optional(&fields, "images", |field| image_rules(decoder, field));
    let hardening = optional(&fields, "hardening", |field| hardening(decoder, field));
    let capacity = optional(&fields, "capacity", |field| capacity(decoder, field));
    let retry = optional(&fields, "retry", |field| retry(decoder, field));
    let cleanup = optional(&fields, "cleanup", |field| cleanup::cleanup(decoder, field));
    let secrets = optional(&fields, "secrets", |field| secrets(decoder, field));
    Some(Configuration {
        file: None,
        limits: limits?.unwrap_or_default(),
        network: network?.unwrap_or_default(),
        registries: registries?.unwrap_or_default(),
        disk: disk?.unwrap_or_default(),
        images: images?.unwrap_or_default(),
        hardening: hardening?.unwrap_or_default(),
        capacity: capacity?.unwrap_or_default(),
        retry: retry?.unwrap_or_default(),
        cleanup: cleanup?.unwrap_or_default(),
        secrets: secrets?.unwrap_or_default(),
    })
}

fn limits(decoder: &mut Decoder, field: &Located<'_>) -> Option<LimitCeiling> {
    let fields = decoder.object(field, LIMITS)?;
    let mut whole = |name, least, most| {
        optional(&fields, name, |field| {
            decoder.whole(field, least, Most::fixed(most))
        })
    };
    // The least are those that a task itself may ask for.
    let memory = whole("memory_mb", 6, MOST_MEBIBYTES);
    let processes = whole("processes", 1, 4_000_000);
    let timeout = whole("timeout_seconds", 1, MOST_SECONDS);
    let output = whole("output_mb", 1, MOST_MEBIBYTES);
    let cores = optional(&fields, "cpu_cores", |field| {
        decoder.number(field, 0.01, Most::fixed(10_000))
    });
    let disk = optional(&fields, "disk_gb", |field| {
        decoder.number(field, 0.001, Most::fixed(1_000_000))
    });
    let defaults = LimitCeiling::default();
    Some(LimitCeiling {
        memory_bytes: memory?.map_or(defaults.memory_bytes, |value| value * MEBIBYTE),
        cpu_millis: cores?.map_or(defaults.cpu_millis, |value| scaled(value, 1000.0)),
        disk_bytes: disk?.map_or(defaults.disk_bytes, |value| {
            scaled(value, 1024.0 * 1024.0 * 1024.0)
        }),
        processes: processes?.unwrap_or(defaults.processes),
        timeout: timeout?.map_or(defaults.timeout, Duration::from_secs),
        output_bytes: output?.map_or(defaults.output_bytes, |value| value * MEBIBYTE),
    })
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the decoder has bounded the value from below and above"
)]
fn scaled(value: f64, scale: f64) -> u64 {
    (value * scale).round() as u64
}

fn network(decoder: &mut Decoder, field: &Located<'_>) -> Option<NetworkSettings> {
    let fields = decoder.object(field, NETWORK)?;
    let max_level = optional(&fields, "max_level", |field| {
        let choices = NetworkLevel::ALL.map(|level| (level.as_str(), level));
        decoder.choice(field, choices)
    });
    let registry_exceptions = optional(&fields, "exceptions", |field| {
        decoder.values(field, hosts::opened_range)
    });
    let exceptions = optional(&fields, "exception", |field| decoder.each(field, exception));
    let denied = optional(&fields, "denied", |field| {
        decoder.values(field, hosts::range)
    });
    let resolvers = optional(&fields, "resolvers", |field| resolvers(decoder, field));
    let ca_bundle = optional(&fields, "ca_bundle", |field| {
        decoder.value(field, certificate_file)
    });
    let mut mebibytes = |name| {
        let read = optional(&fields, name, |field| {
            decoder.whole(field, 1, Most::fixed(MOST_MEBIBYTES))
        });
        read.map(|value| value.map(|value| value * MEBIBYTE))
    };
    let upload_bytes = mebibytes("upload_mb");
    let download_bytes = mebibytes("download_mb");
    let connections = optional(&fields, "connections", |field| {
        let value = decoder.whole(field, 1, Most::fixed(65_535))?;
        u32::try_from(value).ok()
    });
    let defaults = NetworkSettings::default();
    Some(NetworkSettings {
        max_level: max_level?.unwrap_or(defaults.max_level),
        registry_exceptions: registry_exceptions?.unwrap_or_default(),
        exceptions: exceptions?.unwrap_or_default(),
        denied: denied?.unwrap_or_default(),
        resolvers: resolvers?.unwrap_or_default(),
        ca_bundle: ca_bundle?,
        bounds: EgressOverrides {
            connections: connections?,
            upload_bytes: upload_bytes?,
            download_bytes: download_bytes?,
        },
    })
}

fn resolvers(decoder: &mut Decoder, field: &Located<'_>) -> Option<Vec<IpAddr>> {
    let values = filled(decoder, field, hosts::resolver)?;
    if values.len() > MOST_RESOLVERS {
        let problem = Problem::new(format!("found {} name servers", values.len()))
            .expecting(format!("at most {MOST_RESOLVERS}"));
        decoder.refuse(field, problem);
        return None;
    }
    Some(values)
}

fn exception(decoder: &mut Decoder, field: &Located<'_>) -> Option<AddressException> {
    let fields = decoder.object(field, &["hosts", "ranges"])?;
    let hosts = decoder
        .required(&fields, "hosts", "add hosts = [\"mirror.example.org\"]")
        .and_then(|field| filled(decoder, &field, hosts::host));
    let ranges = decoder
        .required(&fields, "ranges", "add ranges = [\"10.1.0.0/16\"]")
        .and_then(|field| filled(decoder, &field, hosts::opened_range));
    Some(AddressException {
        hosts: AllowedHost::merged(hosts?),
        ranges: ranges?,
    })
}

/// A list of texts with at least one in it.
fn filled<T>(
    decoder: &mut Decoder,
    field: &Located<'_>,
    rule: impl Fn(&str) -> Result<T, Problem>,
) -> Option<Vec<T>> {
    let values = decoder.values(field, rule)?;
    if values.is_empty() {
        let problem = Problem::new("found an empty list").expecting("at least one entry");
        decoder.refuse(field, problem);
        return None;
    }
    Some(values)
}

fn absolute(text: &str) -> Result<PathBuf, Problem> {
    let path = PathBuf::from(text);
    // Relative to what, depends on who starts swe-forge.
    match path.is_absolute() && !text.contains('\0') {
        true => Ok(path),
        false => Err(Problem::found(text).expecting("an absolute path")),
    }
}

fn certificate_file(text: &str) -> Result<PathBuf, Problem> {
    let path = absolute(text)?;
    match check_certificates(&path) {
        Ok(_) => Ok(path),
        Err(error) => {
            let cause = std::error::Error::source(&error)
                .map(|source| format!(": {source}"))
                .unwrap_or_default();
            Err(Problem::new(format!("{text}: {error}{cause}"))
                .expecting("a PEM file of certificate authorities"))
        }
    }
}

fn registries(decoder: &mut Decoder, field: &Located<'_>) -> Option<RegistrySettings> {
    let mut known = vec!["refresh_days"];
    known.extend(Group::ALL.map(Group::as_str));
    let fields = decoder.object(field, &known)?;
    let refresh_days = optional(&fields, "refresh_days", |field| {
        let value = decoder.whole(field, 1, Most::fixed(3650))?;
        u32::try_from(value).ok()
    });
    let mut groups = BTreeMap::new();
    let mut wrong = false;
    for name in Group::ALL {
        match optional(&fields, name.as_str(), |field| group(decoder, field, name)) {
            None => wrong = true,
            Some(None) => {}
            Some(Some(settings)) => {
                groups.insert(name, settings);
            }
        }
    }
    let refresh_days = refresh_days?;
    (!wrong).then(|| RegistrySettings {
        refresh_days: refresh_days.unwrap_or(RegistrySettings::default().refresh_days),
        groups,
    })
}

fn group(decoder: &mut Decoder, field: &Located<'_>, name: Group) -> Option<GroupSettings> {
    let fields = decoder.object(field, GROUP)?;
    let enabled = optional(&fields, "enabled", |field| decoder.boolean(field));
    let index = optional(&fields, "index", |field| {
        // The sources of apt are part of the image, which nothing here changes.
        if name == Group::Apt {
            let problem = Problem::new("the sources of apt are part of each image")
                .hint("list the hosts of the image's mirror in registries.apt.hosts");
            decoder.refuse(field, problem);
            return None;
        }
        decoder.value(field, index_location)
    });
    let hosts = optional(&fields, "hosts", |field| {
        filled(decoder, field, hosts::host)
    });
    Some(GroupSettings {
        enabled: enabled?.unwrap_or(true),
        index: index?,
        hosts: AllowedHost::merged(hosts?.unwrap_or_default()),
    })
}

/// The address of an index, in its canonical form.
fn index_location(text: &str) -> Result<String, Problem> {
    let refuse = |hint: &str| {
        // Before an '@' stands a password, which no error repeats.
        let found = match text.contains('@') {
            true => Problem::new("found credentials"),
            false => Problem::found(text),
        };
        Err(found
            .expecting("an address such as \"https://mirror.example.org/simple/\"")
            .hint(hint))
    };
    let Ok(url) = Url::parse(text) else {
        return refuse("it begins with https://");
    };
    if text.contains('@') {
        return refuse("leave out the credentials: every sandbox could read them");
    }
    if !matches!(url.scheme(), "http" | "https") {
        return refuse("it begins with https:// or http://");
    }
    if url.query().is_some() || url.fragment().is_some() {
        return refuse("leave out everything from '?' or '#' on");
    }
    match url.host() {
        Some(Host::Domain(_)) => Ok(url.into()),
        _ => refuse("give the host a name: addresses are not reached at package_only"),
    }
}

fn disk(decoder: &mut Decoder, field: &Located<'_>) -> Option<DiskSettings> {
    let fields = decoder.object(field, &["quota", "pool", "preallocate"])?;
    let quota = optional(&fields, "quota", |field| {
        let only = QuotaChoice::Only;
        let choices = [
            ("auto", QuotaChoice::Auto),
            (DiskQuota::Driver.as_str(), only(DiskQuota::Driver)),
            (DiskQuota::Loop.as_str(), only(DiskQuota::Loop)),
            (DiskQuota::Watchdog.as_str(), only(DiskQuota::Watchdog)),
        ];
        decoder.choice(field, choices)
    });
    let pool = optional(&fields, "pool", |field| decoder.value(field, absolute));
    let preallocate = optional(&fields, "preallocate", |field| decoder.boolean(field));
    let defaults = DiskSettings::default();
    Some(DiskSettings {
        quota: quota?.unwrap_or(defaults.quota),
        pool: pool?,
        preallocate: preallocate?.unwrap_or(defaults.preallocate),
    })
}

fn image_rules(decoder: &mut Decoder, field: &Located<'_>) -> Option<ImageSettings> {
    let fields = decoder.object(field, &["allow", "require_digest"])?;
    let allow = optional(&fields, "allow", |field| {
        // An empty list would allow either everything or nothing; nobody means it.
        filled(decoder, field, |text| {
            images::check_pattern(text)
                .map(|()| text.to_owned())
                .map_err(|error| {
                    Problem::found(text)
                        .expecting("a pattern such as \"swe-forge/*\"")
                        .hint(error.to_string())
                })
        })
    });
    let require_digest = optional(&fields, "require_digest", |field| decoder.boolean(field));
    Some(ImageSettings {
        allow: allow?.unwrap_or_default(),
        require_digest: require_digest?.unwrap_or_default(),
    })
}

fn hardening(decoder: &mut Decoder, field: &Located<'_>) -> Option<HardeningSettings> {
    let fields = decoder.object(field, &["runtime", "own_cores"])?;
    let runtime = optional(&fields, "runtime", |field| {
        decoder.value(field, |text| {
            let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-/".contains(&byte);
            match !text.is_empty() && text.bytes().all(allowed) {
                true => Ok(text.to_owned()),
                false => Err(Problem::found(text)
                    .expecting("the name of a runtime that the engine has, such as \"crun\"")),
            }
        })
    });
    let own_cores = optional(&fields, "own_cores", |field| decoder.boolean(field));
    Some(HardeningSettings {
        runtime: runtime?,
        own_cores: own_cores?.unwrap_or(HardeningSettings::default().own_cores),
    })
}

fn capacity(decoder: &mut Decoder, field: &Located<'_>) -> Option<CapacitySettings> {
    let fields = decoder.object(field, CAPACITY)?;
    let mut ratio = |name| {
        let read = optional(&fields, name, |field| {
            decoder.number(field, 0.1, Most::fixed(MOST_RATIO))
        });
        read.map(|value| value.map(|value| scaled(value, 1000.0)))
    };
    let (cpu, memory, disk) = (
        ratio("cpu_ratio"),
        ratio("memory_ratio"),
        ratio("disk_ratio"),
    );
    let memory_reserve = optional(&fields, "memory_reserve_mb", |field| {
        decoder.whole(field, 0, Most::fixed(MOST_MEBIBYTES))
    });
    let disk_reserve = optional(&fields, "disk_reserve_gb", |field| {
        decoder.number(field, 0.0, Most::fixed(1_000_000))
    });
    let gibibytes = |value| scaled(value, 1024.0 * 1024.0 * 1024.0);
    Some(CapacitySettings {
        cpu_permille: cpu?,
        memory_permille: memory?,
        disk_permille: disk?,
        memory_reserve_bytes: memory_reserve?.map(|value| value * MEBIBYTE),
        disk_reserve_bytes: disk_reserve?.map(gibibytes),
    })
}

fn retry(decoder: &mut Decoder, field: &Located<'_>) -> Option<RetrySettings> {
    let fields = decoder.object(
        field,
        &["attempts", "first_pause_seconds", "longest_pause_seconds"],
    )?;
    let attempts = optional(&fields, "attempts", |field| {
        let value = decoder.whole(field, 1, Most::fixed(MOST_ATTEMPTS))?;
        u32::try_from(value).ok()
    });
    let mut seconds = |name| {
        let read = optional(&fields, name, |field| {
            decoder.whole(field, 0, Most::fixed(MOST_PAUSE))
        });
        read.map(|value| value.map(Duration::from_secs))
    };
    let (first, longest) = (
        seconds("first_pause_seconds"),
        seconds("longest_pause_seconds"),
    );
    let defaults = RetrySettings::default();
    Some(RetrySettings {
        attempts: attempts?.unwrap_or(defaults.attempts),
        first_pause: first?.unwrap_or(defaults.first_pause),
        longest_pause: longest?.unwrap_or(defaults.longest_pause),
    })
}

fn secrets(decoder: &mut Decoder, field: &Located<'_>) -> Option<BTreeMap<String, SecretSource>> {
    let fields = decoder.open_object(field)?;
    let mut sources = BTreeMap::new();
    let mut count = 0;
    for (member, field) in fields.all() {
        count += 1;
        let name = member.key.as_str();
        if !is_secret_name(name) {
            let problem = Problem::found(name)
                .expecting("the name of a secret: 1 to 64 letters, digits, '_', '.' and '-'");
            decoder.refuse_key(member, &field.path, problem);
            continue;
        }
        if let Some(source) = secret(decoder, &field) {
            sources.insert(name.to_owned(), source);
        }
    }
    (sources.len() == count).then_some(sources)
}

/// The rule that tasks name secrets by.
fn is_secret_name(name: &str) -> bool {
    let first = name.starts_with(|first: char| first.is_ascii_alphanumeric() || first == '_');
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    first && name.len() <= 64 && name.bytes().all(allowed)
}

fn secret(decoder: &mut Decoder, field: &Located<'_>) -> Option<SecretSource> {
    const EXPECTED: &str = "{ env = \"VARIABLE\" } or { file = \"/path\" }";
    // Whoever writes the value itself here must not see it repeated in an error.
    if !matches!(field.node.value, Value::Object(_)) {
        let problem = Problem::new("found a value")
            .expecting(EXPECTED)
            .hint("a configuration says where a secret is, and does not hold it");
        decoder.refuse(field, problem);
        return None;
    }
    let fields = decoder.object(field, &["env", "file"])?;
    let variable = optional(&fields, "env", |field| decoder.value(field, variable_name));
    let file = optional(&fields, "file", |field| decoder.value(field, absolute));
    match (variable?, file?) {
        (Some(variable), None) => Some(SecretSource::Variable(variable)),
        (None, Some(file)) => Some(SecretSource::File(file)),
        _ => {
            let problem = Problem::new("found neither or both of them").expecting(EXPECTED);
            decoder.refuse_object(&fields, "", problem);
            None
        }
    }
}

fn variable_name(text: &str) -> Result<String, Problem> {
    let first = text.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_');
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    match first && text.bytes().all(allowed) {
        true => Ok(text.to_owned()),
        false => Err(Problem::found(text).expecting("the name of an environment variable")),
    }
}
