//! What a lock server says of a slot in a pool: the one word of its reply, and the token and lease
//! that our own server adds.

use crate::deadlines::Deadlines;
use crate::http::Reply;
use crate::moment::Moment;
use std::fmt;
use std::time::Duration;

/// The most characters that are shown of what a server said.
const SHOWN: usize = 60;

/// The header of a YES that has the seconds of the lease.
const EXPIRES: &str = "X-Lock-Expires";

/// The shortest lease of which enough is left for a renewal to be late. Of an `expire` of 2 s our
/// own server tells half, less the time since the grant; of less it tells too little.
const SHORTEST: Duration = Duration::from_millis(950);

/// A longer lease is taken for one of this length: nanoseconds of that many years still fit in an
/// i64, in which the guard is told of deadlines. One that did not fit would be endless.
const LONGEST: Duration = Duration::from_hours(100 * 365 * 24);

/// Our own server keeps a lease for longer than it tells: by a twentieth of the time that it keeps
/// it, and by a second at least (by half of a lease of less than two seconds, which is less than
/// that). So, of the time that it tells, one part in so many.
const SLACK: u32 = 19;
const LEAST_SLACK: Duration = Duration::from_secs(1);

/// What a server says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum ServerReply {
    /// YES: the slot is ours.
    Yes(Place),
    /// YES, with a lease that is none.
    BadLease(BadLease),
    /// NO: all slots are held by others.
    No,
    /// NO: the slot was ours, and an operator has revoked it.
    Revoked,
    /// OK: the slot is released.
    Ok,
    /// The server has no such pool, or does not let us use it, or does not know the request.
    Invalid,
    /// None of them.
    Other,
}

impl ServerReply {
    /// The meaning of the reply to a request that was sent then.
    pub(super) fn of(reply: &Reply, sent: Moment) -> ServerReply {
        match (reply.status, &reply.body[..]) {
            (200, b"YES") => {
                Place::of(reply, sent).map_or_else(ServerReply::BadLease, ServerReply::Yes)
            }
            (200, b"NO") if reply.header("X-Lock-Revoked") == Some("1") => ServerReply::Revoked,
            (200, b"NO") => ServerReply::No,
            (200, b"OK") => ServerReply::Ok,
            (200, b"INVALID") => ServerReply::Invalid,
            _ => ServerReply::Other,
        }
    }
}

/// What a reply says, in a few words that can be shown.
pub(super) fn said(reply: &Reply) -> String {
    let body = String::from_utf8_lossy(&reply.body);
    match reply.status {
        200 if body.is_empty() => "nothing".into(),
        200 => shown(&body),
        status => format!("{status} {}", reply.reason),
    }
}

/// The beginning of a text, on one line.
fn shown(text: &str) -> String {
    let shown: String = text
        .chars()
        .take(SHOWN)
        .map(|character| {
            if character.is_control() {
                ' '
            } else {
                character
            }
        })
        .collect();
    if text.chars().nth(SHOWN).is_some() {
        shown + "…"
    } else {
        shown
    }
}

/// A slot that a server says is ours.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Place {
    /// Grows with every slot that is granted.
    pub(super) token: Option<i64>,
    /// `None`: it is ours until we release it, or until the server takes it without a word. Only a
    /// server that says nothing of a lease says that.
    pub(super) lease: Option<Lease>,
}

impl Place {
    fn of(reply: &Reply, sent: Moment) -> Result<Place, BadLease> {
        let token = reply
            .header("X-Lock-Token")
            .and_then(|token| token.parse().ok());
        match reply.combined(EXPIRES) {
            None => Ok(Place { token, lease: None }),
            Some(text) => match Lease::of(&text, sent) {
                Ok(lease) => Ok(Place {
                    token,
                    lease: Some(lease),
                }),
                Err(flaw) => Err(BadLease {
                    token,
                    said: shown(&text),
                    flaw,
                }),
            },
        }
    }
}

/// What a server says of a lease, and no client can keep. The slot may be ours there all the same.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct BadLease {
    /// Of the slot.
    token: Option<i64>,
    /// The value of the header.
    said: String,
    flaw: Flaw,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Flaw {
    NotSeconds,
    Ended,
    TooShort,
}

impl BadLease {
    /// A lease that can be read, and is too short to be kept. `None` if it is long enough.
    pub(super) fn too_short(Place { token, lease }: Place) -> Option<BadLease> {
        let length = lease
            .map(|lease| lease.length)
            .filter(|&length| length < SHORTEST)?;
        Some(BadLease {
            token,
            said: length.as_secs_f64().to_string(),
            flaw: Flaw::TooShort,
        })
    }

    /// The slot, as far as it is known.
    pub(super) fn place(&self) -> Place {
        Place {
            token: self.token,
            lease: None,
        }
    }

    /// What to do about it.
    pub(super) fn advice(&self) -> &'static str {
        match self.flaw {
            Flaw::NotSeconds => "check the lock server and any proxy in front of it",
            // The server tells a second less than it keeps, or half.
            Flaw::Ended | Flaw::TooShort => {
                "raise \"expire\" of the pool on the server, to 2 seconds or more"
            }
        }
    }
}

impl fmt::Display for BadLease {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let why = match self.flaw {
            Flaw::NotSeconds => "is not a number of seconds",
            Flaw::Ended => "is a lease that has already ended",
            Flaw::TooShort => "is too short a lease to hold the lock safely",
        };
        write!(f, "said \"{EXPIRES}: {}\", which {why}", self.said)
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
    fn of(text: &str, sent: Moment) -> Result<Lease, Flaw> {
        let seconds: f64 = text.parse().map_err(|_| Flaw::NotSeconds)?;
        if seconds.is_finite() && seconds <= 0.0 {
            return Err(Flaw::Ended);
        }
        let length = Duration::try_from_secs_f64(seconds).map_err(|_| Flaw::NotSeconds)?;
        if length.is_zero() {
            Err(Flaw::Ended)
        } else {
            Ok(Lease {
                length: length.min(LONGEST),
                sent,
            })
        }
    }

    /// No other client can be granted the slot before.
    pub(super) fn until(self) -> Moment {
        self.sent + self.length
    }

    /// By when the slot is free again if it is not released.
    pub(super) fn free_by(self) -> Moment {
        self.until() + (self.length / SLACK).max(LEAST_SLACK)
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

    const SENT: Moment = Moment(Duration::from_secs(7));

    fn of(reply: &Reply) -> ServerReply {
        ServerReply::of(reply, SENT)
    }

    fn yes(expires: &str) -> ServerReply {
        of(&reply(200, "YES")
            .with("X-Lock-Token", "5")
            .with("X-Lock-Expires", expires))
    }

    #[test]
    fn a_word_is_the_whole_body_of_a_good_reply() {
        let place = Place {
            token: None,
            lease: None,
        };
        for (status, body, word) in [
            (200, "YES", ServerReply::Yes(place)),
            (200, "NO", ServerReply::No),
            (200, "OK", ServerReply::Ok),
            (200, "INVALID", ServerReply::Invalid),
            (200, "", ServerReply::Other),
            (200, "yes", ServerReply::Other),
            (200, "YES\n", ServerReply::Other),
            (500, "YES", ServerReply::Other),
        ] {
            assert_eq!(of(&reply(status, body)), word, "{status} {body:?}");
        }
    }

    #[test]
    fn only_a_no_with_the_header_is_a_revoke() {
        for (body, value, expected) in [
            ("NO", "1", ServerReply::Revoked),
            ("NO", "0", ServerReply::No),
            ("NO", "", ServerReply::No),
            ("OK", "1", ServerReply::Ok),
            ("INVALID", "1", ServerReply::Invalid),
        ] {
            assert_eq!(
                of(&reply(200, body).with("x-lock-revoked", value)),
                expected,
                "{body} {value:?}"
            );
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
    fn only_a_server_that_says_so_lends_a_slot_and_counts_it() {
        let place = |token, lease| ServerReply::Yes(Place { token, lease });
        assert_eq!(of(&reply(200, "YES")), place(None, None));
        assert_eq!(
            of(&reply(200, "YES").with("x-lock-token", "5")),
            place(Some(5), None)
        );
        for (expires, length) in [("300", 300_000), ("0.5", 500), ("1e3", 1_000_000)] {
            let lease = Lease {
                length: Duration::from_millis(length),
                sent: SENT,
            };
            assert_eq!(yes(expires), place(Some(5), Some(lease)), "{expires}");
        }
    }

    /// Before, each of them was a lock for ever.
    #[test]
    fn a_lease_that_cannot_be_read_or_has_ended_is_no_lease_and_never_an_endless_one() {
        for (values, flaw) in [
            (
                &[
                    "nan", "inf", "+inf", "infinity", "1e300", "30s", "", "soon", "30, 30", "1,5",
                    "0x10", "3 0",
                ][..],
                Flaw::NotSeconds,
            ),
            (
                &["0", "-0", "0.0", "-1", "-0.001", "-1e300", "1e-12"],
                Flaw::Ended,
            ),
        ] {
            for &said in values {
                assert_eq!(
                    yes(said),
                    ServerReply::BadLease(BadLease {
                        token: Some(5),
                        said: said.into(),
                        flaw
                    }),
                    "{said:?}"
                );
            }
        }
        let twice = reply(200, "YES")
            .with("X-Lock-Expires", 30)
            .with("X-Lock-Expires", 0);
        assert_eq!(
            of(&twice),
            ServerReply::BadLease(BadLease {
                token: None,
                said: "30, 0".into(),
                flaw: Flaw::NotSeconds
            })
        );
        let ServerReply::BadLease(bad) = yes("nan") else {
            panic!("nan is a lease")
        };
        assert_eq!(
            bad.to_string(),
            "said \"X-Lock-Expires: nan\", which is not a number of seconds"
        );
    }

    #[test]
    fn the_longest_lease_has_an_end_that_the_guard_can_be_told() {
        for said in ["3153600000", "1e10", "18446744073709549568"] {
            let ServerReply::Yes(Place {
                lease: Some(lease), ..
            }) = yes(said)
            else {
                panic!("{said}")
            };
            assert_eq!(lease.length, LONGEST, "{said}");
            assert!(i64::try_from(lease.deadlines(Duration::ZERO).kill.0.as_nanos()).is_ok());
        }
    }

    #[test]
    fn a_lease_that_is_too_short_can_be_named() {
        let too_short = |ms| {
            let lease = Lease {
                length: Duration::from_millis(ms),
                sent: SENT,
            };
            BadLease::too_short(Place {
                token: Some(5),
                lease: Some(lease),
            })
            .map(|bad| bad.to_string())
        };
        assert_eq!(
            too_short(949).unwrap(),
            "said \"X-Lock-Expires: 0.949\", which is too short a lease to hold the lock safely"
        );
        assert_eq!(too_short(950), None);
        assert_eq!(
            BadLease::too_short(Place {
                token: Some(5),
                lease: None
            }),
            None
        );
    }

    /// `kept`: for how long our own server keeps what it tells to be so long.
    #[test]
    fn a_slot_is_free_when_the_server_has_kept_the_lease_for_longer_than_it_told() {
        for (told, kept) in [
            (500, 1_000),
            (1_000, 2_000),
            (19_000, 20_000),
            (285_000, 300_000),
            (1_710_000, 1_800_000),
        ] {
            let lease = Lease {
                length: Duration::from_millis(told),
                sent: SENT,
            };
            assert!(
                lease.free_by() >= SENT + Duration::from_millis(kept),
                "{told}"
            );
            assert!(
                lease.free_by() <= SENT + Duration::from_millis(kept + 500),
                "{told}"
            );
        }
    }
}
