//! One pool of the memory backend: its holders, its waiters, and who acquires the next free slot.

use super::super::events::{Events, Log};
use super::super::invalid_request::{self, InvalidRequest};
use super::super::lease::{self, ClientLease};
use super::super::pools::PoolMachine;
use super::super::reply_delivery::ReplyDelivery;
use super::super::state::SavedHolding;
use super::super::waiters::{PendingRequest, Run, Waiters};
use super::super::{Answer, Call, Grant, Holder, NotReleased, Remaining, Report, Ticket};
use super::holders::{Holders, Holding};
use super::outbox::{DeferredReply, Outbox, PendingGrant};
use crate::moment::Moment;
use crate::plan::{self, Level};
use std::borrow::Cow;
use std::rc::Rc;
use std::time::Duration;

/// A renewal that gains less than this fraction of `expire` (1/100) changes nothing, so it needs no
/// save: each host renews once right after it was granted the pool, to confirm that it knows.
const MIN_RENEWAL_GAIN: u32 = 100;

/// Logged and answered if a save took longer than the lease is useful.
const SAVE_TOO_SLOW: &str = "writing the state file took longer than the lease allows";

/// Holders and waiters of one pool.
#[derive(Debug)]
pub(super) struct PoolState {
    name: Rc<str>,
    /// `None`: the pool is not in the config any more, but is still held.
    plan: Option<plan::Pool>,
    /// When a pool that is not in the config drops holdings that last until they are released.
    removed_until: Moment,
    holders: Holders,
    waiters: Waiters,
    events: Events,
}

/// What a client can do with a pool that it wants to hold.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Eligibility {
    /// It holds the pool already.
    Holds,
    /// It holds the pool, but the holding is revoked.
    Revoked,
    /// A slot is free. Eligible waiters have been granted theirs before.
    CanAcquire,
    /// No slot is free, or another run of the host holds the pool.
    Full,
}

impl PoolMachine for PoolState {
    type Context<'a> = Outbox;

    fn new(plan: plan::Pool) -> PoolState {
        let pool = PoolState::removed(&plan.name, Moment::NEVER);
        PoolState {
            plan: Some(plan),
            ..pool
        }
    }

    fn reconfigure(&mut self, plan: plan::Pool, outbox: &mut Outbox, now: Moment) {
        if self.plan.replace(plan).is_none() {
            outbox.note(
                Level::Info,
                format!(
                    "pool {} is in the config again: its holders hold it as before",
                    self.name
                ),
            );
        }
        for request in self.waiters.take_all() {
            self.request(request, outbox, now);
        }
        self.advance(outbox, now);
    }

    fn remove_from_config(&mut self, outbox: &mut Outbox, now: Moment) {
        if self.plan.take().is_none() {
            return;
        }
        self.removed_until = now + lease::REMOVED_POOL_GRACE;
        for request in self.waiters.take_all() {
            self.events.waiter_dropped();
            outbox.answer(request.ticket, Answer::Invalid(InvalidRequest::UnknownPool));
        }
        for host in self.holders.hosts() {
            match self.holders.get(&host) {
                Some(holding) if holding.expiry_reported.is_some() => {
                    outbox.note(Level::Warning, self.removed_pool_note(&host, &holding, now));
                }
                _ => self.free_slot(&host, outbox),
            }
        }
    }

    fn is_obsolete(&self, _: Moment) -> bool {
        self.plan.is_none() && self.holders.len() == 0
    }

    fn cancel(&mut self, ticket: Ticket) -> bool {
        self.waiters.remove(ticket).is_some()
    }
}

impl PoolState {
    /// A pool that is not in the config, but has holders of an earlier server.
    pub(super) fn removed(name: &str, now: Moment) -> PoolState {
        let name: Rc<str> = name.into();
        PoolState {
            name: name.clone(),
            plan: None,
            removed_until: now + lease::REMOVED_POOL_GRACE,
            holders: Holders::default(),
            waiters: Waiters::default(),
            events: Events::new(name),
        }
    }

    /// Takes over a holding from the saved state of an earlier server.
    pub(super) fn restore(&mut self, saved: &SavedHolding, outbox: &mut Outbox, now: Moment) {
        let &SavedHolding {
            token,
            since,
            expires,
            lease,
            revoked,
            ..
        } = saved;
        let (host, run): (Rc<str>, _) = (
            saved.host.as_str().into(),
            saved.run.as_deref().map(Run::from),
        );
        let holding = Holding {
            token,
            run,
            since,
            expires,
            lease,
            expiry_reported: Some(expires),
            delivery: ReplyDelivery::restored(),
            revoked,
        };
        if self.plan.is_none() {
            outbox.note(Level::Warning, self.removed_pool_note(&host, &holding, now));
        }
        self.hold(&host, holding);
    }

    /// The log line about a holding whose pool is not in the config any more.
    fn removed_pool_note(&self, host: &str, holding: &Holding, now: Moment) -> String {
        let end = match left(holding.expires, now) {
            Some(left) => format!(
                "until it is released or the lease ends, in {:.1} s",
                left.as_secs_f64()
            ),
            None => format!(
                "until it is released, for at most {} more",
                hours(self.removed_until.since(now))
            ),
        };
        format!(
            "pool {} was removed from the config: {host} keeps it (token {}) {end}",
            self.name, holding.token
        )
    }

    /// Decides a request, after what is due by now. A request may be decided again later.
    pub(super) fn request(&mut self, request: PendingRequest, outbox: &mut Outbox, now: Moment) {
        self.advance(outbox, now);
        self.decide(request, outbox, now);
    }

    fn decide(&mut self, request: PendingRequest, outbox: &mut Outbox, now: Moment) {
        if let Err(why) = self.check(&request) {
            self.events.invalid(&request.host, why, outbox);
            return outbox.answer(request.ticket, Answer::Invalid(why));
        }
        match (request.call, self.eligibility(&request)) {
            (Call::Release { token }, _) => self.release(&request, token, outbox, now),
            (Call::Revoke { token }, _) => self.revoke(request, token, outbox),
            (_, Eligibility::Revoked) => self.refuse(request.ticket, Answer::NoRevoked, outbox),
            (Call::Renew { token }, Eligibility::Holds) => {
                self.renew(request, token, outbox, now);
            }
            (Call::Get | Call::Wait, Eligibility::Holds) => self.reconfirm(request, outbox, now),
            (Call::Wait, _) => {
                self.waiters.insert(request);
                self.advance(outbox, now);
            }
            (Call::Renew { token: None }, _) => self.refuse(request.ticket, Answer::No, outbox),
            (_, Eligibility::CanAcquire) => match outbox.save_failure() {
                None => self.grant(vec![request], outbox, now),
                Some(why) => outbox.answer(request.ticket, Answer::Unavailable(why)),
            },
            (_, Eligibility::Full) => self.refuse(request.ticket, Answer::No, outbox),
        }
    }

    /// A pool that is not in the config does not exist for clients that do not hold it.
    fn check(&self, request: &PendingRequest) -> Result<(), InvalidRequest> {
        let holding = self.holders.get(&request.host);
        let holds = match request.call {
            Call::Release { .. } | Call::Revoke { .. } => holding.is_some(),
            Call::Get | Call::Wait | Call::Renew { .. } => {
                holding.is_some_and(|holding| holding.belongs_to(request.run.as_ref()))
            }
        };
        match &self.plan {
            Some(plan) => invalid_request::check(plan, request.call, &request.host, holds),
            None if holds && request.call.keeps() => Ok(()),
            None => Err(invalid_request::check_host(&request.host)
                .err()
                .unwrap_or(InvalidRequest::UnknownPool)),
        }
    }

    fn eligibility(&self, request: &PendingRequest) -> Eligibility {
        match self.holders.get(&request.host) {
            Some(holding) if !holding.belongs_to(request.run.as_ref()) => Eligibility::Full,
            Some(holding) if holding.revoked => Eligibility::Revoked,
            Some(_) => Eligibility::Holds,
            None if self.has_room() => Eligibility::CanAcquire,
            None => Eligibility::Full,
        }
    }

    /// Answers the waiters that were started under the holdings that they wait for.
    fn refuse_circular_waits(&mut self, outbox: &mut Outbox) {
        let (has_room, holders) = (self.has_room(), &self.holders);
        // Of the holdings that a waiter was started under, one would have to end first: that of its
        // host, otherwise one of any host.
        let is_circular = |host: &Rc<str>, outer: &[i64]| {
            let is_outer = |holding: &Holding| outer.contains(&holding.token);
            match holders.get(host) {
                Some(holding) => is_outer(&holding),
                None => {
                    !has_room
                        && holders.len() > 0
                        && holders.iter().all(|(_, holding)| is_outer(holding))
                }
            }
        };
        for request in self.waiters.take_circular(is_circular) {
            self.refuse(request.ticket, Answer::NoOuter, outbox);
        }
    }

    fn has_room(&self) -> bool {
        let permits = self.plan.as_ref().map_or(0, |plan| plan.permits);
        self.holders.len() < usize::try_from(permits).unwrap_or(usize::MAX)
    }

    /// Extends a holding. A client that sends the token has received the reply with the token.
    fn renew(
        &mut self,
        request: PendingRequest,
        token: Option<i64>,
        outbox: &mut Outbox,
        now: Moment,
    ) {
        let Some(mut holding) = self.holders.get(&request.host) else {
            return;
        };
        if token == Some(holding.token) {
            holding.delivery.confirmed();
        }
        self.holders.set(&request.host, holding.clone());
        if let Some(why) = outbox.save_failure() {
            return outbox.answer(request.ticket, Answer::Unavailable(why));
        }
        if holding.expires == Moment::NEVER {
            self.removed_until = self.removed_until.max(now + lease::REMOVED_POOL_GRACE);
        }
        let gained = self.renewed(&holding, now).expires.since(holding.expires);
        if gained > self.lease(&holding).unwrap_or_default() / MIN_RENEWAL_GAIN {
            self.extend(&request.host, &holding, outbox, now);
        }
        self.defer_yes(request, outbox);
    }

    /// Answers a holder that asks without renewing. The holding is extended only if what is left of
    /// the lease is too short for a client, or if it now lasts until it is released.
    fn reconfirm(&mut self, request: PendingRequest, outbox: &mut Outbox, now: Moment) {
        let Some(holding) = self.holders.get(&request.host) else {
            return;
        };
        let becomes_until_released =
            self.lease(&holding).is_none() && holding.expires != Moment::NEVER;
        let is_too_short = lease::for_client(holding.expires, now) == ClientLease::TooShort;
        if becomes_until_released || is_too_short {
            match outbox.save_failure() {
                None => self.extend(&request.host, &holding, outbox, now),
                Some(why) if is_too_short => {
                    return outbox.answer(request.ticket, Answer::Unavailable(why));
                }
                Some(_) => {}
            }
        }
        self.defer_yes(request, outbox);
    }

    fn extend(&mut self, host: &Rc<str>, holding: &Holding, outbox: &mut Outbox, now: Moment) {
        self.holders.set(host, self.renewed(holding, now));
        outbox.mark_changed();
    }

    /// The holding after a renewal. It never ends earlier than before: the reply may be lost, and
    /// then the client relies on the earlier one.
    fn renewed(&self, holding: &Holding, now: Moment) -> Holding {
        let lease = self.lease(holding);
        let expires = lease
            .map_or(Moment::NEVER, |lease| now + lease)
            .max(holding.expires);
        Holding {
            lease: lease.filter(|_| expires != Moment::NEVER),
            expires,
            ..holding.clone()
        }
    }

    /// How long a renewal of a holding lasts; `None`: until it is released.
    fn lease(&self, holding: &Holding) -> Option<Duration> {
        self.plan.as_ref().map_or(holding.lease, |plan| plan.expire)
    }

    /// Releases the holding that the request names. A holding that no reply has reported yet is not
    /// released: the client cannot have meant it.
    fn release(
        &mut self,
        request: &PendingRequest,
        token: Option<i64>,
        outbox: &mut Outbox,
        now: Moment,
    ) {
        let run = request.run.as_ref();
        let mut why = None;
        match self.known_holding(&request.host) {
            Some(holding) if holding.matches_release(token, run) => {
                let (token, held) = (holding.token, holding.since.elapsed(now));
                self.events
                    .released(&request.host, Some((token, held)), outbox);
                self.free_slot(&request.host, outbox);
                self.advance(outbox, now);
            }
            holding if token.is_some() || run.is_some() => {
                why = Some(NotReleased::of(token, holding.map(|holding| holding.token)));
            }
            _ => {}
        }
        outbox.defer(request.ticket, DeferredReply::Ok(why));
    }

    /// Marks the holding as not to be confirmed again. A renewal that was not reported yet is
    /// undone, so the holding ends when its host expects.
    fn revoke(&mut self, request: PendingRequest, token: Option<i64>, outbox: &mut Outbox) {
        let Some(holding) = self.known_holding(&request.host) else {
            return outbox.answer(request.ticket, Answer::NotHeld);
        };
        if token.is_some_and(|token| token != holding.token) {
            return outbox.answer(request.ticket, Answer::OtherToken);
        }
        if !holding.revoked {
            self.events.revoked(&request.host, holding.token, outbox);
            let expires = holding.reported_expiry();
            self.holders.set(
                &request.host,
                Holding {
                    revoked: true,
                    expires,
                    ..holding
                },
            );
            outbox.mark_changed();
        }
        match outbox.save_failure() {
            None => outbox.defer(
                request.ticket,
                DeferredReply::Revoked {
                    pool: self.name.clone(),
                    request,
                },
            ),
            Some(why) => outbox.answer(request.ticket, Answer::Unavailable(why)),
        }
    }

    /// Answers a revocation once it is saved. The holding may have been released meanwhile.
    pub(super) fn revocation_saved(
        &mut self,
        request: &PendingRequest,
        outbox: &mut Outbox,
        now: Moment,
    ) {
        let is_meant = |holding: &Holding| match request.call {
            Call::Revoke { token: Some(token) } => token == holding.token,
            _ => true,
        };
        let revoked = self
            .known_holding(&request.host)
            .filter(|holding| holding.revoked && is_meant(holding));
        let answer = revoked.map_or(Answer::NotHeld, |holding| Answer::Revocation {
            token: Some(holding.token),
            ends: remaining(holding.expires, now),
        });
        outbox.answer(request.ticket, answer);
    }

    /// The holding of a host, if a reply has reported it.
    fn known_holding(&self, host: &str) -> Option<Holding> {
        self.holders
            .get(host)
            .filter(|holding| holding.expiry_reported.is_some())
    }

    fn hold(&mut self, host: &Rc<str>, holding: Holding) {
        self.holders.set(host, holding);
        self.waiters.block(host);
    }

    fn free_slot(&mut self, host: &Rc<str>, outbox: &mut Outbox) {
        self.holders.remove(host);
        self.waiters.unblock(host);
        outbox.mark_changed();
    }

    /// A deferred YES will not be sent.
    pub(super) fn withdraw(&mut self, grant: &PendingGrant, outbox: &mut Outbox, now: Moment) {
        self.drop_undelivered(&grant.request.host, grant.token, outbox);
        self.advance(outbox, now);
    }

    /// A YES that was sent did not arrive.
    pub(super) fn undelivered(&mut self, host: &str, token: i64, outbox: &mut Outbox, now: Moment) {
        self.events.undelivered();
        if self.drop_undelivered(&host.into(), token, outbox) {
            self.events.taken_back(host, token, outbox);
            self.advance(outbox, now);
        }
    }

    /// One YES about a holding did not reach its host. Returns whether it was the last, so that the
    /// slot is free again.
    fn drop_undelivered(&mut self, host: &Rc<str>, token: i64, outbox: &mut Outbox) -> bool {
        let Some(mut holding) = self.holding(host, token) else {
            return false;
        };
        holding.delivery.undone();
        let is_undelivered = holding.delivery.is_undelivered();
        if is_undelivered {
            self.free_slot(host, outbox);
        } else {
            self.holders.set(host, holding);
        }
        is_undelivered
    }

    fn holding(&self, host: &str, token: i64) -> Option<Holding> {
        self.holders
            .get(host)
            .filter(|holding| holding.token == token)
    }

    /// The state that a deferred YES waited for is saved. Sends the YES, unless too little is left
    /// of the lease by now or the holding has ended.
    pub(super) fn grant_saved(&mut self, grant: PendingGrant, outbox: &mut Outbox, now: Moment) {
        self.advance(outbox, now);
        let holding = self
            .holding(&grant.request.host, grant.token)
            .filter(|holding| !holding.revoked);
        let Some(holding) = holding else {
            self.drop_undelivered(&grant.request.host, grant.token, outbox);
            return self.decide(grant.request, outbox, now);
        };
        match lease::for_client(grant.expires.min(holding.expires), now) {
            ClientLease::UntilReleased => self.reply_yes(&grant, holding, None, outbox, now),
            ClientLease::For(left) => self.reply_yes(&grant, holding, Some(left), outbox, now),
            ClientLease::TooShort => self.lease_too_short(grant, &holding, outbox, now),
        }
    }

    /// The save took so long that the rest of the lease is of no use. A holding that no reply has
    /// reported ends. A waiter goes on waiting; another client gets the reason at once, because the
    /// next save may take as long.
    fn lease_too_short(
        &mut self,
        grant: PendingGrant,
        holding: &Holding,
        outbox: &mut Outbox,
        now: Moment,
    ) {
        self.drop_undelivered(&grant.request.host, grant.token, outbox);
        let (name, host) = (&self.name, &grant.request.host);
        let expire = self.lease(holding).unwrap_or_default().as_secs_f64();
        outbox.note(
            Level::Error,
            format!(
                "cannot confirm {name} for {host} (token {}): {SAVE_TOO_SLOW} (expire {expire} s): raise \"expire\", or use a faster disk",
                grant.token
            ),
        );
        if holding.expiry_reported.is_none() && self.holding(host, grant.token).is_some() {
            self.free_slot(&grant.request.host, outbox);
        }
        if grant.request.call == Call::Wait {
            return self.decide(grant.request, outbox, now);
        }
        outbox.answer(
            grant.request.ticket,
            Answer::Unavailable(SAVE_TOO_SLOW.to_owned()),
        );
        self.advance(outbox, now);
    }

    fn reply_yes(
        &mut self,
        grant: &PendingGrant,
        holding: Holding,
        left: Option<Duration>,
        outbox: &mut Outbox,
        now: Moment,
    ) {
        let (request, token) = (&grant.request, holding.token);
        if holding.expiry_reported.is_none() {
            let waited = now.since(request.since);
            self.events
                .granted(&request.host, token, None, waited, outbox, now);
        } else if let Call::Renew { .. } = request.call {
            self.events.renewed(&request.host, token, outbox);
        }
        let expires = grant.expires.min(holding.expires);
        self.holders.set(
            &request.host,
            Holding {
                expiry_reported: holding.expiry_reported.max(Some(expires)),
                ..holding
            },
        );
        outbox.answer(
            request.ticket,
            Answer::Yes(Grant {
                token,
                expires: left,
            }),
        );
    }

    /// The state could not be saved: undoes each renewal that no reply has reported, so that
    /// holdings end when their hosts expect.
    pub(super) fn revert_unsaved_renewals(&mut self, outbox: &mut Outbox) {
        for host in self.holders.hosts() {
            let Some(holding) = self.holders.get(&host) else {
                continue;
            };
            let expires = holding.reported_expiry();
            if expires != holding.expires {
                self.holders.set(&host, Holding { expires, ..holding });
                outbox.mark_changed();
            }
        }
    }

    /// Ends expired holdings, grants free slots to the next waiters, and answers the waiters that
    /// cannot be granted one before their own wait ends.
    pub(super) fn advance(&mut self, outbox: &mut Outbox, now: Moment) {
        while let Some((host, Holding { token, since, .. })) = self.holders.take_expired(now) {
            let why = format!(
                "its lease ended after {:.1} s",
                since.elapsed(now).as_secs_f64()
            );
            self.expire(&host, token, &why, outbox);
        }
        if self.plan.is_none() && self.removed_until <= now {
            self.expire_until_released(outbox);
        }
        while outbox.can_save() && self.has_room() && self.waiters.has_next() {
            let next = self.waiters.take_next();
            self.grant(next, outbox, now);
        }
        self.refuse_circular_waits(outbox);
    }

    /// Ends the holdings of a removed pool that would last until they are released.
    fn expire_until_released(&mut self, outbox: &mut Outbox) {
        let why = format!(
            "the pool was removed from the config {} ago",
            hours(lease::REMOVED_POOL_GRACE)
        );
        for host in self.holders.hosts() {
            let holding = self.holders.get(&host);
            if let Some(holding) = holding.filter(|holding| holding.expires == Moment::NEVER) {
                self.expire(&host, holding.token, &why, outbox);
            }
        }
    }

    fn expire(&mut self, host: &Rc<str>, token: i64, why: &str, outbox: &mut Outbox) {
        self.events.expired(host, token, why, outbox);
        self.free_slot(host, outbox);
    }

    /// Grants one slot to requests of one run, or of one host without runs.
    fn grant(&mut self, requests: Vec<PendingRequest>, outbox: &mut Outbox, now: Moment) {
        let Some(first) = requests.first() else {
            return;
        };
        let lease = self.plan.as_ref().and_then(|plan| plan.expire);
        let holding = Holding {
            token: outbox.new_token(),
            run: first.run.clone(),
            since: now.into(),
            expires: lease.map_or(Moment::NEVER, |lease| now + lease),
            lease,
            expiry_reported: None,
            delivery: ReplyDelivery::default(),
            revoked: false,
        };
        self.hold(&first.host.clone(), holding);
        requests
            .into_iter()
            .for_each(|request| self.defer_yes(request, outbox));
    }

    /// Answers YES as soon as the holding is saved.
    fn defer_yes(&mut self, request: PendingRequest, outbox: &mut Outbox) {
        let Some(mut holding) = self.holders.get(&request.host) else {
            return;
        };
        holding.delivery.told();
        let (token, expires) = (holding.token, holding.expires);
        self.holders.set(&request.host, holding);
        let grant = PendingGrant {
            pool: self.name.clone(),
            token,
            request,
            expires,
        };
        outbox.defer(grant.request.ticket, DeferredReply::Yes(grant));
    }

    fn refuse(&mut self, ticket: Ticket, answer: Answer, outbox: &mut Outbox) {
        self.events.refused();
        outbox.answer(ticket, answer);
    }

    /// When a holding ends by itself.
    pub(super) fn wake(&self) -> Moment {
        let removed_until = if self.plan.is_none() && self.holders.has_until_released() {
            self.removed_until
        } else {
            Moment::NEVER
        };
        self.holders.next_expiry().min(removed_until)
    }

    /// The holdings as they go into the saved state.
    pub(super) fn saved_holdings(&self) -> impl Iterator<Item = SavedHolding> {
        self.holders.iter().map(|(host, holding)| SavedHolding {
            pool: self.name.to_string(),
            host: host.to_string(),
            token: holding.token,
            since: holding.since,
            expires: holding.expires,
            run: holding.run.as_deref().map(str::to_owned),
            lease: holding.lease,
            revoked: holding.revoked,
        })
    }

    /// The pool for the status page and the metrics. Holdings that no reply has reported are left
    /// out.
    pub(super) fn report(&self, now: Moment) -> Report<'_> {
        let reported = self
            .holders
            .iter()
            .filter(|(_, holding)| holding.expiry_reported.is_some());
        let holders = reported.map(|(host, holding)| Holder {
            host: Cow::Borrowed(host),
            run: holding.run.as_deref(),
            token: Some(holding.token),
            held: Some(holding.since.elapsed(now)),
            ends: remaining(holding.expires, now),
            revoked: holding.revoked,
        });
        Report {
            pool: &self.name,
            permits: self.plan.as_ref().map_or(0, |plan| plan.permits),
            expire: self.plan.as_ref().and_then(|plan| plan.expire),
            age: None,
            holders: holders.collect(),
            waiters: self.waiters.report(now, Cow::Borrowed),
            counters: self.events.counters(),
        }
    }
}

/// What is left of a lease; `None`: the holding lasts until it is released.
fn left(expires: Moment, now: Moment) -> Option<Duration> {
    (expires != Moment::NEVER).then(|| expires.since(now))
}

fn remaining(expires: Moment, now: Moment) -> Remaining {
    left(expires, now).map_or(Remaining::UntilReleased, Remaining::For)
}

/// A long time, for the log.
fn hours(time: Duration) -> String {
    format!("{:.1} h", time.as_secs_f64() / 3600.0)
}
