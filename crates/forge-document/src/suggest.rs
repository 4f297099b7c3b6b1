//! Finds the name a person probably meant.

/// Longer names are not worth the quadratic comparison, and nobody mistypes them.
const LONGEST: usize = 48;

/// The candidate nearest to `found`, when one is near enough to be what was meant.
#[must_use]
pub fn nearest<'c>(found: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    if found.is_empty() || found.len() > LONGEST {
        return None;
    }
    let found = normal(found);
    candidates
        .into_iter()
        .filter_map(|candidate| {
            let distance = distance_to(&found, &normal(candidate))?;
            Some((distance, candidate))
        })
        .min_by_key(|&(distance, _)| distance)
        .map(|(_, candidate)| candidate)
}

/// `did you mean "x"?`, when there is such a name.
#[must_use]
pub fn did_you_mean<'c>(
    found: &str,
    candidates: impl IntoIterator<Item = &'c str>,
) -> Option<String> {
    nearest(found, candidates).map(|name| format!("did you mean \"{name}\"?"))
}

/// Case and the choice of separator are the commonest slips.
fn normal(text: &str) -> Vec<char> {
    text.chars()
        .filter(|character| !matches!(character, '_' | '-' | ' '))
        .flat_map(char::to_lowercase)
        .collect()
}

fn distance_to(found: &[char], candidate: &[char]) -> Option<usize> {
    // `memory` for `memory_mb` and `timeout` for `timeout_seconds`: a whole word short.
    if found.len() >= 3 && candidate.starts_with(found) {
        return Some(1);
    }
    let allowed = (found.len().max(candidate.len()) / 3).max(1);
    let distance = edits(found, candidate);
    (distance <= allowed && distance < found.len()).then_some(distance)
}

/// Insertions, deletions, replacements and swaps of neighbours that lead from one to the other.
fn edits(from: &[char], to: &[char]) -> usize {
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=to.len()).collect();
    for (row, &a) in from.iter().enumerate() {
        let mut current = vec![row + 1];
        for (column, &b) in to.iter().enumerate() {
            let mut best = (above[column] + usize::from(a != b))
                .min(above[column + 1] + 1)
                .min(current[column] + 1);
            let swapped = row > 0 && column > 0 && a == to[column - 1] && from[row - 1] == b;
            if swapped {
                best = best.min(before[column - 1] + 1);
            }
            current.push(best);
        }
        before = std::mem::replace(&mut above, current);
    }
    above[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_that_was_meant_is_found() {
        let names = ["memory_mb", "cpu_cores", "timeout_seconds", "processes"];
        for (found, meant) in [
            ("memroy_mb", Some("memory_mb")),
            ("memoryMB", Some("memory_mb")),
            ("memory-mb", Some("memory_mb")),
            ("memory", Some("memory_mb")),
            ("timeout", Some("timeout_seconds")),
            ("Process", Some("processes")),
            ("cpu", Some("cpu_cores")),
            ("x", None),
            ("", None),
            ("colour", None),
        ] {
            assert_eq!(nearest(found, names), meant, "{found}");
        }
    }

    #[test]
    fn a_very_long_name_is_not_compared() {
        assert_eq!(nearest(&"memory_mb".repeat(100_000), ["memory_mb"]), None);
    }
}
