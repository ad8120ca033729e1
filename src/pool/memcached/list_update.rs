//! Computes the change of a pool's list and leases, and the answers to requests. It holds if both
//! keys are still as they were read.

use super::super::invalid_request::{self, InvalidRequest};
use super::super::waiters::{PendingRequest, Waiters};
use super::super::{Call, NotReleased, Ticket};
use super::expiry::Lifetime;
use super::leases::{Lease, Leases};
use crate::plan;
use std::collections::BTreeSet;
use std::rc::Rc;

/// A change or question that needs the list.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum PoolOperation {
    /// The request of a client.
    Request(PendingRequest),
    /// Takes back a holding that this server granted, because no YES reached the host.
    TakeBack { host: Rc<str>, token: i64 },
}

impl PoolOperation {
    /// The request that the operation answers.
    pub(super) fn ticket(&self) -> Option<Ticket> {
        match self {
            PoolOperation::Request(request) => Some(request.ticket),
            PoolOperation::TakeBack { .. } => None,
        }
    }
}

/// The outcome of an operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum UpdateOutcome {
    Yes,
    No,
    /// NO, because the holding of this client is revoked.
    NoRevoked,
    /// NO, because the client was started under the holdings that it waits for.
    NoOuter,
    /// `held`: whether a holding was released.
    Ok {
        held: bool,
    },
    /// OK, because the release has named a holding that the host does not have.
    NotReleased(NotReleased),
    /// The holding is revoked now.
    Revoked,
    /// Nothing is revoked: the host does not hold the pool.
    NotHeld,
    /// The holding has another token than the request.
    OtherToken,
    Invalid(InvalidRequest),
    /// Of `TakeBack`: whether the host still held the pool.
    TakenBack(bool),
}

/// What an update depends on, besides the two keys.
pub(super) struct UpdateContext<'a> {
    pub(super) plan: &'a plan::Pool,
    /// The pool is not in the config any more: nothing is granted, but holders keep it.
    pub(super) is_removed: bool,
    /// The version of the list that was read.
    pub(super) base: Option<u64>,
    /// The time in ms since 1970.
    pub(super) date: u64,
    /// Whether this server granted the holding with this token.
    pub(super) granted_here: &'a dyn Fn(i64) -> bool,
}

impl UpdateContext<'_> {
    /// Whether a client may make this request. A pool that is not in the config does not exist for
    /// clients that do not hold it.
    fn check(&self, request: &PendingRequest, holds: bool) -> Result<(), InvalidRequest> {
        if !self.is_removed {
            invalid_request::check(self.plan, request.call, &request.host, holds)
        } else if holds && request.call.keeps() {
            Ok(())
        } else {
            invalid_request::check_host(&request.host).and(Err(InvalidRequest::UnknownPool))
        }
    }
}

/// What a client can do with a pool that it wants to hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Eligibility {
    /// It holds the pool already.
    Holds { revoked: bool },
    /// Another run of its host holds the pool, so it gets no slot.
    HeldByOtherRun,
    /// Its host does not hold the pool.
    NotHeld,
}

/// A change of both keys, and the answers that follow from it.
#[derive(Debug, Default)]
pub(super) struct ListUpdate {
    /// The new list.
    pub(super) hosts: Vec<Rc<str>>,
    /// The leases of all hosts that were or will be on the list. A token is 0 until it is
    /// allocated.
    pub(super) leases: Leases,
    /// Whether the list is written, for its hosts or for its expiry.
    pub(super) list_changed: bool,
    /// Whether the leases are written; the list is written after them.
    pub(super) leases_changed: bool,
    /// The hosts whose leases need a token, in the order of the tokens.
    pub(super) unnumbered: Vec<Rc<str>>,
    /// The outcome of each operation.
    pub(super) outcomes: Vec<(PoolOperation, UpdateOutcome)>,
    /// Operations for the next cycle: this update removes their hosts from the list, and a lease
    /// can be replaced only once its host is off the list.
    pub(super) deferred: Vec<PoolOperation>,
    removed: BTreeSet<Rc<str>>,
    blocked: Vec<Rc<str>>,
}

impl ListUpdate {
    /// Computes the update from the list, the leases of its hosts, the operations and the waiters.
    ///
    /// Releases come first, so that no release ends a holding that the same update grants.
    pub(super) fn new(
        hosts: Vec<Rc<str>>,
        leases: Leases,
        operations: Vec<PoolOperation>,
        waiters: &mut Waiters,
        context: &UpdateContext,
    ) -> ListUpdate {
        let mut update = ListUpdate {
            hosts,
            leases,
            ..ListUpdate::default()
        };
        let mut acquiring = Vec::new();
        for operation in operations {
            match operation {
                PoolOperation::Request(request) => match request.call {
                    Call::Release { token } => update.release(request, token, context),
                    Call::Revoke { token } => update.revoke(request, token, context),
                    Call::Get | Call::Wait | Call::Renew { .. } => acquiring.push(request),
                },
                PoolOperation::TakeBack { ref host, token } => {
                    let held = update.hosts.contains(host)
                        && update
                            .leases
                            .get(host)
                            .is_some_and(|lease| lease.token == token);
                    if held {
                        update.remove(host);
                    }
                    update
                        .outcomes
                        .push((operation, UpdateOutcome::TakenBack(held)));
                }
            }
        }
        if !waiters.is_empty() {
            update.answer_waiting_holders(waiters, context);
        }
        if context.is_removed {
            update.answer_waiters_of_removed_pool(waiters);
        }
        update.grant_to_waiters(waiters, context);
        for request in acquiring {
            update.acquire(request, waiters, context);
            update.grant_to_waiters(waiters, context);
        }
        update.refuse_circular_waits(waiters, context);
        update
            .blocked
            .drain(..)
            .for_each(|host| waiters.unblock(&host));
        update
    }

    /// Whether a waiter of a host that this update removes may be granted a slot in the next cycle.
    pub(super) fn needs_another_cycle(&self, waiters: &Waiters) -> bool {
        !self.deferred.is_empty()
            || !self.removed.is_empty()
                && waiters.iter().any(|(host, ..)| self.removed.contains(host))
    }

    fn eligibility(&self, request: &PendingRequest) -> Eligibility {
        if !self.hosts.contains(&request.host) {
            return Eligibility::NotHeld;
        }
        match self.leases.get(&request.host) {
            Some(Lease { run: Some(run), .. }) if request.run.as_ref() != Some(run) => {
                Eligibility::HeldByOtherRun
            }
            lease => Eligibility::Holds {
                revoked: lease.is_some_and(|lease| lease.revoked),
            },
        }
    }

    /// Releases the holding that the request names: by token, otherwise by run, otherwise the
    /// holding of the host.
    fn release(&mut self, request: PendingRequest, token: Option<i64>, context: &UpdateContext) {
        let holds = self.hosts.contains(&request.host);
        if let Err(why) = context.check(&request, holds) {
            return self.resolve(request, UpdateOutcome::Invalid(why));
        }
        let lease = self.leases.get(&request.host);
        let is_meant = match (token, &request.run) {
            (Some(token), run) => {
                let is_its =
                    |lease: &Lease| run.is_none() || lease.run.is_none() || lease.run == *run;
                lease.is_some_and(|lease| lease.token == token && is_its(lease))
            }
            (None, Some(run)) => lease.is_some_and(|lease| lease.run.as_ref() == Some(run)),
            (None, None) => true,
        };
        let held = holds && is_meant;
        let outcome = if !held && (token.is_some() || request.run.is_some()) {
            // A host of the original has no token.
            let found = holds.then(|| lease.map_or(0, |lease| lease.token));
            UpdateOutcome::NotReleased(NotReleased::of(token, found))
        } else {
            UpdateOutcome::Ok { held }
        };
        if held {
            self.remove(&request.host);
        }
        self.resolve(request, outcome);
    }

    fn revoke(&mut self, request: PendingRequest, token: Option<i64>, context: &UpdateContext) {
        let holds = self.hosts.contains(&request.host);
        if let Err(why) = context.check(&request, holds) {
            return self.resolve(request, UpdateOutcome::Invalid(why));
        }
        if !holds {
            return self.resolve(request, UpdateOutcome::NotHeld);
        }
        // A host of the original has no token.
        let lease = self.leases.get(&request.host);
        if token.is_some() && token != lease.map(|lease| lease.token) {
            return self.resolve(request, UpdateOutcome::OtherToken);
        }
        if !self.leases.contains_key(&request.host) {
            self.adopt(&request.host, context);
        }
        if let Some(lease) = self.leases.get_mut(&request.host) {
            self.leases_changed |= !lease.revoked;
            lease.revoked = true;
        }
        self.resolve(request, UpdateOutcome::Revoked);
    }

    fn acquire(&mut self, request: PendingRequest, waiters: &mut Waiters, context: &UpdateContext) {
        let eligibility = self.eligibility(&request);
        match (
            request.call,
            eligibility,
            context.check(&request, matches!(eligibility, Eligibility::Holds { .. })),
        ) {
            (_, _, Err(why)) => self.resolve(request, UpdateOutcome::Invalid(why)),
            (_, Eligibility::Holds { revoked: true }, _) => {
                self.resolve(request, UpdateOutcome::NoRevoked);
            }
            (call, Eligibility::Holds { revoked: false }, _) => {
                self.list_changed |= matches!(call, Call::Renew { .. });
                self.confirm(vec![request], context);
            }
            (Call::Wait, ..) => waiters.insert(request),
            (Call::Renew { token: None }, ..) => self.resolve(request, UpdateOutcome::No),
            (_, Eligibility::NotHeld, _) if self.removed.contains(&request.host) => {
                self.deferred.push(PoolOperation::Request(request));
            }
            (_, Eligibility::NotHeld, _) if self.has_room(context) => {
                self.grant(vec![request], waiters, context);
            }
            _ => self.resolve(request, UpdateOutcome::No),
        }
    }

    /// The hosts that are answered YES.
    pub(super) fn confirmed(&self) -> impl Iterator<Item = &Rc<str>> {
        self.outcomes
            .iter()
            .filter_map(|(operation, outcome)| match (operation, outcome) {
                (PoolOperation::Request(request), UpdateOutcome::Yes) => Some(&request.host),
                _ => None,
            })
    }

    /// How long memcached must keep the list: as long as the longest lease on it. Hosts of the
    /// original count on the config's `expire`.
    pub(super) fn kept(&self, plan: &plan::Pool) -> Lifetime {
        kept(&self.hosts, &self.leases, plan)
    }

    fn has_room(&self, context: &UpdateContext) -> bool {
        !context.is_removed
            && self.hosts.len() < usize::try_from(context.plan.permits).unwrap_or(usize::MAX)
    }

    /// Answers waiters that share a holding of their host, and blocks those that cannot get a slot
    /// beside it.
    fn answer_waiting_holders(&mut self, waiters: &mut Waiters, context: &UpdateContext) {
        for host in self.hosts.clone() {
            let lease = self.leases.get(&host);
            let is_revoked = lease.is_some_and(|lease| lease.revoked);
            let requests = waiters.take_holder(&host, lease.and_then(|lease| lease.run.as_ref()));
            if is_revoked {
                requests
                    .into_iter()
                    .for_each(|request| self.resolve(request, UpdateOutcome::NoRevoked));
            } else if !requests.is_empty() {
                self.confirm(requests, context);
            }
            self.block(&host, waiters);
        }
        for host in self.removed.clone() {
            self.block(&host, waiters);
        }
    }

    /// Answers the waiters that are left, for example because a write failed while the pool was
    /// removed from the config.
    fn answer_waiters_of_removed_pool(&mut self, waiters: &mut Waiters) {
        for request in waiters.take_all() {
            self.resolve(request, UpdateOutcome::Invalid(InvalidRequest::UnknownPool));
        }
    }

    /// Answers the waiters that were started under the holdings that they wait for.
    fn refuse_circular_waits(&mut self, waiters: &mut Waiters, context: &UpdateContext) {
        for request in waiters.take_circular(|host, outer| self.is_circular(host, outer, context)) {
            self.resolve(request, UpdateOutcome::NoOuter);
        }
    }

    /// Whether a waiter was started under all holdings of which one would have to end first: that
    /// of its host, otherwise those of all hosts.
    fn is_circular(&self, host: &Rc<str>, outer: &[i64], context: &UpdateContext) -> bool {
        let is_outer = |host: &Rc<str>| {
            let lease = self.leases.get(host);
            lease.is_some_and(|lease| outer.contains(&lease.token))
        };
        if self.hosts.contains(host) {
            return is_outer(host);
        }
        !self.has_room(context) && !self.hosts.is_empty() && self.hosts.iter().all(is_outer)
    }

    fn block(&mut self, host: &Rc<str>, waiters: &mut Waiters) {
        waiters.block(host);
        self.blocked.push(host.clone());
    }

    fn grant_to_waiters(&mut self, waiters: &mut Waiters, context: &UpdateContext) {
        while self.has_room(context) && waiters.has_next() {
            let next = waiters.take_next();
            self.grant(next, waiters, context);
        }
    }

    /// Adds the host of these requests to the list, for the run of the first.
    fn grant(
        &mut self,
        requests: Vec<PendingRequest>,
        waiters: &mut Waiters,
        context: &UpdateContext,
    ) {
        let Some(PendingRequest { host, run, .. }) = requests.first().cloned() else {
            return;
        };
        self.list_changed = true;
        self.hosts.push(host.clone());
        self.insert_lease(&host, run, false, context);
        self.block(&host, waiters);
        requests
            .into_iter()
            .for_each(|request| self.resolve(request, UpdateOutcome::Yes));
    }

    /// Gives a host that the original added to the list a lease and a token. A lost reply does not
    /// take this holding back.
    fn adopt(&mut self, host: &Rc<str>, context: &UpdateContext) {
        self.insert_lease(host, None, true, context);
    }

    fn insert_lease(
        &mut self,
        host: &Rc<str>,
        run: Option<Rc<str>>,
        confirmed: bool,
        context: &UpdateContext,
    ) {
        let (length, base, acquired) = (
            Lifetime::of(context.plan.expire),
            context.base,
            context.date,
        );
        self.leases.insert(
            host.clone(),
            Lease {
                token: 0,
                run,
                length,
                base,
                acquired,
                confirmed,
                revoked: false,
            },
        );
        self.leases_changed = true;
        self.unnumbered.push(host.clone());
    }

    /// Answers YES to requests whose host is on the list.
    fn confirm(&mut self, requests: Vec<PendingRequest>, context: &UpdateContext) {
        if let Some(PendingRequest { host, .. }) = requests.first() {
            self.extend_lease(&host.clone(), context);
        }
        requests
            .into_iter()
            .for_each(|request| self.resolve(request, UpdateOutcome::Yes));
    }

    /// Makes the lease cover what a YES says: it lasts at least as long as the config says, and is
    /// marked as confirmed if another server granted it.
    fn extend_lease(&mut self, host: &Rc<str>, context: &UpdateContext) {
        let length = Lifetime::of(context.plan.expire);
        let Some(lease) = self.leases.get_mut(host) else {
            self.list_changed = true;
            return self.adopt(host, context);
        };
        if lease.token == 0 {
            return; // this update grants it
        }
        let dirty = !lease.confirmed && !(context.granted_here)(lease.token);
        if lease.length < length || dirty {
            lease.length = lease.length.max(length);
            lease.confirmed |= dirty;
            (self.leases_changed, self.list_changed) = (true, true);
        }
    }

    fn remove(&mut self, host: &Rc<str>) {
        self.list_changed = true;
        self.hosts.retain(|other| other != host);
        self.removed.insert(host.clone());
    }

    fn resolve(&mut self, request: PendingRequest, outcome: UpdateOutcome) {
        self.outcomes
            .push((PoolOperation::Request(request), outcome));
    }
}

/// See [`ListUpdate::kept`].
pub(super) fn kept(hosts: &[Rc<str>], leases: &Leases, plan: &plan::Pool) -> Lifetime {
    let lengths = hosts
        .iter()
        .filter_map(|host| leases.get(host))
        .map(|lease| lease.length);
    lengths.fold(Lifetime::of(plan.expire), Lifetime::max)
}
