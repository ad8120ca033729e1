//! How many refused requests are logged: a client that sends thousands with a wrong access token
//! must not fill the log.

use crate::moment::Moment;
use std::time::Duration;

/// The time between two lines about refused requests.
const INTERVAL: Duration = Duration::from_secs(10);

/// The refused requests since the last line about them.
#[derive(Debug)]
pub(super) struct Refusals {
    unlogged: u64,
    next: Moment,
}

impl Refusals {
    pub(super) fn new(now: Moment) -> Refusals {
        Refusals {
            unlogged: 0,
            next: now,
        }
    }

    /// Counts one more. Returns how many are to be logged now, if any.
    pub(super) fn add(&mut self, now: Moment) -> Option<u64> {
        self.unlogged += 1;
        if now < self.next {
            return None;
        }
        self.next = now + INTERVAL;
        Some(std::mem::take(&mut self.unlogged))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_refusal_is_logged_at_once_and_the_next_ones_together() {
        let at = |seconds| Moment(Duration::from_secs(seconds));
        let mut refusals = Refusals::new(at(5));
        for (second, logged) in [
            (5, Some(1)),
            (5, None),
            (14, None),
            (15, Some(3)),
            (16, None),
            (60, Some(2)),
            (61, None),
        ] {
            assert_eq!(refusals.add(at(second)), logged, "{second}");
        }
    }
}
