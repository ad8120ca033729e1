//! When a process tree that was sent KILL is sent KILL again, and when its survivors are reported.
//! One pass signals all processes that /proc shows; the next pass signals those born during it, or
//! not shown. Guard and supervisor use the same timing. Pure.

use crate::moment::Moment;
use std::time::Duration;

/// Time after the first KILL until a surviving process is reported as unkillable.
pub const UNKILLABLE_AFTER: Duration = Duration::from_secs(1);

/// Interval of later reports, and the longest pause between two rounds.
pub const REPORT_INTERVAL: Duration = Duration::from_mins(1);

/// Pause between the first two rounds; it doubles with each round. A pass takes about as long for a
/// hundred processes (30 µs each), so dying processes are not signalled over and over.
const FIRST_PAUSE: Duration = Duration::from_millis(5);

/// No report is due before the pause has become so long: if the host was suspended, the second may be
/// over before survivors have had the time to die.
const REPORTED_FROM: Duration = Duration::from_millis(80);

/// The state of the rounds of one tree.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KillRounds {
    next: Moment,
    pause: Duration,
    report: Moment,
}

/// The action that is due.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Due {
    /// Send KILL to all survivors.
    Kill,
    /// The same, and report the survivors.
    Report,
}

impl KillRounds {
    /// Starts after a first round at `now`.
    pub fn begin(now: Moment) -> KillRounds {
        KillRounds {
            next: now + FIRST_PAUSE,
            pause: FIRST_PAUSE,
            report: now + UNKILLABLE_AFTER,
        }
    }

    /// When the next action is due.
    pub fn wake(self) -> Moment {
        self.next.min(self.report)
    }

    /// The action that is due at `now`, if any, and the next state.
    pub fn due(self, now: Moment) -> Option<(Due, KillRounds)> {
        if now < self.wake() {
            return None;
        }
        let pause = (self.pause * 2).min(REPORT_INTERVAL);
        let next = now + pause;
        let is_early = self.pause < REPORTED_FROM;
        let (due, report) = if is_early {
            (Due::Kill, self.report.max(next))
        } else if now < self.report {
            (Due::Kill, self.report)
        } else {
            (Due::Report, now + REPORT_INTERVAL)
        };
        let rounds = KillRounds {
            next,
            pause,
            report,
        };
        Some((due, rounds))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The actions of the first minutes, with their times in milliseconds.
    fn course() -> Vec<(u128, Due)> {
        let mut rounds = KillRounds::begin(Moment::default());
        let mut course = Vec::new();
        while rounds.wake() < Moment(Duration::from_mins(3)) {
            let now = rounds.wake();
            let (due, next) = rounds.due(now).expect("something is due when it wakes");
            course.push((now.0.as_millis(), due));
            rounds = next;
        }
        course
    }

    #[test]
    fn rounds_start_fast_and_slow_down() {
        let kills: Vec<u128> = course().iter().map(|&(at, _)| at).take(9).collect();
        assert_eq!(kills, [5, 15, 35, 75, 155, 315, 635, 1000, 2280]);
        assert!(course().len() < 20);
    }

    #[test]
    fn survivors_are_reported_after_a_second_and_every_minute() {
        let reports: Vec<u128> = course()
            .iter()
            .filter(|(_, due)| *due == Due::Report)
            .map(|&(at, _)| at)
            .collect();
        assert_eq!(reports, [1000, 61_000, 121_000]);
    }

    #[test]
    fn survivors_on_a_suspended_host_have_time_to_die_before_they_are_reported() {
        let mut rounds = KillRounds::begin(Moment::default());
        let mut now = Moment(Duration::from_secs(8));
        let mut course = Vec::new();
        for _ in 0..5 {
            let (due, next) = rounds.due(now).expect("it is late");
            course.push((now.0.as_millis(), due));
            (rounds, now) = (next, next.wake());
        }
        let kills = [8000, 8010, 8030, 8070].map(|at| (at, Due::Kill));
        assert_eq!(course[..4], kills);
        assert_eq!(course[4], (8150, Due::Report));
    }

    #[test]
    fn nothing_is_due_early() {
        let rounds = KillRounds::begin(Moment::default());
        assert_eq!(
            rounds.due(rounds.wake().before(Duration::from_nanos(1))),
            None
        );
    }
}
