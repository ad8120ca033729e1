//! Scalars: keys and values on one line, unquoted or quoted. An unquoted scalar is text, a number,
//! a boolean or null if all parsers agree on that.

use super::super::node::{Value, shown};
use super::{Flaw, is_end};
use serde_json::Number;

/// The most characters from the start of a key to its colon, as in YAML and PyYAML.
pub(super) const MAX_KEY: usize = 1024;

/// The key at the start of a line, and the text after its colon; `None` if there is no key.
pub(super) fn key(text: &str) -> Result<Option<(String, &str)>, Flaw> {
    let (key, rest) = if let Some((key, rest)) = quoted(text)? {
        (Value::Text(key), rest.trim_start_matches(' '))
    } else {
        let plain = plain(text)?;
        let Some(colon) = colon(plain) else {
            return Ok(None);
        };
        (
            meaning(plain[..colon].trim_end_matches(' '))?,
            &text[colon..],
        )
    };
    let Some(after) = rest
        .strip_prefix(':')
        .filter(|after| after.is_empty() || after.starts_with(' '))
    else {
        return Ok(None);
    };
    match key {
        _ if text[..text.len() - rest.len()].chars().count() > MAX_KEY => Err(Flaw::LongKey),
        Value::Text(key) => Ok(Some((key, after))),
        other => Err(Flaw::KeyNotText(other.shown())),
    }
}

/// A whole value, quoted or unquoted; a comment may follow.
pub(super) fn read(text: &str) -> Result<Value, Flaw> {
    if let Some((text, rest)) = quoted(text)? {
        return if is_end(rest) {
            Ok(Value::Text(text))
        } else {
            Err(Flaw::AfterQuote(shown(rest)))
        };
    }
    let plain = plain(text)?;
    if colon(plain).is_some() {
        Err(Flaw::Colon(shown(plain)))
    } else {
        meaning(plain)
    }
}

/// The position of the first colon that ends a key.
fn colon(plain: &str) -> Option<usize> {
    plain
        .match_indices(':')
        .map(|(at, _)| at)
        .find(|at| plain[at + 1..].is_empty() || plain[at + 1..].starts_with(' '))
}

/// Unquoted text without the comment after it.
fn plain(text: &str) -> Result<&str, Flaw> {
    let text = text
        .find(" #")
        .map_or(text, |comment| text[..comment].trim_end_matches(' '));
    check_start(text).map(|()| text)
}

/// Refuses text that must be quoted because of its first character, or because it has a tab.
pub(super) fn check_start(text: &str) -> Result<(), Flaw> {
    let mut characters = text.chars();
    let first = characters.next().unwrap_or_default();
    let alone = characters.next().is_none_or(|second| second == ' ');
    let what = match first {
        '-' if alone => "an item of a list",
        ':' if alone => "the value of a key",
        '?' => "a key on several lines",
        '{' | '}' => "a mapping in braces",
        '[' | ']' => "a list in brackets",
        '&' => "an anchor",
        '*' => "an alias",
        '!' => "a tag",
        '|' | '>' => "a text on several lines",
        '%' => "a directive",
        '@' | '`' | ',' => "no text in YAML",
        '#' => "a comment",
        _ if text.contains('\t') => return Err(Flaw::Tab),
        _ => return Ok(()),
    };
    Err(Flaw::Unsupported(first, what))
}

/// The value of an unquoted scalar: a whole number, a decimal fraction, true, false, null or text. Text that
/// some parser reads as another value is refused: octal 010, 1:30 (base 60), 1_000, 12e03, dates,
/// yes and no.
pub(super) fn meaning(plain: &str) -> Result<Value, Flaw> {
    if matches!(plain, "~" | "null" | "Null" | "NULL") {
        return Ok(Value::Null);
    }
    if let "true" | "True" | "TRUE" | "false" | "False" | "FALSE" = plain {
        return Ok(Value::Bool(plain.eq_ignore_ascii_case("true")));
    }
    if is_number(plain) {
        let number = if plain.contains('.') {
            plain.parse().ok().and_then(Number::from_f64)
        } else {
            plain.parse().ok().map(i64::into)
        };
        return number
            .map(Value::Number)
            .ok_or_else(|| Flaw::TooLarge(shown(plain)));
    }
    if is_word(plain) || is_like_a_number(plain) {
        Err(Flaw::Ambiguous(shown(plain)))
    } else {
        Ok(Value::Text(plain.to_owned()))
    }
}

/// Whether all parsers read the text as a number: an optional sign, digits, and an optional
/// fraction.
fn is_number(plain: &str) -> bool {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let unsigned = plain.strip_prefix(['+', '-']).unwrap_or(plain);
    match unsigned.split_once('.') {
        Some((whole, fraction)) => digits(whole) && digits(fraction),
        None => digits(unsigned) && (unsigned == "0" || !unsigned.starts_with('0')),
    }
}

/// Whether the text is a boolean for some parsers only, or has a meaning in YAML.
fn is_word(plain: &str) -> bool {
    ["yes", "no", "on", "off", "true", "false", "=", "<<"]
        .iter()
        .any(|word| plain.eq_ignore_ascii_case(word))
}

/// Whether some parser may read the text as a number, a time or a date. Addresses (10.0.0.1) and
/// words are not read so.
fn is_like_a_number(plain: &str) -> bool {
    let unsigned = plain.strip_prefix(['+', '-']).unwrap_or(plain);
    let point = unsigned.strip_prefix('.');
    if point
        .is_some_and(|rest| rest.eq_ignore_ascii_case("inf") || rest.eq_ignore_ascii_case("nan"))
    {
        return true;
    }
    let in_other_base = |prefix: &str| {
        unsigned
            .get(..2)
            .is_some_and(|start| start.eq_ignore_ascii_case(prefix))
    };
    let made_of = |set: &str| {
        unsigned
            .chars()
            .all(|character| character.is_ascii_digit() || set.contains(character))
    };
    point
        .unwrap_or(unsigned)
        .starts_with(|first: char| first.is_ascii_digit() || first == '_')
        && (["0x", "0o", "0b"].into_iter().any(in_other_base)
            || unsigned.matches('.').count() < 2 && made_of("_.:eE+-TtZ "))
}

/// The quoted text at the start of `text`, and the rest.
pub(super) fn quoted(text: &str) -> Result<Option<(String, &str)>, Flaw> {
    match text.chars().next() {
        Some('\'') => single(&text[1..]).map(Some),
        Some('"') => double(&text[1..]).map(Some),
        _ => Ok(None),
    }
}

/// The text after a single quote, up to the next one that is not doubled.
fn single(text: &str) -> Result<(String, &str), Flaw> {
    let mut value = String::new();
    let mut rest = text;
    loop {
        let (part, after) = rest.split_once('\'').ok_or(Flaw::Unclosed('\''))?;
        value.push_str(part);
        match after.strip_prefix('\'') {
            Some(after) => {
                value.push('\'');
                rest = after;
            }
            None if value.contains('\t') => return Err(Flaw::Tab),
            None => return Ok((value, after)),
        }
    }
}

/// The text after a double quote, up to the next one without a backslash.
fn double(text: &str) -> Result<(String, &str), Flaw> {
    let mut value = String::new();
    let mut rest = text.chars();
    loop {
        match rest.next() {
            None => return Err(Flaw::Unclosed('"')),
            Some('"') => return Ok((value, rest.as_str())),
            Some('\t') => return Err(Flaw::Tab),
            Some('\\') => {
                let (character, after) = escape(rest.as_str())?;
                value.push(character);
                rest = after.chars();
            }
            Some(character) => value.push(character),
        }
    }
}

/// The character of an escape sequence, and the rest after it.
fn escape(text: &str) -> Result<(char, &str), Flaw> {
    let mut rest = text.chars();
    let kind = rest.next().ok_or(Flaw::Unclosed('"'))?;
    let rest = rest.as_str();
    let hexadecimal = |digits: usize| {
        let code = rest
            .get(..digits)
            .filter(|code| code.bytes().all(|byte| byte.is_ascii_hexdigit()));
        let character = code.and_then(|code| char::from_u32(u32::from_str_radix(code, 16).ok()?));
        character
            .map(|character| (character, &rest[digits..]))
            .ok_or_else(|| Flaw::Escape(format!("\\{kind}")))
    };
    match kind {
        '\\' | '"' => Ok((kind, rest)),
        'n' => Ok(('\n', rest)),
        'r' => Ok(('\r', rest)),
        't' => Ok(('\t', rest)),
        'x' => hexadecimal(2),
        'u' => hexadecimal(4),
        _ => Err(Flaw::Escape(format!("\\{kind}"))),
    }
}
