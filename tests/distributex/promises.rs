//! Clients ask lock servers whatever they like over HTTP, while a seeded operator reloads other
//! configs, restarts and kills the servers, stops them for a while and revokes locks: what clients
//! were told holds (`common::promises`). This runs for seconds; the long run is
//!
//! ```text
//! PROMISES_SECONDS=600 PROMISES_SEED=1 cargo test --release --test distributex promises -- --nocapture
//! ```
//!
//! It prints how many requests got which answer, and fails if a promise was broken.

#![allow(
    clippy::disallowed_methods,
    reason = "a test may take the time and sleep; the program may not"
)]

use common::distributexd::{Connection, Distributexd};
use common::memcached::Memcached;
use common::promises::{Client, Promises};
use common::sandbox::Sandbox;
use common::zookeeper::ZooKeeper;
use common::{let_last, report, wait_until};
use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;
use zk_flock::internals::http::{Reply, get};
use zk_flock::internals::sys::clock;

const POOLS: [&str; 2] = ["one", "two"];

/// Hosts, and the ids of their runs if they have any.
const CLIENTS: [(&str, Option<&str>); 14] = [
    ("a", Some("x")),
    ("a", Some("y")),
    ("b", Some("x")),
    ("b", Some("y")),
    ("b", Some("z")),
    ("c", None),
    ("d", None),
    ("e", Some("x")),
    ("f", None),
    ("g", Some("x")),
    ("g", Some("y")),
    ("h", Some("z")),
    ("i", None),
    ("j", None),
];

/// What `expire` may be; 0 is until released.
const EXPIRES: [&str; 6] = ["0", "1", "1.5", "2", "3", "0"];

/// From one trouble to the next, at most.
const TROUBLE: Duration = Duration::from_millis(1500);

/// From one request of a client to its next, at most; and if it does nothing for once, so that
/// leases end.
const PAUSE: Duration = Duration::from_millis(20);
const SILENCE: Duration = Duration::from_secs(4);

/// How long a client waits for a pool, at most.
const PATIENCE: Duration = Duration::from_secs(5);

/// From when a config is known to be in force to when all grants that were decided before it have
/// been told.
const TELLING: Duration = Duration::from_secs(1);

#[test]
fn one_server_keeps_what_it_told_through_reloads_restarts_and_kills() {
    let sandbox = Sandbox::new();
    let head = format!("state: {}\n", sandbox.path("state").display());
    Site::new(&sandbox, &head, 1).torment("inmemory with state");
}

#[test]
fn two_servers_on_one_memcached_keep_what_either_told() {
    let sandbox = Sandbox::new();
    let memcached = Memcached::start(&sandbox);
    Site::new(&sandbox, &memcached.config(), 2).torment("two servers on one memcached");
}

#[test]
fn three_servers_on_one_zookeeper_keep_what_any_told() {
    let (sandbox, zookeeper) = (Sandbox::new(), ZooKeeper::start());
    let address = zookeeper.address();
    let head = format!("backend: zookeeper\nhost: {address}\ntimeout: 2\n");
    Site::new(&sandbox, &head, 3).torment("three servers on one ZooKeeper");
}

/// Numbers that a seed decides: SplitMix64.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % limit
    }

    fn index(&mut self, length: usize) -> usize {
        usize::try_from(self.below(length as u64)).expect("an index is small")
    }

    fn time(&mut self, limit: Duration) -> Duration {
        Duration::from_micros(
            self.below(u64::try_from(limit.as_micros()).expect("a limit is short")),
        )
    }
}

fn variable(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().expect("it is a number"))
}

/// Servers that keep their holders in one place, their clients, and the model.
struct Site<'a> {
    /// What the configs of all servers begin with.
    head: String,
    servers: Vec<Distributexd<'a>>,
    /// A pool of this number is in each config, so that it shows which one is in force.
    generation: u64,
    maxlocks: BTreeMap<&'static str, u32>,
    /// From then on no more than that is in force.
    settled: Option<Duration>,
    dice: Dice,
    promises: Promises,
    users: Vec<User>,
    answers: BTreeMap<String, u64>,
    troubles: BTreeMap<&'static str, u64>,
}

/// A client.
struct User {
    client: Client,
    rest_until: Duration,
    exchange: Option<Exchange>,
}

/// A request that has no answer yet.
struct Exchange {
    stream: TcpStream,
    received: Vec<u8>,
    call: &'static str,
    pool: &'static str,
    sent: Duration,
    /// Until when nothing was heard.
    silent: Duration,
    give_up: Duration,
}

enum Heard {
    Nothing,
    Reply(Reply),
    TheEnd,
}

impl<'a> Site<'a> {
    fn new(sandbox: &'a Sandbox, head: &str, servers: usize) -> Site<'a> {
        let start =
            |_| Distributexd::start(sandbox, &format!("{head}pools:\n    - name: generation0\n"));
        let user = |(host, run): &(&str, Option<&str>)| {
            let client = Client {
                host: (*host).into(),
                run: run.map(str::to_owned),
            };
            User {
                client,
                rest_until: Duration::ZERO,
                exchange: None,
            }
        };
        Site {
            head: head.into(),
            servers: (0..servers).map(start).collect(),
            generation: 0,
            maxlocks: POOLS.map(|pool| (pool, 0)).into(),
            settled: None,
            dice: Dice(variable("PROMISES_SEED", 1)),
            promises: Promises::default(),
            users: CLIENTS.iter().map(user).collect(),
            answers: BTreeMap::new(),
            troubles: BTreeMap::new(),
        }
    }

    fn torment(mut self, backend: &str) {
        let seconds = variable("PROMISES_SECONDS", 12);
        let start = clock::since_boot();
        let end = start + Duration::from_secs(seconds);
        let end_of_slow_machine = start + Duration::from_secs(seconds * 10);
        self.reconfigure(Reload::Hup);
        let mut trouble = clock::since_boot() + TROUBLE;
        let goes_on = |site: &Site| {
            let now = clock::since_boot();
            now < end || (!site.was_a_fight(seconds) && now < end_of_slow_machine)
        };
        while self.promises.violations.is_empty() && goes_on(&self) {
            (0..self.users.len()).for_each(|user| self.act(user));
            if clock::since_boot() > trouble {
                self.trouble();
                trouble = clock::since_boot() + self.dice.time(TROUBLE);
            }
            let_last(Duration::from_millis(1));
        }
        let figures = format!(
            "{} requests in {seconds} s, seed {}, {} violations; answers {:?}; {:?}",
            self.answers.values().sum::<u64>(),
            variable("PROMISES_SEED", 1),
            self.promises.violations.len(),
            self.answers,
            self.troubles
        );
        println!("{backend}: {figures}");
        report(&format!("promises, {backend}"), &figures);
        for server in self
            .servers
            .iter()
            .filter(|_| !self.promises.violations.is_empty())
        {
            let log = server.stderr();
            let lines: Vec<_> = log.lines().collect();
            println!("{}", lines[lines.len().saturating_sub(200)..].join("\n"));
        }
        assert_eq!(self.promises.violations, [""; 0]);
        assert!(
            self.was_a_fight(seconds),
            "hardly a fight: {:?}",
            self.answers
        );
    }

    /// Whether the pools were granted often enough, five times a second on a machine that has time.
    fn was_a_fight(&self, seconds: u64) -> bool {
        let granted = self.answers.get("YES").copied().unwrap_or(0);
        granted > seconds * 5
    }

    /// A client does what it has to do.
    fn act(&mut self, user: usize) {
        let now = clock::since_boot();
        self.settle(now);
        let Some(exchange) = &mut self.users[user].exchange else {
            if self.users[user].rest_until <= now {
                self.ask(user, now);
            }
            return;
        };
        match exchange.hear(now) {
            Heard::Nothing if exchange.give_up < now => self.give_up(user),
            Heard::Nothing => {}
            Heard::TheEnd => self.rest(user, "cut off"),
            Heard::Reply(reply) => self.learn(user, &reply),
        }
    }

    /// What a client may have been granted while it hung up, it releases.
    fn give_up(&mut self, user: usize) {
        let Some(exchange) = self.users[user].exchange.take() else {
            return;
        };
        *self.answers.entry("given up".into()).or_default() += 1;
        let pool = exchange.pool;
        drop(exchange);
        self.send(user, "release", pool, None);
    }

    fn rest(&mut self, user: usize, answer: &str) {
        *self.answers.entry(answer.into()).or_default() += 1;
        let pause = if self.dice.below(60) == 0 {
            SILENCE
        } else {
            PAUSE
        };
        self.users[user].rest_until = clock::since_boot() + self.dice.time(pause);
        self.users[user].exchange = None;
    }

    fn ask(&mut self, user: usize, now: Duration) {
        let pool = POOLS[self.dice.index(POOLS.len())];
        let token = self.promises.token(pool, &self.users[user].client, now);
        let choice = self.dice.below(20);
        match (token, choice) {
            (Some(token), 0..=8) => self.send(user, "renew", pool, Some(token)),
            (Some(token), 9..=13) => self.send(user, "release", pool, Some(token)),
            (Some(token), 14) => self.send(user, "release", pool, Some(token - 1)),
            (Some(token), 15) => self.send(user, "release", pool, Some(token + 1)),
            (_, 0..=8) => self.send(user, "get", pool, None),
            (None, 9..=15) => self.send(user, "wait", pool, None),
            (_, 16 | 17) => self.send(user, "renew", pool, None),
            _ => self.send(user, "release", pool, None),
        }
    }

    fn send(&mut self, user: usize, call: &'static str, pool: &'static str, token: Option<i64>) {
        let client = self.users[user].client.clone();
        if call == "release" {
            self.promises.releases(pool, &client, token);
        }
        let port = self.servers[self.dice.index(self.servers.len())].port;
        let token = token.map(|token| token.to_string());
        let mut parameters = vec![("pool", pool), ("host", &client.host)];
        parameters.extend(client.run.as_deref().map(|run| ("run", run)));
        parameters.extend(token.as_deref().map(|token| ("token", token)));
        let request = get(&format!("/{call}/"), &parameters, "h", false);
        let patience = if call == "wait" {
            self.dice.time(PATIENCE)
        } else {
            6 * PATIENCE
        };
        match Exchange::begin(port, &request, call, pool, patience) {
            Some(exchange) => self.users[user].exchange = Some(exchange),
            None => self.rest(user, "unreachable"),
        }
    }

    fn learn(&mut self, user: usize, reply: &Reply) {
        let Exchange {
            call,
            pool,
            sent,
            silent,
            ..
        } = self.users[user].exchange.take().expect("it has asked");
        let heard = clock::since_boot();
        // While it waited nothing was told.
        let span = (if call == "wait" { silent } else { sent }, heard);
        let client = self.users[user].client.clone();
        let body = String::from_utf8_lossy(&reply.body);
        let number = |name: &str| {
            reply
                .header(name)
                .map(|value| value.parse::<f64>().expect("it is a number"))
        };
        let revoked = reply.header("X-Lock-Revoked").is_some();
        match (reply.status, &*body) {
            (200, "YES") => {
                let token = reply
                    .header("X-Lock-Token")
                    .and_then(|token| token.parse().ok())
                    .expect("YES has a token");
                self.promises.yes(
                    pool,
                    &client,
                    token,
                    number("X-Lock-Expires").map(Duration::from_secs_f64),
                    span,
                );
            }
            (200, "NO") => self.promises.no(pool, &client, revoked, span),
            (200, "OK") if call == "release" => {}
            (200, "INVALID") | (503, _) => {}
            _ => panic!("{call} is answered {reply:?}"),
        }
        self.rest(
            user,
            &if reply.status == 200 {
                format!("{body}{}", if revoked { " (revoked)" } else { "" })
            } else {
                "503".into()
            },
        );
    }

    fn trouble(&mut self) {
        let server = self.dice.index(self.servers.len());
        let choice = self.dice.below(12);
        let name = match choice {
            0..=3 => {
                self.reconfigure(Reload::Hup);
                "reloads"
            }
            4 => {
                self.reconfigure(Reload::Restart);
                "restarts with another config"
            }
            5 | 6 => {
                self.servers[server].kill();
                self.servers[server].start_again();
                "kills"
            }
            7 => {
                self.servers[server].stop();
                self.servers[server].start_again();
                "restarts"
            }
            8 => {
                self.servers[server].signal(libc::SIGSTOP);
                let until = clock::since_boot() + self.dice.time(Duration::from_millis(1200));
                while clock::since_boot() < until {
                    (0..self.users.len()).for_each(|user| self.act(user));
                    let_last(Duration::from_millis(1));
                }
                self.servers[server].signal(libc::SIGCONT);
                "stops"
            }
            _ => {
                self.revoke(server);
                "revocations"
            }
        };
        *self.troubles.entry(name).or_default() += 1;
    }

    fn revoke(&mut self, server: usize) {
        let (pool, now) = (POOLS[self.dice.index(POOLS.len())], clock::since_boot());
        let holder = self
            .users
            .iter()
            .find(|user| self.promises.token(pool, &user.client, now).is_some());
        let client = holder
            .unwrap_or(&self.users[self.dice.index(CLIENTS.len())])
            .client
            .clone();
        let host = &*client.host;
        self.promises.revokes(pool, host, now);
        let Some(mut connection) = Connection::to(self.servers[server].port) else {
            return;
        };
        connection.say(&format!(
            "POST /revoke/?pool={pool}&host={host} HTTP/1.1\r\nConnection: close\r\n\r\n"
        ));
        let reply = connection.reply();
        match (
            reply.status,
            reply
                .header("X-Lock-Token")
                .and_then(|token| token.parse().ok()),
        ) {
            (200, Some(token)) => self.promises.is_revoked(pool, token, clock::since_boot()),
            (200 | 404 | 503, None) => {}
            _ => panic!("{reply:?}"),
        }
    }

    /// One server after the other gets another config, whatever the others have meanwhile.
    fn reconfigure(&mut self, reload: Reload) {
        self.generation += 1;
        let mut config = vec![format!(
            "{}pools:\n    - name: generation{}\n",
            self.head, self.generation
        )];
        for pool in POOLS {
            let maxlocks = if self.dice.below(12) == 0 {
                0
            } else {
                1 + u32::try_from(self.dice.below(3)).expect("it is small")
            };
            let expire = EXPIRES[self.dice.index(EXPIRES.len())];
            self.maxlocks.insert(pool, maxlocks);
            self.promises.maxlocks_may_be(pool, maxlocks);
            if maxlocks > 0 {
                config.push(format!(
                    "    - name: {pool}\n      maxlocks: {maxlocks}\n      expire: {expire}\n"
                ));
            }
        }
        let config = config.concat();
        self.settled = None;
        for server in &mut self.servers {
            match reload {
                Reload::Hup => {
                    server.configure(&config);
                    server.signal(libc::SIGHUP);
                    let target =
                        format!("/release/?pool=generation{}&host=operator", self.generation);
                    wait_until("the new config", || server.ask(&target) == "OK");
                }
                Reload::Restart => {
                    server.kill();
                    server.configure(&config);
                    server.start_again();
                }
            }
        }
        self.settled = Some(clock::since_boot() + TELLING);
    }

    fn settle(&mut self, now: Duration) {
        if self.settled.take_if(|settled| *settled < now).is_some() {
            self.maxlocks
                .iter()
                .for_each(|(pool, maxlocks)| self.promises.maxlocks_is(pool, *maxlocks));
        }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Reload {
    Hup,
    /// Killed, configured, and started again.
    Restart,
}

impl Exchange {
    /// `None`: no server listens.
    fn begin(
        port: u16,
        request: &[u8],
        call: &'static str,
        pool: &'static str,
        patience: Duration,
    ) -> Option<Exchange> {
        let sent = clock::since_boot();
        let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
        stream.set_nonblocking(true).ok()?;
        stream.write_all(request).ok()?;
        Some(Exchange {
            stream,
            received: Vec::new(),
            call,
            pool,
            sent,
            silent: sent,
            give_up: sent + patience,
        })
    }

    fn hear(&mut self, now: Duration) -> Heard {
        let mut bytes = [0; 4096];
        let closed = match self.stream.read(&mut bytes) {
            Ok(0) => true,
            Ok(length) => {
                self.received.extend_from_slice(&bytes[..length]);
                false
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                self.silent = now;
                return Heard::Nothing;
            }
            Err(_) => return Heard::TheEnd,
        };
        match Reply::read(&self.received, closed) {
            Ok(Some((reply, _))) => Heard::Reply(reply),
            Ok(None) => Heard::Nothing,
            Err(_) if closed => Heard::TheEnd,
            Err(wrong) => panic!("{wrong}"),
        }
    }
}
