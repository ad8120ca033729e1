//! Lists and mappings in brackets on one line. Stricter than YAML: every value is required, and
//! text with a colon or a question mark must be quoted, because parsers differ there.

use super::super::node::{Entry, MAX_DEPTH, Node, Value, shown};
use super::{Flaw, is_end, scalar};
use std::collections::HashSet;

/// Whether the value is a list or mapping in brackets.
pub(super) fn begins(text: &str) -> bool {
    text.starts_with(['[', '{'])
}

/// Parses a value; a comment may follow. The value is on `line`, nested in `depth` lists and
/// mappings.
pub(super) fn read(text: &str, line: usize, depth: usize) -> Result<Value, Flaw> {
    let mut flow = Flow {
        rest: text,
        line,
        depth,
    };
    let value = flow.collection()?;
    if is_end(flow.rest) {
        Ok(value)
    } else {
        Err(Flaw::AfterQuote(shown(flow.rest)))
    }
}

/// The rest of the line.
struct Flow<'a> {
    rest: &'a str,
    line: usize,
    depth: usize,
}

/// Characters that end unquoted text.
const ENDS: [char; 5] = [',', '[', ']', '{', '}'];

impl Flow<'_> {
    /// The list or mapping that starts here.
    fn collection(&mut self) -> Result<Value, Flaw> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(Flaw::Depth);
        }
        let value = if self.take('[') {
            Value::List(self.list()?)
        } else {
            Value::Map(self.mapping()?)
        };
        self.depth -= 1;
        Ok(value)
    }

    fn list(&mut self) -> Result<Vec<Node>, Flaw> {
        let mut items = Vec::new();
        while !self.take(']') {
            items.push(self.value()?);
            self.separator(']')?;
        }
        Ok(items)
    }

    fn mapping(&mut self) -> Result<Vec<Entry>, Flaw> {
        self.take('{');
        let (mut entries, mut keys) = (Vec::new(), HashSet::new());
        while !self.take('}') {
            let key = self.key()?;
            if !keys.insert(key.clone()) {
                return Err(Flaw::Duplicate(key, self.line));
            }
            entries.push(Entry {
                line: self.line,
                key,
                value: self.value()?,
            });
            self.separator('}')?;
        }
        Ok(entries)
    }

    /// Steps over a comma, which may be missing before the closing bracket.
    fn separator(&mut self, close: char) -> Result<(), Flaw> {
        if self.take(',') || self.rest.starts_with(close) {
            return Ok(());
        }
        Err(if self.rest.is_empty() {
            Flaw::Unclosed(close)
        } else {
            Flaw::AfterQuote(shown(self.rest))
        })
    }

    /// Steps over blanks, and over `character` if it is next.
    fn take(&mut self, character: char) -> bool {
        self.rest = self.rest.trim_start_matches(' ');
        let rest = self.rest.strip_prefix(character);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn value(&mut self) -> Result<Node, Flaw> {
        let value = if begins(self.rest) {
            self.collection()?
        } else if let Some((text, rest)) = scalar::quoted(self.rest)? {
            self.rest = rest;
            Value::Text(text)
        } else {
            let text = self.plain(ENDS.as_slice())?;
            if text.contains(':') {
                Err(Flaw::Colon(shown(text)))
            } else {
                scalar::meaning(text)
            }?
        };
        self.rest = self.rest.trim_start_matches(' ');
        Ok(Node {
            line: self.line,
            value,
        })
    }

    /// A key; steps over its colon.
    fn key(&mut self) -> Result<String, Flaw> {
        let start = self.rest;
        let (key, quoted) = if let Some((text, rest)) = scalar::quoted(start)? {
            self.rest = rest;
            (text, true)
        } else {
            let text = self.plain([ENDS.as_slice(), &[':']].concat().as_slice())?;
            match scalar::meaning(text)? {
                Value::Text(key) => (key, false),
                other => return Err(Flaw::KeyNotText(other.shown())),
            }
        };
        if start[..start.len() - self.rest.len()].chars().count() > scalar::MAX_KEY {
            return Err(Flaw::LongKey);
        }
        let after = self
            .rest
            .trim_start_matches(' ')
            .strip_prefix(':')
            .filter(|after| quoted || after.starts_with(' '));
        self.rest = after
            .ok_or_else(|| Flaw::NoKey(shown(start)))?
            .trim_start_matches(' ');
        Ok(key)
    }

    /// Unquoted text up to one of `ends`.
    fn plain(&mut self, ends: &[char]) -> Result<&str, Flaw> {
        let (text, rest) = self
            .rest
            .split_at(self.rest.find(ends).unwrap_or(self.rest.len()));
        self.rest = rest;
        let text = text.trim_end_matches(' ');
        scalar::check_start(if text.is_empty() { rest } else { text })?;
        if text.is_empty() || text == "-" || text.contains('?') || text.contains(" #") {
            return Err(Flaw::Flow(shown(text)));
        }
        Ok(text)
    }
}
