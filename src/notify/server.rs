//! What a lock server reports to its service manager.

use super::Notice;
use crate::moment::Moment;
use crate::plan::counted;
use crate::pool::Report;
use std::time::Duration;

/// How often the status changes at most: counting the holders and waiters of large pools takes
/// time, and a person reads it.
const INTERVAL: Duration = Duration::from_secs(5);

/// The reports of a lock server.
#[derive(Debug, Default)]
pub struct Reports {
    /// Something may have changed since the last report.
    changed: bool,
    next: Moment,
    /// The last status.
    last: String,
}

impl Reports {
    /// The server listens, or has read its config again.
    pub fn ready(&mut self) -> Notice {
        self.changed = true;
        self.next = Moment::default();
        Notice {
            ready: true,
            ..Notice::default()
        }
    }

    /// The server reads its config again, at this time of `CLOCK_MONOTONIC`.
    pub fn reloading(monotonic: Duration) -> Notice {
        Notice {
            reloading: Some(monotonic),
            ..Notice::default()
        }
    }

    /// The server shuts down.
    pub fn stopping(&mut self) -> Notice {
        self.changed = false;
        Notice {
            stopping: true,
            ..Notice::status("shutting down".into())
        }
    }

    /// Requests were handled.
    pub fn touch(&mut self) {
        self.changed = true;
    }

    /// Whether to count holders and waiters now.
    pub fn is_due(&self, now: Moment) -> bool {
        self.changed && now >= self.next
    }

    /// The status of these pools, if it is not the last one.
    pub fn status(&mut self, pools: &[Report], now: Moment) -> Option<Notice> {
        (self.changed, self.next) = (false, now + INTERVAL);
        let holders = pools.iter().map(|pool| pool.holders.len()).sum();
        let waiters = pools.iter().map(|pool| pool.waiters.len()).sum();
        let text = format!(
            "{}, {}, {}",
            counted(pools.len(), "pool"),
            counted(holders, "holder"),
            counted(waiters, "waiter")
        );
        (text != self.last).then(|| {
            self.last.clone_from(&text);
            Notice::status(text)
        })
    }

    /// When to count again.
    pub fn wake(&self) -> Moment {
        if self.changed {
            self.next
        } else {
            Moment::NEVER
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::{Holder, PoolCounters, Remaining};

    fn at(seconds: u64) -> Moment {
        Moment(Duration::from_secs(seconds))
    }

    fn pool(holders: usize) -> Report<'static> {
        let holder = Holder {
            host: "h".into(),
            run: None,
            token: None,
            held: None,
            ends: Remaining::Unknown,
            revoked: false,
        };
        Report {
            pool: "backup",
            permits: 1,
            expire: None,
            age: None,
            holders: vec![holder; holders],
            waiters: vec![],
            counters: PoolCounters::default(),
        }
    }

    #[test]
    fn status_follows_the_pools_at_intervals() {
        let mut reports = Reports::default();
        assert_eq!(
            (reports.is_due(at(9)), reports.wake()),
            (false, Moment::NEVER)
        );
        assert!(reports.ready().ready && reports.is_due(at(9)));
        let status = reports.status(&[pool(2), pool(1)], at(9));
        let text = "2 pools, 3 holders, 0 waiters".to_owned();
        assert_eq!(status, Some(Notice::status(text)));
        reports.touch();
        assert_eq!((reports.is_due(at(13)), reports.wake()), (false, at(14)));
        assert!(reports.is_due(at(14)));
        assert_eq!(reports.status(&[pool(2), pool(1)], at(14)), None, "no news");
        reports.touch();
        let status = reports.status(&[pool(1)], at(20));
        let text = "1 pool, 1 holder, 0 waiters".to_owned();
        assert_eq!(status, Some(Notice::status(text)));
        reports.touch();
        assert!(reports.stopping().stopping && !reports.is_due(at(99)));
    }
}
