//! A whole cluster in one process, from one seed.
//!
//! The program's own state machines and loops run on simulated hosts, over a simulated network,
//! against a simulated ensemble, in simulated time: hours of faults take seconds, and a seed always
//! makes the same course of events. [`scenario`] says what may happen, [`course`] plays it, [`world`]
//! models hosts, processes and the network, [`ensemble`] the servers. Each model begins with a page
//! on what it is faithful to.
//!
//! # Invariants
//!
//! * Never more live commands than slots, but in the cases that zk-flock-safety(7) lists; the
//!   simulation knows them by name (`World::exception`) and counts them.
//! * Tokens grow.
//! * Waiters of a queue are served in its order.
//! * After the last fault each run ends within a bound, and nothing is left: no process, no session,
//!   no ephemeral node.
//! * zk-flock exits for a documented reason, and after its command; what it calls released is free.
//!
//! # A failing seed
//!
//! The test prints the scenario with all that does not matter taken away, as Rust, and its trace. Add
//! it to [`found`], and mend the program.

#![allow(clippy::disallowed_methods)] // only to limit and measure how long it takes
#![allow(clippy::struct_excessive_bools)] // independent facts of a model

mod course;
mod ensemble;
mod figures;
#[cfg(test)]
mod found;
mod random;
mod scenario;
mod shrink;
mod tree;
mod world;

use course::play;
use figures::Total;
use scenario::Scenario;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Seeds that are played each time.
const FIXED: std::ops::Range<u64> = 0..300;

/// How long fresh seeds are played each time.
const FRESH: Duration = Duration::from_secs(20);

#[test]
fn fixed_seeds_show_no_violation() {
    let mut total = Total::default();
    for seed in FIXED {
        check(seed, &mut total);
    }
    total.print("fixed seeds");
}

#[test]
fn fresh_seeds_show_no_violation() {
    let variable = |name| std::env::var(name).ok();
    let minutes = variable("SIMULATION_MINUTES").and_then(|text| text.parse::<f64>().ok());
    let limit = minutes.map_or(FRESH, |minutes| Duration::from_secs_f64(minutes * 60.0));
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("after 1970");
    let seed = variable("SIMULATION_SEED").and_then(|text| text.parse().ok());
    let first =
        seed.unwrap_or(u64::try_from(now.as_micros()).expect("before the year 586000") << 16);
    println!("the first fresh seed is {first}");
    let (began, mut total) = (Instant::now(), Total::default());
    for seed in first.. {
        check(seed, &mut total);
        if began.elapsed() >= limit {
            break;
        }
    }
    total.print("fresh seeds");
}

#[test]
fn a_seed_makes_one_course() {
    let courses = [1, 2].map(|_| play(&Scenario::of(5), true).trace);
    assert!(courses[0].len() > 100);
    assert_eq!(courses[0], courses[1]);
}

/// Plays the scenario of a seed. A violation is shrunk, printed and kept.
fn check(seed: u64, total: &mut Total) {
    let scenario = Scenario::of(seed);
    let outcome = play(&scenario, false);
    total.add(&outcome.figures);
    if let Some(violation) = outcome.violation {
        let seconds = total.seconds();
        let report = shrink::report(&scenario, &violation);
        let kept = figures::keep(seed, &report);
        panic!("{report}\nseed {seed} after {seconds:.1} s: {violation}\nkept in {kept}");
    }
}
