//! Python 2.7's 64-bit hash of a string, from which the original `lockex` makes the id of a lock
//! without `-i` (`unicode_hash` and `string_hash` of CPython, without `-R`), and its `strip`: the
//! original ignores blanks around a command.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

/// CPython's multiplier.
const FACTOR: u64 = 1_000_003;

/// `abs(hash(text))`. The hash is over code points, as in the Pythons of Linux distributions; if
/// the text is not UTF-8, over bytes.
pub(super) fn abs_hash(text: &OsStr) -> u64 {
    let hash = match text.to_str() {
        Some(text) => hash(text.chars().map(u64::from)),
        None => hash(text.as_bytes().iter().copied().map(u64::from)),
    };
    hash.unsigned_abs()
}

fn hash(units: impl Iterator<Item = u64> + Clone) -> i64 {
    let Some(first) = units.clone().next() else {
        return 0;
    };
    let seed = (first << 7, 0);
    let (mixed, length) = units.fold(seed, |(mixed, length), unit| {
        (mixed.wrapping_mul(FACTOR) ^ unit, length + 1)
    });
    match (mixed ^ length).cast_signed() {
        -1 => -2, // in C, −1 says that there is no hash
        hash => hash,
    }
}

/// `text.strip()`; text that is not UTF-8 is returned unchanged.
pub(super) fn strip(text: &OsStr) -> &OsStr {
    text.to_str()
        .map_or(text, |text| text.trim_matches(is_space).as_ref())
}

/// `unicode.isspace` of Python 2.7: blanks of Unicode 5.2 and the four ASCII separators.
fn is_space(character: char) -> bool {
    character.is_whitespace() || matches!(character, '\u{1c}'..='\u{1f}' | '\u{180e}')
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ids and commands from a real Python 2.7.18, made by `python2-ids.py` in the same directory.
    const IDS: &str = include_str!("../../tests/data/python2-ids.tsv");

    #[test]
    fn ids_are_those_of_a_real_python_2_7() {
        let mut compared = 0;
        for (id, command) in IDS.lines().map(|line| line.split_once('\t').unwrap()) {
            assert_eq!(abs_hash(command.as_ref()).to_string(), id, "{command:?}");
            compared += 1;
        }
        assert_eq!(compared, 444);
    }

    #[test]
    fn abs_hash_of_the_minimum_and_of_the_reserved_hash_is_right() {
        for (command, id) in [
            ("僺栞倌頛韜賖籈", "9223372036854775808"),
            ("簔怖砲鷧錵壉蚏", "2"),
        ] {
            assert!(IDS.contains(&format!("{id}\t{command}\n")));
            assert_eq!(abs_hash(command.as_ref()).to_string(), id);
        }
    }

    #[test]
    fn text_that_is_not_utf8_is_hashed_by_its_bytes() {
        for (bytes, id) in [
            (&b"\xff"[..], 32_640_097_918),
            (b"echo \xe9t\xe9", 8_224_906_894_068_259_903),
        ] {
            assert_eq!(abs_hash(OsStr::from_bytes(bytes)), id, "{bytes:x?}");
        }
    }

    #[test]
    fn stripped_blanks_are_those_of_python_2_7() {
        let blanks: String = (0..0x11_0000)
            .filter_map(char::from_u32)
            .filter(|&character| is_space(character))
            .collect();
        let expected = "\t\n\u{b}\u{c}\r\u{1c}\u{1d}\u{1e}\u{1f} \u{85}\u{a0}\u{1680}\u{180e}\u{2000}\u{2001}\u{2002}\u{2003}\u{2004}\
            \u{2005}\u{2006}\u{2007}\u{2008}\u{2009}\u{200a}\u{2028}\u{2029}\u{202f}\u{205f}\u{3000}";
        assert_eq!(blanks, expected);
        assert_eq!(
            strip(format!("{blanks}a{blanks}b{blanks}").as_ref()),
            &*format!("a{blanks}b")
        );
        assert_eq!(
            strip(OsStr::from_bytes(b" \xff ")),
            OsStr::from_bytes(b" \xff ")
        );
    }
}
