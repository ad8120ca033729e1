//! One pool: who holds it, who waits for it, and who is next.

use super::desk::{Desk, Otherwise, Promise, Stake};
use super::holders::{Holders, Holding};
use super::refusal;
use super::waiters::{Waiter, Waiters};
use super::{Answer, Call, Counts, Grant, Report, Request, Ticket, state::Held};
use crate::moment::Moment;
use crate::plan::{self, Level};
use std::rc::Rc;

/// See above.
#[derive(Debug)]
pub(super) struct Ledger {
    name: Rc<str>,
    plan: plan::Pool,
    holders: Holders,
    waiters: Waiters,
    counts: Counts,
}

/// What a host is to a pool that it wants to hold.
enum Standing {
    /// It holds it.
    Holder,
    /// It can have it.
    Next,
    /// Others come first.
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
        let holding = Holding { token: *token, since: *since, expires: self.promised(*expires, now), answers: 1, told: true };
        self.holders.set(&host.as_str().into(), holding);
    }

    /// Takes in a new plan for it. Holders are left what they were promised.
    pub(super) fn reconfigure(&mut self, plan: plan::Pool, desk: &mut Desk, now: Moment) {
        self.plan = plan;
        for waiter in self.waiters.take_unless(|host| refusal::admits(&self.plan, host)) {
            let Waiter { ticket, host, .. } = waiter;
            let request = Request { ticket, call: Call::Wait, pool: &self.name, host: &host };
            desk.note(Level::Info, refusal::told(&request, refusal::Refusal::Stranger));
            self.answer(ticket, Answer::Invalid, desk);
        }
        let holders: Vec<_> = self.holders.iter().map(|(host, holding)| (host.clone(), *holding)).collect();
        for (host, holding) in holders {
            let expires = self.promised(holding.expires, now);
            if expires != holding.expires {
                self.holders.set(&host, Holding { expires, ..holding });
                desk.change();
            }
        }
        self.settle(desk, now);
    }

    /// There is no such pool any more.
    pub(super) fn close(mut self, desk: &mut Desk) {
        for waiter in self.waiters.take_unless(|_| false) {
            self.answer(waiter.ticket, Answer::Invalid, desk);
        }
        for (host, holding) in self.holders.iter() {
            desk.change();
            desk.note(Level::Warning, forgotten(&self.name, host, holding.token));
        }
    }

    /// A host asks.
    pub(super) fn asked(&mut self, request: &Request, desk: &mut Desk, now: Moment) {
        self.settle(desk, now);
        if let Err(refusal) = refusal::check(&self.plan, request, self.holders.get(request.host).is_some()) {
            desk.note(Level::Info, refusal::told(request, refusal));
            return self.answer(request.ticket, Answer::Invalid, desk);
        }
        match request.call {
            Call::Release { token } => self.release(request, token, desk, now),
            call => self.take(call, request.ticket, &request.host.into(), desk, now),
        }
    }

    fn take(&mut self, call: Call, ticket: Ticket, host: &Rc<str>, desk: &mut Desk, now: Moment) {
        match (call, self.standing(host)) {
            (Call::Renew, Standing::Holder) => self.renew(ticket, host, desk, now),
            (_, Standing::Holder) => self.vouch(ticket, host, Otherwise::Refused, desk, now),
            (Call::Wait, _) => {
                self.waiters.insert(Waiter { ticket, host: host.clone(), since: now });
                self.settle(desk, now);
            }
            (_, Standing::Next) => match desk.trouble() {
                None => {
                    self.grant(host, desk, now);
                    self.vouch(ticket, host, Otherwise::Refused, desk, now);
                }
                Some(why) => self.answer(ticket, Answer::Unavailable(why), desk),
            },
            (_, Standing::Outside) => self.answer(ticket, Answer::No, desk),
        }
    }

    fn standing(&self, host: &str) -> Standing {
        if self.holders.get(host).is_some() {
            Standing::Holder
        } else if self.has_room() && self.waiters.is_empty() {
            Standing::Next
        } else {
            Standing::Outside
        }
    }

    fn has_room(&self) -> bool {
        self.holders.len() < usize::try_from(self.plan.permits).unwrap_or(usize::MAX)
    }

    fn renew(&mut self, ticket: Ticket, host: &Rc<str>, desk: &mut Desk, now: Moment) {
        if let Some(why) = desk.trouble() {
            return self.answer(ticket, Answer::Unavailable(why), desk);
        }
        if let Some(holding) = self.holders.get(host) {
            let expires = self.expiry(now).max(holding.expires); // no answer that is lost may have promised more
            self.holders.set(host, Holding { expires, ..holding });
            desk.change();
            self.vouch(ticket, host, Otherwise::Expires(holding.expires), desk, now);
        }
    }

    /// Only a holding that its host was told of can be released: it cannot have meant another.
    fn release(&mut self, request: &Request, token: Option<i64>, desk: &mut Desk, now: Moment) {
        let meant = |holding: &Holding| holding.told && token.is_none_or(|token| token == holding.token);
        if let Some(holding) = self.holders.get(request.host).filter(meant) {
            self.counts.released += 1;
            self.drop(request.host, desk);
            let held = holding.since.held(now).as_secs_f64();
            desk.note(Level::Info, format!("{} released {} (token {}) after {held:.1} s", request.host, self.name, holding.token));
            self.settle(desk, now);
        }
        if desk.is_saved() {
            self.answer(request.ticket, Answer::Ok, desk);
        } else {
            desk.promise(request.ticket, Promise::Ok);
        }
    }

    fn drop(&mut self, host: &str, desk: &mut Desk) {
        self.holders.remove(host);
        desk.change();
    }

    /// Whoever asked this has hung up. Whether it waited here.
    pub(super) fn forget_waiter(&mut self, ticket: Ticket) -> bool {
        self.waiters.remove(ticket).is_some()
    }

    /// An answer YES that was to be given is not wanted any more.
    pub(super) fn withdraw(&mut self, stake: &Stake, desk: &mut Desk, now: Moment) {
        self.forgo(&stake.host, stake.token, desk);
        self.settle(desk, now);
    }

    /// An answer YES that was given did not arrive.
    pub(super) fn undelivered(&mut self, host: &str, token: i64, desk: &mut Desk, now: Moment) {
        self.counts.undelivered += 1;
        if self.forgo(host, token, desk) {
            desk.note(Level::Warning, format!("took {} back from {host} (token {token}): it could not be told", self.name));
            self.settle(desk, now);
        }
    }

    /// An answer YES stands for this holding no more. Whether it was the last.
    fn forgo(&mut self, host: &str, token: i64, desk: &mut Desk) -> bool {
        let Some(holding) = self.holders.get(host).filter(|holding| holding.token == token) else { return false };
        let answers = holding.answers - 1;
        if answers == 0 {
            self.drop(host, desk);
        } else {
            self.holders.set(&host.into(), Holding { answers, ..holding });
        }
        answers == 0
    }

    /// What was promised is saved: it is told, unless the holding is over already.
    pub(super) fn keep(&mut self, ticket: Ticket, stake: &Stake, desk: &mut Desk, now: Moment) {
        self.settle(desk, now);
        match (self.holders.get(&stake.host).filter(|holding| holding.token == stake.token), stake.otherwise) {
            (Some(holding), _) => {
                self.tell(stake, &holding, desk, now);
                let expires = (holding.expires != Moment::NEVER).then(|| holding.expires.since(now));
                self.answer(ticket, Answer::Yes(Grant { token: holding.token, expires }), desk);
            }
            (None, Otherwise::Waits(since)) => {
                self.waiters.insert(Waiter { ticket, host: stake.host.clone(), since });
                self.settle(desk, now);
            }
            (None, _) => self.answer(ticket, Answer::No, desk),
        }
    }

    fn tell(&mut self, stake: &Stake, holding: &Holding, desk: &mut Desk, now: Moment) {
        let Stake { host, token, otherwise, .. } = stake;
        if holding.told {
            if let Otherwise::Expires(_) = otherwise {
                desk.note(Level::Debug, format!("{host} renewed {} (token {token})", self.name));
            }
            return;
        }
        self.holders.set(host, Holding { told: true, ..*holding });
        self.counts.granted += 1;
        let waited = if let Otherwise::Waits(since) = otherwise { now.since(*since).as_secs_f64() } else { 0.0 };
        desk.note(Level::Info, format!("granted {} to {host} (token {token}, waited {waited:.1} s)", self.name));
    }

    /// What was promised cannot be saved.
    pub(super) fn undo(&mut self, ticket: Ticket, stake: &Stake, desk: &mut Desk) {
        self.forgo(&stake.host, stake.token, desk);
        let holding = self.holders.get(&stake.host).filter(|holding| holding.token == stake.token);
        match (stake.otherwise, holding) {
            (Otherwise::Waits(since), _) => return self.waiters.insert(Waiter { ticket, host: stake.host.clone(), since }),
            (Otherwise::Expires(expires), Some(holding)) => self.holders.set(&stake.host, Holding { expires, ..holding }),
            _ => {}
        }
        self.answer(ticket, Answer::Unavailable(desk.trouble().unwrap_or_default()), desk);
    }

    /// Whoever has held it for too long does so no more, and whoever is next does, as long as there is room.
    pub(super) fn settle(&mut self, desk: &mut Desk, now: Moment) {
        while let Some((host, holding)) = self.holders.take_expired(now) {
            desk.change();
            if holding.told {
                self.counts.expired += 1;
                let held = holding.since.held(now).as_secs_f64();
                desk.note(Level::Warning, format!("{} expired for {host} (token {}) after {held:.1} s", self.name, holding.token));
            }
        }
        while desk.trouble().is_none()
            && self.has_room()
            && let Some((host, waiters)) = self.waiters.take_next()
        {
            self.grant(&host, desk, now);
            for Waiter { ticket, since, .. } in waiters {
                self.vouch(ticket, &host, Otherwise::Waits(since), desk, now);
            }
        }
    }

    fn grant(&mut self, host: &Rc<str>, desk: &mut Desk, now: Moment) {
        let holding = Holding { token: desk.new_token(), since: now.into(), expires: self.expiry(now), answers: 0, told: false };
        self.holders.set(host, holding);
    }

    /// Answers YES to a holder, as soon as what it holds is saved.
    fn vouch(&mut self, ticket: Ticket, host: &Rc<str>, otherwise: Otherwise, desk: &mut Desk, now: Moment) {
        let Some(holding) = self.holders.get(host) else { return };
        self.holders.set(host, Holding { answers: holding.answers.saturating_add(1), ..holding });
        let stake = Stake { pool: self.name.clone(), host: host.clone(), token: holding.token, otherwise };
        if desk.is_saved() {
            self.keep(ticket, &stake, desk, now);
        } else {
            desk.promise(ticket, Promise::Yes(stake));
        }
    }

    fn answer(&mut self, ticket: Ticket, answer: Answer, desk: &mut Desk) {
        match answer {
            Answer::No => self.counts.refused += 1,
            Answer::Invalid => self.counts.invalid += 1,
            _ => {}
        }
        desk.answer(ticket, answer);
    }

    /// When a holding of now expires.
    fn expiry(&self, now: Moment) -> Moment {
        self.plan.expire.map_or(Moment::NEVER, |expire| now + expire)
    }

    /// When a holding of an earlier plan expires: as it was promised, unless only one of the two knows an end.
    fn promised(&self, expires: Moment, now: Moment) -> Moment {
        if self.plan.expire.is_none() || expires == Moment::NEVER { self.expiry(now) } else { expires }
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
        let told = self.holders.iter().filter(|(_, holding)| holding.told);
        Report {
            pool: &self.name,
            permits: self.plan.permits,
            expire: self.plan.expire,
            holders: told.map(|(host, holding)| reported(host, holding, now)).collect(),
            waiters: self.waiters.iter().map(|(host, since)| super::Waiter { host, waited: now.since(since) }).collect(),
            counts: self.counts,
        }
    }
}

fn reported<'a>(host: &'a str, holding: &Holding, now: Moment) -> super::Holder<'a> {
    let expires = (holding.expires != Moment::NEVER).then(|| holding.expires.since(now));
    super::Holder { host, token: holding.token, held: holding.since.held(now), expires }
}

/// The log's line about a holding whose pool is gone.
pub(super) fn forgotten(pool: &str, host: &str, token: i64) -> String {
    format!("forgot that {host} holds {pool} (token {token}): there is no such pool any more")
}
