//! What happens in a simulation of lock servers.

use crate::random::Random;
use crate::scenario::{EVENTFUL, HOLDER, Item, Kind, Scenario, Target, What};

/// The pool that all runs want, and its servers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Pool {
    pub slots: u8,
    /// The lease, in seconds.
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
}

impl Pool {
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
    /// Nothing passes from a server to memcached, or back, or either.
    CutMemcached {
        server: u8,
        there: bool,
        back: bool,
        lasts: u32,
    },
    /// Only so many of the next packets to memcached arrive, or of its replies; then the connection
    /// is reset.
    LoseMemcached { server: u8, there: bool, after: u8 },
    /// memcached is stopped, and continued.
    StopMemcached { lasts: u32 },
    /// It is started again, and has forgotten everything.
    RestartMemcached,
    /// It drops the pool's list and leases, perhaps also the number of tokens.
    Evict,
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
            | Fault::CutMemcached { server, lasts, .. } => (server, Some(lasts)),
            Fault::LoseMemcached { server, .. } => (server, None),
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
            Fault::CutMemcached { .. } => "memcached cut off",
            Fault::LoseMemcached { .. } => "commands or replies of memcached lost",
            Fault::StopMemcached { .. } => "memcached stopped",
            Fault::RestartMemcached => "memcached restarted",
            Fault::Evict => "keys evicted",
            Fault::LateReply { .. } => "late reply",
            Fault::Clock { .. } => "wall clock set",
        }
    }
}

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
                0..=2 => Fault::CutMemcached {
                    server,
                    there,
                    back,
                    lasts,
                },
                3..=8 => Fault::LoseMemcached {
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
