//! The ZooKeeper backend: an ensemble keeps the holders for any number of servers.
//!
//! | node | kind | data |
//! | --- | --- | --- |
//! | `PATH/POOL` | persistent | the record: holders, last token, served entries ([`record`]) |
//! | `PATH/POOL/SESSION.TICKET-SEQUENCE` | ephemeral, sequential | a client that waits ([`queue`]) |
//!
//! The record is changed only by `setData` with the version that was read. So there is one order of
//! all changes, whichever servers make them, and each change follows from the one before it.
//!
//! # Cycles
//!
//! Each server decides the requests for a pool in cycles, one at a time ([`cycle`]): it reads the
//! record unless it knows it, computes the new record and all answers ([`update`]), writes the
//! record, and answers. If another server has changed the record meanwhile, the write fails, and the
//! requests are decided again.
//!
//! # How leases are counted
//!
//! No clock of one host is compared with that of another. Each holding has a number that grows with
//! each renewal, and the length of its lease. Each server counts the lease on its own clock, from
//! when it first saw that number ([`sightings`]); a server that has just started counts the whole
//! length. It ends a lease by a write that names the version it has read: if the holder was renewed
//! meanwhile, at whichever server, the write fails.
//!
//! The server that renews a holding promises its client a lease from when it *sent* the write, and
//! only after the write has succeeded. All others see the number after that, so no server ends a
//! lease earlier than its client was told. It ends some milliseconds later, when the watch has
//! brought the number to the others. If all servers were restarted or disconnected, it ends later by
//! at most its whole length. The client is told a lease that is shorter by 5 %
//! ([`lease`](super::lease)), so clocks may run at rates that differ by that.
//!
//! # What is answered, and when
//!
//! * Each answer follows a successful write: `setData` with the version on which it was decided, or
//!   a check of that version (a transaction that changes nothing and fires no watch). So the answer
//!   was true at a moment after the request had arrived. A leader that has lost its majority answers
//!   `sync`, but neither of these.
//! * The version does not show whether clients of other servers wait. Before a slot is granted to a
//!   client that has not queued, the number of entries is read, after a check of the node.
//! * Without an answer of ZooKeeper a request fails after [`REQUEST_TIMEOUT`]. Waiters go on waiting.
//! * A holding that no client can know of is taken back by the last server that might have told one
//!   ([`deliveries`]).
//!
//! # What a renewal costs
//!
//! One write of the whole record, and at each other server one event and one read, which its own
//! ZooKeeper server answers. All requests that arrive during one exchange share the next one. A
//! renewal that gains less than 1 % of the lease, a YES to a holder that only asks, and NO are
//! checks: no other server notices them. Servers read nothing while nothing changes.
//!
//! # Waiters
//!
//! Waiters queue over all servers, in FIFO order: see [`queue`]. If the session of a server ends, its
//! waiters stay connected, and join the queue again at its end.
//!
//! # Other stores
//!
//! The memcached backend shares with this one what does not depend on the store: requests, waiters,
//! replies, events. Its cycle does not fit: it keeps holders and leases in two keys, of which the
//! original server writes one, counts tokens in a third, and has to fence off writes that are late.

mod cycle;
mod deliveries;
mod dispatch;
#[cfg(test)]
mod fake;
#[cfg(test)]
mod interleaving_tests;
mod pending;
mod queue;
mod queue_entry;
mod record;
mod replies;
mod report;
mod shared_pool;
mod sightings;
mod update;
mod write;

use super::effects::Effects;
use super::events::Log;
use super::invalid_request::{self, InvalidRequest};
use super::pools::Pools;
use super::state::BootTime;
use super::waiters::PendingRequest;
use super::{Answer, Backend, Input, Output, Report, Request, Ticket};
use crate::endpoint::Endpoint;
use crate::moment::Moment;
use crate::plan::{self, Auth, Level};
use crate::transport;
use crate::zookeeper::code::Code;
use crate::zookeeper::record::Acl;
use crate::zookeeper::request;
use crate::zookeeper::session::{Change, Session, SessionEvent};
use dispatch::{addressee, deliver};
use shared_pool::SharedPool;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

/// How long a request other than `Wait` waits for ZooKeeper. Including the loop's own time it is
/// answered within a second.
const REQUEST_TIMEOUT: Duration = Duration::from_millis(900);

/// An outage of this length is logged. During a shorter one this server only changes to another
/// member of the ensemble, which no client notices.
const LOGGED_OUTAGE: Duration = Duration::from_secs(1);

/// Where the pools are kept.
#[derive(Debug)]
pub struct Options {
    /// The servers of the ensemble, at least one.
    pub servers: Vec<Endpoint>,
    /// The session timeout to ask for.
    pub timeout: Duration,
    /// Credentials for the session, if any.
    pub auth: Option<Auth>,
    /// The ACL of new nodes.
    pub acl: Vec<Acl>,
    /// The node above those of the pools, with the chroot.
    pub path: String,
    /// For dates, from which tokens begin. Apart from that they are only shown.
    pub boot: BootTime,
}

/// What the methods of a pool need of the backend.
struct Context<'a> {
    session: &'a mut Session,
    effects: &'a mut Effects,
    acl: &'a [Acl],
    boot: BootTime,
    seed: i64,
    /// The id of this server: its first session.
    server: i64,
    refusal: Option<Code>,
    /// A check was sent: see [`Context::check`].
    is_checked: bool,
    now: Moment,
}

impl Log for Context<'_> {
    fn note(&mut self, level: Level, note: String) {
        self.effects.note(level, note);
    }
}

impl Context<'_> {
    fn answer(&mut self, ticket: Ticket, answer: Answer) {
        self.effects.answer(ticket, answer);
    }

    /// What is read after this is as new as all requests that have arrived: a server without a
    /// majority answers nothing that is sent after a check. One is enough for all pools that read
    /// now, whichever node it names.
    fn check(&mut self, path: &str) {
        if !std::mem::replace(&mut self.is_checked, true) {
            let path = path.to_owned();
            let check = request::Request::Check { path };
            self.session.ask(check, self.now);
        }
    }

    /// The id of the session. A pool sends nothing before there is one.
    fn session_id(&self) -> i64 {
        self.session.id().unwrap_or_default()
    }

    /// The time in ms since 1970.
    fn date(&self) -> u64 {
        self.boot.date_of(self.now)
    }

    fn outage(&self) -> String {
        outage(self.session, self.refusal, self.now)
    }
}

/// Why ZooKeeper does not answer.
fn outage(session: &Session, refusal: Option<Code>, now: Moment) -> String {
    match refusal {
        Some(code) => format!("cannot use ZooKeeper: {}", code.explain(true)),
        None => format!("cannot reach ZooKeeper: {}", session.faults(now)),
    }
}

/// All pools of a server.
#[derive(Debug)]
pub struct ZooKeeper {
    pools: Pools<SharedPool>,
    /// The names of the pools by the paths of their nodes.
    by_path: BTreeMap<Rc<str>, Rc<str>>,
    path: String,
    acl: Vec<Acl>,
    boot: BootTime,
    /// New tokens are above this number: real time in microseconds when the server started. So they
    /// grow although the pool was kept by another backend for a while.
    seed: i64,
    session: Session,
    /// The first session, which no other server has had.
    first_session: Option<i64>,
    effects: Effects,
    /// Requests for a report, and when each arrived.
    reports: VecDeque<(Ticket, Moment)>,
    /// Since when no server has answered a request.
    down_since: Option<Moment>,
    /// That outage is in the log.
    is_outage_logged: bool,
    /// The error with which the servers refuse the credentials.
    refusal: Option<Code>,
    /// The server ends: nothing is sent any more but the close of the session.
    is_closing: bool,
}

impl ZooKeeper {
    /// Not connected yet.
    pub fn new(pools: Vec<plan::Pool>, options: Options, now: Moment) -> ZooKeeper {
        let Options {
            servers,
            timeout,
            auth,
            acl,
            path,
            boot,
        } = options;
        let mut backend = ZooKeeper {
            pools: Pools::new(pools),
            by_path: BTreeMap::new(),
            path,
            acl,
            boot,
            seed: boot.micros(now),
            session: Session::new(servers, timeout, auth, now),
            first_session: None,
            effects: Effects::default(),
            reports: VecDeque::new(),
            down_since: Some(now),
            is_outage_logged: false,
            refusal: None,
            is_closing: false,
        };
        // The leases of clients go on while the session waits for a silent server.
        backend.session.hurry();
        backend.locate_pools();
        backend
    }

    /// Gives each pool the path of its node.
    fn locate_pools(&mut self) {
        for pool in self.pools.iter_mut() {
            let path: Rc<str> = node_path(&self.path, pool.name()).into();
            pool.locate(&path);
            self.by_path.insert(path, pool.name.clone());
        }
    }

    /// The pools, and the context that each of their methods needs.
    fn with_context(&mut self, now: Moment) -> (&mut Pools<SharedPool>, Context<'_>) {
        let context = Context {
            session: &mut self.session,
            effects: &mut self.effects,
            acl: &self.acl,
            boot: self.boot,
            seed: self.seed,
            server: self.first_session.unwrap_or_default(),
            refusal: self.refusal,
            is_checked: false,
            now,
        };
        (&mut self.pools, context)
    }

    fn output(&mut self, output: Output) {
        self.effects.output(output);
    }

    fn note(&mut self, level: Level, note: String) {
        self.output(Output::Note(level, note));
    }

    fn request(&mut self, request: &Request, now: Moment) {
        let (pools, mut context) = self.with_context(now);
        if let Some(pool) = pools.get_mut(request.pool) {
            let request = PendingRequest::new(request, request.host, now);
            return pool.request(request, &mut context);
        }
        self.note(
            Level::Info,
            invalid_request::log_line(request.pool, request.host, InvalidRequest::UnknownPool),
        );
        self.output(Output::Answer(
            request.ticket,
            Answer::Invalid(InvalidRequest::UnknownPool),
        ));
    }

    fn report_requested(&mut self, ticket: Ticket, now: Moment) {
        if let Some(why) = self.failure() {
            return self.output(Output::Answer(ticket, Answer::Unavailable(why)));
        }
        self.pools.iter_mut().for_each(SharedPool::read_for_report);
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
        let mut stale = self.pools.iter().filter(|pool| !pool.is_fresh(since));
        let why = stale.find_map(SharedPool::failure);
        let why = why.map_or_else(
            || outage(&self.session, self.refusal, now),
            ToOwned::to_owned,
        );
        Some(Output::Answer(ticket, Answer::Unavailable(why)))
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

    fn on_transport(&mut self, event: transport::Event, now: Moment) {
        match event {
            transport::Event::Connected => self.session.connected(now),
            transport::Event::Disconnected(why) => self.session.disconnected(why, now),
            transport::Event::Received(bytes) => self.session.received(bytes, now),
        }
        self.take_events(now);
    }

    fn take_events(&mut self, now: Moment) {
        while let Some(event) = self.session.next_event() {
            match event {
                SessionEvent::Up { .. } if self.is_closing => {
                    self.session.ask(request::Request::Close, now);
                }
                // Nothing is sent behind the close of the session.
                SessionEvent::Reply { .. } if self.is_closing => {}
                SessionEvent::Expired | SessionEvent::Replaced { .. } if self.is_closing => {
                    self.session.forget(now);
                }
                SessionEvent::Up { resumed } => {
                    self.first_session = self.first_session.or(self.session.id());
                    self.up(resumed);
                }
                SessionEvent::Reply { request, result } => {
                    self.answered(now);
                    self.reply(&request, result, now);
                }
                SessionEvent::Watch { change, path } => self.watch_fired(change, &path),
                SessionEvent::Down(_) => self.down(now),
                SessionEvent::Expired | SessionEvent::Replaced { .. } => self.session_ended(now),
                SessionEvent::Refused(code) => self.refused(code, now),
                // The next server may be behind the last one.
                SessionEvent::Disowned { .. } => {
                    self.pools.iter_mut().for_each(SharedPool::read_anew);
                }
                SessionEvent::ClosedSilently => {}
            }
        }
    }

    fn up(&mut self, resumed: bool) {
        if !resumed {
            self.pools.iter_mut().for_each(SharedPool::session_ended);
        }
    }

    /// The outage is over: a server that rejects the credentials accepts the session, and answers no
    /// request.
    fn answered(&mut self, now: Moment) {
        self.refusal = None;
        if let Some(since) = self.down_since.take()
            && std::mem::take(&mut self.is_outage_logged)
        {
            let note = format!(
                "ZooKeeper at {} answers again, after {:.1} s",
                self.session.server(),
                now.since(since).as_secs_f64()
            );
            self.note(Level::Warning, note);
        }
    }

    fn down(&mut self, now: Moment) {
        self.down_since.get_or_insert(now);
        let (pools, mut context) = self.with_context(now);
        pools
            .iter_mut()
            .for_each(|pool| pool.disconnected(&mut context));
    }

    fn session_ended(&mut self, now: Moment) {
        self.down(now);
        self.pools.iter_mut().for_each(SharedPool::session_ended);
        let note = "the session with ZooKeeper has ended: clients that wait join the queues again, at the end";
        self.note(Level::Warning, note.to_owned());
    }

    fn refused(&mut self, code: Code, now: Moment) {
        if self.refusal.replace(code) != Some(code) {
            let why = outage(&self.session, self.refusal, now);
            self.note(
                Level::Error,
                format!("{why}; requests fail until it accepts them, and waiters keep waiting"),
            );
            self.is_outage_logged = true;
        }
        self.down_since.get_or_insert(now);
    }

    fn reply(
        &mut self,
        request: &request::Request,
        result: Result<request::Answer, Code>,
        now: Moment,
    ) {
        let Some(path) = addressee(request) else {
            return;
        };
        let Some((name, entry)) = self.pool_at(path) else {
            return self.node_above_answered(request, path, &result);
        };
        let (pools, mut context) = self.with_context(now);
        if let Some(pool) = pools.get_mut(&name) {
            deliver(pool, entry, request, result, &mut context);
        }
    }

    /// A request about a node above those of the pools was answered.
    fn node_above_answered(
        &mut self,
        request: &request::Request,
        path: &str,
        result: &Result<request::Answer, Code>,
    ) {
        if let (request::Request::Create { .. }, Err(code)) = (request, result) {
            let pools = self.pools.iter_mut();
            pools.for_each(|pool| pool.not_created(path, *code));
        }
    }

    /// The pool whose node this is, or to whose queue this entry belongs, and the name of the entry.
    /// `None`: a node above those of the pools.
    fn pool_at<'a>(&self, path: &'a str) -> Option<(Rc<str>, Option<&'a str>)> {
        if let Some(name) = self.by_path.get(path) {
            return Some((name.clone(), None));
        }
        let (parent, entry) = path.rsplit_once('/')?;
        Some((self.by_path.get(parent)?.clone(), Some(entry)))
    }

    fn watch_fired(&mut self, change: Change, path: &str) {
        let Some((name, entry)) = self.pool_at(path) else {
            return;
        };
        let Some(pool) = self.pools.get_mut(&name) else {
            return;
        };
        match entry {
            None => pool.changed(),
            Some(entry) if change == Change::Deleted => pool.entry_ended(entry),
            Some(_) => {}
        }
    }

    fn tick(&mut self, now: Moment) {
        self.session.tick(now);
        self.take_events(now);
        if self.session.wake() <= now {
            self.session.tick(now); // it has given a silent server up, and tries the next one
        }
        if self.outage_due() <= now {
            self.is_outage_logged = true;
            let why = outage(&self.session, self.refusal, now);
            let note = format!("{why}; requests fail until it answers, and waiters keep waiting");
            self.note(Level::Error, note);
        }
        let (pools, mut context) = self.with_context(now);
        pools
            .iter_mut()
            .for_each(|pool| pool.expire_requests(&mut context));
        pools.forget_obsolete(now);
    }

    fn begin_cycles(&mut self, now: Moment) {
        if self.session.is_up() && !self.is_closing {
            let (pools, mut context) = self.with_context(now);
            pools.iter_mut().for_each(|pool| pool.begin(&mut context));
        }
    }

    fn wake(&self) -> Moment {
        let is_up = self.session.is_up() && !self.is_closing;
        let report = self
            .reports
            .front()
            .map_or(Moment::NEVER, |(_, since)| *since + REQUEST_TIMEOUT);
        let pools = self.pools.earliest(|pool| pool.wake(is_up));
        let next = pools.min(self.session.wake()).min(report);
        next.min(self.outage_due())
    }

    /// When the outage is to be logged. Not while a server accepts the session: its first answer may
    /// come with a heartbeat.
    fn outage_due(&self) -> Moment {
        self.down_since
            .filter(|_| !self.is_outage_logged && !self.session.is_up())
            .map_or(Moment::NEVER, |since| since + LOGGED_OUTAGE)
    }
}

/// The path of the node of a pool. The name is percent-encoded, so that any name of a pool is the
/// name of a node.
fn node_path(above: &str, pool: &str) -> String {
    let dots = pool.bytes().all(|byte| byte == b'.');
    let encoded = pool.bytes().map(|byte| {
        let is_plain = byte.is_ascii_alphanumeric() || b"-_~".contains(&byte);
        if is_plain || byte == b'.' && !dots {
            char::from(byte).to_string()
        } else {
            format!("%{byte:02X}")
        }
    });
    format!("{above}/{}", encoded.collect::<String>())
}

impl Backend for ZooKeeper {
    fn handle(&mut self, input: Input, now: Moment) {
        match input {
            Input::Request(request) => self.request(&request, now),
            Input::ReportRequested(ticket) => self.report_requested(ticket, now),
            Input::Cancelled(ticket) => self.cancelled(ticket),
            Input::Undelivered { pool, host, token } => {
                if let Some(pool) = self.pools.get_mut(pool) {
                    pool.undelivered(host, token);
                }
            }
            Input::Transport(event) => self.on_transport(event, now),
            Input::Tick => self.tick(now),
            // This backend saves no state.
            Input::Saved | Input::NotSaved(_) => {}
        }
    }

    fn poll(&mut self, now: Moment) -> Output {
        loop {
            let decided = self.effects.next();
            if let Some(output) = decided.or_else(|| self.next_report(now)) {
                return output;
            }
            self.begin_cycles(now);
            if !self.effects.is_empty() {
                continue;
            }
            return match self.session.step() {
                Some(output) => Output::Transport(addressed(output)),
                None => Output::Wait(self.wake()),
            };
        }
    }

    fn reconfigure(&mut self, plans: Vec<plan::Pool>, now: Moment) {
        let (pools, mut context) = self.with_context(now);
        pools.reconfigure(plans, &mut context, now);
        self.locate_pools();
    }

    fn relist(&mut self, servers: Vec<Endpoint>, now: Moment) {
        self.session.relist(servers, now);
    }

    fn is_settled(&self) -> bool {
        let is_up = self.session.is_up();
        if self.is_closing {
            self.session.is_closed()
        } else {
            self.pools.iter().all(|pool| pool.is_settled(is_up))
        }
    }

    /// With the session end all entries of this server, also those that are being created: others do
    /// not wait for its timeout.
    fn close(&mut self, now: Moment) {
        if std::mem::replace(&mut self.is_closing, true) {
            return;
        }
        if self.session.is_up() {
            self.session.ask(request::Request::Close, now);
        } else {
            self.session.forget(now);
        }
    }

    fn failure(&self) -> Option<String> {
        let is_down = self.is_outage_logged && !self.session.is_up();
        is_down.then(|| {
            // As of the moment at which it was logged.
            let now = self.down_since.unwrap_or_default() + LOGGED_OUTAGE;
            outage(&self.session, self.refusal, now)
        })
    }

    fn report(&self, now: Moment) -> Vec<Report<'_>> {
        self.pools
            .report(|pool| pool.report(self.boot.date_of(now), now))
    }
}

fn addressed(output: transport::Output) -> transport::Output<super::Target> {
    match output {
        transport::Output::Connect(address) => transport::Output::Connect(Some(address)),
        transport::Output::Send(bytes) => transport::Output::Send(bytes),
        transport::Output::ShutdownWrite => transport::Output::ShutdownWrite,
        transport::Output::Close => transport::Output::Close,
        transport::Output::Reset => transport::Output::Reset,
    }
}

#[cfg(test)]
mod tests;
