//! The loop of a lock server. It joins connections and pools: what hosts ask is told the pools, and what these say is done here. It decides
//! nothing about locks, and sleeps in one place, the wait of its epoll.

mod connection;
mod crowd;
mod dialogue;
mod door;
mod state_file;
mod wording;

use crate::http::{Reply, Request};
use crate::link::reason;
use crate::log;
use crate::moment::Moment;
use crate::plan::{self, End, Exit, Level, Server};
use crate::pool::memory::Memory;
use crate::pool::metrics::{self, Kind, Metric, Value};
use crate::pool::{self, Answer, Backend, Input, Output, Ticket, status};
use crate::signal::Signal;
use crate::sys::epoll::{Epoll, Interest, News};
use crate::sys::signals::Signals;
use crate::sys::timer::Timer;
use crate::sys::{clock, descriptors, signals};
use connection::{Connection, Told};
use crowd::Crowd;
use dialogue::Stage;
use door::{Caller, Door};
use state_file::StateFile;
use std::fmt::Display;
use std::io;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use wording::Wish;

/// How long the last answers may take to arrive when the server ends.
const ENDING: Duration = Duration::from_secs(2);

/// The most bytes of replies that nobody has taken yet beyond which nobody is told of all pools: with thousands of hosts that takes a
/// megabyte each time.
const MOST_UNSENT: usize = 16 << 20;

/// What one read takes at most: more than a request has.
const READ: usize = 16 << 10;

/// What the epoll calls its descriptors. Connections are numbered from `FIRST`, each number once.
const SIGNALS: u64 = 0;
const TIMER: u64 = 1;
const DOOR: u64 = 2;
const FIRST: u64 = 16;

/// Serves until TERM or INT; returns the exit code. `again` makes the plan again, for HUP, or says why it cannot.
pub fn serve(server: &Server, again: &mut dyn FnMut() -> Result<Server, String>) -> Exit {
    signals::survive_file_limit();
    let end = Serving::new(server).map(|serving| serving.run(again));
    let end = end.unwrap_or_else(|(end, why)| {
        log::complain(server.program, &why);
        Some(end)
    });
    end.map_or(Exit::Code(0), |end| server.exit_codes.exit(end))
}

/// How often what happened to the server, since it began.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    connections: u64,
    turned_away: u64,
    requests: u64,
    saves: u64,
    failed_saves: u64,
}

/// A server, at work.
struct Serving<'a> {
    plan: &'a Server,
    epoll: Epoll,
    signals: Signals,
    timer: Timer,
    /// `None` once nobody comes in any more.
    door: Option<Door>,
    crowd: Crowd,
    /// Who has hung up while he waits, unless the answer came with that.
    leaving: Vec<u64>,
    backend: Box<dyn Backend>,
    state_file: Option<StateFile>,
    next_key: u64,
    next_ticket: u64,
    /// Until when the last answers may arrive, once that is all there is to do.
    ending: Option<Moment>,
    began: Moment,
    counts: Counts,
    scratch: Vec<u8>,
}

impl<'a> Serving<'a> {
    fn new(plan: &'a Server) -> Result<Serving<'a>, (End, String)> {
        let system = |what: &'static str| move |error: io::Error| (End::System, format!("cannot {what}: {}", reason(&error)));
        if let plan::Backend::Memcache(_) = plan.backend {
            return Err((End::Config, format!("{}: \"backend\": memcache is not there yet, only inmemory", plan.config.display())));
        }
        let signals = Signals::hear(&[Signal::TERM, Signal::INT, Signal::HUP]).map_err(system("listen to signals"))?;
        let timer = Timer::new().map_err(system("make a timer"))?;
        let epoll = Epoll::new().map_err(system("make an epoll"))?;
        let descriptors = descriptors::raise_limit().map_err(system("find how many descriptors there may be"))?;
        let door = Door::open(plan, descriptors).map_err(|why| (End::System, why))?;
        let opened = plan.state.as_deref().map(StateFile::open).transpose();
        let (state_file, state) = opened.map_err(|error| (error.end(), error.to_string()))?.unzip();
        let watched = door.watch(&epoll, DOOR).and_then(|()| epoll.add(signals.fd(), SIGNALS, Interest::Read));
        let watched = watched.and_then(|()| timer.fd().map_or(Ok(()), |fd| epoll.add(fd, TIMER, Interest::Read)));
        watched.map_err(system("watch descriptors"))?;
        let backend = Memory::new(plan.pools.clone(), state, unix_micros(), now());
        Ok(Serving {
            plan,
            epoll,
            signals,
            timer,
            door: Some(door),
            crowd: Crowd::default(),
            leaving: Vec::new(),
            backend: Box::new(backend),
            state_file,
            next_key: FIRST,
            next_ticket: 0,
            ending: None,
            began: now(),
            counts: Counts::default(),
            scratch: vec![0; READ],
        })
    }

    fn run(mut self, again: &mut dyn FnMut() -> Result<Server, String>) -> Option<End> {
        self.tell_begin();
        loop {
            let wake = self.drain();
            if self.ending.is_some_and(|until| self.crowd.is_empty() || until <= now()) {
                return self.end();
            }
            self.sleep(wake.min(self.wake()), again);
        }
    }

    /// When something is to be done that the backend does not know of.
    fn wake(&self) -> Moment {
        let door = self.door.as_ref().map_or(Moment::NEVER, Door::wake);
        self.crowd.wake().min(door).min(self.ending.unwrap_or(Moment::NEVER))
    }

    /// Does all that the backend wants done now; returns when it wants to be asked again.
    fn drain(&mut self) -> Moment {
        loop {
            match self.backend.poll(now()) {
                Output::Answer(ticket, answer) => self.deliver(ticket, &answer),
                Output::Save(state) => {
                    let saved = self.save(&state);
                    self.backend.handle(saved.map_or_else(Input::NotSaved, |()| Input::Saved), now());
                }
                Output::Note(level, note) => self.tell(level, &note),
                Output::Wait(until) => match self.leaving.pop() {
                    Some(key) => self.see_off(key),
                    None => return until,
                },
            }
        }
    }

    fn save(&mut self, state: &pool::state::State) -> Result<(), String> {
        let saved = self.state_file.as_ref().map_or(Ok(()), |file| file.save(state));
        *(if saved.is_ok() { &mut self.counts.saves } else { &mut self.counts.failed_saves }) += 1;
        saved
    }

    /// Sleeps until `wake` or until something happens, and takes it all in.
    fn sleep(&mut self, wake: Moment, again: &mut dyn FnMut() -> Result<Server, String>) {
        self.timer.set((wake != Moment::NEVER).then_some(wake.0));
        let news = self.epoll.wait(self.timer.poll_limit(clock::since_boot())).unwrap_or_else(|error| {
            self.tell(Level::Error, &format_args!("cannot wait: {}", reason(&error)));
            Vec::new()
        });
        for News { key, over } in news {
            match key {
                SIGNALS => self.hear_signals(again),
                TIMER => self.timer.clear(),
                DOOR => self.let_in(),
                key => self.attend(key, over),
            }
        }
        while let Some(key) = self.crowd.late(now()) {
            self.call_time(key);
        }
        if let Some(Err(error)) = self.door.as_mut().map(|door| door.reopen(&self.epoll, DOOR, now())) {
            self.tell(Level::Error, &format_args!("cannot accept connections: {}", reason(&error)));
        }
        self.backend.handle(Input::Tick, now());
    }

    fn let_in(&mut self) {
        let Some(door) = &self.door else { return };
        for caller in door.callers(self.crowd.len()) {
            match caller {
                Caller::Guest(stream) => self.admit(Connection::new(stream, now())),
                Caller::Surplus(stream) => {
                    self.counts.turned_away += 1;
                    self.admit(Connection::new(stream, now()).map(|mut connection| {
                        connection.part(&wording::unavailable("too many connections are open"));
                        connection
                    }));
                }
                Caller::Shortage(why) => self.close_door(&why),
            }
        }
    }

    fn admit(&mut self, connection: io::Result<Connection>) {
        // It may have gone already.
        let Ok(connection) = connection else { return };
        let key = self.next_key;
        self.next_key += 1;
        self.counts.connections += 1;
        if self.epoll.add(&connection.stream, key, Interest::Read).is_ok() {
            self.go_on(key, connection);
        }
    }

    fn close_door(&mut self, why: &str) {
        self.tell(Level::Warning, &format_args!("no more connections for a while: {why}"));
        if let Some(door) = &mut self.door
            && let Err(error) = door.close(&self.epoll, DOOR, now())
        {
            self.tell(Level::Error, &format_args!("cannot stop accepting connections: {}", reason(&error)));
        }
    }

    /// A connection has news.
    fn attend(&mut self, key: u64, over: bool) {
        // It may have been closed by what came before.
        let Some(mut connection) = self.crowd.take(key) else { return };
        match connection.ready(over, &mut self.scratch) {
            Ok(()) => self.go_on(key, connection),
            Err(_) => self.close(connection),
        }
    }

    /// A connection has waited for too long for what it waits for.
    fn call_time(&mut self, key: u64) {
        let Some(mut connection) = self.crowd.take(key) else { return };
        match connection.stage() {
            Stage::Request(_) => {
                connection.part(&Reply::new(408, "text/plain", format!("expected a request within {} s", dialogue::REQUEST.as_secs())));
                self.go_on(key, connection);
            }
            _ => self.close(connection),
        }
    }

    /// Passes an answer on to whoever has asked, if he is still there.
    fn deliver(&mut self, ticket: Ticket, answer: &Answer) {
        let Some(key) = self.crowd.asker(ticket) else { return };
        let Some(mut connection) = self.crowd.take(key) else { return };
        let asked = connection.answer(answer);
        if let Some(asked) = asked.filter(|_| self.plan.verbose) {
            let words = wording::told(&asked, answer);
            self.tell(Level::Debug, &format_args!("{}: {words}", connection.peer()));
        }
        self.go_on(key, connection);
    }

    /// Takes in the requests of a connection that can be taken in, and puts it back among the others, unless it is done.
    fn go_on(&mut self, key: u64, mut connection: Connection) {
        loop {
            match connection.next() {
                Ok(Some(request)) => self.take_in(&mut connection, &request),
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
        if let Some(interest) = connection.new_interest()
            && self.epoll.change(&connection.stream, key, interest).is_err()
        {
            return self.close(connection);
        }
        self.crowd.insert(key, connection);
    }

    fn take_in(&mut self, connection: &mut Connection, request: &Request) {
        self.counts.requests += 1;
        match wording::wish(request) {
            Wish::Ask(asked) => {
                let ticket = Ticket(self.next_ticket);
                self.next_ticket += 1;
                let input = Input::Asked(pool::Request { ticket, call: asked.call, pool: &asked.pool, host: &asked.host });
                self.backend.handle(input, now());
                connection.await_answer(ticket, asked);
            }
            Wish::Status | Wish::Metrics if self.crowd.unsent() > MOST_UNSENT => {
                connection.reply(&wording::unavailable("too many replies are not read"));
            }
            Wish::Status => connection.reply(&Reply::new(200, "application/json", status::text(&self.backend.report(now())))),
            Wish::Metrics => {
                let text = metrics::text(&self.metrics(), &self.backend.report(now()));
                connection.reply(&Reply::new(200, metrics::CONTENT_TYPE, text));
            }
            Wish::Reply(reply) => connection.reply(&reply),
        }
    }

    /// A connection has hung up while it waits, and was not answered with that.
    fn see_off(&mut self, key: u64) {
        if let Some(connection) = self.crowd.take(key) {
            if connection.has_hung_up() {
                self.close(connection);
            } else {
                self.crowd.insert(key, connection);
            }
        }
    }

    /// That was it for a connection: what it has asked is not wanted any more, and what it has not heard was not said.
    fn close(&mut self, connection: Connection) {
        if let Some(ticket) = connection.ticket() {
            self.backend.handle(Input::Gone(ticket), now());
        }
        for Told { asked, token, .. } in connection.unheard() {
            self.backend.handle(Input::Undelivered { pool: &asked.pool, host: &asked.host, token }, now());
        }
    }

    fn hear_signals(&mut self, again: &mut dyn FnMut() -> Result<Server, String>) {
        while let Some(received) = self.signals.next() {
            match received.signal {
                Signal::HUP if self.ending.is_none() => self.read_again(again()),
                Signal::TERM | Signal::INT if self.ending.is_none() => self.begin_to_end(received.signal),
                Signal::TERM | Signal::INT => self.ending = Some(now()),
                _ => {}
            }
        }
    }

    fn read_again(&mut self, plan: Result<Server, String>) {
        match plan {
            Ok(plan) => {
                self.warn(&plan);
                self.tell_what_stays(&plan);
                self.tell(Level::Info, &format_args!("read {} again: {}", plan.config.display(), pools(plan.pools.len())));
                self.backend.reconfigure(plan.pools, now());
            }
            Err(why) => self.tell(Level::Error, &format_args!("{why}; the pools stay as they are")),
        }
    }

    /// Nobody comes in any more, and who waits is told so.
    fn begin_to_end(&mut self, signal: Signal) {
        self.tell(Level::Info, &format_args!("ending by {signal}"));
        self.ending = Some(now() + ENDING);
        self.door = None;
        for key in self.crowd.keys() {
            let Some(mut connection) = self.crowd.take(key) else { continue };
            if connection.is_at_rest() {
                self.close(connection);
                continue;
            }
            connection.wind_up();
            if let Some(ticket) = connection.ticket().filter(|_| connection.is_waiting()) {
                self.backend.handle(Input::Gone(ticket), now());
                connection.dismiss(&wording::unavailable("the server is ending"));
            }
            self.go_on(key, connection);
        }
    }

    /// What was not heard by now was not said.
    fn end(mut self) -> Option<End> {
        for key in self.crowd.keys() {
            if let Some(connection) = self.crowd.take(key) {
                self.close(connection);
            }
        }
        self.drain();
        self.tell(Level::Info, &"ended");
        None
    }
}

/// What the log is told.
impl Serving<'_> {
    fn tell(&self, level: Level, message: &dyn Display) {
        if level > Level::Debug || self.plan.verbose {
            log::event(self.plan.program, level, message);
        }
    }

    fn tell_begin(&self) {
        self.warn(self.plan);
        let Some(door) = &self.door else { return };
        let address = door.address().map_or_else(|error| reason(&error), |address| address.to_string());
        let kept = self.plan.state.as_ref().map_or("memory".into(), |path| path.display().to_string());
        let message = format!(
            "listening on {address}: {}, holders kept in {kept}, {} connections at most",
            pools(self.plan.pools.len()),
            door.most()
        );
        self.tell(Level::Info, &message);
    }

    fn warn(&self, plan: &Server) {
        for warning in &plan.warnings {
            self.tell(Level::Warning, warning);
        }
    }

    /// What another plan cannot change while the server runs.
    fn tell_what_stays(&self, plan: &Server) {
        let changed = [
            ("listen", plan.listen != self.plan.listen),
            ("backend", plan.backend != self.plan.backend),
            ("state", plan.state != self.plan.state),
        ];
        for (key, _) in changed.iter().filter(|(_, changed)| *changed) {
            self.tell(Level::Warning, &format_args!("{}: {key:?} has changed: that needs a restart", plan.config.display()));
        }
    }

    fn metrics(&self) -> Vec<Metric> {
        use Kind::{Counter, Gauge};
        let Counts { connections, turned_away, requests, saves, failed_saves } = self.counts;
        let count = |name, kind, help, count| Metric { name, kind, help, value: Value::Count(count) };
        let uptime = Value::Time(now().since(self.began));
        vec![
            Metric { name: "distributexd_uptime_seconds", kind: Gauge, help: "How long the server has run.", value: uptime },
            count("distributexd_connections", Gauge, "Connections that are open.", self.crowd.len() as u64 + 1), // with the one that asks
            count("distributexd_connections_total", Counter, "Connections that came in.", connections),
            count("distributexd_turned_away_total", Counter, "Connections for which there was no room.", turned_away),
            count("distributexd_requests_total", Counter, "Requests that were understood as HTTP.", requests),
            count("distributexd_saves_total", Counter, "States that were saved.", saves),
            count("distributexd_failed_saves_total", Counter, "States that could not be saved.", failed_saves),
        ]
    }
}

fn pools(count: usize) -> String {
    if count == 1 { "1 pool".into() } else { format!("{count} pools") }
}

fn now() -> Moment {
    Moment(clock::since_boot())
}

fn unix_micros() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_micros()).unwrap_or(i64::MAX)
}
