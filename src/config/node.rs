//! A config as a tree with line numbers, from YAML or JSON.

use serde_json::Number;

/// A value, and the line on which it starts, counted from 1.
#[derive(Clone, PartialEq, Debug)]
#[allow(missing_docs)]
pub struct Node {
    pub line: usize,
    pub value: Value,
}

/// The values that a config can have.
#[derive(Clone, PartialEq, Debug)]
#[allow(missing_docs)]
pub enum Value {
    Null,
    Bool(bool),
    Number(Number),
    Text(String),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// A key with its line, and its value.
#[derive(Clone, PartialEq, Debug)]
#[allow(missing_docs)]
pub struct Entry {
    pub line: usize,
    pub key: String,
    pub value: Node,
}

/// The most levels of nested lists and mappings. A config has three; many more would overflow the
/// stack.
pub(super) const MAX_DEPTH: usize = 32;

/// The most characters of a value that a message repeats.
const MAX_SHOWN: usize = 40;

impl Value {
    /// The value for a message: as it is in the file, if it is short.
    pub fn shown(&self) -> String {
        match self {
            Value::Null => "nothing".into(),
            Value::Bool(value) => value.to_string(),
            Value::Number(number) => number.to_string(),
            Value::Text(text) => shown(text),
            Value::List(_) => "a list".into(),
            Value::Map(_) => "keys and values".into(),
        }
    }
}

/// The text in quotes, shortened if it is long.
pub(super) fn shown(text: &str) -> String {
    match text.char_indices().nth(MAX_SHOWN) {
        Some((end, _)) => format!("{:?}…", &text[..end]),
        None => format!("{text:?}"),
    }
}
