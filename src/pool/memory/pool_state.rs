//! One pool: who holds it, who waits for it, and who is next.

use super::super::invalid_request::{self, Refusal};
use super::super::lease::{self, Told};
use super::super::state::Held;
use super::super::waiters::{Asked, Run, Waiters};
use super::super::{Answer, Call, Counts, Grant, Holder, Remaining, Report, Ticket, Waiter};
use super::holders::{Holders, Holding};
use super::outbox::{Desk, Promise, Stake};
use crate::moment::Moment;
use crate::plan::{self, Level};
use std::rc::Rc;
use std::time::Duration;

/// A renewal that gains less than one of so many parts of the expiry is granted as it stands, and
/// needs no save: each host renews once right after it was told that it holds, to show that it has
/// heard.
const GAIN: u32 = 100;

/// What is known of a pool.
#[derive(Debug)]
pub(super) struct Ledger {
    name: Rc<str>,
    /// As the config has it; `None`: the config does not have it any more, but it is still held.
    plan: Option<plan::Pool>,
    /// Until when holdings without an end are kept while the config does not have the pool.
    abandoned: Moment,
    holders: Holders,
    waiters: Waiters,
    counts: Counts,
}

/// What a client is to a pool that it wants to hold.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// It holds it.
    Holder,
    /// It holds it, but that is revoked.
    Revoked,
    /// It could have it: waiters that can be granted a slot have been granted one before.
    Next,
    /// There is no room for it, or another run of its host holds the pool.
    Outside,
}

impl Ledger {
    /// A pool that nobody holds.
    pub(super) fn new(plan: plan::Pool) -> Ledger {
        let ledger = Ledger::missing(&plan.name, Moment::NEVER);
        Ledger {
            plan: Some(plan),
            ..ledger
        }
    }

    /// A pool that is not in the config, but is held since the server before this one.
    pub(super) fn missing(name: &str, now: Moment) -> Ledger {
        Ledger {
            name: name.into(),
            plan: None,
            abandoned: now + lease::ABANDONED,
            holders: Holders::default(),
            waiters: Waiters::default(),
            counts: Counts::default(),
        }
    }

    /// A host holds it since the server before this one.
    pub(super) fn restore(&mut self, held: &Held, desk: &mut Desk, now: Moment) {
        let &Held {
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
            desk.note(Level::Warning, self.kept(&host, &holding, now));
        }
        self.hold(&host, holding);
    }

    /// Takes in a new plan for it. Holders keep it as they were told, and each waiter asks again.
    pub(super) fn reconfigure(&mut self, plan: plan::Pool, desk: &mut Desk, now: Moment) {
        if self.plan.replace(plan).is_none() {
            desk.note(
                Level::Info,
                format!(
                    "{} is in the config again: its holders hold it as before",
                    self.name
                ),
            );
        }
        for asked in self.waiters.take_all() {
            self.ask(asked, desk, now);
        }
        self.settle(desk, now);
    }

    /// The config does not have it any more. What a client was told stands.
    pub(super) fn abandon(&mut self, desk: &mut Desk, now: Moment) {
        if self.plan.take().is_none() {
            return;
        }
        self.abandoned = now + lease::ABANDONED;
        for asked in self.waiters.take_all() {
            self.answer(asked.ticket, Answer::Invalid(Refusal::UnknownPool), desk);
        }
        for host in self.holders.hosts() {
            match self.holders.get(&host) {
                Some(holding) if holding.told.is_some() => {
                    desk.note(Level::Warning, self.kept(&host, &holding, now));
                }
                _ => self.vacate(&host, desk),
            }
        }
    }

    /// Whether nothing is left of a pool that the config does not have.
    pub(super) fn is_over(&self) -> bool {
        self.plan.is_none() && self.holders.len() == 0
    }

    /// The log's line about a holding whose pool is gone.
    fn kept(&self, host: &str, holding: &Holding, now: Moment) -> String {
        let end = match left(holding.expires, now) {
            Some(left) => format!(
                "until it releases it or its lease ends, in {:.1} s",
                left.as_secs_f64()
            ),
            None => format!(
                "until it releases it, for {} more",
                shown(self.abandoned.since(now))
            ),
        };
        format!(
            "{} is not in the config any more: {host} keeps it (token {}) {end}",
            self.name, holding.token
        )
    }

    /// A host asks, maybe not for the first time.
    pub(super) fn ask(&mut self, asked: Asked, desk: &mut Desk, now: Moment) {
        self.settle(desk, now);
        self.decide(asked, desk, now);
    }

    fn decide(&mut self, asked: Asked, desk: &mut Desk, now: Moment) {
        if let Err(refusal) = self.check(&asked) {
            desk.note(
                Level::Info,
                invalid_request::told(&self.name, &asked.host, refusal),
            );
            return self.answer(asked.ticket, Answer::Invalid(refusal), desk);
        }
        match (asked.call, self.standing(&asked)) {
            (Call::Release { token }, _) => self.release(&asked, token, desk, now),
            (Call::Revoke, _) => self.revoke(asked, desk),
            (_, Standing::Revoked) => self.answer(asked.ticket, Answer::NoRevoked, desk),
            (Call::Renew { token }, Standing::Holder) => self.renew(asked, token, desk, now),
            (Call::Get | Call::Wait, Standing::Holder) => self.confirm(asked, desk, now),
            (Call::Wait, _) => {
                self.waiters.insert(asked);
                self.settle(desk, now);
            }
            (_, Standing::Next) => match desk.trouble() {
                None => self.grant(vec![asked], desk, now),
                Some(why) => self.answer(asked.ticket, Answer::Unavailable(why), desk),
            },
            (_, Standing::Outside) => self.answer(asked.ticket, Answer::No, desk),
        }
    }

    /// To a client that holds nothing of it, a pool that the config does not have is one that does
    /// not exist.
    fn check(&self, asked: &Asked) -> Result<(), Refusal> {
        let holding = self.holders.get(&asked.host);
        let holds = match asked.call {
            Call::Release { .. } | Call::Revoke => holding.is_some(),
            Call::Get | Call::Wait | Call::Renew { .. } => {
                holding.is_some_and(|holding| holding.belongs_to(asked.run.as_ref()))
            }
        };
        match &self.plan {
            Some(plan) => invalid_request::check(plan, asked.call, &asked.host, holds),
            None if holds && asked.call.keeps() => Ok(()),
            None => Err(invalid_request::check_host(&asked.host)
                .err()
                .unwrap_or(Refusal::UnknownPool)),
        }
    }

    fn standing(&self, asked: &Asked) -> Standing {
        match self.holders.get(&asked.host) {
            Some(holding) if !holding.belongs_to(asked.run.as_ref()) => Standing::Outside,
            Some(holding) if holding.revoked => Standing::Revoked,
            Some(_) => Standing::Holder,
            None if self.has_room() => Standing::Next,
            None => Standing::Outside,
        }
    }

    fn has_room(&self) -> bool {
        let permits = self.plan.as_ref().map_or(0, |plan| plan.permits);
        self.holders.len() < usize::try_from(permits).unwrap_or(usize::MAX)
    }

    /// A client that knows the token has heard the answer that it came with.
    fn renew(&mut self, asked: Asked, token: Option<i64>, desk: &mut Desk, now: Moment) {
        let Some(holding) = self.holders.get(&asked.host) else {
            return;
        };
        let heard = holding.heard || token == Some(holding.token);
        let holding = Holding { heard, ..holding };
        self.holders.set(&asked.host, holding.clone());
        if let Some(why) = desk.trouble() {
            return self.answer(asked.ticket, Answer::Unavailable(why), desk);
        }
        if holding.expires == Moment::NEVER {
            self.abandoned = self.abandoned.max(now + lease::ABANDONED);
        }
        let gained = self.renewed(&holding, now).expires.since(holding.expires);
        if gained > self.lease(&holding).unwrap_or_default() / GAIN {
            self.extend(&asked.host, &holding, desk, now);
        }
        self.vouch(asked, desk);
    }

    /// A holder asks without a wish to renew. It gets no less than it was told, and more where what
    /// is left could not be told, or where it holds the pool until it is released from now on.
    fn confirm(&mut self, asked: Asked, desk: &mut Desk, now: Moment) {
        let Some(holding) = self.holders.get(&asked.host) else {
            return;
        };
        let is_endless_now = self.lease(&holding).is_none() && holding.expires != Moment::NEVER;
        let is_too_short = lease::told(holding.expires, now) == Told::Nothing;
        if is_endless_now || is_too_short {
            match desk.trouble() {
                None => self.extend(&asked.host, &holding, desk, now),
                Some(why) if is_too_short => {
                    return self.answer(asked.ticket, Answer::Unavailable(why), desk);
                }
                Some(_) => {}
            }
        }
        self.vouch(asked, desk);
    }

    fn extend(&mut self, host: &Rc<str>, holding: &Holding, desk: &mut Desk, now: Moment) {
        self.holders.set(host, self.renewed(holding, now));
        desk.change();
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
    fn release(&mut self, asked: &Asked, token: Option<i64>, desk: &mut Desk, now: Moment) {
        let meant = |holding: &Holding| {
            holding.told.is_some() && holding.is_meant(token, asked.run.as_ref())
        };
        if let Some(holding) = self.holders.get(&asked.host).filter(meant) {
            self.counts.released += 1;
            let held = holding.since.held(now).as_secs_f64();
            desk.note(
                Level::Info,
                format!(
                    "released {} for {} (token {}) after {held:.1} s",
                    self.name, asked.host, holding.token
                ),
            );
            self.vacate(&asked.host, desk);
            self.settle(desk, now);
        }
        desk.promise(asked.ticket, Promise::Ok);
    }

    /// From now on the holding is not confirmed. A renewal that its holder was not told of does not
    /// make it last longer.
    fn revoke(&mut self, asked: Asked, desk: &mut Desk) {
        let Some(holding) = self.told_holding(&asked.host) else {
            return self.answer(asked.ticket, Answer::NotHeld, desk);
        };
        if !holding.revoked {
            desk.note(
                Level::Warning,
                format!(
                    "revoked {} for {} (token {})",
                    self.name, asked.host, holding.token
                ),
            );
            let expires = holding.expires.min(holding.told.unwrap_or(Moment::NEVER));
            self.holders.set(
                &asked.host,
                Holding {
                    revoked: true,
                    expires,
                    ..holding
                },
            );
            desk.change();
        }
        match desk.trouble() {
            None => desk.promise(
                asked.ticket,
                Promise::Revoked {
                    pool: self.name.clone(),
                    asked,
                },
            ),
            Some(why) => self.answer(asked.ticket, Answer::Unavailable(why), desk),
        }
    }

    /// That a holding is revoked is saved.
    pub(super) fn keep_revoked(&mut self, asked: &Asked, desk: &mut Desk, now: Moment) {
        let answer = match self
            .told_holding(&asked.host)
            .filter(|holding| holding.revoked)
        {
            Some(Holding { token, expires, .. }) => Answer::Revocation {
                token: Some(token),
                ends: remaining(expires, now),
            },
            None => Answer::NotHeld, // it was released meanwhile
        };
        self.answer(asked.ticket, answer, desk);
    }

    fn told_holding(&self, host: &str) -> Option<Holding> {
        self.holders
            .get(host)
            .filter(|holding| holding.told.is_some())
    }

    fn hold(&mut self, host: &Rc<str>, holding: Holding) {
        self.holders.set(host, holding);
        self.waiters.block(host);
    }

    fn vacate(&mut self, host: &Rc<str>, desk: &mut Desk) {
        self.holders.remove(host);
        self.waiters.unblock(host);
        desk.change();
    }

    /// The client that asked this has hung up. Whether it waited here.
    pub(super) fn forget_waiter(&mut self, ticket: Ticket) -> bool {
        self.waiters.remove(ticket).is_some()
    }

    /// An answer YES that was to be given will not be.
    pub(super) fn withdraw(&mut self, stake: &Stake, desk: &mut Desk, now: Moment) {
        self.forgo(&stake.asked.host, stake.token, desk);
        self.settle(desk, now);
    }

    /// An answer YES that was given did not arrive.
    pub(super) fn undelivered(&mut self, host: &str, token: i64, desk: &mut Desk, now: Moment) {
        self.counts.undelivered += 1;
        if self.forgo(&host.into(), token, desk) {
            desk.note(
                Level::Warning,
                format!(
                    "took {} back from {host} (token {token}): the answer could not be delivered",
                    self.name
                ),
            );
            self.settle(desk, now);
        }
    }

    /// An answer YES stands for this holding no more. Whether it was the last.
    fn forgo(&mut self, host: &Rc<str>, token: i64, desk: &mut Desk) -> bool {
        let Some(holding) = self.holding(host, token).filter(|holding| !holding.heard) else {
            return false;
        };
        let answers = holding.answers - 1;
        if answers == 0 {
            self.vacate(host, desk);
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
    pub(super) fn keep(&mut self, stake: Stake, desk: &mut Desk, now: Moment) {
        self.settle(desk, now);
        let holding = self
            .holding(&stake.asked.host, stake.token)
            .filter(|holding| !holding.revoked);
        let told = holding
            .as_ref()
            .map(|holding| lease::told(stake.expires.min(holding.expires), now));
        match (holding, told) {
            (Some(holding), Some(Told::UntilReleased)) => {
                self.tell(&stake, holding, None, desk, now);
            }
            (Some(holding), Some(Told::For(left))) => {
                self.tell(&stake, holding, Some(left), desk, now);
            }
            (Some(holding), _) => self.too_late(stake, &holding, desk, now),
            (None, _) => {
                self.forgo(&stake.asked.host, stake.token, desk);
                self.decide(stake.asked, desk, now);
            }
        }
    }

    /// The save took so long that what is left of the lease is of no use. A holding that no client
    /// was told of is ended. A waiter waits on; another client is told why, and not made to
    /// wait for the next save, which may take as long.
    fn too_late(&mut self, stake: Stake, holding: &Holding, desk: &mut Desk, now: Moment) {
        self.forgo(&stake.asked.host, stake.token, desk);
        let (name, host) = (&self.name, &stake.asked.host);
        let expire = self.lease(holding).unwrap_or_default().as_secs_f64();
        desk.note(
            Level::Error,
            format!(
                "cannot tell {host} that it holds {name} (token {}): {SLOW} (expire {expire} s)",
                stake.token
            ),
        );
        if holding.told.is_none() && self.holding(host, stake.token).is_some() {
            self.vacate(&stake.asked.host, desk);
        }
        if stake.asked.call == Call::Wait {
            return self.decide(stake.asked, desk, now);
        }
        self.answer(
            stake.asked.ticket,
            Answer::Unavailable(SLOW.to_owned()),
            desk,
        );
        self.settle(desk, now);
    }

    fn tell(
        &mut self,
        stake: &Stake,
        holding: Holding,
        left: Option<Duration>,
        desk: &mut Desk,
        now: Moment,
    ) {
        let (
            name,
            Asked {
                ticket,
                call,
                host,
                since,
                ..
            },
            token,
        ) = (&self.name, &stake.asked, holding.token);
        let expires = stake.expires.min(holding.expires);
        if holding.told.is_none() {
            self.counts.granted += 1;
            let waited = now.since(*since).as_secs_f64();
            desk.note(
                Level::Info,
                format!("granted {name} to {host} (token {token}, waited {waited:.1} s)"),
            );
        } else if let Call::Renew { .. } = call {
            desk.note(
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
            desk,
        );
    }

    /// A renewal that no client was told of is not saved: holdings end as their hosts know it.
    pub(super) fn revert(&mut self, desk: &mut Desk) {
        for host in self.holders.hosts() {
            let Some(holding) = self.holders.get(&host) else {
                continue;
            };
            let expires = holding.expires.min(holding.told.unwrap_or(Moment::NEVER));
            if expires != holding.expires {
                self.holders.set(&host, Holding { expires, ..holding });
                desk.change();
            }
        }
    }

    /// Ends what has expired, and grants free slots to the next waiters.
    pub(super) fn settle(&mut self, desk: &mut Desk, now: Moment) {
        while let Some((host, Holding { token, since, .. })) = self.holders.take_expired(now) {
            self.expired(
                &host,
                token,
                &format!("it expired after {:.1} s", since.held(now).as_secs_f64()),
                desk,
            );
        }
        if self.plan.is_none() && self.abandoned <= now {
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
                        shown(lease::ABANDONED)
                    ),
                    desk,
                );
            }
        }
        while desk.can_grant() && self.has_room() && self.waiters.has_next() {
            let next = self.waiters.take_next();
            self.grant(next, desk, now);
        }
    }

    fn expired(&mut self, host: &Rc<str>, token: i64, why: &str, desk: &mut Desk) {
        self.counts.expired += 1;
        desk.note(
            Level::Warning,
            format!("took {} from {host} (token {token}): {why}", self.name),
        );
        self.vacate(host, desk);
    }

    /// To all these requests of one run, or of one host without runs.
    fn grant(&mut self, asked: Vec<Asked>, desk: &mut Desk, now: Moment) {
        let Some(first) = asked.first() else { return };
        let lease = self.plan.as_ref().and_then(|plan| plan.expire);
        let holding = Holding {
            token: desk.new_token(),
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
        asked.into_iter().for_each(|asked| self.vouch(asked, desk));
    }

    /// Answers YES to a holder, as soon as what it holds is saved.
    fn vouch(&mut self, asked: Asked, desk: &mut Desk) {
        let Some(holding) = self.holders.get(&asked.host) else {
            return;
        };
        let (token, expires, answers) = (
            holding.token,
            holding.expires,
            holding.answers.saturating_add(1),
        );
        self.holders
            .set(&asked.host, Holding { answers, ..holding });
        let stake = Stake {
            pool: self.name.clone(),
            token,
            asked,
            expires,
        };
        desk.promise(stake.asked.ticket, Promise::Yes(stake));
    }

    fn answer(&mut self, ticket: Ticket, answer: Answer, desk: &mut Desk) {
        match answer {
            Answer::No | Answer::NoRevoked => self.counts.refused += 1,
            Answer::Invalid(_) => self.counts.invalid += 1,
            _ => {}
        }
        desk.answer(ticket, answer);
    }

    /// When it changes by itself.
    pub(super) fn wake(&self) -> Moment {
        let abandoned = self.plan.is_none() && self.holders.has_endless();
        self.holders.next_expiry().min(if abandoned {
            self.abandoned
        } else {
            Moment::NEVER
        })
    }

    /// For the state.
    pub(super) fn held(&self) -> impl Iterator<Item = Held> {
        self.holders.iter().map(|(host, holding)| Held {
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
            held: Some(holding.since.held(now)),
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
            counts: self.counts,
        }
    }
}

/// Why a lease cannot be told.
const SLOW: &str = "saving who holds what took too long for what is left of the lease";

/// What is left of a holding.
fn left(expires: Moment, now: Moment) -> Option<Duration> {
    (expires != Moment::NEVER).then(|| expires.since(now))
}

fn remaining(expires: Moment, now: Moment) -> Remaining {
    left(expires, now).map_or(Remaining::UntilReleased, Remaining::For)
}

/// A long time, for the log.
fn shown(time: Duration) -> String {
    format!("{:.1} h", time.as_secs_f64() / 3600.0)
}
