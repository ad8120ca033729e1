//! A point in time on a clock that continues while the host is suspended (`CLOCK_BOOTTIME`). std's
//! `Instant` stops in suspend, and a lease does not. Only the loops read the clock; pure code gets
//! a `Moment` as an argument.

use std::ops::Add;
use std::time::Duration;

/// Time since the host booted, including suspend.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Moment(pub Duration);

impl Moment {
    /// A deadline that is never reached.
    pub const NEVER: Moment = Moment(Duration::MAX);

    /// Time from `earlier` to this moment; zero if `earlier` is later.
    pub fn since(self, earlier: Moment) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    /// This moment minus `by`, at the earliest the boot. `NEVER` stays `NEVER`.
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

    /// Saturates at `NEVER`, so that an unlimited wait is an ordinary deadline.
    fn add(self, by: Duration) -> Moment {
        Moment(self.0.saturating_add(by))
    }
}
