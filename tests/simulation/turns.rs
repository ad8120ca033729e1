//! Runs with `--every`, as cron starts them: in each turn one on every host, a little apart.
//!
//! # Invariants
//!
//! * For each start S1 of a lock and the next one S2: S2's run asked for the lock after S1 by zxid,
//!   and at least half a period later by the ensemble's clock. A run asks by the first node of its
//!   session; a run with several sessions may have asked by each of them. The exceptions are those
//!   of zk-flock(1); the simulation knows them by name and counts them.
//! * No command starts whose start is not recorded under its token.
//! * A run that ends because its turn was taken is right: there is such a start, and with
//!   `--retry-failed` its end is recorded with exit code 0.
//! * Without any fault each end is recorded.

use crate::ensemble::{ConnId, Notice};
use crate::random::Random;
use crate::scenario::{EVENTFUL, Item, Kind, Scenario, Target, What};
use crate::world::{Role, World};
use std::collections::{BTreeMap, BTreeSet};

/// One in so many scenarios with a lock that takes `--every` has it.
const OFTEN: u64 = 4;

/// The most runs of such a scenario.
const RUNS: u32 = 40;

/// The `--every` of all runs of a scenario. Times in ms.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Turns {
    pub period: u32,
    pub retry_failed: bool,
    /// By how much the clock of a server may be ahead.
    pub clocks: u32,
}

impl Turns {
    /// Whether the runs of this seed have it.
    pub fn draw(seed: u64, kind: Kind) -> Option<Turns> {
        let random = &mut Random::new(seed, 6);
        let takes_it = matches!(kind, Kind::Node(1) | Kind::Queue);
        (takes_it && random.once_in(OFTEN)).then(|| {
            let period = random.between(2_000, 12_000);
            let clocks = match random.below(4) {
                0 | 1 => 0,
                2 => random.magnitude(1, period),
                _ => period * 3,
            };
            Turns {
                period: small(period),
                retry_failed: random.once_in(3),
                clocks: small(clocks),
            }
        })
    }

    /// The runs: some turns, in each of them one run on every host.
    pub fn runs(self, scenario: &Scenario, random: &mut Random) -> Vec<Item> {
        let period = u64::from(self.period);
        let late = random.one_of(&[period / 4, period / 2 - 1, period * 2]);
        let turns = (EVENTFUL / self.period).min(RUNS / u32::from(scenario.hosts));
        let first = random.below(period);
        let runs = (0..turns).flat_map(|turn| (0..scenario.hosts).map(move |host| (turn, host)));
        let item = |(turn, on): (u32, u8)| {
            let mut what = scenario.run(random);
            if let What::Run { host, .. } = &mut what {
                *host = on;
            }
            let at = first + u64::from(turn) * period + random.magnitude(0, late);
            Item {
                at: small(at).min(EVENTFUL),
                what,
            }
        };
        runs.map(item).collect()
    }

    /// A fault of a host that is about to start one of these runs: while it acquires the lock, and
    /// reads and writes the record.
    pub fn fault(runs: &[Item], timeout: u32, random: &mut Random) -> Item {
        let run = random.one_of(runs);
        let What::Run { host, .. } = run.what else {
            unreachable!("only runs have been drawn")
        };
        let few = u8::try_from(random.below(12)).expect("small");
        let lasts = small(random.magnitude(20, u64::from(timeout) * 3));
        let soon = small(random.magnitude(0, 40));
        let target = Target::ZkFlock;
        let (after, what) = match random.below(8) {
            0 | 1 => (0, What::LoseReplies { host, after: few }),
            2 => (0, What::LoseRequests { host, after: few }),
            3 | 4 => (
                0,
                What::CutAfter {
                    host,
                    packets: few,
                    lasts,
                },
            ),
            5 => (soon, What::Suspend { host, lasts }),
            6 => (
                soon,
                What::Stop {
                    host,
                    target,
                    lasts,
                },
            ),
            _ => (
                soon,
                What::IsolateLeader {
                    noticed: true,
                    lasts,
                },
            ),
        };
        Item {
            at: run.at + after,
            what,
        }
    }
}

fn small(number: u64) -> u32 {
    u32::try_from(number).expect("small")
}

/// A run asked for the lock.
#[derive(Clone, Copy, Debug)]
struct Asked {
    run: usize,
    zxid: i64,
    time: i64,
    /// Before the servers lost their data so many times.
    wipes: u32,
}

/// A start that was recorded.
#[derive(Clone, Copy, Debug)]
struct Start {
    run: usize,
    token: i64,
    zxid: i64,
    time: i64,
    exit: Option<u64>,
    wipes: u32,
}

/// What the records of a lock have said.
#[derive(Debug, Default)]
pub struct Records {
    runs: BTreeMap<ConnId, usize>,
    sessions: BTreeSet<i64>,
    asked: Vec<Asked>,
    starts: Vec<Start>,
    wipes: u32,
}

impl Records {
    /// This connection is of this run.
    pub fn connects(&mut self, conn: ConnId, run: usize) {
        self.runs.insert(conn, run);
    }

    /// The servers have lost their data.
    pub fn wiped(&mut self) {
        self.wipes += 1;
    }

    fn asked(&self, run: usize) -> impl Iterator<Item = &Asked> {
        self.asked.iter().filter(move |asked| asked.run == run)
    }
}

/// The process and the token of a record, and its exit code.
fn parse(record: &[u8]) -> Option<(i64, i64, Option<u64>)> {
    let fields: serde_json::Value = serde_json::from_slice(record).ok()?;
    let number = |name: &str| fields.get(name)?.as_i64();
    let exit = fields.get("exit").and_then(serde_json::Value::as_u64);
    Some((number("pid")?, number("token")?, exit))
}

impl World {
    /// A run has done something that concerns `--every`.
    pub fn notice(&mut self, notice: Notice) {
        let Some(turns) = self.scenario.every else {
            return;
        };
        match notice {
            Notice::Asked {
                conn,
                session,
                zxid,
                time,
            } => {
                if let Some(&run) = self.records.runs.get(&conn)
                    && self.records.sessions.insert(session)
                {
                    let wipes = self.records.wipes;
                    self.note(&format!("run {run} asks: zxid 0x{zxid:x} at {time}"));
                    self.records.asked.push(Asked {
                        run,
                        zxid,
                        time,
                        wipes,
                    });
                }
            }
            Notice::Started { zxid, time, record } => {
                let (pid, token, exit) = parse(&record).expect("a record of the program");
                let is_own = |run: &crate::world::RunState| i64::from(run.zk_flock) == pid;
                let run = self.runs.iter().position(is_own).expect("a run");
                self.note(&format!(
                    "start of run {run} recorded: zxid 0x{zxid:x} at {time}"
                ));
                let wipes = self.records.wipes;
                let start = Start {
                    run,
                    token,
                    zxid,
                    time,
                    exit,
                    wipes,
                };
                self.check_turn(turns, start);
                self.records.starts.push(start);
                self.figures.recorded += 1;
            }
            Notice::Ended { record } => {
                let (_, token, exit) = parse(&record).expect("a record of the program");
                // A run that does not know yet that its node was deleted may write into the record
                // of the next run, and that one then into its own. The record is that of both.
                if let Some(last) = self.records.starts.last().map(|it| it.token)
                    && last != token
                    && !self.is_deleted(last)
                    && !self.is_deleted(token)
                {
                    self.violate(format!(
                        "the run with token {token} writes its end into the record of another"
                    ));
                }
                let count = self.records.starts.len();
                for (index, start) in self.records.starts.iter_mut().enumerate() {
                    if start.token == token || index + 1 == count {
                        start.exit = exit;
                    }
                }
            }
        }
    }

    /// The run that starts asked for the lock after the last start, and late enough.
    fn check_turn(&mut self, turns: Turns, start: Start) {
        let Start {
            run, token, wipes, ..
        } = start;
        let of_these_data = |start: &&Start| start.wipes == wipes;
        let last = self.records.starts.last().filter(of_these_data);
        let Some(last) = last.copied().filter(|last| last.run != run) else {
            return; // the lock of its own start was lost before its command began
        };
        let period = i64::from(turns.period);
        let late = |asked: &Asked| 2 * (asked.time - last.time) >= period;
        let back = |asked: &Asked| 2 * (last.time - asked.time) >= period;
        let asked: Vec<Asked> = self.records.asked(run).copied().collect();
        let after = asked.iter().filter(|asked| asked.zxid > last.zxid);
        let name = if after.clone().any(late) {
            return;
        } else if turns.retry_failed && (last.exit != Some(0) || self.removed(last.run).is_some()) {
            "--every: the run before has failed"
        } else if self.is_deleted(token)
            || self.is_deleted(last.token)
            || asked.iter().any(|it| self.is_deleted(it.zxid))
        {
            // One of both starts is written while the other run has a node of that name. Or its first
            // node was deleted, and it has asked again by another one of its session.
            "--every: the lock node was deleted"
        } else if after.clone().any(back) {
            "--every: the servers' clock was set back"
        } else if asked.iter().any(|asked| asked.wipes < wipes) {
            "--every: the servers have lost their data since the run asked"
        } else {
            return self.violate(format!(
                "run {run} starts in the turn of run {}, which started with zxid 0x{:x} at {}; it asked: {asked:?}",
                last.run, last.zxid, last.time
            ));
        };
        *self.figures.exceptions.entry(name).or_default() += 1;
    }

    /// A command with `--every` starts: that must be recorded.
    pub fn check_recorded(&mut self, run: usize) {
        let token = self.runs[run].token;
        let is_it = |start: &Start| (start.run, start.token) == (run, token);
        if self.scenario.every.is_some() && !self.records.starts.iter().any(is_it) {
            self.violate(format!(
                "the command of run {run} starts, and no record has its token {token}"
            ));
        }
    }

    /// Whether another run has taken the turn of this one.
    pub fn is_taken(&self, run: usize) -> bool {
        let Some(turns) = self.scenario.every else {
            return false;
        };
        let takes = |start: &Start, asked: &Asked| {
            let apart = 2 * (asked.time - start.time).abs();
            start.zxid > asked.zxid && start.wipes >= asked.wipes
                || apart < i64::from(turns.period)
                || asked.wipes < self.records.wipes
        };
        let counts = |start: &&Start| !turns.retry_failed || start.exit == Some(0);
        let mut starts = self.records.starts.iter().filter(counts);
        starts.any(|start| {
            let mut asked = self.records.asked(run);
            start.run != run && asked.any(|asked| takes(start, asked))
        })
    }

    /// After a scenario without any fault the end of each run is recorded.
    pub fn check_ends(&mut self) {
        let is_run = |item: &Item| matches!(item.what, What::Run { .. });
        if !self.scenario.items.iter().all(is_run) {
            return;
        }
        let open = self.records.starts.iter().find(|it| it.exit != Some(0));
        if let Some(start) = open.copied() {
            self.violate(format!("the end of run {} is not recorded", start.run));
        }
    }

    /// A process connects.
    pub fn connects(&mut self, conn: ConnId, pid: i32) {
        if self.scenario.every.is_some()
            && let Some(proc) = self.procs.get(&pid)
            && proc.role == Role::ZkFlock
        {
            self.records.connects(conn, proc.run);
        }
    }
}
