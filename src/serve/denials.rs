//! How many denied requests are logged: a client that sends thousands with a wrong access token
//! must not fill the log.

use crate::moment::Moment;
use std::net::IpAddr;
use std::time::Duration;

/// The time between two lines about denied requests.
const INTERVAL: Duration = Duration::from_secs(10);

/// The denied requests since the last line about them.
#[derive(Debug)]
pub(super) struct Denials {
    unlogged: u64,
    /// The address of the client that was denied last, if it is known, and why.
    last: (Option<IpAddr>, &'static str),
    next: Moment,
}

impl Denials {
    pub(super) fn new(now: Moment) -> Denials {
        Denials {
            unlogged: 0,
            last: (None, ""),
            next: now,
        }
    }

    /// Counts one more: the address of the client, and why it is denied.
    pub(super) fn add(&mut self, peer: Option<IpAddr>, why: &'static str) {
        self.unlogged += 1;
        self.last = (peer, why);
    }

    /// When a line is due.
    pub(super) fn wake(&self) -> Moment {
        if self.unlogged == 0 {
            Moment::NEVER
        } else {
            self.next
        }
    }

    /// The line that is due.
    pub(super) fn take_line(&mut self, now: Moment) -> Option<String> {
        if now < self.wake() {
            return None;
        }
        self.next = now + INTERVAL;
        let (peer, why) = self.last;
        let peer = peer.map_or("an unknown address".into(), |peer| peer.to_string());
        Some(match std::mem::take(&mut self.unlogged) {
            1 => format!("refused a request of {peer}: {why}"),
            count => format!("refused {count} requests, the last one of {peer}: {why}"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv6Addr;

    #[test]
    fn first_denial_is_logged_at_once_and_the_next_ones_together() {
        let at = |seconds| Moment(Duration::from_secs(seconds));
        let mut denials = Denials::new(at(5));
        assert_eq!(denials.wake(), Moment::NEVER);
        for (second, added, line) in [
            (5, 1, Some("refused a request of ::1: why")),
            (5, 1, None),
            (14, 1, None),
            (15, 1, Some("refused 3 requests, the last one of ::1: why")),
            (16, 1, None),
            // The last ones are logged although no other follows.
            (24, 1, None),
            (25, 0, Some("refused 2 requests, the last one of ::1: why")),
            (35, 0, None),
            (60, 1, Some("refused a request of ::1: why")),
        ] {
            (0..added).for_each(|_| denials.add(Some(Ipv6Addr::LOCALHOST.into()), "why"));
            let due = denials.wake() <= at(second);
            let found = denials.take_line(at(second));
            assert_eq!(found.as_deref(), line, "{second}");
            assert_eq!(due, line.is_some(), "{second}");
        }
        assert_eq!(denials.wake(), Moment::NEVER);
        denials.add(Some(Ipv6Addr::LOCALHOST.into()), "why");
        assert_eq!(denials.wake(), at(70));
    }
}
