//! The text of an I/O error as messages print it.

use std::io;

/// The kernel's message without Rust's error number: `connection refused`.
pub fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or(&text);
    // Only the first letter changes: the text may contain a path.
    let (first, rest) = text.split_at_checked(1).unwrap_or((text, ""));
    first.to_lowercase() + rest
}
