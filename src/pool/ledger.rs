//! One pool: who holds it, who waits for it, and who is next.

use super::desk::{Desk, Promise, Stake};
use super::holders::{Holders, Holding};
use super::refusal::{self, Refusal};
use super::state::Held;
use super::waiters::{Asked, Waiters};
use super::{Answer, Call, Counts, Grant, Holder, Remaining, Report, Ticket, Waiter};
use crate::moment::Moment;
use crate::plan::{self, Level};
use std::rc::Rc;
use std::time::Duration;

/// A renewal that gains less than one of so many parts of the expiry is granted as it stands, and needs no save: each host renews once right
/// after it was told that it holds, to show that it has heard.
const GAIN: u32 = 100;

/// What is known of a pool.
#[derive(Debug)]
pub(super) struct Ledger {
    name: Rc<str>,
    plan: plan::Pool,
    holders: Holders,
    waiters: Waiters,
    counts: Counts,
}

/// What a host is to a pool that it wants to hold.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// It holds it.
    Holder,
    /// It could have it: whoever waits has been let in before, unless nobody can be.
    Next,
    /// There is no room for it.
    Outside,
}

impl Ledger {
    /// A pool that nobody holds.
    pub(super) fn new(plan: plan::Pool) -> Ledger {
        Ledger {
            name: plan.name.as_str().into(),
            plan,
            holders: Holders::default(),
            waiters: Waiters::default(),
            counts: Counts::default(),
        }
    }

    /// A host holds it since the server before this one.
    pub(super) fn restore(&mut self, Held { host, token, since, expires, .. }: &Held, now: Moment) {
        let expires = self.promised(*expires, now);
        let holding = Holding { token: *token, since: *since, expires, told: Some(expires), answers: 1, heard: false };
        self.holders.set(&host.as_str().into(), holding);
    }

    /// Takes in a new plan for it. Holders keep it as long as they were promised, and whoever waits asks again.
    pub(super) fn reconfigure(&mut self, plan: plan::Pool, desk: &mut Desk, now: Moment) {
        self.plan = plan;
        self.revise(desk, |ledger, holding| {
            let expires = ledger.promised(holding.expires, now);
            if expires == holding.expires { holding } else { Holding { expires, told: Some(expires), ..holding } }
        });
        for asked in self.waiters.take_all() {
            self.ask(asked, desk, now);
        }
        self.settle(desk, now);
    }

    /// Changes holdings, each for itself.
    fn revise(&mut self, desk: &mut Desk, change: impl Fn(&Ledger, Holding) -> Holding) {
        for host in self.holders.hosts() {
            let Some(holding) = self.holders.get(&host) else { continue };
            let changed = change(self, holding);
            if changed != holding {
                self.holders.set(&host, changed);
                desk.change();
            }
        }
    }

    /// There is no such pool any more.
    pub(super) fn close(mut self, desk: &mut Desk) {
        for asked in self.waiters.take_all() {
            self.answer(asked.ticket, Answer::Invalid(Refusal::UnknownPool), desk);
        }
        for (host, holding) in self.holders.iter() {
            desk.change();
            desk.note(Level::Warning, forgotten(&self.name, host, holding.token));
        }
    }

    /// A host asks, maybe not for the first time.
    pub(super) fn ask(&mut self, asked: Asked, desk: &mut Desk, now: Moment) {
        self.settle(desk, now);
        self.decide(asked, desk, now);
    }

    fn decide(&mut self, asked: Asked, desk: &mut Desk, now: Moment) {
        let standing = self.standing(&asked.host);
        if let Err(refusal) = refusal::check(&self.plan, asked.call, &asked.host, standing == Standing::Holder) {
            desk.note(Level::Info, refusal::told(&self.name, &asked.host, refusal));
            return self.answer(asked.ticket, Answer::Invalid(refusal), desk);
        }
        match (asked.call, standing) {
            (Call::Revoke, _) => self.answer(asked.ticket, Answer::NotHeld, desk),
            (Call::Release { token }, _) => self.release(&asked, token, desk, now),
            (Call::Renew { token }, Standing::Holder) => self.renew(asked, token, desk, now),
            (_, Standing::Holder) => self.vouch(asked, desk),
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

    fn standing(&self, host: &str) -> Standing {
        if self.holders.get(host).is_some() {
            Standing::Holder
        } else if self.has_room() {
            Standing::Next
        } else {
            Standing::Outside
        }
    }

    fn has_room(&self) -> bool {
        self.holders.len() < usize::try_from(self.plan.permits).unwrap_or(usize::MAX)
    }

    /// Whoever knows the token has heard the answer that it came with.
    fn renew(&mut self, asked: Asked, token: Option<i64>, desk: &mut Desk, now: Moment) {
        let Some(holding) = self.holders.get(&asked.host) else { return };
        let heard = holding.heard || token == Some(holding.token);
        self.holders.set(&asked.host, Holding { heard, ..holding });
        if let Some(why) = desk.trouble() {
            return self.answer(asked.ticket, Answer::Unavailable(why), desk);
        }
        let expires = self.expiry(now).max(holding.expires); // what was promised stands, should this answer be lost
        if expires.since(holding.expires) > self.plan.expire.unwrap_or_default() / GAIN {
            self.holders.set(&asked.host, Holding { expires, heard, ..holding });
            desk.change();
        }
        self.vouch(asked, desk);
    }

    /// Only a holding that its host was told of is released: it cannot have meant another.
    fn release(&mut self, asked: &Asked, token: Option<i64>, desk: &mut Desk, now: Moment) {
        let meant = |holding: &Holding| holding.told.is_some() && token.is_none_or(|token| token == holding.token);
        if let Some(holding) = self.holders.get(&asked.host).filter(meant) {
            self.counts.released += 1;
            let held = holding.since.held(now).as_secs_f64();
            desk.note(Level::Info, format!("released {} for {} (token {}) after {held:.1} s", self.name, asked.host, holding.token));
            self.vacate(&asked.host, desk);
            self.settle(desk, now);
        }
        desk.promise(asked.ticket, Promise::Ok);
    }

    fn vacate(&mut self, host: &str, desk: &mut Desk) {
        self.holders.remove(host);
        desk.change();
    }

    /// Whoever asked this has hung up. Whether it waited here.
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
        if self.forgo(host, token, desk) {
            desk.note(Level::Warning, format!("took {} back from {host} (token {token}): the answer could not be delivered", self.name));
            self.settle(desk, now);
        }
    }

    /// An answer YES stands for this holding no more. Whether it was the last.
    fn forgo(&mut self, host: &str, token: i64, desk: &mut Desk) -> bool {
        let Some(holding) = self.holding(host, token).filter(|holding| !holding.heard) else { return false };
        let answers = holding.answers - 1;
        if answers == 0 {
            self.vacate(host, desk);
        } else {
            self.holders.set(&host.into(), Holding { answers, ..holding });
        }
        answers == 0
    }

    fn holding(&self, host: &str, token: i64) -> Option<Holding> {
        self.holders.get(host).filter(|holding| holding.token == token)
    }

    /// What was promised is saved: it is told, unless it is over by now. Then the request is decided anew.
    pub(super) fn keep(&mut self, stake: Stake, desk: &mut Desk, now: Moment) {
        self.settle(desk, now);
        let host = &stake.asked.host;
        match self.holding(host, stake.token) {
            Some(holding) if now < stake.expires.min(holding.expires) => return self.tell(&stake, holding, desk, now),
            Some(holding) if holding.expires <= now => self.vacate(host, desk),
            _ => {
                self.forgo(host, stake.token, desk);
            }
        }
        self.decide(stake.asked, desk, now);
    }

    fn tell(&mut self, stake: &Stake, holding: Holding, desk: &mut Desk, now: Moment) {
        let (name, Asked { ticket, call, host, since, .. }, Holding { token, .. }) = (&self.name, &stake.asked, holding);
        let expires = stake.expires.min(holding.expires);
        if holding.told.is_none() {
            self.counts.granted += 1;
            let waited = now.since(*since).as_secs_f64();
            desk.note(Level::Info, format!("granted {name} to {host} (token {token}, waited {waited:.1} s)"));
        } else if let Call::Renew { .. } = call {
            desk.note(Level::Debug, format!("renewed {name} for {host} (token {token})"));
        }
        self.holders.set(host, Holding { told: holding.told.max(Some(expires)), ..holding });
        self.answer(*ticket, Answer::Yes(Grant { token, expires: left(expires, now) }), desk);
    }

    /// A renewal that nobody was told of is not saved: holdings end as their hosts know it.
    pub(super) fn revert(&mut self, desk: &mut Desk) {
        self.revise(desk, |_, holding| Holding { expires: holding.expires.min(holding.told.unwrap_or(Moment::NEVER)), ..holding });
    }

    /// Whoever has held it for too long does so no more, and whoever is next does, as long as there is room.
    pub(super) fn settle(&mut self, desk: &mut Desk, now: Moment) {
        while let Some((host, Holding { token, since, .. })) = self.holders.take_expired(now) {
            self.counts.expired += 1;
            let held = since.held(now).as_secs_f64();
            desk.note(Level::Warning, format!("took {} from {host} (token {token}): it expired after {held:.1} s", self.name));
            desk.change();
        }
        while desk.can_grant() && self.has_room() && !self.waiters.is_empty() {
            let next = self.waiters.take_next();
            self.grant(next, desk, now);
        }
    }

    /// To all these requests of one host.
    fn grant(&mut self, asked: Vec<Asked>, desk: &mut Desk, now: Moment) {
        let holding =
            Holding { token: desk.new_token(), since: now.into(), expires: self.expiry(now), told: None, answers: 0, heard: false };
        if let Some(first) = asked.first() {
            self.holders.set(&first.host, holding);
        }
        asked.into_iter().for_each(|asked| self.vouch(asked, desk));
    }

    /// Answers YES to a holder, as soon as what it holds is saved.
    fn vouch(&mut self, asked: Asked, desk: &mut Desk) {
        let Some(holding) = self.holders.get(&asked.host) else { return };
        self.holders.set(&asked.host, Holding { answers: holding.answers.saturating_add(1), ..holding });
        let Holding { token, expires, .. } = holding;
        let stake = Stake { pool: self.name.clone(), token, asked, expires };
        desk.promise(stake.asked.ticket, Promise::Yes(stake));
    }

    fn answer(&mut self, ticket: Ticket, answer: Answer, desk: &mut Desk) {
        match answer {
            Answer::No => self.counts.refused += 1,
            Answer::Invalid(_) => self.counts.invalid += 1,
            _ => {}
        }
        desk.answer(ticket, answer);
    }

    /// When a holding of now expires.
    fn expiry(&self, now: Moment) -> Moment {
        self.plan.expire.map_or(Moment::NEVER, |expire| now + expire)
    }

    /// When a holding of an earlier plan expires: as was promised, unless that was never.
    fn promised(&self, expires: Moment, now: Moment) -> Moment {
        if expires == Moment::NEVER { self.expiry(now) } else { expires }
    }

    /// When it changes by itself.
    pub(super) fn wake(&self) -> Moment {
        self.holders.next_expiry()
    }

    /// For the state.
    pub(super) fn held(&self) -> impl Iterator<Item = Held> {
        self.holders.iter().map(|(host, Holding { token, since, expires, .. })| Held {
            pool: self.name.to_string(),
            host: host.to_string(),
            token: *token,
            since: *since,
            expires: *expires,
        })
    }

    /// For whoever watches the server.
    pub(super) fn report(&self, now: Moment) -> Report<'_> {
        let told = self.holders.iter().filter(|(_, holding)| holding.told.is_some());
        let holders = told.map(|(host, &Holding { token, since, expires, .. })| Holder {
            host,
            token: Some(token),
            run: None,
            held: Some(since.held(now)),
            ends: left(expires, now).map_or(Remaining::UntilReleased, Remaining::For),
            revoked: false,
        });
        Report {
            pool: &self.name,
            permits: self.plan.permits,
            expire: self.plan.expire,
            age: None,
            holders: holders.collect(),
            waiters: self.waiters.iter().map(|(host, run, since)| Waiter { host, run, waited: now.since(since) }).collect(),
            counts: self.counts,
        }
    }
}

/// What is left of a holding.
fn left(expires: Moment, now: Moment) -> Option<Duration> {
    (expires != Moment::NEVER).then(|| expires.since(now))
}

/// The log's line about a holding whose pool is gone.
pub(super) fn forgotten(pool: &str, host: &str, token: i64) -> String {
    format!("forgot that {host} holds {pool} (token {token}): there is no such pool any more")
}
