//! When the names of servers are looked up again, because their addresses may have changed: once no
//! server has been reached for a while, and then repeatedly until one is. Sans-I/O.

use crate::moment::Moment;
use std::time::Duration;

/// How long no server must have been reached before names are looked up. By then all addresses of
/// an ensemble have refused several times; a step from one server to the next takes milliseconds
/// and needs no name server.
const UNREACHED: Duration = Duration::from_secs(1);

/// The first and the longest pause after a look-up; each is twice the one before. The longest is
/// how much later a waiter may connect than a client that has just started. A thousand waiters send
/// 200 queries a second in an outage.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// The longest pause of a holder, whose lease is ending; a shorter heartbeat is the pause. Of a
/// session of 15 s about 7 s are left when the servers become unreachable.
const LONGEST_OF_A_HOLDER: Duration = Duration::from_secs(1);

/// The shortest pause, however short the lease.
const SHORTEST: Duration = Duration::from_millis(250);

/// The schedule of the look-ups of one lock, or of one lock server.
#[derive(Clone, Debug)]
pub struct Lookups {
    /// A look-up is under way. It never ends if there are no names.
    under_way: bool,
    /// When the last look-up ended.
    done: Moment,
    /// The pause after it; zero before the first of an outage.
    pause: Duration,
}

impl Lookups {
    /// Names were looked up at the start, at this moment.
    pub fn new(now: Moment) -> Lookups {
        Lookups {
            under_way: false,
            done: now,
            pause: Duration::ZERO,
        }
    }

    /// When the next look-up is due. `unreached`: since when no server has been reached; `None`:
    /// one has. `heartbeat`: how often a holder confirms its lock; `None`: nothing is held.
    pub fn due(&self, unreached: Option<Moment>, heartbeat: Option<Duration>) -> Moment {
        let Some(since) = unreached.filter(|_| !self.under_way) else {
            return Moment::NEVER;
        };
        let longest = heartbeat.map_or(Duration::MAX, |heartbeat| {
            heartbeat.clamp(SHORTEST, LONGEST_OF_A_HOLDER)
        });
        (since + UNREACHED.min(longest)).max(self.done + self.pause.min(longest))
    }

    /// A look-up has begun.
    pub fn begin(&mut self) {
        self.under_way = true;
    }

    /// A look-up has ended.
    pub fn done(&mut self, now: Moment) {
        self.under_way = false;
        self.done = now;
        self.pause = (self.pause * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE);
    }

    /// A server was reached: the next outage starts with the first pause.
    pub fn reached(&mut self) {
        self.pause = Duration::ZERO;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(milliseconds: u64) -> Moment {
        Moment(Duration::from_secs(100) + Duration::from_millis(milliseconds))
    }

    /// When look-ups are due in an outage of 12 s, if each takes 10 ms.
    fn times(heartbeat: Option<u64>) -> Vec<u64> {
        let mut lookups = Lookups::new(at(0));
        let mut times = Vec::new();
        loop {
            let due = lookups.due(Some(at(0)), heartbeat.map(Duration::from_millis));
            if due > at(12_000) {
                return times;
            }
            times.push(u64::try_from(due.since(at(0)).as_millis()).unwrap());
            lookups.begin();
            assert_eq!(lookups.due(Some(at(0)), None), Moment::NEVER);
            lookups.done(due + Duration::from_millis(10));
        }
    }

    #[test]
    fn waiter_looks_up_after_one_second_and_then_at_pauses_up_to_5_s() {
        assert_eq!(times(None), [1_000, 2_010, 4_020, 8_030]);
    }

    #[test]
    fn holder_looks_up_every_second_or_heartbeat() {
        assert_eq!(times(Some(1_500))[..4], [1_000, 2_010, 3_020, 4_030]);
        assert_eq!(times(Some(500))[..4], [500, 1_010, 1_520, 2_030]);
        assert_eq!(times(Some(1))[..3], [250, 510, 770]);
    }

    #[test]
    fn nothing_is_looked_up_while_a_server_is_reached() {
        let mut lookups = Lookups::new(at(0));
        assert_eq!(lookups.due(None, None), Moment::NEVER);
        lookups.done(at(0));
        assert_eq!(lookups.due(Some(at(60_000)), None), at(61_000));
        lookups.done(at(61_000));
        lookups.reached();
        assert_eq!(lookups.due(Some(at(61_500)), None), at(62_500));
    }
}
