//! What is to become of a pool's list and leases, and of the requests, if both keys are still as
//! they were read.

use super::super::invalid_request::{self, InvalidRequest};
use super::super::waiters::{PendingRequest, Waiters};
use super::super::{Call, Ticket};
use super::expiry::Lifetime;
use super::leases::{Lease, Leases};
use crate::plan;
use std::collections::BTreeSet;
use std::rc::Rc;

/// Something that is to be done with the list.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum PoolOperation {
    /// A host request.
    Request(PendingRequest),
    /// A host was put on the list here, but could not be told.
    TakeBack { host: Rc<str>, token: i64 },
}

impl PoolOperation {
    /// Whose answer depends on it.
    pub(super) fn ticket(&self) -> Option<Ticket> {
        match self {
            PoolOperation::Request(request) => Some(request.ticket),
            PoolOperation::TakeBack { .. } => None,
        }
    }
}

/// What is to be answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum UpdateOutcome {
    Yes,
    No,
    /// NO, to the holder itself.
    NoRevoked,
    /// And whether it held the pool.
    Ok {
        held: bool,
    },
    /// Its holding is revoked.
    Revoked,
    /// It has none that could be.
    NotHeld,
    Invalid(InvalidRequest),
    /// No request caused it; and whether a holding was taken back.
    TakenBack(bool),
}

/// What a update is made by, besides what was read.
pub(super) struct UpdateContext<'a> {
    pub(super) plan: &'a plan::Pool,
    /// The config does not have the pool any more: nothing is granted in it, but its holders keep
    /// it.
    pub(super) is_removed: bool,
    /// The version of the list that was read.
    pub(super) base: Option<u64>,
    /// In ms since 1970.
    pub(super) date: u64,
    /// Whether the holding with this token was granted by this server.
    pub(super) granted_here: &'a dyn Fn(i64) -> bool,
}

impl UpdateContext<'_> {
    /// Whether the pool may be request this. To a client that holds nothing of it, a pool that the
    /// config does not have is one that does not exist.
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

/// Whose slot a request finds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Eligibility {
    /// Its own.
    Holds { revoked: bool },
    /// That of another run of its host. It gets none beside that.
    HeldByOtherRun,
    /// None of its host.
    NotHeld,
}

/// A change of both keys, and what it answers.
#[derive(Debug, Default)]
pub(super) struct ListUpdate {
    /// The list.
    pub(super) hosts: Vec<Rc<str>>,
    /// Of the hosts that were on it or are to be. A token is 0 until it is taken.
    pub(super) leases: Leases,
    /// Whether the list is to be written, for what is on it or for its expiry.
    pub(super) list_changed: bool,
    /// Whether the leases are. Then the list is written after them.
    pub(super) leases_changed: bool,
    /// Whose leases need tokens, in their order.
    pub(super) unnumbered: Vec<Rc<str>>,
    /// What comes of each operation.
    pub(super) outcomes: Vec<(PoolOperation, UpdateOutcome)>,
    /// Those that come too early: their hosts are taken off the list by this update, and a lease
    /// is replaced only once its host is off.
    pub(super) deferred: Vec<PoolOperation>,
    removed: BTreeSet<Rc<str>>,
    blocked: Vec<Rc<str>>,
}

impl ListUpdate {
    /// From the list as it is and the leases of its hosts, by what is request and by who waits.
    ///
    /// Those who let go are the first: nobody who is told YES here can have meant to let go of
    /// that.
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
                    Call::Revoke => update.revoke(request, context),
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
        update.grant_to_waiters(waiters, context);
        for request in acquiring {
            update.acquire(request, waiters, context);
            update.grant_to_waiters(waiters, context);
        }
        update
            .blocked
            .drain(..)
            .for_each(|host| waiters.unblock(&host));
        update
    }

    /// Whether a waiter of a host that is taken off the list would have to be granted it at once.
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

    /// Only the holding that is meant: by token, of the run if one is given, or else whichever the
    /// host has.
    fn release(&mut self, request: PendingRequest, token: Option<i64>, context: &UpdateContext) {
        let holds = self.hosts.contains(&request.host);
        if let Err(refusal) = context.check(&request, holds) {
            return self.resolve(request, UpdateOutcome::Invalid(refusal));
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
        if held {
            self.remove(&request.host);
        }
        self.resolve(request, UpdateOutcome::Ok { held });
    }

    fn revoke(&mut self, request: PendingRequest, context: &UpdateContext) {
        let holds = self.hosts.contains(&request.host);
        if let Err(refusal) = context.check(&request, holds) {
            return self.resolve(request, UpdateOutcome::Invalid(refusal));
        }
        if !holds {
            return self.resolve(request, UpdateOutcome::NotHeld);
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
            (_, _, Err(refusal)) => self.resolve(request, UpdateOutcome::Invalid(refusal)),
            (_, Eligibility::Holds { revoked: true }, _) => {
                self.resolve(request, UpdateOutcome::NoRevoked);
            }
            (call, Eligibility::Holds { revoked: false }, _) => {
                self.list_changed |= matches!(call, Call::Renew { .. });
                self.confirm(vec![request], context);
            }
            (Call::Wait, ..) => waiters.insert(request),
            (_, Eligibility::NotHeld, _) if self.removed.contains(&request.host) => {
                self.deferred.push(PoolOperation::Request(request));
            }
            (_, Eligibility::NotHeld, _) if self.has_room(context) => {
                self.grant(vec![request], waiters, context);
            }
            _ => self.resolve(request, UpdateOutcome::No),
        }
    }

    /// Who is to be told YES.
    pub(super) fn confirmed(&self) -> impl Iterator<Item = &Rc<str>> {
        self.outcomes
            .iter()
            .filter_map(|(operation, outcome)| match (operation, outcome) {
                (PoolOperation::Request(request), UpdateOutcome::Yes) => Some(&request.host),
                _ => None,
            })
    }

    /// How long the list is to be kept: as long as its longest lease. The original's hosts count on
    /// what the config says.
    pub(super) fn kept(&self, plan: &plan::Pool) -> Lifetime {
        kept(&self.hosts, &self.leases, plan)
    }

    fn has_room(&self, context: &UpdateContext) -> bool {
        !context.is_removed
            && self.hosts.len() < usize::try_from(context.plan.permits).unwrap_or(usize::MAX)
    }

    /// Waiters whose host or run holds the pool need not wait; those of other runs of a holder can
    /// only wait.
    fn answer_waiting_holders(&mut self, waiters: &mut Waiters, context: &UpdateContext) {
        for host in self.hosts.clone() {
            let lease = self.leases.get(&host);
            let is_revoked = lease.is_some_and(|lease| lease.revoked);
            let request = waiters.take_holder(&host, lease.and_then(|lease| lease.run.as_ref()));
            if is_revoked {
                request
                    .into_iter()
                    .for_each(|request| self.resolve(request, UpdateOutcome::NoRevoked));
            } else if !request.is_empty() {
                self.confirm(request, context);
            }
            self.block(&host, waiters);
        }
        for host in self.removed.clone() {
            self.block(&host, waiters);
        }
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

    /// The host of these requests comes on the list, for the run of the first.
    fn grant(
        &mut self,
        request: Vec<PendingRequest>,
        waiters: &mut Waiters,
        context: &UpdateContext,
    ) {
        let Some(PendingRequest { host, run, .. }) = request.first().cloned() else {
            return;
        };
        self.list_changed = true;
        self.hosts.push(host.clone());
        self.insert_lease(&host, run, false, context);
        self.block(&host, waiters);
        request
            .into_iter()
            .for_each(|request| self.resolve(request, UpdateOutcome::Yes));
    }

    /// A host that the original has put on the list gets a token, and no lost answer takes that
    /// holding back.
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

    /// The host of these requests is on the list.
    fn confirm(&mut self, request: Vec<PendingRequest>, context: &UpdateContext) {
        if let Some(PendingRequest { host, .. }) = request.first() {
            self.extend_lease(&host.clone(), context);
        }
        request
            .into_iter()
            .for_each(|request| self.resolve(request, UpdateOutcome::Yes));
    }

    /// Has the lease say all that a confirmation tells: at least what the config now says, and that
    /// it is not this server's to take back.
    fn extend_lease(&mut self, host: &Rc<str>, context: &UpdateContext) {
        let length = Lifetime::of(context.plan.expire);
        let Some(lease) = self.leases.get_mut(host) else {
            self.list_changed = true;
            return self.adopt(host, context);
        };
        if lease.token == 0 {
            return; // it is new
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

/// As [`ListUpdate::kept`], of any list.
pub(super) fn kept(hosts: &[Rc<str>], leases: &Leases, plan: &plan::Pool) -> Lifetime {
    let lengths = hosts
        .iter()
        .filter_map(|host| leases.get(host))
        .map(|lease| lease.length);
    lengths.fold(Lifetime::of(plan.expire), Lifetime::max)
}
