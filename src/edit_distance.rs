//! Finds the name that a misspelled one was probably meant to be.

/// The most edits (insert, delete, replace or swap characters) between the typed name and the
/// suggestion.
const MAX_CHANGES: usize = 2;

/// Names of up to this many characters may differ by one edit only: with two, most of them would be
/// alike.
const SHORT_NAME: usize = 4;

/// Names that share this many first characters are similar, too, e.g. `config` and `confpath`.
const MIN_COMMON_PREFIX: usize = 4;

/// Longer texts are cut off here. No option or key is as long.
const MAX_LENGTH: usize = 40;

/// The name in `names` that is most similar to `typed`, if one is similar.
pub fn closest<'a>(typed: &str, names: &[&'a str]) -> Option<&'a str> {
    let typed: Vec<char> = typed.chars().take(MAX_LENGTH).collect();
    let near = names
        .iter()
        .map(|name| (changes(&typed, &name.chars().collect::<Vec<_>>()), *name))
        .min_by_key(|(changes, _)| *changes)?;
    let allowed = if typed.len().min(near.1.len()) <= SHORT_NAME {
        1
    } else {
        MAX_CHANGES
    };
    if near.0 <= allowed {
        return Some(near.1);
    }
    let mut alike = names.iter().filter(|name| {
        name.chars()
            .zip(&typed)
            .take_while(|(a, b)| a == *b)
            .count()
            >= MIN_COMMON_PREFIX
    });
    alike.next().filter(|_| alike.next().is_none()).copied()
}

/// The number of edits from one text to the other (optimal string alignment distance).
fn changes(a: &[char], b: &[char]) -> usize {
    let mut rows = vec![(0..=b.len()).collect::<Vec<_>>()];
    for (i, from) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, to) in b.iter().enumerate() {
            let swapped = i > 0 && j > 0 && *from == b[j - 1] && a[i - 1] == *to;
            let swap = if swapped {
                rows[i - 1][j - 1] + 1
            } else {
                usize::MAX
            };
            row.push(
                (rows[i][j] + usize::from(from != to))
                    .min(rows[i][j + 1] + 1)
                    .min(row[j] + 1)
                    .min(swap),
            );
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn misspelled_names_are_found_and_other_words_are_not() {
        let options = [
            "confpath", "wait", "exitcode", "hosts", "host", "app-id", "timeout", "maxlocks",
            "name", "version", "verbose",
        ];
        for (typed, meant) in [
            ("wiat", Some("wait")),
            ("waitt", Some("wait")),
            ("config", Some("confpath")),
            ("appid", Some("app-id")),
            ("app_id", Some("app-id")),
            ("time-out", Some("timeout")),
            ("exit-code", Some("exitcode")),
            ("maxlock", Some("maxlocks")),
            ("zkhosts", Some("hosts")),
            ("vers", Some("version")),
            ("color", None),
            ("quiet", None),
            ("", None),
            ("mate", None),
        ] {
            assert_eq!(closest(typed, &options), meant, "{typed}");
        }
        assert_eq!(closest("a", &[]), None);
        assert_eq!(closest(&"x".repeat(100_000), &options), None);
    }

    #[test]
    fn edits_are_counted() {
        for (a, b, count) in [
            ("", "", 0),
            ("", "abc", 3),
            ("ab", "ba", 1),
            ("abc", "axc", 1),
            ("abc", "abcd", 1),
            ("kitten", "sitting", 3),
        ] {
            let [a, b]: [Vec<char>; 2] = [a, b].map(|text| text.chars().collect());
            assert_eq!(
                (changes(&a, &b), changes(&b, &a)),
                (count, count),
                "{a:?} {b:?}"
            );
        }
    }
}
