//! Computes the change of a pool's record, and the answers to requests. Both are valid only if the
//! node still has the version that was read.

use super::super::invalid_request::{self, InvalidRequest};
use super::super::lease::{self, ClientLease};
use super::super::waiters::{PendingRequest, Run, Waiters};
use super::super::{Call, NotReleased, Ticket};
use super::queue::Queue;
use super::record::{Holding, Record};
use super::sightings::Sightings;
use crate::moment::Moment;
use crate::plan;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

/// The most entries that end with one write: servers refuse a request over 1 MB, of which the record
/// takes up to the half, and a path has up to 1 KB. Any number of waiters may share a holding: the
/// entries of the others are deleted after the write.
const MAX_SERVED: usize = 256;

/// The most servers that a record lists as those that may have told a client of a holding. With more
/// it is taken as known, and is not taken back.
const MAX_TOLD_BY: usize = 4;

/// A renewal that gains less than this fraction of the lease (1/100) changes nothing: each host
/// renews once right after it was granted the pool, to confirm that it knows.
const MIN_RENEWAL_GAIN: u32 = 100;

/// A request that needs the record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct PoolOperation {
    pub(super) request: PendingRequest,
    /// The token of the holding that it has released if an unanswered write was carried out.
    pub(super) released: Option<i64>,
}

impl From<PendingRequest> for PoolOperation {
    fn from(request: PendingRequest) -> PoolOperation {
        PoolOperation {
            request,
            released: None,
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
    /// OK: the host does not hold the pool.
    NothingReleased,
    /// OK: this holding is released, which was acquired at this time in ms since 1970.
    Released {
        token: i64,
        since: u64,
    },
    /// OK, because the release has named a holding that the host does not have.
    NotReleased(NotReleased),
    /// The holding is revoked now.
    Revoked,
    /// Nothing is revoked: the host does not hold the pool.
    NotHeld,
    /// Nothing is revoked: the holding of the host does not have the token of the request.
    OtherToken,
    Invalid(InvalidRequest),
}

/// What an update depends on, besides the record.
pub(super) struct UpdateContext<'a> {
    pub(super) plan: &'a plan::Pool,
    /// The pool is not in the config any more: nothing is granted, but holders keep it.
    pub(super) is_removed: bool,
    pub(super) sightings: &'a Sightings,
    pub(super) queue: &'a Queue,
    /// Holdings that no client can know of.
    pub(super) undelivered: &'a [(Rc<str>, i64)],
    /// How many entries the queue had over all servers.
    pub(super) entries: usize,
    /// The record has more than the node, so it is to be written.
    pub(super) is_completed: bool,
    /// The newest request that had arrived when the read of the record began. `None`: the read is
    /// older than all requests.
    pub(super) read: Option<Ticket>,
    /// New tokens are above this number.
    pub(super) seed: i64,
    /// The session that writes, and the [id](super::Context::server) of this server.
    pub(super) session: i64,
    pub(super) server: i64,
    /// The time in ms since 1970.
    pub(super) date: u64,
    pub(super) now: Moment,
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

    /// Whether the record was read after this request had arrived.
    fn is_newer_than(&self, ticket: Ticket) -> bool {
        Some(ticket) <= self.read
    }

    /// Whether a holding has ended, by what this server has seen of it.
    fn has_ended(&self, host: &str, holding: &Holding) -> bool {
        self.sightings.end(host, holding) <= self.now
    }

    /// Whether the holding can be confirmed without a change of the servers that may have told a
    /// client of it. `knows`: the client that asks knows it.
    fn is_listed(&self, holding: &Holding, knows: bool) -> bool {
        let told_by = &holding.told_by;
        if knows {
            told_by.iter().all(|id| *id == self.server) // no other server takes it back
        } else {
            told_by.is_empty() || told_by.contains(&self.server)
        }
    }

    /// Whether the holder can be answered YES on the strength of a renewal that this server wrote.
    fn is_covered(&self, host: &str, holding: &Holding, renews: bool) -> bool {
        if holding.lease.is_none() {
            return true;
        }
        let Some(written) = self.sightings.own(host, holding) else {
            return false;
        };
        // The clock of a suspended virtual machine may stand, so that a lease seems to be younger
        // than other servers count it. Its session ends meanwhile.
        if holding.by != self.session {
            return false;
        }
        let longest = longer(holding.lease, self.lease());
        let gain = longest.map(|lease| (self.now + lease).since(ends(holding.lease, written)));
        let is_stale = match (holding.lease, longest) {
            (None, _) => false,
            (Some(_), None) => true,
            (Some(held), Some(lease)) => {
                lease > held || renews && gain.unwrap_or_default() > lease / MIN_RENEWAL_GAIN
            }
        };
        !is_stale
            && lease::for_client(ends(holding.lease, written), self.now) != ClientLease::TooShort
    }

    /// The lease of a new holding; `None`: until it is released.
    fn lease(&self) -> Option<Duration> {
        self.plan.expire
    }
}

/// When a lease ends that began then.
pub(super) fn ends(lease: Option<Duration>, since: Moment) -> Moment {
    lease.map_or(Moment::NEVER, |lease| since + lease)
}

/// The longer one of two leases; `None`: until released.
fn longer(one: Option<Duration>, other: Option<Duration>) -> Option<Duration> {
    Some(one?.max(other?))
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

/// A change of the record, and the answers that follow from it.
#[derive(Debug)]
pub(super) struct Update {
    /// The new record.
    pub(super) record: Record,
    /// Whether it differs from the one that was read.
    pub(super) is_changed: bool,
    /// The hosts whose leases begin with this write.
    pub(super) renewed: BTreeSet<Rc<str>>,
    /// Those of them that did not hold the pool before.
    pub(super) granted: Vec<Rc<str>>,
    /// Those of them of which this server may tell a client for the first time.
    pub(super) joined: Vec<Rc<str>>,
    /// The waiters whose entries end with the write.
    pub(super) served: BTreeSet<Ticket>,
    /// How many entries end with the write or after it.
    leaving: usize,
    /// Waiters that give their entries up, because another run of their host holds the pool.
    pub(super) parked: Vec<(Ticket, Rc<str>)>,
    /// Holdings that end with the write, because their leases are over.
    pub(super) expired: Vec<(Rc<str>, Holding)>,
    /// Holdings that end with the write, because no client can know of them.
    pub(super) taken_back: Vec<(Rc<str>, i64)>,
    /// The outcome of each operation.
    pub(super) outcomes: Vec<(PoolOperation, UpdateOutcome)>,
    /// Operations for the next cycle: only a read that began after they had arrived shows whether a
    /// client of another server waits.
    pub(super) deferred: Vec<PoolOperation>,
}

impl Update {
    /// Computes the update from the record, the operations and the waiters.
    ///
    /// Releases come first, so that no release ends a holding that the same update grants.
    pub(super) fn new(
        record: Record,
        operations: Vec<PoolOperation>,
        waiters: &mut Waiters,
        context: &UpdateContext,
    ) -> Update {
        let mut update = Update {
            record,
            is_changed: context.is_completed,
            renewed: BTreeSet::new(),
            granted: Vec::new(),
            joined: Vec::new(),
            served: BTreeSet::new(),
            leaving: 0,
            parked: Vec::new(),
            expired: Vec::new(),
            taken_back: Vec::new(),
            outcomes: Vec::new(),
            deferred: Vec::new(),
        };
        update.expire(waiters, context);
        let mut acquiring = Vec::new();
        for PoolOperation { request, released } in operations {
            match request.call {
                Call::Release { token } => update.release(request, token, released, context),
                Call::Revoke { token } => update.revoke(request, token, context),
                Call::Get | Call::Wait | Call::Renew { .. } => acquiring.push(request),
            }
        }
        if !waiters.is_empty() {
            update.answer_waiting_holders(waiters, context);
        }
        update.take_back(&acquiring, context);
        if context.is_removed {
            for request in waiters.take_all() {
                update.resolve(request, UpdateOutcome::Invalid(InvalidRequest::UnknownPool));
            }
        }
        update.grant_in_turn(waiters, context);
        for request in acquiring {
            update.acquire(request, waiters, context);
        }
        update.refuse_circular_waits(waiters, context);
        update
    }

    fn resolve(&mut self, request: PendingRequest, outcome: UpdateOutcome) {
        self.outcomes.push((request.into(), outcome));
    }

    fn remove(&mut self, host: &Rc<str>) -> Option<Holding> {
        self.is_changed = true;
        self.renewed.remove(host);
        self.record.holders.remove(host)
    }

    /// Ends the holdings whose leases are over. A waiter whose grant was not answered has left the
    /// queue with it, so its holding is not ended but renewed, when the waiter is answered.
    fn expire(&mut self, waiters: &Waiters, context: &UpdateContext) {
        let is_waited_for = |host: &Rc<str>, holding: &Holding| {
            let mut undelivered = context.undelivered.iter();
            let mut waiting = waiters.iter();
            undelivered.any(|(other, token)| other == host && *token == holding.token)
                && waiting.any(|(waiter, run, _)| {
                    let is_its = |own: &Run| Some(&**own) == run;
                    *waiter == **host && holding.run.as_ref().is_none_or(is_its)
                })
        };
        let ended: Vec<_> = self
            .record
            .holders
            .iter()
            .filter(|(host, holding)| context.has_ended(host, holding))
            .filter(|(host, holding)| !is_waited_for(host, holding))
            .map(|(host, _)| host.clone())
            .collect();
        for host in ended {
            if let Some(holding) = self.remove(&host) {
                self.expired.push((host, holding));
            }
        }
    }

    /// Takes this server off the lists of the holdings that no client can know of by it, and ends those
    /// of which no other server may have told a client. But the client of one may ask again.
    fn take_back(&mut self, acquiring: &[PendingRequest], context: &UpdateContext) {
        for (host, token) in context.undelivered {
            let held = self.record.holders.get_mut(host);
            let Some(holding) = held.filter(|holding| holding.token == *token) else {
                continue;
            };
            let asks = |request: &PendingRequest| {
                request.host == *host && holding.belongs_to(request.run.as_ref())
            };
            let is_told = |(operation, outcome): &(PoolOperation, UpdateOutcome)| {
                *outcome == UpdateOutcome::Yes && asks(&operation.request)
            };
            if acquiring.iter().any(asks)
                || self.outcomes.iter().any(is_told)
                || !holding.told_by.remove(&context.server)
            {
                continue;
            }
            self.is_changed = true;
            if holding.told_by.is_empty() {
                self.remove(host);
                self.taken_back.push((host.clone(), *token));
            }
        }
    }

    fn eligibility(&self, host: &str, run: Option<&Run>) -> Eligibility {
        match self.record.holders.get(host) {
            None => Eligibility::NotHeld,
            Some(holding) if !holding.belongs_to(run) => Eligibility::HeldByOtherRun,
            Some(holding) => Eligibility::Holds {
                revoked: holding.revoked,
            },
        }
    }

    /// Releases the holding that the request names: by token, otherwise by run, otherwise the
    /// holding of the host.
    fn release(
        &mut self,
        request: PendingRequest,
        token: Option<i64>,
        released: Option<i64>,
        context: &UpdateContext,
    ) {
        let held = self.record.holders.get(&request.host);
        // A write whose answer was lost has released it.
        if let Some(token) = released
            && held.is_none_or(|holding| holding.token != token)
        {
            let since = context.date;
            return self.resolve(request, UpdateOutcome::Released { token, since });
        }
        if let Err(why) = context.check(&request, held.is_some()) {
            return self.resolve(request, UpdateOutcome::Invalid(why));
        }
        let run = request.run.as_ref();
        let outcome = match held {
            Some(holding) if holding.matches_release(token, run) => {
                let &Holding { token, since, .. } = holding;
                self.remove(&request.host);
                UpdateOutcome::Released { token, since }
            }
            held if token.is_some() || run.is_some() => {
                let held = held.map(|holding| holding.token);
                UpdateOutcome::NotReleased(NotReleased::of(token, held))
            }
            _ => UpdateOutcome::NothingReleased,
        };
        self.resolve(request, outcome);
    }

    fn revoke(&mut self, request: PendingRequest, token: Option<i64>, context: &UpdateContext) {
        let holds = self.record.holders.contains_key(&request.host);
        if let Err(why) = context.check(&request, holds) {
            return self.resolve(request, UpdateOutcome::Invalid(why));
        }
        let Some(holding) = self.record.holders.get_mut(&request.host) else {
            return self.resolve(request, UpdateOutcome::NotHeld);
        };
        if token.is_some_and(|token| token != holding.token) {
            return self.resolve(request, UpdateOutcome::OtherToken);
        }
        self.is_changed |= !holding.revoked;
        holding.revoked = true;
        self.resolve(request, UpdateOutcome::Revoked);
    }

    /// Decides a request that does not wait.
    fn acquire(&mut self, request: PendingRequest, waiters: &mut Waiters, context: &UpdateContext) {
        let eligibility = self.eligibility(&request.host, request.run.as_ref());
        let holds = matches!(eligibility, Eligibility::Holds { .. });
        match (request.call, eligibility, context.check(&request, holds)) {
            (_, _, Err(why)) => self.resolve(request, UpdateOutcome::Invalid(why)),
            (_, Eligibility::Holds { revoked: true }, _) => {
                self.resolve(request, UpdateOutcome::NoRevoked);
            }
            (_, Eligibility::Holds { revoked: false }, _) => self.confirm(vec![request], context),
            (Call::Wait, ..) => waiters.insert(request),
            (Call::Renew { token: None }, ..) | (_, Eligibility::HeldByOtherRun, _) => {
                self.resolve(request, UpdateOutcome::No);
            }
            _ if !self.has_room(context) => self.resolve(request, UpdateOutcome::No),
            // Whether a client of another server waits is known only after a read.
            _ if !context.is_newer_than(request.ticket) => self.deferred.push(request.into()),
            _ if self.some_wait(context) => self.resolve(request, UpdateOutcome::No),
            _ => {
                let (host, run) = (request.host.clone(), request.run.clone());
                self.grant(&host, run, vec![request], context);
            }
        }
    }

    fn has_room(&self, context: &UpdateContext) -> bool {
        let permits = usize::try_from(context.plan.permits).unwrap_or(usize::MAX);
        !context.is_removed && self.record.holders.len() < permits
    }

    /// Whether a waiter of any server can use a free slot, apart from those that this update grants
    /// one.
    fn some_wait(&self, context: &UpdateContext) -> bool {
        let parked = self
            .parked
            .iter()
            .filter(|(ticket, _)| context.queue.end(*ticket).is_some());
        context.entries > self.leaving + parked.count() || context.queue.joining() > 0
    }

    /// Answers waiters that share a holding of their host.
    fn answer_waiting_holders(&mut self, waiters: &mut Waiters, context: &UpdateContext) {
        let hosts: Vec<_> = self.record.holders.keys().cloned().collect();
        for host in hosts {
            let Some(holding) = self.record.holders.get(&host) else {
                continue;
            };
            let revoked = holding.revoked;
            let requests = waiters.take_holder(&host, holding.run.as_ref());
            if revoked {
                for request in requests {
                    self.resolve(request, UpdateOutcome::NoRevoked);
                }
            } else if !requests.is_empty() {
                self.confirm(requests, context);
            }
        }
    }

    /// Grants free slots to waiters of this server, while it is their turn. Without any entries the
    /// queue is empty, and waiters that have just arrived need none.
    fn grant_in_turn(&mut self, waiters: &mut Waiters, context: &UpdateContext) {
        let mut done = BTreeSet::new();
        while self.has_room(context)
            && let Some(ticket) = context.queue.next(&done)
        {
            done.insert(ticket);
            if let Some((host, run)) = waiters.get(ticket) {
                self.serve(ticket, &host, run.as_ref(), waiters, &mut done, context);
            }
        }
        if context.entries > 0 || context.queue.queued() > 0 {
            return;
        }
        for ticket in context.queue.unqueued() {
            if self.has_room(context)
                && context.is_newer_than(ticket)
                && let Some((host, run)) = waiters.get(ticket)
            {
                self.serve(ticket, &host, run.as_ref(), waiters, &mut done, context);
            }
        }
    }

    /// It is the turn of this waiter.
    fn serve(
        &mut self,
        ticket: Ticket,
        host: &Rc<str>,
        run: Option<&Run>,
        waiters: &mut Waiters,
        done: &mut BTreeSet<Ticket>,
        context: &UpdateContext,
    ) {
        if self.record.holders.contains_key(host) {
            return self.parked.push((ticket, host.clone()));
        }
        let requests = waiters.take_holder(host, run);
        for request in &requests {
            done.insert(request.ticket);
            if context.queue.end(request.ticket).is_some() {
                self.leaving += 1;
                if self.served.len() < MAX_SERVED {
                    self.served.insert(request.ticket);
                }
            }
        }
        if let Some((sequence, _)) = context.queue.end(ticket) {
            self.record.served = self.record.served.max(sequence);
        }
        self.grant(host, run.cloned(), requests, context);
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
        let holders = &self.record.holders;
        let is_outer = |holding: &Holding| outer.contains(&holding.token);
        match holders.get(host) {
            Some(holding) => is_outer(holding),
            None => {
                !self.has_room(context) && !holders.is_empty() && holders.values().all(is_outer)
            }
        }
    }

    /// Grants the pool to a run of this host, or to the host; these requests share the holding.
    fn grant(
        &mut self,
        host: &Rc<str>,
        run: Option<Run>,
        requests: Vec<PendingRequest>,
        context: &UpdateContext,
    ) {
        self.record.last_token = self.record.last_token.max(context.seed).saturating_add(1);
        let holding = Holding {
            token: self.record.last_token,
            run,
            since: context.date,
            lease: context.lease(),
            renewal: 0,
            by: context.session,
            told_by: [context.server].into(),
            revoked: false,
        };
        self.record.holders.insert(host.clone(), holding);
        self.is_changed = true;
        self.renewed.insert(host.clone());
        self.granted.push(host.clone());
        for request in requests {
            self.resolve(request, UpdateOutcome::Yes);
        }
    }

    /// Answers the holder of these requests. The lease begins again, unless this server has written
    /// one that is good enough.
    fn confirm(&mut self, requests: Vec<PendingRequest>, context: &UpdateContext) {
        let Some(host) = requests.first().map(|request| request.host.clone()) else {
            return;
        };
        if !self.renewed.contains(&host)
            && let Some(holding) = self.record.holders.get(&host)
        {
            let renewal = Call::Renew {
                token: Some(holding.token),
            };
            let knows = requests.iter().any(|request| request.call == renewal);
            let renews = |request: &PendingRequest| matches!(request.call, Call::Renew { .. });
            let renews = requests.iter().any(renews);
            if !context.is_listed(holding, knows) || !context.is_covered(&host, holding, renews) {
                self.renew(host, knows, context);
            }
        }
        for request in requests {
            self.resolve(request, UpdateOutcome::Yes);
        }
    }

    /// Begins the lease again. `knows`: the client that asks knows the holding.
    fn renew(&mut self, host: Rc<str>, knows: bool, context: &UpdateContext) {
        let Some(holding) = self.record.holders.get_mut(&host) else {
            return;
        };
        let told_by = &mut holding.told_by;
        if knows || told_by.len() >= MAX_TOLD_BY {
            told_by.clear();
        } else if !told_by.is_empty() && told_by.insert(context.server) {
            self.joined.push(host.clone());
        }
        holding.renewal = holding.renewal.saturating_add(1);
        holding.by = context.session;
        if !context.is_removed {
            holding.lease = longer(holding.lease, context.lease());
        }
        self.is_changed = true;
        self.renewed.insert(host);
    }
}
