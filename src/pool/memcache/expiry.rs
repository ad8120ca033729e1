//! When memcached forgets a list: told in whole seconds, kept by a clock that ticks once a second, counted from when the list was written last.

use super::super::state::Boot;
use crate::moment::Moment;
use std::time::Duration;

/// The most seconds that memcached takes for a time from now; more is a date to it.
const LONGEST: u64 = 30 * 24 * 60 * 60;

/// How much sooner than it was told memcached may forget. (So of a single second nothing is sure.)
const TICK: Duration = Duration::from_secs(1);

/// As memcached is told it.
pub(super) fn told(expire: Option<Duration>, boot: Boot, now: Moment) -> u64 {
    match expire.map(in_seconds) {
        None => 0,
        Some(time) if time.as_secs() <= LONGEST => time.as_secs(),
        Some(time) => boot.micros(now + time).unsigned_abs() / 1_000_000,
    }
}

/// How long a list lasts at least that was written then, or at some time after that; `None`: without end. Of one that nobody here wrote
/// nothing is sure.
pub(super) fn left(expire: Option<Duration>, written: Option<Moment>, now: Moment) -> Option<Duration> {
    let sure = in_seconds(expire?).saturating_sub(TICK).max(TICK);
    Some(written.map_or(Duration::ZERO, |written| (written + sure).since(now)))
}

fn in_seconds(expire: Duration) -> Duration {
    Duration::from_secs(expire.as_secs().saturating_add(u64::from(expire.subsec_nanos() > 0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memcached_is_told_whole_seconds_or_a_date() {
        let (boot, now) = (Boot(1_763_000_000_000), Moment(Duration::from_secs(100)));
        for (expire, seconds) in [(0.5, 1), (1.0, 1), (1.5, 2), (1800.0, 1800), (2_592_000.0, 2_592_000), (2_592_000.5, 1_765_592_101)] {
            assert_eq!(told(Some(Duration::from_secs_f64(expire)), boot, now), seconds, "{expire}");
        }
        assert_eq!(told(None, boot, now), 0);
        assert!(told(Some(Duration::MAX), boot, now) > 1_763_000_000);
    }

    #[test]
    fn what_is_left_is_never_more_than_memcached_keeps() {
        let at = |second| Moment(Duration::from_secs(second));
        for (expire, written, now, seconds) in
            [(60, Some(0), 0, 59), (60, Some(0), 58, 1), (60, Some(0), 59, 0), (60, Some(0), 1000, 0), (60, None, 0, 0), (1, Some(0), 0, 1)]
        {
            let left = left(Some(Duration::from_secs(expire)), written.map(at), at(now));
            assert_eq!(left, Some(Duration::from_secs(seconds)), "{expire} s from {written:?} at {now}");
        }
        assert_eq!(left(None, None, at(0)), None);
    }
}
