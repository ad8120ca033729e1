//! One pool: who holds it, who waits for it, and who is next.

use super::super::invalid_request::{self, InvalidRequest};
use super::super::lease::{self, ClientLease};
use super::super::state::SavedHolding;
use super::super::waiters::{PendingRequest, Run, Waiters};
use super::super::{Answer, Call, Grant, Holder, PoolCounters, Remaining, Report, Ticket, Waiter};
use super::holders::{Holders, Holding};
use super::outbox::{DeferredReply, Outbox, PendingGrant};
use crate::moment::Moment;
use crate::plan::{self, Level};
use std::rc::Rc;
use std::time::Duration;

/// A renewal that gains less than one of so many parts of the expiry is granted as it stands, and
/// needs no save: each host renews once right after it was told that it holds, to show that it has
/// heard.
const MIN_RENEWAL_GAIN: u32 = 100;

/// What is known of a pool.
#[derive(Debug)]
pub(super) struct PoolState {
    name: Rc<str>,
    /// As the config has it; `None`: the config does not have it any more, but it is still held.
    plan: Option<plan::Pool>,
    /// Until when holdings without an end are kept while the config does not have the pool.
    removed_until: Moment,
    holders: Holders,
    waiters: Waiters,
    counters: PoolCounters,
}

/// What a client is to a pool that it wants to hold.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Eligibility {
    /// It holds it.
    Holds,
    /// It holds it, but that is revoked.
    Revoked,
    /// It could have it: waiters that can be granted a slot have been granted one before.
    CanAcquire,
    /// There is no room for it, or another run of its host holds the pool.
    Full,
}

impl PoolState {
    /// A pool that nobody holds.
    pub(super) fn new(plan: plan::Pool) -> PoolState {
        let pool = PoolState::removed(&plan.name, Moment::NEVER);
        PoolState {
            plan: Some(plan),
            ..pool
        }
    }

    /// A pool that is not in the config, but is held since the server before this one.
    pub(super) fn removed(name: &str, now: Moment) -> PoolState {
        PoolState {
            name: name.into(),
            plan: None,
            removed_until: now + lease::REMOVED_POOL_GRACE,
            holders: Holders::default(),
            waiters: Waiters::default(),
            counters: PoolCounters::default(),
        }
    }

    /// A host holds it since the server before this one.
    pub(super) fn restore(&mut self, held: &SavedHolding, outbox: &mut Outbox, now: Moment) {
        let &SavedHolding {
            token,
            since,
            expires,
            lease,
            revoked,
            ..
        } = held;
        let (host, run): (Rc<str>, _) = (
            held.host.as_str().into(),
            held.run.as_deref().map(Run::from),
        );
        let holding = Holding {
            token,
            run,
            since,
            expires,
            lease,
            told: Some(expires),
            answers: 1,
            heard: false,
            revoked,
        };
        if self.plan.is_none() {
            outbox.note(Level::Warning, self.removed_pool_note(&host, &holding, now));
        }
        self.hold(&host, holding);
    }

    /// Takes in a new plan for it. Holders keep it as they were told, and each waiter asks again.
    pub(super) fn reconfigure(&mut self, plan: plan::Pool, outbox: &mut Outbox, now: Moment) {
        if self.plan.replace(plan).is_none() {
            outbox.note(
                Level::Info,
                format!(
                    "{} is in the config again: its holders hold it as before",
                    self.name
                ),
            );
        }
        for request in self.waiters.take_all() {
            self.request(request, outbox, now);
        }
        self.advance(outbox, now);
    }

    /// The config does not have it any more. What a client was told stands.
    pub(super) fn remove_from_config(&mut self, outbox: &mut Outbox, now: Moment) {
        if self.plan.take().is_none() {
            return;
        }
        self.removed_until = now + lease::REMOVED_POOL_GRACE;
        for request in self.waiters.take_all() {
            self.answer(
                request.ticket,
                Answer::Invalid(InvalidRequest::UnknownPool),
                outbox,
            );
        }
        for host in self.holders.hosts() {
            match self.holders.get(&host) {
                Some(holding) if holding.told.is_some() => {
                    outbox.note(Level::Warning, self.removed_pool_note(&host, &holding, now));
                }
                _ => self.free_slot(&host, outbox),
            }
        }
    }

    /// Whether nothing is left of a pool that the config does not have.
    pub(super) fn is_obsolete(&self) -> bool {
        self.plan.is_none() && self.holders.len() == 0
    }

    /// The log's line about a holding whose pool is gone.
    fn removed_pool_note(&self, host: &str, holding: &Holding, now: Moment) -> String {
        let end = match left(holding.expires, now) {
            Some(left) => format!(
                "until it releases it or its lease ends, in {:.1} s",
                left.as_secs_f64()
            ),
            None => format!(
                "until it releases it, for {} more",
                hours(self.removed_until.since(now))
            ),
        };
        format!(
            "{} is not in the config any more: {host} keeps it (token {}) {end}",
            self.name, holding.token
        )
    }

    /// A host asks, maybe not for the first time.
    pub(super) fn request(&mut self, request: PendingRequest, outbox: &mut Outbox, now: Moment) {
        self.advance(outbox, now);
        self.decide(request, outbox, now);
    }

    fn decide(&mut self, request: PendingRequest, outbox: &mut Outbox, now: Moment) {
        if let Err(refusal) = self.check(&request) {
            outbox.note(
                Level::Info,
                invalid_request::log_line(&self.name, &request.host, refusal),
            );
            return self.answer(request.ticket, Answer::Invalid(refusal), outbox);
        }
        match (request.call, self.eligibility(&request)) {
            (Call::Release { token }, _) => self.release(&request, token, outbox, now),
            (Call::Revoke, _) => self.revoke(request, outbox),
            (_, Eligibility::Revoked) => self.answer(request.ticket, Answer::NoRevoked, outbox),
            (Call::Renew { token }, Eligibility::Holds) => self.renew(request, token, outbox, now),
            (Call::Get | Call::Wait, Eligibility::Holds) => self.confirm(request, outbox, now),
            (Call::Wait, _) => {
                self.waiters.insert(request);
                self.advance(outbox, now);
            }
            (_, Eligibility::CanAcquire) => match outbox.save_failure() {
                None => self.grant(vec![request], outbox, now),
                Some(why) => self.answer(request.ticket, Answer::Unavailable(why), outbox),
            },
            (_, Eligibility::Full) => self.answer(request.ticket, Answer::No, outbox),
        }
    }

    /// To a client that holds nothing of it, a pool that the config does not have is one that does
    /// not exist.
    fn check(&self, request: &PendingRequest) -> Result<(), InvalidRequest> {
        let holding = self.holders.get(&request.host);
        let holds = match request.call {
            Call::Release { .. } | Call::Revoke => holding.is_some(),
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

    fn has_room(&self) -> bool {
        let permits = self.plan.as_ref().map_or(0, |plan| plan.permits);
        self.holders.len() < usize::try_from(permits).unwrap_or(usize::MAX)
    }

    /// A client that knows the token has heard the answer that it came with.
    fn renew(
        &mut self,
        request: PendingRequest,
        token: Option<i64>,
        outbox: &mut Outbox,
        now: Moment,
    ) {
        let Some(holding) = self.holders.get(&request.host) else {
            return;
        };
        let heard = holding.heard || token == Some(holding.token);
        let holding = Holding { heard, ..holding };
        self.holders.set(&request.host, holding.clone());
        if let Some(why) = outbox.save_failure() {
            return self.answer(request.ticket, Answer::Unavailable(why), outbox);
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

    /// A holder asks without a wish to renew. It gets no less than it was told, and more where what
    /// is left could not be told, or where it holds the pool until it is released from now on.
    fn confirm(&mut self, request: PendingRequest, outbox: &mut Outbox, now: Moment) {
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
                    return self.answer(request.ticket, Answer::Unavailable(why), outbox);
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

    /// A holding as it is after a renewal: what was told of it stands, should the answer be lost.
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

    /// Only a holding that its host was told of is released: it cannot have meant another.
    fn release(
        &mut self,
        request: &PendingRequest,
        token: Option<i64>,
        outbox: &mut Outbox,
        now: Moment,
    ) {
        let meant = |holding: &Holding| {
            holding.told.is_some() && holding.matches_release(token, request.run.as_ref())
        };
        if let Some(holding) = self.holders.get(&request.host).filter(meant) {
            self.counters.released += 1;
            let held = holding.since.elapsed(now).as_secs_f64();
            outbox.note(
                Level::Info,
                format!(
                    "released {} for {} (token {}) after {held:.1} s",
                    self.name, request.host, holding.token
                ),
            );
            self.free_slot(&request.host, outbox);
            self.advance(outbox, now);
        }
        outbox.defer(request.ticket, DeferredReply::Ok);
    }

    /// From now on the holding is not confirmed. A renewal that its holder was not told of does not
    /// make it last longer.
    fn revoke(&mut self, request: PendingRequest, outbox: &mut Outbox) {
        let Some(holding) = self.known_holding(&request.host) else {
            return self.answer(request.ticket, Answer::NotHeld, outbox);
        };
        if !holding.revoked {
            outbox.note(
                Level::Warning,
                format!(
                    "revoked {} for {} (token {})",
                    self.name, request.host, holding.token
                ),
            );
            let expires = holding.expires.min(holding.told.unwrap_or(Moment::NEVER));
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
            Some(why) => self.answer(request.ticket, Answer::Unavailable(why), outbox),
        }
    }

    /// That a holding is revoked is saved.
    pub(super) fn revocation_saved(
        &mut self,
        request: &PendingRequest,
        outbox: &mut Outbox,
        now: Moment,
    ) {
        let answer = match self
            .known_holding(&request.host)
            .filter(|holding| holding.revoked)
        {
            Some(Holding { token, expires, .. }) => Answer::Revocation {
                token: Some(token),
                ends: remaining(expires, now),
            },
            None => Answer::NotHeld, // it was released meanwhile
        };
        self.answer(request.ticket, answer, outbox);
    }

    fn known_holding(&self, host: &str) -> Option<Holding> {
        self.holders
            .get(host)
            .filter(|holding| holding.told.is_some())
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

    /// The client that request this has hung up. Whether it waited here.
    pub(super) fn forget_waiter(&mut self, ticket: Ticket) -> bool {
        self.waiters.remove(ticket).is_some()
    }

    /// An answer YES that was to be given will not be.
    pub(super) fn withdraw(&mut self, grant: &PendingGrant, outbox: &mut Outbox, now: Moment) {
        self.drop_undelivered(&grant.request.host, grant.token, outbox);
        self.advance(outbox, now);
    }

    /// An answer YES that was given did not arrive.
    pub(super) fn undelivered(&mut self, host: &str, token: i64, outbox: &mut Outbox, now: Moment) {
        self.counters.undelivered += 1;
        if self.drop_undelivered(&host.into(), token, outbox) {
            outbox.note(
                Level::Warning,
                format!(
                    "took {} back from {host} (token {token}): the answer could not be delivered",
                    self.name
                ),
            );
            self.advance(outbox, now);
        }
    }

    /// An answer YES stands for this holding no more. Whether it was the last.
    fn drop_undelivered(&mut self, host: &Rc<str>, token: i64, outbox: &mut Outbox) -> bool {
        let Some(holding) = self.holding(host, token).filter(|holding| !holding.heard) else {
            return false;
        };
        let answers = holding.answers - 1;
        if answers == 0 {
            self.free_slot(host, outbox);
        } else {
            self.holders.set(host, Holding { answers, ..holding });
        }
        answers == 0
    }

    fn holding(&self, host: &str, token: i64) -> Option<Holding> {
        self.holders
            .get(host)
            .filter(|holding| holding.token == token)
    }

    /// What was promised is saved: it is told, unless too little is left of it by now.
    pub(super) fn grant_saved(&mut self, grant: PendingGrant, outbox: &mut Outbox, now: Moment) {
        self.advance(outbox, now);
        let holding = self
            .holding(&grant.request.host, grant.token)
            .filter(|holding| !holding.revoked);
        let told = holding
            .as_ref()
            .map(|holding| lease::for_client(grant.expires.min(holding.expires), now));
        match (holding, told) {
            (Some(holding), Some(ClientLease::UntilReleased)) => {
                self.reply_yes(&grant, holding, None, outbox, now);
            }
            (Some(holding), Some(ClientLease::For(left))) => {
                self.reply_yes(&grant, holding, Some(left), outbox, now);
            }
            (Some(holding), _) => self.lease_too_short(grant, &holding, outbox, now),
            (None, _) => {
                self.drop_undelivered(&grant.request.host, grant.token, outbox);
                self.decide(grant.request, outbox, now);
            }
        }
    }

    /// The save took so long that what is left of the lease is of no use. A holding that no client
    /// was told of is ended. A waiter waits on; another client is told why, and not made to
    /// wait for the next save, which may take as long.
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
                "cannot tell {host} that it holds {name} (token {}): {SAVE_TOO_SLOW} (expire {expire} s)",
                grant.token
            ),
        );
        if holding.told.is_none() && self.holding(host, grant.token).is_some() {
            self.free_slot(&grant.request.host, outbox);
        }
        if grant.request.call == Call::Wait {
            return self.decide(grant.request, outbox, now);
        }
        self.answer(
            grant.request.ticket,
            Answer::Unavailable(SAVE_TOO_SLOW.to_owned()),
            outbox,
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
        let (
            name,
            PendingRequest {
                ticket,
                call,
                host,
                since,
                ..
            },
            token,
        ) = (&self.name, &grant.request, holding.token);
        let expires = grant.expires.min(holding.expires);
        if holding.told.is_none() {
            self.counters.granted += 1;
            let waited = now.since(*since).as_secs_f64();
            outbox.note(
                Level::Info,
                format!("granted {name} to {host} (token {token}, waited {waited:.1} s)"),
            );
        } else if let Call::Renew { .. } = call {
            outbox.note(
                Level::Debug,
                format!("renewed {name} for {host} (token {token})"),
            );
        }
        self.holders.set(
            host,
            Holding {
                told: holding.told.max(Some(expires)),
                ..holding
            },
        );
        self.answer(
            *ticket,
            Answer::Yes(Grant {
                token,
                expires: left,
            }),
            outbox,
        );
    }

    /// A renewal that no client was told of is not saved: holdings end as their hosts know it.
    pub(super) fn revert_unsaved_renewals(&mut self, outbox: &mut Outbox) {
        for host in self.holders.hosts() {
            let Some(holding) = self.holders.get(&host) else {
                continue;
            };
            let expires = holding.expires.min(holding.told.unwrap_or(Moment::NEVER));
            if expires != holding.expires {
                self.holders.set(&host, Holding { expires, ..holding });
                outbox.mark_changed();
            }
        }
    }

    /// Ends what has expired, and grants free slots to the next waiters.
    pub(super) fn advance(&mut self, outbox: &mut Outbox, now: Moment) {
        while let Some((host, Holding { token, since, .. })) = self.holders.take_expired(now) {
            self.expired(
                &host,
                token,
                &format!("it expired after {:.1} s", since.elapsed(now).as_secs_f64()),
                outbox,
            );
        }
        if self.plan.is_none() && self.removed_until <= now {
            for host in self.holders.hosts() {
                let Some(Holding { token, .. }) = self
                    .holders
                    .get(&host)
                    .filter(|holding| holding.expires == Moment::NEVER)
                else {
                    continue;
                };
                self.expired(
                    &host,
                    token,
                    &format!(
                        "it has not been in the config for {}",
                        hours(lease::REMOVED_POOL_GRACE)
                    ),
                    outbox,
                );
            }
        }
        while outbox.can_save() && self.has_room() && self.waiters.has_next() {
            let next = self.waiters.take_next();
            self.grant(next, outbox, now);
        }
    }

    fn expired(&mut self, host: &Rc<str>, token: i64, why: &str, outbox: &mut Outbox) {
        self.counters.expired += 1;
        outbox.note(
            Level::Warning,
            format!("took {} from {host} (token {token}): {why}", self.name),
        );
        self.free_slot(host, outbox);
    }

    /// To all these requests of one run, or of one host without runs.
    fn grant(&mut self, request: Vec<PendingRequest>, outbox: &mut Outbox, now: Moment) {
        let Some(first) = request.first() else { return };
        let lease = self.plan.as_ref().and_then(|plan| plan.expire);
        let holding = Holding {
            token: outbox.new_token(),
            run: first.run.clone(),
            since: now.into(),
            expires: lease.map_or(Moment::NEVER, |lease| now + lease),
            lease,
            told: None,
            answers: 0,
            heard: false,
            revoked: false,
        };
        self.hold(&first.host.clone(), holding);
        request
            .into_iter()
            .for_each(|request| self.defer_yes(request, outbox));
    }

    /// Answers YES to a holder, as soon as what it holds is saved.
    fn defer_yes(&mut self, request: PendingRequest, outbox: &mut Outbox) {
        let Some(holding) = self.holders.get(&request.host) else {
            return;
        };
        let (token, expires, answers) = (
            holding.token,
            holding.expires,
            holding.answers.saturating_add(1),
        );
        self.holders
            .set(&request.host, Holding { answers, ..holding });
        let grant = PendingGrant {
            pool: self.name.clone(),
            token,
            request,
            expires,
        };
        outbox.defer(grant.request.ticket, DeferredReply::Yes(grant));
    }

    fn answer(&mut self, ticket: Ticket, answer: Answer, outbox: &mut Outbox) {
        match answer {
            Answer::No | Answer::NoRevoked => self.counters.refused += 1,
            Answer::Invalid(_) => self.counters.invalid += 1,
            _ => {}
        }
        outbox.answer(ticket, answer);
    }

    /// When it changes by itself.
    pub(super) fn wake(&self) -> Moment {
        let abandoned = self.plan.is_none() && self.holders.has_until_released();
        self.holders.next_expiry().min(if abandoned {
            self.removed_until
        } else {
            Moment::NEVER
        })
    }

    /// For the state.
    pub(super) fn held(&self) -> impl Iterator<Item = SavedHolding> {
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

    /// For whoever watches the server.
    pub(super) fn report(&self, now: Moment) -> Report<'_> {
        let told = self
            .holders
            .iter()
            .filter(|(_, holding)| holding.told.is_some());
        let holders = told.map(|(host, holding)| Holder {
            host,
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
            waiters: self
                .waiters
                .iter()
                .map(|(host, run, since)| Waiter {
                    host,
                    run,
                    waited: now.since(since),
                })
                .collect(),
            counters: self.counters,
        }
    }
}

/// Why a lease cannot be told.
const SAVE_TOO_SLOW: &str = "saving who holds what took too long for what is left of the lease";

/// What is left of a holding.
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
