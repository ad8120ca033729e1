//! Takes away from a failing scenario what does not matter for its failure.

use crate::course::play;
use crate::scenario::{Scenario, Script, What};
use std::fmt::Write;

/// Passes over the list of items.
const PASSES: usize = 4;

/// The smallest scenario that fails like this one, as far as taking away finds it.
pub fn shrink(scenario: &Scenario) -> Scenario {
    let mut best = scenario.clone();
    for _ in 0..PASSES {
        let before = best.clone();
        shorten(&mut best);
        simplify(&mut best);
        if best == before {
            break;
        }
    }
    best
}

fn fails(scenario: &Scenario) -> bool {
    play(scenario, false).violation.is_some()
}

/// Takes away items, in halves, quarters and so on.
fn shorten(best: &mut Scenario) {
    let mut size = best.items.len().div_ceil(2);
    while size > 0 {
        let mut at = 0;
        while at < best.items.len() {
            let mut fewer = best.clone();
            let end = (at + size).min(fewer.items.len());
            fewer.items.drain(at..end);
            if fails(&fewer) {
                *best = fewer;
            } else {
                at += size;
            }
        }
        size /= 2;
    }
}

/// Makes the cluster and the items simpler.
fn simplify(best: &mut Scenario) {
    attempt(best, |it| it.observers = 0);
    attempt(best, |it| it.voters = it.voters.min(1));
    attempt(best, |it| it.voters = it.voters.min(3));
    attempt(best, |it| it.keeper = false);
    attempt(best, |it| {
        it.every.iter_mut().for_each(|turns| turns.clocks = 0);
    });
    let late = best.items.first().map_or(0, |item| item.at);
    attempt(best, |it| {
        it.items.iter_mut().for_each(|item| item.at -= late);
    });
    for index in 0..best.items.len() {
        for plain in [
            |script: &mut Script| script.children = 0,
            |script: &mut Script| script.forks = 0,
            |script: &mut Script| script.deaf = false,
            |script: &mut Script| script.survives = 0,
        ] {
            attempt(best, |it| {
                if let What::Run { script, .. } = &mut it.items[index].what {
                    plain(script);
                }
            });
        }
        attempt(best, |it| {
            if let What::Run { hold, .. } = &mut it.items[index].what {
                *hold = 0;
            }
        });
    }
}

fn attempt(best: &mut Scenario, change: impl Fn(&mut Scenario)) {
    let mut simpler = best.clone();
    change(&mut simpler);
    if simpler != *best && fails(&simpler) {
        *best = simpler;
    }
}

/// The report of a failing scenario: its shrunk form as Rust, and its trace.
pub fn report(scenario: &Scenario, violation: &str) -> String {
    let small = shrink(scenario);
    let outcome = play(&small, true);
    let mut report = String::new();
    let _ = writeln!(report, "violation: {violation}");
    let _ = writeln!(
        report,
        "shrunk from {} items to {}:",
        scenario.items.len(),
        small.items.len()
    );
    let items = small
        .items
        .iter()
        .map(|item| format!("        {item:?},\n"));
    let items: String = items.collect();
    let head = format!(
        "{:?}",
        Scenario {
            items: vec![],
            ..small.clone()
        }
    );
    let head = head
        .replace("items: []", "items: vec![\n@    ]")
        .replace('@', &items);
    let _ = writeln!(report, "    play_without_violation({head});\n");
    let _ = writeln!(report, "trace of {} lines:", outcome.trace.len());
    for line in &outcome.trace {
        let _ = writeln!(report, "{line}");
    }
    let _ = writeln!(
        report,
        "shrunk violation: {}",
        outcome.violation.unwrap_or_default()
    );
    report
}
