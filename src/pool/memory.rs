//! The server itself remembers the holders, in memory, and if that is wanted in a file that outlives it.

use super::desk::{Desk, Promise};
use super::ledger::{self, Ledger};
use super::refusal::{self, Refusal};
use super::state::State;
use super::{Answer, Backend, Input, Output, Report, Request, Ticket};
use crate::moment::Moment;
use crate::plan::{self, Level};
use std::collections::BTreeMap;

/// See above.
#[derive(Debug)]
pub struct Memory {
    pools: BTreeMap<String, Ledger>,
    /// Whether there is a file.
    durable: bool,
    desk: Desk,
}

impl Memory {
    /// With a file, begins with the state that is in it, which is empty if there is none yet. Tokens are above `seed`, too, which is
    /// microseconds of real time: so they grow on if the file is lost.
    pub fn new(pools: Vec<plan::Pool>, file: Option<State>, seed: i64, now: Moment) -> Memory {
        let durable = file.is_some();
        let State { last_token, holders } = file.unwrap_or_default();
        let mut desk = Desk::new(last_token.max(seed));
        let mut pools: BTreeMap<_, _> = pools.into_iter().map(|pool| (pool.name.clone(), Ledger::new(pool))).collect();
        for held in &holders {
            match pools.get_mut(&held.pool) {
                Some(ledger) => ledger.restore(held, now),
                None => desk.note(Level::Warning, ledger::forgotten(&held.pool, &held.host, held.token)),
            }
        }
        Memory { pools, durable, desk }
    }

    fn asked(&mut self, request: &Request, now: Moment) {
        if let Some(ledger) = self.pools.get_mut(request.pool) {
            return ledger.asked(request, &mut self.desk, now);
        }
        self.desk.note(Level::Info, refusal::told(request, Refusal::UnknownPool));
        self.desk.answer(request.ticket, Answer::Invalid);
    }

    fn gone(&mut self, ticket: Ticket, now: Moment) {
        if self.pools.values_mut().any(|ledger| ledger.forget_waiter(ticket)) {
            return;
        }
        if let Some(Promise::Yes(stake)) = self.desk.withdraw(ticket)
            && let Some(ledger) = self.pools.get_mut(&*stake.pool)
        {
            ledger.withdraw(&stake, &mut self.desk, now);
        }
    }

    fn saved(&mut self, now: Moment) {
        for (ticket, promise) in self.desk.saved(now) {
            match promise {
                Promise::Ok => self.desk.answer(ticket, Answer::Ok),
                Promise::Yes(stake) => match self.pools.get_mut(&*stake.pool) {
                    Some(ledger) => ledger.keep(ticket, &stake, &mut self.desk, now),
                    None => self.desk.answer(ticket, Answer::Invalid),
                },
            }
        }
        self.settle(now);
    }

    fn not_saved(&mut self, why: String, now: Moment) {
        for (ticket, promise) in self.desk.not_saved(why, now) {
            match promise {
                Promise::Ok => self.desk.answer(ticket, Answer::Ok),
                Promise::Yes(stake) => match self.pools.get_mut(&*stake.pool) {
                    Some(ledger) => ledger.undo(ticket, &stake, &mut self.desk),
                    None => self.desk.answer(ticket, Answer::Invalid),
                },
            }
        }
    }

    fn settle(&mut self, now: Moment) {
        self.pools.values_mut().for_each(|ledger| ledger.settle(&mut self.desk, now));
    }

    fn state(&self) -> State {
        State { last_token: self.desk.last_token(), holders: self.pools.values().flat_map(Ledger::held).collect() }
    }
}

impl Backend for Memory {
    fn handle(&mut self, input: Input, now: Moment) {
        match input {
            Input::Asked(request) => self.asked(&request, now),
            Input::Gone(ticket) => self.gone(ticket, now),
            Input::Undelivered { pool, host, token } => {
                if let Some(ledger) = self.pools.get_mut(pool) {
                    ledger.undelivered(host, token, &mut self.desk, now);
                }
            }
            Input::Saved => self.saved(now),
            Input::NotSaved(why) => self.not_saved(why, now),
            Input::Tick => self.settle(now),
        }
    }

    fn poll(&mut self, now: Moment) -> Output {
        loop {
            if let Some(output) = self.desk.next_output() {
                return output;
            }
            if !self.desk.is_due(now) {
                return Output::Wait(self.pools.values().map(Ledger::wake).fold(self.desk.wake(), Moment::min));
            }
            self.desk.save();
            if self.durable {
                return Output::Save(self.state());
            }
            self.saved(now);
        }
    }

    fn reconfigure(&mut self, pools: Vec<plan::Pool>, now: Moment) {
        let mut before = std::mem::take(&mut self.pools);
        for plan in pools {
            let name = plan.name.clone();
            let ledger = match before.remove(&name) {
                Some(mut ledger) => {
                    ledger.reconfigure(plan, &mut self.desk, now);
                    ledger
                }
                None => Ledger::new(plan),
            };
            self.pools.insert(name, ledger);
        }
        before.into_values().for_each(|ledger| ledger.close(&mut self.desk));
    }

    fn report(&self, now: Moment) -> Vec<Report<'_>> {
        self.pools.values().map(|ledger| ledger.report(now)).collect()
    }
}
