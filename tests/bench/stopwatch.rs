//! Measures whole processes: by `programs/stopwatch.rs`, by strace, by what the kernel says of one
//! that runs.

#![allow(
    unsafe_code,
    reason = "the clock of another process, clock_getcpuclockid(3)"
)]

use crate::contestants::Programs;
use common::process;
use common::run::Job;
use common::sandbox::Sandbox;
use std::fs;
use std::path::Path;
use std::time::Duration;

/// What one run took, with all that it started and waited for.
#[derive(Clone, Copy)]
pub struct Cost {
    /// From its start to its end.
    pub wall: Duration,
    /// On processors.
    pub cpu: Duration,
    /// Peak memory of the largest process, in KiB.
    pub memory: u64,
}

/// The times of several runs.
#[derive(Default)]
pub struct Costs(Vec<Cost>);

impl Costs {
    /// One more.
    pub fn add(&mut self, cost: Cost) {
        self.0.push(cost);
    }

    /// The middle of their lengths.
    pub fn wall(&self) -> Duration {
        median(self.0.iter().map(|cost| cost.wall).collect())
    }

    /// The middle of their times on processors.
    pub fn cpu(&self) -> Duration {
        median(self.0.iter().map(|cost| cost.cpu).collect())
    }
}

/// Runs words to their end.
#[track_caller]
pub fn time(sandbox: &Sandbox, programs: &Programs, words: &[String]) -> Cost {
    let outcome = job(sandbox, &programs.stopwatch)
        .words(&["time"])
        .words(&borrowed(words))
        .run();
    let numbers: Vec<u64> = outcome
        .stdout
        .split_ascii_whitespace()
        .filter_map(|number| number.parse().ok())
        .collect();
    let &[wall, cpu, memory, 0] = &numbers[..] else {
        panic!("{words:?} failed: {outcome:?}")
    };
    Cost {
        wall: Duration::from_nanos(wall),
        cpu: Duration::from_nanos(cpu),
        memory,
    }
}

/// How many system calls a run makes, its children's included.
#[track_caller]
pub fn system_calls(sandbox: &Sandbox, words: &[String]) -> usize {
    let summary = sandbox.path("strace");
    let file = summary.to_str().expect("paths of tests are text");
    let outcome = job(sandbox, Path::new("strace"))
        .words(&["-f", "-c", "-U", "calls,name", "-o", file])
        .words(&borrowed(words))
        .run();
    assert_eq!(outcome.end, Ok(0), "{outcome:?}");
    let text = sandbox.read("strace");
    let total = text
        .lines()
        .find_map(|line| line.trim().strip_suffix(" total")?.trim().parse().ok());
    total.unwrap_or_else(|| panic!("no total in {text}"))
}

/// Time that a process has spent on processors so far, its dead threads included.
pub fn cpu(pid: i32) -> Duration {
    let (mut clock, mut time) = (
        0,
        libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        },
    );
    // SAFETY: clock_getcpuclockid(3) writes one clockid_t.
    let found = unsafe { libc::clock_getcpuclockid(pid, &raw mut clock) };
    assert_eq!(found, 0, "process {pid} is gone");
    // SAFETY: clock_gettime(2) fills the one timespec.
    unsafe { libc::clock_gettime(clock, &raw mut time) };
    Duration::new(
        time.tv_sec.cast_unsigned(),
        time.tv_nsec.try_into().expect("nanoseconds are below 10^9"),
    )
}

/// Memory of a process in KiB, what it shares with others shared out among them.
pub fn proportional_memory(pid: i32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    text.lines()
        .find_map(|line| {
            line.strip_prefix("Pss:")?
                .trim()
                .split(' ')
                .next()?
                .parse()
                .ok()
        })
        .unwrap_or(0)
}

/// Peak memory of a process that runs, in KiB.
pub fn peak_memory(pid: i32) -> u64 {
    process::status(pid, "VmHWM")
        .and_then(|line| line.split(' ').next()?.parse().ok())
        .expect("the process is there")
}

/// A run with the default PATH of Debian.
pub fn job<'a>(sandbox: &'a Sandbox, program: &Path) -> Job<'a> {
    Job::new(sandbox, program)
        .env(
            "PATH",
            "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        )
        .env("ETCDCTL_API", "3")
}

/// The middle of some times.
pub fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

/// Words as [`Job`] takes them.
pub fn borrowed(words: &[String]) -> Vec<&str> {
    words.iter().map(String::as_str).collect()
}
