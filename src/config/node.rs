//! A config as a tree: what is where. YAML and JSON come to the same.

use serde_json::Number;

/// A value, and the line that it begins on, from 1.
#[derive(Clone, PartialEq, Debug)]
#[allow(missing_docs)]
pub struct Node {
    pub line: usize,
    pub value: Value,
}

/// What a config can be made of.
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

/// A key, with the line that it is on, and its value.
#[derive(Clone, PartialEq, Debug)]
#[allow(missing_docs)]
pub struct Entry {
    pub line: usize,
    pub key: String,
    pub value: Node,
}

/// The most levels of lists and mappings within each other. A config has three; far more would
/// overflow the stack.
pub(super) const MAX_DEPTH: usize = 32;

/// The most characters of a value that are repeated to whoever wrote it.
const MAX_SHOWN: usize = 40;

impl Value {
    /// For a sentence: as it stands if it is short.
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

/// Text in quotes, cut if it is long.
pub(super) fn shown(text: &str) -> String {
    match text.char_indices().nth(MAX_SHOWN) {
        Some((end, _)) => format!("{:?}…", &text[..end]),
        None => format!("{text:?}"),
    }
}
