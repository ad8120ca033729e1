//! The second key of a pool, `POOL:leases`: what the list of hosts cannot express about its
//! holders. The list alone decides who holds the pool, because the original knows nothing else; the
//! lease of a host that is not on the list has no effect.
//!
//! A version, then a line for each host: its name as on the list, token, length of its lease in
//! seconds (0: until released), the version of the list that the host was to be added to (`-`:
//! there was no list), when it acquired the pool in ms since 1970 (shown to operators, otherwise
//! unused), marks (`c` confirmed, `r` revoked), and run id. A value with anything else is refused
//! as a whole: a lease that is only partly understood could grant or shorten a holding.

use super::super::invalid_request;
use super::super::waiters::Run;
use super::expiry::Lifetime;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::rc::Rc;

/// Of the format. A server that reads another version grants nothing in that pool.
const VERSION: &str = "1";

/// The lease of a holder, or of a host that a server is about to add to the list.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Lease {
    /// Never 0 in memcached.
    pub(super) token: i64,
    /// The run that holds the pool; `None`: the host itself.
    pub(super) run: Option<Run>,
    /// The longest lease that the host was told, or may be told without another write. No list with
    /// this host is written for less.
    pub(super) length: Lifetime,
    /// The version of the list that the host was to be added to. While the list has this version, a
    /// server may be about to add the host.
    pub(super) base: Option<u64>,
    /// In ms since 1970, by the clock of the server that granted it.
    pub(super) acquired: u64,
    /// Another server than the granting one has answered YES, so a lost reply of the granting
    /// server does not take the holding back.
    pub(super) confirmed: bool,
    /// The holder gets no YES any more.
    pub(super) revoked: bool,
}

/// By host, named as on the list.
pub(super) type Leases = BTreeMap<Rc<str>, Lease>;

/// Parses the value of the key; `None`: it is not understood.
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

/// Only digits: `parse` alone would accept a sign.
fn number(text: &str) -> Option<u64> {
    text.bytes()
        .all(|byte| byte.is_ascii_digit())
        .then(|| text.parse().ok())?
}

/// The value of the key.
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
    fn written_leases_are_read_back_unchanged() {
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
    fn value_with_one_bad_line_is_refused_as_a_whole() {
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
        fn any_bytes_are_read_or_refused_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), cut in 0..60usize) {
            let _ = parse(&bytes);
            let whole = text(&Leases::from([("a".into(), lease()), ("b".into(), lease())]));
            let part = &whole.as_bytes()[..cut.min(whole.len())];
            prop_assert!(parse(part).is_none_or(|leases| text(&leases).as_bytes() == part));
        }
    }
}
