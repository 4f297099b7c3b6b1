//! Packages of a distribution: apt says from where.

use std::path::Path;

use url::Url;

use super::{DiscoverError, Hosts, ask, no_index, site};
use crate::clients::{Clients, Place};
use forge_core::egress::{AllowedHost, HTTP_PORT, HTTPS_PORT};

const CLIENT: &str = "apt";
/// The name that base images have in `os-release`.
const DISTRIBUTION_OF_IMAGES: &str = "debian";

/// Suites of a release beside the release itself.
const BESIDE: [&str; 6] = [
    "-updates",
    "-security",
    "/updates",
    "-backports",
    "-proposed-updates",
    "-proposed",
];

/// One source of packages.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Source {
    site: String,
    suite: String,
    components: Vec<String>,
    signed_by: String,
    /// Whether it stands in the file that lists the distribution itself.
    in_main_file: bool,
}

/// A distribution, as it says of itself.
#[derive(Debug, PartialEq, Eq, Default)]
struct Distribution {
    /// Its own name, and the names of those it is made from.
    names: Vec<String>,
    /// The name of its release.
    codename: Option<String>,
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
    let distribution = distribution(clients).await;
    let mut sources = read(clients, &output.stdout, &distribution).await;
    if !output.success || sources.is_empty() {
        return Err(no_index(CLIENT, &output));
    }
    let all = sources.len();
    // An image has the sources that its maker gave it; a person's machine also has those of any
    // program that was ever installed on it.
    if clients.place() == Place::Host {
        sources.retain(|source| is_own(source, &distribution));
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
async fn read(clients: &dyn Clients, places: &str, distribution: &Distribution) -> Vec<Source> {
    let main = shell_value(places, "LIST");
    let mut files = Vec::from_iter(main.clone());
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
        let found: Vec<Source> = if file.ends_with(".list") {
            text.lines().filter_map(one_line).collect()
        } else if file.ends_with(".sources") {
            stanzas(&text).iter().flat_map(|it| of_stanza(it)).collect()
        } else {
            Vec::new()
        };
        let in_main_file = Some(&file) == main.as_ref() || distribution.has_list(&file);
        sources.extend(found.into_iter().map(|source| Source {
            in_main_file,
            ..source
        }));
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
        components: words.map(str::to_owned).collect(),
        signed_by: signed_by.collect(),
        in_main_file: false,
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
    let words = |name: &str| field(name).split_whitespace().map(str::to_owned).collect();
    let sites = field("uris").split_whitespace();
    let pairs = sites.flat_map(|site| {
        let suites = field("suites").split_whitespace();
        suites.map(move |suite| (site, suite))
    });
    pairs
        .map(|(site, suite)| Source {
            site: site.to_owned(),
            suite: suite.to_owned(),
            components: words("components"),
            signed_by: field("signed-by").to_owned(),
            in_main_file: false,
        })
        .collect()
}

/// Whether a place has the distribution that base images are made of.
pub(super) async fn is_distribution_of_images(clients: &dyn Clients) -> bool {
    let own = distribution(clients).await.names.into_iter().next();
    own.as_deref() == Some(DISTRIBUTION_OF_IMAGES)
}

/// What the machine or the image is.
async fn distribution(clients: &dyn Clients) -> Distribution {
    let text = clients.read(Path::new("/etc/os-release")).await;
    Distribution::read(&text.ok().flatten().unwrap_or_default())
}

impl Distribution {
    /// Reads a file in the format of `os-release`.
    fn read(text: &str) -> Self {
        let value = |name: &str| {
            let mut fields = text.lines().filter_map(|line| line.split_once('='));
            let (_, value) = fields.find(|(field, _)| *field == name)?;
            Some(value.trim().trim_matches(['"', '\'']).to_owned())
        };
        let names = [value("ID"), value("ID_LIKE")].into_iter().flatten();
        let names: Vec<String> = names
            .flat_map(|names| {
                let names = names.split_whitespace();
                names.map(str::to_ascii_lowercase).collect::<Vec<String>>()
            })
            .collect();
        Self {
            names,
            codename: value("VERSION_CODENAME").filter(|name| !name.is_empty()),
        }
    }

    /// Whether a file is the one of `sources.list.d` that installers write for the distribution.
    fn has_list(&self, file: &str) -> bool {
        let name = file
            .rsplit('/')
            .next()
            .and_then(|name| name.strip_suffix(".sources"));
        name.is_some_and(|name| self.names.iter().any(|own| own == name))
    }

    /// Whether a file of keys is the one that the distribution signs its releases with. The names
    /// of other vendors' end in the same words.
    fn has_keys(&self, file: &str) -> bool {
        let name = file.rsplit('/').next().unwrap_or_default();
        let (name, _) = name
            .rsplit_once('.')
            .filter(|(_, kind)| ["gpg", "pgp", "asc"].contains(kind))
            .unwrap_or_default();
        let vendor = name.strip_suffix("-archive-keyring");
        vendor.is_some_and(|vendor| self.names.iter().any(|own| own == vendor))
    }
}

/// Whether a source is the distribution itself: a suite of its release, signed by its own keys.
///
/// Where a source names no keys, apt takes any key that it trusts, those of other vendors
/// included. Such a source counts where installers write those of the distribution, with a suite
/// and a component that it has.
fn is_own(source: &Source, distribution: &Distribution) -> bool {
    let beside = distribution.codename.as_deref().map(|codename| {
        let suite = source.suite.strip_prefix(codename);
        suite.map(|rest| rest.trim_end_matches('/'))
    });
    let mut keys = source
        .signed_by
        .split([',', ' '])
        .filter(|key| !key.is_empty())
        .peekable();
    if keys.peek().is_some() {
        let is_suite = match beside {
            None => true,
            Some(rest) => rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['-', '/'])),
        };
        return is_suite && keys.all(|key| distribution.has_keys(key));
    }
    let is_suite = beside
        .flatten()
        .is_some_and(|rest| rest.is_empty() || BESIDE.contains(&rest));
    is_suite && source.in_main_file && source.components.iter().any(|name| name == "main")
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

    const KEYS: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

    fn debian() -> Distribution {
        Distribution::read("NAME=\"Debian\"\nVERSION_CODENAME=trixie\nID=debian\n")
    }

    fn signed(suite: &str, signed_by: &str) -> Source {
        Source {
            site: "https://a.test".into(),
            suite: suite.into(),
            components: vec!["main".into()],
            signed_by: signed_by.into(),
            in_main_file: false,
        }
    }

    #[test]
    fn only_suites_of_the_release_with_the_distributions_keys_are_its_own() {
        let own = |suite: &str, keys: &str| is_own(&signed(suite, keys), &debian());
        assert!(own("trixie", KEYS) && own("trixie-updates", KEYS) && own("trixie/updates", KEYS));
        assert!(!own("trixiex", KEYS) && !own("stable", KEYS) && !own("vendor-trixie", KEYS));
        for keys in [
            "debian-archive-keyring.pgp",
            "/etc/apt/keyrings/debian-archive-keyring.asc",
            &format!("{KEYS},/usr/share/keyrings/debian-archive-keyring.pgp"),
        ] {
            assert!(own("trixie", keys), "{keys}");
        }
        for keys in [
            "/etc/apt/keyrings/vendor.gpg",
            "/usr/share/keyrings/vendor-archive-keyring.gpg",
            "/usr/share/keyrings/not-debian-archive-keyring.gpg",
            "/usr/share/keyrings/debian-archive-keyring.gpg/vendor.gpg",
            "/usr/share/keyrings/debian-archive-keyring.gpg.vendor",
            "/usr/share/keyrings/debian-archive-keyring",
            "/usr/share/keyrings/-archive-keyring.gpg",
            &format!("{KEYS},/etc/apt/keyrings/vendor.gpg"),
            "-----BEGIN PGP PUBLIC KEY BLOCK----- . mQINBF",
        ] {
            assert!(!own("trixie", keys), "{keys}");
        }
    }

    #[test]
    fn a_distribution_made_from_another_has_the_keys_of_both() {
        let made = Distribution::read("ID=made\nID_LIKE=\"ubuntu debian\"\n");
        assert_eq!(made.names, ["made", "ubuntu", "debian"]);
        for vendor in ["made", "ubuntu", "debian"] {
            let keys = format!("/usr/share/keyrings/{vendor}-archive-keyring.gpg");
            assert!(is_own(&signed("any", &keys), &made), "{vendor}");
        }
        let nameless = Distribution::read("");
        let keys = "/usr/share/keyrings/-archive-keyring.gpg";
        assert!(!is_own(&signed("any", KEYS), &nameless));
        assert!(!is_own(&signed("any", keys), &nameless));
    }

    #[test]
    fn without_keys_only_what_looks_like_the_distribution_in_its_own_file_is_its_own() {
        let main = |suite: &str| Source {
            in_main_file: true,
            ..signed(suite, "")
        };
        let own = |source: &Source| is_own(source, &debian());
        assert!(
            own(&main("trixie")) && own(&main("trixie-updates")) && own(&main("trixie/updates"))
        );
        assert!(!own(&signed("trixie", "")), "in a vendor's file");
        assert!(!own(&main("trixie-vendor")) && !own(&main("stable")) && !own(&main("trixie/x")));
        let components = vec!["vendor".into()];
        let source = Source {
            components,
            ..main("trixie")
        };
        assert!(!own(&source), "a component that the distribution has not");
        let nameless = Distribution::read("ID=debian\n");
        assert!(!is_own(&main("trixie"), &nameless), "no release is known");
        let debian = debian();
        assert!(debian.has_list("/etc/apt/sources.list.d/debian.sources"));
        assert!(!debian.has_list("/etc/apt/sources.list.d/vendor-debian.sources"));
        assert!(!debian.has_list("/etc/apt/sources.list.d/debian.list"));
    }
}
