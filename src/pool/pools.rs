//! The pools of a backend by name, and what a new config does to them. Shared by all backends.

use super::{Report, Ticket};
use crate::moment::Moment;
use crate::plan;
use std::collections::{BTreeMap, BTreeSet};

/// One pool of a backend.
pub(super) trait PoolMachine {
    /// What the pools of the backend share: replies to send, a connection.
    type Context<'a>;

    /// A pool of the config without holders.
    fn new(plan: plan::Pool) -> Self;

    /// Replaces the plan. Holders keep what they were told, and each waiter is decided again.
    fn reconfigure(&mut self, plan: plan::Pool, context: &mut Self::Context<'_>, now: Moment);

    /// The new config does not have the pool. Waiters are refused, holders keep it.
    fn remove_from_config(&mut self, context: &mut Self::Context<'_>, now: Moment);

    /// Whether the pool is not in the config and no holder is left that matters.
    fn is_obsolete(&self, now: Moment) -> bool;

    /// The client that made this request has hung up. Returns whether the request waited here.
    fn cancel(&mut self, ticket: Ticket) -> bool;
}

/// All pools of a backend.
#[derive(Debug)]
pub(super) struct Pools<P> {
    by_name: BTreeMap<String, P>,
    /// The pools that are not in the config any more.
    removed: BTreeSet<String>,
}

impl<P> Default for Pools<P> {
    fn default() -> Pools<P> {
        Pools {
            by_name: BTreeMap::new(),
            removed: BTreeSet::new(),
        }
    }
}

impl<P: PoolMachine> Pools<P> {
    /// The pools of the first config.
    pub(super) fn new(plans: impl IntoIterator<Item = plan::Pool>) -> Pools<P> {
        let mut pools = Pools::default();
        for plan in plans {
            pools.by_name.insert(plan.name.clone(), P::new(plan));
        }
        pools
    }

    /// The pool of this name. If the config does not have it, `create` makes one that counts as
    /// removed from the config.
    pub(super) fn get_or_removed(&mut self, name: &str, create: impl FnOnce() -> P) -> &mut P {
        let Pools { by_name, removed } = self;
        by_name.entry(name.to_owned()).or_insert_with(|| {
            removed.insert(name.to_owned());
            create()
        })
    }

    pub(super) fn contains(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }

    pub(super) fn get_mut(&mut self, name: &str) -> Option<&mut P> {
        self.by_name.get_mut(name)
    }

    /// In the order of their names.
    pub(super) fn iter(&self) -> impl Iterator<Item = &P> {
        self.by_name.values()
    }

    /// In the order of their names.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut P> {
        self.by_name.values_mut()
    }

    /// Takes in the pools of a new config.
    pub(super) fn reconfigure(
        &mut self,
        plans: impl IntoIterator<Item = plan::Pool>,
        context: &mut P::Context<'_>,
        now: Moment,
    ) {
        let mut removed: BTreeSet<_> = self.by_name.keys().cloned().collect();
        for plan in plans {
            removed.remove(&plan.name);
            match self.by_name.get_mut(&plan.name) {
                Some(pool) => pool.reconfigure(plan, context, now),
                None => _ = self.by_name.insert(plan.name.clone(), P::new(plan)),
            }
        }
        for name in &removed {
            if let Some(pool) = self.by_name.get_mut(name) {
                pool.remove_from_config(context, now);
            }
        }
        self.removed = removed;
    }

    /// Forgets removed pools that nothing is left of.
    pub(super) fn forget_obsolete(&mut self, now: Moment) {
        let by_name = &mut self.by_name;
        self.removed.retain(|name| {
            let is_obsolete = by_name.get(name).is_none_or(|pool| pool.is_obsolete(now));
            if is_obsolete {
                by_name.remove(name);
            }
            !is_obsolete
        });
    }

    /// Drops the request of a client that has hung up. Returns whether a pool had it.
    pub(super) fn cancel(&mut self, ticket: Ticket) -> bool {
        self.iter_mut().any(|pool| pool.cancel(ticket))
    }

    /// The earliest of a moment that each pool has.
    pub(super) fn earliest(&self, moment: impl Fn(&P) -> Moment) -> Moment {
        self.iter().map(moment).fold(Moment::NEVER, Moment::min)
    }

    /// What each pool is like, by name.
    pub(super) fn report<'a>(&'a self, report: impl Fn(&'a P) -> Report<'a>) -> Vec<Report<'a>> {
        self.iter().map(report).collect()
    }
}
