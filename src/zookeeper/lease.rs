//! How long a holder may believe in its session, from what was sent when and what was answered. The
//! server ends a session by its own clock and tells nobody who cannot hear, so every figure here
//! errs to the early side: sends are stamped before, answers after the fact.

use crate::deadlines::Deadlines;
use crate::moment::Moment;
use std::collections::VecDeque;
use std::time::Duration;

/// Answered requests remembered for one connection. A holder sends ten a timeout and needs those of
/// the last quarter; where a peer makes us send more, forgetting the oldest only shortens belief.
const REMEMBERED: usize = 64;

/// The belief of one holder or waiter in its session.
#[derive(Clone, Debug)]
pub struct Lease {
    /// The session timeout that was negotiated.
    timeout: Duration,
    /// When the connect request of this connection was sent: the leader itself touches the session
    /// for it.
    connected: Moment,
    /// (sent, answered) of this connection, in order.
    answered: VecDeque<(Moment, Moment)>,
    /// When the newest proof was asked for.
    proof: Moment,
    /// Nobody else can be given the lock before.
    until: Moment,
}

impl Lease {
    /// Nothing is believed yet. `sent` is when the connect request went out.
    pub fn new(timeout: Duration, sent: Moment) -> Lease {
        Lease {
            timeout,
            connected: sent,
            answered: VecDeque::new(),
            proof: sent,
            until: Moment::default(),
        }
    }

    /// The session goes on over another connection, whose connect request was sent then. What
    /// another server answered proves nothing here: it may never have told the leader.
    ///
    /// Where a shorter timeout is granted now (maxSessionTimeout was lowered), the session ends by
    /// that one, sooner than was believed.
    pub fn reconnected(&mut self, timeout: Duration, sent: Moment) {
        if timeout < self.timeout {
            self.timeout = timeout;
            self.until = self.until.min(sent + timeout);
        }
        self.connected = sent;
        self.answered.clear();
    }

    /// The session timeout that was negotiated.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// When the newest proof was asked for.
    pub fn proof(&self) -> Moment {
        self.proof
    }

    /// Any request was answered.
    pub fn answered(&mut self, sent: Moment, now: Moment) {
        if self.answered.len() == REMEMBERED {
            self.answered.pop_front();
        }
        self.answered.push_back((sent, now));
    }

    /// A quorum write sent at `sent` was answered. A follower reports the sessions that it heard of
    /// at the leader's next ping, a quarter of the timeout later at the most: so whatever it
    /// had answered by a quarter before `sent` is known to the leader.
    pub fn proved(&mut self, sent: Moment) {
        let reported = sent.before(self.timeout / 4);
        while self
            .answered
            .get(1)
            .is_some_and(|&(_, answered)| answered <= reported)
        {
            self.answered.pop_front();
        }
        let heard = match self.answered.front() {
            Some(&(heard, answered)) if answered <= reported => heard,
            _ => self.connected,
        };
        self.proof = sent;
        self.until = self.until.max(heard.max(self.connected) + self.timeout);
    }

    /// When the command must go; `kill_after` is the grace that an operator's stop would give it.
    pub fn deadlines(&self, kill_after: Duration) -> Deadlines {
        Deadlines::of(self.until, self.timeout, kill_after)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(milliseconds: u64) -> Moment {
        Moment(Duration::from_secs(1000) + Duration::from_millis(milliseconds))
    }

    const TIMEOUT: Duration = Duration::from_secs(10);

    #[test]
    fn a_fresh_session_is_believed_from_its_connect_request() {
        let mut lease = Lease::new(TIMEOUT, at(0));
        lease.proved(at(3));
        assert_eq!(lease.until, at(10_000));
    }

    #[test]
    fn nothing_is_believed_before_a_proof() {
        let mut lease = Lease::new(TIMEOUT, at(0));
        lease.answered(at(0), at(5));
        assert!(lease.deadlines(TIMEOUT).term < at(0));
    }

    #[test]
    fn in_step_belief_lasts_two_thirds_of_the_timeout_from_the_last_heartbeat() {
        let mut lease = Lease::new(TIMEOUT, at(0));
        for beat in 0..50 {
            lease.answered(at(beat * 1000), at(beat * 1000 + 4));
            lease.proved(at(beat * 1000));
        }
        // The heartbeat of 49.0 s was answered; the newest answered by 46.5 s is that of 46.0 s.
        assert_eq!(lease.until, at(56_000));
    }

    #[test]
    fn after_a_gap_belief_is_shorter_by_itself() {
        let mut lease = Lease::new(TIMEOUT, at(0));
        lease.answered(at(1000), at(1004));
        lease.proved(at(1000));
        lease.answered(at(2000), at(9000)); // the answer was long in coming
        lease.proved(at(2000));
        assert_eq!(
            lease.until,
            at(10_000),
            "what was answered late is not known to have been reported"
        );
        lease.proved(at(11_400));
        assert_eq!(
            lease.until,
            at(11_000),
            "answered at 9.0 s, less than a quarter before 11.4 s"
        );
        lease.proved(at(11_600));
        assert_eq!(
            lease.until,
            at(12_000),
            "answered at 9.0 s, more than a quarter before 11.6 s: sent at 2.0 s"
        );
    }

    #[test]
    fn another_connection_starts_from_its_own_connect_request() {
        let mut lease = Lease::new(TIMEOUT, at(0));
        lease.answered(at(1000), at(1001));
        lease.reconnected(TIMEOUT, at(4000));
        lease.proved(at(4000));
        assert_eq!(lease.until, at(14_000));
    }

    #[test]
    fn belief_never_shrinks() {
        let mut lease = Lease::new(TIMEOUT, at(5000));
        lease.proved(at(5000));
        lease.reconnected(TIMEOUT, at(1000));
        lease.proved(at(1000));
        assert_eq!(lease.until, at(15_000));
    }

    #[test]
    fn a_shorter_timeout_granted_later_shortens_belief() {
        let mut lease = Lease::new(TIMEOUT * 3, at(0));
        lease.proved(at(0));
        lease.reconnected(TIMEOUT / 2, at(1000));
        assert_eq!(lease.until, at(6000));
        lease.proved(at(1000));
        assert_eq!(lease.until, at(6000));
    }

    #[test]
    fn a_wait_of_any_length_is_followed_by_full_belief() {
        let mut lease = Lease::new(TIMEOUT, at(0));
        for beat in 0..1000 {
            lease.answered(at(beat * 1000), at(beat * 1000 + 4));
        }
        lease.proved(at(1_000_000));
        assert_eq!(lease.until, at(997_000 + 10_000));
    }

    #[test]
    fn the_tree_is_dead_before_belief_ends() {
        let mut lease = Lease::new(TIMEOUT, at(0));
        lease.proved(at(0));
        assert_eq!(
            lease.deadlines(Duration::from_secs(5)),
            Deadlines {
                term: at(8800),
                kill: at(9800)
            }
        );
        assert_eq!(
            lease.deadlines(Duration::ZERO),
            Deadlines {
                term: at(9800),
                kill: at(9800)
            }
        );
        assert_eq!(
            lease.deadlines(Duration::MAX),
            Deadlines {
                term: at(8800),
                kill: at(9800)
            }
        );
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut lease = Lease::new(TIMEOUT, at(0));
        for n in 0..10_000 {
            lease.answered(at(n), at(n));
        }
        assert_eq!(lease.answered.len(), REMEMBERED);
    }
}
