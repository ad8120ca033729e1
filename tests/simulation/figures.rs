//! Sums up what was simulated, and keeps reports.

use crate::world::Figures;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

/// The sum of many courses.
pub struct Total {
    began: Instant,
    /// Time on the processor when it began.
    busy: Duration,
    courses: u64,
    sum: Figures,
}

impl Default for Total {
    fn default() -> Total {
        Total {
            began: Instant::now(),
            busy: processor_time(),
            courses: 0,
            sum: Figures::default(),
        }
    }
}

/// How long this thread has had a processor (proc(5)): what another process uses does not count.
fn processor_time() -> Duration {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanoseconds = text.split(' ').next().and_then(|first| first.parse().ok());
    Duration::from_nanos(nanoseconds.unwrap_or(0))
}

fn add_all<K: Ord + Clone>(sum: &mut BTreeMap<K, u64>, more: &BTreeMap<K, u64>) {
    for (key, count) in more {
        *sum.entry(key.clone()).or_default() += count;
    }
}

impl Total {
    /// Adds a course.
    pub fn add(&mut self, figures: &Figures) {
        self.courses += 1;
        self.sum.handovers += figures.handovers;
        self.sum.runs += figures.runs;
        self.sum.recorded += figures.recorded;
        self.sum.events += figures.events;
        self.sum.microseconds += figures.microseconds;
        self.sum.elections += figures.elections;
        self.sum.expiries += figures.expiries;
        add_all(&mut self.sum.faults, &figures.faults);
        add_all(&mut self.sum.ends, &figures.ends);
        add_all(&mut self.sum.exceptions, &figures.exceptions);
    }

    /// How long it has taken so far.
    pub fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// How much of a processor it has taken so far.
    pub fn busy(&self) -> Duration {
        processor_time().saturating_sub(self.busy)
    }

    /// Prints the figures.
    pub fn print(&self, of: &str) {
        let sum = &self.sum;
        let (elapsed, busy) = (self.elapsed().as_secs_f64(), self.busy().as_secs_f64());
        let hours = Duration::from_micros(sum.microseconds).as_secs_f64() / 3600.0;
        println!(
            "{of}: {} scenarios, {} runs, {} commands started, {} events",
            self.courses, sum.runs, sum.handovers, sum.events
        );
        println!(
            "  {hours:.1} simulated hours in {elapsed:.1} s ({busy:.1} s of a processor): {:.2} hours and {:.0} commands a second of a processor",
            hours / busy,
            f64::from(u32::try_from(sum.handovers).unwrap_or(u32::MAX)) / busy
        );
        println!(
            "  {} elections, {} sessions expired, {} starts recorded with --every",
            sum.elections, sum.expiries, sum.recorded
        );
        println!(
            "  {} faults of {} kinds: {:?}",
            sum.faults.values().sum::<u64>(),
            sum.faults.len(),
            sum.faults
        );
        println!("  ends: {:?}", sum.ends);
        println!("  documented exceptions: {:?}", sum.exceptions);
    }
}

/// Keeps the report of a failing seed. Returns where.
pub fn keep(seed: u64, report: &str) -> String {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("simulation");
    let path = folder.join(format!("seed-{seed}.txt"));
    let kept = fs::create_dir_all(&folder).and_then(|()| fs::write(&path, report));
    kept.map_or_else(
        |error| format!("nothing: {error}"),
        |()| path.display().to_string(),
    )
}
