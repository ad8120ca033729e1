//! A subset of YAML: block mappings and lists, scalars on one line, lists and mappings in brackets,
//! anchors, aliases as values, and comments. Everything else is refused with its line, as is all
//! text that two YAML parsers could understand differently. Accepted text means the same to PyYAML,
//! which the original uses.

mod flow;
mod scalar;

use super::node::{Entry, MAX_DEPTH, Node, Value, shown};
use std::collections::HashMap;
use std::fmt;

/// A fault and its line.
#[derive(PartialEq, Eq, Debug)]
pub struct Error {
    /// Counted from 1.
    pub line: usize,
    /// The fault.
    pub flaw: Flaw,
}

/// Why a line is refused.
#[derive(PartialEq, Eq, Debug)]
pub enum Flaw {
    /// The text is not UTF-8.
    NotText,
    /// YAML forbids this character, or takes it for a line break.
    Character(char),
    /// There is a tab outside of a comment.
    Tab,
    /// This character starts a part of YAML that is not supported; its name follows.
    Unsupported(char, &'static str),
    /// A second document starts here, or the first one ends.
    Marker,
    /// Some parsers do not read this unquoted text as text.
    Ambiguous(String),
    /// The whole number does not fit in 64 bits.
    TooLarge(String),
    /// Unquoted text has a colon before a blank or at its end.
    Colon(String),
    /// This quote is not closed on its line.
    Unclosed(char),
    /// A backslash in double quotes, with the character after it, is not a known escape.
    Escape(String),
    /// This text follows a closing quote or bracket.
    AfterQuote(String),
    /// This text is not allowed within brackets.
    Flow(String),
    /// A comma or this bracket is required before this text.
    NoComma(char, String),
    /// The anchor was defined before.
    Anchor(String),
    /// The alias has no anchor.
    Alias(String),
    /// The merged value is not an alias of a mapping.
    Merge,
    /// The aliases stand for too many values.
    Size,
    /// A key is required here.
    NoKey(String),
    /// An unquoted key is not text.
    KeyNotText(String),
    /// The key is longer than any parser accepts.
    LongKey,
    /// The mapping has the key on this earlier line already.
    Duplicate(String, usize),
    /// The indentation fits no line above.
    Indentation,
    /// The line continues the text of the line above.
    Continued(String),
    /// Lists and mappings are nested too deep.
    Depth,
}

/// Parses the document.
pub fn parse(text: &[u8]) -> Result<Node, Error> {
    let mut document = Document {
        lines: lines(text)?,
        at: 0,
        depth: 0,
        anchors: HashMap::new(),
        copied: 0,
    };
    let node = match document.lines.first() {
        Some(_) => document.node()?,
        None => Node {
            line: 1,
            value: Value::Null,
        },
    };
    match document.next() {
        Some(line) => Err(line.misplaced()),
        None => Ok(node),
    }
}

/// A line that is neither empty nor a comment.
#[derive(Clone, Copy)]
struct Line<'a> {
    number: usize,
    /// Number of blanks before the text.
    indent: usize,
    /// The line from its first character that is not a blank.
    text: &'a str,
}

impl Line<'_> {
    fn error(&self, flaw: Flaw) -> Error {
        Error {
            line: self.number,
            flaw,
        }
    }

    /// The error for a line that is indented like none above it.
    fn misplaced(&self) -> Error {
        let is_key = merge(self.text).is_some() || matches!(scalar::key(self.text), Ok(Some(_)));
        self.error(if is_key || item(self.text).is_some() {
            Flaw::Indentation
        } else {
            Flaw::Continued(shown(self.text))
        })
    }
}

/// The lines of the document, without blank lines, comments and the document's start marker.
fn lines(text: &[u8]) -> Result<Vec<Line<'_>>, Error> {
    let text = str::from_utf8(text).map_err(|error| Error {
        line: super::line_at(text, error.valid_up_to()),
        flaw: Flaw::NotText,
    })?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut lines = Vec::new();
    let (mut begun, mut ended) = (false, false);
    for (number, line) in (1..).zip(text.split('\n')) {
        let line = line.strip_suffix('\r').unwrap_or(line);
        let text = line.trim_start_matches(' ');
        let line = Line {
            number,
            indent: line.len() - text.len(),
            text: text.trim_end_matches(' '),
        };
        if let Some(character) = line.text.chars().find(|&character| !printable(character)) {
            return Err(line.error(Flaw::Character(character)));
        }
        match line.text {
            _ if line.text.is_empty() || line.text.starts_with('#') => {}
            _ if ended => return Err(line.error(Flaw::Marker)),
            _ if line.indent == 0 && begun && line.text.strip_prefix("...").is_some_and(is_end) => {
                ended = true;
            }
            _ if line.indent == 0 && is_marker(line.text) => {
                let rest = line
                    .text
                    .strip_prefix("---")
                    .filter(|rest| !begun && is_end(rest));
                rest.ok_or_else(|| line.error(Flaw::Marker))?;
                begun = true;
            }
            _ => {
                begun = true;
                lines.push(line);
            }
        }
    }
    Ok(lines)
}

/// Whether YAML allows the character in a file. Characters that YAML takes for line breaks are
/// excluded, as are byte order marks inside the text.
fn printable(character: char) -> bool {
    matches!(character, '\t' | ' '..='~' | '\u{a0}'..='\u{2027}' | '\u{202a}'..='\u{d7ff}' | '\u{e000}'..='\u{fefe}' | '\u{ff00}'..='\u{fffd}')
        || character > '\u{ffff}'
}

/// Whether an unindented line starts like a document marker or a directive.
fn is_marker(text: &str) -> bool {
    ["---", "...", "%"]
        .iter()
        .any(|marker| text.starts_with(marker))
}

/// Whether the rest of the line is empty or a comment.
fn is_end(rest: &str) -> bool {
    rest.is_empty() || rest.starts_with(' ') && rest.trim_start_matches(' ').starts_with('#')
}

/// The text after the dash, if the line is an item of a list.
fn item(text: &str) -> Option<&str> {
    text.strip_prefix('-')
        .filter(|rest| rest.is_empty() || rest.starts_with(' '))
}

/// The lines, and the position in them.
struct Document<'a> {
    lines: Vec<Line<'a>>,
    at: usize,
    depth: usize,
    /// The value of each anchor.
    anchors: HashMap<String, Node>,
    /// The number of nodes that were copied for aliases.
    copied: usize,
}

/// The most nodes that are copied for aliases: a few lines with nested aliases can stand for more
/// values than fit in memory.
const MAX_COPIED: usize = 10_000;

impl<'a> Document<'a> {
    fn next(&self) -> Option<Line<'a>> {
        self.lines.get(self.at).copied()
    }

    /// The next line, if it has this indentation. A line with more indentation belongs to nothing.
    fn next_at(&self, indent: usize) -> Result<Option<Line<'a>>, Error> {
        match self.next() {
            Some(line) if line.indent > indent => Err(line.misplaced()),
            line => Ok(line.filter(|line| line.indent == indent)),
        }
    }

    /// The node that starts on the next line, which exists.
    fn node(&mut self) -> Result<Node, Error> {
        let line = self.lines[self.at];
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(line.error(Flaw::Depth));
        }
        let value = if flow::begins(line.text) {
            self.flow(line.text, self.depth - 1)?
        } else if item(line.text).is_some() {
            self.list(line.indent)?
        } else if merge(line.text).is_some()
            || scalar::key(line.text)
                .map_err(|flaw| line.error(flaw))?
                .is_some()
        {
            self.mapping(line.indent)?
        } else {
            self.at += 1;
            scalar::read(line.text).map_err(|flaw| line.error(flaw))?
        };
        self.depth -= 1;
        Ok(Node {
            line: line.number,
            value,
        })
    }

    fn list(&mut self, indent: usize) -> Result<Value, Error> {
        let mut items = Vec::new();
        while let Some(line) = self.next_at(indent)? {
            let Some(rest) = item(line.text) else { break };
            let text = rest.trim_start_matches(' ');
            items.push(match text.chars().next() {
                _ if is_end(rest) => self.below(line, indent + 1)?,
                Some('&' | '*') => self.value(line, text, indent + 1)?,
                _ => self.beside(line, text)?,
            });
        }
        Ok(Value::List(items))
    }

    fn mapping(&mut self, indent: usize) -> Result<Value, Error> {
        let (mut entries, mut merged) = (Vec::new(), None);
        let mut lines_of_keys = HashMap::new();
        while let Some(line) = self.next_at(indent)? {
            let error = |flaw| line.error(flaw);
            if let Some(rest) = merge(line.text) {
                let entries = self.merged(line, rest)?;
                merged
                    .replace(entries)
                    .map_or(Ok(()), |_| Err(error(Flaw::Merge)))?;
                continue;
            }
            let (key, rest) = scalar::key(line.text)
                .map_err(error)?
                .ok_or_else(|| error(Flaw::NoKey(shown(line.text))))?;
            if let Some(first) = lines_of_keys.insert(key.clone(), line.number) {
                return Err(error(Flaw::Duplicate(key, first)));
            }
            // The items of a key's list may stand right below it.
            let list_here = self
                .lines
                .get(self.at + 1)
                .is_some_and(|next| item(next.text).is_some());
            let least = if list_here { indent } else { indent + 1 };
            let value = if is_end(rest) {
                self.below(line, least)?
            } else {
                self.value(line, rest.trim_start_matches(' '), least)?
            };
            entries.push(Entry {
                line: line.number,
                key,
                value,
            });
        }
        Ok(Value::Map(override_with(
            merged.unwrap_or_default(),
            entries,
        )))
    }

    /// A value that starts on the line of its key or dash. After an anchor it may start below, with
    /// at least this indentation.
    fn value(&mut self, line: Line<'a>, text: &'a str, least: usize) -> Result<Node, Error> {
        let error = |flaw| line.error(flaw);
        if let Some((name, rest)) = named(text, '&') {
            let node = if is_end(rest) {
                self.below(line, least)?
            } else {
                self.beside_anchor(line, rest.trim_start_matches(' '))?
            };
            if self.anchors.insert(name.to_owned(), node.clone()).is_some() {
                return Err(error(Flaw::Anchor(name.to_owned())));
            }
            return Ok(node);
        }
        if let Some((name, rest)) = named(text, '*').filter(|(_, rest)| is_end(rest)) {
            self.at += 1;
            debug_assert!(rest.is_empty() || rest.starts_with(' '));
            return self.copy(name).map_err(error);
        }
        self.beside_anchor(line, text)
    }

    /// A scalar, or a list or mapping in brackets.
    fn beside_anchor(&mut self, line: Line<'a>, text: &'a str) -> Result<Node, Error> {
        let value = if flow::begins(text) {
            self.flow(text, self.depth)?
        } else {
            self.at += 1;
            scalar::read(text).map_err(|flaw| line.error(flaw))?
        };
        Ok(Node {
            line: line.number,
            value,
        })
    }

    /// The list or mapping in brackets that starts with `text` on the next line.
    fn flow(&mut self, text: &'a str, depth: usize) -> Result<Value, Error> {
        let (value, lines) = flow::read(text, &self.lines[self.at..], depth)?;
        self.at += lines;
        Ok(value)
    }

    /// A copy of the value of an anchor.
    fn copy(&mut self, name: &str) -> Result<Node, Flaw> {
        let node = self
            .anchors
            .get(name)
            .ok_or_else(|| Flaw::Alias(name.to_owned()))?;
        self.copied += size(node);
        if self.copied > MAX_COPIED {
            Err(Flaw::Size)
        } else {
            Ok(node.clone())
        }
    }

    /// The entries that `<<: *name` merges into a mapping.
    fn merged(&mut self, line: Line<'a>, rest: &'a str) -> Result<Vec<Entry>, Error> {
        let (name, _) = named(rest, '*')
            .filter(|(_, rest)| is_end(rest))
            .ok_or_else(|| line.error(Flaw::Merge))?;
        self.at += 1;
        match self.copy(name).map_err(|flaw| line.error(flaw))?.value {
            Value::Map(entries) => Ok(entries),
            _ => Err(line.error(Flaw::Merge)),
        }
    }

    /// The node below the current line, if it has at least this indentation, otherwise null.
    fn below(&mut self, line: Line, least: usize) -> Result<Node, Error> {
        self.at += 1;
        match self.next() {
            Some(next) if next.indent >= least => self.node(),
            _ => Ok(Node {
                line: line.number,
                value: Value::Null,
            }),
        }
    }

    /// The node after the dash of an item, parsed as if it were on a line of its own with this
    /// indentation.
    fn beside(&mut self, line: Line<'a>, text: &'a str) -> Result<Node, Error> {
        let indent = line.indent + line.text.len() - text.len();
        self.lines[self.at] = Line {
            number: line.number,
            indent,
            text,
        };
        self.node()
    }
}

/// The name after `mark`, and the rest of the line.
fn named(text: &str, mark: char) -> Option<(&str, &str)> {
    let rest = text.strip_prefix(mark)?;
    let end = rest
        .find(|c: char| !c.is_ascii_alphanumeric() && c != '-' && c != '_')
        .unwrap_or(rest.len());
    let (name, rest) = rest.split_at(end);
    (!name.is_empty() && (rest.is_empty() || rest.starts_with(' '))).then_some((name, rest))
}

/// The text after `<<:`, if the line is a merge.
fn merge(text: &str) -> Option<&str> {
    Some(
        text.strip_prefix("<<")?
            .trim_start_matches(' ')
            .strip_prefix(':')?
            .strip_prefix(' ')?
            .trim_start_matches(' '),
    )
}

/// The entries of both. For a key in both, the second value is at the position of the first, as in
/// Python's dictionaries.
fn override_with(mut first: Vec<Entry>, second: Vec<Entry>) -> Vec<Entry> {
    let places: HashMap<_, _> = first
        .iter()
        .enumerate()
        .map(|(at, entry)| (entry.key.clone(), at))
        .collect();
    for entry in second {
        match places.get(&entry.key) {
            Some(&at) => first[at] = entry,
            None => first.push(entry),
        }
    }
    first
}

/// The number of nodes in a node.
fn size(node: &Node) -> usize {
    1 + match &node.value {
        Value::List(items) => items.iter().map(size).sum(),
        Value::Map(entries) => entries.iter().map(|entry| size(&entry.value)).sum(),
        _ => 0,
    }
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Flaw::NotText => write!(f, "not UTF-8"),
            Flaw::Character(character) => {
                write!(f, "the character {character:?} is not allowed in YAML")
            }
            Flaw::Tab => write!(f, "tabs are not allowed: use spaces"),
            Flaw::Unsupported(character, name) => {
                let hint = if matches!(character, '|' | '>') {
                    "write it on one line, in quotes"
                } else {
                    "put text in quotes"
                };
                write!(
                    f,
                    "expected text, found {character:?}, which begins {name}: {hint}"
                )
            }
            Flaw::Marker => write!(
                f,
                "found a directive or a second document: only one document is supported"
            ),
            Flaw::Ambiguous(text) => write!(
                f,
                "{text} is ambiguous in YAML (some readers take it for a boolean, number or date): put it in quotes"
            ),
            Flaw::TooLarge(text) => write!(f, "the number {text} is too large"),
            Flaw::Colon(text) => write!(f, "found a second colon in {text}: put text in quotes"),
            Flaw::Unclosed(quote @ ('"' | '\'')) => write!(
                f,
                "{quote:?} is not closed on this line: write the text on one line"
            ),
            Flaw::Unclosed(bracket) => write!(f, "{bracket:?} is missing"),
            Flaw::Escape(escape) => write!(
                f,
                "found {escape} in double quotes, expected \\\\, \\\", \\n, \\r, \\t, \\xHH or \\uHHHH"
            ),
            Flaw::AfterQuote(rest) => write!(f, "found {rest} after the closing quote or bracket"),
            Flaw::Flow(text) => write!(
                f,
                "expected text between brackets and commas, found {text}: put text in quotes"
            ),
            Flaw::Anchor(name) => write!(f, "the anchor {name:?} is defined twice"),
            Flaw::Alias(name) => write!(f, "the alias {name:?} has no anchor above it"),
            Flaw::Merge => write!(f, "\"<<\" expects one alias of a mapping: <<: *NAME"),
            Flaw::Size => write!(f, "the aliases stand for more than {MAX_COPIED} values"),
            Flaw::NoComma(close, text) => {
                write!(f, "expected ',' or {close:?}, found {text}")
            }
            Flaw::NoKey(text) => {
                write!(f, "expected a key, a colon and a blank, found {text}")
            }
            Flaw::KeyNotText(key) => {
                write!(f, "expected text for a key, found {key}: put it in quotes")
            }
            Flaw::LongKey => write!(f, "this key has more than {} characters", scalar::MAX_KEY),
            Flaw::Duplicate(key, first) => {
                write!(f, "duplicate key {key:?}, see line {first}")
            }
            Flaw::Indentation => write!(f, "the indentation matches no line above"),
            Flaw::Continued(text) => write!(
                f,
                "{text} continues the line above: write the text on one line, or a list in brackets"
            ),
            Flaw::Depth => write!(
                f,
                "lists and mappings are nested more than {MAX_DEPTH} deep"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn keys_and_items_have_their_lines() {
        let tree = parse(b"# pools\npools:\n\n- name: a\n-\n  name: b\nlast:\n").unwrap();
        let Value::Map(entries) = &tree.value else {
            panic!("{tree:?}")
        };
        assert_eq!(
            entries
                .iter()
                .map(|entry| (entry.line, entry.key.as_str()))
                .collect::<Vec<_>>(),
            [(2, "pools"), (7, "last")]
        );
        let Value::List(items) = &entries[0].value.value else {
            panic!("{tree:?}")
        };
        assert_eq!(
            items.iter().map(|item| item.line).collect::<Vec<_>>(),
            [4, 6]
        );
    }

    fn assert_faults(faults: &[(&str, usize, &str)]) {
        for (text, line, sentence) in faults {
            let Error { line: found, flaw } = parse(text.as_bytes()).unwrap_err();
            assert_eq!(
                (found, flaw.to_string().as_str()),
                (*line, *sentence),
                "{text:?}"
            );
        }
    }

    #[test]
    fn faults_are_named_with_their_line() {
        assert_faults(&[
            (
                "a: 1\nb: \u{1}",
                2,
                "the character '\\u{1}' is not allowed in YAML",
            ),
            ("a:\n\tb: 1", 2, "tabs are not allowed: use spaces"),
            (
                "a: &",
                1,
                "expected text, found '&', which begins an anchor: put text in quotes",
            ),
            (
                "a: 1\n---\n",
                2,
                "found a directive or a second document: only one document is supported",
            ),
            (
                "a: 1\n...\nb: 2",
                3,
                "found a directive or a second document: only one document is supported",
            ),
            (
                "a: 010",
                1,
                "\"010\" is ambiguous in YAML (some readers take it for a boolean, number or date): put it in quotes",
            ),
            ("a: *x", 1, "the alias \"x\" has no anchor above it"),
            ("a: &x 1\nb: &x 2", 2, "the anchor \"x\" is defined twice"),
            (
                "a: &x 1\n<<: *x",
                2,
                "\"<<\" expects one alias of a mapping: <<: *NAME",
            ),
            (
                "a: 99999999999999999999",
                1,
                "the number \"99999999999999999999\" is too large",
            ),
            (
                "a: b: c",
                1,
                "found a second colon in \"b: c\": put text in quotes",
            ),
            (
                "a: 'b",
                1,
                "'\\'' is not closed on this line: write the text on one line",
            ),
            (
                "a: \"\\q\"",
                1,
                "found \\q in double quotes, expected \\\\, \\\", \\n, \\r, \\t, \\xHH or \\uHHHH",
            ),
            (
                "a: 'b' c",
                1,
                "found \" c\" after the closing quote or bracket",
            ),
            (
                "a: 1\nb",
                2,
                "expected a key, a colon and a blank, found \"b\"",
            ),
            (
                "1: a",
                1,
                "expected text for a key, found 1: put it in quotes",
            ),
            ("a: 1\nb: 2\na: 3", 3, "duplicate key \"a\", see line 1"),
            ("a: 1\n  b: 2", 2, "the indentation matches no line above"),
            (
                "a: b\n  c",
                2,
                "\"c\" continues the line above: write the text on one line, or a list in brackets",
            ),
            (
                "a: |\n  b",
                1,
                "expected text, found '|', which begins a text on several lines: write it on one line, in quotes",
            ),
        ]);
        assert_eq!(
            parse(b"a\n\xff"),
            Err(Error {
                line: 2,
                flaw: Flaw::NotText
            })
        );
    }

    #[test]
    fn faults_in_brackets_are_named_with_their_line() {
        assert_faults(&[
            ("a: [b, c", 1, "']' is missing"),
            ("a: [b,\n  {c: d, # e", 2, "'}' is missing"),
            ("a: [", 1, "']' is missing"),
            (
                "a: [b: c]",
                1,
                "found a second colon in \"b: c\": put text in quotes",
            ),
            (
                "a: [b] c",
                1,
                "found \" c\" after the closing quote or bracket",
            ),
            (
                "a: {b}",
                1,
                "expected a key, a colon and a blank, found \"b}\"",
            ),
            ("a: {b: 1, b: 2}", 1, "duplicate key \"b\", see line 1"),
            (
                "a: [b, , c]",
                1,
                "expected text, found ',', which begins no text in YAML: put text in quotes",
            ),
            (
                "a: [b,\n  c d\n  e]",
                3,
                "expected ',' or ']', found \"e]\"",
            ),
            (
                "a: {b: 1,\n  c: 2,\n  b: 3}",
                3,
                "duplicate key \"b\", see line 1",
            ),
        ]);
    }

    #[test]
    fn depth_and_length_of_keys_have_a_limit() {
        assert!(parse(("- ".repeat(MAX_DEPTH - 1) + "a").as_bytes()).is_ok());
        for depth in [MAX_DEPTH, 100_000] {
            assert_eq!(
                parse(("- ".repeat(depth) + "a").as_bytes()),
                Err(Error {
                    line: 1,
                    flaw: Flaw::Depth
                })
            );
        }
        for (length, found) in [
            (1024, Ok(())),
            (
                1025,
                Err(Error {
                    line: 1,
                    flaw: Flaw::LongKey,
                }),
            ),
        ] {
            assert_eq!(
                parse(("é".repeat(length) + ": 1").as_bytes()).map(drop),
                found
            );
        }
    }

    #[test]
    fn nested_aliases_have_a_limit() {
        let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..20 {
            text += &[
                format!("a{level}: &a{level}\n"),
                format!("- *a{}\n", level - 1).repeat(9),
            ]
            .concat();
        }
        assert!(matches!(
            parse(text.as_bytes()),
            Err(Error {
                flaw: Flaw::Size,
                ..
            })
        ));
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed_without_panic(text in any::<Vec<u8>>()) {
            let _ = parse(&text);
        }

        #[test]
        fn any_lines_are_parsed_without_panic(text in "([- ]{0,4}[ab'\"\\\\#:é1.~&*<,\\[\\]{}]{0,7}\n){0,6}") {
            let _ = parse(text.as_bytes());
        }
    }
}
