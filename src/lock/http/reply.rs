//! The reply of a lock server about a slot: one word, and the token and lease that distributexd
//! adds.

use crate::deadlines::Deadlines;
use crate::http::Reply;
use crate::moment::Moment;
use crate::printable::beginning;
use std::fmt;
use std::time::Duration;

/// Longest part of a reply that is shown, in characters.
const MAX_SHOWN: usize = 60;

/// The header of a YES with the seconds of the lease.
const EXPIRES: &str = "X-Lock-Expires";

/// The shortest lease that leaves enough time for a late renewal. Of an `expire` of 2 s
/// distributexd grants half, less the time since the grant. A shorter `expire` leaves too little.
const MIN_LEASE: Duration = Duration::from_millis(950);

/// The longest lease. A longer one counts as this: the guard gets deadlines as nanoseconds in an
/// i64, and a deadline that does not fit would never be reached.
const MAX_LEASE: Duration = Duration::from_hours(100 * 365 * 24);

/// distributexd keeps a lease for longer than it says: by a twentieth of the time that it keeps it,
/// and at least by a second. (Of a lease under two seconds, by half, which is less.) So the slack
/// is the lease that it says divided by this.
const SLACK_DIVISOR: u32 = 19;
const MIN_SLACK: Duration = Duration::from_secs(1);

/// The meaning of a reply.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum ServerReply {
    /// YES: this run holds the slot.
    Yes(Slot),
    /// YES, with a lease that cannot be used.
    BadLease(BadLease),
    /// NO: all slots are held by others.
    No,
    /// NO: this run held the slot, and an operator has revoked it.
    Revoked,
    /// OK: the slot is released.
    Ok,
    /// INVALID: the server has no such pool, does not allow this host to use it, or does not know
    /// the request.
    Invalid,
    /// Anything else.
    Other,
}

impl ServerReply {
    /// The meaning of the reply to a request that was sent at `sent`.
    pub(super) fn of(reply: &Reply, sent: Moment) -> ServerReply {
        match (reply.status, &reply.body[..]) {
            (200, b"YES") => {
                Slot::of(reply, sent).map_or_else(ServerReply::BadLease, ServerReply::Yes)
            }
            (200, b"NO") if reply.header("X-Lock-Revoked") == Some("1") => ServerReply::Revoked,
            (200, b"NO") => ServerReply::No,
            (200, b"OK") => ServerReply::Ok,
            (200, b"INVALID") => ServerReply::Invalid,
            _ => ServerReply::Other,
        }
    }
}

/// Whether a NO says that the runs under which this one was started hold the slots that it waits
/// for.
pub(super) fn is_held_by_outer_runs(reply: &Reply) -> bool {
    reply.header("X-Lock-Outer") == Some("1")
}

/// A reply in a few words, for messages.
pub(super) fn shown_reply(reply: &Reply) -> String {
    let body = String::from_utf8_lossy(&reply.body);
    match reply.status {
        200 if body.is_empty() => "nothing".into(),
        200 => shown(&body),
        status => format!("{status} {}", shown(&reply.reason)),
    }
}

/// The beginning of a text on one line.
pub(super) fn shown(text: &str) -> String {
    beginning(text.trim(), MAX_SHOWN)
}

/// A slot that the server has granted to this run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Slot {
    /// The fencing token. It grows with every slot that is granted.
    pub(super) token: Option<i64>,
    /// `None`: this run holds the slot until it releases it, or until the server takes it back
    /// without a message. Only a server that sends no lease means that.
    pub(super) lease: Option<Lease>,
}

impl Slot {
    fn of(reply: &Reply, sent: Moment) -> Result<Slot, BadLease> {
        let token = reply
            .header("X-Lock-Token")
            .and_then(|token| token.parse().ok());
        match reply.combined(EXPIRES) {
            None => Ok(Slot { token, lease: None }),
            Some(text) => match Lease::of(&text, sent) {
                Ok(lease) => Ok(Slot {
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

/// A lease that no client can keep. The server may have the slot for this run all the same.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct BadLease {
    /// The token of the slot.
    pub(super) token: Option<i64>,
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
    /// The error for a lease that is too short to be kept. `None` if it is long enough.
    pub(super) fn too_short(Slot { token, lease }: Slot) -> Option<BadLease> {
        let length = lease
            .map(|lease| lease.length)
            .filter(|&length| length < MIN_LEASE)?;
        Some(BadLease {
            token,
            said: length.as_secs_f64().to_string(),
            flaw: Flaw::TooShort,
        })
    }

    /// What the operator can do about it.
    pub(super) fn advice(&self) -> &'static str {
        match self.flaw {
            Flaw::NotSeconds => "check the lock server and any proxy in front of it",
            // The server says a second less than it keeps, or half.
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

/// How long a slot is granted, and since when at the earliest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Lease {
    pub(super) length: Duration,
    /// When the request was sent: the server's clock started later.
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
                length: length.min(MAX_LEASE),
                sent,
            })
        }
    }

    /// No other client can acquire the slot before.
    pub(super) fn until(self) -> Moment {
        self.sent + self.length
    }

    /// When the slot is free at the latest if it is not released.
    pub(super) fn free_by(self) -> Moment {
        self.until() + (self.length / SLACK_DIVISOR).max(MIN_SLACK)
    }

    /// When to renew it. If the renewal is not answered, there is time for another.
    pub(super) fn renewal(self) -> Moment {
        self.sent + self.length / 3
    }

    /// When the command must be dead. `kill_after`: time from TERM to KILL when an operator stops
    /// it.
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
    fn a_word_counts_only_as_the_whole_body_of_status_200() {
        let slot = Slot {
            token: None,
            lease: None,
        };
        for (status, body, word) in [
            (200, "YES", ServerReply::Yes(slot)),
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
    fn only_a_no_with_the_header_is_a_revocation() {
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
    fn a_reply_is_shown_as_one_short_line() {
        for (status, body, shown) in [
            (200, "INVALID", "INVALID".to_owned()),
            (200, "", "nothing".to_owned()),
            (200, "<html>\r\n\x1b[2J\n", "<html>???[2J".to_owned()),
            (200, "a\u{202e}b", "a?b".to_owned()),
            (200, &"é".repeat(60), "é".repeat(60)),
            (200, &"é".repeat(61), "é".repeat(60) + "…"),
            (503, "<html>", "503 Service Unavailable".to_owned()),
        ] {
            assert_eq!(shown_reply(&reply(status, body)), shown);
        }
        assert_eq!(
            shown_reply(&Reply::new(200, "text/html", vec![0xff])),
            "\u{fffd}"
        );
    }

    #[test]
    fn token_and_lease_are_read_from_headers_and_optional() {
        let slot = |token, lease| ServerReply::Yes(Slot { token, lease });
        assert_eq!(of(&reply(200, "YES")), slot(None, None));
        assert_eq!(
            of(&reply(200, "YES").with("x-lock-token", "5")),
            slot(Some(5), None)
        );
        for (expires, length) in [("300", 300_000), ("0.5", 500), ("1e3", 1_000_000)] {
            let lease = Lease {
                length: Duration::from_millis(length),
                sent: SENT,
            };
            assert_eq!(yes(expires), slot(Some(5), Some(lease)), "{expires}");
        }
    }

    /// Each of them was once a lock without end.
    #[test]
    fn unreadable_or_ended_lease_is_an_error_and_never_endless() {
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
    fn longest_lease_fits_the_message_to_the_guard() {
        for said in ["3153600000", "1e10", "18446744073709549568"] {
            let ServerReply::Yes(Slot {
                lease: Some(lease), ..
            }) = yes(said)
            else {
                panic!("{said}")
            };
            assert_eq!(lease.length, MAX_LEASE, "{said}");
            assert!(i64::try_from(lease.deadlines(Duration::ZERO).kill.0.as_nanos()).is_ok());
        }
    }

    #[test]
    fn too_short_lease_is_named() {
        let too_short = |ms| {
            let lease = Lease {
                length: Duration::from_millis(ms),
                sent: SENT,
            };
            BadLease::too_short(Slot {
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
            BadLease::too_short(Slot {
                token: Some(5),
                lease: None
            }),
            None
        );
    }

    /// `kept`: how long distributexd keeps a lease of the length that it says.
    #[test]
    fn slot_is_free_after_the_slack_of_the_server() {
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
