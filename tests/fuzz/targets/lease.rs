//! Sends, answers, proofs and reconnects in any order: nobody is believed longer than a timeout after the newest request that was sent, and never
//! before a proof.
#![no_main]

use libfuzzer_sys::fuzz_target;
use std::time::Duration;
use zk_flock::moment::Moment;
use zk_flock::zookeeper::lease::Lease;

fuzz_target!(|script: &[u8]| {
    let mut now = Moment(Duration::from_secs(100));
    let mut timeout = Duration::from_secs(10);
    let mut lease = Lease::new(timeout, now);
    let (mut newest, mut proved) = (now, false);
    for pair in script.chunks_exact(2) {
        let [operation, amount] = [pair[0], pair[1]];
        let sent = now.before(Duration::from_millis(u64::from(amount) * 20)).max(Moment(Duration::from_secs(90)));
        match operation % 5 {
            0 => now = now + Duration::from_millis(u64::from(amount) * 10),
            1 => lease.answered(sent, now),
            2 => {
                lease.proved(sent);
                (newest, proved) = (newest.max(sent), true);
            }
            3 => {
                timeout = timeout.min(Duration::from_secs(1 + u64::from(amount) % 10));
                lease.reconnected(timeout, now);
                newest = newest.max(now);
            }
            _ => {
                let deadlines = lease.deadlines(Duration::from_millis(u64::from(amount)));
                assert!(deadlines.term <= deadlines.kill);
                assert!(proved || deadlines.kill <= Moment::default());
                assert!(deadlines.kill <= newest.max(now) + Duration::from_secs(10));
            }
        }
        assert!(lease.timeout() <= timeout.max(Duration::from_secs(1)));
    }
});
