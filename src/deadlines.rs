//! When a command must be dead if its lock's lease is not renewed: the end of the lease, less the
//! time that killing takes. All locks that can be lost use this calculation.

use crate::moment::Moment;
use std::time::Duration;

/// Time between the command's kill deadline and the end of the lease. It covers that the guard
/// wakes up and that one pass over the tree has signalled it; and if the guard does not do so in
/// the first half (`supervisor::KILL_OVERDUE`), that zk-flock does.
///
/// Measured on two cores with 3,000 other processes, from the order to the last sign of life of a
/// tree of eight generations that ignores TERM: median 0.1 ms, worst 0.8 ms; beside 32 busy loops
/// median 0.3 ms, worst 61 ms; the latter without root's rights median 2 ms, worst 40 ms; zk-flock
/// replacing a stopped guard 1.5 ms at worst, beside the busy loops 37 ms in the median. So either
/// half is more than the worst of a guard beside 16 busy loops a core. A machine that delays a
/// process for longer than that has only the server's tick as its margin.
const MARGIN: Duration = Duration::from_millis(200);

/// Two clocks that measure the same interval differ by at most one part in `DRIFT`: each may be
/// slewed by 500 parts in a million (adjtime).
const DRIFT: u32 = 1000;

/// The longest grace between TERM and KILL when a lease expires.
const LONGEST_GRACE: Duration = Duration::from_secs(1);

/// The shortest lease that leaves time for a late renewal.
pub const SHORTEST: Duration = Duration::from_secs(1);

/// When the command must be killed if the lease is not renewed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Deadlines {
    /// When TERM is sent to the tree.
    pub term: Moment,
    /// When KILL is sent to the rest of the tree.
    pub kill: Moment,
}

impl Deadlines {
    /// Of a lock without a lease.
    pub const NEVER: Deadlines = Deadlines {
        term: Moment::NEVER,
        kill: Moment::NEVER,
    };

    /// Of a lock that no other client can acquire before `until`, with leases of `length`;
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
    fn tree_is_dead_before_the_lease_ends() {
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
