//! Two servers, their network and a memcached, in whatever order things happen: no more hosts believe that they hold the pool than may, tokens
//! grow, and in the end everybody who waits is let in.

use super::super::state::Boot;
use super::super::{Answer, Backend, Call, Grant, Input, Output, Request, Ticket};
use super::Memcache;
use super::fake::Fake;
use crate::moment::Moment;
use crate::plan;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use std::collections::BTreeMap;
use std::time::Duration;

const SERVERS: usize = 2;
/// Each asks one server only: the one with its number, modulo their count.
const HOSTS: [&str; 6] = ["a", "b", "c", "d", "e", "f"];
const BOOT: Boot = Boot(1_763_000_000_000);

/// The most that can follow from one event.
const BUSY: usize = 1000;

#[derive(Clone, Debug)]
enum Event {
    Ask {
        call: Call,
        host: usize,
    },
    /// A host lets go of what it believes to hold, or of nothing.
    Release {
        host: usize,
        by_token: bool,
    },
    HangUp(usize),
    Pass(Duration),
    /// The servers do what they have to do.
    Drain,
    /// Memcached does what a server has sent.
    Arrive(usize),
    /// So many bytes of what it answered come to the server.
    Return {
        server: usize,
        bytes: usize,
    },
    /// The connection breaks; what was on its way may still arrive.
    Cut {
        server: usize,
        arrives: bool,
    },
    /// Memcached forgets all.
    Restart,
    /// The next YES does not arrive.
    LoseNext,
    /// The servers hear of it.
    Undelivered,
}

fn event() -> impl Strategy<Value = Event> {
    let (host, server) = (0..HOSTS.len(), 0..SERVERS);
    let call = prop_oneof![Just(Call::Get), Just(Call::Wait), Just(Call::Wait), Just(Call::Renew { token: None })];
    prop_oneof![
        8 => (call, host.clone()).prop_map(|(call, host)| Event::Ask { call, host }),
        4 => (host, any::<bool>()).prop_map(|(host, by_token)| Event::Release { host, by_token }),
        1 => any::<usize>().prop_map(Event::HangUp),
        4 => (1..700u64).prop_map(|milliseconds| Event::Pass(Duration::from_millis(milliseconds))),
        30 => Just(Event::Drain),
        20 => server.clone().prop_map(Event::Arrive),
        20 => (server.clone(), prop_oneof![1..40usize, Just(usize::MAX)]).prop_map(|(server, bytes)| Event::Return { server, bytes }),
        1 => (server, any::<bool>()).prop_map(|(server, arrives)| Event::Cut { server, arrives }),
        1 => Just(Event::LoseNext),
        1 => Just(Event::Undelivered),
        1 => Just(Event::Restart),
    ]
}

/// A server and its connection.
struct Site {
    server: Memcache,
    sent: String,
    returned: Vec<u8>,
}

struct World {
    sites: Vec<Site>,
    memcached: Fake,
    permits: u32,
    now: Moment,
    tickets: u64,
    open: BTreeMap<u64, (Call, usize)>,
    gone: BTreeMap<u64, (Call, usize)>,
    /// By which token a host believes to hold the pool, and until when.
    beliefs: BTreeMap<usize, (i64, Moment)>,
    last_token: i64,
    lose_next: bool,
    lost: Vec<(usize, i64)>,
}

impl World {
    fn new(permits: u32, expire: Option<Duration>) -> World {
        let plan = plan::Pool { name: "one".into(), expire, permits, servers: None };
        let server = || Memcache::new(vec![plan.clone()], "h:11211".into(), BOOT, Moment::default());
        let site = || Site { server: server(), sent: String::new(), returned: Vec::new() };
        World {
            sites: (0..SERVERS).map(|_| site()).collect(),
            memcached: Fake::new(BOOT),
            permits,
            now: Moment(Duration::from_millis(300)),
            tickets: 0,
            open: BTreeMap::new(),
            gone: BTreeMap::new(),
            beliefs: BTreeMap::new(),
            last_token: 0,
            lose_next: false,
            lost: Vec::new(),
        }
    }

    fn happen(&mut self, event: &Event) {
        match *event {
            Event::Ask { call, host } => self.ask(call, host),
            Event::Release { host, by_token } => self.release(host, by_token),
            Event::HangUp(choice) => self.hang_up(choice),
            Event::Pass(time) => self.now = self.now + time,
            Event::Drain => (0..SERVERS).for_each(|server| self.drain(server)),
            Event::Arrive(server) => self.arrive(server),
            Event::Return { server, bytes } => {
                let bytes = bytes.min(self.sites[server].returned.len());
                let returned: Vec<_> = self.sites[server].returned.drain(..bytes).collect();
                self.tell(server, Input::Received(&returned));
            }
            Event::Cut { server, arrives } => self.cut(server, arrives),
            Event::Restart => {
                self.memcached.forget();
                self.beliefs.clear();
                self.last_token = 0;
                (0..SERVERS).for_each(|server| self.cut(server, false));
            }
            Event::LoseNext => self.lose_next = true,
            Event::Undelivered => {
                for (host, token) in std::mem::take(&mut self.lost) {
                    self.tell(host % SERVERS, Input::Undelivered { pool: "one", host: HOSTS[host], token });
                }
            }
        }
    }

    fn tell(&mut self, server: usize, input: Input) {
        self.sites[server].server.handle(input, self.now);
    }

    fn ask(&mut self, call: Call, host: usize) {
        let call = match call {
            Call::Renew { .. } => Call::Renew { token: self.beliefs.get(&host).map(|(token, _)| *token) },
            call => call,
        };
        self.tickets += 1;
        self.open.insert(self.tickets, (call, host));
        let request = Request { ticket: Ticket(self.tickets), call, pool: "one", host: HOSTS[host], run: None };
        self.tell(host % SERVERS, Input::Asked(request));
    }

    fn release(&mut self, host: usize, by_token: bool) {
        let token = self.beliefs.remove(&host).map(|(token, _)| token);
        self.ask(Call::Release { token: token.filter(|_| by_token) }, host);
    }

    /// Not while it lets go: then nobody would know when it has.
    fn hang_up(&mut self, choice: usize) {
        let mut open: Vec<_> = self.open.iter().map(|(ticket, asked)| (*ticket, *asked)).collect();
        open.retain(|(_, (call, _))| !matches!(call, Call::Release { .. }));
        if let Some((ticket, (call, host))) = open.get(choice % open.len().max(1)) {
            self.open.remove(ticket);
            self.gone.insert(*ticket, (*call, *host));
            self.tell(host % SERVERS, Input::Gone(Ticket(*ticket)));
        }
    }

    fn arrive(&mut self, server: usize) {
        let replies = self.memcached.execute(&std::mem::take(&mut self.sites[server].sent), self.now);
        self.sites[server].returned.extend(replies.into_bytes());
    }

    fn cut(&mut self, server: usize, arrives: bool) {
        if arrives {
            self.arrive(server);
        }
        self.sites[server].sent.clear();
        self.sites[server].returned.clear();
        self.tell(server, Input::Disconnected(None));
    }

    fn drain(&mut self, server: usize) {
        self.tell(server, Input::Tick);
        for _ in 0..BUSY {
            match self.sites[server].server.poll(self.now) {
                Output::Answer(Ticket(ticket), answer) => self.answered(ticket, &answer),
                Output::Connect => self.tell(server, Input::Connected),
                Output::Send(bytes) => self.sites[server].sent += str::from_utf8(&bytes).unwrap(),
                Output::Disconnect => {
                    self.sites[server].sent.clear();
                    self.sites[server].returned.clear();
                }
                Output::Note(..) => {}
                Output::Save(_) | Output::Report(_) => panic!("nobody asked for this"),
                Output::Wait(until) => return assert!(until > self.now, "the server waits for what is past"),
            }
        }
        panic!("the server comes to no rest");
    }

    fn answered(&mut self, ticket: u64, answer: &Answer) {
        if self.gone.remove(&ticket).is_some() {
            return assert!(!matches!(answer, Answer::Yes(_)), "nobody is there to hear {answer:?}");
        }
        let (call, host) = self.open.remove(&ticket).expect("each request has one answer");
        match (call, answer) {
            // It may have been told before that it still holds the pool.
            (Call::Release { .. }, Answer::Ok | Answer::Unavailable(_)) => _ = self.beliefs.remove(&host),
            (Call::Get | Call::Wait | Call::Renew { .. }, Answer::Yes(grant)) => self.granted(host, *grant),
            (Call::Get | Call::Renew { .. }, Answer::No) => assert!(!self.believes(host), "it holds the pool"),
            (Call::Get | Call::Renew { .. }, Answer::Unavailable(_)) => {}
            _ => panic!("{call:?} is answered {answer:?}"),
        }
    }

    fn granted(&mut self, host: usize, Grant { token, expires }: Grant) {
        if std::mem::take(&mut self.lose_next) {
            return self.lost.push((host, token));
        }
        let others = (0..HOSTS.len()).filter(|other| *other != host && self.believes(*other)).count();
        assert!(others < usize::try_from(self.permits).unwrap(), "{:?} and {host} at {:?}", self.beliefs, self.now);
        if self.permits == 1 && !self.believes(host) {
            assert!(token >= self.last_token, "tokens grow");
        }
        self.last_token = self.last_token.max(token);
        let until = expires.map_or(Moment::NEVER, |left| self.now + left);
        let known = self.beliefs.get(&host).map_or(until, |(_, known)| until.max(*known));
        self.beliefs.insert(host, (token, known));
    }

    fn believes(&self, host: usize) -> bool {
        self.beliefs.get(&host).is_some_and(|(_, until)| *until > self.now)
    }

    /// From now on the network works, and whoever holds lets go at once, twice: for a server may still take something back.
    fn come_to_an_end(&mut self) {
        self.lose_next = false;
        for _ in 0..4 * HOSTS.len() {
            (0..HOSTS.len()).for_each(|host| self.release(host, false));
            for _ in 0..20 {
                for server in 0..SERVERS {
                    self.drain(server);
                    self.arrive(server);
                    self.happen(&Event::Return { server, bytes: usize::MAX });
                    self.drain(server);
                }
            }
            self.happen(&Event::Pass(Duration::from_millis(300)));
        }
        assert_eq!(self.open, BTreeMap::new());
    }
}

#[test]
fn in_whatever_order_things_happen_never_too_many_hold_the_pool() {
    let mut runner = TestRunner::new(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() });
    let expire = prop_oneof![Just(None), (2..6u64).prop_map(|seconds| Some(Duration::from_secs(seconds)))];
    let played = runner.run(&(1..4u32, expire, prop::collection::vec(event(), 0..150)), |(permits, expire, events)| {
        let mut world = World::new(permits, expire);
        events.iter().for_each(|event| world.happen(event));
        world.come_to_an_end();
        Ok(())
    });
    played.unwrap_or_else(|failure| panic!("{failure}"));
}
