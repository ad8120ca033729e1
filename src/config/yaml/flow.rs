//! Lists and mappings in brackets, on one line or on several. Stricter than YAML: every value is
//! required, a key has its colon on its line, and text with a colon or a question mark must be
//! quoted, because parsers differ there.

use super::super::node::{Entry, MAX_DEPTH, Node, Value, shown};
use super::{Error, Flaw, Line, is_end, scalar};
use std::collections::HashMap;

/// Whether the value is a list or mapping in brackets.
pub(super) fn begins(text: &str) -> bool {
    text.starts_with(['[', '{'])
}

/// Parses the value that starts at `text`, which ends the first of these lines; a comment may
/// follow. It is nested in `depth` lists and mappings. Returns how many lines it takes, too.
pub(super) fn read<'a>(
    text: &'a str,
    lines: &'a [Line<'a>],
    depth: usize,
) -> Result<(Value, usize), Error> {
    let mut position = Flow {
        rest: text,
        lines,
        at: 0,
        depth,
    };
    let value = position.collection().and_then(|value| {
        if is_end(position.rest) {
            Ok(value)
        } else {
            Err(Flaw::AfterQuote(shown(position.rest)))
        }
    });
    match value {
        Ok(value) => Ok((value, position.at + 1)),
        Err(flaw) => Err(Error {
            line: position.line(),
            flaw,
        }),
    }
}

/// A position in the lines.
struct Flow<'a> {
    /// The rest of the line.
    rest: &'a str,
    lines: &'a [Line<'a>],
    at: usize,
    depth: usize,
}

/// Characters that end unquoted text.
const ENDS: [char; 5] = [',', '[', ']', '{', '}'];

impl<'a> Flow<'a> {
    /// The number of the line.
    fn line(&self) -> usize {
        self.lines[self.at].number
    }

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
        while !self.closes(']')? {
            items.push(self.value()?);
            self.separator(']')?;
        }
        Ok(items)
    }

    fn mapping(&mut self) -> Result<Vec<Entry>, Flaw> {
        self.take('{');
        let (mut entries, mut lines_of_keys) = (Vec::new(), HashMap::new());
        while !self.closes('}')? {
            let line = self.line();
            let key = self.key()?;
            if let Some(first) = lines_of_keys.insert(key.clone(), line) {
                return Err(Flaw::Duplicate(key, first));
            }
            let value = self.value()?;
            entries.push(Entry { line, key, value });
            self.separator('}')?;
        }
        Ok(entries)
    }

    /// Whether the list or mapping ends here; steps over its bracket.
    fn closes(&mut self, close: char) -> Result<bool, Flaw> {
        match self.take(close) {
            false if self.rest.is_empty() => Err(Flaw::Unclosed(close)),
            closes => Ok(closes),
        }
    }

    /// Steps over a comma, which may be missing before the closing bracket.
    fn separator(&mut self, close: char) -> Result<(), Flaw> {
        if self.take(',') || self.rest.starts_with(close) {
            return Ok(());
        }
        Err(if self.rest.is_empty() {
            Flaw::Unclosed(close)
        } else {
            Flaw::NoComma(close, shown(self.rest))
        })
    }

    /// Steps over blanks, comments and ends of lines, and over `character` if it is next.
    fn take(&mut self, character: char) -> bool {
        self.skip();
        let rest = self.rest.strip_prefix(character);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    /// Steps over blanks, comments and ends of lines.
    fn skip(&mut self) {
        while is_end(self.rest) && self.at + 1 < self.lines.len() {
            self.at += 1;
            self.rest = self.lines[self.at].text;
        }
        self.rest = if is_end(self.rest) {
            ""
        } else {
            self.rest.trim_start_matches(' ')
        };
    }

    fn value(&mut self) -> Result<Node, Flaw> {
        self.skip();
        let line = self.line();
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
        Ok(Node { line, value })
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
            .filter(|after| quoted || after.is_empty() || after.starts_with(' '));
        self.rest = after.ok_or_else(|| Flaw::NoKey(shown(start)))?;
        Ok(key)
    }

    /// Unquoted text up to one of `ends`, a comment or the end of the line.
    fn plain(&mut self, ends: &[char]) -> Result<&'a str, Flaw> {
        let before_comment = self.rest.find(" #").unwrap_or(self.rest.len());
        let end = self.rest[..before_comment].find(ends);
        let (text, rest) = self.rest.split_at(end.unwrap_or(before_comment));
        self.rest = rest;
        let text = text.trim_end_matches(' ');
        scalar::check_start(if text.is_empty() { rest } else { text })?;
        if text.is_empty() || text == "-" || text.contains('?') {
            return Err(Flaw::Flow(shown(text)));
        }
        Ok(text)
    }
}
