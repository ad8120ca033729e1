//! The dead man's switch. The guard is a process between us and the command: it owns the command's
//! process tree and alone escalates from TERM to KILL, so that a zk-flock that was killed, stopped
//! or hangs cannot keep a command alive past its lock. Pure; `run::guard` is its body.

use crate::deadlines::Deadlines;
use crate::delivery::Reach;
use crate::kill_rounds::{Due, KillRounds};
use crate::moment::Moment;
use crate::signal::{Signal, Status};
use std::time::Duration;

/// How long before the end of a lease that was not renewed the guard asks to run ahead of ordinary
/// processes: longer than 32 busy ones keep it waiting (100 ms at most, measured on two cores), so
/// that it is there in time for the deadlines themselves. A healthy lease is renewed long
/// before, so a plain run never comes to this.
const AHEAD_BY: Duration = Duration::from_millis(300);

/// What happens to the guard.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// The lock is believed in until these deadlines.
    Believe(Deadlines),
    /// Pass this signal on to the command.
    Forward(Signal),
    /// End the tree: this signal now, KILL at the deadline.
    Stop {
        /// The signal to begin with.
        signal: Signal,
        /// Whom it has reached already.
        reach: Reach,
        /// KILL.
        dead_by: Moment,
    },
    /// Whoever keeps the lock is dead.
    Orphaned,
    /// The command itself has ended.
    Ended(Status),
    /// No child is left, and so nothing of the tree.
    Empty,
    /// Time has passed.
    Tick,
}

/// What to do about it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// Send this to the command alone.
    ToCommand(Signal),
    /// Send this to the whole tree, the command first; not to whom it has reached.
    ToTree(Signal, Reach),
    /// KILL the whole tree, in one pass.
    Kill,
    /// Be scheduled ahead of ordinary processes from now on, where that is allowed.
    RunAhead,
    /// Tell whoever keeps the lock.
    Tell(News),
    /// Nothing is left to guard, or nobody to guard it for.
    Leave,
}

/// What the guard tells.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum News {
    /// The command has ended.
    Ended(Status),
    /// The order to stop was heard.
    Obeyed,
    /// The lease ran out, and the guard ends the tree by itself.
    LeaseOver,
    /// Nothing of the tree is left.
    TreeGone,
    /// Something of it is left although it was killed.
    Stuck,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// The command runs.
    Running,
    /// The tree was told to end; KILL at this moment.
    Stopping { kill: Moment },
    /// It is being killed, round after round.
    Killing { rounds: KillRounds },
}

/// The machine.
#[derive(Debug)]
pub struct Guard {
    /// Sent to the tree when whoever keeps the lock dies; `None`: it is left alone then.
    death_signal: Option<Signal>,
    kill_after: Duration,
    lease: Deadlines,
    phase: Phase,
    /// Whether it was asked to run ahead.
    ahead: bool,
}

impl Guard {
    /// Watches over a command that was just started.
    pub fn new(death_signal: Option<Signal>, kill_after: Duration, lease: Deadlines) -> Guard {
        Guard {
            death_signal,
            kill_after,
            lease,
            phase: Phase::Running,
            ahead: false,
        }
    }

    /// Takes in an event; says what to do about it, in order.
    pub fn step(&mut self, event: Event, now: Moment) -> Vec<Action> {
        use Action::*;
        use Phase::*;
        match (self.phase, event) {
            (_, Event::Believe(lease)) => {
                self.lease = lease;
                vec![]
            }
            (Running, Event::Ended(status)) => vec![Tell(News::Ended(status)), Leave], /* what it leaves in the background lives on */
            (_, Event::Ended(status)) => vec![Tell(News::Ended(status))],
            (_, Event::Empty) => vec![Tell(News::TreeGone), Leave],
            (Killing { .. }, Event::Stop { .. }) => vec![Tell(News::Obeyed)],
            (
                phase,
                Event::Stop {
                    signal,
                    reach,
                    dead_by,
                },
            ) => {
                let kill = if let Stopping { kill } = phase {
                    kill.min(dead_by)
                } else {
                    dead_by
                };
                self.stop(vec![Tell(News::Obeyed)], (signal, reach), kill, now)
            }
            (Running, Event::Orphaned) => match self.death_signal {
                Some(signal) => {
                    self.stop(vec![], (signal, Reach::Here), now + self.kill_after, now)
                }
                None => vec![Leave],
            },
            (Running, Event::Tick) if now >= self.lease.kill => self.stop(
                vec![Tell(News::LeaseOver)],
                (Signal::KILL, Reach::Here),
                now,
                now,
            ),
            (Running, Event::Tick) if now >= self.lease.term => self.stop(
                vec![Tell(News::LeaseOver)],
                (Signal::TERM, Reach::Here),
                self.lease.kill,
                now,
            ),
            (Running, Event::Tick) if now >= self.ahead_at() => self.run_ahead(),
            (Stopping { kill }, Event::Tick) if now >= kill.min(self.lease.kill) => self.kill(now),
            (Killing { rounds }, Event::Tick) => match rounds.due(now) {
                Some((due, rounds)) => {
                    self.phase = Killing { rounds };
                    if due == Due::Report {
                        vec![Tell(News::Stuck), Kill]
                    } else {
                        vec![Kill]
                    }
                }
                None => vec![],
            },
            (Running | Stopping { .. }, Event::Forward(signal)) if signal == Signal::KILL => {
                let mut actions = self.run_ahead();
                actions.extend(self.kill(now));
                actions
            }
            (Running | Stopping { .. }, Event::Forward(signal)) => vec![ToCommand(signal)],
            (Killing { .. }, Event::Forward(_))
            | (Stopping { .. } | Killing { .. }, Event::Orphaned)
            | (_, Event::Tick) => vec![],
        }
    }

    /// When time alone brings about something next.
    pub fn wake(&self) -> Moment {
        match self.phase {
            Phase::Running => self.ahead_at().min(self.lease.term),
            Phase::Stopping { kill } => kill.min(self.lease.kill),
            Phase::Killing { rounds } => rounds.wake(),
        }
    }

    /// When to run ahead because the lease is about to end.
    fn ahead_at(&self) -> Moment {
        if self.ahead {
            Moment::NEVER
        } else {
            self.lease.term.before(AHEAD_BY)
        }
    }

    fn run_ahead(&mut self) -> Vec<Action> {
        let already = std::mem::replace(&mut self.ahead, true);
        if already {
            vec![]
        } else {
            vec![Action::RunAhead]
        }
    }

    fn stop(
        &mut self,
        mut first: Vec<Action>,
        (signal, reach): (Signal, Reach),
        kill: Moment,
        now: Moment,
    ) -> Vec<Action> {
        self.phase = Phase::Stopping { kill };
        first.extend(self.run_ahead());
        first.extend(if signal == Signal::KILL {
            self.kill(now)
        } else {
            vec![Action::ToTree(signal, reach)]
        });
        first
    }

    fn kill(&mut self, now: Moment) -> Vec<Action> {
        self.phase = Phase::Killing {
            rounds: KillRounds::begin(now),
        };
        vec![Action::Kill]
    }
}

#[cfg(test)]
mod tests {
    use super::Action::*;
    use super::*;

    const TERM: Signal = Signal::TERM;
    const FINE: Status = Status::Exited(0);

    fn at(seconds: u64) -> Moment {
        Moment(Duration::from_secs(seconds))
    }

    fn lease(term: u64, kill: u64) -> Deadlines {
        Deadlines {
            term: at(term),
            kill: at(kill),
        }
    }

    /// Plays a script on a guard whose death signal is TERM, which kills 4 s after it, and whose
    /// lease at first ends at 10 s and 12 s.
    fn play(script: &[(u64, Event, &[Action])]) {
        play_with(Some(TERM), script);
    }

    fn play_with(death_signal: Option<Signal>, script: &[(u64, Event, &[Action])]) {
        let mut guard = Guard::new(death_signal, Duration::from_secs(4), lease(10, 12));
        for (line, &(second, event, actions)) in script.iter().enumerate() {
            assert_eq!(
                guard.step(event, at(second)),
                actions,
                "line {line}: {event:?} at {second} s"
            );
        }
    }

    #[test]
    fn a_command_that_ends_by_itself_ends_the_guard_and_leaves_its_background_alone() {
        play(&[(1, Event::Ended(FINE), &[Tell(News::Ended(FINE)), Leave])]);
    }

    #[test]
    fn an_order_to_stop_is_heard_and_ends_in_kill() {
        let stop = Event::Stop {
            signal: TERM,
            reach: Reach::Here,
            dead_by: at(5),
        };
        play(&[
            (
                1,
                stop,
                &[Tell(News::Obeyed), RunAhead, ToTree(TERM, Reach::Here)],
            ),
            (4, Event::Tick, &[]),
            (5, Event::Tick, &[Kill]),
            (5, Event::Empty, &[Tell(News::TreeGone), Leave]),
        ]);
    }

    #[test]
    fn a_stop_is_over_when_the_whole_tree_is_gone() {
        let stop = Event::Stop {
            signal: TERM,
            reach: Reach::Here,
            dead_by: at(5),
        };
        play(&[
            (
                1,
                stop,
                &[Tell(News::Obeyed), RunAhead, ToTree(TERM, Reach::Here)],
            ),
            (2, Event::Ended(FINE), &[Tell(News::Ended(FINE))]),
            (3, Event::Empty, &[Tell(News::TreeGone), Leave]),
        ]);
    }

    #[test]
    fn an_order_to_kill_kills() {
        play(&[(
            1,
            Event::Stop {
                signal: Signal::KILL,
                reach: Reach::Here,
                dead_by: at(1),
            },
            &[Tell(News::Obeyed), RunAhead, Kill],
        )]);
    }

    #[test]
    fn a_stop_that_has_reached_the_command_only_has_a_deadline() {
        let stop = Event::Stop {
            signal: TERM,
            reach: Reach::Everywhere,
            dead_by: at(5),
        };
        play(&[
            (
                1,
                stop,
                &[
                    Tell(News::Obeyed),
                    RunAhead,
                    ToTree(TERM, Reach::Everywhere),
                ],
            ),
            (5, Event::Tick, &[Kill]),
        ]);
    }

    #[test]
    fn a_second_stop_never_gives_more_time() {
        let stop = |dead_by| Event::Stop {
            signal: TERM,
            reach: Reach::Here,
            dead_by: at(dead_by),
        };
        play(&[
            (
                1,
                stop(5),
                &[Tell(News::Obeyed), RunAhead, ToTree(TERM, Reach::Here)],
            ),
            (2, stop(9), &[Tell(News::Obeyed), ToTree(TERM, Reach::Here)]),
            (5, Event::Tick, &[Kill]),
        ]);
    }

    #[test]
    fn a_lease_that_is_not_proved_again_ends_the_tree_in_time() {
        play(&[
            (9, Event::Tick, &[]),
            (
                10,
                Event::Tick,
                &[Tell(News::LeaseOver), RunAhead, ToTree(TERM, Reach::Here)],
            ),
            (11, Event::Tick, &[]),
            (12, Event::Tick, &[Kill]),
        ]);
        play(&[
            (9, Event::Believe(lease(15, 17)), &[]),
            (14, Event::Tick, &[]),
            (
                15,
                Event::Tick,
                &[Tell(News::LeaseOver), RunAhead, ToTree(TERM, Reach::Here)],
            ),
        ]);
    }

    #[test]
    fn a_lease_that_is_over_already_ends_in_kill_at_once() {
        play(&[(13, Event::Tick, &[Tell(News::LeaseOver), RunAhead, Kill])]);
    }

    #[test]
    fn the_guard_runs_ahead_of_others_only_when_a_lease_is_about_to_end() {
        let mut guard = Guard::new(Some(TERM), Duration::from_secs(4), lease(10, 12));
        assert_eq!(guard.wake(), at(10).before(AHEAD_BY));
        assert_eq!(guard.step(Event::Believe(lease(20, 22)), at(9)), []);
        assert_eq!(guard.step(Event::Tick, at(10)), [], "renewed in time");
        assert_eq!(guard.step(Event::Tick, at(20).before(AHEAD_BY)), [RunAhead]);
        assert_eq!(guard.wake(), at(20), "asked for once");
        assert_eq!(
            guard.step(Event::Tick, at(20)),
            [Tell(News::LeaseOver), ToTree(TERM, Reach::Here)]
        );
    }

    #[test]
    fn no_grace_lasts_longer_than_the_lease() {
        let stop = Event::Stop {
            signal: TERM,
            reach: Reach::Here,
            dead_by: at(99),
        };
        play(&[
            (
                9,
                stop,
                &[Tell(News::Obeyed), RunAhead, ToTree(TERM, Reach::Here)],
            ),
            (12, Event::Tick, &[Kill]),
        ]);
        play(&[
            (9, Event::Orphaned, &[RunAhead, ToTree(TERM, Reach::Here)]),
            (12, Event::Tick, &[Kill]),
        ]);
    }

    #[test]
    fn when_zk_flock_dies_the_tree_gets_the_death_signal_and_then_kill() {
        play(&[
            (1, Event::Orphaned, &[RunAhead, ToTree(TERM, Reach::Here)]),
            (5, Event::Tick, &[Kill]),
        ]);
        play_with(
            Some(Signal::USR1),
            &[
                (
                    1,
                    Event::Orphaned,
                    &[RunAhead, ToTree(Signal::USR1, Reach::Here)],
                ),
                (5, Event::Tick, &[Kill]),
            ],
        );
        play_with(
            Some(Signal::KILL),
            &[(1, Event::Orphaned, &[RunAhead, Kill])],
        );
    }

    #[test]
    fn without_a_death_signal_the_tree_is_left_alone() {
        play_with(None, &[(1, Event::Orphaned, &[Leave])]);
    }

    #[test]
    fn what_does_not_die_is_named_again_and_again() {
        let stop = Event::Stop {
            signal: Signal::KILL,
            reach: Reach::Here,
            dead_by: at(0),
        };
        let named: &[Action] = &[Tell(News::Stuck), Kill];
        play(&[
            (1, stop, &[Tell(News::Obeyed), RunAhead, Kill]),
            (2, Event::Tick, named),
            (2, Event::Tick, &[]),
            (3, Event::Tick, &[Kill]),
            (62, Event::Tick, named),
        ]);
    }

    #[test]
    fn a_signal_is_passed_to_the_command_alone() {
        play(&[
            (1, Event::Forward(Signal::USR1), &[ToCommand(Signal::USR1)]),
            (1, Event::Forward(Signal::TSTP), &[ToCommand(Signal::TSTP)]),
        ]);
    }

    /// Whatever comes in whatever order: once the lease has run out, the tree has been killed or is
    /// gone.
    #[test]
    fn no_order_of_events_outlives_the_lease() {
        let events = [
            Event::Forward(TERM),
            Event::Stop {
                signal: TERM,
                reach: Reach::Here,
                dead_by: at(99),
            },
            Event::Stop {
                signal: Signal::KILL,
                reach: Reach::Here,
                dead_by: at(0),
            },
            Event::Orphaned,
            Event::Ended(FINE),
            Event::Tick,
        ];
        for order in 0..events.len().pow(5) {
            let mut guard = Guard::new(Some(TERM), Duration::MAX, lease(10, 12));
            let chosen = (0..5).map(|place| events[order / events.len().pow(place) % events.len()]);
            let mut done: Vec<Action> = chosen
                .enumerate()
                .flat_map(|(second, event)| guard.step(event, at(second as u64 * 2 + 1)))
                .collect();
            done.extend(
                [10, 12]
                    .into_iter()
                    .flat_map(|second| guard.step(Event::Tick, at(second))),
            );
            assert!(
                done.contains(&Kill) || done.contains(&Leave),
                "order {order}: {done:?}"
            );
        }
    }
}
