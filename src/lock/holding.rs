//! What a lock server says of a place in a pool: the one word of its reply, and what our own server tells besides.

use crate::deadlines::Deadlines;
use crate::http::Reply;
use crate::moment::Moment;
use std::time::Duration;

/// The most characters that are shown of what a server said.
const SHOWN: usize = 60;

/// The word that a reply consists of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Word {
    /// The place is ours.
    Yes,
    /// All places are taken by others.
    No,
    /// It is given back.
    Ok,
    /// The server has no such pool, or does not let us use it, or does not know the request.
    Invalid,
    /// None of them.
    Other,
}

impl Word {
    pub(super) fn of(reply: &Reply) -> Word {
        match (reply.status, &reply.body[..]) {
            (200, b"YES") => Word::Yes,
            (200, b"NO") => Word::No,
            (200, b"OK") => Word::Ok,
            (200, b"INVALID") => Word::Invalid,
            _ => Word::Other,
        }
    }
}

/// What a reply says, in a few words that can be shown.
pub(super) fn said(reply: &Reply) -> String {
    let body = String::from_utf8_lossy(&reply.body);
    let text = match reply.status {
        200 if body.is_empty() => "nothing",
        200 => &body,
        status => return format!("{status} {}", reply.reason),
    };
    let shown: String = text.chars().take(SHOWN).map(|character| if character.is_control() { ' ' } else { character }).collect();
    if text.chars().nth(SHOWN).is_some() { shown + "…" } else { shown }
}

/// A place that a server says is ours.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Place {
    /// Grows with every place that is given.
    pub(super) token: Option<i64>,
    /// `None`: it is ours until we give it back, or until the server takes it without a word.
    pub(super) lease: Option<Lease>,
}

impl Place {
    /// By the reply to a request that was sent then.
    pub(super) fn of(reply: &Reply, sent: Moment) -> Place {
        Place { token: reply.header("X-Lock-Token").and_then(|token| token.parse().ok()), lease: Lease::of(reply, sent) }
    }
}

/// For how long a place is lent, and since when at the earliest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Lease {
    pub(super) length: Duration,
    /// When it was asked for: the server's clock has not begun before.
    pub(super) sent: Moment,
}

impl Lease {
    /// What is lent for no time does not expire.
    fn of(reply: &Reply, sent: Moment) -> Option<Lease> {
        let seconds = reply.header("X-Lock-Expires")?.parse().ok()?;
        let length = Duration::try_from_secs_f64(seconds).ok().filter(|length| !length.is_zero())?;
        Some(Lease { length, sent })
    }

    /// Nobody else can be given the place before.
    pub(super) fn until(self) -> Moment {
        self.sent + self.length
    }

    /// When to ask for it anew: if that is not answered, there is time to ask again.
    pub(super) fn renewal(self) -> Moment {
        self.sent + self.length / 3
    }

    /// When the command must go; `kill_after` is the grace that an operator's stop would give it.
    pub(super) fn deadlines(self, kill_after: Duration) -> Deadlines {
        Deadlines::of(self.until(), self.length, kill_after)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(status: u16, body: &str) -> Reply {
        Reply::new(status, "text/html", body)
    }

    #[test]
    fn a_word_is_the_whole_body_of_a_good_reply() {
        for (status, body, word) in [
            (200, "YES", Word::Yes),
            (200, "NO", Word::No),
            (200, "OK", Word::Ok),
            (200, "INVALID", Word::Invalid),
            (200, "", Word::Other),
            (200, "yes", Word::Other),
            (200, "YES\n", Word::Other),
            (500, "YES", Word::Other),
        ] {
            assert_eq!(Word::of(&reply(status, body)), word, "{status} {body:?}");
        }
    }

    #[test]
    fn what_was_said_is_one_short_line() {
        for (status, body, shown) in [
            (200, "INVALID", "INVALID".to_owned()),
            (200, "", "nothing".to_owned()),
            (200, "<html>\r\n\x1b[2J", "<html>   [2J".to_owned()),
            (200, &"é".repeat(60), "é".repeat(60)),
            (200, &"é".repeat(61), "é".repeat(60) + "…"),
            (503, "<html>", "503 Service Unavailable".to_owned()),
        ] {
            assert_eq!(said(&reply(status, body)), shown);
        }
        assert_eq!(said(&Reply::new(200, "text/html", vec![0xff])), "\u{fffd}");
    }

    #[test]
    fn only_a_server_that_says_so_lends_a_place_and_counts_it() {
        let sent = Moment(Duration::from_secs(7));
        let lent = |expires: &str| Place::of(&reply(200, "YES").with("X-Lock-Token", "5").with("X-Lock-Expires", expires), sent).lease;
        assert_eq!(Place::of(&reply(200, "YES"), sent), Place { token: None, lease: None });
        assert_eq!(Place::of(&reply(200, "YES").with("x-lock-token", "5"), sent).token, Some(5));
        for (expires, length) in [("300", 300_000), ("0.5", 500), ("1e3", 1_000_000)] {
            assert_eq!(lent(expires), Some(Lease { length: Duration::from_millis(length), sent }), "{expires}");
        }
        for nonsense in ["0", "-1", "nan", "inf", "1e300", "soon", ""] {
            assert_eq!(lent(nonsense), None, "{nonsense}");
        }
    }
}
