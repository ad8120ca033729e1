//! A pool as `/status/` and `/metrics` show it.

use super::super::{Holder, Remaining, Report, Waiter};
use super::record::Holding;
use super::shared_pool::SharedPool;
use crate::moment::Moment;
use std::borrow::Cow;
use std::time::Duration;

impl SharedPool {
    /// Reads the record soon.
    pub(super) fn read_for_report(&mut self) {
        (self.is_read_needed, self.is_report_wanted) = (true, true);
        self.queue.read_for_report();
    }

    /// Whether the record was read at `since` or later.
    pub(super) fn is_fresh(&self, since: Moment) -> bool {
        self.read_at.is_some_and(|read_at| read_at >= since)
            && !self.is_report_wanted
            && self.queue.is_report_read()
    }

    /// How much is left of a lease until this server ends it.
    pub(super) fn ends(&self, host: &str, holding: &Holding, now: Moment) -> Remaining {
        match self.sightings.end(host, holding) {
            Moment::NEVER => Remaining::UntilReleased,
            end => Remaining::For(end.since(now)),
        }
    }

    /// The waiters of all servers, in the order of their entries. Those of this server that have none
    /// yet are the last.
    pub(super) fn all_waiters(&self, date: u64, now: Moment) -> Vec<Waiter<'_>> {
        let own = self
            .waiters
            .tickets()
            .zip(self.waiters.report(now, Cow::Borrowed));
        let own = own.map(|(ticket, waiter)| {
            let position = self.queue.position(ticket);
            (position.unwrap_or(i64::MAX), waiter)
        });
        let others = self.queue.others().map(|(position, waiter)| {
            let waited = Duration::from_millis(date.saturating_sub(waiter.since));
            let (host, run) = (Cow::Borrowed(&*waiter.host), waiter.run.as_deref());
            (position, Waiter { host, run, waited })
        });
        let mut all: Vec<_> = own.chain(others).collect();
        all.sort_by_key(|(position, _)| *position);
        all.into_iter().map(|(_, waiter)| waiter).collect()
    }

    /// The pool as last read. `held` is by the clock of the server that granted the holding.
    pub(super) fn report(&self, date: u64, now: Moment) -> Report<'_> {
        let holders = self.record().into_iter().flat_map(|record| &record.holders);
        let holders = holders.map(|(host, holding)| Holder {
            host: Cow::Borrowed(host),
            run: holding.run.as_deref(),
            token: Some(holding.token),
            held: Some(Duration::from_millis(date.saturating_sub(holding.since))),
            ends: self.ends(host, holding, now),
            revoked: holding.revoked,
        });
        let is_old = !self.is_current || self.read_at.is_none();
        Report {
            pool: &self.name,
            permits: if self.removed.is_some() {
                0
            } else {
                self.plan.permits
            },
            expire: self.plan.expire,
            age: self
                .read_at
                .filter(|_| is_old)
                .map(|read_at| now.since(read_at)),
            holders: holders.collect(),
            waiters: self.all_waiters(date, now),
            counters: self.events.counters(),
        }
    }
}
