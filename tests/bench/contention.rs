//! Many waiters for one lock, each served once: how long until all were, and what that costs the
//! server.

use crate::Effort;
use crate::contestants::{Contender, Contestants, Server};
use crate::stage::{Leash, Sheet, hold, queue_up, wait_for_times, wait_for_waiters};
use crate::stopwatch::cpu;
use crate::table::{Table, ms, ratio, three};
use std::time::Duration;

/// What they wait for.
pub const LOCK: &str = "crowd";

/// The figures of one round.
struct Figures {
    /// From the end of the first holder's command to the start of the last one's.
    total: Duration,
    /// The server's processor time, if there is a server.
    cpu: Option<Duration>,
    /// What the server has received and sent, if it counts that.
    packets: Option<usize>,
}

/// Measures all in turn, round after round, for one size after another.
pub fn measure(contestants: &Contestants, effort: &Effort) -> Table {
    let head = [
        "waiters for one lock",
        "waiters",
        "× zk-flock",
        "in all",
        "each",
        "server's CPU, each",
        "packets, each",
    ];
    let mut table = Table::new(&head);
    let all = contestants.contenders();
    for &size in effort.crowds {
        let there: Vec<&Contender> = all
            .iter()
            .flatten()
            .filter(|contender| size <= contender.most)
            .collect();
        let mut figures: Vec<Vec<Figures>> = there.iter().map(|_| Vec::new()).collect();
        for _ in 0..effort.rounds {
            for (contender, figures) in there.iter().zip(&mut figures) {
                figures.push(crowd(contestants, contender, size));
            }
        }
        let middles: Vec<Figures> = figures.into_iter().map(middle).collect();
        for (contender, figures) in there.iter().zip(&middles) {
            let ratio = ratio(figures.total, middles[0].total);
            table.row(
                contender.name,
                &[&[size.to_string(), ratio], &shown(figures, size)[..]].concat(),
            );
        }
    }
    for missing in all.iter().filter_map(|contender| contender.as_ref().err()) {
        table.missing(missing.name, missing.remedy);
    }
    table
}

/// The one that took neither most nor least.
fn middle(mut figures: Vec<Figures>) -> Figures {
    figures.sort_unstable_by_key(|figures| figures.total);
    figures.swap_remove(figures.len() / 2)
}

fn shown(
    Figures {
        total,
        cpu,
        packets,
    }: &Figures,
    size: usize,
) -> [String; 4] {
    let each = size as f64;
    let cpu = cpu.map_or("–".into(), |cpu| ms(cpu.div_f64(each)));
    let packets = packets.map_or("–".into(), |packets| three(packets as f64 / each));
    [ms(*total), ms(total.div_f64(each)), cpu, packets]
}

fn crowd(contestants: &Contestants, contender: &Contender, size: usize) -> Figures {
    let (leash, first, sheet) = (
        Leash::new(contestants),
        Sheet::new(contestants),
        Sheet::new(contestants),
    );
    let holder = hold(contestants, contender, LOCK, &leash, &first);
    wait_for_times(&first, 1);
    let before = contender.server.waiting(LOCK);
    let waiters: Vec<_> = (0..size)
        .map(|_| queue_up(contestants, contender, LOCK, &sheet))
        .collect();
    wait_for_waiters(contender, LOCK, before, size);
    let (spent_before, packets_before) = (spent(contender), packets(contender));
    leash.let_go();
    for run in std::iter::once(holder).chain(waiters) {
        assert_eq!(run.wait().end, Ok(0), "{}", contender.name);
    }
    let last = sheet.times().into_iter().max().expect("all were served");
    Figures {
        total: last.saturating_sub(first.times()[1]),
        cpu: spent(contender)
            .zip(spent_before)
            .map(|(after, before)| after.saturating_sub(before)),
        packets: packets(contender)
            .zip(packets_before)
            .map(|(after, before)| after - before),
    }
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
