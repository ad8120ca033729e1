//! JSON as a tree with line numbers. `serde_json` checks the syntax; a duplicate key is refused
//! here.

use super::node::{Entry, Node, Value};
use super::text::end_of_string;
use std::collections::HashMap;

/// Why the text is refused.
#[derive(Debug)]
pub enum Error {
    /// The text is not JSON.
    Syntax(serde_json::Error),
    /// A duplicate key: its line, and the line where it was first.
    #[allow(missing_docs)]
    Duplicate {
        key: String,
        line: usize,
        first: usize,
    },
}

/// Parses the text.
pub fn parse(text: &str) -> Result<Node, Error> {
    serde_json::from_str::<serde_json::Value>(text).map_err(Error::Syntax)?;
    Walk {
        text,
        at: 0,
        line: 1,
    }
    .node()
}

/// A walk through valid JSON, which is no deeper than `serde_json` accepts.
struct Walk<'a> {
    text: &'a str,
    at: usize,
    line: usize,
}

impl<'a> Walk<'a> {
    fn node(&mut self) -> Result<Node, Error> {
        let first = self.peek();
        let line = self.line;
        let value = match first {
            b'{' => self.mapping()?,
            b'[' => self.list()?,
            _ => match serde_json::from_str(self.scalar()).map_err(Error::Syntax)? {
                serde_json::Value::Bool(value) => Value::Bool(value),
                serde_json::Value::Number(number) => Value::Number(number),
                serde_json::Value::String(text) => Value::Text(text),
                _ => Value::Null,
            },
        };
        Ok(Node { line, value })
    }

    fn list(&mut self) -> Result<Value, Error> {
        let mut items = Vec::new();
        while self.enter(b']') {
            items.push(self.node()?);
        }
        Ok(Value::List(items))
    }

    fn mapping(&mut self) -> Result<Value, Error> {
        let mut entries = Vec::new();
        let mut lines_of_keys = HashMap::new();
        while self.enter(b'}') {
            let line = self.line;
            let key: String = serde_json::from_str(self.scalar()).map_err(Error::Syntax)?;
            if let Some(first) = lines_of_keys.insert(key.clone(), line) {
                return Err(Error::Duplicate { key, line, first });
            }
            self.peek();
            self.at += 1; // the colon
            entries.push(Entry {
                line,
                key,
                value: self.node()?,
            });
        }
        Ok(Value::Map(entries))
    }

    /// Steps over the bracket or comma before a member. False, and steps over the closing bracket,
    /// if there is no member.
    fn enter(&mut self, close: u8) -> bool {
        if self.peek() != close {
            self.at += 1;
        }
        let more = self.peek() != close;
        self.at += usize::from(!more);
        more
    }

    /// The next byte that is not a blank.
    fn peek(&mut self) -> u8 {
        loop {
            match self.text.as_bytes().get(self.at) {
                Some(b'\n') => self.line += 1,
                Some(b' ' | b'\r' | b'\t') => {}
                found => return found.copied().unwrap_or_default(),
            }
            self.at += 1;
        }
    }

    /// The next string, number or word.
    fn scalar(&mut self) -> &'a str {
        let start = self.at;
        self.at = match self.text.as_bytes().get(start) {
            Some(b'"') => end_of_string(self.text, start),
            _ => self.text[start..]
                .find([',', ']', '}', ' ', '\n', '\r', '\t'])
                .map_or(self.text.len(), |length| start + length),
        };
        &self.text[start..self.at]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The tree as JSON.
    fn plain(node: &Node) -> serde_json::Value {
        match &node.value {
            Value::Null => serde_json::Value::Null,
            Value::Bool(value) => (*value).into(),
            Value::Number(number) => number.clone().into(),
            Value::Text(text) => text.clone().into(),
            Value::List(items) => items.iter().map(plain).collect(),
            Value::Map(entries) => entries
                .iter()
                .map(|entry| (entry.key.clone(), plain(&entry.value)))
                .collect(),
        }
    }

    #[test]
    fn keys_and_values_have_their_lines() {
        let tree = parse("{\n \"a\": [ ],\n\n \"b\\\"\": [1,\n  {\"c\":\n  {}}]\n}").unwrap();
        let Value::Map(entries) = &tree.value else {
            panic!("{tree:?}")
        };
        assert_eq!(
            entries
                .iter()
                .map(|entry| (entry.line, entry.key.as_str()))
                .collect::<Vec<_>>(),
            [(2, "a"), (4, "b\"")]
        );
        let Value::List(items) = &entries[1].value.value else {
            panic!("{tree:?}")
        };
        assert_eq!(
            items.iter().map(|item| item.line).collect::<Vec<_>>(),
            [4, 5]
        );
        let Value::Map(entries) = &items[1].value else {
            panic!("{tree:?}")
        };
        assert_eq!((entries[0].line, entries[0].value.line), (5, 6));
    }

    #[test]
    fn duplicate_key_is_refused() {
        let Err(Error::Duplicate { key, line, first }) =
            parse("{\"a\": 1,\n\"b\": {\"a\": 1},\n\"\\u0061\": 2}")
        else {
            panic!()
        };
        assert_eq!((key.as_str(), line, first), ("a", 3, 1));
    }

    #[test]
    fn depth_limit_is_that_of_serde() {
        for depth in [100, 100_000] {
            assert_eq!(
                parse(&("[".repeat(depth) + &"]".repeat(depth))).is_ok(),
                depth == 100,
                "{depth}"
            );
        }
    }

    fn json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<i64>().prop_map(Into::into),
            "[\"\\\\,:{}a-c\n ]{0,6}".prop_map(Into::into),
        ];
        leaf.prop_recursive(4, 40, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Into::into),
                prop::collection::btree_map("[a-c\"\\\\}]{0,3}", inner, 0..5)
                    .prop_map(|map| map.into_iter().collect()),
            ]
        })
    }

    proptest! {
        #[test]
        fn tree_equals_what_serde_parses(value in json(), pretty in any::<bool>()) {
            let text = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) }.unwrap();
            prop_assert_eq!(plain(&parse(&text).unwrap()), value);
        }

        #[test]
        fn nothing_panics(text in "[\\[\\]{}\",:0-9a\\\\ \n]{0,30}") {
            let _ = parse(&text);
        }
    }
}
