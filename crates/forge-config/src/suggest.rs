//! Finds the name an operator probably meant.

/// Longer names are not worth the quadratic comparison, and nobody mistypes them.
const LONGEST: usize = 48;

/// `did you mean "x"?`, when one of `candidates` is near enough to `found`.
pub(crate) fn did_you_mean<'c>(
    found: &str,
    candidates: impl IntoIterator<Item = &'c str>,
) -> Option<String> {
    if found.len() > LONGEST {
        return None;
    }
    let wanted = normal(found);
    candidates
        .into_iter()
        .filter_map(|candidate| Some((distance(&wanted, &normal(candidate))?, candidate)))
        .min_by_key(|&(distance, _)| distance)
        .map(|(_, name)| format!("did you mean \"{name}\"?"))
}

/// Case and the choice of separator are the commonest slips.
fn normal(text: &str) -> Vec<char> {
    text.chars()
        .filter(|character| !matches!(character, '_' | '-' | ' '))
        .flat_map(char::to_lowercase)
        .collect()
}

fn distance(found: &[char], candidate: &[char]) -> Option<usize> {
    // `memory` for `memory_mb`: a whole word short.
    if found.len() >= 3 && candidate.starts_with(found) {
        return Some(1);
    }
    let allowed = (found.len().max(candidate.len()) / 3).max(1);
    let mut row: Vec<usize> = (0..=candidate.len()).collect();
    for (index, a) in found.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = index + 1;
        for (column, b) in candidate.iter().enumerate() {
            let replaced = diagonal + usize::from(a != b);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(diagonal + 1).min(row[column] + 1);
        }
    }
    let distance = row[candidate.len()];
    (distance <= allowed && distance < found.len()).then_some(distance)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_that_was_meant_is_found() {
        let names = ["memory_mb", "cpu_cores", "timeout_seconds", "max_level"];
        let meant = |name: &str| Some(format!("did you mean \"{name}\"?"));
        for (found, expected) in [
            ("memroy_mb", meant("memory_mb")),
            ("memory", meant("memory_mb")),
            ("max-level", meant("max_level")),
            ("maxLevel", meant("max_level")),
            ("x", None),
            ("", None),
            ("colour", None),
        ] {
            assert_eq!(did_you_mean(found, names), expected, "{found}");
        }
        assert_eq!(did_you_mean(&"memory_mb".repeat(1000), names), None);
    }
}
