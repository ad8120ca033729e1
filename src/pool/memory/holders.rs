//! The holders of one pool, by host and by when their holdings expire.

use super::super::reply_delivery::ReplyDelivery;
use super::super::state::AcquiredAt;
use super::super::waiters::Run;
use crate::moment::Moment;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

/// The holding of one host.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Holding {
    pub(super) token: i64,
    /// The run that the holding belongs to; `None`: it belongs to the host.
    pub(super) run: Option<Run>,
    pub(super) since: AcquiredAt,
    /// `Moment::NEVER`: until it is released.
    pub(super) expires: Moment,
    /// For how long the holding was granted or last renewed; `None`: until it is released. Renewals
    /// use it when the pool is not in the config any more.
    pub(super) lease: Option<Duration>,
    /// `expires` in the latest reply; the holding may have been renewed since. `None`: no client
    /// knows of the holding yet.
    pub(super) expiry_reported: Option<Moment>,
    /// Whether a reply YES about it may have arrived.
    pub(super) delivery: ReplyDelivery,
    /// Requests of the holder are not confirmed again.
    pub(super) revoked: bool,
}

impl Holding {
    /// Whether this run of the host holds it. A holding that belongs to the host is held by each of
    /// its runs and by its clients without a run id.
    pub(super) fn belongs_to(&self, run: Option<&Run>) -> bool {
        self.run.is_none() || self.run.as_ref() == run
    }

    /// Whether a release names it. A release that names only a run does not release a holding that
    /// belongs to the host.
    pub(super) fn matches_release(&self, token: Option<i64>, run: Option<&Run>) -> bool {
        match token {
            Some(token) => token == self.token && (run.is_none() || self.belongs_to(run)),
            None => run.is_none() || self.run.as_ref() == run,
        }
    }

    /// When it ends without the renewals that no reply has reported.
    pub(super) fn reported_expiry(&self) -> Moment {
        self.expires
            .min(self.expiry_reported.unwrap_or(Moment::NEVER))
    }
}

/// The holders of a pool.
#[derive(Debug, Default)]
pub(super) struct Holders {
    by_host: BTreeMap<Rc<str>, Holding>,
    /// The holdings that expire and that a reply has reported.
    by_expiry: BTreeSet<(Moment, Rc<str>)>,
    /// How many holdings last until they are released.
    until_released: usize,
}

impl Holders {
    pub(super) fn len(&self) -> usize {
        self.by_host.len()
    }

    /// In the order of the hosts' names.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Rc<str>, &Holding)> {
        self.by_host.iter()
    }

    /// Whether a holding lasts until it is released.
    pub(super) fn has_until_released(&self) -> bool {
        self.until_released > 0
    }

    pub(super) fn hosts(&self) -> Vec<Rc<str>> {
        self.by_host.keys().cloned().collect()
    }

    pub(super) fn get(&self, host: &str) -> Option<Holding> {
        self.by_host.get(host).cloned()
    }

    /// Replaces the holding of the host.
    pub(super) fn set(&mut self, host: &Rc<str>, holding: Holding) {
        self.remove(host);
        self.until_released += usize::from(holding.expires == Moment::NEVER);
        if holding.expiry_reported.is_some() && holding.expires != Moment::NEVER {
            self.by_expiry.insert((holding.expires, host.clone()));
        }
        self.by_host.insert(host.clone(), holding);
    }

    pub(super) fn remove(&mut self, host: &str) -> Option<(Rc<str>, Holding)> {
        let (host, holding) = self.by_host.remove_entry(host)?;
        self.until_released -= usize::from(holding.expires == Moment::NEVER);
        self.by_expiry.remove(&(holding.expires, host.clone()));
        Some((host, holding))
    }

    /// When the first holding expires.
    pub(super) fn next_expiry(&self) -> Moment {
        self.by_expiry
            .first()
            .map_or(Moment::NEVER, |(expires, _)| *expires)
    }

    /// Removes one expired holding.
    pub(super) fn take_expired(&mut self, now: Moment) -> Option<(Rc<str>, Holding)> {
        let (expires, host) = self.by_expiry.first()?;
        if now < *expires {
            return None;
        }
        let host = host.clone();
        self.remove(&host)
    }
}
