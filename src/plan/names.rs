//! What a lock may be called: in ZooKeeper what its servers take (`PathUtils.validatePath`), as a
//! file one plain name.

use super::QUEUES;
use std::fmt;

/// Why a name cannot be a lock's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flaw {
    /// There is nothing.
    Empty,
    /// A slash at the beginning or the end.
    OuterSlash,
    /// Nothing between two slashes.
    EmptyElement,
    /// `.` or `..`, which mean other places.
    Relative,
    /// A character that ZooKeeper refuses.
    Forbidden(char),
    /// A slash, where one file is to be named.
    Slash,
    /// The node of the queues, or one below it.
    Queues,
    /// Not UTF-8.
    NotText,
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Flaw::Empty => write!(f, "it is empty"),
            Flaw::OuterSlash => write!(f, "must not begin or end with \"/\""),
            Flaw::EmptyElement => write!(f, "must not contain \"//\""),
            Flaw::Relative => write!(f, "\".\" and \"..\" are not allowed as path components"),
            Flaw::Forbidden(character) => write!(
                f,
                "character U+{:04X} is not allowed",
                u32::from(*character)
            ),
            Flaw::Slash => write!(f, "no \"/\" with --local"),
            Flaw::Queues => write!(
                f,
                "the name {QUEUES:?} is reserved for the queues of waiters"
            ),
            Flaw::NotText => write!(f, "it is not UTF-8"),
        }
    }
}

/// Checks a name below a ZooKeeper node; it may have slashes inside, and the server decides about
/// parents.
pub fn check_node(name: &str) -> Result<(), Flaw> {
    if name.is_empty() {
        return Err(Flaw::Empty);
    }
    if name.starts_with('/') || name.ends_with('/') {
        return Err(Flaw::OuterSlash);
    }
    name.split('/').try_for_each(|element| match element {
        "" => Err(Flaw::EmptyElement),
        "." | ".." => Err(Flaw::Relative),
        _ => Ok(()),
    })?;
    name.chars()
        .find(|&character| is_forbidden(character))
        .map_or(Ok(()), |character| Err(Flaw::Forbidden(character)))
}

/// Checks the name of a lock of zk-flock below the node of its application.
pub fn check_lock(name: &str) -> Result<(), Flaw> {
    if name.split('/').next() == Some(QUEUES) {
        Err(Flaw::Queues)
    } else {
        check_node(name)
    }
}

/// Checks the name of a file.
pub fn check_file(name: &str) -> Result<(), Flaw> {
    match name {
        "" => Err(Flaw::Empty),
        "." | ".." => Err(Flaw::Relative),
        _ if name.contains('/') => Err(Flaw::Slash),
        _ if name.contains('\0') => Err(Flaw::Forbidden('\0')),
        _ => Ok(()),
    }
}

/// Whether ZooKeeper refuses a path with this character. It looks at UTF-16 units, so what needs
/// two of them (surrogates, U+D800 on) is out.
fn is_forbidden(character: char) -> bool {
    matches!(character, '\0'..='\u{1f}' | '\u{7f}'..='\u{9f}' | '\u{e000}'..='\u{f8ff}' | '\u{fff0}'..)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_may_be_called_what_zookeeper_allows() {
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
    fn what_zookeeper_refuses_is_refused_with_the_reason() {
        for (name, flaw) in [
            ("", Flaw::Empty),
            ("/", Flaw::OuterSlash),
            ("/a", Flaw::OuterSlash),
            ("a/", Flaw::OuterSlash),
            ("a//b", Flaw::EmptyElement),
            (".", Flaw::Relative),
            ("..", Flaw::Relative),
            ("a/./b", Flaw::Relative),
            ("a/..", Flaw::Relative),
            ("a\0", Flaw::Forbidden('\0')),
            ("a\nb", Flaw::Forbidden('\n')),
            ("\u{1f}", Flaw::Forbidden('\u{1f}')),
            ("\u{7f}", Flaw::Forbidden('\u{7f}')),
            ("\u{9f}", Flaw::Forbidden('\u{9f}')),
            ("\u{e000}", Flaw::Forbidden('\u{e000}')),
            ("\u{f8ff}", Flaw::Forbidden('\u{f8ff}')),
            ("\u{fff0}", Flaw::Forbidden('\u{fff0}')),
            ("\u{ffff}", Flaw::Forbidden('\u{ffff}')),
            ("🔒", Flaw::Forbidden('🔒')),
        ] {
            assert_eq!(check_node(name), Err(flaw), "{name:?}");
        }
    }

    #[test]
    fn a_lock_is_not_called_what_the_queues_are() {
        for (name, outcome) in [
            (".queue", Err(Flaw::Queues)),
            (".queue/a", Err(Flaw::Queues)),
            ("a/.queue", Ok(())),
            (".queues", Ok(())),
            ("a//b", Err(Flaw::EmptyElement)),
        ] {
            assert_eq!(check_lock(name), outcome, "{name:?}");
        }
    }

    #[test]
    fn a_file_has_one_plain_name() {
        for (name, outcome) in [
            ("a b", Ok(())),
            ("...", Ok(())),
            ("🔒", Ok(())),
            ("", Err(Flaw::Empty)),
            (".", Err(Flaw::Relative)),
            ("..", Err(Flaw::Relative)),
            ("a/b", Err(Flaw::Slash)),
            ("a\0", Err(Flaw::Forbidden('\0'))),
        ] {
            assert_eq!(check_file(name), outcome, "{name:?}");
        }
    }
}
