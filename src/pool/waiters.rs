//! Those who wait for one pool, in the order in which they came; found by ticket, too, when they hang up, and by host, when it is granted.
//! All that in time that grows with the logarithm of their number.

use super::Ticket;
use crate::moment::Moment;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// A request that waits.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Waiter {
    pub(super) ticket: Ticket,
    pub(super) host: Rc<str>,
    pub(super) since: Moment,
}

/// The queue of a pool.
#[derive(Debug, Default)]
pub(super) struct Waiters {
    by_ticket: BTreeMap<Ticket, (Rc<str>, Moment)>,
    by_host: BTreeSet<(Rc<str>, Ticket)>,
}

impl Waiters {
    pub(super) fn is_empty(&self) -> bool {
        self.by_ticket.is_empty()
    }

    /// In the order of their tickets.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, Moment)> {
        self.by_ticket.values().map(|(host, since)| (&**host, *since))
    }

    /// Puts one in the place of its ticket.
    pub(super) fn insert(&mut self, Waiter { ticket, host, since }: Waiter) {
        self.by_host.insert((host.clone(), ticket));
        self.by_ticket.insert(ticket, (host, since));
    }

    pub(super) fn remove(&mut self, ticket: Ticket) -> Option<Waiter> {
        let (host, since) = self.by_ticket.remove(&ticket)?;
        let found = (host, ticket);
        self.by_host.remove(&found);
        Some(Waiter { ticket, host: found.0, since })
    }

    /// Takes out the first, and all others of its host.
    pub(super) fn take_next(&mut self) -> Option<(Rc<str>, Vec<Waiter>)> {
        let (host, _) = self.by_ticket.values().next()?;
        let host = host.clone();
        let tickets: Vec<_> =
            self.by_host.range((host.clone(), Ticket(0))..=(host.clone(), Ticket(u64::MAX))).map(|(_, ticket)| *ticket).collect();
        Some((host, tickets.into_iter().filter_map(|ticket| self.remove(ticket)).collect()))
    }

    /// Takes out those whose host is none of these, or all.
    pub(super) fn take_unless(&mut self, stays: impl Fn(&str) -> bool) -> Vec<Waiter> {
        let leaving: Vec<_> = self.by_ticket.iter().filter(|(_, (host, _))| !stays(host)).map(|(ticket, _)| *ticket).collect();
        leaving.into_iter().filter_map(|ticket| self.remove(ticket)).collect()
    }
}
