//! How long memcached keeps a list: given in whole seconds, counted from the last write of the list
//! by a clock that ticks once a second.

use super::super::state::BootTime;
use crate::moment::Moment;
use std::time::Duration;

/// The most seconds that memcached takes as a time from now; a larger number is a date.
const LONGEST: u64 = 30 * 24 * 60 * 60;

/// memcached may end an item up to a second too early, so each expiry time is one second longer.
pub(super) const TICK: Duration = Duration::from_secs(1);

/// How long a lease or a list lasts at least, counted from a write of the list. Lengths instead of
/// dates, because the clocks of servers differ.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Lifetime {
    /// At least 1.
    Seconds(u64),
    /// Without end: longer than any number of seconds.
    UntilReleased,
}

impl Lifetime {
    /// The lifetime that a config's `expire` means.
    pub(super) fn of(expire: Option<Duration>) -> Lifetime {
        let seconds = |expire: Duration| {
            expire
                .as_secs()
                .saturating_add(u64::from(expire.subsec_nanos() > 0))
                .max(1)
        };
        expire.map_or(Lifetime::UntilReleased, |expire| {
            Lifetime::Seconds(seconds(expire))
        })
    }

    /// The expiry time to send to memcached so that it keeps a list at least as long.
    pub(super) fn exptime(self, boot: BootTime, now: Moment) -> u64 {
        match self {
            Lifetime::UntilReleased => 0,
            Lifetime::Seconds(seconds) => match seconds.saturating_add(TICK.as_secs()) {
                told if told <= LONGEST => told,
                told => boot.micros(now + Duration::from_secs(told)).unsigned_abs() / 1_000_000,
            },
        }
    }

    /// The earliest end, if the list is written at `since` or later.
    pub(super) fn ends(self, since: Moment) -> Moment {
        match self {
            Lifetime::UntilReleased => Moment::NEVER,
            Lifetime::Seconds(seconds) => since + Duration::from_secs(seconds),
        }
    }
}

/// How much longer memcached keeps a list at least, if it reports this many seconds.
pub(super) fn min_remaining(seconds: u64) -> Duration {
    Duration::from_secs(seconds).saturating_sub(TICK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memcached_keeps_a_list_one_second_longer_than_the_lease() {
        let (boot, now) = (
            BootTime(1_763_000_000_000),
            Moment(Duration::from_secs(100)),
        );
        for (expire, seconds) in [
            (0.5, 2),
            (1.0, 2),
            (1.5, 3),
            (1800.0, 1801),
            (2_591_999.0, 2_592_000),
            (2_592_000.0, 1_765_592_101),
            (2_592_000.5, 1_765_592_102),
        ] {
            assert_eq!(
                Lifetime::of(Some(Duration::from_secs_f64(expire))).exptime(boot, now),
                seconds,
                "{expire}"
            );
        }
        assert_eq!(Lifetime::of(None).exptime(boot, now), 0);
        assert!(Lifetime::of(Some(Duration::MAX)).exptime(boot, now) > 1_763_000_000);
    }

    #[test]
    fn until_released_is_longer_than_any_number_of_seconds() {
        assert!(
            Lifetime::UntilReleased > Lifetime::Seconds(u64::MAX)
                && Lifetime::Seconds(3) > Lifetime::Seconds(2)
        );
        let since = Moment(Duration::from_millis(500));
        assert_eq!(
            Lifetime::Seconds(3).ends(since),
            Moment(Duration::from_millis(3500))
        );
        assert_eq!(Lifetime::UntilReleased.ends(since), Moment::NEVER);
        assert_eq!(
            [0, 1, 60].map(min_remaining),
            [0, 0, 59].map(Duration::from_secs)
        );
    }
}
