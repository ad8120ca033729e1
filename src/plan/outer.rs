//! Outer locks: the locks under which this run was started, nearest first, as its environment lists
//! them. An outer run releases its lock only after this run has ended, so waiting for such a lock
//! would be a deadlock.

use std::fmt::Write;

/// Lists the outer locks beyond the one that the other variables describe: `SESSION,TOKEN,LOCK` for
/// each, nearest first, separated by spaces. A field is empty if the lock does not have it.
pub const VARIABLE: &str = "ZK_FLOCK_OUTER";

/// The most outer locks that are passed on. No user nests this deep on purpose, and a run that
/// starts itself must not fill its environment.
pub const MAX_OUTER_LOCKS: usize = 64;

/// A lock that an outer run holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OuterLock {
    /// The path of a node or a file.
    pub lock: String,
    /// The fencing token.
    pub token: Option<i64>,
    /// The session that holds the lock.
    pub session: Option<i64>,
}

impl OuterLock {
    /// The nearest outer lock, from the variables that the outer run set for its command.
    pub fn nearest(
        lock: Option<&str>,
        token: Option<&str>,
        session: Option<&str>,
    ) -> Option<OuterLock> {
        Some(OuterLock {
            lock: lock?.into(),
            token: token.and_then(|token| token.parse().ok()),
            session: session.and_then(parse_session),
        })
    }

    fn parse(entry: &str) -> Option<OuterLock> {
        let mut fields = entry.splitn(3, ',');
        let (session, token, lock) = (fields.next()?, fields.next()?, fields.next()?);
        Some(OuterLock {
            lock: unescape(lock)?,
            token: token.parse().ok(),
            session: parse_session(session),
        })
    }
}

/// Parses the variable. Invalid entries are skipped.
pub fn parse(list: &str) -> Vec<OuterLock> {
    list.split(' ')
        .filter_map(OuterLock::parse)
        .take(MAX_OUTER_LOCKS)
        .collect()
}

/// The variable for a command that runs under one lock more; `None` without other locks.
pub fn list(outer: &[OuterLock]) -> Option<String> {
    let entry = |OuterLock {
                     lock,
                     token,
                     session,
                 }: &OuterLock| {
        let session = session.map_or_else(String::new, |session| format!("0x{session:x}"));
        format!(
            "{session},{},{}",
            token.map_or_else(String::new, |token| token.to_string()),
            escape(lock)
        )
    };
    (!outer.is_empty()).then(|| {
        outer
            .iter()
            .take(MAX_OUTER_LOCKS)
            .map(entry)
            .collect::<Vec<_>>()
            .join(" ")
    })
}

fn parse_session(text: &str) -> Option<i64> {
    u64::from_str_radix(text.strip_prefix("0x")?, 16)
        .ok()
        .map(u64::cast_signed)
}

/// Escapes as `%XX` each character that would end an entry, or a line of a script that prints it.
fn escape(lock: &str) -> String {
    lock.chars().fold(String::new(), |mut out, character| {
        if character == '%' || character.is_ascii_whitespace() || character.is_ascii_control() {
            let _ = write!(out, "%{:02X}", u32::from(character));
        } else {
            out.push(character);
        }
        out
    })
}

fn unescape(text: &str) -> Option<String> {
    let mut pieces = text.split('%');
    let mut out = pieces.next()?.to_owned();
    for piece in pieces {
        let (code, rest) = piece.split_at_checked(2)?;
        out.push(char::from(u8::from_str_radix(code, 16).ok()?));
        out.push_str(rest);
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listed_locks_are_parsed_back() {
        let outer = |lock: &str, token, session| OuterLock {
            lock: lock.into(),
            token,
            session,
        };
        let all = vec![
            outer("/ops/report", Some(33), Some(0x1000_0000_0000_0001)),
            outer("/run/a b,c%\n/é", Some(5), None),
            outer("http://h/pool", None, Some(i64::MIN)),
        ];
        let text = list(&all).unwrap();
        assert!(
            text.starts_with("0x1000000000000001,33,/ops/report ,5,/run/a%20b,c%25%0A/é "),
            "{text}"
        );
        assert_eq!(parse(&text), all);
        assert_eq!(list(&[]), None);
        for nonsense in ["", " ", "x", ",", "%", "1,2,%", "1,2,%zz", "1,2,%é"] {
            assert_eq!(parse(nonsense), [], "{nonsense:?}");
        }
        assert_eq!(parse(&"0x1,1,/a ".repeat(1000)).len(), MAX_OUTER_LOCKS);
    }

    #[test]
    fn nearest_lock_has_its_own_variables() {
        let nearest = |session| OuterLock::nearest(Some("/a"), Some("7"), session);
        assert_eq!(
            nearest(Some("0xff")).unwrap(),
            OuterLock {
                lock: "/a".into(),
                token: Some(7),
                session: Some(255)
            }
        );
        assert_eq!(nearest(Some("255")).unwrap().session, None);
        assert_eq!(OuterLock::nearest(None, Some("7"), Some("0x1")), None);
    }
}
