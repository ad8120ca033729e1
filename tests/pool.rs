//! Whatever hosts ask of a lock server, in whatever order, whenever it dies and whatever its disk does: no more hosts believe that they hold
//! a pool than may, tokens grow, and in the end everybody who waits is let in, in the order in which they came.

use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;
use zk_flock::moment::Moment;
use zk_flock::plan;
use zk_flock::pool::memory::Memory;
use zk_flock::pool::state::{Clocks, State};
use zk_flock::pool::{Answer, Backend, Call, Grant, Input, Output, Request, Ticket};

const POOLS: [&str; 2] = ["one", "two"];
const HOSTS: [&str; 5] = ["a", "b", "c", "d", "e"];

/// Longer than any sequence of events can take.
const NEVER: Duration = Duration::MAX;

/// The most that can follow from one event.
const BUSY: usize = 1000;

/// What can happen. Numbers choose among what there is.
#[derive(Clone, Debug)]
enum Event {
    Ask {
        call: Call,
        pool: usize,
        host: usize,
    },
    /// A host lets go of what it believes to hold; by its token, or of whatever it is.
    Release {
        pool: usize,
        host: usize,
        by_token: bool,
    },
    HangUp(usize),
    Pass(Duration),
    /// The server does what it has to do.
    Drain,
    Saved,
    /// The disk may have it all the same.
    NotSaved {
        written: bool,
    },
    /// The next YES does not arrive.
    LoseNext,
    /// The next YES arrives, but the server will think that it has not. A client of ours does not count on one before it has renewed it.
    LoseNextReceipt,
    /// The server hears of those that it thinks are lost.
    Undelivered,
    /// Other permits, and another expiry for the pool that has one: who was told that a holding never ends cannot know any better.
    Reconfigure {
        pool: usize,
        permits: u32,
        expire: Duration,
    },
    /// Somebody sets the server's clock, so many ms ahead.
    SetClock(i64),
    /// The server dies, maybe with its host, and another one begins.
    Crash {
        written: bool,
        reboot: bool,
    },
}

fn event() -> impl Strategy<Value = Event> {
    let (pool, host) = (0..POOLS.len(), 0..HOSTS.len());
    let call = prop_oneof![Just(Call::Get), Just(Call::Wait), Just(Call::Wait), Just(Call::Renew { token: None })];
    prop_oneof![
        12 => (call, pool.clone(), host.clone()).prop_map(|(call, pool, host)| Event::Ask { call, pool, host }),
        6 => (pool.clone(), host, any::<bool>()).prop_map(|(pool, host, by_token)| Event::Release { pool, host, by_token }),
        2 => any::<usize>().prop_map(Event::HangUp),
        3 => milliseconds(700).prop_map(Event::Pass),
        12 => Just(Event::Drain),
        12 => Just(Event::Saved),
        2 => any::<bool>().prop_map(|written| Event::NotSaved { written }),
        1 => Just(Event::LoseNext),
        2 => Just(Event::LoseNextReceipt),
        2 => Just(Event::Undelivered),
        1 => (pool, 1..4u32, (1000..3000u64).prop_map(Duration::from_millis)).prop_map(|(pool, permits, expire)| Event::Reconfigure { pool, permits, expire }),
        1 => (-5000..5000i64).prop_map(Event::SetClock),
        2 => any::<(bool, bool)>().prop_map(|(written, reboot)| Event::Crash { written, reboot }),
    ]
}

fn milliseconds(limit: u64) -> impl Strategy<Value = Duration> {
    (1..limit).prop_map(Duration::from_millis)
}

/// What becomes of the next YES.
#[derive(Clone, Copy, PartialEq, Default)]
enum Next {
    #[default]
    Arrives,
    IsLost,
    /// It arrives, but what tells the server so does not.
    LosesItsReceipt,
}

/// A server, its disk, and what its clients believe. Times are of a clock that no crash stops.
struct World {
    server: Memory,
    plans: Vec<plan::Pool>,
    durable: bool,
    clock: Duration,
    booted: Duration,
    /// How many ms the server's clock is ahead, and was when it saved.
    ahead: i64,
    ahead_when_saved: i64,
    disk: Option<String>,
    writing: Option<String>,
    failing: bool,
    tickets: u64,
    open: BTreeMap<u64, (Call, usize, usize)>,
    gone: BTreeMap<u64, (Call, usize, usize)>,
    /// Who believes to hold which pool by which token, and until when.
    beliefs: BTreeMap<(usize, usize, i64), Duration>,
    /// Whose each token is.
    tokens: BTreeMap<(usize, i64), usize>,
    most_permits: [u32; POOLS.len()],
    next: Next,
    /// What each host was told last.
    told: BTreeMap<(usize, usize), i64>,
    lost: Vec<(usize, usize, i64)>,
}

impl World {
    fn new(durable: bool) -> World {
        let plan = |name: &str, permits, expire| plan::Pool { name: name.into(), expire, permits, servers: None };
        let plans = vec![plan(POOLS[0], 1, Some(Duration::from_secs(2))), plan(POOLS[1], 2, None)];
        let server = Memory::new(plans.clone(), durable.then(State::default), 0, Moment::default());
        World {
            server,
            plans,
            durable,
            clock: Duration::ZERO,
            booted: Duration::ZERO,
            ahead: 0,
            ahead_when_saved: 0,
            disk: None,
            writing: None,
            failing: false,
            tickets: 0,
            open: BTreeMap::new(),
            gone: BTreeMap::new(),
            beliefs: BTreeMap::new(),
            tokens: BTreeMap::new(),
            most_permits: [1, 2],
            next: Next::Arrives,
            told: BTreeMap::new(),
            lost: Vec::new(),
        }
    }

    /// As the server has it.
    fn now(&self) -> Moment {
        Moment(self.clock.saturating_sub(self.booted))
    }

    fn clocks(&self) -> Clocks {
        let milliseconds = |time: Duration| i64::try_from(time.as_millis()).unwrap();
        let date = 1_763_000_000_000 + self.ahead + milliseconds(self.clock);
        Clocks { boot: Some(format!("{:?}", self.booted)), date, uptime: milliseconds(self.clock.saturating_sub(self.booted)) }
    }

    fn happen(&mut self, event: &Event) {
        match *event {
            Event::Ask { call, pool, host } => self.ask(call, pool, host),
            Event::Release { pool, host, by_token } => self.release(pool, host, by_token),
            Event::HangUp(choice) if !self.open.is_empty() => {
                let ticket = *self.open.keys().nth(choice % self.open.len()).unwrap();
                self.gone.extend(self.open.remove_entry(&ticket));
                self.server.handle(Input::Gone(Ticket(ticket)), self.now());
            }
            Event::HangUp(_) => {}
            Event::Pass(time) => self.clock += time,
            Event::Drain => self.drain(),
            Event::Saved => self.saved(),
            Event::NotSaved { written } => {
                if let Some(text) = self.writing.take() {
                    self.failing = true;
                    self.disk = if written { Some(text) } else { self.disk.take() };
                    self.server.handle(Input::NotSaved("disk full".into()), self.now());
                }
            }
            Event::LoseNext => self.next = Next::IsLost,
            Event::LoseNextReceipt => self.next = Next::LosesItsReceipt,
            Event::Undelivered => {
                for (pool, host, token) in std::mem::take(&mut self.lost) {
                    self.server.handle(Input::Undelivered { pool: POOLS[pool], host: HOSTS[host], token }, self.now());
                }
            }
            Event::Reconfigure { pool, permits, expire } => {
                self.most_permits[pool] = self.most_permits[pool].max(permits);
                self.plans[pool] = plan::Pool { permits, expire: self.plans[pool].expire.and(Some(expire)), ..self.plans[pool].clone() };
                self.server.reconfigure(self.plans.clone(), self.now());
            }
            Event::SetClock(ahead) => self.ahead = ahead,
            Event::Crash { written, reboot } if self.durable => self.crash(written, reboot),
            Event::Crash { .. } => {}
        }
    }

    fn ask(&mut self, call: Call, pool: usize, host: usize) {
        self.tickets += 1;
        let call = match call {
            Call::Renew { .. } => Call::Renew { token: self.told.get(&(pool, host)).copied() },
            call => call,
        };
        self.open.insert(self.tickets, (call, pool, host));
        let request = Request { ticket: Ticket(self.tickets), call, pool: POOLS[pool], host: HOSTS[host], run: None };
        self.server.handle(Input::Asked(request), self.now());
    }

    fn release(&mut self, pool: usize, host: usize, by_token: bool) {
        let believed = self.beliefs.keys().find(|(its_pool, its_host, _)| (*its_pool, *its_host) == (pool, host)).map(|(.., token)| *token);
        self.beliefs.retain(|(its_pool, its_host, _), _| (*its_pool, *its_host) != (pool, host));
        self.ask(Call::Release { token: believed.filter(|_| by_token) }, pool, host);
    }

    fn saved(&mut self) {
        if let Some(text) = self.writing.take() {
            self.failing = false;
            self.disk = Some(text);
            self.server.handle(Input::Saved, self.now());
        }
    }

    fn crash(&mut self, written: bool, reboot: bool) {
        if let Some(text) = self.writing.take().filter(|_| written) {
            self.disk = Some(text);
        }
        if reboot {
            self.booted = self.clock;
            // If it gains while its host is off, it looks as if more time had passed.
            self.ahead = self.ahead.min(self.ahead_when_saved);
        }
        let read = |text: &String| State::parse(text.as_bytes(), Path::new("state"), &self.clocks()).unwrap();
        let state = self.disk.as_ref().map(read).unwrap_or_default();
        self.server = Memory::new(self.plans.clone(), Some(state), 0, self.now());
        self.failing = false;
        self.open.clear();
        self.lost.clear();
    }

    /// Does what the loop does, but leaves open what becomes of a save.
    fn drain(&mut self) {
        self.server.handle(Input::Tick, self.now());
        for _ in 0..BUSY {
            match self.server.poll(self.now()) {
                Output::Answer(Ticket(ticket), answer) => self.answered(ticket, &answer),
                Output::Save(state) => {
                    assert!(self.durable && self.writing.is_none(), "one save at a time");
                    self.ahead_when_saved = self.ahead.min(self.ahead_when_saved);
                    self.writing = Some(state.text(&self.clocks()));
                }
                Output::Note(..) => {}
                output @ (Output::Report(_) | Output::Connect | Output::Send(_) | Output::Disconnect) => {
                    panic!("there is nobody else: {output:?}")
                }
                Output::Wait(until) => {
                    assert!(until > self.now(), "the server waits for what is past");
                    return self.check_rest();
                }
            }
        }
        panic!("the server comes to no rest");
    }

    fn answered(&mut self, ticket: u64, answer: &Answer) {
        if self.gone.remove(&ticket).is_some() {
            return assert!(!matches!(answer, Answer::Yes(_)), "nobody is there to hear {answer:?}");
        }
        let (call, pool, host) = self.open.remove(&ticket).expect("each request has one answer");
        match (call, answer) {
            (Call::Release { .. }, Answer::Ok) => {}
            (Call::Get | Call::Wait, Answer::Yes(grant)) => self.granted(pool, host, None, *grant),
            (Call::Renew { token }, Answer::Yes(grant)) => self.granted(pool, host, token, *grant),
            (Call::Get | Call::Renew { .. }, Answer::No) | (Call::Get, Answer::Unavailable(_)) => {
                assert_eq!(self.believed(pool, host), None, "it holds the pool");
            }
            (Call::Renew { .. }, Answer::Unavailable(_)) => {}
            _ => panic!("{call:?} is answered {answer:?}"),
        }
    }

    fn granted(&mut self, pool: usize, host: usize, renewed: Option<i64>, Grant { token, expires }: Grant) {
        let greatest = self.tokens.range((pool, 0)..=(pool, i64::MAX)).next_back().map_or(0, |((_, token), _)| *token);
        let fresh = self.tokens.insert((pool, token), host);
        assert!(fresh.is_none_or(|holder| holder == host), "a token is for one host");
        let fresh = fresh.is_none();
        // Of several holders the later one may be told first, if the server dies before it tells the other.
        assert!(!fresh || token > greatest || self.most_permits[pool] > 1, "tokens grow");
        if let Some(believed) = self.believed(pool, host) {
            assert_eq!(token, believed, "it holds by another token");
        }
        let next = std::mem::take(&mut self.next);
        if next != Next::Arrives {
            self.lost.push((pool, host, token));
        }
        if next != Next::IsLost {
            self.told.insert((pool, host), token);
        }
        if next == Next::IsLost || next == Next::LosesItsReceipt && renewed != Some(token) {
            return;
        }
        let until = expires.map_or(NEVER, |left| self.clock + left);
        let believed = self.beliefs.entry((pool, host, token)).or_insert(until);
        *believed = until.max(*believed);
        assert!(self.believers(pool) <= usize::try_from(self.most_permits[pool]).unwrap(), "{:?} at {:?}", self.beliefs, self.clock);
    }

    fn believed(&self, pool: usize, host: usize) -> Option<i64> {
        let mut tokens = self.beliefs.iter().filter(|(_, until)| **until > self.clock).map(|(belief, _)| *belief);
        tokens.find(|(its_pool, its_host, _)| (*its_pool, *its_host) == (pool, host)).map(|(.., token)| token)
    }

    fn believers(&self, pool: usize) -> usize {
        (0..HOSTS.len()).filter(|host| self.believed(pool, *host).is_some()).count()
    }

    /// Nobody waits for what is free, or for an answer that can be given.
    fn check_rest(&self) {
        if self.writing.is_some() || self.failing {
            return;
        }
        let report = self.server.report(self.now());
        for pool in &report {
            assert!(pool.waiters.is_empty() || pool.holders.len() >= usize::try_from(pool.permits).unwrap(), "{pool:?}");
        }
        assert!(self.open.values().all(|(call, ..)| *call == Call::Wait), "{:?}", self.open);
        assert_eq!(report.iter().map(|pool| pool.waiters.len()).sum::<usize>(), self.open.len());
    }

    /// From now on the disk works, and whoever holds lets go at once.
    fn come_to_an_end(&mut self) {
        self.next = Next::Arrives;
        self.settle();
        self.clock += Duration::from_secs(1); // until a save that failed is tried again
        self.settle();
        let waiting: Vec<_> = self.open.iter().map(|(ticket, (_, pool, host))| (*ticket, *pool, *host)).collect();
        let mut expected: Vec<_> = (0..POOLS.len()).map(|pool| in_order(&waiting, pool)).collect();
        for _ in 0..=waiting.len() {
            for (pool, expected) in expected.iter_mut().enumerate() {
                let before: Vec<_> = self.open.keys().copied().collect();
                (0..HOSTS.len()).for_each(|host| self.release(pool, host, false));
                self.settle();
                let let_in = before.iter().filter(|ticket| !self.open.contains_key(ticket)).count();
                let first: Vec<_> = expected.drain(..let_in).collect();
                assert!(first.iter().all(|ticket| !self.open.contains_key(ticket)), "{first:?} before {:?}", self.open);
            }
        }
        assert_eq!(self.open, BTreeMap::new());
    }

    fn settle(&mut self) {
        self.drain();
        while self.writing.is_some() {
            self.saved();
            self.drain();
        }
    }
}

/// The tickets of those who wait for a pool, as they are let in: one after the other, with all others of their host.
fn in_order(waiting: &[(u64, usize, usize)], pool: usize) -> Vec<u64> {
    let mut left: Vec<_> = waiting.iter().filter(|(_, its_pool, _)| *its_pool == pool).collect();
    let mut order = Vec::new();
    while let Some((_, _, host)) = left.first().copied() {
        let (next, others): (Vec<&(u64, usize, usize)>, Vec<_>) = left.into_iter().partition(|(.., its_host)| its_host == host);
        order.extend(next.iter().map(|(ticket, ..)| *ticket));
        left = others;
    }
    order
}

/// Plays many worlds of that many events at most.
fn play(durable: bool) {
    let mut runner = TestRunner::new(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() });
    let played = runner.run(&prop::collection::vec(event(), 0..120), |events| {
        let mut world = World::new(durable);
        events.iter().for_each(|event| world.happen(event));
        world.come_to_an_end();
        Ok(())
    });
    played.unwrap_or_else(|failure| panic!("{failure}"));
}

#[test]
fn a_server_that_dies_anywhere_never_lets_in_too_many() {
    play(true);
}

#[test]
fn a_server_without_a_file_never_lets_in_too_many() {
    play(false);
}
