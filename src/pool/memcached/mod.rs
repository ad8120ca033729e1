//! A memcached remembers the holders, for several servers, the original among them. It is asked
//! over one connection, and never waited for: who asks is told within a second that it does not
//! answer, who waits goes on waiting.

mod attempts;
mod cas_cycle;
mod expiry;
#[cfg(test)]
mod fake;
mod holder_cache;
#[cfg(test)]
mod interleaving_tests;
mod leases;
mod line;
mod list_update;
pub mod protocol;
mod shared_pool;

use super::invalid_request::{self, Refusal};
use super::state::Boot;
use super::waiters::Asked;
use super::{Answer, Backend, Input, Output, Report, Request, Ticket};
use crate::moment::Moment;
use crate::plan::{self, Level};
use line::{Line, Want};
use shared_pool::{PATIENCE, Said, Slate, Tools};
use std::collections::{BTreeMap, VecDeque};

/// All pools of a server.
#[derive(Debug)]
pub struct Memcache {
    slates: BTreeMap<String, Slate>,
    /// Where memcached is, for messages.
    address: String,
    boot: Boot,
    line: Line,
    /// So many rounds have begun.
    rounds: u64,
    said: VecDeque<Said>,
    /// Who wants to see all pools, since when.
    reports: VecDeque<(Ticket, Moment)>,
}

impl Memcache {
    /// Not connected yet. Tokens begin with real time, which `boot` makes of moments.
    pub fn new(pools: Vec<plan::Pool>, address: String, boot: Boot, now: Moment) -> Memcache {
        let slates = pools
            .into_iter()
            .map(|pool| (pool.name.clone(), Slate::new(compatible(pool))))
            .collect();
        Memcache {
            slates,
            address,
            boot,
            line: Line::new(now),
            rounds: 0,
            said: VecDeque::new(),
            reports: VecDeque::new(),
        }
    }

    /// The slates, and what each of them works with.
    fn with_tools(&mut self, now: Moment) -> (&mut BTreeMap<String, Slate>, Tools<'_>) {
        let is_watched = !self.reports.is_empty();
        let tools = Tools {
            line: &mut self.line,
            said: &mut self.said,
            address: &self.address,
            boot: self.boot,
            is_watched,
            now,
        };
        (&mut self.slates, tools)
    }

    fn asked(&mut self, request: &Request, now: Moment) {
        let Request {
            ticket,
            call,
            pool,
            host,
            run,
        } = *request;
        let (slates, mut tools) = self.with_tools(now);
        if let Some(slate) = slate(slates, pool) {
            return slate.ask(
                Asked {
                    ticket,
                    call,
                    host: escaped(host).into(),
                    run: run.map(Into::into),
                    since: now,
                },
                &mut tools,
            );
        }
        self.say(Output::Note(
            Level::Info,
            invalid_request::told(pool, host, Refusal::UnknownPool),
        ));
        self.say(Output::Answer(
            ticket,
            Answer::Invalid(Refusal::UnknownPool),
        ));
    }

    fn say(&mut self, output: Output) {
        self.said.push_back(Said::Output(output));
    }

    /// All pools are read for it, unless they were just now. While memcached is known to be away,
    /// nothing is waited for.
    fn report_asked(&mut self, ticket: Ticket, now: Moment) {
        if let Some(why) = self.line.outage().filter(|_| !self.line.is_up()) {
            let answer = Answer::Unavailable(why.to_owned());
            return self.say(Output::Answer(ticket, answer));
        }
        self.slates.values_mut().for_each(|slate| slate.survey(now));
        self.reports.push_back((ticket, now));
    }

    /// A report that can be answered now.
    fn next_report(&mut self, now: Moment) -> Option<Output> {
        let &(ticket, since) = self.reports.front()?;
        if self.slates.values().all(|slate| slate.is_seen(since)) {
            self.reports.pop_front();
            return Some(Output::Report(ticket));
        }
        if now < since + PATIENCE {
            return None;
        }
        self.reports.pop_front();
        let unseen = self.slates.values().filter(|slate| !slate.is_seen(since));
        let why = unseen
            .filter_map(Slate::trouble)
            .chain(self.line.outage())
            .next()
            .unwrap_or("memcached does not answer");
        Some(Output::Answer(ticket, Answer::Unavailable(why.to_owned())))
    }

    fn gone(&mut self, ticket: Ticket) {
        self.reports.retain(|(other, _)| *other != ticket);
        if self.slates.values_mut().any(|slate| slate.forget(ticket)) {
            return;
        }
        let is_it = |said: &Said| matches!(said, Said::Yes { asked, .. } if asked.ticket == ticket);
        if let Some(index) = self.said.iter().position(is_it)
            && let Some(Said::Yes { asked, pool, grant }) = self.said.remove(index)
            && let Some(slate) = self.slates.get_mut(&*pool)
        {
            slate.untell(&asked.host, grant.token);
        }
    }

    /// Whether it answers too is seen at once, though nobody asks anything: the log is to say since
    /// when it does.
    fn connected(&mut self, now: Moment) {
        self.line.connected(now);
        if self.line.outage().is_some() {
            self.slates.values_mut().take(1).for_each(Slate::look);
        }
    }

    fn received(&mut self, bytes: &[u8], now: Moment) {
        self.line.received(bytes);
        loop {
            match self.line.reply() {
                Ok(Some((round, reply))) => {
                    let (slates, mut tools) = self.with_tools(now);
                    let taken = slates
                        .get_mut(&*round.pool)
                        .map_or(Ok(()), |slate| slate.reply(&round, reply, &mut tools));
                    if let Err(flaw) = taken {
                        return self.give_up(&flaw.to_string(), now);
                    }
                }
                Ok(None) => return,
                Err(why) => return self.give_up(&why, now),
            }
        }
    }

    fn give_up(&mut self, why: &str, now: Moment) {
        self.say(Output::Disconnect);
        self.lost(why, now);
    }

    fn lost(&mut self, why: &str, now: Moment) {
        let why = format!("cannot ask memcached at {}: {why}", self.address);
        if self.line.lost(&why, now) {
            let note =
                format!("{why}; requests fail until it answers, and whoever waits goes on waiting");
            self.say(Output::Note(Level::Error, note));
        }
        self.slates.values_mut().for_each(Slate::line_lost);
        for (ticket, _) in std::mem::take(&mut self.reports) {
            self.say(Output::Answer(ticket, Answer::Unavailable(why.clone())));
        }
    }

    fn tick(&mut self, now: Moment) {
        if let Some(why) = self.line.is_late(now) {
            self.give_up(&why, now);
        }
        let (slates, mut tools) = self.with_tools(now);
        slates
            .values_mut()
            .for_each(|slate| slate.lose_patience(&mut tools));
        slates.retain(|_, slate| !slate.is_over(now));
    }

    fn begin_rounds(&mut self, now: Moment) {
        if self.line.is_up() {
            self.rounds += 1;
            let number = self.rounds;
            let (slates, mut tools) = self.with_tools(now);
            slates
                .values_mut()
                .for_each(|slate| slate.begin(number, &mut tools));
        }
    }

    fn wake(&self) -> Moment {
        let is_up = self.line.is_up();
        let report = self
            .reports
            .front()
            .map_or(Moment::NEVER, |(_, since)| *since + PATIENCE);
        self.slates
            .values()
            .map(|slate| slate.wake(is_up))
            .fold(self.line.wake().min(report), Moment::min)
    }
}

/// The pool that is asked for: by its name in the config, or as the original looks for that.
fn slate<'a>(slates: &'a mut BTreeMap<String, Slate>, pool: &str) -> Option<&'a mut Slate> {
    if slates.contains_key(pool) {
        slates.get_mut(pool)
    } else {
        slates.get_mut(&escaped(pool))
    }
}

/// A name as the original takes it, and writes it into memcached: like text in HTML (`cgi.escape`).
fn escaped(name: &str) -> String {
    name.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

/// A pool whose `servers` are named as they are, or as the original wants them.
fn compatible(mut pool: plan::Pool) -> plan::Pool {
    if let Some(servers) = &mut pool.servers {
        servers.extend(
            servers
                .iter()
                .map(|server| escaped(server))
                .filter(|name| !servers.contains(name))
                .collect::<Vec<_>>(),
        );
    }
    pool
}

impl Backend for Memcache {
    fn handle(&mut self, input: Input, now: Moment) {
        match input {
            Input::Asked(request) => self.asked(&request, now),
            Input::ReportAsked(ticket) => self.report_asked(ticket, now),
            Input::Gone(ticket) => self.gone(ticket),
            Input::Undelivered { pool, host, token } => {
                if let Some(slate) = slate(&mut self.slates, pool) {
                    slate.undelivered(&escaped(host), token);
                }
            }
            Input::Connected => self.connected(now),
            Input::Disconnected(why) => {
                self.lost(why.as_deref().unwrap_or("it closed the connection"), now);
            }
            Input::Received(bytes) => self.received(bytes, now),
            Input::Tick => self.tick(now),
            // There is no state to save.
            Input::Saved | Input::NotSaved(_) => {}
        }
    }

    fn poll(&mut self, now: Moment) -> Output {
        match self.said.pop_front() {
            Some(Said::Output(output)) => return output,
            Some(Said::Yes { asked, grant, .. }) => {
                return Output::Answer(asked.ticket, Answer::Yes(grant));
            }
            None => {}
        }
        if let Some(output) = self.next_report(now) {
            return output;
        }
        self.begin_rounds(now);
        match self.line.want(now) {
            Some(Want::Connect) => Output::Connect,
            Some(Want::Send(bytes)) => Output::Send(bytes),
            None => Output::Wait(self.wake()),
        }
    }

    fn reconfigure(&mut self, pools: Vec<plan::Pool>, now: Moment) {
        let mut before = std::mem::take(&mut self.slates);
        let mut after = BTreeMap::new();
        let (_, mut tools) = self.with_tools(now);
        for plan in pools.into_iter().map(compatible) {
            let name = plan.name.clone();
            let slate = match before.remove(&name) {
                Some(mut slate) => {
                    slate.reconfigure(plan, &mut tools);
                    slate
                }
                None => Slate::new(plan),
            };
            after.insert(name, slate);
        }
        for (name, mut slate) in before {
            slate.abandon(&mut tools);
            after.insert(name, slate);
        }
        self.slates = after;
    }

    fn report(&self, now: Moment) -> Vec<Report<'_>> {
        self.slates
            .values()
            .map(|slate| slate.report(self.boot, now))
            .collect()
    }
}

#[cfg(test)]
mod tests;
