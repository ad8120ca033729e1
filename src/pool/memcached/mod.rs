//! The memcached backend: a memcached keeps the holders for several servers, the original server
//! among them. This server never blocks on memcached: a request is answered within a second even if
//! memcached does not answer, and waiters go on waiting.

mod attempts;
mod cas_cycle;
mod client;
mod expiry;
#[cfg(test)]
mod fake;
mod holder_cache;
#[cfg(test)]
mod interleaving_tests;
mod leases;
mod list_update;
pub mod protocol;
mod shared_pool;

use super::effects::Effects;
use super::invalid_request::{self, InvalidRequest};
use super::pools::Pools;
use super::state::BootTime;
use super::waiters::PendingRequest;
use super::{Answer, Backend, Input, Output, Report, Request, Ticket};
use crate::moment::Moment;
use crate::plan::{self, Level};
use crate::transport;
use client::MemcachedClient;
use shared_pool::{Context, REQUEST_TIMEOUT, SharedPool};
use std::borrow::Cow;
use std::collections::VecDeque;

/// All pools of a server.
#[derive(Debug)]
pub struct Memcache {
    pools: Pools<SharedPool>,
    /// The address of memcached, for messages.
    address: String,
    boot: BootTime,
    client: MemcachedClient,
    /// How many times cycles were begun: numbers them.
    cycles: u64,
    effects: Effects,
    /// Requests for a report, and when each arrived.
    reports: VecDeque<(Ticket, Moment)>,
}

impl Memcache {
    /// Not connected yet. Tokens begin with real time, which is `boot` plus a moment.
    pub fn new(pools: Vec<plan::Pool>, address: String, boot: BootTime, now: Moment) -> Memcache {
        Memcache {
            pools: Pools::new(pools.into_iter().map(compatible)),
            address,
            boot,
            client: MemcachedClient::new(now),
            cycles: 0,
            effects: Effects::default(),
            reports: VecDeque::new(),
        }
    }

    /// The pools, and the context that each of their methods needs.
    fn with_context(&mut self, now: Moment) -> (&mut Pools<SharedPool>, Context<'_>) {
        let is_watched = !self.reports.is_empty();
        let context = Context {
            client: &mut self.client,
            effects: &mut self.effects,
            address: &self.address,
            boot: self.boot,
            is_watched,
            now,
        };
        (&mut self.pools, context)
    }

    fn request(&mut self, request: &Request, now: Moment) {
        let (pools, mut context) = self.with_context(now);
        if let Some(pool) = pools.get_mut(request.pool) {
            let request = PendingRequest::new(request, &escaped(request.host), now);
            return pool.request(request, &mut context);
        }
        self.output(Output::Note(
            Level::Info,
            invalid_request::log_line(request.pool, request.host, InvalidRequest::UnknownPool),
        ));
        self.output(Output::Answer(
            request.ticket,
            Answer::Invalid(InvalidRequest::UnknownPool),
        ));
    }

    fn output(&mut self, output: Output) {
        self.effects.output(output);
    }

    /// Reads all pools that were not read just now. While memcached is known to be unreachable, the
    /// request fails at once.
    fn report_requested(&mut self, ticket: Ticket, now: Moment) {
        if let Some(why) = self.failure() {
            return self.output(Output::Answer(ticket, Answer::Unavailable(why)));
        }
        self.pools
            .iter_mut()
            .for_each(|pool| pool.read_for_report(now));
        self.reports.push_back((ticket, now));
    }

    /// The answer to the oldest request for a report, if all pools are read or its time is over.
    fn next_report(&mut self, now: Moment) -> Option<Output> {
        let &(ticket, since) = self.reports.front()?;
        if self.pools.iter().all(|pool| pool.is_fresh(since)) {
            self.reports.pop_front();
            return Some(Output::Report(ticket));
        }
        if now < since + REQUEST_TIMEOUT {
            return None;
        }
        self.reports.pop_front();
        let stale = self.pools.iter().filter(|pool| !pool.is_fresh(since));
        let why = stale
            .filter_map(SharedPool::failure)
            .chain(self.client.outage())
            .next()
            .unwrap_or("memcached does not answer");
        Some(Output::Answer(ticket, Answer::Unavailable(why.to_owned())))
    }

    fn cancelled(&mut self, ticket: Ticket) {
        self.reports.retain(|(other, _)| *other != ticket);
        if self.pools.cancel(ticket) {
            return;
        }
        if let Some(yes) = self.effects.cancel(ticket)
            && let Some(pool) = self.pools.get_mut(&yes.pool)
        {
            pool.undo_reply(&yes.request.host, yes.grant.token);
        }
    }

    /// After an outage, reads one pool at once, so that the log says when memcached answers again.
    fn connected(&mut self, now: Moment) {
        self.client.connected(now);
        if self.client.outage().is_some() {
            self.pools
                .iter_mut()
                .take(1)
                .for_each(SharedPool::poll_list);
        }
    }

    fn received(&mut self, bytes: &[u8], now: Moment) {
        self.client.received(bytes);
        loop {
            match self.client.reply() {
                Ok(Some((cycle, reply))) => {
                    let (pools, mut context) = self.with_context(now);
                    let taken = pools
                        .get_mut(&cycle.pool)
                        .map_or(Ok(()), |pool| pool.reply(&cycle, reply, &mut context));
                    if let Err(flaw) = taken {
                        return self.drop_connection(&flaw.to_string(), now);
                    }
                }
                Ok(None) => return,
                Err(why) => return self.drop_connection(&why, now),
            }
        }
    }

    fn on_transport(&mut self, event: transport::Event, now: Moment) {
        match event {
            transport::Event::Connected => self.connected(now),
            transport::Event::Disconnected(why) => {
                self.disconnected(why.as_deref().unwrap_or("it closed the connection"), now);
            }
            transport::Event::Received(bytes) => self.received(bytes, now),
        }
    }

    fn drop_connection(&mut self, why: &str, now: Moment) {
        self.output(Output::Transport(transport::Output::Close));
        self.disconnected(why, now);
    }

    fn disconnected(&mut self, why: &str, now: Moment) {
        let why = format!("cannot ask memcached at {}: {why}", self.address);
        if self.client.lost(&why, now) {
            let note = format!("{why}; requests fail until it answers, and waiters keep waiting");
            self.output(Output::Note(Level::Error, note));
        }
        self.pools.iter_mut().for_each(SharedPool::disconnected);
        for (ticket, _) in std::mem::take(&mut self.reports) {
            self.output(Output::Answer(ticket, Answer::Unavailable(why.clone())));
        }
    }

    fn tick(&mut self, now: Moment) {
        if let Some(why) = self.client.timed_out(now) {
            self.drop_connection(&why, now);
        }
        let (pools, mut context) = self.with_context(now);
        pools
            .iter_mut()
            .for_each(|pool| pool.expire_requests(&mut context));
        pools.forget_obsolete(now);
    }

    fn begin_cycles(&mut self, now: Moment) {
        if self.client.is_up() {
            self.cycles += 1;
            let number = self.cycles;
            let (pools, mut context) = self.with_context(now);
            pools
                .iter_mut()
                .for_each(|pool| pool.begin(number, &mut context));
        }
    }

    fn wake(&self) -> Moment {
        let is_up = self.client.is_up();
        let report = self
            .reports
            .front()
            .map_or(Moment::NEVER, |(_, since)| *since + REQUEST_TIMEOUT);
        let pools = self.pools.earliest(|pool| pool.wake(is_up));
        pools.min(self.client.wake()).min(report)
    }
}

/// A name as the original reads it and writes it into memcached: escaped as HTML (`cgi.escape`).
fn escaped(name: &str) -> String {
    name.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

/// The name that a request has for a name in memcached.
fn unescaped(name: &str) -> Cow<'_, str> {
    if !name.contains('&') {
        return Cow::Borrowed(name);
    }
    let name = name.replace("&lt;", "<").replace("&gt;", ">");
    Cow::Owned(name.replace("&amp;", "&"))
}

/// Adds the escaped names to `servers`: the config may have the names in either form.
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
            Input::Request(request) => self.request(&request, now),
            Input::ReportRequested(ticket) => self.report_requested(ticket, now),
            Input::Cancelled(ticket) => self.cancelled(ticket),
            Input::Undelivered { pool, host, token } => {
                if let Some(pool) = self.pools.get_mut(pool) {
                    pool.undelivered(&escaped(host), token);
                }
            }
            Input::Transport(event) => self.on_transport(event, now),
            Input::Tick => self.tick(now),
            // This backend saves no state.
            Input::Saved | Input::NotSaved(_) => {}
        }
    }

    fn poll(&mut self, now: Moment) -> Output {
        let decided = self.effects.next();
        if let Some(output) = decided.or_else(|| self.next_report(now)) {
            return output;
        }
        self.begin_cycles(now);
        match self.client.output(now) {
            Some(output) => Output::Transport(output),
            None => Output::Wait(self.wake()),
        }
    }

    fn reconfigure(&mut self, plans: Vec<plan::Pool>, now: Moment) {
        let (pools, mut context) = self.with_context(now);
        pools.reconfigure(plans.into_iter().map(compatible), &mut context, now);
    }

    /// The original knows a pool by its escaped name only.
    fn config_name(&self, asked: &str) -> Option<String> {
        if self.pools.contains(asked) {
            return None;
        }
        Some(escaped(asked)).filter(|name| self.pools.contains(name))
    }

    fn failure(&self) -> Option<String> {
        let outage = self.client.outage().filter(|_| !self.client.is_up());
        outage.map(str::to_owned)
    }

    fn report(&self, now: Moment) -> Vec<Report<'_>> {
        self.pools.report(|pool| pool.report(self.boot, now))
    }
}

#[cfg(test)]
mod tests;
