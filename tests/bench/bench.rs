//! What a lock costs, beside the programs that zk-flock replaces: `cargo bench`, or one part by
//! name, e.g. `cargo bench -- one-run`. It runs whole processes, all contenders in turn, in rounds,
//! and prints medians, and ratios within a round. It asserts no time.
//!
//! `--quick` makes few rounds and few contenders, to check that it works.

#![allow(
    clippy::disallowed_methods,
    reason = "who measures may take the time and use threads; the program may not"
)]
#![allow(
    unreachable_pub,
    reason = "a program of several files, as the tests are"
)]
#![allow(
    clippy::wildcard_imports,
    reason = "what the tests share is not in a test here"
)]
#![allow(clippy::cast_precision_loss, reason = "figures for a table")]

mod contention;
mod contestants;
mod distributexd;
mod etcd;
mod hand_over;
mod idle_cost;
mod one_run;
mod requests;
mod service;
mod stage;
mod stopwatch;
mod table;
mod waiters;

use contestants::Contestants;
use std::time::Duration;
use table::Table;

/// How much is measured.
pub struct Effort {
    /// Runs of one kind, of which the median counts.
    pub runs: usize,
    /// Hand-overs of one kind, of which the median counts.
    pub hand_overs: usize,
    /// How many wait for one lock.
    pub crowds: &'static [usize],
    /// How long nothing happens.
    pub window: Duration,
    /// How many do it together.
    pub thousand: usize,
    /// Rounds of contention and of requests, of which the median counts.
    pub rounds: usize,
    /// How long requests are made.
    pub load: Duration,
    /// How many wait at the lock server.
    pub waiters: &'static [usize],
}

const FULL: Effort = Effort {
    runs: 101,
    hand_overs: 51,
    crowds: &[10, 100, 500],
    window: Duration::from_secs(30),
    thousand: 1000,
    rounds: 3,
    load: Duration::from_secs(5),
    waiters: &[10, 100, 1000, 10_000, 20_000],
};

const QUICK: Effort = Effort {
    runs: 3,
    hand_overs: 3,
    crowds: &[5],
    window: Duration::from_secs(2),
    thousand: 10,
    rounds: 1,
    load: Duration::from_secs(1),
    waiters: &[10, 100],
};

/// A part of the measurements.
type Part = fn(&Contestants, &Effort) -> Table;

const PARTS: &[(&str, Part)] = &[
    ("one-run", one_run::measure),
    ("hand-over", hand_over::measure),
    ("contention", contention::measure),
    ("idle-cost", idle_cost::measure),
    ("requests", requests::measure),
    ("waiters", waiters::measure),
];

fn main() {
    let words: Vec<String> = std::env::args()
        .skip(1)
        .filter(|word| word != "--bench")
        .collect(); // which cargo adds
    let effort = if words.iter().any(|word| word == "--quick") {
        QUICK
    } else {
        FULL
    };
    let wanted = |part: &str| {
        words.iter().all(|word| word.starts_with("--"))
            || words.iter().any(|word| part.contains(word))
    };
    if !PARTS.iter().any(|(name, _)| wanted(name)) {
        let names: Vec<&str> = PARTS.iter().map(|(name, _)| *name).collect();
        eprintln!(
            "no part is named {words:?}: the parts are {}",
            names.join(", ")
        );
        std::process::exit(2);
    }
    let contestants = Contestants::new();
    println!("{}\n", machine());
    for (_, measure) in PARTS.iter().filter(|(name, _)| wanted(name)) {
        println!("{}", measure(&contestants, &effort));
    }
}

/// When and where, as the kernel says.
fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let information = read("/proc/cpuinfo");
    let model = information
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split(": ").nth(1))
        .unwrap_or("unknown");
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let date = std::process::Command::new("date")
        .arg("+%Y-%m-%d")
        .output()
        .map_or_else(|_| Vec::new(), |output| output.stdout);
    format!(
        "{}, {cores} cores of {model}, Linux {}",
        String::from_utf8_lossy(&date).trim(),
        read("/proc/sys/kernel/osrelease").trim()
    )
}
