//! Between connections and pools: requests go in, answers go back to whoever has asked, and who
//! hangs up is seen off. It decides nothing about locks.

use super::api::{self, Asked, Page, Wish};
use super::connection::{Awaited, Connection, Told};
use super::connection_table::Crowd;
use super::http_session::{REQUEST, Stage};
use super::server_log::Story;
use super::server_metrics::Counts;
use crate::http::{Reply, Request};
use crate::plan::Level;
use crate::pool::{self, Answer, Backend, Input, Report, Ticket, metrics, status};
use crate::sys::clock::now;
use crate::sys::epoll::{Epoll, Interest};
use std::net::TcpStream;

/// The most bytes of replies that nobody has taken yet beyond which nobody is told of all pools:
/// with thousands of hosts that takes a megabyte each time.
const MOST_UNSENT: usize = 16 << 20;

/// The most bytes that are held of requests, of all connections together: thousands of long heads.
/// Who sends more of one is sent away.
const MOST_HELD: usize = 64 << 20;

/// What one read takes at most: a request.
const READ: usize = crate::http::LONGEST_REQUEST;

/// What the epoll calls the first connection. Each number is given once.
pub(super) const FIRST: u64 = 16;

/// See above.
pub(super) struct Service<'a> {
    story: Story<'a>,
    pub(super) epoll: Epoll,
    pub(super) backend: Box<dyn Backend>,
    pub(super) counts: Counts,
    crowd: Crowd,
    /// Who has hung up while waiting, unless the answer came with that.
    leaving: Vec<u64>,
    /// With whom something was done since the epoll was last told what to wake up for.
    touched: Vec<u64>,
    next_key: u64,
    next_ticket: u64,
    scratch: Vec<u8>,
}

impl<'a> Service<'a> {
    pub(super) fn new(story: Story<'a>, epoll: Epoll, backend: Box<dyn Backend>) -> Service<'a> {
        Service {
            story,
            epoll,
            backend,
            counts: Counts::new(now()),
            crowd: Crowd::default(),
            leaving: Vec::new(),
            touched: Vec::new(),
            next_key: FIRST,
            next_ticket: 0,
            scratch: vec![0; READ],
        }
    }

    pub(super) fn crowd(&self) -> &Crowd {
        &self.crowd
    }

    /// Somebody comes in.
    pub(super) fn welcome(&mut self, stream: TcpStream) {
        self.admit(Connection::new(stream, now()));
    }

    /// Somebody comes in for whom there is no room, and is told so.
    pub(super) fn turn_away(&mut self, stream: TcpStream) {
        self.counts.turned_away += 1;
        let mut connection = Connection::new(stream, now());
        connection.part(&api::unavailable("too many connections are open"));
        self.admit(connection);
    }

    fn admit(&mut self, connection: Connection) {
        let key = self.next_key;
        self.next_key += 1;
        self.counts.connections += 1;
        if self
            .epoll
            .add(&connection.stream, key, Interest::Read)
            .is_ok()
        {
            self.go_on(key, connection);
        }
    }

    /// A connection has news.
    pub(super) fn attend(&mut self, key: u64, over: bool) {
        // It may have been closed by what came before.
        let Some(mut connection) = self.crowd.take(key) else {
            return;
        };
        match connection.ready(over, &mut self.scratch) {
            Ok(()) => self.go_on(key, connection),
            Err(_) => self.close(connection),
        }
    }

    /// Ends with those who have waited for too long for what they wait for.
    pub(super) fn call_time(&mut self) {
        while let Some(key) = self.crowd.late(now()) {
            let Some(mut connection) = self.crowd.take(key) else {
                return;
            };
            match connection.stage() {
                Stage::Request(_) => {
                    connection.part(&Reply::new(
                        408,
                        "text/plain",
                        format!("expected a request within {} s", REQUEST.as_secs()),
                    ));
                    self.go_on(key, connection);
                }
                _ => self.close(connection),
            }
        }
    }

    /// Passes an answer on to the client that has asked, if it is still there.
    pub(super) fn deliver(&mut self, ticket: Ticket, answer: &Answer) {
        let Some((key, mut connection)) = self.take_asker(ticket) else {
            return;
        };
        match connection.take_awaited() {
            Some(Awaited::Pool(asked)) => {
                connection.answer(&asked, answer);
                if self.story.verbose {
                    let words = api::told(&asked, answer);
                    self.story.tell(
                        Level::Debug,
                        &format_args!("{}: {words}", connection.peer()),
                    );
                }
            }
            Some(Awaited::Page(page)) => {
                let why = if let Answer::Unavailable(why) = answer {
                    why
                } else {
                    "the pools cannot be shown"
                };
                let reply = self.page(page, Err(why));
                connection.reply(&reply);
            }
            None => {}
        }
        self.go_on(key, connection);
    }

    /// Shows the pools, which are known now, to the client that has asked.
    pub(super) fn show(&mut self, ticket: Ticket) {
        let Some((key, mut connection)) = self.take_asker(ticket) else {
            return;
        };
        if let Some(Awaited::Page(page)) = connection.take_awaited() {
            let reply = self.page(page, Ok(&self.backend.report(now())));
            connection.reply(&reply);
        }
        self.go_on(key, connection);
    }

    fn take_asker(&mut self, ticket: Ticket) -> Option<(u64, Connection)> {
        let key = self.crowd.asker(ticket)?;
        Some((key, self.crowd.take(key)?))
    }

    /// A page, or why the pools are not known. What the server knows of itself is shown all the
    /// same.
    fn page(&self, page: Page, pools: Result<&[Report], &str>) -> Reply {
        match (page, pools) {
            (Page::Status, Ok(pools)) => Reply::new(200, "application/json", status::text(pools)),
            (Page::Status, Err(why)) => api::unavailable(why),
            (Page::Metrics, pools) => {
                let open = self.crowd.len() + 1; // with this one
                let server = self.counts.metrics(open, pools.is_ok(), now());
                Reply::new(
                    200,
                    metrics::CONTENT_TYPE,
                    metrics::text(&server, pools.ok()),
                )
            }
        }
    }

    /// Takes in the requests of a connection that can be taken in, and puts it back among the
    /// others, unless it is done.
    fn go_on(&mut self, key: u64, mut connection: Connection) {
        loop {
            match connection.next() {
                Ok(Some(request)) => self.take_in(&mut connection, &request),
                Ok(None) if connection.is_asking() && self.crowd.held() > MOST_HELD => {
                    connection.part(&api::unavailable("too many requests are not whole yet"));
                }
                Ok(None) => break,
                Err(_) => return self.close(connection),
            }
        }
        connection.restage(now());
        if connection.is_done() {
            return self.close(connection);
        }
        if connection.has_hung_up() {
            self.leaving.push(key);
        }
        self.touched.push(key);
        self.crowd.insert(key, connection);
    }

    /// Tells the epoll what to wake up for. Only when all is done that can be done now: most
    /// requests have been answered by then, and nothing has changed. Whether somebody had to go
    /// for it.
    pub(super) fn settle(&mut self) -> bool {
        let mut lost = Vec::new();
        for key in self.touched.drain(..) {
            if let Some(connection) = self.crowd.find(key)
                && let Some(interest) = connection.new_interest()
                && self
                    .epoll
                    .change(&connection.stream, key, interest)
                    .is_err()
            {
                lost.push(key);
            }
        }
        for key in &lost {
            self.crowd
                .take(*key)
                .into_iter()
                .for_each(|connection| self.close(connection));
        }
        !lost.is_empty()
    }

    fn take_in(&mut self, connection: &mut Connection, request: &Request) {
        self.counts.requests += 1;
        match api::wish(request) {
            Wish::Ask(asked) => {
                let ticket = self.new_ticket();
                let Asked {
                    call,
                    pool,
                    host,
                    run,
                } = &asked;
                let input = Input::Request(pool::Request {
                    ticket,
                    call: *call,
                    pool,
                    host,
                    run: run.as_deref(),
                });
                self.backend.handle(input, now());
                connection.await_answer(ticket, Awaited::Pool(asked));
            }
            Wish::Show(_) if self.crowd.unsent() > MOST_UNSENT => {
                connection.reply(&api::unavailable("too many replies are not read"));
            }
            Wish::Show(page) => {
                let ticket = self.new_ticket();
                self.backend.handle(Input::ReportRequested(ticket), now());
                connection.await_answer(ticket, Awaited::Page(page));
            }
            Wish::Invalid(why, note) => {
                self.story.tell(Level::Info, &note);
                connection.reply(&api::invalid(why));
            }
            Wish::Reply(reply) => connection.reply(&reply),
        }
    }

    fn new_ticket(&mut self) -> Ticket {
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        ticket
    }

    /// Ends with those who have hung up while they wait, and were not answered with that; whether
    /// there were any.
    pub(super) fn see_off(&mut self) -> bool {
        let leaving = std::mem::take(&mut self.leaving);
        for key in &leaving {
            match self.crowd.take(*key) {
                Some(connection) if connection.has_hung_up() => self.close(connection),
                Some(connection) => self.crowd.insert(*key, connection),
                None => {}
            }
        }
        !leaving.is_empty()
    }

    /// Answers all that is asked and not more; who waits is told that it is in vain.
    pub(super) fn wind_up(&mut self, why: &str) {
        for key in self.crowd.keys() {
            let Some(mut connection) = self.crowd.take(key) else {
                continue;
            };
            if connection.is_at_rest() {
                self.close(connection);
                continue;
            }
            connection.wind_up();
            if let Some(ticket) = connection.ticket().filter(|_| connection.is_waiting()) {
                self.backend.handle(Input::Cancelled(ticket), now());
                connection.dismiss(&api::unavailable(why));
            }
            self.go_on(key, connection);
        }
    }

    /// Ends with all.
    pub(super) fn close_all(&mut self) {
        for key in self.crowd.keys() {
            if let Some(connection) = self.crowd.take(key) {
                self.close(connection);
            }
        }
    }

    /// That was it for a connection: what it has asked is not wanted any more, and what it has not
    /// heard was not said.
    fn close(&mut self, connection: Connection) {
        if let Some(ticket) = connection.ticket() {
            self.backend.handle(Input::Cancelled(ticket), now());
        }
        for Told { asked, token, .. } in connection.unheard() {
            self.backend.handle(
                Input::Undelivered {
                    pool: &asked.pool,
                    host: &asked.host,
                    token,
                },
                now(),
            );
        }
    }
}
