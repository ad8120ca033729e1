//! Those who wait for one pool, in the order in which they came; found by ticket, too, when they hang up, and by host, when it is granted.
//! All that in time that grows with the logarithm of their number.

use super::{Call, Ticket};
use crate::moment::Moment;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// A request that has no answer yet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Asked {
    pub(super) ticket: Ticket,
    pub(super) call: Call,
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
    pub(super) fn insert(&mut self, Asked { ticket, host, since, .. }: Asked) {
        self.by_host.insert((host.clone(), ticket));
        self.by_ticket.insert(ticket, (host, since));
    }

    pub(super) fn remove(&mut self, ticket: Ticket) -> Option<Asked> {
        let (host, since) = self.by_ticket.remove(&ticket)?;
        self.by_host.remove(&(host.clone(), ticket));
        Some(Asked { ticket, call: Call::Wait, host, since })
    }

    /// Takes out the first, and all others of its host.
    pub(super) fn take_next(&mut self) -> Vec<Asked> {
        self.by_ticket.values().next().map(|(host, _)| host.clone()).map_or(Vec::new(), |host| self.take_host(&host))
    }

    pub(super) fn take_host(&mut self, host: &Rc<str>) -> Vec<Asked> {
        let its = (host.clone(), Ticket(0))..=(host.clone(), Ticket(u64::MAX));
        let tickets: Vec<_> = self.by_host.range(its).map(|(_, ticket)| *ticket).collect();
        tickets.into_iter().filter_map(|ticket| self.remove(ticket)).collect()
    }

    /// Takes out all of them, the first first.
    pub(super) fn take_all(&mut self) -> Vec<Asked> {
        let all = std::mem::take(self).by_ticket.into_iter();
        all.map(|(ticket, (host, since))| Asked { ticket, call: Call::Wait, host, since }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_leave_in_the_order_of_their_tickets_however_they_came() {
        let mut waiters = Waiters::default();
        for (ticket, host) in [(4, "b"), (2, "a"), (9, "a"), (7, "ab"), (5, "c")] {
            waiters.insert(Asked { ticket: Ticket(ticket), call: Call::Wait, host: host.into(), since: Moment::default() });
        }
        assert_eq!(waiters.remove(Ticket(5)).map(|asked| asked.host), Some("c".into()));
        assert_eq!(waiters.remove(Ticket(5)), None);
        let mut next = || waiters.take_next().iter().map(|asked| (asked.ticket.0, asked.host.to_string())).collect::<Vec<_>>();
        assert_eq!(next(), [(2, "a".into()), (9, "a".into())]);
        assert_eq!(next(), [(4, "b".into())]);
        assert_eq!(next(), [(7, "ab".into())]);
        assert_eq!(next(), []);
        assert!(waiters.is_empty() && waiters.by_host.is_empty());
    }
}
