//! The server itself remembers the holders, in memory, and if that is wanted in a file that
//! outlives it.

mod holders;
mod outbox;
mod pool_state;

use super::invalid_request::{self, InvalidRequest};
use super::state::State;
use super::waiters::PendingRequest;
use super::{Answer, Backend, Input, Output, Report, Request, Ticket};
use crate::moment::Moment;
use crate::plan::{self, Level};
use outbox::{DeferredReply, Outbox, PendingGrant};
use pool_state::PoolState;
use std::collections::{BTreeMap, BTreeSet};

/// All pools of a server.
#[derive(Debug)]
pub struct Memory {
    pools: BTreeMap<String, PoolState>,
    /// Those of them that are not in the config any more, but still held.
    removed: BTreeSet<String>,
    /// Whether there is a file.
    durable: bool,
    outbox: Outbox,
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
        let mut outbox = Outbox::new(last_token.max(seed));
        let mut pools: BTreeMap<_, _> = pools
            .into_iter()
            .map(|pool| (pool.name.clone(), PoolState::new(pool)))
            .collect();
        let mut removed = BTreeSet::new();
        for held in &holders {
            let pool = pools.entry(held.pool.clone()).or_insert_with(|| {
                removed.insert(held.pool.clone());
                PoolState::removed(&held.pool, now)
            });
            pool.restore(held, &mut outbox, now);
        }
        Memory {
            pools,
            removed,
            durable,
            outbox,
        }
    }

    fn request(&mut self, request: &Request, now: Moment) {
        if let Some(pool) = self.pools.get_mut(request.pool) {
            let Request {
                ticket,
                call,
                host,
                run,
                ..
            } = *request;
            return pool.request(
                PendingRequest {
                    ticket,
                    call,
                    host: host.into(),
                    run: run.map(Into::into),
                    since: now,
                },
                &mut self.outbox,
                now,
            );
        }
        self.outbox.note(
            Level::Info,
            invalid_request::log_line(request.pool, request.host, InvalidRequest::UnknownPool),
        );
        self.outbox
            .answer(request.ticket, Answer::Invalid(InvalidRequest::UnknownPool));
    }

    fn cancelled(&mut self, ticket: Ticket, now: Moment) {
        if self
            .pools
            .values_mut()
            .any(|pool| pool.forget_waiter(ticket))
        {
            return;
        }
        if let Some(reply) = self.outbox.cancel(ticket) {
            self.withdraw(&reply, now);
        }
    }

    fn withdraw(&mut self, reply: &DeferredReply, now: Moment) {
        if let DeferredReply::Yes(grant) = reply
            && let Some(pool) = self.pools.get_mut(&*grant.pool)
        {
            pool.withdraw(grant, &mut self.outbox, now);
        }
    }

    fn saved(&mut self, now: Moment) {
        self.outbox.saved(now);
        self.advance(now);
    }

    /// Nothing that was promised is so, and then each request is request again.
    fn not_saved(&mut self, why: String, now: Moment) {
        let replies = self.outbox.not_saved(why, now);
        replies
            .iter()
            .for_each(|(_, reply)| self.withdraw(reply, now));
        self.pools
            .values_mut()
            .for_each(|pool| pool.revert_unsaved_renewals(&mut self.outbox));
        for (ticket, reply) in replies {
            match reply {
                DeferredReply::Ok => self.outbox.answer(ticket, Answer::Ok),
                DeferredReply::Yes(PendingGrant { pool, request, .. })
                | DeferredReply::Revoked { pool, request } => {
                    self.resolve(&pool, ticket, |pool, outbox| {
                        pool.request(request, outbox, now);
                    });
                }
            }
        }
    }

    fn send(&mut self, ticket: Ticket, reply: DeferredReply, now: Moment) {
        match reply {
            DeferredReply::Ok => self.outbox.answer(ticket, Answer::Ok),
            DeferredReply::Yes(grant) => {
                self.resolve(&grant.pool.clone(), ticket, |pool, outbox| {
                    pool.grant_saved(grant, outbox, now);
                });
            }
            DeferredReply::Revoked { pool, request } => {
                self.resolve(&pool, ticket, |pool, outbox| {
                    pool.revocation_saved(&request, outbox, now);
                });
            }
        }
    }

    /// Lets a pool answer, if it is still there.
    fn resolve(
        &mut self,
        pool: &str,
        ticket: Ticket,
        answer: impl FnOnce(&mut PoolState, &mut Outbox),
    ) {
        match self.pools.get_mut(pool) {
            Some(pool) => answer(pool, &mut self.outbox),
            None => self
                .outbox
                .answer(ticket, Answer::Invalid(InvalidRequest::UnknownPool)),
        }
    }

    fn advance(&mut self, now: Moment) {
        self.pools
            .values_mut()
            .for_each(|pool| pool.advance(&mut self.outbox, now));
    }

    /// Forgets pools that the config does not have, once they are not held any more.
    fn forget_pools(&mut self) {
        let pools = &mut self.pools;
        self.removed.retain(|name| {
            let is_obsolete = pools.get(name).is_none_or(PoolState::is_obsolete);
            if is_obsolete {
                pools.remove(name);
            }
            !is_obsolete
        });
    }

    fn state(&self) -> State {
        State {
            last_token: self.outbox.last_token(),
            holders: self.pools.values().flat_map(PoolState::held).collect(),
        }
    }
}

impl Backend for Memory {
    fn handle(&mut self, input: Input, now: Moment) {
        match input {
            Input::Request(request) => self.request(&request, now),
            Input::ReportRequested(ticket) => self.outbox.report(ticket),
            Input::Cancelled(ticket) => self.cancelled(ticket, now),
            Input::Undelivered { pool, host, token } => {
                if let Some(pool) = self.pools.get_mut(pool) {
                    pool.undelivered(host, token, &mut self.outbox, now);
                }
            }
            Input::Saved => self.saved(now),
            Input::NotSaved(why) => self.not_saved(why, now),
            Input::Tick => self.advance(now),
            // There is no other server to ask.
            Input::Transport(_) => {}
        }
    }

    fn poll(&mut self, now: Moment) -> Output {
        loop {
            if let Some(output) = self.outbox.next_output() {
                return output;
            }
            if let Some((ticket, reply)) = self.outbox.next_sendable() {
                self.send(ticket, reply, now);
            } else if !self.outbox.is_save_due(now) {
                self.forget_pools();
                return Output::Wait(
                    self.pools
                        .values()
                        .map(PoolState::wake)
                        .fold(self.outbox.wake(), Moment::min),
                );
            } else {
                self.outbox.begin_save();
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
                Some(pool) => pool.reconfigure(plan, &mut self.outbox, now),
                None => _ = self.pools.insert(plan.name.clone(), PoolState::new(plan)),
            }
        }
        for name in &gone {
            self.pools
                .get_mut(name)
                .into_iter()
                .for_each(|pool| pool.remove_from_config(&mut self.outbox, now));
        }
        self.removed = gone;
        self.forget_pools();
    }

    fn report(&self, now: Moment) -> Vec<Report<'_>> {
        self.pools.values().map(|pool| pool.report(now)).collect()
    }
}

#[cfg(test)]
mod tests;
