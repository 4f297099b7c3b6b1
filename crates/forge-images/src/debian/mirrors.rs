//! Which Debian mirrors this machine uses, and how a suite is taken from them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use crate::debian::sources::{AptSource, Trust};
use crate::error::ImagesError;

/// Where the keyring of Debian's archives is inside every image.
const KEYRING_IN_IMAGE: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// A mirror that an operator names instead of those of the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MirrorChoice {
    /// Its base address, below which `dists/` is.
    pub uri: String,
    /// The address of its security archive, when it has one.
    pub security_uri: Option<String>,
    /// The keyring that its suites are signed by; apt's own when there is none.
    pub keyring: Option<PathBuf>,
}

/// An archive of Debian packages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Archive {
    /// Base address.
    pub uri: String,
    /// How its suites are trusted.
    pub trust: Trust,
}

/// The archives that suites are taken from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirrors {
    /// Releases.
    pub main: Archive,
    /// Whether updates between point releases are taken too.
    pub updates: bool,
    /// Security updates.
    pub security: Option<Archive>,
}

/// Who signed an index that apt has, by address and suite.
pub type Origins = BTreeMap<(String, String), String>;

impl Mirrors {
    /// What the operator chose.
    #[must_use]
    pub fn chosen(choice: &MirrorChoice) -> Self {
        let signed_by = choice.keyring.as_deref().map(Path::to_string_lossy);
        let trust = Trust {
            signed_by: signed_by.map(std::borrow::Cow::into_owned),
            trusted: false,
        };
        let archive = |uri: &String| Archive {
            uri: uri.clone(),
            trust: trust.clone(),
        };
        Self {
            main: archive(&choice.uri),
            updates: false,
            security: choice.security_uri.as_ref().map(archive),
        }
    }

    /// The Debian archives among the machine's sources.
    ///
    /// # Errors
    /// [`ImagesError::NoMirror`] when there is none.
    pub fn select(sources: &[AptSource], origins: &Origins) -> Result<Self, ImagesError> {
        let debian: Vec<&AptSource> = sources
            .iter()
            .filter(|source| {
                source
                    .components
                    .iter()
                    .any(|component| component == "main")
            })
            .filter(|source| is_debian(source, origins))
            .collect();
        let is_release = |source: &&&AptSource| !source.suite.contains(['-', '/']);
        let main = debian
            .iter()
            .find(is_release)
            .ok_or(ImagesError::NoMirror)?;
        let is_updates = |source: &&AptSource| {
            source.uri == main.uri && source.suite == format!("{}-updates", main.suite)
        };
        let security = debian
            .iter()
            .find(|source| source.suite.ends_with("-security"));
        Ok(Self {
            main: archive(main),
            updates: debian.iter().any(is_updates),
            security: security.map(|source| archive(source)),
        })
    }

    /// The source list with which `suite` is installed, in the deb822 format.
    #[must_use]
    pub fn source_list(&self, suite: &str) -> String {
        let keyring = |trust: &Trust| trust.signed_by.clone();
        self.stanzas(suite, |uri| uri.to_owned(), keyring)
    }

    /// The source list that stays in the image: without credentials and paths of this machine.
    #[must_use]
    pub fn image_source_list(&self, suite: &str) -> String {
        let keyring = |trust: &Trust| (!trust.trusted).then(|| KEYRING_IN_IMAGE.to_owned());
        self.stanzas(suite, without_credentials, keyring)
    }

    fn stanzas(
        &self,
        suite: &str,
        uri: impl Fn(&str) -> String,
        keyring: impl Fn(&Trust) -> Option<String>,
    ) -> String {
        let mut main_suites = suite.to_owned();
        if self.updates {
            // The archive of updates is part of the main one and has the same signatures.
            let _infallible = write!(main_suites, " {suite}-updates");
        }
        let security = self
            .security
            .as_ref()
            .map(|archive| (archive, format!("{suite}-security")));
        let mut text = String::new();
        for (archive, suites) in std::iter::once((&self.main, main_suites)).chain(security) {
            text.push_str("Types: deb\n");
            let fields = [
                ("URIs", Some(uri(&archive.uri))),
                ("Suites", Some(suites)),
                ("Components", Some("main".to_owned())),
                ("Signed-By", keyring(&archive.trust)),
                ("Trusted", archive.trust.trusted.then(|| "yes".to_owned())),
            ];
            for (name, value) in fields {
                if let Some(value) = value {
                    let _infallible = writeln!(text, "{name}: {value}");
                }
            }
            text.push('\n');
        }
        text
    }
}

fn archive(source: &AptSource) -> Archive {
    Archive {
        uri: source.uri.clone(),
        trust: source.trust.clone(),
    }
}

/// Whether a source is Debian itself and not a third party's packages for it.
fn is_debian(source: &AptSource, origins: &Origins) -> bool {
    match origins.get(&(site(&source.uri), source.suite.clone())) {
        Some(origin) => origin == "Debian",
        // Third parties like the same suites, components and even paths, but not Debian's keys.
        None => has_debian_path(&source.uri) && has_debian_keys(&source.trust),
    }
}

fn has_debian_path(uri: &str) -> bool {
    uri.split('/')
        .map(|part| part.trim_end_matches(".list"))
        .any(|part| ["debian", "debian-security"].contains(&part))
}

fn has_debian_keys(trust: &Trust) -> bool {
    trust
        .signed_by
        .as_deref()
        .is_none_or(|keyring| keyring.contains("debian-archive"))
}

/// An address as apt prints it in its list of indices.
#[must_use]
pub fn site(uri: &str) -> String {
    without_credentials(uri).trim_end_matches('/').to_owned()
}

fn without_credentials(uri: &str) -> String {
    let Some((scheme, rest)) = uri.split_once("://") else {
        return uri.to_owned();
    };
    let host_end = rest.find('/').unwrap_or(rest.len());
    let host_start = rest[..host_end].rfind('@').map_or(0, |at| at + 1);
    format!("{scheme}://{}", &rest[host_start..])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::debian::sources::{parse_deb822, parse_one_line};

    const DEBIAN: &str = "\
Types: deb
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://mirror.example/debian-security
Suites: bookworm-security
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
";

    #[test]
    fn another_suite_is_taken_from_the_mirrors_of_the_present_one() {
        let mirrors = Mirrors::select(&parse_deb822(DEBIAN), &Origins::new()).unwrap();
        assert_eq!(
            mirrors.source_list("trixie"),
            "\
Types: deb
URIs: http://mirror.example/debian
Suites: trixie trixie-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://mirror.example/debian-security
Suites: trixie-security
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

"
        );
        assert_eq!(
            parse_deb822(&mirrors.source_list("bookworm")),
            parse_deb822(DEBIAN)
        );
    }

    #[test]
    fn third_parties_are_not_taken_for_debian() {
        let text = "\
deb [signed-by=/etc/apt/keyrings/vendor.gpg] https://vendor.example/linux/debian bookworm main
deb [signed-by=/etc/apt/keyrings/other.gpg] https://other.example/apt stable main
deb https://tools.example/node nodistro main
deb http://mirror.example/debian bookworm main
";
        let mirrors = Mirrors::select(&parse_one_line(text), &Origins::new()).unwrap();
        assert_eq!(mirrors.main.uri, "http://mirror.example/debian");
        assert!(!mirrors.updates);
        assert_eq!(mirrors.security, None);
    }

    #[test]
    fn what_apt_knows_of_an_origin_goes_before_names() {
        let text = "\
deb http://impostor.example/debian bookworm main
deb http://user:word@cache.example/anything/ bookworm main
";
        let origin = |site: &str, origin: &str| {
            ((site.to_owned(), "bookworm".to_owned()), origin.to_owned())
        };
        let origins = Origins::from([
            origin("http://impostor.example/debian", "Vendor"),
            origin("http://cache.example/anything", "Debian"),
        ]);
        let mirrors = Mirrors::select(&parse_one_line(text), &origins).unwrap();
        assert_eq!(mirrors.main.uri, "http://user:word@cache.example/anything/");
    }

    #[test]
    fn mirror_lists_and_snapshots_are_debian() {
        for uri in [
            "mirror+file:///etc/apt/mirrors/debian.list",
            "https://snapshot.example/archive/debian/20250520T000000Z",
        ] {
            let sources = parse_one_line(&format!("deb {uri} bookworm main"));
            assert_eq!(
                Mirrors::select(&sources, &Origins::new()).unwrap().main.uri,
                uri
            );
        }
    }

    #[test]
    fn a_machine_without_debian_says_so() {
        let sources = parse_one_line("deb http://mirror.example/ubuntu noble main universe");
        let error = Mirrors::select(&sources, &Origins::new()).unwrap_err();
        assert!(matches!(error, ImagesError::NoMirror));
        assert!(error.hint().is_some());
    }

    #[test]
    fn credentials_and_local_keys_do_not_stay_in_the_image() {
        let text = "deb [signed-by=/root/debian-archive.gpg] \
                    https://user:word@mirror.example/debian bookworm main";
        let mirrors = Mirrors::select(&parse_one_line(text), &Origins::new()).unwrap();
        assert!(mirrors.source_list("trixie").contains("user:word@"));
        let kept = mirrors.image_source_list("trixie");
        assert!(
            kept.contains("URIs: https://mirror.example/debian\n"),
            "{kept}"
        );
        assert!(
            kept.contains(&format!("Signed-By: {KEYRING_IN_IMAGE}\n")),
            "{kept}"
        );
        assert!(!kept.contains("word") && !kept.contains("/root"), "{kept}");
    }

    #[test]
    fn a_chosen_mirror_replaces_those_of_the_machine() {
        let mirrors = Mirrors::chosen(&MirrorChoice {
            uri: "http://chosen.example/debian".to_owned(),
            security_uri: None,
            keyring: Some("/keys/debian.gpg".into()),
        });
        assert_eq!(
            mirrors.source_list("trixie"),
            "Types: deb\nURIs: http://chosen.example/debian\nSuites: trixie\nComponents: main\n\
             Signed-By: /keys/debian.gpg\n\n"
        );
    }
}
