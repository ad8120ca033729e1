//! What happens in a simulation: a cluster, and a list of runs, faults and operators' acts. A seed
//! makes a scenario; a scenario and its seed make one course of events, and no other. Written by
//! `{:?}`, a scenario is Rust, so that a failing one pastes into a test.

use crate::random::Random;
use crate::world::http::scenario::{Fault, Pool};

/// The kind of lock that all runs want.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// zk-flock: one node, waiters in a queue beside it; the first free of so many names.
    Node(u8),
    /// lockex: kazoo's queue.
    Queue,
    /// lockex: kazoo's semaphore.
    Semaphore(u8),
    /// distributex: a pool of lock servers.
    Pool(Pool),
}

impl Kind {
    /// How many commands may run at once.
    pub fn slots(self) -> usize {
        match self {
            Kind::Node(slots) | Kind::Semaphore(slots) => slots.into(),
            Kind::Queue => 1,
            Kind::Pool(pool) => pool.slots.into(),
        }
    }
}

/// The process tree of a command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Script {
    /// How long it runs, in ms.
    pub runs: u32,
    /// How many further processes it starts; each second one is a child of the one before it.
    pub children: u8,
    /// The tree ignores TERM.
    pub deaf: bool,
    /// So often a process that gets KILL has just started another.
    pub forks: u8,
    /// How long a process survives KILL (state D), in ms. `u32::MAX`: it is another user's, and ends
    /// with its command's time.
    pub survives: u32,
}

/// What happens to one host's run, or to the host.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Target {
    ZkFlock,
    Guard,
    Both,
}

/// As a host: the one whose command has started last. As a server: the one that this host is
/// connected to.
pub const HOLDER: u8 = u8::MAX;

/// Something that happens.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum What {
    /// A run starts. `wait`: ms, `u32::MAX` without limit; `hold`: minimum hold in ms.
    Run {
        host: u8,
        wait: u32,
        hold: u32,
        kill_after: u32,
        script: Script,
    },

    // The network between hosts and servers. Times in ms.
    /// Nothing passes from hosts to a server, or back, or either.
    Cut {
        host: u8,
        server: u8,
        there: bool,
        back: bool,
        lasts: u32,
    },
    /// A host reaches no server.
    CutHost {
        host: u8,
        there: bool,
        back: bool,
        lasts: u32,
    },
    /// After so many more packets to the host, it reaches no server.
    CutAfter { host: u8, packets: u8, lasts: u32 },
    /// Each packet of a host is late by up to so much.
    Slow { host: u8, by: u32, lasts: u32 },
    /// The host's connections are reset; what is on the way is lost.
    Reset { host: u8 },
    /// Only so many of the next packets to the host arrive; then its connection is reset.
    LoseReplies { host: u8, after: u8 },
    /// The same with packets of the host.
    LoseRequests { host: u8, after: u8 },

    // The servers.
    /// The server's process is killed, and started again.
    KillServer { server: u8, lasts: u32 },
    /// The server's process is stopped, and continued.
    StopServer { server: u8, lasts: u32 },
    /// The leader is isolated from its peers; `noticed`: they find out at once.
    IsolateLeader { noticed: bool, lasts: u32 },
    /// This server is isolated from its peers.
    Isolate {
        server: u8,
        noticed: bool,
        lasts: u32,
    },
    /// All servers go down at once, and come back with their logs.
    KillAll { lasts: u32 },
    /// All servers lose their data.
    Wipe,
    /// The server is restarted, and grants no longer timeouts than this.
    Limit {
        server: u8,
        longest: u32,
        lasts: u32,
    },
    /// Another client deletes the lock's nodes.
    Delete,

    /// A fault of a lock server.
    LockServer(Fault),

    // Hosts and their processes.
    /// STOP, and CONT later.
    Stop {
        host: u8,
        target: Target,
        lasts: u32,
    },
    /// KILL.
    Kill { host: u8, target: Target },
    /// The host sleeps; its clock goes on.
    Suspend { host: u8, lasts: u32 },
    /// Each process of the host is scheduled late by up to 60 ms (the worst beside 32 busy loops).
    Busy { host: u8, lasts: u32 },

    // Operators.
    /// A signal to zk-flock.
    Signal { host: u8, signal: i32 },
    /// A signal to the command alone.
    SignalCommand { host: u8, signal: i32 },
}

/// Something that happens, and when, in ms.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Item {
    pub at: u32,
    pub what: What,
}

/// A cluster, and what happens to it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Scenario {
    pub seed: u64,
    pub kind: Kind,
    pub keeper: bool,
    pub voters: u8,
    pub observers: u8,
    pub hosts: u8,
    /// The servers' tick and the timeout that clients ask for, in ms.
    pub tick: u32,
    pub timeout: u32,
    pub items: Vec<Item>,
}

/// Until when things happen, in ms. After that, the cluster must come to rest.
pub const EVENTFUL: u32 = 40_000;

/// Most runs of a scenario.
const RUNS: u64 = 30;

impl Scenario {
    /// The scenario of a seed.
    pub fn of(seed: u64) -> Scenario {
        let mut random = Random::new(seed, 1);
        let random = &mut random;
        let kind = match random.below(6) {
            0..=2 => Kind::Node(1),
            3 => Kind::Node(random.one_of(&[2, 3])),
            4 => Kind::Queue,
            _ => Kind::Semaphore(random.one_of(&[2, 3])),
        };
        let keeper = random.once_in(8);
        let voters = random.one_of(&[1, 3, 3, 3, 5]);
        let observers = if keeper || voters == 1 {
            0
        } else {
            random.one_of(&[0, 0, 1])
        };
        let hosts = random.one_of(&[2, 3, 4, 6]);
        let tick: u32 = random.one_of(&[100, 250, 500, 1000, 2000]);
        let least = (2 * tick).max(1200);
        let most = (20 * tick).min(12_000).max(least);
        let timeout = u32::try_from(random.magnitude(least.into(), most.into())).expect("small");
        let mut scenario = Scenario {
            seed,
            kind,
            keeper,
            voters,
            observers,
            hosts,
            tick,
            timeout,
            items: Vec::new(),
        };
        let runs = random.between(6, RUNS);
        for _ in 0..runs {
            let what = scenario.run(random);
            scenario.add(random, what);
        }
        // One scenario in eight is calm: no fault at all.
        let faults = if random.once_in(8) {
            0
        } else {
            random.magnitude(1, 24)
        };
        for _ in 0..faults {
            let what = scenario.fault(random);
            scenario.add(random, what);
        }
        scenario.items.sort_by_key(|item| item.at);
        scenario
    }

    pub fn add(&mut self, random: &mut Random, what: What) {
        let at = u32::try_from(random.below(EVENTFUL.into())).expect("small");
        self.items.push(Item { at, what });
    }

    pub fn run(&self, random: &mut Random) -> What {
        let small = |random: &mut Random, low, high| {
            u32::try_from(random.magnitude(low, high)).expect("small")
        };
        // Half of the commands last about as long as a session, so that most faults find a holder.
        let long = random.once_in(2);
        let session = u64::from(self.timeout);
        let script = Script {
            runs: if long {
                u32::try_from(random.between(session / 4, session * 5 / 2)).expect("small")
            } else {
                small(random, 5, 1_500)
            },
            children: if random.once_in(2) {
                0
            } else {
                u8::try_from(random.below(6)).expect("small")
            },
            deaf: random.once_in(4),
            forks: if random.once_in(8) {
                u8::try_from(random.below(4)).expect("small")
            } else {
                0
            },
            survives: match random.below(16) {
                0..=2 => small(random, 500, 30_000),
                3 => u32::MAX,
                _ => 0,
            },
        };
        What::Run {
            host: self.host(random),
            wait: match random.below(4) {
                0 => 0,
                1 => small(random, 200, 30_000),
                _ => u32::MAX,
            },
            hold: if random.once_in(4) {
                small(random, 10, 2_000)
            } else {
                0
            },
            kill_after: random.one_of(&[0, 300, 1000, 5000]),
            script,
        }
    }

    pub fn host(&self, random: &mut Random) -> u8 {
        u8::try_from(random.below(self.hosts.into())).expect("small")
    }

    fn server(&self, random: &mut Random) -> u8 {
        u8::try_from(random.below(u64::from(self.voters + self.observers))).expect("small")
    }

    fn fault(&self, random: &mut Random) -> What {
        let (host, server) = (self.host(random), self.server(random));
        let host = if random.once_in(3) { host } else { HOLDER };
        let server = if random.once_in(3) { server } else { HOLDER };
        // Around the session timeout, and up to three of it.
        // Half last about as long as a lease and a session, where one ends before the other.
        let timeout = u64::from(self.timeout);
        let lasts = if random.once_in(2) {
            random.magnitude(20, timeout * 3)
        } else {
            random.between(timeout / 2, timeout * 3 / 2)
        };
        let lasts = u32::try_from(lasts).expect("small");
        let target = random.one_of(&[
            Target::ZkFlock,
            Target::ZkFlock,
            Target::Guard,
            Target::Guard,
            Target::Both,
        ]);
        let (there, back) =
            random.one_of(&[(true, true), (true, true), (true, false), (false, true)]);
        let noticed = random.once_in(2);
        let apart = u32::try_from(random.between(timeout / 2, timeout * 3)).expect("small");
        match random.below(31) {
            0 | 1 => What::Cut {
                host,
                server,
                there,
                back,
                lasts,
            },
            2..=4 => What::CutHost {
                host,
                there,
                back,
                lasts,
            },
            5 => What::Slow {
                host,
                by: u32::try_from(random.magnitude(10, u64::from(self.timeout) / 3))
                    .expect("small"),
                lasts,
            },
            6 | 7 => What::Reset { host },
            8 | 9 => What::LoseReplies {
                host,
                after: u8::try_from(random.below(8)).expect("small"),
            },
            10 => What::LoseRequests {
                host,
                after: u8::try_from(random.below(8)).expect("small"),
            },
            11 | 12 => What::KillServer { server, lasts },
            13 => What::StopServer { server, lasts },
            14 => What::IsolateLeader {
                noticed,
                lasts: apart,
            },
            15 => What::Isolate {
                server,
                noticed,
                lasts: apart,
            },
            16 => What::KillAll { lasts },
            17 if random.once_in(2) => What::Wipe,
            17 | 18 => What::Limit {
                server,
                longest: random.one_of(&[300, 700, 900, 1500, 3000]),
                lasts: lasts.max(5000),
            },
            19 if random.once_in(2) => What::Delete,
            19..=21 => What::Stop {
                host,
                target,
                lasts,
            },
            22 | 23 => What::Kill { host, target },
            24 => What::Suspend { host, lasts },
            25 => What::Busy {
                host,
                lasts: lasts.max(3000),
            },
            26..=28 => What::CutAfter {
                host,
                packets: u8::try_from(random.below(8)).expect("small"),
                lasts,
            },
            29 => What::SignalCommand {
                host,
                signal: random.one_of(&[15, 9, 2, 10]),
            },
            _ => What::Signal {
                host,
                signal: random.one_of(&[15, 15, 2, 1, 3, 10, 20]),
            },
        }
    }
}

impl What {
    /// Replaces [`HOLDER`] by the holder's host and its server.
    pub fn at_holder(&mut self, holder: u8, of_holder: u8) {
        match self {
            What::Cut { server, .. }
            | What::KillServer { server, .. }
            | What::StopServer { server, .. }
            | What::Isolate { server, .. }
            | What::Limit { server, .. }
                if *server == HOLDER =>
            {
                *server = of_holder;
            }
            _ => {}
        }
        let host = match self {
            What::Run { host, .. }
            | What::Cut { host, .. }
            | What::CutHost { host, .. }
            | What::CutAfter { host, .. }
            | What::Slow { host, .. }
            | What::Reset { host }
            | What::LoseReplies { host, .. }
            | What::LoseRequests { host, .. }
            | What::Stop { host, .. }
            | What::Kill { host, .. }
            | What::Suspend { host, .. }
            | What::Busy { host, .. }
            | What::Signal { host, .. }
            | What::SignalCommand { host, .. }
            | What::LockServer(Fault::LateReply { host, .. }) => host,
            What::KillServer { .. }
            | What::StopServer { .. }
            | What::IsolateLeader { .. }
            | What::Isolate { .. }
            | What::KillAll { .. }
            | What::Wipe
            | What::Limit { .. }
            | What::Delete
            | What::LockServer(_) => return,
        };
        if *host == HOLDER {
            *host = holder;
        }
    }
}
