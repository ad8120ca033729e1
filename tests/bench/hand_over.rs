//! From the end of the holder's command to the start of the next one's.

use crate::Effort;
use crate::contestants::{Contender, Contestants};
use crate::stage::{Leash, Sheet, hold, queue_up, wait_for_times, wait_for_waiters};
use crate::stopwatch::median;
use crate::table::{Table, ms, ratio};
use std::time::Duration;

/// What is handed over.
pub const LOCK: &str = "hand-over";

/// Measures all in turn, round after round.
pub fn measure(contestants: &Contestants, effort: &Effort) -> Table {
    let mut table = Table::new(&[
        "hand-over to one who waits",
        "× zk-flock",
        "time",
        "largest",
    ]);
    let all = contestants.contenders();
    let there: Vec<&Contender> = all.iter().flatten().collect();
    let mut times: Vec<Vec<Duration>> = there.iter().map(|_| Vec::new()).collect();
    for _ in 0..effort.hand_overs {
        for (contender, times) in there.iter().zip(&mut times) {
            times.push(hand_over(contestants, contender));
        }
    }
    let ours = median(times[0].clone());
    for (contender, times) in there.iter().zip(times) {
        let largest = *times.iter().max().expect("there was a round");
        let time = median(times);
        table.row(contender.name, &[ratio(time, ours), ms(time), ms(largest)]);
    }
    for missing in all.iter().filter_map(|contender| contender.as_ref().err()) {
        table.missing(missing.name, missing.remedy);
    }
    table
}

fn hand_over(contestants: &Contestants, contender: &Contender) -> Duration {
    let (leash, first, second) = (
        Leash::new(contestants),
        Sheet::new(contestants),
        Sheet::new(contestants),
    );
    let holder = hold(contestants, contender, LOCK, &leash, &first);
    wait_for_times(&first, 1);
    let before = contender.server.waiting(LOCK);
    let waiter = queue_up(contestants, contender, LOCK, &second);
    wait_for_waiters(contender, LOCK, before, 1);
    leash.let_go();
    assert_eq!(
        [holder.wait().end, waiter.wait().end],
        [Ok(0); 2],
        "{}",
        contender.name
    );
    second.times()[0].saturating_sub(first.times()[1])
}
