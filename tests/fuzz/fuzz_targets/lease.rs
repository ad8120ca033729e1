//! Whatever is sent and answered when: nobody believes in a session for longer than the leader,
//! which hears of what a follower was asked a quarter of the timeout after it was answered, must
//! let it live. The leader's view is reckoned here from all that ever happened.

#![no_main]

use libfuzzer_sys::fuzz_target;
use std::collections::VecDeque;
use std::time::Duration;
use zk_flock::internals::moment::Moment;
use zk_flock::internals::zookeeper::lease::Lease;

const TIMEOUT: Duration = Duration::from_secs(10);

/// What a lease leaves between its deadline and the end of belief, without any grace.
const MARGIN: Duration = Duration::from_millis(200);

fuzz_target!(|input: &[u8]| {
    let mut now = Moment(Duration::from_secs(1000));
    let mut lease = Lease::new(TIMEOUT, now);
    let (mut connected, mut unanswered, mut answered) = (now, VecDeque::new(), Vec::new());
    let mut session_lives_until = Moment::default();
    for event in input.chunks_exact(2) {
        now = now + Duration::from_millis(u64::from(event[1]) * 20);
        match event[0] % 8 {
            0 => {
                lease.reconnected(TIMEOUT, now);
                (connected, unanswered) = (now, VecDeque::new());
                answered.clear();
            }
            1..=3 => unanswered.push_back((now, event[0] % 8 > 1)),
            _ => {
                let Some((sent, is_write)) = unanswered.pop_front() else {
                    continue;
                };
                lease.answered(sent, now);
                answered.push((sent, now));
                if !is_write {
                    continue;
                }
                lease.proved(sent);
                let reported = answered
                    .iter()
                    .filter(|(_, then)| *then <= sent.before(TIMEOUT / 4))
                    .map(|&(heard, _)| heard);
                session_lives_until =
                    session_lives_until.max(reported.fold(connected, Moment::max) + TIMEOUT);
            }
        }
        let [short, long] =
            [Duration::ZERO, Duration::MAX].map(|kill_after| lease.deadlines(kill_after));
        assert!(short.term <= short.kill && long.term <= long.kill && long.kill == short.kill);
        assert!(
            short.kill <= session_lives_until.before(MARGIN),
            "{lease:?}"
        );
    }
});
