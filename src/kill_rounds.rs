//! When a process tree that was sent KILL is sent it again, and when what is left of it is
//! reported. One pass signals all that /proc shows; a process that was born during the pass, or not
//! shown, is met by the next. Guard and supervisor count alike. Pure.

use crate::moment::Moment;
use std::time::Duration;

/// How long after the first KILL a process that is still there is reported as one that cannot be
/// killed.
pub const UNKILLABLE_AFTER: Duration = Duration::from_secs(1);

/// How often it is reported from then on, and the longest pause between two rounds.
pub const REPORT_INTERVAL: Duration = Duration::from_mins(1);

/// Pause between the first two rounds; each further one is twice as long. A pass takes about as
/// long for a hundred processes (30 µs each), so that what is dying already is not signalled over
/// and over.
const FIRST_PAUSE: Duration = Duration::from_millis(5);

/// The rounds of one tree.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KillRounds {
    next: Moment,
    pause: Duration,
    report: Moment,
}

/// What is due.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Due {
    /// KILL to all that is left.
    Kill,
    /// The same, and a report of what is left.
    Report,
}

impl KillRounds {
    /// After a first round at `now`.
    pub fn begin(now: Moment) -> KillRounds {
        KillRounds {
            next: now + FIRST_PAUSE,
            pause: FIRST_PAUSE,
            report: now + UNKILLABLE_AFTER,
        }
    }

    /// When something is due.
    pub fn wake(self) -> Moment {
        self.next.min(self.report)
    }

    /// What is due by now, if anything, and the rounds after it.
    pub fn due(self, now: Moment) -> Option<(Due, KillRounds)> {
        if now < self.wake() {
            return None;
        }
        let pause = (self.pause * 2).min(REPORT_INTERVAL);
        let rounds = KillRounds {
            next: now + pause,
            pause,
            ..self
        };
        Some(if now < self.report {
            (Due::Kill, rounds)
        } else {
            (
                Due::Report,
                KillRounds {
                    report: now + REPORT_INTERVAL,
                    ..rounds
                },
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// When what is due in the first minutes, in milliseconds.
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
    fn rounds_follow_at_once_and_then_ever_more_seldom() {
        let kills: Vec<u128> = course().iter().map(|&(at, _)| at).take(9).collect();
        assert_eq!(kills, [5, 15, 35, 75, 155, 315, 635, 1000, 2280]);
        assert!(course().len() < 20);
    }

    #[test]
    fn what_is_left_after_a_second_is_reported_every_minute() {
        let reports: Vec<u128> = course()
            .iter()
            .filter(|(_, due)| *due == Due::Report)
            .map(|&(at, _)| at)
            .collect();
        assert_eq!(reports, [1000, 61_000, 121_000]);
    }

    #[test]
    fn nothing_is_due_before_its_time() {
        let rounds = KillRounds::begin(Moment::default());
        assert_eq!(
            rounds.due(rounds.wake().before(Duration::from_nanos(1))),
            None
        );
    }
}
