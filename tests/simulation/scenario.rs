//! What happens in a simulation: a cluster, and a list of runs, faults and operators' acts. A seed
//! makes a scenario; a scenario and its seed make one course of events, and no other. Written by
//! `{:?}`, a scenario is Rust, so that a failing one pastes into a test.
//!
//! # Which faults a seed makes
//!
//! If each scenario had a little of everything, an error that needs two particular faults at one
//! moment would hardly ever be met: the others end the run first. So most seeds draw a few kinds of
//! faults, how often each happens, and how many there are, up to heavy rates ("swarm testing":
//! Groce, Zhang, Eide, Chen, Regehr 2012). Half of the seeds let faults happen in groups, as where
//! one cause cuts links, stops a host and elects a leader (Bailis, Kingsbury: "The Network is
//! Reliable", 2014, has examples). A few seeds have a group of faults that matter only together
//! ([`crate::groups`]). No seed is special.

use crate::random::Random;
use crate::turns::Turns;
use crate::world::http::curl::Errand;
use crate::world::http::scenario::{Fault, Pool};

/// The kind of lock that all runs want.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// zk-flock: one node, waiters in a queue beside it; the first free of so many names.
    Node(u8),
    /// lockex: kazoo's queue.
    Queue,
    /// lockex: the same queue, with readers (`--shared`) and writers.
    Readers,
    /// lockex: kazoo's semaphore.
    Semaphore(u8),
    /// distributex: a pool of lock servers.
    Pool(Pool),
}

impl Kind {
    /// How many commands may run at once; of readers any number, if no writer runs.
    pub fn slots(self) -> usize {
        match self {
            Kind::Node(slots) | Kind::Semaphore(slots) => slots.into(),
            Kind::Queue | Kind::Readers => 1,
            Kind::Pool(pool) => pool.slots.into(),
        }
    }

    /// Whether a run with this command is a reader. Two of three are. It depends on nothing that
    /// changes when a scenario is shrunk.
    pub fn reads(self, script: Script) -> bool {
        self == Kind::Readers && !script.runs.is_multiple_of(3)
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
    /// The network falls apart: these hosts and servers, as bits, reach each other and none of the
    /// others. 0: the holder's host; the server that it is connected to.
    Partition { hosts: u8, servers: u8, lasts: u32 },
    /// After so many more packets to the host, it reaches no server.
    CutAfter { host: u8, packets: u8, lasts: u32 },
    /// The same, counted from the first answer on the next connection that has one.
    CutAtConnect { host: u8, packets: u8, lasts: u32 },
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
    /// What the leader tells this server is late by so much.
    Lag { server: u8, by: u32, lasts: u32 },
    /// All servers go down at once, and come back with their logs.
    KillAll { lasts: u32 },
    /// All servers lose their data.
    Wipe,
    /// The server is restarted, and grants no longer timeouts than this (maxSessionTimeout). It is
    /// never below 2 ticks: such a server does not start (`QuorumPeerConfig`) unless minSessionTimeout
    /// is lowered too, and zk-flock-safety(7) says that locks are not safe with such timeouts.
    Limit {
        server: u8,
        longest: u32,
        lasts: u32,
    },
    /// Another client deletes the lock's nodes.
    Delete,

    /// A fault of a lock server.
    LockServer(Fault),
    /// A script asks a lock server by curl.
    Curl { host: u8, errand: Errand },

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
    /// `--break` on this host. The holder to ask is chosen now, and asked `late` ms later, perhaps when
    /// it is an earlier one. `abandoned`: the operator's process is killed after so long; 0: it is not.
    Break {
        host: u8,
        wait: u32,
        force: bool,
        late: u32,
        abandoned: u32,
    },
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
    /// `--every` of all runs.
    pub every: Option<Turns>,
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
        let timeout = small(if random.once_in(2) {
            random.magnitude(least.into(), most.into())
        } else {
            random.between(least.into(), most.into())
        });
        let mut scenario = Scenario {
            seed,
            kind,
            keeper,
            voters,
            observers,
            hosts,
            tick,
            timeout,
            every: Turns::draw(seed, kind),
            items: Vec::new(),
        };
        // A number of its own, so that all other seeds stay what they were.
        if kind == Kind::Queue && scenario.every.is_none() && Random::new(seed, 8).once_in(2) {
            scenario.kind = Kind::Readers;
        }
        match scenario.every {
            Some(turns) => scenario.items = turns.runs(&scenario, random),
            None => {
                for _ in 0..random.between(6, RUNS) {
                    let what = scenario.run(random);
                    scenario.add(random, what);
                }
            }
        }
        let runs = scenario.items.clone();
        let mix = Mix::draw(random);
        let moments = Moments::draw(random);
        for _ in 0..mix.faults {
            if scenario.every.is_some() && random.once_in(2) {
                scenario.items.push(Turns::fault(&runs, timeout, random));
                continue;
            }
            let kind = mix.kind(random);
            let what = scenario.fault(random, kind);
            let at = moments.next(random, timeout);
            scenario.items.push(Item { at, what });
        }
        scenario.add_group();
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

    #[allow(clippy::too_many_lines)] // one row for each kind of fault
    fn fault(&self, random: &mut Random, kind: Kinds) -> What {
        let (host, server) = (self.host(random), self.server(random));
        let host = if random.once_in(3) { host } else { HOLDER };
        let server = if random.once_in(3) { server } else { HOLDER };
        // Half last about as long as a lease and a session, where one ends before the other; the
        // others up to three times as long.
        let timeout = u64::from(self.timeout);
        let lasts = if random.once_in(2) {
            random.magnitude(20, timeout * 3)
        } else {
            random.between(timeout / 2, timeout * 3 / 2)
        };
        let lasts = small(lasts);
        let (there, back) =
            random.one_of(&[(true, true), (true, true), (true, false), (false, true)]);
        let noticed = random.once_in(2);
        let apart = small(random.between(timeout / 2, timeout * 3));
        let bits = |random: &mut Random, of: u8| {
            u8::try_from(random.below(1 << of)).expect("few hosts and servers")
        };
        let few = |random: &mut Random| u8::try_from(random.below(8)).expect("small");
        match kind {
            Kinds::Cut => What::Cut {
                host,
                server,
                there,
                back,
                lasts,
            },
            Kinds::CutHost => What::CutHost {
                host,
                there,
                back,
                lasts,
            },
            Kinds::Partition => What::Partition {
                hosts: bits(random, self.hosts),
                servers: bits(random, self.voters + self.observers),
                lasts: apart,
            },
            Kinds::CutAfter => What::CutAfter {
                host,
                packets: few(random),
                lasts,
            },
            Kinds::Slow => What::Slow {
                host,
                by: small(random.magnitude(10, timeout / 3)),
                lasts,
            },
            Kinds::Reset => What::Reset { host },
            Kinds::LoseReplies => What::LoseReplies {
                host,
                after: few(random),
            },
            Kinds::LoseRequests => What::LoseRequests {
                host,
                after: few(random),
            },
            Kinds::KillServer => What::KillServer { server, lasts },
            Kinds::StopServer => What::StopServer { server, lasts },
            Kinds::IsolateLeader => What::IsolateLeader {
                noticed,
                lasts: apart,
            },
            Kinds::Isolate => What::Isolate {
                server,
                noticed,
                lasts: apart,
            },
            Kinds::KillAll => What::KillAll { lasts },
            Kinds::Wipe => What::Wipe,
            Kinds::Limit => What::Limit {
                server,
                longest: random
                    .one_of(&[300, 700, 900, 1500, 3000])
                    .max(2 * self.tick),
                lasts: lasts.max(5000),
            },
            Kinds::Delete => What::Delete,
            Kinds::Stop(target) => What::Stop {
                host,
                target,
                lasts,
            },
            Kinds::Kill(target) => What::Kill { host, target },
            Kinds::Suspend => What::Suspend { host, lasts },
            Kinds::Busy => What::Busy {
                host,
                lasts: lasts.max(3000),
            },
            Kinds::Signal => What::Signal {
                host,
                signal: random.one_of(&[15, 15, 2, 1, 3, 10, 20]),
            },
            Kinds::SignalCommand => What::SignalCommand {
                host,
                signal: random.one_of(&[15, 9, 2, 10]),
            },
            Kinds::Break => What::Break {
                host: self.host(random),
                wait: random.one_of(&[0, 1000, 5000, 10_000, 20_000, 30_000]),
                force: random.once_in(2),
                late: small(random.magnitude(0, 3000)),
                abandoned: if random.once_in(8) {
                    small(random.magnitude(1, 10_000))
                } else {
                    0
                },
            },
        }
    }
}

fn small(number: u64) -> u32 {
    u32::try_from(number).expect("small")
}

/// The kinds of faults and operators' acts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kinds {
    Cut,
    CutHost,
    Partition,
    CutAfter,
    Slow,
    Reset,
    LoseReplies,
    LoseRequests,
    KillServer,
    StopServer,
    IsolateLeader,
    Isolate,
    KillAll,
    Wipe,
    Limit,
    Delete,
    Stop(Target),
    Kill(Target),
    Suspend,
    Busy,
    Signal,
    SignalCommand,
    Break,
}

/// All kinds, and how often each happens where all do. What ends most runs is rarer: it would hide
/// the others.
const ALL: [(Kinds, u64); 27] = [
    (Kinds::Cut, 4),
    (Kinds::CutHost, 6),
    (Kinds::Partition, 4),
    (Kinds::CutAfter, 6),
    (Kinds::Slow, 3),
    (Kinds::Reset, 3),
    (Kinds::LoseReplies, 4),
    (Kinds::LoseRequests, 4),
    (Kinds::KillServer, 4),
    (Kinds::StopServer, 3),
    (Kinds::IsolateLeader, 3),
    (Kinds::Isolate, 3),
    (Kinds::KillAll, 2),
    (Kinds::Wipe, 1),
    (Kinds::Limit, 3),
    (Kinds::Delete, 1),
    (Kinds::Stop(Target::ZkFlock), 3),
    (Kinds::Stop(Target::Guard), 3),
    (Kinds::Stop(Target::Both), 2),
    (Kinds::Kill(Target::ZkFlock), 2),
    (Kinds::Kill(Target::Guard), 2),
    (Kinds::Kill(Target::Both), 2),
    (Kinds::Suspend, 2),
    (Kinds::Busy, 2),
    (Kinds::Signal, 2),
    (Kinds::SignalCommand, 2),
    (Kinds::Break, 6),
];

/// The most faults of a scenario.
const FAULTS: u64 = 60;

/// The most kinds of faults of a scenario that does not have all.
const FEW_KINDS: u64 = 4;

/// Which kinds of faults a scenario has, how often each of them happens, and how many faults.
struct Mix {
    kinds: Vec<(Kinds, u64)>,
    faults: u64,
}

impl Mix {
    fn draw(random: &mut Random) -> Mix {
        let all = random.once_in(3);
        let kinds = if all {
            ALL.to_vec()
        } else {
            let count = random.between(1, FEW_KINDS);
            let one = |_| (random.one_of(&ALL).0, random.one_of(&[1, 2, 4, 8]));
            (0..count).map(one).collect()
        };
        let calm = random.once_in(8); // no fault at all
        let faults = match random.below(2) {
            _ if calm => 0,
            0 => random.magnitude(1, FAULTS),
            _ => random.between(1, FAULTS),
        };
        Mix { kinds, faults }
    }

    fn kind(&self, random: &mut Random) -> Kinds {
        let sum = self.kinds.iter().map(|(_, often)| often).sum();
        let mut left = random.below(sum);
        for &(kind, often) in &self.kinds {
            if left < often {
                return kind;
            }
            left -= often;
        }
        unreachable!("it was below the sum")
    }
}

/// The most groups of faults.
const GROUPS: u64 = 8;

/// When faults happen: at any time, or in groups.
struct Moments(Vec<u64>);

impl Moments {
    fn draw(random: &mut Random) -> Moments {
        let groups = if random.once_in(2) {
            0
        } else {
            random.between(1, GROUPS)
        };
        let at = |_| random.below(EVENTFUL.into());
        Moments((0..groups).map(at).collect())
    }

    /// When the next one happens. Those of a group do so within a session's timeout, and most of
    /// them much closer to each other.
    fn next(&self, random: &mut Random, timeout: u32) -> u32 {
        let at = if self.0.is_empty() {
            random.below(EVENTFUL.into())
        } else {
            random.one_of(&self.0) + random.magnitude(0, timeout.into())
        };
        small(at)
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
            | What::Lag { server, .. }
            | What::Limit { server, .. }
                if *server == HOLDER =>
            {
                *server = of_holder;
            }
            What::Partition { hosts, servers, .. } => {
                if *hosts == 0 {
                    *hosts = 1 << holder;
                }
                if *servers == 0 {
                    *servers = 1 << of_holder;
                }
                return;
            }
            _ => {}
        }
        let host = match self {
            What::Run { host, .. }
            | What::Cut { host, .. }
            | What::CutHost { host, .. }
            | What::CutAfter { host, .. }
            | What::CutAtConnect { host, .. }
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
            | What::Break { host, .. }
            | What::Curl { host, .. }
            | What::LockServer(Fault::LateReply { host, .. }) => host,
            What::KillServer { .. }
            | What::StopServer { .. }
            | What::IsolateLeader { .. }
            | What::Isolate { .. }
            | What::Lag { .. }
            | What::KillAll { .. }
            | What::Wipe
            | What::Limit { .. }
            | What::Partition { .. }
            | What::Delete
            | What::LockServer(_) => return,
        };
        if *host == HOLDER {
            *host = holder;
        }
    }
}
