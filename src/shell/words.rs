//! Splits a command into words as Python's `shlex.split` does, which the original uses: POSIX
//! rules, no comments, no expansion. It works on bytes, because all special characters are ASCII.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::mem;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// Why a text cannot be split: it ends too early.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unfinished {
    /// The quotation that this character starts is not closed.
    Quote(char),
    /// The text ends with a backslash.
    Backslash,
}

impl fmt::Display for Unfinished {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Unfinished::Quote(quote) => write!(f, "no closing {quote}"),
            Unfinished::Backslash => write!(f, "nothing follows the last backslash"),
        }
    }
}

impl std::error::Error for Unfinished {}

/// A word, and how it was quoted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Word {
    /// The word that the command gets.
    pub text: OsString,
    /// The strongest quoting of a part of the word.
    pub quoting: Quoting,
}

/// How a part of a word is quoted, the weakest first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Quoting {
    /// Not quoted.
    Bare,
    /// In double quotes, in which a shell still expands variables.
    Double,
    /// In single quotes, or after a backslash.
    Full,
}

/// The state of the parser.
#[derive(Clone, Copy)]
enum State {
    Between,
    Word,
    Quoted(u8),
    /// After a backslash; then the parser returns to the state before it.
    Escaped(Option<u8>),
}

/// Splits a text into words: separated by blanks, grouped by quotes, with backslashes as in POSIX.
pub fn split(text: &OsStr) -> Result<Vec<OsString>, Unfinished> {
    Ok(read(text)?.into_iter().map(|word| word.text).collect())
}

/// Splits a text into words with their quoting.
pub fn read(text: &OsStr) -> Result<Vec<Word>, Unfinished> {
    use State::*;
    let mut words = Vec::new();
    let (mut word, mut quoting) = (Vec::new(), Quoting::Bare);
    let mut state = Between;
    for &byte in text.as_bytes() {
        quoting = quoting.max(match (state, byte) {
            (Between | Word, b'"') => Quoting::Double,
            (Between | Word, b'\'' | b'\\') | (Escaped(_), _) => Quoting::Full,
            _ => Quoting::Bare,
        });
        state = match (state, byte) {
            (Between, b' ' | b'\t' | b'\r' | b'\n') => Between,
            (Word, b' ' | b'\t' | b'\r' | b'\n') => {
                words.push(end_word(&mut word, &mut quoting));
                Between
            }
            (Between | Word, b'\'' | b'"') => Quoted(byte),
            (Between | Word, b'\\') => Escaped(None),
            (Quoted(quote), _) if byte == quote => Word,
            (Quoted(b'"'), b'\\') => Escaped(Some(b'"')),
            (Escaped(Some(quote)), _) => {
                if byte != quote && byte != b'\\' {
                    word.push(b'\\');
                }
                word.push(byte);
                Quoted(quote)
            }
            (Between | Word | Escaped(None), _) => {
                word.push(byte);
                Word
            }
            (Quoted(quote), _) => {
                word.push(byte);
                Quoted(quote)
            }
        };
    }
    match state {
        Between => {}
        Word => words.push(end_word(&mut word, &mut quoting)),
        Quoted(quote) => return Err(Unfinished::Quote(quote.into())),
        Escaped(_) => return Err(Unfinished::Backslash),
    }
    Ok(words)
}

/// Ends the current word; the next one starts empty and unquoted.
fn end_word(word: &mut Vec<u8>, quoting: &mut Quoting) -> Word {
    Word {
        text: OsString::from_vec(mem::take(word)),
        quoting: mem::replace(quoting, Quoting::Bare),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Every row was checked with `shlex.split` of Python 3.11.
    #[test]
    fn words_are_those_of_shlex() {
        for (text, words) in [
            ("", &[][..]),
            ("  ", &[]),
            ("a", &["a"]),
            (" a  b\t c\r\nd ", &["a", "b", "c", "d"]),
            ("'a b' c", &["a b", "c"]),
            ("\"a b\" c", &["a b", "c"]),
            ("a'b'c", &["abc"]),
            ("'a'\"b\"c", &["abc"]),
            ("''", &[""]),
            ("''''", &[""]),
            ("\"\"", &[""]),
            ("a '' b", &["a", "", "b"]),
            ("\"\"a", &["a"]),
            ("a\"\"", &["a"]),
            (r"a\ b", &["a b"]),
            (r"\a", &["a"]),
            (r#"\""#, &["\""]),
            (r"\'", &["'"]),
            (r"\\", &["\\"]),
            (r"'a\b'", &[r"a\b"]),
            (r"'a\'", &[r"a\"]),
            (r"'a\'b", &[r"a\b"]),
            (r#""a\b""#, &[r"a\b"]),
            (r#""a\"b""#, &["a\"b"]),
            (r#""a\\b""#, &[r"a\b"]),
            (r#""a\$b""#, &[r"a\$b"]),
            (r#""\`""#, &[r"\`"]),
            ("a\\\nb", &["a\nb"]),
            ("\"a\\\nb\"", &["a\\\nb"]),
            ("'\"'", &["\""]),
            ("\"'\"", &["'"]),
            ("# a #b", &["#", "a", "#b"]),
            ("a;b|c&d>e", &["a;b|c&d>e"]),
            ("$HOME `x` *", &["$HOME", "`x`", "*"]),
            ("a\x0bb\x0cc", &["a\x0bb\x0cc"]),
            ("café\u{a0}замок", &["café\u{a0}замок"]),
            ("bash -c 'exit 123'", &["bash", "-c", "exit 123"]),
        ] {
            let words: Vec<_> = words.iter().map(OsString::from).collect();
            assert_eq!(split(text.as_ref()), Ok(words), "{text:?}");
        }
    }

    #[test]
    fn unfinished_text_is_refused_with_the_reason() {
        for (text, why) in [
            ("'", Unfinished::Quote('\'')),
            ("a'b", Unfinished::Quote('\'')),
            ("a \"b", Unfinished::Quote('"')),
            ("\\", Unfinished::Backslash),
            ("a\\", Unfinished::Backslash),
            ("\"a\\", Unfinished::Backslash),
        ] {
            assert_eq!(split(text.as_ref()), Err(why), "{text:?}");
        }
    }

    #[test]
    fn bytes_that_are_not_utf8_are_kept() {
        let text = OsString::from_vec(b"a\xff '\xc3 \xa9'".to_vec());
        let words = [b"a\xff".to_vec(), b"\xc3 \xa9".to_vec()].map(OsString::from_vec);
        assert_eq!(split(&text), Ok(words.to_vec()));
    }

    #[test]
    fn each_word_has_its_strongest_quoting() {
        use Quoting::*;
        for (text, expected) in [
            ("a b", &[Bare, Bare][..]),
            (r#"a "b" 'c' \d e"#, &[Bare, Double, Full, Full, Bare]),
            (r#"a"b"'c' "$d"/e f"#, &[Full, Double, Bare]),
            (r#""\$a" b"#, &[Full, Bare]),
            (r#"'' """#, &[Full, Double]),
        ] {
            let found: Vec<_> = read(text.as_ref())
                .unwrap()
                .iter()
                .map(|word| word.quoting)
                .collect();
            assert_eq!(found, expected, "{text}");
        }
    }

    fn quote(word: &str) -> String {
        format!("'{}'", word.replace('\'', r#"'"'"'"#))
    }

    proptest! {
        #[test]
        fn quoted_words_are_split_back(words in prop::collection::vec(any::<String>(), 0..5)) {
            let text = words.iter().map(|word| quote(word)).collect::<Vec<_>>().join(" ");
            let words: Vec<_> = words.into_iter().map(OsString::from).collect();
            prop_assert_eq!(split(text.as_ref()), Ok(words));
        }

        #[test]
        fn nothing_panics(text in any::<Vec<u8>>()) {
            let _ = split(&OsString::from_vec(text));
        }
    }
}
