//! What makes the clients in a sandbox go through the proxy, to the indexes that were found, and
//! give up soon when they are refused.

use forge_config::Group;
use url::Url;

use crate::book::{Registry, RegistryBook};

/// The HTTP proxy on a sandbox's loopback.
pub const PROXY_URL: &str = "http://127.0.0.1:3128";
/// What is reached without the proxy.
const DIRECT: &str = "localhost,127.0.0.1,::1";

/// The same in every sandbox with a network.
const PROXY: [(&str, &str); 7] = [
    ("HTTP_PROXY", PROXY_URL),
    ("HTTPS_PROXY", PROXY_URL),
    ("http_proxy", PROXY_URL),
    ("https_proxy", PROXY_URL),
    ("NO_PROXY", DIRECT),
    ("no_proxy", DIRECT),
    // Node's own `fetch` reads the variables above only when it is told to.
    ("NODE_USE_ENV_PROXY", "1"),
];

/// The same in every sandbox, also in one that reaches nothing: a client that tries for minutes and
/// then says so only takes the task's time.
const PATIENCE: [(&str, &str); 9] = [
    // Nobody is there to answer.
    ("PIP_NO_INPUT", "1"),
    ("GIT_TERMINAL_PROMPT", "0"),
    ("PIP_DEFAULT_TIMEOUT", "30"),
    ("npm_config_fetch_retry_mintimeout", "1000"),
    ("npm_config_fetch_retry_maxtimeout", "5000"),
    ("npm_config_fetch_timeout", "60000"),
    // Questions about newer versions of the clients themselves.
    ("PIP_DISABLE_PIP_VERSION_CHECK", "1"),
    ("npm_config_update_notifier", "false"),
    // Cargo before 1.70 would clone the whole index instead.
    ("CARGO_REGISTRIES_CRATES_IO_PROTOCOL", "sparse"),
];

/// Variables that say how often a client tries again.
const RETRIES: [&str; 3] = ["PIP_RETRIES", "npm_config_fetch_retries", "CARGO_NET_RETRY"];
/// Where nothing is reached, trying again only takes the task's time.
const FEW: &str = "1";
/// An install of some hundred files must survive a connection that broke or came too late.
const SOME: &str = "3";

/// Variables by which the usual clients take a bundle of certificate authorities.
const CERTIFICATE_VARIABLES: [&str; 8] = [
    "SSL_CERT_FILE",
    "REQUESTS_CA_BUNDLE",
    "PIP_CERT",
    "NODE_EXTRA_CA_CERTS",
    "npm_config_cafile",
    "CARGO_HTTP_CAINFO",
    "GIT_SSL_CAINFO",
    "CURL_CA_BUNDLE",
];

/// The environment of a sandbox that is isolated.
#[must_use]
pub fn isolated_environment() -> Vec<(String, String)> {
    owned(&PATIENCE).chain(retries(FEW)).collect()
}

fn retries(count: &str) -> impl Iterator<Item = (String, String)> {
    RETRIES
        .map(|name| (name.to_owned(), count.to_owned()))
        .into_iter()
}

fn owned<'a>(variables: &'a [(&str, &str)]) -> impl Iterator<Item = (String, String)> + 'a {
    variables
        .iter()
        .map(|&(name, value)| (name.to_owned(), value.to_owned()))
}

/// The environment of a sandbox with a network. `certificates` is the path of the operator's
/// certificate authorities inside it, when there are any.
///
/// Cargo cannot be pointed to another index by variables: [`cargo_config`] has that.
#[must_use]
pub fn client_environment(
    registries: &RegistryBook,
    certificates: Option<&str>,
) -> Vec<(String, String)> {
    let mut environment: Vec<(String, String)> = owned(&PROXY)
        .chain(owned(&PATIENCE))
        .chain(retries(SOME))
        .collect();
    let mut set = |name: &str, value: String| environment.push((name.to_owned(), value));
    if let Some(path) = certificates {
        for name in CERTIFICATE_VARIABLES {
            set(name, path.to_owned());
        }
    }
    for registry in &registries.registries {
        let Some(index) = &registry.index else {
            continue;
        };
        match registry.group {
            // Without its usual tail, by which go would ask the module's own host.
            Group::Go => set("GOPROXY", all(registry, index).join(",")),
            _ if registry.builtin => {}
            Group::Pypi => {
                set("PIP_INDEX_URL", index.clone());
                if !registry.extra_indexes.is_empty() {
                    set("PIP_EXTRA_INDEX_URL", registry.extra_indexes.join(" "));
                }
                let plain = plain_hosts(&all(registry, index));
                if !plain.is_empty() {
                    set("PIP_TRUSTED_HOST", plain.join(" "));
                }
            }
            Group::Npm => set("npm_config_registry", index.clone()),
            Group::Cargo | Group::Apt | Group::Maven | Group::Gradle | Group::Gems => {}
        }
    }
    environment
}

fn all<'r>(registry: &'r Registry, index: &'r str) -> Vec<&'r str> {
    let extra = registry.extra_indexes.iter().map(String::as_str);
    std::iter::once(index).chain(extra).collect()
}

/// The hosts of indexes without TLS, which pip ignores unless it is told to trust them.
fn plain_hosts(indexes: &[&str]) -> Vec<String> {
    indexes
        .iter()
        .filter_map(|index| Url::parse(index).ok())
        .filter(|url| url.scheme() == "http")
        .filter_map(|url| {
            let host = url.host_str()?.to_owned();
            Some(match url.port() {
                Some(port) => format!("{host}:{port}"),
                None => host,
            })
        })
        .collect()
}

/// The configuration file of cargo for sandboxes, when its index is not the one it has by itself.
#[must_use]
pub fn cargo_config(registries: &RegistryBook) -> Option<String> {
    let registry = registries.get(Group::Cargo)?;
    let index = registry.index.as_ref().filter(|_| !registry.builtin)?;
    // Cargo puts the names of files right behind it.
    let index = index.trim_end_matches('/');
    // The address is a parsed one, in which no quote stands unescaped.
    Some(format!(
        "[source.crates-io]\nreplace-with = \"operator\"\n\n\
         [source.operator]\nregistry = \"sparse+{index}/\"\n"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::book::tests::registry;
    use std::collections::BTreeMap;

    fn environment(
        registries: Vec<Registry>,
        certificates: Option<&str>,
    ) -> BTreeMap<String, String> {
        let book = RegistryBook {
            registries,
            ..RegistryBook::default()
        };
        let list = client_environment(&book, certificates);
        let map: BTreeMap<String, String> = list.iter().cloned().collect();
        assert_eq!(map.len(), list.len(), "a variable is set twice");
        map
    }

    fn mirror(group: Group, index: &str) -> Registry {
        Registry {
            builtin: false,
            ..registry(group, index, &["m.test"])
        }
    }

    #[test]
    fn clients_go_through_the_proxy_and_never_wait_for_a_person() {
        let environment = environment(Vec::new(), None);
        for name in ["HTTP_PROXY", "https_proxy"] {
            assert_eq!(environment[name], "http://127.0.0.1:3128");
        }
        assert_eq!(environment["no_proxy"], "localhost,127.0.0.1,::1");
        assert_eq!(environment["GIT_TERMINAL_PROMPT"], "0");
        assert!(!environment.contains_key("SSL_CERT_FILE"));
        assert!(!environment.contains_key("PIP_INDEX_URL"));
    }

    #[test]
    fn a_client_that_reaches_nothing_gives_up_soon_and_is_told_of_no_proxy() {
        let isolated: BTreeMap<String, String> = isolated_environment().into_iter().collect();
        let networked = environment(Vec::new(), None);
        for (name, value) in &isolated {
            let is_retry = RETRIES.contains(&name.as_str());
            let expected = if is_retry { SOME } else { value };
            assert_eq!(networked[name], expected, "{name}");
        }
        for name in RETRIES {
            assert_eq!(isolated[name], FEW);
        }
        assert!(
            !isolated
                .keys()
                .any(|name| name.to_lowercase().contains("proxy"))
        );
    }

    #[test]
    fn an_index_of_the_clients_own_is_not_repeated_and_another_is() {
        let own = registry(Group::Pypi, "https://own.test/simple", &["own.test"]);
        assert!(!environment(vec![own], None).contains_key("PIP_INDEX_URL"));
        let pip = Registry {
            extra_indexes: vec!["http://second.test:8080/simple".into()],
            ..mirror(Group::Pypi, "https://m.test/simple")
        };
        let environment = environment(vec![pip, mirror(Group::Npm, "https://m.test/npm/")], None);
        assert_eq!(environment["PIP_INDEX_URL"], "https://m.test/simple");
        assert_eq!(
            environment["PIP_EXTRA_INDEX_URL"],
            "http://second.test:8080/simple"
        );
        assert_eq!(environment["PIP_TRUSTED_HOST"], "second.test:8080");
        assert_eq!(environment["npm_config_registry"], "https://m.test/npm/");
    }

    #[test]
    fn go_never_asks_the_hosts_of_modules() {
        let go = Registry {
            extra_indexes: vec!["https://two.test".into()],
            ..registry(Group::Go, "https://one.test", &["one.test"])
        };
        let environment = environment(vec![go], None);
        assert_eq!(environment["GOPROXY"], "https://one.test,https://two.test");
    }

    #[test]
    fn all_clients_get_the_operators_authorities() {
        let environment = environment(Vec::new(), Some("/ca.pem"));
        for name in CERTIFICATE_VARIABLES {
            assert_eq!(environment[name], "/ca.pem");
        }
    }

    #[test]
    fn cargo_gets_a_file_when_its_index_is_another() {
        let book = |registry| RegistryBook {
            registries: vec![registry],
            ..RegistryBook::default()
        };
        let own = registry(Group::Cargo, "https://own.test/", &["own.test"]);
        assert_eq!(cargo_config(&book(own)), None);
        let text = cargo_config(&book(mirror(Group::Cargo, "https://m.test/index"))).unwrap();
        assert!(
            text.contains("registry = \"sparse+https://m.test/index/\"\n"),
            "{text}"
        );
        assert!(toml::de::DeTable::parse(&text).is_ok());
    }
}
