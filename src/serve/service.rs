//! Connects clients to pools: requests go from connections to the backend, answers go back to the
//! connection that waits for them, and clients that disconnect are removed. It makes no decision
//! about locks.

use super::access_log::AccessRecord;
use super::api::{self, ApiCall, Page, PoolRequest};
use super::connection::{Connection, PendingCall, UnackedGrant};
use super::connection_table::ConnectionTable;
use super::denials::Denials;
use super::http_session::{REQUEST_TIMEOUT, WaitingFor};
use super::page_cache::PageCache;
use super::server_log::ServerLog;
use super::server_metrics::ServerMetrics;
use super::system::System;
use crate::http::{LONGEST_REQUEST, Reply, Request};
use crate::moment::Moment;
use crate::plan::access::{Access, Credentials};
use crate::plan::{self, Level};
use crate::pool::access::{self, Denial, Scope, Want};
use crate::pool::metrics::{Metric, WallClock};
use crate::pool::{self, Answer, Backend, Input, Report, Ticket, metrics, page, status};
use crate::sys::clock;
use crate::sys::epoll::Interest;

/// While more bytes of replies than this are unsent, pages are refused: with thousands of hosts
/// each page is a megabyte.
const MAX_UNSENT: usize = 16 << 20;

/// The most bytes of incomplete requests in memory, of all connections together: thousands of long
/// heads. A connection that would add to more is refused.
const MAX_BUFFERED: usize = 64 << 20;

/// The epoll key of the first connection. Each key is used once.
pub(super) const FIRST_KEY: u64 = 16;

/// The connections and the backend.
pub(super) struct Service<'a, S: System> {
    log: ServerLog<'a>,
    pub(super) epoll: S::Epoll,
    pub(super) backend: Box<dyn Backend>,
    pub(super) metrics: ServerMetrics,
    wall_clock: WallClock,
    access: Access,
    denials: Denials,
    connections: ConnectionTable<S::Stream>,
    /// Waiters that have disconnected. They are removed unless their answer comes in the same turn.
    disconnected: Vec<u64>,
    /// Connections that were processed since the epoll was last given their interests.
    processed: Vec<u64>,
    next_key: u64,
    next_ticket: u64,
    /// The buffer of each read: one request.
    scratch: Vec<u8>,
    pages: PageCache,
    /// Set during the shutdown: what clients are told.
    shutting_down: Option<String>,
}

impl<'a, S: System> Service<'a, S> {
    pub(super) fn new(
        log: ServerLog<'a>,
        epoll: S::Epoll,
        backend: Box<dyn Backend>,
        access: Access,
    ) -> Service<'a, S> {
        Service {
            log,
            epoll,
            backend,
            metrics: ServerMetrics::new(S::now()),
            wall_clock: WallClock::default(),
            access,
            denials: Denials::new(S::now()),
            connections: ConnectionTable::new(),
            disconnected: Vec::new(),
            processed: Vec::new(),
            next_key: FIRST_KEY,
            next_ticket: 0,
            scratch: vec![0; LONGEST_REQUEST],
            pages: PageCache::default(),
            shutting_down: None,
        }
    }

    pub(super) fn connections(&self) -> &ConnectionTable<S::Stream> {
        &self.connections
    }

    /// Applies a new config, also to clients that wait already. The rules of a pool that is not in
    /// it any more stay, so that its holders can renew and release their locks.
    pub(super) fn change_access(&mut self, access: Access, pools: &[plan::Pool]) {
        let before = std::mem::replace(&mut self.access, access);
        self.access
            .keep(before, |name| pools.iter().any(|pool| pool.name == name));
        for key in self.connections.keys() {
            if let Some(denial) = self.denied_waiter(key)
                && let Some(mut connection) = self.connections.remove(key)
            {
                let request = self.withdraw(&mut connection);
                let reply = api::denial_reply(denial, false);
                self.deny(&mut connection, request.as_ref(), denial, &reply);
                self.process(key, connection);
            }
        }
    }

    /// Why the client of this connection may not wait any more for what it waits for.
    fn denied_waiter(&self, key: u64) -> Option<Denial> {
        let connection = self.connections.get(key)?;
        let (request, credentials) = connection.waiter()?;
        let want = Want::Pool(request.call, &request.pool);
        self.check_access(connection, want, credentials).err()
    }

    /// Ends the wait of this connection's client, which then gets another reply than the backend's.
    fn withdraw(&mut self, connection: &mut Connection<S::Stream>) -> Option<PoolRequest> {
        let ticket = connection.ticket()?;
        self.backend.handle(Input::Cancelled(ticket), S::now());
        connection.take_request()
    }

    /// Serves a new connection.
    pub(super) fn accept(&mut self, stream: S::Stream) {
        self.register(Connection::new(stream, S::now()));
    }

    /// A new connection above the limit: takes the room of one whose client has shown no right to
    /// use the server, or refuses the new one with a reply.
    pub(super) fn accept_over_limit(&mut self, stream: S::Stream) {
        match self.connections.oldest_expendable() {
            Some(key) => {
                self.metrics.rejected += 1;
                if let Some(connection) = self.connections.remove(key) {
                    self.close(connection);
                }
                self.accept(stream);
            }
            None => self.reject_over_limit(stream),
        }
    }

    fn reject_over_limit(&mut self, stream: S::Stream) {
        self.metrics.rejected += 1;
        let mut connection = Connection::new(stream, S::now());
        connection.reply_and_close(&api::unavailable_reply("too many connections are open"));
        connection.keep(); // it is above the limit, and its client gets this reply
        self.register(connection);
    }

    fn register(&mut self, connection: Connection<S::Stream>) {
        let key = self.next_key;
        self.next_key += 1;
        self.metrics.connections += 1;
        let added = S::watch(&self.epoll, &connection.stream, key, Interest::Read);
        if added.is_ok() {
            self.process(key, connection);
        }
    }

    /// The epoll has reported a connection. `hang_up`: both its directions are closed.
    pub(super) fn on_ready(&mut self, key: u64, hang_up: bool) {
        // An earlier event of the same turn may have closed it.
        let Some(mut connection) = self.connections.remove(key) else {
            return;
        };
        match connection.on_ready(hang_up, &mut self.scratch) {
            Ok(()) => self.process(key, connection),
            Err(_) => self.close(connection),
        }
    }

    /// Closes the connections whose deadline has passed. An incomplete request gets a reply first.
    pub(super) fn expire_deadlines(&mut self) {
        while let Some(key) = self.connections.next_expired(S::now()) {
            let Some(mut connection) = self.connections.remove(key) else {
                return;
            };
            match connection.waiting_for() {
                WaitingFor::RestOfRequest(_) => {
                    connection.reply_and_close(&Reply::new(
                        408,
                        "text/plain",
                        format!("expected a request within {} s", REQUEST_TIMEOUT.as_secs()),
                    ));
                    self.process(key, connection);
                }
                _ => self.close(connection),
            }
        }
    }

    /// Sends the backend's answer to the client that waits for it, if it is still connected.
    pub(super) fn deliver(&mut self, ticket: Ticket, answer: &Answer) {
        let Some((key, mut connection)) = self.remove_connection_of(ticket) else {
            return;
        };
        match connection.take_pending() {
            Some(PendingCall::Pool(request, _)) => {
                let reply = connection.answer(&request, answer);
                self.log_request(&mut connection, Some(&request), &reply);
            }
            Some(PendingCall::Form(request)) => {
                let reply = api::answer_reply(&request, answer);
                connection.reply(&api::revocation_page(&request, answer, reply.clone()));
                self.log_request(&mut connection, Some(&request), &reply);
            }
            Some(PendingCall::Page(page, scope)) => {
                let failure = self.failure();
                let why = api::why_unknown(answer, &scope, failure.as_deref());
                let reply = self.render(&page, Err(why));
                self.reply(&mut connection, &reply);
            }
            None => {}
        }
        self.process(key, connection);
    }

    /// Sends a page to the client that waits for it: the backend now knows the holders.
    pub(super) fn deliver_page(&mut self, ticket: Ticket) {
        let Some((key, mut connection)) = self.remove_connection_of(ticket) else {
            return;
        };
        if let Some(PendingCall::Page(page, scope)) = connection.take_pending() {
            // All pages that were requested in this turn are delivered after it.
            let reply = self
                .unread_reply()
                .unwrap_or_else(|| self.page(&page, &scope));
            self.reply(&mut connection, &reply);
        }
        self.process(key, connection);
    }

    fn request_page(&mut self, connection: &mut Connection<S::Stream>, page: Page, scope: Scope) {
        if let Some(reply) = self.unread_reply() {
            return self.reply(connection, &reply);
        }
        let ticket = self.new_ticket();
        self.backend
            .handle(Input::ReportRequested(ticket), S::now());
        connection.await_answer(ticket, PendingCall::Page(page, scope));
    }

    /// 503 to the reader of a page while too many replies are unsent.
    fn unread_reply(&self) -> Option<Reply> {
        (self.connections.unsent() > MAX_UNSENT)
            .then(|| api::unavailable_reply("too many replies are unread"))
    }

    fn remove_connection_of(&mut self, ticket: Ticket) -> Option<(u64, Connection<S::Stream>)> {
        let key = self.connections.connection_of(ticket)?;
        Some((key, self.connections.remove(key)?))
    }

    /// A page about these pools, which may be that of a moment ago.
    fn page(&mut self, page: &Page, scope: &Scope) -> Reply {
        let began = S::now();
        if let Some(reply) = self.pages.get(page, scope, began) {
            return reply.clone();
        }
        if self.pages.is_exhausted(page, scope, began) {
            return api::busy_reply();
        }
        self.wall_clock.compare(began, clock::unix_time());
        let mut pools = self.backend.report(began);
        pools.retain(|report| scope.contains(report.pool));
        let reply = self.render(page, Ok(&pools));
        self.pages.keep(page, scope, &reply, began, S::now());
        reply
    }

    /// A page, or the reason why the holders are unknown. The server's own metrics are shown in
    /// both cases.
    fn render(&self, page: &Page, pools: Result<&[Report], &str>) -> Reply {
        match (page, pools) {
            (Page::Status, Ok(pools)) => Reply::new(200, "application/json", status::text(pools)),
            (Page::Status, Err(why)) => api::unavailable_reply(why),
            (Page::Html(view), pools) => {
                let failure = self.failure();
                let server = page::Server {
                    failure: failure.as_deref(),
                    metrics: &self.server_metrics(pools.is_ok()),
                    now: clock::unix_time(),
                    has_administrators: self.access.has_administrators(),
                };
                let status = if pools.is_ok() { 200 } else { 503 };
                api::html_reply(status, page::text(view, &server, pools))
            }
            (Page::Metrics, pools) => {
                let server = self.server_metrics(pools.is_ok());
                let text = metrics::text(&server, pools.ok(), self.wall_clock);
                Reply::new(200, metrics::CONTENT_TYPE, text)
            }
        }
    }

    fn server_metrics(&self, backend_is_up: bool) -> Vec<Metric> {
        // The connection that asks is not in the table now.
        let open = self.connections.len() + 1;
        self.metrics.metrics(open, backend_is_up, S::now())
    }

    /// Why the server grants no locks.
    fn failure(&self) -> Option<String> {
        self.shutting_down.clone().or(self.backend.failure())
    }

    /// Processes the complete requests of a connection, and puts it back into the table or closes
    /// it.
    fn process(&mut self, key: u64, mut connection: Connection<S::Stream>) {
        loop {
            match connection.next_request() {
                Ok(Some(request)) => self.dispatch(&mut connection, &request),
                Ok(None)
                    if connection.has_partial_request()
                        && self.connections.buffered() > MAX_BUFFERED =>
                {
                    let why = "too many requests are incomplete";
                    connection.reply_and_close(&api::unavailable_reply(why));
                }
                Ok(None) => break,
                Err(_) => return self.close(connection),
            }
        }
        connection.refresh_deadline(S::now());
        if connection.is_done() {
            return self.close(connection);
        }
        if connection.is_disconnected_waiter() {
            self.disconnected.push(key);
        }
        self.processed.push(key);
        self.connections.insert(key, connection);
    }

    /// Replies to a request that is no call to a pool, and logs it.
    fn reply(&self, connection: &mut Connection<S::Stream>, reply: &Reply) {
        connection.reply(reply);
        self.log_request(connection, None, reply);
    }

    fn log_request(
        &self,
        connection: &mut Connection<S::Stream>,
        request: Option<&PoolRequest>,
        reply: &Reply,
    ) {
        if let Some(record) = connection.take_record() {
            let line = record.line(&connection.peer(), request, reply, S::now());
            self.log.log(Level::Debug, &line);
        }
    }

    fn dispatch(&mut self, connection: &mut Connection<S::Stream>, request: &Request) {
        self.metrics.requests += 1;
        if self.log.verbose {
            connection.set_record(AccessRecord::new(request, S::now()));
        }
        let mut call = api::route(request);
        // The rules of a pool are found by its name in the config, so that comes first.
        if let ApiCall::Pool(request) = &mut call
            && let Some(name) = self.backend.config_name(&request.pool)
        {
            request.pool = name;
        }
        let is_form = api::is_form(&call, request);
        let decided = api::want(&call).map_or(Ok(Scope::All), |want| {
            access::check_site(want, request.is_cross_site)?;
            self.check_access(connection, want, &request.credentials)
        });
        let scope = match decided {
            Ok(scope) => scope,
            Err(denial) => {
                let request = match &call {
                    ApiCall::Pool(request) => Some(request),
                    _ => None,
                };
                let reply = api::denial(&call, is_form, denial);
                return self.deny(connection, request, denial, &reply);
            }
        };
        let is_public = |want| self.access.is_public(want == Want::Read);
        if api::want(&call).is_some_and(|want| !is_public(want)) {
            connection.keep(); // its client may use the server
        }
        match call {
            ApiCall::Pool(call) => {
                let ticket = self.ask_pool(&call);
                let call = if is_form {
                    PendingCall::Form(call)
                } else {
                    PendingCall::Pool(call, request.credentials.clone())
                };
                connection.await_answer(ticket, call);
            }
            ApiCall::Page(page) => self.request_page(connection, page, scope),
            ApiCall::Health => {
                let failure = self.failure();
                self.reply(connection, &api::health_reply(failure.as_deref()));
            }
            ApiCall::Invalid(why, note) => {
                self.log.log(Level::Info, &note);
                self.reply(connection, &api::invalid_reply(why));
            }
            ApiCall::Reply(reply) => self.reply(connection, &reply),
        }
    }

    fn check_access(
        &self,
        connection: &Connection<S::Stream>,
        want: Want,
        credentials: &Credentials,
    ) -> Result<Scope, Denial> {
        access::decide(&self.access, want, credentials, || connection.peer_ip())
    }

    fn deny(
        &mut self,
        connection: &mut Connection<S::Stream>,
        request: Option<&PoolRequest>,
        denial: Denial,
        reply: &Reply,
    ) {
        self.metrics.denied += 1;
        self.denials.add(connection.peer_ip(), denial.short());
        self.log_denials();
        connection.reply(reply);
        self.log_request(connection, request, reply);
    }

    /// When a line about denied requests is due.
    pub(super) fn denials_due(&self) -> Moment {
        self.denials.wake()
    }

    pub(super) fn log_denials(&mut self) {
        if let Some(line) = self.denials.take_line(S::now()) {
            self.log.log(Level::Warning, &line);
        }
    }

    fn ask_pool(&mut self, request: &PoolRequest) -> Ticket {
        let ticket = self.new_ticket();
        let input = Input::Request(pool::Request {
            ticket,
            call: request.call,
            pool: &request.pool,
            host: &request.host,
            run: request.run.as_deref(),
            outer: &request.outer,
        });
        self.backend.handle(input, S::now());
        ticket
    }

    fn new_ticket(&mut self) -> Ticket {
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        ticket
    }

    /// Gives the epoll the new interests of processed connections, and closes the connections for
    /// which that fails. Returns whether there were any. It is called last in a turn: most requests
    /// are answered by then and their interest is the same as before, which saves the system calls.
    pub(super) fn update_interests(&mut self) -> bool {
        let mut failed = Vec::new();
        for key in self.processed.drain(..) {
            if let Some(connection) = self.connections.get_mut(key)
                && let Some(interest) = connection.interest_change()
                && S::watch_for(&self.epoll, &connection.stream, key, interest).is_err()
            {
                failed.push(key);
            }
        }
        for key in &failed {
            if let Some(connection) = self.connections.remove(*key) {
                self.close(connection);
            }
        }
        !failed.is_empty()
    }

    /// Closes the connections of waiters that have disconnected and got no answer in this turn.
    /// Returns whether there were any waiters to look at.
    pub(super) fn reap_disconnected(&mut self) -> bool {
        let disconnected = std::mem::take(&mut self.disconnected);
        for key in &disconnected {
            match self.connections.remove(*key) {
                Some(connection) if connection.is_disconnected_waiter() => self.close(connection),
                Some(connection) => self.connections.insert(*key, connection),
                None => {}
            }
        }
        !disconnected.is_empty()
    }

    /// Closes idle connections, fails waiters with a 503 that says `why`, and makes the next reply
    /// of each other connection its last.
    pub(super) fn begin_shutdown(&mut self, why: &str) {
        self.shutting_down = Some(why.to_owned());
        for key in self.connections.keys() {
            let Some(mut connection) = self.connections.remove(key) else {
                continue;
            };
            if connection.is_idle() {
                self.close(connection);
                continue;
            }
            connection.begin_shutdown();
            if connection.is_waiter() {
                let request = self.withdraw(&mut connection);
                let reply = api::unavailable_reply(why);
                connection.reply(&reply);
                self.log_request(&mut connection, request.as_ref(), &reply);
            }
            self.process(key, connection);
        }
    }

    pub(super) fn close_all(&mut self) {
        for key in self.connections.keys() {
            if let Some(connection) = self.connections.remove(key) {
                self.close(connection);
            }
        }
    }

    /// Closes a connection: the backend drops its pending call and takes back the grants that the
    /// client has not received.
    fn close(&mut self, connection: Connection<S::Stream>) {
        if let Some(ticket) = connection.ticket() {
            self.backend.handle(Input::Cancelled(ticket), S::now());
        }
        for UnackedGrant { request, token, .. } in connection.unacked_grants() {
            self.backend.handle(
                Input::Undelivered {
                    pool: &request.pool,
                    host: &request.host,
                    token,
                },
                S::now(),
            );
        }
    }
}
