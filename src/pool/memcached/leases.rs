//! The second key of a pool, `POOL:leases`: what the list of hosts cannot say of its holders. The
//! list alone decides who holds the pool, since the original knows nothing else; a lease of a host
//! that is not on the list is nothing.
//!
//! A version, then a line for each host: its name as on the list, token, length of its lease in
//! seconds (0: until released), the version of the list that it was to be added to (`-`: there was
//! none), when it was acquired in ms since 1970 (for people, nothing depends on it), marks (`c`
//! confirmed, `r` revoked), and run id. Anything else is refused as a whole: a half-understood
//! lease could grant or shorten something.

use super::super::invalid_request;
use super::super::waiters::Run;
use super::expiry::Lifetime;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::rc::Rc;

/// Of the format. A server that meets another one grants nothing in that pool.
const VERSION: &str = "1";

/// What is known of a holder, or of a host that a server is about to put on the list.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Lease {
    /// Never 0 once it is written.
    pub(super) token: i64,
    /// Which run of the host holds the pool; `None`: the host itself.
    pub(super) run: Option<Run>,
    /// The longest lease that the host was told, or may be told without another write: no list
    /// that it is on is written for less.
    pub(super) length: Lifetime,
    /// The version of the list that the host was to be added to. While the list has that version,
    /// a server may be about to do so.
    pub(super) base: Option<u64>,
    /// In ms since 1970, by the clock of the server that granted it.
    pub(super) acquired: u64,
    /// Another server than the one that granted it has confirmed it: an answer of the first that
    /// is lost takes nothing back.
    pub(super) confirmed: bool,
    /// It is not confirmed again.
    pub(super) revoked: bool,
}

/// By host, named as on the list.
pub(super) type Leases = BTreeMap<Rc<str>, Lease>;

/// What stands under the key, if that can be understood.
pub(super) fn parse(value: &[u8]) -> Option<Leases> {
    let mut lines = str::from_utf8(value).ok()?.split('\n');
    if lines.next() != Some(VERSION) {
        return None;
    }
    let mut leases = Leases::new();
    for line in lines {
        let (host, lease) = entry(line)?;
        if leases.insert(host, lease).is_some() {
            return None;
        }
    }
    Some(leases)
}

fn entry(line: &str) -> Option<(Rc<str>, Lease)> {
    let fields: Vec<_> = line.split(',').collect();
    let &[host, token, length, base, acquired, marks, run] = &fields[..] else {
        return None;
    };
    let (confirmed, revoked) = match marks {
        "" => (false, false),
        "c" => (true, false),
        "r" => (false, true),
        "cr" => (true, true),
        _ => return None,
    };
    let lease = Lease {
        token: number(token)
            .and_then(|token| i64::try_from(token).ok())
            .filter(|token| *token > 0)?,
        run: if run.is_empty() {
            None
        } else {
            Some(
                invalid_request::check_run(run.as_bytes())
                    .map(|()| run.into())
                    .ok()?,
            )
        },
        length: match number(length)? {
            0 => Lifetime::UntilReleased,
            seconds => Lifetime::Seconds(seconds),
        },
        base: if base == "-" {
            None
        } else {
            Some(number(base)?)
        },
        acquired: number(acquired)?,
        confirmed,
        revoked,
    };
    let is_name = !host.is_empty() && !host.contains(char::is_control);
    is_name.then(|| (host.into(), lease))
}

/// Digits alone: `parse` takes a sign as well.
fn number(text: &str) -> Option<u64> {
    text.bytes()
        .all(|byte| byte.is_ascii_digit())
        .then(|| text.parse().ok())?
}

/// As they stand under the key.
pub(super) fn text(leases: &Leases) -> String {
    let mut text = VERSION.to_owned();
    for (
        host,
        Lease {
            token,
            run,
            length,
            base,
            acquired,
            confirmed,
            revoked,
        },
    ) in leases
    {
        let length = if let Lifetime::Seconds(seconds) = length {
            *seconds
        } else {
            0
        };
        let base = base.map_or("-".to_owned(), |base| base.to_string());
        let marks = [("c", confirmed), ("r", revoked)]
            .map(|(mark, is_set)| if *is_set { mark } else { "" })
            .concat();
        let _ = write!(
            text,
            "\n{host},{token},{length},{base},{acquired},{marks},{}",
            run.as_deref().unwrap_or("")
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lease() -> Lease {
        Lease {
            token: 7,
            run: None,
            length: Lifetime::Seconds(60),
            base: Some(12),
            acquired: 1_763_000_000_000,
            confirmed: false,
            revoked: false,
        }
    }

    #[test]
    fn leases_are_written_as_lines_and_read_again() {
        let leases = Leases::from([
            ("r&amp;d".into(), lease()),
            (
                "b".into(),
                Lease {
                    run: Some("1.a_B-".into()),
                    length: Lifetime::UntilReleased,
                    base: None,
                    confirmed: true,
                    revoked: true,
                    ..lease()
                },
            ),
        ]);
        assert_eq!(
            text(&leases),
            "1\nb,7,0,-,1763000000000,cr,1.a_B-\nr&amp;d,7,60,12,1763000000000,,"
        );
        assert_eq!(parse(text(&leases).as_bytes()), Some(leases));
        assert_eq!(
            (text(&Leases::new()), parse(b"1")),
            ("1".to_owned(), Some(Leases::new()))
        );
    }

    #[test]
    fn what_is_not_understood_is_refused_as_a_whole() {
        for wrong in [
            &b""[..],
            b"2",
            b"1\n",
            b"1\r\na,7,60,-,0,,",
            b"1\na,7,60,-,0,",
            b"1\na,7,60,-,0,,,",
            b"1\n,7,60,-,0,,",
            b"1\na,0,60,-,0,,",
            b"1\na,-7,60,-,0,,",
            b"1\na,+7,60,-,0,,",
            b"1\na,9223372036854775808,60,-,0,,",
            b"1\na,7,,-,0,,",
            b"1\na,7,60.5,-,0,,",
            b"1\na,7,60,,0,,",
            b"1\na,7,60,-,0,x,",
            b"1\na,7,60,-,0,rc,",
            b"1\na,7,60,-,0,,a b",
            b"1\na,7,60,-,0,,\na,8,60,-,0,,",
            b"1\na\t,7,60,-,0,,",
            b"1\n\xff,7,60,-,0,,",
        ] {
            assert_eq!(parse(wrong), None, "{}", wrong.escape_ascii());
        }
        let long = format!(
            "1\na,7,60,-,0,,{}",
            "r".repeat(invalid_request::MAX_RUN_LENGTH + 1)
        );
        assert_eq!(parse(long.as_bytes()), None);
    }

    proptest! {
        #[test]
        fn whatever_stands_there_is_read_or_refused_and_never_more(bytes in prop::collection::vec(any::<u8>(), 0..200), cut in 0..60usize) {
            let _ = parse(&bytes);
            let whole = text(&Leases::from([("a".into(), lease()), ("b".into(), lease())]));
            let part = &whole.as_bytes()[..cut.min(whole.len())];
            prop_assert!(parse(part).is_none_or(|leases| text(&leases).as_bytes() == part));
        }
    }
}
