//! A whole cluster in one process, from one seed.
//!
//! The program's own state machines and loops run on simulated hosts, over a simulated network,
//! against a simulated ensemble or on simulated lock servers, in simulated time: hours of faults take
//! seconds, and a seed always makes the same course of events. [`scenario`] says what may happen,
//! [`course`] plays it, [`world`] models hosts, processes and the network, [`ensemble`] the servers of
//! ZooKeeper, [`world::http`] those of distributex. Each model begins with a page on what it is
//! faithful to.
//!
//! # Invariants
//!
//! * Never more live commands than slots, and never a writer beside a reader, except in the cases
//!   that zk-flock-safety(7) and distributexd(8) list; the simulation knows them by name
//!   (`World::exception`) and counts them.
//! * Tokens grow.
//! * Waiters of a queue are served in its order.
//! * After the last fault each run ends within a bound, and nothing is left: no process, no session,
//!   no ephemeral node.
//! * zk-flock exits for a documented reason, and after its command; what it calls released is free.
//! * `--break` says what is true: an evicted command is dead, no newcomer is hit without that being
//!   said, only the holder that was asked stops, and it ends in time.
//! * With `--every` each turn has one start: [`turns`].
//! * What lock servers answer was true at some moment since the request had arrived, and no client
//!   is granted a pool before another that waited when it asked: [`world::http`]. (Pools that an
//!   ensemble keeps.)
//!
//! # A failing seed
//!
//! The test prints the scenario with all that does not matter taken away, as Rust, and its trace. Add
//! it to [`found`], and mend the program. A panic is a violation too.

#![allow(clippy::disallowed_methods)] // only to limit and measure how long it takes
#![allow(clippy::struct_excessive_bools)] // independent facts of a model

mod course;
mod ensemble;
mod figures;
#[cfg(test)]
mod found;
mod groups;
mod random;
mod scenario;
mod shrink;
mod tree;
mod turns;
mod world;

use course::{play, play_with};
use figures::Total;
use scenario::Scenario;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use world::Error;

/// Seeds that are played each time, with an ensemble, with lock servers and with both.
const FIXED: std::ops::Range<u64> = 0..200;
const FIXED_OF_LOCK_SERVERS: std::ops::Range<u64> = 0..60;
const FIXED_OF_SHARED_POOLS: std::ops::Range<u64> = 0..20;

/// The known errors that need no other build, each with the first seed that is played for it:
/// shortly before one that shows it, which keeps the test short.
const KNOWN_ERRORS: [(Error, u64); 3] = [
    (Error::TrustsPings, 900),
    (Error::HidesTree, 1300),
    (Error::ShortPeriod, 0),
];

/// So many seeds must show a known error.
const KNOWN_ERROR_SEEDS: u64 = 2000;

/// How long fresh seeds are played each time, unless `SIMULATION_MINUTES` gives a time on the
/// processor. A change is tested by the fixed seeds; the search for rare faults needs hours.
const FRESH: Duration = Duration::from_secs(3);
const FRESH_OF_LOCK_SERVERS: Duration = Duration::from_secs(1);
const FRESH_OF_SHARED_POOLS: Duration = Duration::from_secs(1);

/// How often a long run says how far it is.
const REPORT: Duration = Duration::from_mins(5);

#[test]
fn fixed_seeds_show_no_violation() {
    let mut total = Total::default();
    for seed in FIXED {
        check(&Scenario::of(seed), &mut total);
    }
    total.print("fixed seeds");
}

#[test]
fn fresh_seeds_show_no_violation() {
    play_fresh("fresh seeds", Scenario::of, FRESH);
}

/// Plays seeds that have never been played, for a while.
fn play_fresh(name: &str, of: fn(u64) -> Scenario, usually: Duration) {
    let variable = |name| std::env::var(name).ok();
    let minutes = variable("SIMULATION_MINUTES").and_then(|text| text.parse::<f64>().ok());
    let minutes = minutes.map(|minutes| Duration::from_secs_f64(minutes * 60.0));
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("after 1970");
    let seed = variable("SIMULATION_SEED").and_then(|text| text.parse().ok());
    let first =
        seed.unwrap_or(u64::try_from(now.as_micros()).expect("before the year 586000") << 16);
    println!("the first fresh seed is {first}");
    let mut total = Total::default();
    let mut report = REPORT;
    for seed in first.. {
        check(&of(seed), &mut total);
        let over = match minutes {
            Some(minutes) => total.busy() >= minutes,
            None => total.elapsed() >= usually,
        };
        if over {
            break;
        }
        if total.elapsed() >= report {
            report += REPORT;
            total.print(&format!("{name} up to {seed}"));
        }
    }
    total.print(name);
}

#[test]
fn fixed_seeds_of_lock_servers_show_no_violation() {
    let mut total = Total::default();
    for seed in FIXED_OF_LOCK_SERVERS {
        check(&Scenario::of_lock_servers(seed), &mut total);
    }
    total.print("fixed seeds of lock servers");
}

#[test]
fn fresh_seeds_of_lock_servers_show_no_violation() {
    let name = "fresh seeds of lock servers";
    play_fresh(name, Scenario::of_lock_servers, FRESH_OF_LOCK_SERVERS);
}

#[test]
fn fixed_seeds_of_shared_pools_show_no_violation() {
    let mut total = Total::default();
    for seed in FIXED_OF_SHARED_POOLS {
        check(&Scenario::of_shared_pools(seed), &mut total);
    }
    total.print("fixed seeds of shared pools");
}

#[test]
fn fresh_seeds_of_shared_pools_show_no_violation() {
    let name = "fresh seeds of shared pools";
    play_fresh(name, Scenario::of_shared_pools, FRESH_OF_SHARED_POOLS);
}

/// Three of the known errors; `known_errors/run` plays all.
#[test]
fn known_errors_are_found() {
    for (error, first) in KNOWN_ERRORS {
        let total = Total::default();
        let shows = |seed: &u64| {
            let outcome = play_with(&Scenario::of(*seed), false, Some(error));
            outcome.violation.is_some()
        };
        let mut seeds = first..first + KNOWN_ERROR_SEEDS;
        let found = seeds.find(shows);
        let found = found.unwrap_or_else(|| panic!("{error:?} is not found"));
        let seconds = total.busy().as_secs_f64();
        println!("{error:?}: seed {found} after {seconds:.1} s");
    }
}

#[test]
fn a_seed_makes_one_course() {
    let has_every = |it: &Scenario| it.every.is_some();
    let every = FIXED.map(Scenario::of).find(has_every);
    let every = every.expect("a seed with --every");
    for scenario in [
        Scenario::of(5),
        Scenario::of_lock_servers(5),
        Scenario::of_shared_pools(5),
        every,
    ] {
        let courses = [1, 2].map(|_| play(&scenario, true).trace);
        assert!(courses[0].len() > 100);
        assert_eq!(courses[0], courses[1]);
    }
}

/// Plays the scenario of a seed. A violation is shrunk, printed and kept.
fn check(scenario: &Scenario, total: &mut Total) {
    let seed = scenario.seed;
    let outcome = play(scenario, false);
    total.add(&outcome.figures);
    if let Some(violation) = outcome.violation {
        let seconds = total.busy().as_secs_f64();
        total.print("until a violation");
        let report = shrink::report(scenario, &violation);
        let kept = figures::keep(seed, &report);
        panic!("{report}\nseed {seed} after {seconds:.1} s: {violation}\nkept in {kept}");
    }
}
