//! Whatever clients ask of a lock server, in whatever order, whenever it dies, whatever its disk
//! does and however its config changes: what clients were told holds (`common::promises`), and in
//! the end all waiters are let in, in the order in which they came.

use super::super::state::{Clocks, State};
use super::super::{Answer, Backend, Call, Input, Output, Report, Request, Ticket};
use super::Memory;
use crate::moment::Moment;
use crate::plan;
use crate::testing::{Driver, NoPeer};
use common::promises::{Client, Promises};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

const POOLS: [&str; 2] = ["one", "two"];

/// Hosts, and the ids of their runs if they have any.
const CLIENTS: [(&str, Option<&str>); 7] = [
    ("a", Some("x")),
    ("a", Some("y")),
    ("b", Some("x")),
    ("c", None),
    ("d", None),
    ("e", Some("x")),
    ("e", Some("y")),
];

/// What can happen. Numbers choose among what there is.
#[derive(Clone, Debug)]
enum Event {
    Ask {
        call: Call,
        pool: usize,
        client: usize,
    },
    /// A client releases what it believes to hold, by what it knows of that; or by a wrong token.
    Release {
        pool: usize,
        client: usize,
        by: By,
    },
    /// An operator revokes what the client's host holds.
    Revoke {
        pool: usize,
        client: usize,
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
    /// The next YES arrives, but the server will think that it has not. A client of ours does not
    /// count on one before it has renewed it.
    LoseNextReceipt,
    /// The server hears of those that it thinks are lost.
    Undelivered,
    /// Other permits, another expiry, or no such pool any more.
    Configure {
        pool: usize,
        plan: Planned,
        /// By a reload, or by the next crash.
        reload: bool,
    },
    /// The server's clock is set, so many ms ahead.
    SetClock(i64),
    /// The server dies, maybe with its host, and another one begins.
    Crash {
        written: bool,
        reboot: bool,
    },
}

#[derive(Clone, Copy, Debug)]
enum By {
    Token,
    Run,
    WrongToken,
}

/// A pool as the config has it, if it does.
type Planned = Option<(u32, Option<Duration>)>;

fn event() -> impl Strategy<Value = Event> {
    let (pool, client) = (0..POOLS.len(), 0..CLIENTS.len());
    let call = prop_oneof![
        Just(Call::Get),
        Just(Call::Wait),
        Just(Call::Wait),
        Just(Call::Renew { token: None })
    ];
    let by = prop_oneof![Just(By::Token), Just(By::Run), Just(By::WrongToken)];
    let expire = prop_oneof![1 => Just(None), 3 => (1000..3000u64).prop_map(|ms| Some(Duration::from_millis(ms)))];
    let planned = prop_oneof![1 => Just(None), 4 => (1..4u32, expire).prop_map(Some)];
    prop_oneof![
        12 => (call, pool.clone(), client.clone()).prop_map(|(call, pool, client)| Event::Ask { call, pool, client }),
        6 => (pool.clone(), client.clone(), by).prop_map(|(pool, client, by)| Event::Release { pool, client, by }),
        1 => (pool.clone(), client).prop_map(|(pool, client)| Event::Revoke { pool, client }),
        2 => any::<usize>().prop_map(Event::HangUp),
        3 => (1..700u64).prop_map(|ms| Event::Pass(Duration::from_millis(ms))),
        12 => Just(Event::Drain),
        12 => Just(Event::Saved),
        2 => any::<bool>().prop_map(|written| Event::NotSaved { written }),
        1 => Just(Event::LoseNext),
        2 => Just(Event::LoseNextReceipt),
        2 => Just(Event::Undelivered),
        2 => (pool, planned, any::<bool>()).prop_map(|(pool, plan, reload)| Event::Configure { pool, plan, reload }),
        1 => (-5000..5000i64).prop_map(Event::SetClock),
        2 => any::<(bool, bool)>().prop_map(|(written, reboot)| Event::Crash { written, reboot }),
    ]
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

/// A request that has no answer yet.
#[derive(Clone, Copy, Debug)]
struct Open {
    call: Call,
    pool: usize,
    client: usize,
    sent: Duration,
}

/// A server, its disk, and what its clients were told. Times are of a clock that no crash stops.
struct World {
    server: Driver<Memory>,
    plans: [Planned; POOLS.len()],
    was_missing: [bool; POOLS.len()],
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
    open: BTreeMap<u64, Open>,
    gone: BTreeSet<u64>,
    promises: Promises,
    next: Next,
    /// The token that each client was told last.
    told: BTreeMap<(usize, usize), i64>,
    lost: Vec<(usize, usize, i64)>,
}

fn client(number: usize) -> Client {
    let (host, run) = CLIENTS[number];
    Client {
        host: host.into(),
        run: run.map(str::to_owned),
    }
}

impl World {
    fn new(durable: bool) -> World {
        let plans = [Some((1, Some(Duration::from_secs(2)))), Some((2, None))];
        let server = Memory::new(
            pools(plans),
            durable.then(State::default),
            0,
            Moment::default(),
        );
        let mut promises = Promises::default();
        promises.maxlocks_is(POOLS[0], 1);
        promises.maxlocks_is(POOLS[1], 2);
        World {
            server: Driver::new(server, Moment::default()),
            plans,
            was_missing: [false; POOLS.len()],
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
            gone: BTreeSet::new(),
            promises,
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
        Clocks {
            boot: Some(format!("{:?}", self.booted)),
            date,
            uptime: milliseconds(self.clock.saturating_sub(self.booted)),
        }
    }

    fn happen(&mut self, event: &Event) {
        match *event {
            Event::Ask { call, pool, client } => self.ask(call, pool, client),
            Event::Release { pool, client, by } => self.release(pool, client, by),
            Event::Revoke { pool, client } => {
                self.promises
                    .revokes(POOLS[pool], CLIENTS[client].0, self.clock);
                self.ask(Call::Revoke { token: None }, pool, client);
            }
            Event::HangUp(choice) if !self.open.is_empty() => {
                let ticket = *self.open.keys().nth(choice % self.open.len()).unwrap();
                self.open.remove(&ticket);
                self.gone.insert(ticket);
                self.tell(Input::Cancelled(Ticket(ticket)));
            }
            Event::HangUp(_) => {}
            Event::Pass(time) => self.clock += time,
            Event::Drain => self.drain(),
            Event::Saved => self.saved(),
            Event::NotSaved { written } => {
                if let Some(text) = self.writing.take() {
                    self.failing = true;
                    self.disk = if written {
                        Some(text)
                    } else {
                        self.disk.take()
                    };
                    self.tell(Input::NotSaved("disk full".into()));
                }
            }
            Event::LoseNext => self.next = Next::IsLost,
            Event::LoseNextReceipt => self.next = Next::LosesItsReceipt,
            Event::Undelivered => {
                for (pool, client, token) in std::mem::take(&mut self.lost) {
                    self.tell(Input::Undelivered {
                        pool: POOLS[pool],
                        host: CLIENTS[client].0,
                        token,
                    });
                }
            }
            Event::Configure { pool, plan, reload } => {
                self.plans[pool] = plan;
                self.was_missing[pool] |= plan.is_none();
                if reload {
                    let (plans, now) = (pools(self.plans), self.now());
                    self.server.input(now, |it| it.reconfigure(plans, now));
                    self.has_read_its_config();
                }
            }
            Event::SetClock(ahead) => self.ahead = ahead,
            Event::Crash { written, reboot } if self.durable => self.crash(written, reboot),
            Event::Crash { .. } => {}
        }
    }

    fn tell(&mut self, input: Input) {
        let now = self.now();
        self.server.input(now, |it| it.handle(input, now));
    }

    fn ask(&mut self, call: Call, pool: usize, client: usize) {
        self.tickets += 1;
        let call = match call {
            Call::Renew { .. } => Call::Renew {
                token: self.told.get(&(pool, client)).copied(),
            },
            call => call,
        };
        self.open.insert(
            self.tickets,
            Open {
                call,
                pool,
                client,
                sent: self.clock,
            },
        );
        let (host, run) = CLIENTS[client];
        let run = run.filter(|_| !matches!(call, Call::Revoke { .. }));
        let request = Request {
            ticket: Ticket(self.tickets),
            call,
            pool: POOLS[pool],
            host,
            run,
            outer: &[],
        };
        self.tell(Input::Request(request));
    }

    fn release(&mut self, pool: usize, number: usize, by: By) {
        let token = self
            .promises
            .token(POOLS[pool], &client(number), self.clock);
        let token = match by {
            By::Token => token,
            By::Run => None,
            By::WrongToken => {
                Some(token.map_or(1, |token| token + if token % 2 == 0 { 1 } else { -1 }))
            }
        };
        self.promises.releases(POOLS[pool], &client(number), token);
        self.ask(Call::Release { token }, pool, number);
    }

    fn saved(&mut self) {
        if let Some(text) = self.writing.take() {
            self.failing = false;
            self.disk = Some(text);
            self.tell(Input::Saved);
        }
    }

    fn crash(&mut self, written: bool, reboot: bool) {
        if let Some(text) = self.writing.take().filter(|_| written) {
            self.disk = Some(text);
        }
        if reboot {
            self.booted = self.clock;
        }
        let boot = format!("\"{:?}\"", self.booted);
        if self.disk.as_ref().is_some_and(|text| !text.contains(&boot)) {
            // Since the boot that the file is of, only the clock tells how much time has passed: if
            // it gains, it looks as if it were more.
            self.ahead = self.ahead.min(self.ahead_when_saved);
        }
        let read = |text: &String| {
            State::parse(text.as_bytes(), Path::new("state"), &self.clocks()).unwrap()
        };
        let state = self.disk.as_ref().map(read).unwrap_or_default();
        let server = Memory::new(pools(self.plans), Some(state), 0, self.now());
        self.server = Driver::new(server, self.now());
        self.has_read_its_config();
        self.failing = false;
        self.open.clear();
        self.lost.clear();
    }

    /// What is answered from now on is by the config as it is; but a grant that was decided before
    /// it changed may be told after it.
    fn has_read_its_config(&mut self) {
        for (pool, plan) in POOLS.iter().zip(self.plans) {
            self.promises
                .maxlocks_may_be(pool, plan.map_or(0, |(permits, _)| permits));
        }
    }

    /// Does what the loop does, but leaves open what becomes of a save.
    fn drain(&mut self) {
        self.server.jump(self.now());
        while let Some(output) = self.server.next_report(&mut NoPeer) {
            match output {
                Output::Answer(Ticket(ticket), answer) => self.answered(ticket, &answer),
                Output::Save(state) => {
                    assert!(self.durable && self.writing.is_none(), "one save at a time");
                    self.ahead_when_saved = self.ahead.min(self.ahead_when_saved);
                    self.writing = Some(state.text(&self.clocks()));
                }
                Output::Note(..) => {}
                output => panic!("not asked for: {output:?}"),
            }
        }
        self.check_rest();
    }

    fn answered(&mut self, ticket: u64, answer: &Answer) {
        if self.gone.remove(&ticket) {
            return assert!(
                !matches!(answer, Answer::Yes(_)),
                "no client is there to hear {answer:?}"
            );
        }
        let open @ Open {
            call,
            pool,
            client: number,
            sent,
        } = self
            .open
            .remove(&ticket)
            .expect("each request has one answer");
        let (name, span) = (POOLS[pool], (sent, self.clock));
        match (call, answer) {
            (_, Answer::Invalid(_)) => assert!(self.was_missing[pool], "{open:?} is INVALID"),
            (_, Answer::Unavailable(_)) if self.failing || call != Call::Wait => {}
            (Call::Release { .. }, Answer::Ok | Answer::NotReleased(_))
            | (Call::Revoke { .. }, Answer::NotHeld) => {}
            (Call::Revoke { .. }, Answer::Revocation { token, .. }) => {
                self.promises
                    .is_revoked(name, token.expect("it is known here"), self.clock);
            }
            (Call::Get | Call::Wait, Answer::Yes(grant)) => {
                self.granted(open, None, grant.token, grant.expires);
            }
            (Call::Renew { token }, Answer::Yes(grant)) => {
                self.granted(open, token, grant.token, grant.expires);
            }
            (Call::Get | Call::Renew { .. }, Answer::No) => {
                self.promises.no(name, &client(number), false, span);
            }
            (Call::Get | Call::Renew { .. } | Call::Wait, Answer::NoRevoked) => {
                self.promises.no(name, &client(number), true, span);
            }
            _ => panic!("{open:?} is answered {answer:?}"),
        }
        assert_eq!(self.promises.violations, [""; 0]);
    }

    fn granted(
        &mut self,
        Open {
            pool,
            client: number,
            ..
        }: Open,
        renewed: Option<i64>,
        token: i64,
        expires: Option<Duration>,
    ) {
        let next = std::mem::take(&mut self.next);
        if next != Next::Arrives {
            self.lost.push((pool, number, token));
        }
        if next != Next::IsLost {
            self.told.insert((pool, number), token);
        }
        if next == Next::IsLost || next == Next::LosesItsReceipt && renewed != Some(token) {
            return;
        }
        // It hears it in the instant in which it is told.
        self.promises.yes(
            POOLS[pool],
            &client(number),
            token,
            expires,
            (self.clock, self.clock),
        );
    }

    /// No client waits for a slot that it could have, or for an answer that can be given.
    fn check_rest(&self) {
        if self.writing.is_some() || self.failing {
            return;
        }
        let report = self.server.machine.report(self.now());
        for pool in &report {
            let next = let_in(pool);
            assert!(next.is_empty(), "{next:?} could hold {pool:?}");
        }
        assert!(
            self.open.values().all(|open| open.call == Call::Wait),
            "{:?}",
            self.open
        );
        assert_eq!(
            report.iter().map(|pool| pool.waiters.len()).sum::<usize>(),
            self.open.len()
        );
    }

    /// From now on the disk works, and holders release at once, one after the other.
    fn come_to_an_end(&mut self) {
        self.next = Next::Arrives;
        self.settle();
        self.clock += Duration::from_secs(1); // until a save that failed is tried again
        self.settle();
        for (pool, name) in POOLS.into_iter().enumerate() {
            while let Some((host, waiting)) = self.first_holder(pool) {
                let number = CLIENTS
                    .iter()
                    .position(|(other, _)| **other == host)
                    .unwrap();
                let tickets: Vec<_> = self
                    .open
                    .iter()
                    .filter(|(_, open)| open.pool == pool)
                    .map(|(ticket, _)| *ticket)
                    .collect();
                let expected: Vec<_> = waiting.iter().map(|index| tickets[*index]).collect();
                self.promises
                    .releases(name, &Client { host, run: None }, None);
                self.tickets += 1;
                let open = Open {
                    call: Call::Release { token: None },
                    pool,
                    client: number,
                    sent: self.clock,
                };
                self.open.insert(self.tickets, open);
                let request = Request {
                    ticket: Ticket(self.tickets),
                    call: open.call,
                    pool: name,
                    host: CLIENTS[number].0,
                    run: None,
                    outer: &[],
                };
                self.tell(Input::Request(request));
                self.settle();
                let answered: Vec<_> = tickets
                    .into_iter()
                    .filter(|ticket| !self.open.contains_key(ticket))
                    .collect();
                assert_eq!(
                    answered, expected,
                    "let in after {} released",
                    CLIENTS[number].0
                );
            }
        }
        assert!(self.open.is_empty(), "{:?}", self.open);
    }

    /// A holder of the pool, and which waiters are next when it has released it.
    fn first_holder(&self, pool: usize) -> Option<(String, Vec<usize>)> {
        let mut report = self
            .server
            .machine
            .report(self.now())
            .into_iter()
            .find(|report| report.pool == POOLS[pool])?;
        let host =
            (!report.holders.is_empty()).then(|| report.holders.remove(0).host.into_owned())?;
        Some((host, let_in(&report)))
    }

    fn settle(&mut self) {
        self.drain();
        while self.writing.is_some() {
            self.saved();
            self.drain();
        }
    }
}

fn pools(plans: [Planned; POOLS.len()]) -> Vec<plan::Pool> {
    let named = POOLS.iter().zip(plans);
    let pool = |(name, plan): (&&str, Planned)| {
        let (permits, expire) = plan?;
        Some(plan::Pool {
            name: (*name).into(),
            expire,
            permits,
            servers: None,
        })
    };
    named.filter_map(pool).collect()
}

/// Which of the waiters get a slot, in their order: one after the other as long as there is room,
/// with all that hold it with them, and without those of whose host another run holds.
fn let_in(pool: &Report) -> Vec<usize> {
    let waiters: Vec<_> = pool
        .waiters
        .iter()
        .map(|waiter| (&*waiter.host, waiter.run))
        .collect();
    let mut holders: BTreeMap<&str, Option<&str>> = BTreeMap::new();
    let blocked: BTreeSet<_> = pool.holders.iter().map(|holder| &*holder.host).collect();
    for (host, run) in &waiters {
        let room = usize::try_from(pool.permits)
            .unwrap()
            .saturating_sub(blocked.len() + holders.len());
        if room > 0 && !blocked.contains(host) {
            holders.entry(host).or_insert(*run);
        }
    }
    let holds = |(host, run): &(&str, Option<&str>)| {
        holders
            .get(host)
            .is_some_and(|holder| holder.is_none() || holder == run)
    };
    waiters
        .iter()
        .enumerate()
        .filter(|(_, waiter)| holds(waiter))
        .map(|(index, _)| index)
        .collect()
}

/// Plays many worlds of that many events at most.
fn play(durable: bool) {
    let mut runner = TestRunner::new(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let played = runner.run(&prop::collection::vec(event(), 0..120), |events| {
        let mut world = World::new(durable);
        events.iter().for_each(|event| world.happen(event));
        world.come_to_an_end();
        Ok(())
    });
    played.unwrap_or_else(|failure| panic!("{failure}"));
}

#[test]
fn a_server_that_dies_anywhere_keeps_what_it_told() {
    play(true);
}

#[test]
fn a_server_without_a_file_keeps_what_it_told() {
    play(false);
}
