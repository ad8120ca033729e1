//! How long a holder's session is confirmed, calculated from the times of requests and answers. The
//! server expires a session by its own clock, and a disconnected client is not notified, so every
//! estimate here errs to the early side: a request counts from before it is sent, an answer from
//! after it is received.

use crate::deadlines::Deadlines;
use crate::moment::Moment;
use std::collections::VecDeque;
use std::time::Duration;

/// Maximum number of answered requests remembered for one connection. A holder sends ten per
/// timeout and needs those of the last quarter; if a peer causes more, forgetting the oldest only
/// shortens the lease.
const REMEMBERED: usize = 64;

/// Answers that are further apart than this part of the timeout show a pause: of this process, of the
/// server, or of the network. A holder and a waiter ask ten times per timeout.
const PAUSE_PER_TIMEOUT: u32 = 5;

/// The confirmed lifetime of one holder's or waiter's session.
#[derive(Clone, Debug)]
pub struct Lease {
    /// The negotiated session timeout.
    timeout: Duration,
    /// When the connect request of this connection was sent: the leader itself touches the session
    /// for it.
    connected: Moment,
    /// (sent, answered) of this connection, in order.
    answered: VecDeque<(Moment, Moment)>,
    /// When the last pause between answers ended.
    steady_since: Moment,
    /// When the newest confirmed quorum write was sent.
    proof: Moment,
    /// No other client can acquire the lock before.
    confirmed_until: Moment,
}

impl Lease {
    /// Starts without any confirmation. `sent` is when the connect request was sent.
    pub fn new(timeout: Duration, sent: Moment) -> Lease {
        Lease {
            timeout,
            connected: sent,
            answered: VecDeque::new(),
            steady_since: sent,
            proof: sent,
            confirmed_until: Moment::default(),
        }
    }

    /// The session continues over another connection, whose connect request was sent at `sent`.
    /// Answers of the previous server prove nothing now: it may never have reported them to the
    /// leader.
    ///
    /// If the new server grants a shorter timeout (maxSessionTimeout was lowered), the session
    /// expires by that one, earlier than confirmed before.
    pub fn reconnected(&mut self, timeout: Duration, sent: Moment) {
        if timeout < self.timeout {
            self.timeout = timeout;
            self.confirmed_until = self.confirmed_until.min(sent + timeout);
        }
        self.connected = sent;
        self.answered.clear();
    }

    /// The negotiated session timeout.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// When the newest confirmed quorum write was sent.
    pub fn proof(&self) -> Moment {
        self.proof
    }

    /// When the last pause between answers ended. What was measured before says nothing about how
    /// quickly the servers answer now.
    pub fn steady_since(&self) -> Moment {
        self.steady_since
    }

    /// Records an answer to any request.
    pub fn answered(&mut self, sent: Moment, now: Moment) {
        let last = self.answered.back().map_or(self.connected, |last| last.1);
        if now.since(last) > self.timeout / PAUSE_PER_TIMEOUT {
            self.steady_since = now;
        }
        if self.answered.len() == REMEMBERED {
            self.answered.pop_front();
        }
        self.answered.push_back((sent, now));
    }

    /// A quorum write sent at `sent` was answered. A follower reports the sessions that it heard of
    /// at the leader's next ping, at most a quarter of the timeout later: so the leader knows of
    /// every request that the follower had answered by a quarter before `sent`.
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
        self.confirmed_until = self
            .confirmed_until
            .max(heard.max(self.connected) + self.timeout);
    }

    /// When the command must be dead; `kill_after` is the grace that an operator's stop would give
    /// it.
    pub fn deadlines(&self, kill_after: Duration) -> Deadlines {
        Deadlines::of(self.confirmed_until, self.timeout, kill_after)
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
    fn new_session_is_confirmed_from_its_connect_request() {
        let mut lease = Lease::new(TIMEOUT, at(0));
        lease.proved(at(3));
        assert_eq!(lease.confirmed_until, at(10_000));
    }

    #[test]
    fn pause_between_answers_is_noticed_and_a_slow_server_is_none() {
        let mut lease = Lease::new(TIMEOUT, at(0));
        for beat in 1..20 {
            lease.answered(at(beat * 1000 - 900), at(beat * 1000)); // each one takes 0.9 s
        }
        assert_eq!(lease.steady_since(), at(0));
        lease.answered(at(19_100), at(21_000));
        assert_eq!(lease.steady_since(), at(0), "two heartbeats apart");
        lease.answered(at(21_100), at(23_001));
        assert_eq!(lease.steady_since(), at(23_001));
    }

    #[test]
    fn nothing_is_confirmed_before_a_quorum_write() {
        let mut lease = Lease::new(TIMEOUT, at(0));
        lease.answered(at(0), at(5));
        assert!(lease.deadlines(TIMEOUT).term < at(0));
    }

    #[test]
    fn steady_heartbeats_confirm_from_a_quarter_timeout_ago() {
        let mut lease = Lease::new(TIMEOUT, at(0));
        for beat in 0..50 {
            lease.answered(at(beat * 1000), at(beat * 1000 + 4));
            lease.proved(at(beat * 1000));
        }
        // The heartbeat of 49.0 s was answered; the newest answered by 46.5 s is that of 46.0 s.
        assert_eq!(lease.confirmed_until, at(56_000));
    }

    #[test]
    fn gap_between_answers_shortens_the_lease() {
        let mut lease = Lease::new(TIMEOUT, at(0));
        lease.answered(at(1000), at(1004));
        lease.proved(at(1000));
        lease.answered(at(2000), at(9000)); // a late answer
        lease.proved(at(2000));
        assert_eq!(
            lease.confirmed_until,
            at(10_000),
            "what was answered late is not known to have been reported"
        );
        lease.proved(at(11_400));
        assert_eq!(
            lease.confirmed_until,
            at(11_000),
            "answered at 9.0 s, less than a quarter before 11.4 s"
        );
        lease.proved(at(11_600));
        assert_eq!(
            lease.confirmed_until,
            at(12_000),
            "answered at 9.0 s, more than a quarter before 11.6 s: sent at 2.0 s"
        );
    }

    #[test]
    fn answer_of_just_a_quarter_ago_is_known_to_the_leader() {
        let mut lease = Lease::new(TIMEOUT, at(0));
        lease.answered(at(1000), at(2500));
        lease.proved(at(5000));
        assert_eq!(lease.confirmed_until, at(11_000), "the only one");
        lease.answered(at(3000), at(5000));
        lease.proved(at(7500));
        assert_eq!(lease.confirmed_until, at(13_000), "the newer one");
    }

    #[test]
    fn another_connection_starts_from_its_own_connect_request() {
        let mut lease = Lease::new(TIMEOUT, at(0));
        lease.answered(at(1000), at(1001));
        lease.reconnected(TIMEOUT, at(4000));
        lease.proved(at(4000));
        assert_eq!(lease.confirmed_until, at(14_000));
    }

    #[test]
    fn lease_never_shrinks_on_reconnect() {
        let mut lease = Lease::new(TIMEOUT, at(5000));
        lease.proved(at(5000));
        lease.reconnected(TIMEOUT, at(1000));
        lease.proved(at(1000));
        assert_eq!(lease.confirmed_until, at(15_000));
    }

    #[test]
    fn shorter_timeout_granted_later_shortens_the_lease() {
        let mut lease = Lease::new(TIMEOUT * 3, at(0));
        lease.proved(at(0));
        lease.reconnected(TIMEOUT / 2, at(1000));
        assert_eq!(lease.confirmed_until, at(6000));
        lease.proved(at(1000));
        assert_eq!(lease.confirmed_until, at(6000));
    }

    #[test]
    fn long_wait_is_followed_by_a_full_lease() {
        let mut lease = Lease::new(TIMEOUT, at(0));
        for beat in 0..1000 {
            lease.answered(at(beat * 1000), at(beat * 1000 + 4));
        }
        lease.proved(at(1_000_000));
        assert_eq!(lease.confirmed_until, at(997_000 + 10_000));
    }

    #[test]
    fn tree_is_dead_before_the_lease_ends() {
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
    fn remembered_answers_are_bounded() {
        let mut lease = Lease::new(TIMEOUT, at(0));
        for n in 0..10_000 {
            lease.answered(at(n), at(n));
        }
        assert_eq!(lease.answered.len(), REMEMBERED);
    }
}
