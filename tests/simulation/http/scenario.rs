//! What happens in a simulation of lock servers.

use super::curl::Errand;
use crate::random::Random;
use crate::scenario::{EVENTFUL, HOLDER, Item, Kind, Scenario, Target, What};

/// The pool that all runs want, and its servers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Pool {
    pub slots: u8,
    /// The lease, in seconds. 0: until it is released.
    pub expire: u8,
    pub backend: Backend,
    pub servers: u8,
    /// The runs of a host have its name at the server; otherwise each has a name of its own.
    pub shared_names: bool,
}

/// Where the servers keep the holders.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Backend {
    /// In memory alone.
    Memory,
    /// In memory and in a file.
    File,
    /// In a memcached that the servers share.
    Memcached,
    /// In the ensemble, with sessions that ask for this timeout, in ms.
    ZooKeeper { timeout: u32 },
}

impl Backend {
    /// Whether servers share it.
    pub fn is_shared(self) -> bool {
        matches!(self, Backend::Memcached | Backend::ZooKeeper { .. })
    }
}

impl Pool {
    /// Whether an ensemble keeps the holders.
    pub fn has_ensemble(self) -> bool {
        matches!(self.backend, Backend::ZooKeeper { .. })
    }

    /// Whether waiters are served in the order of their requests. (At most one run of a host holds
    /// a slot, so the runs of a holder's host are passed over.)
    pub fn is_fifo(self) -> bool {
        !self.shared_names && self.backend != Backend::Memcached
    }
}

/// A fault of a server. Times in ms.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// KILL; it is started again.
    Kill { server: u8, lasts: u32 },
    /// Its host loses power, and starts again. Nothing says so to the clients.
    PowerCut { server: u8, lasts: u32 },
    /// TERM; what does not end in time is killed, and it is started again.
    Term { server: u8, lasts: u32 },
    /// STOP, and CONT later.
    Stop { server: u8, lasts: u32 },
    /// Its host sleeps.
    Suspend { server: u8, lasts: u32 },
    /// Nothing passes from the hosts to it, or back, or either.
    Cut {
        server: u8,
        there: bool,
        back: bool,
        lasts: u32,
    },
    /// Its state cannot be saved.
    DiskFull { server: u8, lasts: u32 },
    /// Each save takes longer by up to so much.
    SlowDisk { server: u8, by: u32, lasts: u32 },
    /// Nothing passes from a server to memcached or the ensemble, or back, or either.
    CutStore {
        server: u8,
        there: bool,
        back: bool,
        lasts: u32,
    },
    /// Only so many of the next packets to memcached or the ensemble arrive, or of the replies; then
    /// the connection is reset.
    LoseInStore { server: u8, there: bool, after: u8 },
    /// Its host reaches nothing: no client, and not what keeps its holders.
    Isolate { server: u8, lasts: u32 },
    /// memcached is stopped, and continued.
    StopMemcached { lasts: u32 },
    /// It is started again, and has forgotten everything.
    RestartMemcached,
    /// It drops the pool's list and leases, perhaps also the number of tokens.
    Evict,
    /// HUP, with a config in which no client may use the pool, and the usual one again later.
    Bar { server: u8, lasts: u32 },
    /// An operator revokes the oldest holding there.
    Revoke { server: u8 },
    /// The next reply to a host is late by so much.
    LateReply { host: u8, by: u32 },
    /// Its wall clock is set.
    Clock { server: u8, by: i32 },
}

impl Fault {
    /// The server, and how long it lasts.
    pub fn of(self) -> (u8, Option<u32>) {
        match self {
            Fault::Kill { server, lasts }
            | Fault::PowerCut { server, lasts }
            | Fault::Term { server, lasts }
            | Fault::Stop { server, lasts }
            | Fault::Suspend { server, lasts }
            | Fault::Cut { server, lasts, .. }
            | Fault::DiskFull { server, lasts }
            | Fault::SlowDisk { server, lasts, .. }
            | Fault::CutStore { server, lasts, .. }
            | Fault::Bar { server, lasts }
            | Fault::Isolate { server, lasts } => (server, Some(lasts)),
            Fault::Revoke { server } | Fault::LoseInStore { server, .. } => (server, None),
            Fault::StopMemcached { lasts } => (0, Some(lasts)),
            Fault::Clock { server, .. } => (server, None),
            Fault::LateReply { .. } | Fault::RestartMemcached | Fault::Evict => (0, None),
        }
    }

    /// The name of its kind.
    pub fn name(&self) -> &'static str {
        match self {
            Fault::Kill { .. } => "lock server killed",
            Fault::PowerCut { .. } => "lock server without power",
            Fault::Term { .. } => "lock server shut down",
            Fault::Stop { .. } => "lock server stopped",
            Fault::Suspend { .. } => "lock server's host suspended",
            Fault::Cut { .. } => "lock server cut off",
            Fault::DiskFull { .. } => "state not saved",
            Fault::SlowDisk { .. } => "slow disk",
            Fault::CutStore { .. } => "lock server cut off from its store",
            Fault::LoseInStore { .. } => "requests to the store or its replies lost",
            Fault::Isolate { .. } => "lock server isolated",
            Fault::StopMemcached { .. } => "memcached stopped",
            Fault::RestartMemcached => "memcached restarted",
            Fault::Evict => "keys evicted",
            Fault::Bar { .. } => "HUP",
            Fault::Revoke { .. } => "revoke",
            Fault::LateReply { .. } => "late reply",
            Fault::Clock { .. } => "wall clock set",
        }
    }
}

/// Clients, ensemble and lock servers, and how often each is at fault.
const KINDS_OF_FAULTS: u64 = 5;

impl Scenario {
    /// The scenario of a seed, with lock servers.
    pub fn of_lock_servers(seed: u64) -> Scenario {
        let mut random = Random::new(seed, 5);
        let random = &mut random;
        let expire = random.one_of(&[3, 4, 6, 10, 20]);
        let backend = random.one_of(&[Backend::Memory, Backend::File, Backend::Memcached]);
        let pool = Pool {
            slots: random.one_of(&[1, 1, 1, 2, 3]),
            expire,
            backend,
            servers: if backend == Backend::Memcached {
                random.one_of(&[1, 2])
            } else {
                1
            },
            shared_names: random.once_in(2),
        };
        let mut scenario = Scenario {
            seed,
            kind: Kind::Pool(pool),
            keeper: false,
            voters: 0,
            observers: 0,
            hosts: random.one_of(&[2, 3, 4, 6]),
            tick: 100,
            timeout: u32::from(expire) * 1000,
            every: None,
            items: Vec::new(),
        };
        for _ in 0..random.between(6, 30) {
            let what = scenario.run(random);
            scenario.add(random, what);
        }
        let faults = if random.once_in(8) {
            0
        } else {
            random.magnitude(1, 24)
        };
        for _ in 0..faults {
            let what = if random.once_in(3) {
                What::LockServer(scenario.lock_server_fault(random, pool))
            } else {
                scenario.client_fault(random)
            };
            scenario.add(random, what);
        }
        if faults > 0 && random.once_in(4) {
            scenario.add_late_reply(random);
        }
        scenario.items.sort_by_key(|item| item.at);
        scenario
    }

    /// The scenario of a seed, with lock servers whose pool an ensemble keeps.
    pub fn of_shared_pools(seed: u64) -> Scenario {
        let mut random = Random::new(seed, 9);
        let random = &mut random;
        let expire = random.one_of(&[4, 6, 10, 20]);
        let tick: u32 = random.one_of(&[100, 250, 500]);
        let pool = Pool {
            slots: random.one_of(&[1, 1, 1, 2, 3]),
            expire,
            backend: Backend::ZooKeeper {
                timeout: random.one_of(&[4, 8, 16]) * tick.max(200),
            },
            servers: random.one_of(&[2, 2, 3]),
            shared_names: random.once_in(4),
        };
        let mut scenario = Scenario {
            seed,
            kind: Kind::Pool(pool),
            keeper: false,
            voters: random.one_of(&[3, 3, 3, 5]),
            observers: random.one_of(&[0, 0, 0, 1]),
            hosts: random.one_of(&[2, 3, 4, 6]),
            tick,
            timeout: u32::from(expire) * 1000,
            every: None,
            items: Vec::new(),
        };
        // Scripts alone, so that a pool may have no lease: nothing ends a script that holds it.
        let scripts = random.once_in(2);
        if let Kind::Pool(pool) = &mut scenario.kind
            && scripts
            && random.once_in(2)
        {
            pool.expire = 0;
            scenario.timeout = random.one_of(&[2000, 5000]);
        }
        for _ in 0..random.between(6, 30) {
            let what = if scripts || random.once_in(8) {
                scenario.script(random)
            } else {
                scenario.run(random)
            };
            scenario.add(random, what);
        }
        let faults = if random.once_in(8) {
            0
        } else {
            random.magnitude(1, 40)
        };
        // Some scenarios have faults of one kind only.
        let only = random.once_in(2).then(|| random.below(KINDS_OF_FAULTS));
        for _ in 0..faults {
            let kind = only.unwrap_or_else(|| random.below(KINDS_OF_FAULTS));
            let what = match kind {
                0 => scenario.client_fault(random),
                1 | 2 => scenario.ensemble_fault(random),
                _ => What::LockServer(scenario.server_fault(random, scripts)),
            };
            scenario.add(random, what);
        }
        for _ in 0..random.below(4) {
            scenario.add_lost_grant(random, pool);
        }
        for _ in 0..random.below(3) {
            scenario.add_crowd(random);
        }
        scenario.items.sort_by_key(|item| item.at);
        scenario
    }

    /// Scripts ask all servers at one moment, and release at another server than they have asked, while
    /// servers of the ensemble do not have the same state.
    fn add_crowd(&mut self, random: &mut Random) {
        let small = |number| u32::try_from(number).expect("small");
        let at = small(random.below(EVENTFUL.into()));
        let lasts = small(random.between(1_000, 5_000));
        let members = u64::from(self.voters + self.observers);
        let member = |random: &mut Random| u8::try_from(random.below(members)).expect("small");
        let faults = match random.below(3) {
            0 => vec![What::IsolateLeader {
                noticed: true,
                lasts,
            }],
            1 => vec![What::StopServer {
                server: member(random),
                lasts: lasts / 2,
            }],
            _ => {
                let one = |_| What::Lag {
                    server: member(random),
                    by: small(random.between(100, 800)),
                    lasts,
                };
                (0..2).map(one).collect()
            }
        };
        self.items
            .extend(faults.into_iter().map(|what| Item { at, what }));
        for _ in 0..random.between(3, 10) {
            let mut what = self.script(random);
            if let What::Curl { errand, .. } = &mut what {
                errand.works = small(random.magnitude(5, 800));
                errand.limit = random.one_of(&[0, 0, 1000, 5000]);
            }
            let at = at + small(random.below(u64::from(lasts)));
            self.items.push(Item { at, what });
        }
    }

    /// A server's clients ask another one while it is cut off, and it has lost the answer to a write: it
    /// does not know whether it has granted what another one tells a client.
    fn add_lost_grant(&mut self, random: &mut Random, pool: Pool) {
        let small = |number| u32::try_from(number).expect("small");
        let at = small(random.below(EVENTFUL.into()));
        let server = u8::try_from(random.below(pool.servers.into())).expect("small");
        let lasts = small(random.between(500, 8_000));
        let from_clients = What::LockServer(Fault::Cut {
            server,
            there: true,
            back: true,
            lasts,
        });
        // The hosts of the servers come after those of the runs.
        let from_ensemble = What::CutAfter {
            host: self.hosts + server,
            packets: u8::try_from(random.below(8)).expect("small"),
            lasts,
        };
        for what in [from_clients, from_ensemble] {
            self.items.push(Item { at, what });
        }
    }

    /// A fault of the ensemble that keeps a pool, about as long as its sessions and requests.
    fn ensemble_fault(&self, random: &mut Random) -> What {
        let members = u64::from(self.voters + self.observers);
        let server = u8::try_from(random.below(members)).expect("small");
        let server = if random.once_in(2) { server } else { HOLDER };
        let lasts = if random.once_in(2) {
            self.lasts(random)
        } else {
            u32::try_from(random.between(300, 3000)).expect("small")
        };
        let noticed = random.once_in(2);
        match random.below(10) {
            0 | 1 => What::KillServer { server, lasts },
            2 | 3 => What::StopServer { server, lasts },
            4..=6 => What::IsolateLeader { noticed, lasts },
            7 => What::Isolate {
                server,
                noticed,
                lasts,
            },
            8 => What::Lag {
                server,
                by: u32::try_from(random.magnitude(20, 1000)).expect("small"),
                lasts,
            },
            _ => What::KillAll { lasts },
        }
    }

    fn script(&self, random: &mut Random) -> What {
        let small = |number| u32::try_from(number).expect("small");
        let limit = if random.once_in(2) {
            0
        } else {
            small(random.magnitude(50, 10_000))
        };
        What::Curl {
            host: self.host(random),
            errand: Errand {
                server: u8::try_from(random.below(3)).expect("small"),
                waits: random.once_in(2),
                limit,
                attempts: random.one_of(&[1, 2, 3]),
                works: small(random.magnitude(5, 6_000)),
            },
        }
    }

    /// A fault of a lock server or of its link to the ensemble. A server that has granted a pool
    /// without a lease must live to take that back if its client has gone. Only scripts may be barred:
    /// a run says so and ends.
    fn server_fault(&self, random: &mut Random, scripts: bool) -> Fault {
        let Kind::Pool(pool) = self.kind else {
            unreachable!("there are lock servers");
        };
        let server = u8::try_from(random.below(pool.servers.into())).expect("small");
        let lasts = self.lasts(random);
        let (there, back) = random.one_of(&[(true, true), (true, false), (false, true)]);
        let first = if pool.expire == 0 { 4 } else { 0 };
        match random.between(first, 18) {
            0 | 1 => Fault::Kill { server, lasts },
            2 => Fault::PowerCut { server, lasts },
            3 => Fault::Term { server, lasts },
            4 => Fault::Stop { server, lasts },
            5 => Fault::Suspend { server, lasts },
            6 => Fault::Cut {
                server,
                there,
                back,
                lasts,
            },
            7 | 8 => Fault::Isolate { server, lasts },
            9 | 10 => Fault::CutStore {
                server,
                there,
                back,
                lasts,
            },
            11 | 12 if scripts => Fault::Bar { server, lasts },
            11 | 12 => Fault::Revoke { server },
            13..=16 => Fault::LoseInStore {
                server,
                there: random.once_in(3),
                after: u8::try_from(random.below(8)).expect("small"),
            },
            _ => Fault::Clock {
                server,
                by: random.one_of(&[-3_600_000, -5_000, 5_000, 3_600_000]),
            },
        }
    }

    /// Replies to the holder are late, and then it is cut off for longer than its lease: the lease
    /// must count from the request.
    fn add_late_reply(&mut self, random: &mut Random) {
        let lease = self.timeout;
        let at = u32::try_from(random.below(u64::from(EVENTFUL - lease / 2))).expect("small");
        let by = u32::try_from(random.between(800, 3000)).expect("small");
        let host = HOLDER;
        let late = What::LockServer(Fault::LateReply { host, by });
        let cut = What::CutHost {
            host,
            there: true,
            back: true,
            lasts: lease * 3 / 2,
        };
        self.items.push(Item { at, what: late });
        // Then this reply has arrived, and the next renewal is not sent yet.
        let at = at + by + lease / 3;
        self.items.push(Item { at, what: cut });
    }

    /// How long a fault lasts: half of them about as long as a lease.
    fn lasts(&self, random: &mut Random) -> u32 {
        let lease = u64::from(self.timeout);
        let lasts = if random.once_in(2) {
            random.magnitude(20, lease * 2)
        } else {
            random.between(lease / 3, lease * 3 / 2)
        };
        u32::try_from(lasts).expect("small")
    }

    fn lock_server_fault(&self, random: &mut Random, pool: Pool) -> Fault {
        let server = u8::try_from(random.below(pool.servers.into())).expect("small");
        let lasts = self.lasts(random);
        let (there, back) = random.one_of(&[(true, true), (true, false), (false, true)]);
        // Slower, and no lease would be long enough.
        let slowest = u64::from(self.timeout) / 5;
        if pool.backend == Backend::Memcached && random.once_in(2) {
            let after = u8::try_from(random.below(8)).expect("small");
            return match random.below(12) {
                0..=2 => Fault::CutStore {
                    server,
                    there,
                    back,
                    lasts,
                },
                3..=8 => Fault::LoseInStore {
                    server,
                    there: random.once_in(2),
                    after,
                },
                9 | 10 => Fault::StopMemcached { lasts },
                _ if random.once_in(2) => Fault::RestartMemcached,
                _ => Fault::Evict,
            };
        }
        match random.below(12) {
            0 | 1 => Fault::Kill { server, lasts },
            2 => Fault::PowerCut { server, lasts },
            3 | 4 => Fault::Term { server, lasts },
            5 => Fault::Stop { server, lasts },
            6 => Fault::Suspend { server, lasts },
            7 => Fault::Cut {
                server,
                there,
                back,
                lasts,
            },
            8 | 9 if pool.backend == Backend::File => Fault::DiskFull { server, lasts },
            10 if pool.backend == Backend::File => Fault::SlowDisk {
                server,
                by: u32::try_from(random.magnitude(20, slowest)).expect("small"),
                lasts,
            },
            _ => Fault::Clock {
                server,
                by: random.one_of(&[-3_600_000, -5_000, 5_000, 3_600_000]),
            },
        }
    }

    /// A fault of a host, its network or its processes.
    fn client_fault(&self, random: &mut Random) -> What {
        let host = self.host(random);
        let host = if random.once_in(3) { host } else { HOLDER };
        let lasts = self.lasts(random);
        let target = random.one_of(&[Target::ZkFlock, Target::Guard, Target::Both]);
        let few = |random: &mut Random| u8::try_from(random.below(10)).expect("small");
        match random.below(21) {
            0..=3 => {
                let (there, back) =
                    random.one_of(&[(true, true), (true, true), (true, false), (false, true)]);
                What::CutHost {
                    host,
                    there,
                    back,
                    lasts,
                }
            }
            4..=6 => What::CutAfter {
                host,
                packets: few(random),
                lasts,
            },
            7 | 8 => What::Slow {
                host,
                by: u32::try_from(random.magnitude(10, u64::from(self.timeout) / 3))
                    .expect("small"),
                lasts,
            },
            9 => What::Reset { host },
            10 | 11 => What::LoseReplies {
                host,
                after: few(random),
            },
            12 => What::LoseRequests {
                host,
                after: few(random),
            },
            13..=15 => What::Stop {
                host,
                target,
                lasts,
            },
            16 | 17 => What::Kill { host, target },
            18 => What::Suspend { host, lasts },
            19 => What::Busy {
                host,
                lasts: lasts.max(3000),
            },
            _ => What::Signal {
                host,
                signal: random.one_of(&[15, 15, 2, 1, 3, 10, 20]),
            },
        }
    }
}
