//! The server itself remembers the holders, in memory, and if that is wanted in a file that
//! outlives it.

mod holders;
mod outbox;
mod pool_state;

use super::invalid_request::{self, Refusal};
use super::state::State;
use super::waiters::Asked;
use super::{Answer, Backend, Input, Output, Report, Request, Ticket};
use crate::moment::Moment;
use crate::plan::{self, Level};
use outbox::{Desk, Promise, Stake};
use pool_state::Ledger;
use std::collections::{BTreeMap, BTreeSet};

/// All pools of a server.
#[derive(Debug)]
pub struct Memory {
    pools: BTreeMap<String, Ledger>,
    /// Those of them that are not in the config any more, but still held.
    abandoned: BTreeSet<String>,
    /// Whether there is a file.
    durable: bool,
    desk: Desk,
}

impl Memory {
    /// With a file, begins with the state that is in it, which is empty if there is none yet.
    /// Tokens are above `seed`, too, which is microseconds of real time: so they grow on if the
    /// file is lost.
    pub fn new(pools: Vec<plan::Pool>, file: Option<State>, seed: i64, now: Moment) -> Memory {
        let durable = file.is_some();
        let State {
            last_token,
            holders,
        } = file.unwrap_or_default();
        let mut desk = Desk::new(last_token.max(seed));
        let mut pools: BTreeMap<_, _> = pools
            .into_iter()
            .map(|pool| (pool.name.clone(), Ledger::new(pool)))
            .collect();
        let mut abandoned = BTreeSet::new();
        for held in &holders {
            let ledger = pools.entry(held.pool.clone()).or_insert_with(|| {
                abandoned.insert(held.pool.clone());
                Ledger::missing(&held.pool, now)
            });
            ledger.restore(held, &mut desk, now);
        }
        Memory {
            pools,
            abandoned,
            durable,
            desk,
        }
    }

    fn asked(&mut self, request: &Request, now: Moment) {
        if let Some(ledger) = self.pools.get_mut(request.pool) {
            let Request {
                ticket,
                call,
                host,
                run,
                ..
            } = *request;
            return ledger.ask(
                Asked {
                    ticket,
                    call,
                    host: host.into(),
                    run: run.map(Into::into),
                    since: now,
                },
                &mut self.desk,
                now,
            );
        }
        self.desk.note(
            Level::Info,
            invalid_request::told(request.pool, request.host, Refusal::UnknownPool),
        );
        self.desk
            .answer(request.ticket, Answer::Invalid(Refusal::UnknownPool));
    }

    fn gone(&mut self, ticket: Ticket, now: Moment) {
        if self
            .pools
            .values_mut()
            .any(|ledger| ledger.forget_waiter(ticket))
        {
            return;
        }
        if let Some(promise) = self.desk.withdraw(ticket) {
            self.withdraw(&promise, now);
        }
    }

    fn withdraw(&mut self, promise: &Promise, now: Moment) {
        if let Promise::Yes(stake) = promise
            && let Some(ledger) = self.pools.get_mut(&*stake.pool)
        {
            ledger.withdraw(stake, &mut self.desk, now);
        }
    }

    fn saved(&mut self, now: Moment) {
        self.desk.saved(now);
        self.settle(now);
    }

    /// Nothing that was promised is so, and then each request is asked again.
    fn not_saved(&mut self, why: String, now: Moment) {
        let promises = self.desk.not_saved(why, now);
        promises
            .iter()
            .for_each(|(_, promise)| self.withdraw(promise, now));
        self.pools
            .values_mut()
            .for_each(|ledger| ledger.revert(&mut self.desk));
        for (ticket, promise) in promises {
            match promise {
                Promise::Ok => self.desk.answer(ticket, Answer::Ok),
                Promise::Yes(Stake { pool, asked, .. }) | Promise::Revoked { pool, asked } => {
                    self.resolve(&pool, ticket, |ledger, desk| ledger.ask(asked, desk, now));
                }
            }
        }
    }

    fn keep(&mut self, ticket: Ticket, promise: Promise, now: Moment) {
        match promise {
            Promise::Ok => self.desk.answer(ticket, Answer::Ok),
            Promise::Yes(stake) => self.resolve(&stake.pool.clone(), ticket, |ledger, desk| {
                ledger.keep(stake, desk, now);
            }),
            Promise::Revoked { pool, asked } => self.resolve(&pool, ticket, |ledger, desk| {
                ledger.keep_revoked(&asked, desk, now);
            }),
        }
    }

    /// Lets a pool answer, if it is still there.
    fn resolve(&mut self, pool: &str, ticket: Ticket, answer: impl FnOnce(&mut Ledger, &mut Desk)) {
        match self.pools.get_mut(pool) {
            Some(ledger) => answer(ledger, &mut self.desk),
            None => self
                .desk
                .answer(ticket, Answer::Invalid(Refusal::UnknownPool)),
        }
    }

    fn settle(&mut self, now: Moment) {
        self.pools
            .values_mut()
            .for_each(|ledger| ledger.settle(&mut self.desk, now));
    }

    /// Forgets pools that the config does not have, once they are not held any more.
    fn forget_pools(&mut self) {
        let pools = &mut self.pools;
        self.abandoned.retain(|name| {
            let is_over = pools.get(name).is_none_or(Ledger::is_over);
            if is_over {
                pools.remove(name);
            }
            !is_over
        });
    }

    fn state(&self) -> State {
        State {
            last_token: self.desk.last_token(),
            holders: self.pools.values().flat_map(Ledger::held).collect(),
        }
    }
}

impl Backend for Memory {
    fn handle(&mut self, input: Input, now: Moment) {
        match input {
            Input::Asked(request) => self.asked(&request, now),
            Input::ReportAsked(ticket) => self.desk.report(ticket),
            Input::Gone(ticket) => self.gone(ticket, now),
            Input::Undelivered { pool, host, token } => {
                if let Some(ledger) = self.pools.get_mut(pool) {
                    ledger.undelivered(host, token, &mut self.desk, now);
                }
            }
            Input::Saved => self.saved(now),
            Input::NotSaved(why) => self.not_saved(why, now),
            Input::Tick => self.settle(now),
            // There is no other server to ask.
            Input::Connected | Input::Disconnected(_) | Input::Received(_) => {}
        }
    }

    fn poll(&mut self, now: Moment) -> Output {
        loop {
            if let Some(output) = self.desk.next_output() {
                return output;
            }
            if let Some((ticket, promise)) = self.desk.next_ready() {
                self.keep(ticket, promise, now);
            } else if !self.desk.is_due(now) {
                self.forget_pools();
                return Output::Wait(
                    self.pools
                        .values()
                        .map(Ledger::wake)
                        .fold(self.desk.wake(), Moment::min),
                );
            } else {
                self.desk.save();
                if self.durable {
                    return Output::Save(self.state());
                }
                self.saved(now);
            }
        }
    }

    fn reconfigure(&mut self, pools: Vec<plan::Pool>, now: Moment) {
        let mut gone: BTreeSet<_> = self.pools.keys().cloned().collect();
        for plan in pools {
            gone.remove(&plan.name);
            match self.pools.get_mut(&plan.name) {
                Some(ledger) => ledger.reconfigure(plan, &mut self.desk, now),
                None => _ = self.pools.insert(plan.name.clone(), Ledger::new(plan)),
            }
        }
        for name in &gone {
            self.pools
                .get_mut(name)
                .into_iter()
                .for_each(|ledger| ledger.abandon(&mut self.desk, now));
        }
        self.abandoned = gone;
        self.forget_pools();
    }

    fn report(&self, now: Moment) -> Vec<Report<'_>> {
        self.pools
            .values()
            .map(|ledger| ledger.report(now))
            .collect()
    }
}

#[cfg(test)]
mod tests;
