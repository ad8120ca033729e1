//! When a command must go whose lock is lent for a time and not proved anew: the end of the lease,
//! less what it takes to die in time. Every lock that can be lost counts so, whatever lends it.

use crate::moment::Moment;
use std::time::Duration;

/// What must fit between our deadline and the server's: that the guard wakes up, and that one pass
/// over the tree has signalled it; and if the guard does not do so in the first half
/// (`supervisor::OVERDUE`), that zk-flock does.
///
/// Measured on two cores with 3,000 other processes, from the order to the last sign of life of a
/// tree of eight generations that is deaf to TERM: median 0.1 ms, worst 0.8 ms; beside 32 busy
/// loops median 0.3 ms, worst 61 ms; there without root's rights median 2 ms, worst 40 ms; zk-flock
/// in the place of a stopped guard 1.5 ms at worst, beside the busy loops 37 ms in the median. So
/// either half is more than the worst of a guard beside 16 busy loops a core. A machine that keeps
/// a process waiting longer than that has only the server's tick as its margin.
const MARGIN: Duration = Duration::from_millis(200);

/// Two clocks that count the same time are at most one part in so many apart: each may be slewed by
/// 500 parts in a million (adjtime).
const DRIFT: u32 = 1000;

/// The longest grace between TERM and KILL when a lease runs out.
const LONGEST_GRACE: Duration = Duration::from_secs(1);

/// The shortest lease of which enough is left for a proof to be late.
pub const SHORTEST: Duration = Duration::from_secs(1);

/// When the command must go, if no further proof comes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Deadlines {
    /// TERM to the tree.
    pub term: Moment,
    /// KILL to what is left of it.
    pub kill: Moment,
}

impl Deadlines {
    /// Of a lock that needs no proof.
    pub const NEVER: Deadlines = Deadlines {
        term: Moment::NEVER,
        kill: Moment::NEVER,
    };

    /// Of a lock that nobody else can be given before `until`, lent for `length` at a time;
    /// `kill_after` is the grace that an operator's stop would give the command.
    pub fn of(until: Moment, length: Duration, kill_after: Duration) -> Deadlines {
        let grace = kill_after.min(LONGEST_GRACE).min(length / 10);
        let kill = until.before(MARGIN.max(length / DRIFT));
        Deadlines {
            term: kill.before(grace),
            kill,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(milliseconds: u64) -> Moment {
        Moment(Duration::from_millis(milliseconds))
    }

    #[test]
    fn the_tree_is_dead_before_the_lease_ends() {
        const LENGTH: Duration = Duration::from_secs(10);
        for (kill_after, term, kill) in [(5000, 8800, 9800), (300, 9500, 9800), (0, 9800, 9800)] {
            let deadlines = Deadlines {
                term: at(term),
                kill: at(kill),
            };
            assert_eq!(
                Deadlines::of(at(10_000), LENGTH, Duration::from_millis(kill_after)),
                deadlines,
                "{kill_after}"
            );
        }
        let day = Deadlines::of(
            at(86_400_000),
            Duration::from_hours(24),
            Duration::from_secs(5),
        );
        assert_eq!(
            day.kill,
            at(86_400_000 - 86_400),
            "two clocks may be so far apart by then"
        );
        assert_eq!(
            Deadlines::of(at(10_000), SHORTEST, Duration::MAX),
            Deadlines {
                term: at(9700),
                kill: at(9800)
            }
        );
        assert_eq!(
            Deadlines::of(Moment::NEVER, Duration::MAX, Duration::MAX),
            Deadlines::NEVER
        );
    }
}
