//! Names that a lock may have: in ZooKeeper those that its servers accept
//! (`PathUtils.validatePath`), as a file one plain file name.

use super::{BREAKS, CHECK, QUEUES, RUNS};
use std::fmt;

/// Why a name is not allowed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum InvalidName {
    /// The name is empty.
    Empty,
    /// The name starts or ends with a slash.
    OuterSlash,
    /// The name has two slashes in a row.
    EmptyElement,
    /// A component is `.` or `..`, which mean other directories.
    Relative,
    /// The name has a character that ZooKeeper refuses.
    Forbidden(char),
    /// The name has a slash, but must be a file name.
    Slash,
    /// The name is that of a node that has no locks, or is below it.
    Reserved(&'static str),
    /// The name is not UTF-8.
    NotText,
}

impl fmt::Display for InvalidName {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            InvalidName::Empty => write!(f, "it is empty"),
            InvalidName::OuterSlash => write!(f, "must not begin or end with \"/\""),
            InvalidName::EmptyElement => write!(f, "must not contain \"//\""),
            InvalidName::Relative => {
                write!(f, "\".\" and \"..\" are not allowed as path components")
            }
            InvalidName::Forbidden(character) => write!(
                f,
                "character U+{:04X} is not allowed",
                u32::from(*character)
            ),
            InvalidName::Slash => write!(f, "must not contain \"/\" with --local"),
            InvalidName::Reserved(name) => write!(f, "the name {name:?} is reserved"),
            InvalidName::NotText => write!(f, "it is not UTF-8"),
        }
    }
}

/// Checks a name below a ZooKeeper node. It may have slashes inside; whether the parents exist is
/// for the server to say.
pub fn check_node(name: &str) -> Result<(), InvalidName> {
    if name.is_empty() {
        return Err(InvalidName::Empty);
    }
    if name.starts_with('/') || name.ends_with('/') {
        return Err(InvalidName::OuterSlash);
    }
    name.split('/').try_for_each(|element| match element {
        "" => Err(InvalidName::EmptyElement),
        "." | ".." => Err(InvalidName::Relative),
        _ => Ok(()),
    })?;
    name.chars()
        .find(|&character| is_forbidden(character))
        .map_or(Ok(()), |character| Err(InvalidName::Forbidden(character)))
}

/// Checks the name of a zk-flock lock, below the node of its application.
pub fn check_lock(name: &str) -> Result<(), InvalidName> {
    let first = name.split('/').next();
    match [QUEUES, BREAKS, RUNS, CHECK]
        .into_iter()
        .find(|&reserved| first == Some(reserved))
    {
        Some(reserved) => Err(InvalidName::Reserved(reserved)),
        None => check_node(name),
    }
}

/// Checks the path of a lockex lock, or its end. The reserved nodes are beside the lock's node, which
/// may be on any level.
pub fn check_queue(path: &str) -> Result<(), InvalidName> {
    let is_reserved = |reserved: &&str| path.split('/').any(|element| element == *reserved);
    match [BREAKS, RUNS, CHECK].into_iter().find(is_reserved) {
        Some(reserved) => Err(InvalidName::Reserved(reserved)),
        None => check_node(path),
    }
}

/// Checks a file name.
pub fn check_file(name: &str) -> Result<(), InvalidName> {
    match name {
        "" => Err(InvalidName::Empty),
        "." | ".." => Err(InvalidName::Relative),
        _ if name.contains('/') => Err(InvalidName::Slash),
        _ if name.contains('\0') => Err(InvalidName::Forbidden('\0')),
        _ => Ok(()),
    }
}

/// Whether ZooKeeper refuses a path with this character. The server checks UTF-16 units, so it
/// refuses every character that needs two of them (surrogates are U+D800 and up).
fn is_forbidden(character: char) -> bool {
    matches!(character, '\0'..='\u{1f}' | '\u{7f}'..='\u{9f}' | '\u{e000}'..='\u{f8ff}' | '\u{fff0}'..)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_names_are_those_that_zookeeper_allows() {
        for name in [
            "a",
            "a/b",
            "a b",
            " ",
            "замок",
            "...",
            ".a",
            "a..",
            "\u{a0}",
            "\u{d7ff}",
            "\u{f900}",
            "\u{ffef}",
            "\\",
            "\"",
            "NAME_0",
        ] {
            assert_eq!(check_node(name), Ok(()), "{name:?}");
        }
    }

    #[test]
    fn node_names_that_zookeeper_refuses_are_refused_with_the_reason() {
        for (name, flaw) in [
            ("", InvalidName::Empty),
            ("/", InvalidName::OuterSlash),
            ("/a", InvalidName::OuterSlash),
            ("a/", InvalidName::OuterSlash),
            ("a//b", InvalidName::EmptyElement),
            (".", InvalidName::Relative),
            ("..", InvalidName::Relative),
            ("a/./b", InvalidName::Relative),
            ("a/..", InvalidName::Relative),
            ("a\0", InvalidName::Forbidden('\0')),
            ("a\nb", InvalidName::Forbidden('\n')),
            ("\u{1f}", InvalidName::Forbidden('\u{1f}')),
            ("\u{7f}", InvalidName::Forbidden('\u{7f}')),
            ("\u{9f}", InvalidName::Forbidden('\u{9f}')),
            ("\u{e000}", InvalidName::Forbidden('\u{e000}')),
            ("\u{f8ff}", InvalidName::Forbidden('\u{f8ff}')),
            ("\u{fff0}", InvalidName::Forbidden('\u{fff0}')),
            ("\u{ffff}", InvalidName::Forbidden('\u{ffff}')),
            ("🔒", InvalidName::Forbidden('🔒')),
        ] {
            assert_eq!(check_node(name), Err(flaw), "{name:?}");
        }
    }

    #[test]
    fn lock_of_lockex_cannot_be_below_the_node_of_requests() {
        for (path, outcome) in [
            (".break", Err(InvalidName::Reserved(BREAKS))),
            ("lockex/.break/7", Err(InvalidName::Reserved(BREAKS))),
            ("lockex/.runs", Err(InvalidName::Reserved(RUNS))),
            (".check", Err(InvalidName::Reserved(CHECK))),
            ("lockex/.breaks", Ok(())),
            (".queue", Ok(())),
            ("a//b", Err(InvalidName::EmptyElement)),
        ] {
            assert_eq!(check_queue(path), outcome, "{path:?}");
        }
    }

    #[test]
    fn lock_cannot_have_a_reserved_name() {
        for (name, outcome) in [
            (".break", Err(InvalidName::Reserved(BREAKS))),
            (".break/a", Err(InvalidName::Reserved(BREAKS))),
            ("a/.break", Ok(())),
            (".runs", Err(InvalidName::Reserved(RUNS))),
            (".check", Err(InvalidName::Reserved(CHECK))),
            (".breaks", Ok(())),
            (".queue", Err(InvalidName::Reserved(QUEUES))),
            (".queue/a", Err(InvalidName::Reserved(QUEUES))),
            ("a/.queue", Ok(())),
            (".queues", Ok(())),
            ("a//b", Err(InvalidName::EmptyElement)),
        ] {
            assert_eq!(check_lock(name), outcome, "{name:?}");
        }
    }

    #[test]
    fn file_name_cannot_be_a_path() {
        for (name, outcome) in [
            ("a b", Ok(())),
            ("...", Ok(())),
            ("🔒", Ok(())),
            ("", Err(InvalidName::Empty)),
            (".", Err(InvalidName::Relative)),
            ("..", Err(InvalidName::Relative)),
            ("a/b", Err(InvalidName::Slash)),
            ("a\0", Err(InvalidName::Forbidden('\0'))),
        ] {
            assert_eq!(check_file(name), outcome, "{name:?}");
        }
    }
}
