//! Contenders fight for locks of a real ensemble while a seeded nemesis breaks everything that can
//! break, and a checker reads what the jobs have written. This runs for less than a minute; the
//! long run is
//!
//! ```text
//! TORTURE_SECONDS=1200 TORTURE_SEED=1 cargo test --release --test alone torture -- --nocapture
//! ```
//!
//! With TORTURE_PERMITS=1 in the environment the contenders are lockex on a queue, with more they
//! are lockex on a semaphore of so many. It prints what happened, and fails if more jobs than may
//! ever held one lock, if a token did not grow, if a lock was not granted again within
//! three session timeouts and ten seconds after the faults ended, or if anything is left of
//! zk-flock's queues.

#![allow(
    clippy::disallowed_methods,
    reason = "a test may take the time and use threads; the program may not"
)]

use common::checker::{Fault, judge};
use common::client::Client;
use common::ensemble::{Ensemble, SERVERS};
use common::probe_job::{self, Holding, Probe};
use common::proxy::{From, Passage, Proxy};
use common::run::Job;
use common::sandbox::Sandbox;
use common::{let_last, process, report, wait_until};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use zk_flock::internals::sys::clock;

/// Session timeout of the contenders: two ticks of the servers, as short as their defaults allow,
/// so that as much as possible is at stake.
const TIMEOUT: Duration = Duration::from_secs(4);

/// A lock must be granted again this long after a fault, at the latest, and the session timeout.
const RECOVERY: Duration = Duration::from_secs(10);

/// And so much later in a queue: whoever gives up during an outage leaves its place there until its
/// session is over, which a new leader begins to count anew.
const LEFT_BEHIND: Duration = TIMEOUT.saturating_mul(2);

/// Contenders, and the locks that they fight for.
const CONTENDERS: usize = 6;
const LOCKS: usize = 2;

/// How many signs a job gives: up to a second, and some outlive a session.
const SIGNS: [u32; 8] = [1, 5, 10, 20, 40, 60, 90, 600];

/// What happens to servers and network. One at a time: a majority is left.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Outside {
    ServerKilled,
    ServerFrozen,
    FollowerCutFromPeers,
    LeaderCutFromPeers,
    ClientsCut,
}

/// What happens to one contender that holds its lock, at the same time.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Inside {
    ConnectionCutInAFrame,
    ZkFlockKilled,
    ZkFlockStopped,
    GuardKilled,
    GuardStopped,
}

#[test]
fn the_checker_sees_an_overlap_a_stale_token_and_a_stuck_lock() {
    let _alone = crate::alone();
    let at = Duration::from_millis;
    let holding = |token, first, last| Holding {
        lock: "/app/lock".into(),
        token,
        first: at(first),
        last: at(last),
        dead: at(last) + probe_job::PULSE,
        alone: true,
    };
    let fault = |ended| Fault {
        kind: "power cut".into(),
        ended: at(ended),
    };
    let judged =
        |holdings: &[Holding], faults: &[Fault]| judge(holdings, 1, faults, at(1000), at(10_000));
    let good = [
        holding(1, 100, 200),
        holding(2, 200, 300),
        holding(7, 1250, 1260),
    ];
    let verdict = judged(&good, &[fault(250), fault(9500)]);
    assert!(verdict.is_good(), "{verdict}");
    assert_eq!(
        (
            verdict.acquisitions,
            verdict.hand_overs,
            verdict.faults["power cut"]
        ),
        (3, 2, 2)
    );
    let overlapping = [
        holding(1, 100, 500),
        holding(2, 200, 300),
        holding(3, 299, 600),
    ];
    assert_eq!(
        judged(&overlapping, &[]).overlaps.len(),
        2,
        "each that began while the first lived"
    );
    let together = Holding {
        alone: false,
        ..holding(2, 205, 300)
    };
    assert_eq!(
        judged(&[holding(1, 100, 200), together], &[])
            .overlaps
            .len(),
        1,
        "as the kernel saw it"
    );
    assert_eq!(
        judged(&[holding(1, 100, 200), holding(2, 205, 300)], &[]).close,
        1
    );
    assert_eq!(
        judged(&[holding(2, 100, 200), holding(1, 200, 300)], &[])
            .stale_tokens
            .len(),
        1
    );
    assert_eq!(
        judged(&good, &[fault(249), fault(1251)]).stuck.len(),
        2,
        "one too late for the one, none after the other"
    );
    for (permits, overlaps) in [(2, 1), (3, 0)] {
        assert_eq!(
            judge(&overlapping, permits, &[], at(1000), at(10_000))
                .overlaps
                .len(),
            overlaps,
            "{permits} may"
        );
    }
}

#[test]
fn nobody_holds_what_another_holds_whatever_breaks() {
    let _alone = crate::alone();
    let (length, seed) = (variable("TORTURE_SECONDS", 20), variable("TORTURE_SEED", 1));
    let (mut ensemble, sandbox) = (Ensemble::start(), Sandbox::new());
    let arena = Arena::new(&ensemble, &sandbox);
    std::thread::scope(|scope| {
        let _end = Over(&arena.over); // however this ends, or the others would go on for ever
        for number in 0..CONTENDERS {
            let (arena, dice) = (&arena, Dice(seed ^ (number as u64 + 1) << 32));
            scope.spawn(move || arena.contend(number, dice));
        }
        arena.torment(
            &mut ensemble,
            Dice(seed),
            clock::since_boot() + Duration::from_secs(length),
        );
    });
    let (program, holdings, permits) = (
        arena.program(),
        arena.holdings(),
        arena.permits.unwrap_or(1),
    );
    let grace = TIMEOUT + RECOVERY + LEFT_BEHIND;
    if arena.permits.is_none() {
        let (mut client, app) = (
            Client::connect_to(&arena.addresses[0], TIMEOUT),
            format!("/{}", sandbox.id),
        );
        wait_until("no queue to be left", || client.children(&app).is_empty());
    }
    let ends = arena.ends.into_inner().expect("nobody panics with it");
    let faults = arena.faults.into_inner().expect("nobody panics with it");
    let verdict = judge(&holdings, permits, &faults, grace, clock::since_boot());
    println!(
        "{program}, {length} s, seed {seed}, timeout {TIMEOUT:?}: {verdict}runs ended with {ends:?}"
    );
    report(
        &format!("torture of {program}, {length} s, seed {seed}"),
        &verdict,
    );
    assert!(verdict.is_good(), "{verdict}");
    assert!(
        verdict.hand_overs as u64 > length / 4,
        "hardly a fight: {verdict}"
    );
}

/// Where it happens.
struct Arena<'a> {
    sandbox: &'a Sandbox,
    probe: Probe,
    /// How many may hold a lock of lockex; `None`: it is zk-flock's.
    permits: Option<usize>,
    /// The servers, and a proxy in front of each.
    addresses: Vec<String>,
    proxies: Vec<Proxy>,
    /// The zk-flock that each contender runs now.
    runs: Mutex<[Option<i32>; CONTENDERS]>,
    faults: Mutex<Vec<Fault>>,
    /// How often a run ended with which code or signal.
    ends: Mutex<BTreeMap<Result<i32, i32>, usize>>,
    over: AtomicBool,
}

impl<'a> Arena<'a> {
    fn new(ensemble: &Ensemble, sandbox: &'a Sandbox) -> Arena<'a> {
        let addresses = ensemble.addresses();
        Arena {
            sandbox,
            probe: Probe::of(sandbox),
            permits: std::env::var("TORTURE_PERMITS")
                .ok()
                .map(|permits| permits.parse().expect("TORTURE_PERMITS is a number")),
            proxies: addresses
                .iter()
                .map(|address| Proxy::start(address.clone()))
                .collect(),
            addresses,
            runs: Mutex::default(),
            faults: Mutex::default(),
            ends: Mutex::default(),
            over: AtomicBool::new(false),
        }
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// One run after another for one lock. Every other pair of contenders reaches the servers
    /// through the proxies.
    fn contend(&self, number: usize, mut dice: Dice) {
        let proxied: Vec<String> = self
            .proxies
            .iter()
            .map(|proxy| proxy.address.clone())
            .collect();
        let hosts = if number / LOCKS % 2 == 1 {
            &proxied
        } else {
            &self.addresses
        };
        let (hosts, lock) = (hosts.join(","), format!("lock-{}", number % LOCKS));
        while !self.is_over() {
            let run = self
                .probe
                .job(self.run(&hosts, &lock), *dice.any(&SIGNS))
                .start();
            self.runs.lock().expect("nobody panics with it")[number] = Some(run.pid());
            let outcome = run.wait();
            assert!(!outcome.stderr.contains("panicked"), "{}", outcome.stderr);
            *self
                .ends
                .lock()
                .expect("nobody panics with it")
                .entry(outcome.end)
                .or_default() += 1;
        }
    }

    /// A run that waits ten seconds for a lock.
    fn run(&self, hosts: &str, lock: &str) -> Job<'a> {
        let (id, timeout) = (&self.sandbox.id, &TIMEOUT.as_secs().to_string());
        let job = match self.permits {
            None => self.sandbox.program(&[
                "--hosts",
                hosts,
                "--app-id",
                id,
                "--timeout",
                timeout,
                "-l",
                "0",
                lock,
            ]),
            Some(permits) => self
                .sandbox
                .program(&[
                    "--program=lockex",
                    "-z",
                    hosts,
                    "-p",
                    id,
                    "-T",
                    timeout,
                    "-R",
                    "-1",
                    "-i",
                    lock,
                ])
                .words(&["-c", &permits.to_string()]),
        };
        job.words(&["-w", "10", "-x", "75"])
    }

    /// Who contends.
    fn program(&self) -> String {
        self.permits.map_or_else(
            || "zk-flock".into(),
            |permits| format!("lockex for {permits}"),
        )
    }

    /// All that held, by lock: what lockex holds is a node below the lock's.
    fn holdings(&self) -> Vec<Holding> {
        let mut holdings = self.probe.all();
        if self.permits.is_some() {
            holdings.iter_mut().for_each(|holding| {
                holding
                    .lock
                    .truncate(holding.lock.rfind('/').expect("it is a path"));
            });
        }
        holdings
    }

    /// All that may happen to servers and network, one after the other, in rounds of a new order;
    /// and meanwhile what may happen to contenders. Then all is well for as long as it takes
    /// until every lock was granted again.
    fn torment(&self, ensemble: &mut Ensemble, mut dice: Dice, end: Duration) {
        use Outside::*;
        let mut inside = Vec::new();
        while clock::since_boot() < end {
            for fault in dice.shuffled([
                ServerKilled,
                ServerFrozen,
                FollowerCutFromPeers,
                LeaderCutFromPeers,
                ClientsCut,
            ]) {
                let server = *dice.any(&SERVERS);
                match fault {
                    ServerKilled => ensemble.kill(server),
                    ServerFrozen => ensemble.freeze(server),
                    FollowerCutFromPeers => ensemble.cut_from_peers(ensemble.follower()),
                    LeaderCutFromPeers => ensemble.depose(ensemble.leader()),
                    ClientsCut => ensemble.cut_from_clients(server),
                }
                let mut kinds = vec![format!("{fault:?}")];
                self.torment_contenders(
                    &mut inside,
                    &mut dice,
                    TIMEOUT / 4..TIMEOUT * 3 / 2,
                    &mut kinds,
                );
                ensemble.recover();
                let ended = clock::since_boot();
                self.faults
                    .lock()
                    .expect("nobody panics with it")
                    .extend(kinds.into_iter().map(|kind| Fault { kind, ended }));
                while !self.all_taken_since(ended)
                    && clock::since_boot() < ended + TIMEOUT + RECOVERY
                {
                    let_last(10 * probe_job::PULSE);
                }
            }
        }
    }

    fn all_taken_since(&self, moment: Duration) -> bool {
        let taken = self.probe.taken_since(moment);
        (0..LOCKS).all(|lock| {
            taken
                .iter()
                .any(|name| name.contains(&format!("lock-{lock}")))
        })
    }

    /// For some time, breaks contenders that hold their lock. `coming`: what is still to come of
    /// this round, whose order is new each time.
    fn torment_contenders(
        &self,
        coming: &mut Vec<Inside>,
        dice: &mut Dice,
        time: Range<Duration>,
        kinds: &mut Vec<String>,
    ) {
        use Inside::*;
        let end = clock::since_boot() + dice.between(time.start, time.end);
        while let Some((zk_flock, guard)) = self.any_holder(dice, end) {
            if coming.is_empty() {
                coming.extend(dice.shuffled([
                    ConnectionCutInAFrame,
                    ZkFlockKilled,
                    ZkFlockStopped,
                    GuardKilled,
                    GuardStopped,
                ]));
            }
            let fault = coming.pop().expect("they were just shuffled");
            match fault {
                ConnectionCutInAFrame => self.cut_in_a_frame(dice, end),
                ZkFlockKilled => drop(process::kill(zk_flock, libc::SIGKILL)),
                GuardKilled => drop(process::kill(guard, libc::SIGKILL)),
                ZkFlockStopped => stop(zk_flock, dice.between(TIMEOUT / 10, TIMEOUT * 3 / 2)),
                GuardStopped => stop(guard, dice.between(TIMEOUT / 10, TIMEOUT * 3 / 2)),
            }
            kinds.push(format!("{fault:?}"));
            let_last(dice.between(Duration::ZERO, TIMEOUT / 2));
        }
        let_last(end.saturating_sub(clock::since_boot()));
    }

    /// A zk-flock that holds its lock, and its guard. `None` if there was none before the end.
    fn any_holder(&self, dice: &mut Dice, end: Duration) -> Option<(i32, i32)> {
        while clock::since_boot() < end {
            let run = self.runs.lock().expect("nobody panics with it")[dice.below(CONTENDERS)];
            let guard = |run| {
                process::children(run)
                    .into_iter()
                    .find(|&child| process::name(child) == "lock-guard")
            };
            if let Some((run, guard)) = run.and_then(|run| Some((run, guard(run)?))) {
                return Some((run, guard));
            }
            let_last(probe_job::PULSE);
        }
        None
    }

    /// Cuts the next connection that says something, after some bytes of it.
    fn cut_in_a_frame(&self, dice: &mut Dice, end: Duration) {
        let cuts = || self.proxies.iter().map(Proxy::cuts).sum::<usize>();
        let (before, side) = (cuts(), *dice.any(&[From::Client, From::Server]));
        let passage = Passage::Cut(dice.below(20) + 1);
        self.proxies
            .iter()
            .for_each(|proxy| proxy.set(side, passage));
        while cuts() == before && clock::since_boot() < end {
            let_last(probe_job::PULSE);
        }
        self.proxies
            .iter()
            .for_each(|proxy| proxy.set_both(Passage::Pass));
    }
}

/// Stops a process for some time.
fn stop(pid: i32, time: Duration) {
    process::kill(pid, libc::SIGSTOP);
    let_last(time);
    process::kill(pid, libc::SIGCONT);
}

/// Ends the fight when it goes.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Numbers that a seed decides: SplitMix64.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.roll() % limit as u64).expect("it is below a usize")
    }

    fn any<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }

    fn between(&mut self, least: Duration, most: Duration) -> Duration {
        let range = most.saturating_sub(least).as_micros();
        least
            + Duration::from_micros(
                self.roll() % u64::try_from(range).expect("times here are short"),
            )
    }

    fn shuffled<T, const N: usize>(&mut self, mut all: [T; N]) -> [T; N] {
        for last in (1..N).rev() {
            all.swap(last, self.below(last + 1));
        }
        all
    }
}

/// A number from the environment.
fn variable(name: &str, usual: u64) -> u64 {
    std::env::var(name).map_or(usual, |value| {
        value
            .parse()
            .unwrap_or_else(|_| panic!("{name} is a number"))
    })
}
