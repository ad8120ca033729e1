//! A small part of YAML, line by line: block mappings and lists, one-line scalars, lists and
//! mappings in brackets on one line, anchors and their aliases as values, comments. All else is
//! refused with its line, and so is whatever two readers of YAML could take for different
//! things. What is accepted means the same to PyYAML, which the original reads with.

mod flow;
mod scalar;

use super::node::{Entry, MAX_DEPTH, Node, Value, shown};
use std::collections::HashMap;
use std::fmt;

/// What is wrong, and on which line.
#[derive(PartialEq, Eq, Debug)]
pub struct Error {
    /// From 1.
    pub line: usize,
    /// What.
    pub flaw: Flaw,
}

/// What is wrong with a line.
#[derive(PartialEq, Eq, Debug)]
pub enum Flaw {
    /// Not UTF-8.
    NotText,
    /// A character that YAML forbids, or takes for the end of a line.
    Character(char),
    /// A tab outside of a comment.
    Tab,
    /// A character that begins what is not understood here, by its name.
    Unsupported(char, &'static str),
    /// A second document, or the end of one.
    Marker,
    /// Text without quotes that is not text to every reader.
    Ambiguous(String),
    /// A whole number that 64 bits do not hold.
    TooLarge(String),
    /// A colon, with a blank after it or at the end, in text without quotes.
    Colon(String),
    /// A quote that is not closed on its line.
    Unclosed(char),
    /// A backslash and what follows, in double quotes.
    Escape(String),
    /// Something after a closing quote or bracket.
    AfterQuote(String),
    /// Text that is none within brackets.
    Flow(String),
    /// An anchor that was there before.
    Anchor(String),
    /// An alias without its anchor.
    Alias(String),
    /// Something else than a mapping is merged.
    Merge,
    /// Aliases that stand for too much.
    Size,
    /// No key where one must be.
    NoKey(String),
    /// A key without quotes that is not text.
    KeyNotText(String),
    /// A key that no reader would take for one.
    LongKey,
    /// A key that was there before, and on which line.
    Duplicate(String, usize),
    /// Further in, or less far out, than anything it could belong to.
    Indentation,
    /// Lists and mappings within each other.
    Depth,
}

/// The document that `text` is.
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
        Some(line) => Err(line.error(Flaw::Indentation)),
        None => Ok(node),
    }
}

/// A line that has something on it.
#[derive(Clone, Copy)]
struct Line<'a> {
    number: usize,
    /// Blanks before the text.
    indent: usize,
    /// From the first character on.
    text: &'a str,
}

impl Line<'_> {
    fn error(&self, flaw: Flaw) -> Error {
        Error {
            line: self.number,
            flaw,
        }
    }
}

/// The lines that count, without blank ones, comments and the mark at the document's start.
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

/// What YAML allows in a file, save for what it takes for line ends and for a mark of byte order
/// that is not at the start.
fn printable(character: char) -> bool {
    matches!(character, '\t' | ' '..='~' | '\u{a0}'..='\u{2027}' | '\u{202a}'..='\u{d7ff}' | '\u{e000}'..='\u{fefe}' | '\u{ff00}'..='\u{fffd}')
        || character > '\u{ffff}'
}

/// Whether an unindented line begins like the start or the end of a document, or a directive.
fn is_marker(text: &str) -> bool {
    ["---", "...", "%"]
        .iter()
        .any(|marker| text.starts_with(marker))
}

/// Whether nothing but a comment follows.
fn is_end(rest: &str) -> bool {
    rest.is_empty() || rest.starts_with(' ') && rest.trim_start_matches(' ').starts_with('#')
}

/// What follows the dash, if the text is an item of a list.
fn item(text: &str) -> Option<&str> {
    text.strip_prefix('-')
        .filter(|rest| rest.is_empty() || rest.starts_with(' '))
}

/// The lines, and how far they have been read.
struct Document<'a> {
    lines: Vec<Line<'a>>,
    at: usize,
    depth: usize,
    /// What each anchor stands for.
    anchors: HashMap<String, Node>,
    /// How many nodes aliases have made of others.
    copied: usize,
}

/// The most nodes that aliases make: a few lines of aliases of aliases stand for more than any
/// memory holds.
const MAX_COPIED: usize = 10_000;

impl<'a> Document<'a> {
    fn next(&self) -> Option<Line<'a>> {
        self.lines.get(self.at).copied()
    }

    /// The next line, if it is indented so: part of what is being read. One that is further in
    /// belongs to nothing.
    fn next_at(&self, indent: usize) -> Result<Option<Line<'a>>, Error> {
        match self.next() {
            Some(line) if line.indent > indent => Err(line.error(Flaw::Indentation)),
            line => Ok(line.filter(|line| line.indent == indent)),
        }
    }

    /// What begins on the next line, which is there.
    fn node(&mut self) -> Result<Node, Error> {
        let line = self.lines[self.at];
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(line.error(Flaw::Depth));
        }
        let value = if flow::begins(line.text) {
            self.at += 1;
            flow::read(line.text, line.number, self.depth - 1).map_err(|flaw| line.error(flaw))?
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

    /// A value that begins on the line of its key or dash; after an anchor it may stand below,
    /// indented at least so.
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
        self.at += 1;
        let value = if flow::begins(text) {
            flow::read(text, line.number, self.depth)
        } else {
            scalar::read(text)
        };
        Ok(Node {
            line: line.number,
            value: value.map_err(|flaw| line.error(flaw))?,
        })
    }

    /// What an anchor stands for.
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

    /// The entries of the mapping that is merged into another: `<<: *name`.
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

    /// What stands on the lines below the one that is next, if they are indented at least so; null
    /// otherwise.
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

    /// What begins after the dash of an item, as if it were on a line of its own, indented as far.
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

/// The name after `mark`, and what follows it.
fn named(text: &str, mark: char) -> Option<(&str, &str)> {
    let rest = text.strip_prefix(mark)?;
    let end = rest
        .find(|c: char| !c.is_ascii_alphanumeric() && c != '-' && c != '_')
        .unwrap_or(rest.len());
    let (name, rest) = rest.split_at(end);
    (!name.is_empty() && (rest.is_empty() || rest.starts_with(' '))).then_some((name, rest))
}

/// What follows `<<:`, if the line is a merge.
fn merge(text: &str) -> Option<&str> {
    Some(
        text.strip_prefix("<<")?
            .trim_start_matches(' ')
            .strip_prefix(':')?
            .strip_prefix(' ')?
            .trim_start_matches(' '),
    )
}

/// The entries of both; of a key in both, the second value in the first place, as Python's
/// dictionaries have it.
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

/// How many nodes a node is.
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
            Flaw::Unsupported(character, name) => write!(
                f,
                "expected text, found {character:?}, which begins {name}: put text in quotes"
            ),
            Flaw::Marker => write!(
                f,
                "found a directive or a second document: only one document is supported"
            ),
            Flaw::Ambiguous(text) => write!(
                f,
                "{text} is ambiguous in YAML (a boolean, number or date to some): put it in quotes"
            ),
            Flaw::TooLarge(text) => write!(f, "{text} is too large a number"),
            Flaw::Colon(text) => write!(f, "found a second colon in {text}: put text in quotes"),
            Flaw::Unclosed(quote) => write!(f, "{quote:?} is not closed on this line"),
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
            Flaw::NoKey(text) => write!(f, "expected a key and a colon, found {text}"),
            Flaw::KeyNotText(key) => {
                write!(f, "expected text for a key, found {key}: put it in quotes")
            }
            Flaw::LongKey => write!(f, "this key has more than {} characters", scalar::MAX_KEY),
            Flaw::Duplicate(key, first) => write!(f, "the key {key:?} is on line {first} already"),
            Flaw::Indentation => write!(
                f,
                "the indentation matches no line above (text over several lines is not supported)"
            ),
            Flaw::Depth => write!(
                f,
                "more than {MAX_DEPTH} lists and mappings within each other"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn keys_and_items_know_their_lines() {
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

    #[test]
    fn what_is_refused_is_named_with_its_line() {
        for (text, line, sentence) in [
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
                "\"010\" is ambiguous in YAML (a boolean, number or date to some): put it in quotes",
            ),
            ("a: [b, c", 1, "']' is not closed on this line"),
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
            ("a: {b}", 1, "expected a key and a colon, found \"b}\""),
            ("a: {b: 1, b: 2}", 1, "the key \"b\" is on line 1 already"),
            (
                "a: [b, , c]",
                1,
                "expected text, found ',', which begins nothing that is text: put text in quotes",
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
                "\"99999999999999999999\" is too large a number",
            ),
            (
                "a: b: c",
                1,
                "found a second colon in \"b: c\": put text in quotes",
            ),
            ("a: 'b", 1, "'\\'' is not closed on this line"),
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
            ("a: 1\nb", 2, "expected a key and a colon, found \"b\""),
            (
                "1: a",
                1,
                "expected text for a key, found 1: put it in quotes",
            ),
            ("a: 1\nb: 2\na: 3", 3, "the key \"a\" is on line 1 already"),
            (
                "a: 1\n  b: 2",
                2,
                "the indentation matches no line above (text over several lines is not supported)",
            ),
        ] {
            let Error { line: found, flaw } = parse(text.as_bytes()).unwrap_err();
            assert_eq!(
                (found, flaw.to_string().as_str()),
                (line, sentence),
                "{text:?}"
            );
        }
        assert_eq!(
            parse(b"a\n\xff"),
            Err(Error {
                line: 2,
                flaw: Flaw::NotText
            })
        );
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
    fn aliases_of_aliases_end() {
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
        fn no_bytes_make_it_panic(text in any::<Vec<u8>>()) {
            let _ = parse(&text);
        }

        #[test]
        fn no_lines_make_it_panic(text in "([- ]{0,4}[ab'\"\\\\#:é1.~&*<,\\[\\]{}]{0,7}\n){0,6}") {
            let _ = parse(text.as_bytes());
        }
    }
}
