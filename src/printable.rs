//! Text that other clients and servers chose, and that must not control the terminal.

use std::fmt::Write;

/// Whether a terminal may obey this character: it controls it, ends the line, or changes the
/// direction in which the others are shown.
pub fn is_unprintable(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
        )
}

/// The text, with a question mark in place of each such character.
pub fn printable(text: &str) -> String {
    text.replace(is_unprintable, "?")
}

/// The first characters of a text, at most so many, and an ellipsis if there are more.
pub fn beginning(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        None => printable(text),
        Some((end, _)) => printable(&text[..end]) + "…",
    }
}

/// A JSON document of one line in which such characters are escaped. It means the same.
pub fn escaped(document: String) -> String {
    if !document.contains(is_unprintable) {
        return document;
    }
    let mut text = String::with_capacity(document.len());
    for character in document.chars() {
        if is_unprintable(character) {
            let _ = write!(text, "\\u{:04x}", u32::from(character)); // all have 16 bits
        } else {
            text.push(character);
        }
    }
    text
}
