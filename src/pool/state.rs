//! Who holds what, as it outlives a server.

use crate::moment::Moment;
use std::time::Duration;

/// When a holding began, in ms since this host booted; below zero if that was before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Since(i64);

impl Since {
    /// How long ago.
    pub fn held(self, now: Moment) -> Duration {
        Duration::from_millis(u64::try_from(Since::from(now).0.saturating_sub(self.0)).unwrap_or(0))
    }
}

impl From<Moment> for Since {
    fn from(moment: Moment) -> Since {
        Since(i64::try_from(moment.0.as_millis()).unwrap_or(i64::MAX))
    }
}

/// All that a server must not forget.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct State {
    /// No token up to this one is given out again.
    pub last_token: i64,
    /// By pool and host.
    pub holders: Vec<Held>,
}

/// One host holds one pool.
#[derive(Clone, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub struct Held {
    pub pool: String,
    pub host: String,
    pub token: i64,
    pub since: Since,
    /// `Moment::NEVER`: it lasts until it is released.
    pub expires: Moment,
}
