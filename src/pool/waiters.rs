//! The waiters of one pool, in FIFO order. They are found by ticket when a client hangs up, and by
//! host and run when a slot is granted, each in O(log n).

use super::{Call, Request, Ticket, Waiter};
use crate::moment::Moment;
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// The id of a run of a host.
pub(super) type Run = Rc<str>;

/// A request that is not answered yet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct PendingRequest {
    pub(super) ticket: Ticket,
    pub(super) call: Call,
    pub(super) host: Rc<str>,
    /// The run of the host that made the request, if it gave one.
    pub(super) run: Option<Run>,
    pub(super) since: Moment,
    /// The tokens of the holdings under which the client was started.
    pub(super) outer: Vec<i64>,
}

impl PendingRequest {
    /// From a request that arrives now, for a host of this name.
    pub(super) fn new(request: &Request, host: &str, now: Moment) -> PendingRequest {
        PendingRequest {
            ticket: request.ticket,
            call: request.call,
            host: host.into(),
            run: request.run.map(Into::into),
            since: now,
            outer: request.outer.to_vec(),
        }
    }
}

/// The queue of a pool.
#[derive(Debug, Default)]
pub(super) struct Waiters {
    by_ticket: BTreeMap<Ticket, WaitEntry>,
    by_host: BTreeSet<(Rc<str>, Ticket)>,
    by_run: BTreeSet<(Rc<str>, Option<Run>, Ticket)>,
    /// The first request of each host that is not blocked: the candidates for a free slot.
    next: BTreeSet<Ticket>,
    /// Hosts that hold the pool.
    blocked: BTreeSet<Rc<str>>,
    /// The tokens that requests have in `outer`, of those that have any.
    nested: BTreeMap<Ticket, Vec<i64>>,
}

#[derive(Debug)]
struct WaitEntry {
    host: Rc<str>,
    run: Option<Run>,
    since: Moment,
}

impl Waiters {
    pub(super) fn is_empty(&self) -> bool {
        self.by_ticket.is_empty()
    }

    /// Whether a waiter could be granted a free slot.
    pub(super) fn has_next(&self) -> bool {
        !self.next.is_empty()
    }

    /// In FIFO order: host, run and start of the wait.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, Option<&str>, Moment)> {
        self.by_ticket
            .values()
            .map(|WaitEntry { host, run, since }| (&**host, run.as_deref(), *since))
    }

    /// The requests, in FIFO order.
    pub(super) fn tickets(&self) -> impl Iterator<Item = Ticket> {
        self.by_ticket.keys().copied()
    }

    /// The host and run that this request is of, if it waits.
    pub(super) fn get(&self, ticket: Ticket) -> Option<(Rc<str>, Option<Run>)> {
        let (host, run, _) = self.get_since(ticket)?;
        Some((host, run))
    }

    /// The same, and since when it waits.
    pub(super) fn get_since(&self, ticket: Ticket) -> Option<(Rc<str>, Option<Run>, Moment)> {
        let WaitEntry { host, run, since } = self.by_ticket.get(&ticket)?;
        Some((host.clone(), run.clone(), *since))
    }

    /// Removes the waiters that were started under the holdings that they wait for. `is_circular`
    /// decides by the host of a waiter and the tokens under which it was started.
    pub(super) fn take_circular(
        &mut self,
        is_circular: impl Fn(&Rc<str>, &[i64]) -> bool,
    ) -> Vec<PendingRequest> {
        let nested = self.nested.iter();
        let circular = nested.filter(|(ticket, outer)| {
            let entry = self.by_ticket.get(ticket);
            entry.is_some_and(|entry| is_circular(&entry.host, outer))
        });
        let circular: Vec<Ticket> = circular.map(|(ticket, _)| *ticket).collect();
        let taken = circular.into_iter();
        taken.filter_map(|ticket| self.remove(ticket)).collect()
    }

    /// The waiters as a report shows them. `name`: the name of a host as its requests have it.
    pub(super) fn report<'a>(
        &'a self,
        now: Moment,
        name: fn(&'a str) -> Cow<'a, str>,
    ) -> Vec<Waiter<'a>> {
        self.iter()
            .map(|(host, run, since)| Waiter {
                host: name(host),
                run,
                waited: now.since(since),
            })
            .collect()
    }

    /// Queues a request. Its ticket decides its position.
    pub(super) fn insert(
        &mut self,
        PendingRequest {
            ticket,
            host,
            run,
            since,
            outer,
            ..
        }: PendingRequest,
    ) {
        if !outer.is_empty() {
            self.nested.insert(ticket, outer);
        }
        self.change(&host.clone(), |waiters| {
            waiters.by_host.insert((host.clone(), ticket));
            waiters.by_run.insert((host.clone(), run.clone(), ticket));
            waiters
                .by_ticket
                .insert(ticket, WaitEntry { host, run, since });
        });
    }

    pub(super) fn remove(&mut self, ticket: Ticket) -> Option<PendingRequest> {
        let host = self.by_ticket.get(&ticket)?.host.clone();
        let outer = self.nested.remove(&ticket).unwrap_or_default();
        self.change(&host, |waiters| {
            let WaitEntry { host, run, since } = waiters.by_ticket.remove(&ticket)?;
            waiters.by_host.remove(&(host.clone(), ticket));
            waiters.by_run.remove(&(host.clone(), run.clone(), ticket));
            Some(PendingRequest {
                ticket,
                call: Call::Wait,
                host,
                run,
                since,
                outer,
            })
        })
    }

    /// The host holds the pool: none of its waiters can be granted a slot until `unblock`.
    pub(super) fn block(&mut self, host: &Rc<str>) {
        self.change(host, |waiters| waiters.blocked.insert(host.clone()));
    }

    /// The host does not hold the pool any more.
    pub(super) fn unblock(&mut self, host: &Rc<str>) {
        self.change(host, |waiters| waiters.blocked.remove(host));
    }

    /// Changes the entries of a host and updates `next`.
    fn change<T>(&mut self, host: &Rc<str>, change: impl FnOnce(&mut Waiters) -> T) -> T {
        if let Some(first) = self.first(host) {
            self.next.remove(&first);
        }
        let changed = change(self);
        if let Some(first) = self.first(host).filter(|_| !self.blocked.contains(host)) {
            self.next.insert(first);
        }
        changed
    }

    fn first(&self, host: &Rc<str>) -> Option<Ticket> {
        self.by_host
            .range((host.clone(), Ticket(0))..=(host.clone(), Ticket(u64::MAX)))
            .next()
            .map(|(_, ticket)| *ticket)
    }

    /// Removes the first waiter that can be granted a slot, with all others that share its holding.
    pub(super) fn take_next(&mut self) -> Vec<PendingRequest> {
        let next = self
            .next
            .first()
            .and_then(|ticket| self.by_ticket.get(ticket));
        let Some((host, run)) = next.map(|WaitEntry { host, run, .. }| (host.clone(), run.clone()))
        else {
            return Vec::new();
        };
        self.take_holder(&host, run.as_ref())
    }

    /// Removes the waiters that share a holding of this run; without a run, all waiters of the
    /// host.
    pub(super) fn take_holder(&mut self, host: &Rc<str>, run: Option<&Run>) -> Vec<PendingRequest> {
        let (first, last) = (Ticket(0), Ticket(u64::MAX));
        let tickets: Vec<_> = match run {
            None => self
                .by_host
                .range((host.clone(), first)..=(host.clone(), last))
                .map(|(_, ticket)| *ticket)
                .collect(),
            Some(run) => {
                let its = (host.clone(), Some(run.clone()), first)
                    ..=(host.clone(), Some(run.clone()), last);
                self.by_run
                    .range(its)
                    .map(|(_, _, ticket)| *ticket)
                    .collect()
            }
        };
        tickets
            .into_iter()
            .filter_map(|ticket| self.remove(ticket))
            .collect()
    }

    /// Removes all waiters, in FIFO order. Blocked hosts stay blocked.
    pub(super) fn take_all(&mut self) -> Vec<PendingRequest> {
        let tickets: Vec<_> = self.by_ticket.keys().copied().collect();
        tickets
            .into_iter()
            .filter_map(|ticket| self.remove(ticket))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiters(entries: &[(u64, &str, &str)]) -> Waiters {
        let mut waiters = Waiters::default();
        for &(ticket, host, run) in entries {
            let run = (!run.is_empty()).then(|| run.into());
            waiters.insert(PendingRequest {
                ticket: Ticket(ticket),
                call: Call::Wait,
                host: host.into(),
                run,
                since: Moment::default(),
                outer: vec![],
            });
        }
        waiters
    }

    fn next(waiters: &mut Waiters) -> Vec<u64> {
        waiters
            .take_next()
            .iter()
            .map(|request| request.ticket.0)
            .collect()
    }

    #[test]
    fn waiters_are_granted_in_ticket_order_whatever_order_they_were_inserted_in() {
        let mut waiters = waiters(&[
            (4, "b", ""),
            (2, "a", ""),
            (9, "a", ""),
            (7, "ab", ""),
            (5, "c", ""),
        ]);
        assert_eq!(
            waiters.remove(Ticket(5)).map(|request| request.host),
            Some("c".into())
        );
        assert_eq!(waiters.remove(Ticket(5)), None);
        for expected in [&[2, 9][..], &[4], &[7], &[]] {
            assert_eq!(next(&mut waiters), expected);
        }
        assert!(
            waiters.is_empty()
                && waiters.by_host.is_empty()
                && waiters.by_run.is_empty()
                && !waiters.has_next()
        );
    }

    #[test]
    fn run_is_granted_all_its_requests_and_host_those_of_all_its_runs() {
        let mut queue = waiters(&[(1, "a", "x"), (2, "a", "y"), (3, "a", ""), (4, "a", "x")]);
        for expected in [&[1, 4][..], &[2], &[3], &[]] {
            assert_eq!(next(&mut queue), expected);
        }
        let mut queue = waiters(&[(2, "a", "y"), (1, "a", ""), (4, "a", "x"), (3, "b", "")]);
        assert_eq!(
            (next(&mut queue), next(&mut queue)),
            (vec![1, 2, 4], vec![3])
        );
    }

    #[test]
    fn waiters_of_a_blocked_host_are_skipped_and_keep_their_position() {
        let mut queue = waiters(&[(1, "a", "x"), (3, "b", "")]);
        let a: Rc<str> = "a".into();
        queue.block(&a);
        queue.insert(PendingRequest {
            ticket: Ticket(2),
            call: Call::Wait,
            host: a.clone(),
            run: None,
            since: Moment::default(),
            outer: vec![],
        });
        assert_eq!(next(&mut queue), [3]);
        assert!(!queue.has_next() && !queue.is_empty());
        queue.unblock(&a);
        assert_eq!((next(&mut queue), next(&mut queue)), (vec![1], vec![2]));
    }
}
