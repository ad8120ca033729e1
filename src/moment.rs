//! A point in time on a clock that goes on while the host is suspended (`CLOCK_BOOTTIME`). Pure
//! code is handed one; only the loop reads the clock. std's `Instant` stops in suspend, and a lease
//! does not.

use std::ops::Add;
use std::time::Duration;

/// Time since the host booted, suspend included.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Moment(pub Duration);

impl Moment {
    /// A deadline that never comes.
    pub const NEVER: Moment = Moment(Duration::MAX);

    /// Time from `earlier` to this moment; zero if it is not earlier.
    pub fn since(self, earlier: Moment) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    /// This moment moved towards boot, not past it. `NEVER` stays: nothing comes before a deadline
    /// that never comes.
    #[must_use]
    pub fn before(self, by: Duration) -> Moment {
        if self == Moment::NEVER {
            self
        } else {
            Moment(self.0.saturating_sub(by))
        }
    }
}

impl Add<Duration> for Moment {
    type Output = Moment;

    /// Saturates at `NEVER`, so that "wait for ever" is a plain deadline.
    fn add(self, by: Duration) -> Moment {
        Moment(self.0.saturating_add(by))
    }
}
