//! Packages of a distribution: apt says from where.

use std::path::Path;

use url::Url;

use super::{DiscoverError, Hosts, ask, no_index, site};
use crate::clients::{Clients, Place};
use forge_core::egress::{AllowedHost, HTTP_PORT, HTTPS_PORT};

const CLIENT: &str = "apt";

/// One source of packages.
#[derive(Debug, PartialEq, Eq)]
struct Source {
    site: String,
    suite: String,
    signed_by: String,
}

pub(super) async fn hosts(clients: &dyn Clients) -> Result<Hosts, DiscoverError> {
    // What apt itself lists are the indices it has fetched already: none in a fresh image.
    let argv = [
        "apt-config",
        "shell",
        "LIST",
        "Dir::Etc::sourcelist/f",
        "PARTS",
        "Dir::Etc::sourceparts/d",
    ];
    let output = ask(clients, CLIENT, &argv).await?;
    let mut sources = read(clients, &output.stdout).await;
    if !output.success || sources.is_empty() {
        return Err(no_index(CLIENT, &output));
    }
    let all = sources.len();
    // An image has the sources that its maker gave it; a person's machine also has those of any
    // program that was ever installed on it.
    if clients.place() == Place::Host {
        let codename = codename(clients).await;
        sources.retain(|source| is_own(source, codename.as_deref()));
    }
    let mut hosts = Vec::new();
    for source in &sources {
        for url in locations(clients, &source.site).await {
            let host = site(&url)?;
            // Mirrors lead from one to the other.
            let ports = match url.port() {
                Some(port) => vec![port],
                None => vec![HTTP_PORT, HTTPS_PORT],
            };
            hosts.push(AllowedHost { ports, ..host });
        }
    }
    if hosts.is_empty() {
        return Err(DiscoverError::NoIndex {
            client: CLIENT,
            said: format!("none of its {all} sources is the distribution's own"),
        });
    }
    let how = match clients.place() {
        Place::Image => "sources of the image's apt",
        Place::Host => "the distribution's own among the sources of this machine's apt",
    };
    Ok(Hosts {
        hosts,
        how: how.to_owned(),
    })
}

/// The sources of all files that apt reads, as it says where they are.
async fn read(clients: &dyn Clients, places: &str) -> Vec<Source> {
    let mut files = Vec::from_iter(shell_value(places, "LIST"));
    if let Some(folder) = shell_value(places, "PARTS") {
        let listed = clients.run(&["ls", "-1", &folder]).await;
        let names = listed.unwrap_or_default().stdout;
        let folder = folder.trim_end_matches('/');
        files.extend(names.lines().map(|name| format!("{folder}/{name}")));
    }
    let mut sources = Vec::new();
    for file in files {
        let text = clients.read(Path::new(&file)).await.ok().flatten();
        let text = text.unwrap_or_default();
        if file.ends_with(".list") {
            sources.extend(text.lines().filter_map(one_line));
        } else if file.ends_with(".sources") {
            sources.extend(stanzas(&text).iter().flat_map(|it| of_stanza(it)));
        }
    }
    sources
}

/// The value of a variable in the answer of `apt-config shell`.
fn shell_value(answer: &str, name: &str) -> Option<String> {
    let mut lines = answer.lines().filter_map(|line| line.split_once('='));
    let (_, quoted) = lines.find(|(variable, _)| *variable == name)?;
    Some(quoted.trim_matches('\'').replace("'\\''", "'"))
}

/// A source in the one-line format: `deb [options] address suite component…`.
fn one_line(line: &str) -> Option<Source> {
    let rest = line.split('#').next()?.trim().strip_prefix("deb")?;
    if !rest.starts_with([' ', '\t', '[']) {
        return None;
    }
    let rest = rest.trim_start();
    let (options, rest) = match rest.strip_prefix('[') {
        Some(bracketed) => bracketed.split_once(']')?,
        None => ("", rest),
    };
    let mut words = rest.split_whitespace();
    let options = options
        .split_whitespace()
        .filter_map(|it| it.split_once('='));
    let signed_by = options
        .filter(|(name, _)| name.eq_ignore_ascii_case("signed-by"))
        .map(|(_, value)| value);
    Some(Source {
        site: words.next()?.to_owned(),
        suite: words.next()?.to_owned(),
        signed_by: signed_by.collect(),
    })
}

/// The fields of each stanza in the deb822 format; the lines of a value are joined.
fn stanzas(text: &str) -> Vec<Vec<(String, String)>> {
    let mut stanzas = vec![Vec::new()];
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let Some(stanza) = stanzas.last_mut() else {
            continue;
        };
        if line.trim().is_empty() {
            stanzas.push(Vec::new());
        } else if line.starts_with([' ', '\t']) {
            if let Some((_, value)) = stanza.last_mut() {
                let value: &mut String = value;
                value.push(' ');
                value.push_str(line.trim());
            }
        } else if let Some((name, value)) = line.split_once(':') {
            stanza.push((name.trim().to_ascii_lowercase(), value.trim().to_owned()));
        }
    }
    stanzas
}

fn of_stanza(stanza: &[(String, String)]) -> Vec<Source> {
    let field = |name: &str| {
        let mut fields = stanza.iter();
        let found = fields.find(|(key, _)| key == name);
        found.map_or("", |(_, value)| value.as_str())
    };
    let off = ["no", "false", "without", "off", "disable"];
    let is_binary = field("types").split_whitespace().any(|kind| kind == "deb");
    if !is_binary || off.contains(&field("enabled").to_ascii_lowercase().as_str()) {
        return Vec::new();
    }
    let sites = field("uris").split_whitespace();
    let pairs = sites.flat_map(|site| {
        let suites = field("suites").split_whitespace();
        suites.map(move |suite| (site, suite))
    });
    pairs
        .map(|(site, suite)| Source {
            site: site.to_owned(),
            suite: suite.to_owned(),
            signed_by: field("signed-by").to_owned(),
        })
        .collect()
}

/// The name of the distribution's release.
async fn codename(clients: &dyn Clients) -> Option<String> {
    let text = clients.read(Path::new("/etc/os-release")).await.ok()??;
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="))?;
    Some(value.trim_matches('"').to_owned())
}

/// Whether a source is the distribution itself: a suite of its release, signed by its own keys.
fn is_own(source: &Source, codename: Option<&str>) -> bool {
    let suite = match codename {
        None => true,
        Some(codename) => source
            .suite
            .strip_prefix(codename)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(['-', '/'])),
    };
    // Third parties like the same names of suites, but not the same keys.
    let keys = source.signed_by.is_empty() || source.signed_by.contains("archive-keyring");
    suite && keys
}

/// Where the files of a source come from: itself, or the mirrors of a list on this machine.
async fn locations(clients: &dyn Clients, site: &str) -> Vec<Url> {
    let path = site
        .strip_prefix("mirror+file:")
        .or_else(|| site.strip_prefix("mirror:"));
    let Some(path) = path.filter(|path| path.starts_with('/')) else {
        let plain = site.strip_prefix("mirror+").unwrap_or(site);
        return Url::parse(plain)
            .ok()
            .filter(super::is_web)
            .into_iter()
            .collect();
    };
    let list = clients.read(Path::new(path)).await;
    let list = list.ok().flatten().unwrap_or_default();
    let urls = list.lines().filter_map(|line| {
        let url = Url::parse(line.split_whitespace().next()?).ok()?;
        super::is_web(&url).then_some(url)
    });
    urls.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_that_is_no_source_list_names_no_source() {
        for text in [
            "",
            "\n\n",
            " orphan\n",
            "deb",
            "deb [open http://x y z",
            "deb-src http://x y z",
        ] {
            assert_eq!(text.lines().filter_map(one_line).count(), 0, "{text}");
            assert_eq!(
                stanzas(text).iter().flat_map(|it| of_stanza(it)).count(),
                0,
                "{text}"
            );
        }
    }

    #[test]
    fn only_suites_of_the_release_with_the_distributions_keys_are_its_own() {
        let own = |suite: &str, signed_by: &str| {
            let source = Source {
                site: "https://a.test".into(),
                suite: suite.into(),
                signed_by: signed_by.into(),
            };
            is_own(&source, Some("trixie"))
        };
        let keys = "/usr/share/keyrings/debian-archive-keyring.gpg";
        assert!(own("trixie", keys) && own("trixie-updates", "") && own("trixie/updates", keys));
        assert!(!own("trixie", "/etc/apt/keyrings/vendor.gpg"));
        assert!(!own("trixiex", keys) && !own("stable", keys) && !own("vendor-trixie", keys));
    }
}
