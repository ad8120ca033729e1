//! Servers and their clients as a script. Each line has a time, an event, and what the servers say
//! then. Scripts are the same for all backends; a backend adds the events of what it keeps its
//! holders in.
//!
//! Clients are named after their hosts, with a number if a host has several: `a`, `a2`; clients
//! with a run id by host and run: `a/x`, `a/x2`. A number before an event is that of the server,
//! without one it is the first: `2 get b`. Tokens are shown as the number of tokens so far.

use super::{Driver, Machine, Peer};
use crate::moment::Moment;
use crate::plan;
use crate::pool::state::State;
use crate::pool::{
    Answer, Backend, Call, Grant, Holder, Input, Output, Remaining, Report, Request, Target, Ticket,
};
use std::time::Duration;

/// So many rounds over all servers say nothing, one after another, when all is done: a change goes
/// from one server to the next, and once more to the first.
const SILENT_ROUNDS: usize = 3;

/// A backend, as a script sets it up.
pub(crate) trait Scripted: Backend + Machine<To = Target, Report = Output> + Sized {
    /// What its servers are connected to.
    type Peer: Peer<Target>;
    /// How many servers share the peer.
    const SERVERS: usize;
    /// The answers to one event come in the order of their requests. Of other backends, shared
    /// scripts show them in that order.
    const IN_ORDER: bool;

    /// What the servers are connected to at the start.
    fn peer() -> Self::Peer;

    /// A server starts. `file`: what the file of its config has, if there is one.
    fn start(pools: Vec<plan::Pool>, file: Option<State>, now: Moment) -> Self;

    /// The number from which tokens count.
    fn first_token() -> i64 {
        0
    }

    /// Each way to set it up, for scripts that are the same for all.
    fn setups(pool: plan::Pool) -> Vec<Script<Self>> {
        vec![Script::new(pool)]
    }

    /// A 503 as scripts show it.
    fn unavailable(why: &str) -> String {
        format!("503 {why}")
    }

    /// An event of this backend alone.
    fn happen(script: &mut Script<Self>, server: usize, event: &[&str]);
}

/// Servers that share a peer, and the clients of the script.
pub(crate) struct Script<B: Scripted> {
    pub(crate) servers: Vec<Driver<B>>,
    pub(crate) peer: B::Peer,
    pub(crate) now: Moment,
    pub(crate) notes: Vec<String>,
    /// What the file has; `None`: the config has no file.
    pub(crate) file: Option<State>,
    /// Each save succeeds at once, so the same lines hold for each backend.
    is_shared: bool,
    pool: plan::Pool,
    /// By ticket.
    clients: Vec<String>,
}

/// That many seconds after the start.
pub(crate) fn seconds(time: u64) -> Moment {
    Moment(Duration::from_secs(time))
}

/// That many milliseconds after the start.
pub(crate) fn milliseconds(time: u64) -> Moment {
    Moment(Duration::from_millis(time))
}

/// The pool of a script. `expire`: in seconds; 0: until released.
pub(crate) fn pool(permits: u32, expire: u64) -> plan::Pool {
    plan::Pool {
        name: "one".into(),
        expire: (expire > 0).then(|| Duration::from_secs(expire)),
        permits,
        servers: None,
    }
}

/// A pool of one slot that only these hosts may hold.
pub(crate) fn only(servers: &[&str]) -> plan::Pool {
    plan::Pool {
        servers: Some(servers.iter().map(ToString::to_string).collect()),
        ..pool(1, 60)
    }
}

/// A pool in each setup of a backend, from the start each time.
pub(crate) fn on<B: Scripted>(pool: plan::Pool) -> Setups<B> {
    let mut scripts = B::setups(pool);
    for script in &mut scripts {
        script.is_shared = true;
        script.drain();
    }
    Setups(scripts)
}

/// See [`on`].
pub(crate) struct Setups<B: Scripted>(Vec<Script<B>>);

impl<B: Scripted> Setups<B> {
    /// Runs these lines in each setup. Times are in seconds.
    #[track_caller]
    pub(crate) fn play(mut self, lines: &[(u64, &str, &str)]) {
        for script in &mut self.0 {
            script.play(lines);
        }
    }

    /// Runs a script in each setup.
    pub(crate) fn each(mut self, run: impl Fn(&mut Script<B>)) {
        self.0.iter_mut().for_each(run);
    }
}

impl<B: Scripted> Script<B> {
    /// Servers whose config has no file.
    pub(crate) fn new(pool: plan::Pool) -> Script<B> {
        Script::with(pool, None)
    }

    /// Servers that find this in their file.
    pub(crate) fn with(pool: plan::Pool, file: Option<State>) -> Script<B> {
        let now = Moment::default();
        let server = || Driver::new(B::start(vec![pool.clone()], file.clone(), now), now);
        Script {
            servers: (0..B::SERVERS).map(|_| server()).collect(),
            peer: B::peer(),
            now,
            notes: Vec::new(),
            file,
            is_shared: false,
            pool,
            clients: Vec::new(),
        }
    }

    /// Times are in seconds.
    #[track_caller]
    pub(crate) fn play(&mut self, lines: &[(u64, &str, &str)]) {
        for &(second, event, expected) in lines {
            self.line(seconds(second), event, expected);
        }
    }

    /// Times are in milliseconds.
    #[track_caller]
    pub(crate) fn play_ms(&mut self, lines: &[(u64, &str, &str)]) {
        for &(time, event, expected) in lines {
            self.line(milliseconds(time), event, expected);
        }
    }

    #[track_caller]
    fn line(&mut self, now: Moment, event: &str, expected: &str) {
        self.now = now;
        self.happen(event);
        assert_eq!(self.drain(), expected, "{event:?} at {:?}", now.0);
    }

    pub(crate) fn happen(&mut self, event: &str) {
        let words: Vec<_> = event.split(' ').collect();
        let (server, words) = match words[0].parse::<usize>() {
            Ok(number) => (number - 1, &words[1..]),
            Err(_) => (0, &words[..]),
        };
        let token = |word: &&str| B::first_token() + word.parse::<i64>().unwrap();
        let (client, call, outer) = match *words {
            ["tick"] => return self.servers.iter_mut().for_each(|it| it.jump(self.now)),
            ["killed"] => return self.restart(server, vec![self.pool.clone()]),
            ["report"] => {
                self.clients.push("report".into());
                let ticket = self.ticket("report");
                return self.input(server, Input::ReportRequested(ticket));
            }
            ["gone", client] => {
                let ticket = self.ticket(client);
                return self.input(server, Input::Cancelled(ticket));
            }
            ["lost", host, ref number] => {
                let (pool, token) = ("one", token(number));
                return self.input(server, Input::Undelivered { pool, host, token });
            }
            ["get", client] => (client, Call::Get, vec![]),
            ["wait", client] => (client, Call::Wait, vec![]),
            ["wait", client, "under", ref outer @ ..] => {
                (client, Call::Wait, outer.iter().map(token).collect())
            }
            ["renew", client, ref numbers @ ..] => {
                let token = numbers.first().map(token);
                (client, Call::Renew { token }, vec![])
            }
            ["release", client, ref numbers @ ..] => {
                let token = numbers.first().map(token);
                (client, Call::Release { token }, vec![])
            }
            ["revoke", client, ref numbers @ ..] => {
                let token = numbers.first().map(token);
                (client, Call::Revoke { token }, vec![])
            }
            ref words => return B::happen(self, server, words),
        };
        self.ask(server, "one", client, call, &outer);
    }

    pub(crate) fn input(&mut self, server: usize, input: Input) {
        let now = self.now;
        self.servers[server].input(now, |it| it.handle(input, now));
    }

    /// A client makes a request.
    pub(crate) fn ask(
        &mut self,
        server: usize,
        pool: &str,
        client: &str,
        call: Call,
        outer: &[i64],
    ) {
        self.clients.push(client.into());
        let (host, run) = match client.split_once('/') {
            Some((host, run)) => (host, Some(run.trim_end_matches(char::is_numeric))),
            None => (client.trim_end_matches(char::is_numeric), None),
        };
        let ticket = self.ticket(client);
        let request = Request {
            ticket,
            call,
            pool,
            host,
            run,
            outer,
        };
        self.input(server, Input::Request(request));
    }

    /// The ticket of the client's last request.
    fn ticket(&self, client: &str) -> Ticket {
        let asked = self.clients.iter().rposition(|name| name == client);
        Ticket(asked.unwrap().try_into().unwrap())
    }

    /// The first server reads another config; returns what it says then. The time is in seconds.
    #[track_caller]
    pub(crate) fn reconfigure(&mut self, second: u64, pools: Vec<plan::Pool>) -> String {
        self.configure(0, pools, seconds(second));
        self.drain()
    }

    /// A server reads another config.
    pub(crate) fn configure(&mut self, server: usize, pools: Vec<plan::Pool>, now: Moment) {
        self.now = now;
        self.servers[server].input(now, |it| it.reconfigure(pools, now));
    }

    /// A server reads a config in which leases are that long, in seconds.
    pub(crate) fn expire(&mut self, server: usize, expire: u64) {
        let expire = pool(1, expire).expire;
        let pool = plan::Pool {
            expire,
            ..self.pool.clone()
        };
        self.configure(server, vec![pool], self.now);
    }

    /// Kills a server, and starts another one from what the file has.
    pub(crate) fn restart(&mut self, server: usize, pools: Vec<plan::Pool>) {
        if let Some(connection) = self.servers[server].connection() {
            self.peer.close(connection);
        }
        let started = B::start(pools, self.file.clone(), self.now);
        self.servers[server] = Driver::new(started, self.now);
    }

    /// Lets all servers do what they have to do; returns what they say.
    #[track_caller]
    pub(crate) fn drain(&mut self) -> String {
        // What one server does may wake another, without a word of the first.
        let (mut said, mut silent) = (Vec::new(), 0);
        while silent < SILENT_ROUNDS {
            let before = said.len();
            for server in 0..self.servers.len() {
                said.extend(self.said_by(server));
            }
            silent = if said.len() == before { silent + 1 } else { 0 };
        }
        if self.is_shared && !B::IN_ORDER {
            said.sort_by_key(|(ticket, _)| *ticket);
        }
        let said: Vec<_> = said.into_iter().map(|(_, said)| said).collect();
        said.join(", ")
    }

    /// Lets one server do what it has to do; returns what it says, with the requests that it
    /// answers.
    #[track_caller]
    pub(crate) fn said_by(&mut self, server: usize) -> Vec<(Option<Ticket>, String)> {
        let mut said = Vec::new();
        if self.servers[server].now() < self.now {
            self.servers[server].jump(self.now);
        }
        while let Some(output) = self.servers[server].next_report(&mut self.peer) {
            match output {
                Output::Answer(ticket, answer) => {
                    let client = &self.clients[usize::try_from(ticket.0).unwrap()];
                    said.push((Some(ticket), format!("{client} {}", shown::<B>(&answer))));
                }
                Output::Save(state) => {
                    let holders = state.holders.iter();
                    let holders = holders.map(|it| format!(" {}={}", it.host, it.token));
                    let save = format!("save{}", holders.collect::<String>());
                    self.file = Some(state);
                    if self.is_shared {
                        self.input(server, Input::Saved);
                    } else {
                        said.push((None, save));
                    }
                }
                Output::Note(_, note) => self.notes.push(note),
                Output::Report(ticket) => {
                    let report = self.servers[server].machine.report(self.now);
                    said.push((Some(ticket), seen::<B>(&report[0])));
                }
                output => panic!("the driver does not hand this out: {output:?}"),
            }
        }
        said
    }
}

fn shown<B: Scripted>(answer: &Answer) -> String {
    match answer {
        Answer::Yes(Grant { token, expires }) => {
            let token = token - B::first_token();
            expires.map_or_else(
                || format!("YES {token}"),
                |left| format!("YES {token} {} s", left.as_secs()),
            )
        }
        Answer::No => "NO".into(),
        Answer::NoRevoked => "NO revoked".into(),
        Answer::NoOuter => "NO outer".into(),
        Answer::Ok => "OK".into(),
        Answer::NotReleased(why) => format!("OK {}", why.short()),
        Answer::Revocation { token, ends } => {
            let token = token.unwrap() - B::first_token();
            format!("revoked {token} {}", left(*ends))
        }
        Answer::NotHeld => "not held".into(),
        Answer::OtherToken => "other token".into(),
        Answer::Invalid(_) => "INVALID".into(),
        Answer::Unavailable(why) => B::unavailable(why),
    }
}

fn left(ends: Remaining) -> String {
    match ends {
        Remaining::For(left) => format!("for {} s", left.as_secs()),
        Remaining::UntilReleased => "until released".into(),
        Remaining::Unknown => "for an unknown time".into(),
    }
}

/// The holders in a report.
fn seen<B: Scripted>(report: &Report) -> String {
    let holder = |holder: &Holder| {
        let run = holder.run.map_or(String::new(), |run| format!("/{run}"));
        let token = |token: i64| (token - B::first_token()).to_string();
        let token = holder.token.map_or("?".into(), token);
        let held = |held: Duration| held.as_secs().to_string();
        let held = holder.held.map_or("?".into(), held);
        let revoked = if holder.revoked { ", revoked" } else { "" };
        let (host, left) = (&holder.host, left(holder.ends));
        format!("{host}{run} {token} {held} s, {left}{revoked}")
    };
    let holders: Vec<_> = report.holders.iter().map(holder).collect();
    let age = report
        .age
        .map_or(String::new(), |age| format!(" {} ms old", age.as_millis()));
    format!("[{}]{age}", holders.join("; "))
}
