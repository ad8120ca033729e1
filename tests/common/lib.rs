//! What the integration tests share: a sandbox per test, timed runs of the program, real servers, a
//! client that watches.

#![allow(
    clippy::disallowed_methods,
    reason = "a test may poll, take the time and use threads; the program may not"
)]
#![allow(
    clippy::new_without_default,
    reason = "what new() makes is a folder or a server, and no default of anything"
)]

pub mod capture;
pub mod checker;
pub mod client;
pub mod distributexd;
pub mod ensemble;
pub mod kazoo;
pub mod keeper;
pub mod lock_server;
pub mod memcached;
pub mod network_fault;
pub mod probe_job;
pub mod process;
pub mod promises;
pub mod proxy;
pub mod pty;
pub mod python;
pub mod run;
pub mod sandbox;
pub mod scripted_server;
pub mod zookeeper;

use std::fmt::Display;
use std::fs::OpenOptions;
use std::io::Write;
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// The deadline of each wait. Generous: a busy machine must not fail a test.
pub const SOON: Duration = Duration::from_secs(30);

/// One second.
pub const SECOND: Duration = Duration::from_secs(1);

/// Evaluates `condition` until it is `Some`, and returns its value. Panics at the deadline, and
/// names `what`.
#[track_caller]
pub fn wait_for<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + SOON;
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(
            Instant::now() < deadline,
            "waited {} s in vain for: {what}",
            SOON.as_secs()
        );
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Waits until `condition` holds; see [`wait_for`].
#[track_caller]
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    wait_for(what, || condition().then_some(()));
}

/// Appends a measured figure to `figures.txt`, which `tests/all` prints at its end.
pub fn report(what: &str, figure: impl Display) {
    let path = scratch().join("figures.txt");
    let mut file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .expect("figures can be written");
    file.write_all(format!("{what}: {figure}\n").as_bytes())
        .expect("figures can be written");
}

/// Cargo's folder for what tests write: `CARGO_TARGET_TMPDIR`, which only they are compiled with.
pub fn scratch() -> PathBuf {
    profile()
        .parent()
        .expect("target is above the profile")
        .join("tmp")
}

/// Cargo's folder of this build, `target/debug` or another: this executable is in its `deps`.
fn profile() -> PathBuf {
    let own = std::env::current_exe().expect("/proc is mounted");
    let profile = own.ancestors().nth(2);
    profile.expect("deps is in a profile").to_path_buf()
}

/// Sleeps while a fault lasts. Never a guess at how long something takes.
pub fn let_last(time: Duration) {
    std::thread::sleep(time);
}

/// How often a test repeats an attempt: `few`, or `$TRIES` if that is set, for a longer run by
/// hand.
pub fn tries(few: usize) -> usize {
    std::env::var("TRIES").map_or(few, |tries| tries.parse().expect("TRIES is a number"))
}

/// The median and the maximum of some times, in ms.
pub fn summary(mut times: Vec<Duration>) -> String {
    times.sort_unstable();
    let ms = |at: usize| times[at].as_secs_f64() * 1000.0;
    format!(
        "median {:.1} ms, worst {:.1} ms of {}",
        ms(times.len() / 2),
        ms(times.len() - 1),
        times.len()
    )
}

/// Asserts that this many runs of [`IN_TURN`] wrote this, and no two of them at once.
#[track_caller]
pub fn assert_in_turn(written: &str, runs: usize) {
    let lines: Vec<&str> = written.lines().collect();
    assert_eq!(lines.len(), 2 * runs);
    for pair in lines.chunks(2) {
        assert_eq!(
            pair[0].strip_prefix("start "),
            pair[1].strip_prefix("end "),
            "two at once: {lines:?}"
        );
    }
}

/// A command that writes when it starts and when it ends: see [`assert_in_turn`].
pub const IN_TURN: &str = "sh -c 'echo start $$ >>runs; sleep 0.01; echo end $$ >>runs'";

/// A port on which no program listens, below the range of outgoing connections, and given to no
/// other thread of this process.
pub fn free_port() -> u16 {
    static TRIED: AtomicU32 = AtomicU32::new(0);
    let first = 10_000 + std::process::id() % 20_000;
    let mut candidates = (0..1_000)
        .filter_map(|_| u16::try_from(first + TRIED.fetch_add(1, Ordering::Relaxed)).ok());
    candidates
        .find(|&port| TcpListener::bind(("127.0.0.1", port)).is_ok())
        .expect("one of a thousand ports is free")
}
