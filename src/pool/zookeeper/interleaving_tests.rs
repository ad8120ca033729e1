//! Three servers, their networks and a ZooKeeper, in any order of events: what a client was told
//! holds, and in the end every waiter acquires the pool.

use super::super::{Answer, Backend, Call, Grant, Input, Output, Request, Target, Ticket};
use super::ZooKeeper;
use super::fake::{POOL, server};
use super::record::Record;
use super::shared_pool::SharedPool;
use crate::lock::zookeeper::Fake;
use crate::moment::Moment;
use crate::plan;
use crate::testing::{Connection, Delivery, Driver, Peer, Reply};
use crate::transport::{self, Address};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

const SERVERS: usize = 3;
const HOSTS: [&str; 4] = ["a", "b", "c", "d"];
/// The run ids of a host: none, or one of its runs.
const RUNS: [Option<&str>; 3] = [None, Some("1"), Some("2")];

#[derive(Clone, Debug)]
enum Event {
    Ask {
        call: Call,
        client: Client,
        server: usize,
    },
    /// A client releases what it holds as far as it knows, or nothing.
    Release {
        client: Client,
        server: usize,
        by: By,
    },
    Revoke {
        host: usize,
        server: usize,
    },
    /// A client that holds the pool renews its lease.
    Confirm {
        choice: usize,
        server: usize,
    },
    /// A client hangs up; `None`: the one that asked last.
    HangUp(Option<usize>),
    Pass(Duration),
    /// A server does all that is due.
    Drain,
    /// ZooKeeper executes what a server has sent, or only the first of its requests.
    Arrive {
        server: usize,
        one: bool,
    },
    /// This many bytes of the replies reach the server.
    Return {
        server: usize,
        bytes: usize,
    },
    /// The connection breaks; what was on its way may still arrive.
    Cut {
        server: usize,
        arrives: bool,
    },
    /// The session of a server ends.
    Expire {
        server: usize,
    },
    /// The sessions of killed servers end.
    Bury,
    /// A server is killed and started again.
    Kill {
        server: usize,
        arrives: bool,
    },
    /// The `expire` of a server changes, and the hosts that may acquire the pool there: all, or one
    /// not.
    Configure {
        server: usize,
        expire: u64,
        without: Option<usize>,
    },
    /// The member that a server is connected to gets no changes for a while; it is a leader without
    /// a majority.
    FallBehind {
        server: usize,
        is_cut_off: bool,
    },
    /// All members have all changes.
    Heal,
    /// The next YES does not arrive.
    LoseNext,
    /// The servers learn which YES did not arrive, or only of the newest one.
    Undelivered(bool),
}

/// A host and a run of it.
type Client = (usize, usize);

#[derive(Clone, Copy, Debug)]
enum By {
    Token,
    /// An old token, or that of another holding.
    OtherToken(usize),
    Run,
    Host,
}

fn event() -> impl Strategy<Value = Event> {
    let client = || (0..HOSTS.len(), 0..RUNS.len());
    let server = || 0..SERVERS;
    let call = prop_oneof![
        Just(Call::Get),
        Just(Call::Wait),
        Just(Call::Wait),
        Just(Call::Renew { token: None })
    ];
    let by = prop_oneof![2 => Just(By::Token), 1 => any::<usize>().prop_map(By::OtherToken), 1 => Just(By::Run), 1 => Just(By::Host)];
    prop_oneof![
        8 => (call, client(), server()).prop_map(|(call, client, server)| Event::Ask { call, client, server }),
        4 => (client(), server(), by).prop_map(|(client, server, by)| Event::Release { client, server, by }),
        1 => (0..HOSTS.len(), server()).prop_map(|(host, server)| Event::Revoke { host, server }),
        4 => (any::<usize>(), server()).prop_map(|(choice, server)| Event::Confirm { choice, server }),
        2 => prop_oneof![Just(None), any::<usize>().prop_map(Some)].prop_map(Event::HangUp),
        4 => prop_oneof![4 => 1..700u64, 1 => 900..2000u64].prop_map(|milliseconds| Event::Pass(Duration::from_millis(milliseconds))),
        30 => Just(Event::Drain),
        20 => (server(), prop::bool::weighted(0.4)).prop_map(|(server, one)| Event::Arrive { server, one }),
        20 => (server(), prop_oneof![1..40usize, Just(usize::MAX), Just(usize::MAX)]).prop_map(|(server, bytes)| Event::Return { server, bytes }),
        2 => (server(), any::<bool>()).prop_map(|(server, arrives)| Event::Cut { server, arrives }),
        1 => server().prop_map(|server| Event::Expire { server }),
        1 => Just(Event::Bury),
        1 => (server(), any::<bool>()).prop_map(|(server, arrives)| Event::Kill { server, arrives }),
        1 => (server(), prop_oneof![Just(0), 1..8u64], prop_oneof![Just(None), (0..HOSTS.len()).prop_map(Some)]).prop_map(|(server, expire, without)| Event::Configure { server, expire, without }),
        2 => (server(), any::<bool>()).prop_map(|(server, is_cut_off)| Event::FallBehind { server, is_cut_off }),
        1 => Just(Event::Heal),
        4 => Just(Event::LoseNext),
        3 => any::<bool>().prop_map(Event::Undelivered),
    ]
}

/// A server and its connection.
struct Site {
    driver: Driver<ZooKeeper>,
    wire: Wire,
    /// All sessions that the server has had.
    sessions: BTreeSet<i64>,
}

/// What is on its way between a server and ZooKeeper.
struct Wire {
    ensemble: Rc<RefCell<Fake>>,
    connection: Option<Connection>,
    sent: Vec<u8>,
    returned: Vec<u8>,
    /// ZooKeeper has closed the connection.
    is_closed: bool,
}

impl Wire {
    fn new(ensemble: &Rc<RefCell<Fake>>) -> Wire {
        Wire {
            ensemble: ensemble.clone(),
            connection: None,
            sent: Vec::new(),
            returned: Vec::new(),
            is_closed: false,
        }
    }

    /// ZooKeeper executes the first request, or all of them.
    fn arrive(&mut self, one: bool, now: Moment) {
        let Some(connection) = self.connection else {
            return;
        };
        let mut fake = self.ensemble.borrow_mut();
        let mut rest = &self.sent[..];
        while !rest.is_empty() {
            let (message, more) = rest.split_at(Peer::<Address>::message(&*fake, rest));
            Peer::<Address>::receive(&mut *fake, connection, message, now);
            rest = more;
            if one {
                break;
            }
        }
        self.sent = rest.to_vec();
    }

    /// Collects what ZooKeeper has answered.
    fn collect(&mut self, now: Moment) {
        let Some(connection) = self.connection else {
            return;
        };
        let mut fake = self.ensemble.borrow_mut();
        while let Some(delivery) = Peer::<Address>::deliver(&mut *fake, connection, now) {
            match delivery {
                Delivery::Bytes(bytes) => self.returned.extend(bytes),
                Delivery::End(_) => return self.is_closed = true,
            }
        }
    }
}

impl Peer<Target> for Wire {
    fn connect(&mut self, to: Target, now: Moment) -> Reply {
        let mut fake = self.ensemble.borrow_mut();
        let reply = fake.connect(to.expect("an address"), now);
        if let Reply::Accepted(connection) = reply {
            self.connection = Some(connection);
        }
        reply
    }

    fn receive(&mut self, _: Connection, bytes: &[u8], _: Moment) {
        self.sent.extend(bytes);
    }

    fn close(&mut self, _: Connection) {
        self.sent.clear();
        self.returned.clear();
        self.is_closed = false;
        if let Some(connection) = self.connection.take() {
            Peer::<Address>::close(&mut *self.ensemble.borrow_mut(), connection);
        }
    }

    /// Events alone move what is on its way.
    fn deliver(&mut self, _: Connection, _: Moment) -> Option<Delivery> {
        None
    }
}

struct World {
    sites: Vec<Site>,
    ensemble: Rc<RefCell<Fake>>,
    permits: u32,
    expire: Option<Duration>,
    /// The sessions of killed servers, and those of them that have not ended.
    killed: BTreeSet<i64>,
    dead: Vec<i64>,
    /// The tokens of all YES.
    sent: BTreeSet<i64>,
    now: Moment,
    tickets: u64,
    /// Open requests by ticket: the call, the client, the server.
    open: BTreeMap<u64, (Call, Client, usize)>,
    gone: BTreeMap<u64, (Call, Client, usize)>,
    /// The token by which a client holds the pool as far as it knows, and until when.
    beliefs: BTreeMap<Client, (i64, Moment)>,
    /// All tokens that clients were told.
    tokens: Vec<i64>,
    /// Tokens that their clients have released, and do not rely on any more.
    given_up: BTreeSet<i64>,
    /// Revoked tokens, each with the ticket before which it may still be confirmed.
    revoked: BTreeMap<i64, u64>,
    last_token: i64,
    lose_next: bool,
    lost: Vec<(usize, Client, i64)>,
}

fn plan(permits: u32, expire: Option<Duration>) -> plan::Pool {
    plan::Pool {
        name: "one".into(),
        expire,
        permits,
        servers: None,
    }
}

impl World {
    fn new(permits: u32, expire: Option<Duration>) -> World {
        let ensemble = Rc::new(RefCell::new(Fake::default()));
        let pools = vec![plan(permits, expire)];
        let site = || Site {
            driver: Driver::new(server(pools.clone(), Moment::default()), Moment::default()),
            wire: Wire::new(&ensemble),
            sessions: BTreeSet::new(),
        };
        World {
            sites: (0..SERVERS).map(|_| site()).collect(),
            ensemble: ensemble.clone(),
            permits,
            expire,
            killed: BTreeSet::new(),
            dead: Vec::new(),
            sent: BTreeSet::new(),
            now: Moment(Duration::from_millis(300)),
            tickets: 0,
            open: BTreeMap::new(),
            gone: BTreeMap::new(),
            beliefs: BTreeMap::new(),
            tokens: Vec::new(),
            given_up: BTreeSet::new(),
            revoked: BTreeMap::new(),
            last_token: 0,
            lose_next: false,
            lost: Vec::new(),
        }
    }

    fn happen(&mut self, event: &Event) {
        match *event {
            Event::Ask {
                call,
                client,
                server,
            } => self.ask(call, client, server),
            Event::Release { client, server, by } => self.release(client, server, by),
            Event::Revoke { host, server } => {
                self.ask(Call::Revoke { token: None }, (host, 0), server);
            }
            Event::Confirm { choice, server } => {
                let holders: Vec<_> = self.beliefs.keys().copied().collect();
                if let Some(client) = holders.get(choice % holders.len().max(1)) {
                    self.ask(Call::Renew { token: None }, *client, server);
                }
            }
            Event::HangUp(choice) => self.hang_up(choice),
            Event::Pass(time) => self.now = self.now + time,
            Event::Drain => (0..SERVERS).for_each(|server| self.drain(server)),
            Event::Arrive { server, one } => self.sites[server].wire.arrive(one, self.now),
            Event::Return { server, bytes } => {
                self.sites[server].wire.collect(self.now);
                let bytes = bytes.min(self.sites[server].wire.returned.len());
                let returned: Vec<_> = self.sites[server].wire.returned.drain(..bytes).collect();
                self.tell(
                    server,
                    Input::Transport(transport::Event::Received(&returned)),
                );
                let wire = &self.sites[server].wire;
                if wire.is_closed && wire.returned.is_empty() {
                    self.cut(server, false);
                }
            }
            Event::Cut { server, arrives } => self.cut(server, arrives),
            Event::Expire { server } => {
                if let Some(session) = self.sites[server].driver.machine.session.id() {
                    self.ensemble.borrow_mut().end(session);
                }
            }
            Event::Bury => {
                for session in std::mem::take(&mut self.dead) {
                    self.ensemble.borrow_mut().end(session);
                }
            }
            Event::Kill { server, arrives } => self.kill(server, arrives),
            Event::Configure {
                server,
                expire,
                without,
            } => {
                self.expire = (expire > 0).then(|| Duration::from_secs(expire));
                let mut plan = plan(self.permits, self.expire);
                plan.servers = without.map(|without| {
                    let hosts = HOSTS.iter().filter(|host| **host != HOSTS[without]);
                    hosts.map(ToString::to_string).collect()
                });
                let (pools, now) = (vec![plan], self.now);
                self.sites[server]
                    .driver
                    .input(now, |server| server.reconfigure(pools, now));
            }
            Event::LoseNext => self.lose_next = true,
            Event::FallBehind { server, is_cut_off } => {
                if let Some(session) = self.sites[server].driver.machine.session.id() {
                    self.ensemble.borrow_mut().fall_behind(session, is_cut_off);
                }
            }
            Event::Heal => self.ensemble.borrow_mut().heal(),
            Event::Undelivered(newest) => {
                let older = if newest {
                    self.lost.len().saturating_sub(1)
                } else {
                    0
                };
                for (server, (host, _), token) in self.lost.split_off(older) {
                    self.tell(
                        server,
                        Input::Undelivered {
                            pool: "one",
                            host: HOSTS[host],
                            token,
                        },
                    );
                }
            }
        }
    }

    fn tell(&mut self, server: usize, input: Input) {
        let now = self.now;
        let Site {
            driver, sessions, ..
        } = &mut self.sites[server];
        driver.input(now, |server| server.handle(input, now));
        sessions.extend(driver.machine.session.id());
    }

    /// A client makes a request, but not while a release of its host is open: it would not know
    /// which came first.
    fn ask(&mut self, call: Call, client: Client, server: usize) {
        let (host, run) = client;
        let lets_go = |(call, other, _): &(Call, Client, usize)| {
            matches!(call, Call::Release { .. }) && other.0 == host
        };
        if self.open.values().any(lets_go) && !matches!(call, Call::Revoke { .. }) {
            return;
        }
        let call = match call {
            Call::Renew { .. } => Call::Renew {
                token: self.beliefs.get(&client).map(|(token, _)| *token),
            },
            call => call,
        };
        self.tickets += 1;
        self.open.insert(self.tickets, (call, client, server));
        let request = Request {
            ticket: Ticket(self.tickets),
            call,
            pool: "one",
            host: HOSTS[host],
            run: RUNS[run],
            outer: &[],
        };
        self.tell(server, Input::Request(request));
    }

    fn release(&mut self, client: Client, server: usize, by: By) {
        let (host, run) = client;
        let believed = self.beliefs.get(&client).map(|(token, _)| *token);
        let ask =
            |world: &mut World, token, run| world.ask(Call::Release { token }, (host, run), server);
        match by {
            By::Token => {
                let Some(token) = believed else { return };
                self.forget(|_, other| other == token);
                ask(self, Some(token), run);
            }
            By::OtherToken(choice) => {
                let of_host: Vec<_> = self
                    .beliefs
                    .iter()
                    .filter(|((other, _), _)| *other == host)
                    .map(|(_, (token, _))| *token)
                    .collect();
                let tokens: Vec<_> = self
                    .tokens
                    .iter()
                    .filter(|token| !of_host.contains(token))
                    .collect();
                let token = tokens
                    .get(choice % tokens.len().max(1))
                    .map_or(7, |token| **token);
                ask(self, Some(token), run);
            }
            By::Run if run > 0 => {
                // A holding of the host is not its own, although it was told of it.
                self.forget(|other, _| other == client);
                ask(self, None, run);
            }
            By::Run | By::Host => {
                self.forget(|(other, _), _| other == host);
                ask(self, None, 0);
            }
        }
    }

    /// These clients do not rely on their holdings any more.
    fn forget(&mut self, is_it: impl Fn(Client, i64) -> bool) {
        let over = self
            .beliefs
            .iter()
            .filter(|(client, (token, _))| is_it(**client, *token))
            .map(|(client, (token, _))| (*client, *token));
        for (client, token) in over.collect::<Vec<_>>() {
            self.beliefs.remove(&client);
            if self.beliefs.values().all(|(other, _)| *other != token) {
                self.given_up.insert(token);
            }
        }
    }

    /// A client hangs up, but not during a release: it would not know when the holding ended.
    fn hang_up(&mut self, choice: Option<usize>) {
        let mut open: Vec<_> = self
            .open
            .iter()
            .map(|(ticket, asked)| (*ticket, *asked))
            .collect();
        open.retain(|(_, (call, ..))| !matches!(call, Call::Release { .. } | Call::Revoke { .. }));
        let choice = choice.unwrap_or(open.len().saturating_sub(1));
        if let Some((ticket, (call, client, server))) = open.get(choice % open.len().max(1)) {
            self.open.remove(ticket);
            self.gone.insert(*ticket, (*call, *client, *server));
            self.tell(*server, Input::Cancelled(Ticket(*ticket)));
        }
    }

    fn cut(&mut self, server: usize, arrives: bool) {
        let Site { driver, wire, .. } = &mut self.sites[server];
        if arrives {
            wire.arrive(false, self.now);
        }
        driver.cut(self.now, wire);
    }

    /// All open requests to this server end without an answer.
    fn kill(&mut self, server: usize, arrives: bool) {
        let site = &mut self.sites[server];
        self.killed.append(&mut site.sessions);
        self.dead.extend(site.driver.machine.session.id());
        self.cut(server, arrives);
        let pools = vec![plan(self.permits, self.expire)];
        self.sites[server].driver = Driver::new(self::server(pools, self.now), self.now);
        self.open.retain(|_, (_, _, asked)| *asked != server);
        self.gone.retain(|_, (_, _, asked)| *asked != server);
        self.lost.retain(|(other, ..)| *other != server);
    }

    fn drain(&mut self, server: usize) {
        self.sites[server].driver.jump(self.now);
        loop {
            let Site { driver, wire, .. } = &mut self.sites[server];
            match driver.next_report(wire) {
                Some(Output::Answer(Ticket(ticket), answer)) => self.answered(ticket, &answer),
                Some(Output::Note(..)) => {}
                Some(output) => panic!("not asked for: {output:?}"),
                None => {
                    let mut pools = driver.machine.pools.iter();
                    return assert!(pools.all(SharedPool::is_consistent));
                }
            }
        }
    }

    fn answered(&mut self, ticket: u64, answer: &Answer) {
        if self.gone.remove(&ticket).is_some() {
            return assert!(
                !matches!(answer, Answer::Yes(_)),
                "no client is connected to receive {answer:?}"
            );
        }
        let (call, client, server) = self
            .open
            .remove(&ticket)
            .expect("each request has one answer");
        match (call, answer) {
            (
                Call::Release { .. },
                Answer::Ok | Answer::NotReleased(_) | Answer::Unavailable(_),
            ) => {}
            (Call::Get | Call::Wait | Call::Renew { .. }, Answer::Yes(grant)) => {
                self.granted(ticket, client, server, *grant);
            }
            (Call::Get | Call::Renew { .. }, Answer::No) => {
                assert!(
                    !self.believes(client),
                    "{client:?} holds the pool: {:?}",
                    self.beliefs
                );
            }
            (Call::Get | Call::Wait | Call::Renew { .. }, Answer::NoRevoked) => {
                let believed = self.beliefs.get(&client).filter(|_| self.believes(client));
                assert!(
                    believed.is_none_or(|(token, _)| self.revoked.contains_key(token)),
                    "it is not revoked"
                );
            }
            (Call::Revoke { .. }, Answer::Revocation { token, .. }) => {
                _ = self.revoked.entry(token.unwrap()).or_insert(self.tickets);
            }
            // The config of this server does not allow the host. Holders keep the pool.
            (call, Answer::Invalid(_)) => assert!(
                !call.keeps() || !self.believes(client),
                "{client:?} holds the pool: {:?}",
                self.beliefs
            ),
            (Call::Get | Call::Renew { .. }, Answer::Unavailable(_))
            | (Call::Revoke { .. }, Answer::Unavailable(_) | Answer::NotHeld) => {}
            _ => panic!("{call:?} is answered {answer:?}"),
        }
    }

    fn granted(
        &mut self,
        ticket: u64,
        client: Client,
        server: usize,
        Grant { token, expires }: Grant,
    ) {
        self.sent.insert(token);
        let asked_before = |known: &u64| ticket <= *known;
        assert!(
            self.revoked.get(&token).is_none_or(asked_before),
            "{token} is revoked"
        );
        if std::mem::take(&mut self.lose_next) {
            return self.lost.push((server, client, token));
        }
        if self.given_up.contains(&token) {
            return;
        }
        // A client that releases meanwhile, perhaps at another server, cannot know which came
        // first.
        let lets_go = |(call, other, _): &(Call, Client, usize)| {
            matches!(call, Call::Release { .. }) && other.0 == client.0
        };
        if self.open.values().any(lets_go)
            && self.beliefs.values().all(|(known, _)| *known != token)
        {
            self.given_up.insert(token);
            return;
        }
        let alive = |until: &Moment| *until > self.now;
        let mut others: BTreeSet<_> = self
            .beliefs
            .values()
            .filter(|(_, until)| alive(until))
            .map(|(token, _)| *token)
            .collect();
        others.remove(&token);
        assert!(
            others.len() < usize::try_from(self.permits).unwrap(),
            "{client:?} by {token} at {:?} beside {:?}",
            self.now,
            self.beliefs
        );
        let of_host = self.beliefs.iter().filter(|((host, run), (_, until))| {
            *host == client.0 && *run != client.1 && alive(until)
        });
        for (other, (known, _)) in of_host {
            assert_eq!(*known, token, "{client:?} beside {other:?}");
            assert!(
                self.is_of_the_host(client.0, token),
                "{client:?} beside {other:?}"
            );
        }
        if self.permits == 1 && !self.believes(client) {
            assert!(token >= self.last_token, "tokens grow");
        }
        self.last_token = self.last_token.max(token);
        if !self.tokens.contains(&token) {
            self.tokens.push(token);
        }
        let until = expires.map_or(Moment::NEVER, |left| self.now + left);
        let known = self
            .beliefs
            .get(&client)
            .filter(|(known, _)| *known == token)
            .map_or(until, |(_, known)| until.max(*known));
        self.beliefs.insert(client, (token, known));
    }

    /// Whether a holding belongs to the host, as far as the node shows.
    fn is_of_the_host(&self, host: usize, token: i64) -> bool {
        let fake = self.ensemble.borrow();
        let record = Record::parse(&fake.nodes[POOL].data).expect("a valid record");
        record
            .holders
            .get(HOSTS[host])
            .is_none_or(|holding| holding.token != token || holding.run.is_none())
    }

    fn believes(&self, client: Client) -> bool {
        self.beliefs
            .get(&client)
            .is_some_and(|(_, until)| *until > self.now)
    }

    /// From now on the network works, and each client releases at once, twice, because a server may
    /// still take a holding back.
    fn come_to_an_end(&mut self) {
        self.lose_next = false;
        self.happen(&Event::Bury);
        self.happen(&Event::Heal);
        self.happen(&Event::Undelivered(false));
        (0..8).for_each(|_| self.settle());
        self.expect_that_each_holder_was_told();
        for round in 0..8 * HOSTS.len() {
            (0..HOSTS.len())
                .for_each(|host| self.release((host, 0), (host + round) % SERVERS, By::Host));
            self.settle();
        }
        assert_eq!(self.open, BTreeMap::new());
        self.expect_that_nothing_is_left();
    }

    /// The servers do all that is to be done, and some time passes.
    fn settle(&mut self) {
        for _ in 0..20 {
            for server in 0..SERVERS {
                self.drain(server);
                self.sites[server].wire.arrive(false, self.now);
                self.happen(&Event::Return {
                    server,
                    bytes: usize::MAX,
                });
                self.drain(server);
            }
        }
        self.happen(&Event::Pass(Duration::from_millis(300)));
    }

    /// Of each holding a client was told, unless a server that might have told it was killed.
    fn expect_that_each_holder_was_told(&self) {
        let fake = self.ensemble.borrow();
        let Some(node) = fake.nodes.get(POOL) else {
            return;
        };
        let record = Record::parse(&node.data).expect("a valid record");
        for (host, holding) in &record.holders {
            assert!(
                self.sent.contains(&holding.token)
                    || holding.told_by.iter().any(|it| self.killed.contains(it)),
                "no client knows that {host} holds the pool by {}",
                holding.token
            );
        }
    }

    /// No holding, no entry, and nothing at a server.
    fn expect_that_nothing_is_left(&self) {
        let fake = self.ensemble.borrow();
        assert_eq!(fake.children(POOL), [""; 0]);
        if let Some(node) = fake.nodes.get(POOL) {
            let record = Record::parse(&node.data).expect("a valid record");
            assert_eq!(record.holders, BTreeMap::new());
        }
        for site in &self.sites {
            assert!(site.driver.machine.pools.iter().all(SharedPool::is_idle));
        }
    }
}

/// How many cases are tried: `PROPTEST_CASES`.
#[test]
fn answers_hold_under_any_order_of_events() {
    let mut runner = TestRunner::new(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let expire = prop_oneof![
        Just(None),
        (2..6u64).prop_map(|seconds| Some(Duration::from_secs(seconds)))
    ];
    let played = runner.run(
        &(1..4u32, expire, prop::collection::vec(event(), 0..200)),
        |(permits, expire, events)| {
            let mut world = World::new(permits, expire);
            events.iter().for_each(|event| world.happen(event));
            world.come_to_an_end();
            Ok(())
        },
    );
    played.unwrap_or_else(|failure| panic!("{failure}"));
}
