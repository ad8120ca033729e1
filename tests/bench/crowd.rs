//! Many waiters for one lock, each served once: how long until all were, and what that costs the server.

use crate::Effort;
use crate::field::{Contender, Field, Server};
use crate::stage::{Leash, Sheet, hold, queue_up, wait_for_times, wait_for_waiters};
use crate::stopwatch::cpu;
use crate::table::{Table, ms, three};
use std::time::Duration;

/// What they wait for.
pub const LOCK: &str = "crowd";

/// Measures crowd after crowd.
pub fn measure(field: &Field, effort: &Effort) -> Table {
    let mut table = Table::new(&["waiters for one lock", "waiters", "in all", "each", "server's CPU, each", "packets, each"]);
    let all = field.contenders();
    for contender in all.iter().flatten() {
        for &size in effort.crowds.iter().filter(|&&size| size <= contender.most) {
            table.row(contender.name, &[&[size.to_string()], &crowd(field, contender, size)[..]].concat());
        }
    }
    for missing in all.iter().filter_map(|contender| contender.as_ref().err()) {
        table.missing(missing.name, missing.remedy);
    }
    table
}

fn crowd(field: &Field, contender: &Contender, size: usize) -> [String; 4] {
    let (leash, first, sheet) = (Leash::new(field), Sheet::new(field), Sheet::new(field));
    let holder = hold(field, contender, LOCK, &leash, &first);
    wait_for_times(&first, 1);
    let before = contender.server.waiting(LOCK);
    let waiters: Vec<_> = (0..size).map(|_| queue_up(field, contender, LOCK, &sheet)).collect();
    wait_for_waiters(contender, LOCK, before, size);
    let (spent, packets) = (spent(contender), packets(contender));
    leash.let_go();
    for run in std::iter::once(holder).chain(waiters) {
        assert_eq!(run.wait().end, Ok(0), "{}", contender.name);
    }
    let each = f64::from(u32::try_from(size).expect("crowds are small"));
    let last = sheet.times().into_iter().max().expect("all were served");
    let total = last.saturating_sub(first.times()[1]);
    let cpu = spent.map_or("–".into(), |before| ms(self::spent(contender).unwrap_or_default().saturating_sub(before).div_f64(each)));
    let packets = packets.map_or("–".into(), |before| three((self::packets(contender).unwrap_or(before) - before) as f64 / each));
    [ms(total), ms(total.div_f64(each)), cpu, packets]
}

fn spent(contender: &Contender) -> Option<Duration> {
    contender.server.pid().map(cpu)
}

fn packets(contender: &Contender) -> Option<usize> {
    match contender.server {
        Server::ZooKeeper(server) => Some(server.packets()),
        _ => None,
    }
}
