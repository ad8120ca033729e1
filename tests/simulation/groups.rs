//! Faults that matter only together, at one moment. By themselves seeds hardly ever make them: each
//! has a holder with a waiter behind it, and what it takes to need one of the program's precautions.

use crate::random::Random;
use crate::scenario::{EVENTFUL, HOLDER, Item, Kind, Scenario, Target, What};

/// One in so many scenarios has such a group.
const OFTEN: u64 = 6;

/// Timeouts that a server may grant, in ms. Shorter ones than 1 s are not safe for a lock.
const SHORT: [u32; 4] = [300, 700, 900, 1500];

/// Ticks of servers that may grant so little, in ms.
const SHORT_TICKS: [u32; 2] = [250, 400];

/// Ticks of servers whose leader is cut off, in ms. It steps down after five, and its answers count
/// for most of a timeout more, so with some ticks a timeout the session can expire before that.
const LEADER_TICKS: [u32; 3] = [250, 500, 1000];

/// Ticks that add little to what a session lasts, in ms.
const FINE_TICKS: [u32; 2] = [250, 500];

/// A group of faults.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Group {
    StoppedGuard,
    ShorterTimeout,
    DeposedLeader,
    LateReplies,
}

/// All of them.
const GROUPS: [Group; 4] = [
    Group::StoppedGuard,
    Group::ShorterTimeout,
    Group::DeposedLeader,
    Group::LateReplies,
];

impl Scenario {
    /// Adds a group, if the seed has one. Its random numbers are its own.
    pub fn add_group(&mut self) {
        let random = &mut Random::new(self.seed, 7);
        if !random.once_in(OFTEN) || matches!(self.kind, Kind::Pool(_)) {
            return;
        }
        let group = random.one_of(&GROUPS);
        self.set_timeout(group, random);
        let at = small(random.below(u64::from(EVENTFUL / 2)));
        let began = at + random.one_of(&[500, 1000, 2000]);
        if self.every.is_none() {
            self.add_holder_and_waiter(at, random);
        }
        let items = match group {
            Group::StoppedGuard => self.stopped_guard(random),
            Group::ShorterTimeout => {
                let lasts = small(random.between(1_000, 2_000));
                self.add_newcomer(began + lasts + small(random.below(500)), random);
                self.shorter_timeout(lasts, random)
            }
            Group::DeposedLeader => self.deposed_leader(random),
            Group::LateReplies => return self.late_replies(began, random),
        };
        let items = items.into_iter().map(|what| Item { at: began, what });
        self.items.extend(items);
    }

    /// The ticks and timeouts with which a group matters.
    fn set_timeout(&mut self, group: Group, random: &mut Random) {
        match group {
            Group::StoppedGuard => {}
            Group::ShorterTimeout => {
                // As much as these servers grant: what is cut short must be long.
                self.tick = random.one_of(&SHORT_TICKS);
                self.timeout = 20 * self.tick;
            }
            Group::DeposedLeader => {
                self.voters = self.voters.max(3);
                self.tick = random.one_of(&LEADER_TICKS);
                self.timeout = (random.one_of(&[3, 5, 8]) * self.tick).max(1200);
            }
            Group::LateReplies => {
                self.tick = random.one_of(&FINE_TICKS);
                self.timeout = 20 * self.tick;
            }
        }
    }

    /// A run that asks for the lock after the servers have their usual limit again: those that ask
    /// before that give up.
    fn add_newcomer(&mut self, at: u32, random: &mut Random) {
        let mut what = self.run(random);
        if let What::Run { wait, .. } = &mut what {
            *wait = u32::MAX;
        }
        self.items.push(Item { at, what });
    }

    /// A command that lasts for some timeouts, and a run that waits for its lock.
    fn add_holder_and_waiter(&mut self, at: u32, random: &mut Random) {
        for (at, timeouts) in [(at, 4), (at + 200, 1)] {
            let mut what = self.run(random);
            if let What::Run { wait, script, .. } = &mut what {
                *wait = u32::MAX;
                script.runs = timeouts * self.timeout;
            }
            self.items.push(Item { at, what });
        }
    }

    /// The guard is stopped, and the last proof of the lease is that of a connect request: zk-flock has
    /// to kill the command, in what the margin leaves.
    fn stopped_guard(&self, random: &mut Random) -> Vec<What> {
        vec![
            What::Stop {
                host: HOLDER,
                target: Target::Guard,
                lasts: self.timeout * 3,
            },
            self.cut_at_connect(random),
            What::Reset { host: HOLDER },
        ]
    }

    /// The servers are restarted with a shorter limit, for a while, and the holder is cut off when it
    /// has heard of it.
    fn shorter_timeout(&self, lasts: u32, random: &mut Random) -> Vec<What> {
        let longest = random.one_of(&SHORT).max(2 * self.tick);
        let limit = |server| What::Limit {
            server,
            longest,
            lasts,
        };
        let mut what = vec![self.cut_at_connect(random)];
        what.extend((0..self.voters + self.observers).map(limit));
        what
    }

    /// The leader is cut off from its peers, which elect another at once. It believes to lead for some
    /// ticks more, and answers what it can answer alone.
    fn deposed_leader(&self, random: &mut Random) -> Vec<What> {
        let timeout = u64::from(self.timeout);
        vec![What::IsolateLeader {
            noticed: true,
            lasts: small(random.between(timeout * 3 / 2, timeout * 3)),
        }]
    }

    /// Replies to the holder are late when its requests no longer arrive, and not so late that it
    /// hangs up first, after two heartbeats.
    fn late_replies(&mut self, began: u32, random: &mut Random) {
        let timeout = u64::from(self.timeout);
        let slow = What::Slow {
            host: HOLDER,
            by: small(random.between(timeout / 10, timeout / 5)),
            lasts: self.timeout * 2,
        };
        let cut = What::CutHost {
            host: HOLDER,
            there: true,
            back: false,
            lasts: small(random.between(timeout * 3 / 2, timeout * 3)),
        };
        let later = began + small(random.between(timeout / 4, timeout));
        for (at, what) in [(began, slow), (later, cut)] {
            self.items.push(Item { at, what });
        }
    }

    fn cut_at_connect(&self, random: &mut Random) -> What {
        let timeout = u64::from(self.timeout);
        What::CutAtConnect {
            host: HOLDER,
            packets: random.one_of(&[0, 0, 1, 2]),
            lasts: small(random.between(timeout * 3 / 2, timeout * 3)),
        }
    }
}

fn small(number: u64) -> u32 {
    u32::try_from(number).expect("small")
}
