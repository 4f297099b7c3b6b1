//! Takes the values of secrets out of a stream of output before it is written down.

/// What stands in the place of a secret.
const MASK: &[u8] = b"***";
/// Shorter values occur by chance, and masking them would destroy the log without hiding anything.
const SHORTEST: usize = 4;

/// A stream without secrets. Bytes that may be the beginning of one are held back until more has
/// come.
#[derive(Debug, Default)]
pub(crate) struct Redactor {
    secrets: Vec<Vec<u8>>,
    held: Vec<u8>,
}

impl Redactor {
    /// Masks each of `secrets`, and each line of one that has several.
    pub(crate) fn new<'a>(secrets: impl IntoIterator<Item = &'a str>) -> Self {
        let mut parts: Vec<Vec<u8>> = secrets
            .into_iter()
            .flat_map(|secret| std::iter::once(secret).chain(secret.lines()))
            .map(|part| part.trim().as_bytes().to_vec())
            .filter(|part| part.len() >= SHORTEST)
            .collect();
        // The longest first: a secret may be the beginning of another.
        parts.sort_by(|left, right| right.len().cmp(&left.len()).then_with(|| left.cmp(right)));
        parts.dedup();
        Self {
            secrets: parts,
            held: Vec::new(),
        }
    }

    /// Whether there is nothing to mask.
    pub(crate) const fn is_idle(&self) -> bool {
        self.secrets.is_empty()
    }

    /// What of the stream may be written down after `bytes` have come.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.held.extend_from_slice(bytes);
        let mut out = Vec::with_capacity(self.held.len());
        let mut at = 0;
        while at < self.held.len() {
            let rest = &self.held[at..];
            let may_go_on =
                |secret: &Vec<u8>| secret.len() > rest.len() && secret.starts_with(rest);
            if self.secrets.iter().any(may_go_on) {
                break;
            }
            if let Some(secret) = self.secrets.iter().find(|secret| rest.starts_with(secret)) {
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
            if let Some(secret) = self.secrets.iter().find(|secret| rest.starts_with(secret)) {
                out.extend_from_slice(MASK);
                at += secret.len();
            } else if rest.len() >= SHORTEST
                && self.secrets.iter().any(|secret| secret.starts_with(rest))
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
        let mut redactor = Redactor::new(secrets.iter().copied());
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
}
