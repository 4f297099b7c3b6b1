//! Takes the values of secrets out of everything that is written down or shown: the output of
//! commands, the names of files and hosts, and what is said about them.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use forge_core::connection::ConnectionRecord;
use forge_core::{Failure, Outcome};

/// What stands in the place of a secret.
const MASK: &[u8] = b"***";
/// Shorter parts occur by chance, and masking them would destroy the log without hiding anything.
/// Whole secrets are never shorter: the configuration refuses them.
const SHORTEST: usize = 4;
/// The proxy cuts the names of hosts here, in characters.
const LONGEST_HOST: usize = 255;

/// The secrets of an attempt, in every form in which they are looked for.
#[derive(Debug, Clone, Default)]
pub(crate) struct Mask {
    /// The longest first: a secret may be the beginning of another.
    patterns: Arc<[Vec<u8>]>,
    /// The same in lower case, for the names of hosts.
    lower: Arc<[Vec<u8>]>,
}

impl Mask {
    /// Masks each of `secrets`, and each line of one that has several: as it is, and as it stands
    /// in addresses, in JSON and in messages that escape what is not printable.
    pub(crate) fn new<'a>(secrets: impl IntoIterator<Item = &'a str>) -> Self {
        let patterns = longest_first(
            secrets
                .into_iter()
                .flat_map(|secret| std::iter::once(secret).chain(secret.lines()))
                .map(str::trim)
                .flat_map(forms)
                .filter(|form| form.len() >= SHORTEST)
                .collect(),
        );
        let lower = longest_first(
            patterns
                .iter()
                .map(|each| each.to_ascii_lowercase())
                .collect(),
        );
        Self {
            patterns: patterns.into(),
            lower: lower.into(),
        }
    }

    /// A stream without these secrets.
    pub(crate) fn stream(&self) -> Redactor {
        Redactor {
            patterns: Arc::clone(&self.patterns),
            held: Vec::new(),
        }
    }

    /// A text without these secrets.
    pub(crate) fn text(&self, text: String) -> String {
        match self.patterns.is_empty() {
            true => text,
            false => lossless(replaced(text.as_bytes(), text.as_bytes(), &self.patterns)),
        }
    }

    /// A path without these secrets, also where one goes over several names.
    pub(crate) fn path(&self, path: &Path) -> PathBuf {
        let bytes = path.as_os_str().as_bytes();
        let masked = replaced(bytes, bytes, &self.patterns);
        PathBuf::from(OsString::from_vec(masked))
    }

    /// The name of a host without these secrets. Names are sent in lower case whatever the secret
    /// is, and cut when they are too long: what is cut off may be the end of a secret.
    fn host(&self, host: &str) -> String {
        let lower = host.to_ascii_lowercase();
        let mut masked = replaced(host.as_bytes(), lower.as_bytes(), &self.lower);
        if host.chars().count() >= LONGEST_HOST {
            let shown = masked.to_ascii_lowercase();
            let begun = (0..shown.len()).find(|&at| {
                let rest = &shown[at..];
                rest.len() >= SHORTEST && self.lower.iter().any(|each| each.starts_with(rest))
            });
            if let Some(at) = begun {
                masked.truncate(at);
                masked.extend_from_slice(MASK);
            }
        }
        lossless(masked)
    }

    /// Takes these secrets out of what the proxy noted.
    pub(crate) fn connections(&self, records: &mut [ConnectionRecord]) {
        if self.patterns.is_empty() {
            return;
        }
        for record in records {
            record.host = self.host(&record.host);
            record.sni = record.sni.as_ref().map(|name| self.host(name));
        }
    }

    /// An outcome whose message has none of these secrets: it may tell of a file's name.
    pub(crate) fn outcome(&self, outcome: Outcome) -> Outcome {
        match outcome {
            Outcome::Failed(failure) => {
                Outcome::Failed(Failure::new(failure.reason, self.text(failure.message)))
            }
            other => other,
        }
    }
}

fn longest_first(mut patterns: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    patterns.sort_by(|left, right| right.len().cmp(&left.len()).then_with(|| left.cmp(right)));
    patterns.dedup();
    patterns
}

/// A secret as it is written in different places.
fn forms(secret: &str) -> [Vec<u8>; 6] {
    let json = serde_json::Value::from(secret).to_string();
    let json = json.trim_start_matches('"');
    let json = json.strip_suffix('"').unwrap_or(json);
    let percent = |upper: bool| {
        let mut out = Vec::new();
        for byte in secret.bytes() {
            match (
                byte.is_ascii_alphanumeric() || b"-._~".contains(&byte),
                upper,
            ) {
                (true, _) => out.push(byte),
                (false, true) => out.extend(format!("%{byte:02X}").bytes()),
                (false, false) => out.extend(format!("%{byte:02x}").bytes()),
            }
        }
        out
    };
    [
        secret.as_bytes().to_vec(),
        json.as_bytes().to_vec(),
        percent(true),
        percent(false),
        secret.as_bytes().escape_ascii().to_string().into_bytes(),
        secret.escape_debug().to_string().into_bytes(),
    ]
}

/// `text` with a mask wherever one of `patterns` stands in `searched`, which is as long.
fn replaced(text: &[u8], searched: &[u8], patterns: &[Vec<u8>]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut at = 0;
    while at < text.len() {
        let found = patterns
            .iter()
            .find(|each| searched[at..].starts_with(each));
        match found {
            Some(pattern) => {
                out.extend_from_slice(MASK);
                at += pattern.len();
            }
            None => {
                out.push(text[at]);
                at += 1;
            }
        }
    }
    out
}

/// Whole characters were taken out of a text and whole ones put in.
fn lossless(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes)
        .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

/// A stream without secrets. Bytes that may be the beginning of one are held back until more has
/// come.
#[derive(Debug, Default)]
pub(crate) struct Redactor {
    patterns: Arc<[Vec<u8>]>,
    held: Vec<u8>,
}

impl Redactor {
    /// Whether there is nothing to mask.
    pub(crate) fn is_idle(&self) -> bool {
        self.patterns.is_empty()
    }

    /// Bytes of the stream that have come and are held back.
    pub(crate) const fn held(&self) -> u64 {
        self.held.len() as u64
    }

    /// Whether a secret may begin with `byte`.
    fn may_begin(&self, byte: u8) -> bool {
        self.patterns.iter().any(|each| each.first() == Some(&byte))
    }

    /// What of the stream may be written down after `bytes` have come.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.held.extend_from_slice(bytes);
        let mut out = Vec::with_capacity(self.held.len());
        let mut at = 0;
        while at < self.held.len() {
            let rest = &self.held[at..];
            if !self.may_begin(rest[0]) {
                out.push(rest[0]);
                at += 1;
                continue;
            }
            let may_go_on =
                |secret: &Vec<u8>| secret.len() > rest.len() && secret.starts_with(rest);
            if self.patterns.iter().any(may_go_on) {
                break;
            }
            if let Some(secret) = self.patterns.iter().find(|secret| rest.starts_with(secret)) {
                out.extend_from_slice(MASK);
                at += secret.len();
            } else {
                out.push(self.held[at]);
                at += 1;
            }
        }
        self.held.drain(..at);
        out
    }

    /// What was held back. A stream that ends inside of a secret shows none of it.
    pub(crate) fn finish(&mut self) -> Vec<u8> {
        let held = std::mem::take(&mut self.held);
        let (mut out, mut at) = (Vec::new(), 0);
        while at < held.len() {
            let rest = &held[at..];
            if let Some(secret) = self.patterns.iter().find(|secret| rest.starts_with(secret)) {
                out.extend_from_slice(MASK);
                at += secret.len();
            } else if rest.len() >= SHORTEST
                && self.patterns.iter().any(|secret| secret.starts_with(rest))
            {
                out.extend_from_slice(MASK);
                break;
            } else {
                out.push(held[at]);
                at += 1;
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masked(secrets: &[&str], pieces: &[&str]) -> String {
        let mut redactor = Mask::new(secrets.iter().copied()).stream();
        let mut out = Vec::new();
        for piece in pieces {
            out.extend(redactor.push(piece.as_bytes()));
        }
        out.extend(redactor.finish());
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_secret_is_masked_wherever_the_pieces_are_cut() {
        let text = "key=hunter22; again hunter22hunter22 end";
        let expected = "key=***; again ****** end";
        assert_eq!(masked(&["hunter22"], &[text]), expected);
        for cut in 0..text.len() {
            let (left, right) = text.split_at(cut);
            assert_eq!(masked(&["hunter22"], &[left, right]), expected);
        }
    }

    #[test]
    fn the_beginning_of_a_secret_that_does_not_go_on_is_kept() {
        assert_eq!(masked(&["hunter22"], &["hunt", "ing hun"]), "hunting hun");
    }

    #[test]
    fn a_stream_that_ends_inside_of_a_secret_shows_none_of_it() {
        assert_eq!(masked(&["hunter22"], &["key=hunter2"]), "key=***");
        assert_eq!(masked(&["abcd", "abcdefgh"], &["abcd", "efg"]), "***efg");
    }

    #[test]
    fn a_secret_that_begins_like_another_is_masked_whole() {
        assert_eq!(
            masked(&["abcd", "abcdefgh"], &["x abcdefgh abcd y"]),
            "x *** *** y"
        );
        assert_eq!(masked(&["abcd", "abcdefgh"], &["abcd", "efgh"]), "***");
    }

    #[test]
    fn each_line_of_a_secret_is_masked() {
        let key = "-----BEGIN-----\nAAAABBBB\n-----END-----\n";
        assert_eq!(masked(&[key], &["got AAAABBBB here"]), "got *** here");
    }

    #[test]
    fn what_is_too_short_to_hide_anything_is_left_alone() {
        assert_eq!(masked(&["1", ""], &["1 and 1"]), "1 and 1");
    }

    #[test]
    fn a_secret_is_masked_as_it_stands_in_addresses_and_documents() {
        let secret = "p@ss \"w\u{e9}\"\t!";
        let mask = Mask::new([secret]);
        for text in [
            secret.to_owned(),
            serde_json::Value::from(secret).to_string(),
            format!("{secret:?}"),
            secret.as_bytes().escape_ascii().to_string(),
            "p%40ss%20%22w%C3%A9%22%09%21".to_owned(),
            "p%40ss%20%22w%c3%a9%22%09%21".to_owned(),
        ] {
            let masked = mask.text(format!("<{text}>"));
            assert!(!masked.contains("ss"), "{text}: {masked}");
            assert!(masked.contains("***"), "{text}: {masked}");
        }
        assert_eq!(mask.text("päss".to_owned()), "päss");
    }

    #[test]
    fn hosts_are_masked_whatever_their_case_and_where_they_are_cut() {
        let mask = Mask::new(["HunTer22-Secret"]);
        assert_eq!(
            mask.host("a.hunter22-secret.example.org"),
            "a.***.example.org"
        );
        assert_eq!(mask.host("hunter22.example.org"), "hunter22.example.org");
        let long = "é".repeat(240) + "x.hunter22-se";
        assert_eq!(long.chars().count(), 253);
        assert!(mask.host(&long).ends_with("hunter22-se"));
        let cut = "é".repeat(242) + "x.hunter22-se";
        assert!(mask.host(&cut).ends_with("x.***"));
    }

    #[test]
    fn a_path_is_masked_across_its_names() {
        let mask = Mask::new(["user/token", "hunter22"]);
        let masked = |path: &str| mask.path(Path::new(path));
        assert_eq!(masked("a/user/token/b"), Path::new("a/***/b"));
        assert_eq!(masked("a/xhunter22.txt"), Path::new("a/x***.txt"));
        assert_eq!(masked("a/b"), Path::new("a/b"));
    }
}
