//! The memory backend: this server keeps the holders in memory, and in a file that outlives the
//! server if the config has one.

mod holders;
#[cfg(test)]
mod interleaving_tests;
mod outbox;
mod pool_state;

use super::events::Log;
use super::invalid_request::{self, InvalidRequest};
use super::pools::Pools;
use super::state::State;
use super::waiters::PendingRequest;
use super::{Answer, Backend, Input, Output, Report, Request, Ticket};
use crate::moment::Moment;
use crate::plan::{self, Level};
use outbox::{DeferredReply, Outbox, PendingGrant};
use pool_state::PoolState;

/// All pools of a server.
#[derive(Debug)]
pub struct Memory {
    pools: Pools<PoolState>,
    /// Whether holders are saved to a file.
    durable: bool,
    outbox: Outbox,
}

impl Memory {
    /// `file`: the saved state, which is empty if there is no file yet; `None`: the config has no
    /// file. Tokens are above the saved ones and above `seed`, which is real time in microseconds,
    /// so that they grow even if the file is lost.
    pub fn new(pools: Vec<plan::Pool>, file: Option<State>, seed: i64, now: Moment) -> Memory {
        let durable = file.is_some();
        let State {
            last_token,
            holders,
        } = file.unwrap_or_default();
        let mut outbox = Outbox::new(last_token.max(seed));
        let mut pools = Pools::new(pools);
        for saved in &holders {
            pools
                .get_or_removed(&saved.pool, || PoolState::removed(&saved.pool, now))
                .restore(saved, &mut outbox, now);
        }
        Memory {
            pools,
            durable,
            outbox,
        }
    }

    fn request(&mut self, request: &Request, now: Moment) {
        if let Some(pool) = self.pools.get_mut(request.pool) {
            let request = PendingRequest::new(request, request.host, now);
            return pool.request(request, &mut self.outbox, now);
        }
        self.outbox.note(
            Level::Info,
            invalid_request::log_line(request.pool, request.host, InvalidRequest::UnknownPool),
        );
        self.outbox
            .answer(request.ticket, Answer::Invalid(InvalidRequest::UnknownPool));
    }

    fn cancelled(&mut self, ticket: Ticket, now: Moment) {
        if self.pools.cancel(ticket) {
            return;
        }
        if let Some(reply) = self.outbox.cancel(ticket) {
            self.withdraw(&reply, now);
        }
    }

    fn withdraw(&mut self, reply: &DeferredReply, now: Moment) {
        if let DeferredReply::Yes(grant) = reply
            && let Some(pool) = self.pools.get_mut(&grant.pool)
        {
            pool.withdraw(grant, &mut self.outbox, now);
        }
    }

    fn saved(&mut self, now: Moment) {
        self.outbox.saved(now);
        self.advance(now);
    }

    /// Undoes what the deferred replies report, then decides each of their requests again.
    fn not_saved(&mut self, why: String, now: Moment) {
        let replies = self.outbox.not_saved(why, now);
        replies
            .iter()
            .for_each(|(_, reply)| self.withdraw(reply, now));
        self.pools
            .iter_mut()
            .for_each(|pool| pool.revert_unsaved_renewals(&mut self.outbox));
        for (ticket, reply) in replies {
            match reply {
                DeferredReply::Ok(why) => self.outbox.answer_release(ticket, why),
                DeferredReply::Yes(PendingGrant { pool, request, .. })
                | DeferredReply::Revoked { pool, request } => {
                    self.resolve(&pool, ticket, |pool, outbox| {
                        pool.request(request, outbox, now);
                    });
                }
            }
        }
    }

    /// Answers a request whose reply was deferred until now.
    fn send(&mut self, ticket: Ticket, reply: DeferredReply, now: Moment) {
        match reply {
            DeferredReply::Ok(why) => self.outbox.answer_release(ticket, why),
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

    /// Has the pool answer, if it still exists.
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
            .iter_mut()
            .for_each(|pool| pool.advance(&mut self.outbox, now));
    }

    fn state(&self) -> State {
        State {
            last_token: self.outbox.last_token(),
            holders: self
                .pools
                .iter()
                .flat_map(PoolState::saved_holdings)
                .collect(),
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
            // This backend opens no connection.
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
                self.pools.forget_obsolete(now);
                let wake = self.pools.earliest(PoolState::wake);
                return Output::Wait(wake.min(self.outbox.wake()));
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
        self.pools.reconfigure(pools, &mut self.outbox, now);
        self.pools.forget_obsolete(now);
    }

    fn failure(&self) -> Option<String> {
        self.outbox.save_failure()
    }

    fn report(&self, now: Moment) -> Vec<Report<'_>> {
        self.pools.report(|pool| pool.report(now))
    }
}

#[cfg(test)]
mod tests;
