//! What it costs to wait and to hold, while nothing happens: processor time and memory of who does,
//! and of the server with a thousand of them.

use crate::Effort;
use crate::contestants::{Contender, Contestants};
use crate::stage::{Leash, Sheet, hold, queue_up, wait_for_times, wait_for_waiters};
use crate::stopwatch::{cpu, peak_memory, proportional_memory};
use crate::table::{Table, mb, ms};
use common::run::Running;
use common::{let_last, process};
use std::slice::from_ref;
use std::time::Duration;

/// What one of them holds and the other waits for.
pub const LOCK: &str = "standing";

/// Measures all at the same time, since they do almost nothing; then many at once.
pub fn measure(contestants: &Contestants, effort: &Effort) -> Table {
    let mut table = Table::new(&[
        "while nothing happens",
        "CPU in a minute",
        "memory",
        "server's CPU in a minute",
    ]);
    let (idle, _) = watch([vec![contestants.zookeeper.pid()]].into_iter(), effort)[0];
    table.row("ZooKeeper alone", &[String::new(), String::new(), ms(idle)]);
    let all = contestants.contenders();
    let leash = Leash::new(contestants);
    let pairs: Vec<_> = all
        .iter()
        .flatten()
        .map(|contender| (contender.name, pair(contestants, contender, &leash)))
        .collect();
    let mut costs = watch(
        pairs
            .iter()
            .flat_map(|(_, pair)| pair)
            .map(|run| processes(from_ref(run))),
        effort,
    )
    .into_iter();
    for (name, _) in &pairs {
        for role in ["holds", "waits"] {
            let (spent, memory) = costs.next().expect("each was watched");
            table.row(
                &format!("{name}, {role}"),
                &[ms(spent), mb(memory), String::new()],
            );
        }
    }
    leash.let_go();
    pairs
        .into_iter()
        .flat_map(|(_, pair)| pair)
        .for_each(|run| assert_eq!(run.wait().end, Ok(0)));
    for missing in all.iter().filter_map(|contender| contender.as_ref().err()) {
        table.missing(missing.name, missing.remedy);
    }
    for ours in [contestants.zk_flock(), contestants.lockex()] {
        thousands(contestants, &ours, effort, &mut table);
    }
    table
}

/// A holder and a waiter for its lock.
fn pair<'a>(
    contestants: &'a Contestants,
    contender: &Contender,
    leash: &Leash,
) -> [Running<'a>; 2] {
    let (first, second) = (Sheet::new(contestants), Sheet::new(contestants));
    let holder = hold(contestants, contender, LOCK, leash, &first);
    wait_for_times(&first, 1);
    let before = contender.server.waiting(LOCK);
    let waiter = queue_up(contestants, contender, LOCK, &second);
    wait_for_waiters(contender, LOCK, before, 1);
    [holder, waiter]
}

/// Many holders, each of its own lock, and many waiters for one lock.
fn thousands(contestants: &Contestants, contender: &Contender, effort: &Effort, table: &mut Table) {
    let (leash, sheet) = (Leash::new(contestants), Sheet::new(contestants));
    let holders: Vec<_> = (0..effort.thousand)
        .map(|number| {
            hold(
                contestants,
                contender,
                &format!("{LOCK}-{number}"),
                &leash,
                &sheet,
            )
        })
        .collect();
    wait_for_times(&sheet, effort.thousand);
    crowd(
        &format!("{}, {} hold", contender.name, effort.thousand),
        contender,
        &holders,
        effort,
        table,
    );
    leash.let_go();
    holders
        .into_iter()
        .for_each(|run| assert_eq!(run.wait().end, Ok(0)));
    let (leash, first, sheet) = (
        Leash::new(contestants),
        Sheet::new(contestants),
        Sheet::new(contestants),
    );
    let holder = hold(contestants, contender, LOCK, &leash, &first);
    wait_for_times(&first, 1);
    let before = contender.server.waiting(LOCK);
    let waiters: Vec<_> = (0..effort.thousand)
        .map(|_| queue_up(contestants, contender, LOCK, &sheet))
        .collect();
    wait_for_waiters(contender, LOCK, before, effort.thousand);
    crowd(
        &format!("{}, {} wait", contender.name, effort.thousand),
        contender,
        &waiters,
        effort,
        table,
    );
    leash.let_go();
    waiters
        .into_iter()
        .chain([holder])
        .for_each(|run| assert_eq!(run.wait().end, Ok(0)));
}

/// A row for all of them together.
fn crowd(name: &str, contender: &Contender, runs: &[Running], effort: &Effort, table: &mut Table) {
    let server = contender.server.pid().expect("ours have one");
    let costs = watch([processes(runs), vec![server]].into_iter(), effort);
    let ((spent, memory), (server, _)) = (costs[0], costs[1]);
    table.row(name, &[ms(spent), mb(memory), ms(server)]);
}

/// The runs' own processes: programs and guards, not their commands.
fn processes(runs: &[Running]) -> Vec<i32> {
    let programs: Vec<i32> = runs.iter().map(Running::pid).collect();
    let guards = process::all().filter(|&pid| process::name(pid) == "lock-guard");
    let ours = guards
        .filter(|&guard| process::parent(guard).is_some_and(|parent| programs.contains(&parent)));
    let ours: Vec<i32> = ours.collect();
    [programs, ours].concat()
}

/// Processor time that some processes take in a minute, and their memory in KiB: at its peak for
/// one run, its fair share for many.
fn watch(groups: impl Iterator<Item = Vec<i32>>, effort: &Effort) -> Vec<(Duration, u64)> {
    let groups: Vec<Vec<i32>> = groups.collect();
    let spent = |group: &Vec<i32>| group.iter().copied().map(cpu).sum::<Duration>();
    let before: Vec<Duration> = groups.iter().map(spent).collect();
    let_last(effort.window);
    let minute = Duration::from_mins(1).as_secs_f64() / effort.window.as_secs_f64();
    let memory = |group: &Vec<i32>| -> u64 {
        let measure = if group.len() > 2 {
            proportional_memory
        } else {
            peak_memory
        };
        group.iter().copied().map(measure).sum()
    };
    groups
        .iter()
        .zip(before)
        .map(|(group, before)| {
            (
                spent(group).saturating_sub(before).mul_f64(minute),
                memory(group),
            )
        })
        .collect()
}
