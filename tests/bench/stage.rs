//! Holders that hold until they are let go, and waiters that say when they were served.

use crate::contestants::{Contender, Contestants};
use crate::stopwatch::{borrowed, job};
use common::run::Running;
use common::{wait_for, wait_until};
use std::fs::{self, OpenOptions};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// What times are written into.
pub struct Sheet(PathBuf);

impl Sheet {
    /// An empty one.
    pub fn new(contestants: &Contestants) -> Sheet {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        Sheet(
            contestants
                .sandbox
                .path(&format!("sheet-{}", NUMBER.fetch_add(1, Ordering::Relaxed))),
        )
    }

    /// The times so far, since boot.
    pub fn times(&self) -> Vec<Duration> {
        let text = fs::read_to_string(&self.0).unwrap_or_default();
        text.lines()
            .filter_map(|line| line.parse().ok())
            .map(Duration::from_nanos)
            .collect()
    }

    fn path(&self) -> &str {
        self.0.to_str().expect("paths of tests are text")
    }
}

/// What holders hang on.
pub struct Leash(PathBuf);

impl Leash {
    /// One for any number of holders.
    pub fn new(contestants: &Contestants) -> Leash {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let path = contestants
            .sandbox
            .path(&format!("leash-{}", NUMBER.fetch_add(1, Ordering::Relaxed)));
        assert!(
            Command::new("mkfifo")
                .arg(&path)
                .status()
                .is_ok_and(|status| status.success())
        );
        Leash(path)
    }

    /// Lets all go.
    pub fn let_go(self) {
        drop(
            OpenOptions::new()
                .write(true)
                .open(self.0)
                .expect("somebody holds"),
        );
    }

    fn path(&self) -> &str {
        self.0.to_str().expect("paths of tests are text")
    }
}

/// Starts a holder that keeps the lock as long as the leash does. The first time on the
/// sheet is that of its start, the second that of its end.
pub fn hold<'a>(
    contestants: &'a Contestants,
    contender: &Contender,
    lock: &str,
    leash: &Leash,
    sheet: &Sheet,
) -> Running<'a> {
    start(
        contestants,
        contender,
        lock,
        &["hold", sheet.path(), leash.path()],
    )
}

/// Starts a contender that acquires the lock, records the time and releases it.
pub fn queue_up<'a>(
    contestants: &'a Contestants,
    contender: &Contender,
    lock: &str,
    sheet: &Sheet,
) -> Running<'a> {
    start(contestants, contender, lock, &["stamp", sheet.path()])
}

/// Until so many times are on the sheet.
pub fn wait_for_times(sheet: &Sheet, count: usize) -> Vec<Duration> {
    wait_for(&format!("{count} times"), || {
        Some(sheet.times()).filter(|times| times.len() >= count)
    })
}

/// Until so many more wait than there were.
pub fn wait_for_waiters(contender: &Contender, lock: &str, before: usize, count: usize) {
    wait_until(&format!("{count} of {} to wait", contender.name), || {
        contender.server.waiting(lock) >= before + count
    });
}

fn start<'a>(
    contestants: &'a Contestants,
    contender: &Contender,
    lock: &str,
    command: &[&str],
) -> Running<'a> {
    let stopwatch = contestants
        .programs
        .stopwatch
        .to_str()
        .expect("paths of tests are text");
    let words = contender.words(lock, &[&[stopwatch], command].concat());
    job(&contestants.sandbox, words[0].as_ref())
        .words(&borrowed(&words[1..]))
        .start()
}
