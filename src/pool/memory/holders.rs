//! Those who hold one pool: by host, and by when their holding expires.

use super::super::state::AcquiredAt;
use super::super::waiters::Run;
use crate::moment::Moment;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

/// What a host holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Holding {
    pub(super) token: i64,
    /// The run that it belongs to; `None`: it belongs to the host.
    pub(super) run: Option<Run>,
    pub(super) since: AcquiredAt,
    /// `Moment::NEVER`: it lasts until it is released.
    pub(super) expires: Moment,
    /// How long it was granted or last renewed for; `None`: until it is released. A pool that is
    /// not in the config any more has no other.
    pub(super) lease: Option<Duration>,
    /// The `expires` of the last answer that was given, which may have been renewed since. `None`:
    /// no client can know of the holding yet.
    pub(super) told: Option<Moment>,
    /// Answers YES that stand for it: those that are to be given once it is saved, and those that
    /// were. One that is not delivered stands for nothing any more, and a holding with none is
    /// nobody's.
    pub(super) answers: u32,
    /// Its host is known to have heard of it, whatever becomes of answers.
    pub(super) heard: bool,
    /// It is not confirmed again.
    pub(super) revoked: bool,
}

impl Holding {
    /// Whether this run of its host holds it. If it belongs to the host, each run does, and so does
    /// a client without a run id.
    pub(super) fn belongs_to(&self, run: Option<&Run>) -> bool {
        self.run.is_none() || self.run.as_ref() == run
    }

    /// Whether a release means it. One that names only a run does not mean what belongs to the
    /// host.
    pub(super) fn matches_release(&self, token: Option<i64>, run: Option<&Run>) -> bool {
        match token {
            Some(token) => token == self.token && (run.is_none() || self.belongs_to(run)),
            None => run.is_none() || self.run.as_ref() == run,
        }
    }
}

/// The holders of a pool.
#[derive(Debug, Default)]
pub(super) struct Holders {
    by_host: BTreeMap<Rc<str>, Holding>,
    /// Of those that somebody was told of and that have an end.
    by_expiry: BTreeSet<(Moment, Rc<str>)>,
    /// How many last until they are released.
    until_released: usize,
}

impl Holders {
    pub(super) fn len(&self) -> usize {
        self.by_host.len()
    }

    /// By name.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Rc<str>, &Holding)> {
        self.by_host.iter()
    }

    /// Whether one of them lasts until it is released.
    pub(super) fn has_until_released(&self) -> bool {
        self.until_released > 0
    }

    pub(super) fn hosts(&self) -> Vec<Rc<str>> {
        self.by_host.keys().cloned().collect()
    }

    pub(super) fn get(&self, host: &str) -> Option<Holding> {
        self.by_host.get(host).cloned()
    }

    /// In place of what the host held before.
    pub(super) fn set(&mut self, host: &Rc<str>, holding: Holding) {
        self.remove(host);
        self.until_released += usize::from(holding.expires == Moment::NEVER);
        if holding.told.is_some() && holding.expires != Moment::NEVER {
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

    /// When the first of them expires.
    pub(super) fn next_expiry(&self) -> Moment {
        self.by_expiry
            .first()
            .map_or(Moment::NEVER, |(expires, _)| *expires)
    }

    /// Takes out one that has expired.
    pub(super) fn take_expired(&mut self, now: Moment) -> Option<(Rc<str>, Holding)> {
        let (expires, host) = self.by_expiry.first()?;
        if now < *expires {
            return None;
        }
        let host = host.clone();
        self.remove(&host)
    }
}
