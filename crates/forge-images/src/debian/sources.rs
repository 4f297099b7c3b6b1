//! Reads apt's source lists, in the one-line and in the deb822 format.

/// How the packages of a source are trusted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Trust {
    /// Value of `Signed-By`: paths of keyrings, or an armoured key over several lines.
    pub signed_by: Option<String>,
    /// The operator has switched the check of signatures off for it.
    pub trusted: bool,
}

/// One combination of address and suite that apt would fetch packages from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AptSource {
    /// Base address.
    pub uri: String,
    /// Suite or codename.
    pub suite: String,
    /// Components.
    pub components: Vec<String>,
    /// How it is trusted.
    pub trust: Trust,
}

/// The sources of a file in the one-line format (`*.list`).
#[must_use]
pub fn parse_one_line(text: &str) -> Vec<AptSource> {
    text.lines().filter_map(one_line_source).collect()
}

fn one_line_source(line: &str) -> Option<AptSource> {
    let content = line.split('#').next()?.trim();
    let rest = content.strip_prefix("deb")?;
    if !rest.starts_with([' ', '\t', '[']) {
        return None;
    }
    let rest = rest.trim_start();
    let (options, rest) = match rest.strip_prefix('[') {
        Some(bracketed) => bracketed.split_once(']')?,
        None => ("", rest),
    };
    let mut words = rest.split_whitespace().map(str::to_owned);
    Some(AptSource {
        uri: words.next()?,
        suite: words.next()?,
        components: words.collect(),
        trust: one_line_trust(options),
    })
}

fn one_line_trust(options: &str) -> Trust {
    let option = |name: &str| {
        options
            .split_whitespace()
            .filter_map(|option| option.split_once('='))
            .find(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
    };
    Trust {
        signed_by: option("signed-by").map(str::to_owned),
        trusted: option("trusted").is_some_and(is_yes),
    }
}

/// The sources of a file in the deb822 format (`*.sources`).
#[must_use]
pub fn parse_deb822(text: &str) -> Vec<AptSource> {
    stanzas(text).iter().flat_map(stanza_sources).collect()
}

/// Fields of one stanza, in order; the lines of a value are joined by newlines.
type Stanza = Vec<(String, String)>;

fn stanzas(text: &str) -> Vec<Stanza> {
    let mut stanzas = vec![Stanza::new()];
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        if line.trim().is_empty() {
            stanzas.push(Stanza::new());
        } else if let Some(stanza) = stanzas.last_mut() {
            add_line(stanza, line);
        }
    }
    stanzas
}

fn add_line(stanza: &mut Stanza, line: &str) {
    if line.starts_with([' ', '\t']) {
        if let Some((_, value)) = stanza.last_mut() {
            value.push('\n');
            value.push_str(line);
        }
    } else if let Some((name, value)) = line.split_once(':') {
        stanza.push((name.trim().to_owned(), value.trim().to_owned()));
    }
}

fn stanza_sources(stanza: &Stanza) -> Vec<AptSource> {
    let field = |name: &str| {
        stanza
            .iter()
            .find(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    };
    let words = |name: &str| -> Vec<String> {
        field(name)
            .unwrap_or_default()
            .split_whitespace()
            .map(str::to_owned)
            .collect()
    };
    let enabled = field("Enabled").is_none_or(is_yes);
    if !enabled || !words("Types").iter().any(|kind| kind == "deb") {
        return Vec::new();
    }
    let trust = Trust {
        signed_by: field("Signed-By")
            .filter(|value| !value.is_empty())
            .map(str::to_owned),
        trusted: field("Trusted").is_some_and(is_yes),
    };
    let components = words("Components");
    let suites = words("Suites");
    words("URIs")
        .iter()
        .flat_map(|uri| suites.iter().map(move |suite| (uri, suite)))
        .map(|(uri, suite)| AptSource {
            uri: uri.clone(),
            suite: suite.clone(),
            components: components.clone(),
            trust: trust.clone(),
        })
        .collect()
}

fn is_yes(value: &str) -> bool {
    ["yes", "true", "with", "on", "enable"].contains(&value.to_ascii_lowercase().as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(uri: &str, suite: &str, components: &[&str], trust: Trust) -> AptSource {
        AptSource {
            uri: uri.to_owned(),
            suite: suite.to_owned(),
            components: components
                .iter()
                .map(|&component| component.to_owned())
                .collect(),
            trust,
        }
    }

    fn signed_by(path: &str) -> Trust {
        Trust {
            signed_by: Some(path.to_owned()),
            trusted: false,
        }
    }

    #[test]
    fn one_line_sources_keep_their_keyring_and_lose_comments() {
        let text = "\
# deb http://commented.example/debian bookworm main
deb http://mirror.example/debian bookworm main contrib # trailing
deb [arch=amd64 signed-by=/k.gpg] https://mirror.example/debian bookworm-updates main
deb-src http://mirror.example/debian bookworm main
deb [ trusted=yes ] http://local.example/debian bookworm main

debris
";
        assert_eq!(
            parse_one_line(text),
            [
                source(
                    "http://mirror.example/debian",
                    "bookworm",
                    &["main", "contrib"],
                    Trust::default()
                ),
                source(
                    "https://mirror.example/debian",
                    "bookworm-updates",
                    &["main"],
                    signed_by("/k.gpg")
                ),
                source(
                    "http://local.example/debian",
                    "bookworm",
                    &["main"],
                    Trust {
                        signed_by: None,
                        trusted: true
                    }
                ),
            ]
        );
    }

    #[test]
    fn a_stanza_stands_for_every_pair_of_address_and_suite() {
        let text = "\
Types: deb deb-src
# a comment between fields
URIs: http://one.example/debian http://two.example/debian
Suites: trixie trixie-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://off.example/debian
Suites: trixie
Components: main
Enabled: no

Types: deb-src
URIs: http://source.example/debian
Suites: trixie
Components: main
";
        let found = parse_deb822(text);
        let pairs: Vec<(&str, &str)> = found
            .iter()
            .map(|source| (source.uri.as_str(), source.suite.as_str()))
            .collect();
        assert_eq!(
            pairs,
            [
                ("http://one.example/debian", "trixie"),
                ("http://one.example/debian", "trixie-updates"),
                ("http://two.example/debian", "trixie"),
                ("http://two.example/debian", "trixie-updates"),
            ]
        );
        assert_eq!(
            found[0].trust,
            signed_by("/usr/share/keyrings/debian-archive-keyring.gpg")
        );
    }

    #[test]
    fn an_armoured_key_keeps_its_lines() {
        let text = "\
Types: deb
URIs: http://mirror.example/debian
Suites: trixie
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 mQINBF
 -----END PGP PUBLIC KEY BLOCK-----
";
        let found = parse_deb822(text);
        let key = found[0].trust.signed_by.as_deref().unwrap();
        assert!(key.starts_with("\n -----BEGIN"));
        assert!(key.contains("\n .\n"));
        assert!(key.ends_with("BLOCK-----"));
    }

    #[test]
    fn text_that_is_no_source_list_yields_nothing() {
        for text in [
            "",
            "\n\n",
            " orphan continuation\n",
            "deb",
            "deb [unclosed http://x y z",
        ] {
            assert_eq!(parse_one_line(text), []);
            assert_eq!(parse_deb822(text), []);
        }
    }
}
