//! Decides a run: joins lock, command, signals and deadlines into one exit. Pure: `(phase, event,
//! now) → action`, every row a sentence of the specification. The order of events within one
//! millisecond is the whole difficulty, so there is no state outside the phase but what is fixed.

use crate::delivery::Reach;
use crate::kill_rounds::{Due, KillRounds, REPORT_INTERVAL, UNKILLABLE_AFTER};
use crate::moment::Moment;
use crate::plan::ExitReason;
use crate::signal::{Signal, Status};
use std::time::Duration;

/// How long the guard may take to say that it has heard an order to stop.
const OBEY: Duration = Duration::from_secs(1);

/// How much longer than the lease's deadline the guard may take to kill the tree, before it is
/// killed itself: half the margin that the deadline leaves.
const OVERDUE: Duration = Duration::from_millis(100);

/// How long after the deadline of an operator's stop the guard may be silent. One that works says
/// within `UNKILLABLE_AFTER` of its KILL that the tree is gone or that something is stuck; another
/// second is for a busy machine, since no lease presses and to kill a guard that works would be
/// told as its failure.
const SILENCE: Duration = UNKILLABLE_AFTER.saturating_add(OBEY);

/// What happens to a run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// The lock is ours.
    Acquired,
    /// There will be no lock, for this reason.
    NoLock(ExitReason),
    /// The lock is lost; its command must be dead by then.
    Lost {
        /// Now, if it is lost already.
        dead_by: Moment,
        /// Another host can have it from then on; if false, it is kept as far as that goes.
        gone: bool,
    },
    /// A lock that was lost and kept can be another host's from now on.
    Gone,
    /// An operator asks us to stop the command and to release the lock, which is ours until then.
    Revoked,
    /// Nothing of ours is left with the lock service.
    Released,
    /// The command runs.
    Started,
    /// It does not: why.
    CannotStart(ExitReason),
    /// The command itself has ended.
    Ended(Status),
    /// The guard has heard the order to stop.
    Obeyed,
    /// Nothing of the command's tree is left.
    TreeGone,
    /// Something of it cannot be killed.
    Stuck,
    /// The guard is gone, and the tree is ours to kill.
    GuardGone,
    /// A signal came.
    Signalled {
        /// Which.
        signal: Signal,
        /// By the terminal's driver.
        typed: bool,
        /// Whom it has reached besides us.
        reach: Reach,
    },
    /// Time has passed.
    Tick,
}

/// What to do about it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// Start the guard, and with it the command.
    Start,
    /// Pass this signal on to the command.
    Forward(Signal),
    /// Have the guard end the tree: this signal now, KILL at the deadline.
    Stop {
        /// The signal to begin with.
        signal: Signal,
        /// Whom it has reached already.
        reach: Reach,
        /// KILL.
        dead_by: Moment,
    },
    /// Kill guard and tree ourselves, in one pass.
    KillAll,
    /// The same, and name what is left although it was killed.
    KillAndReport,
    /// Stop this process until it is continued; `forward`: and the command, which has not heard of
    /// it.
    Suspend {
        /// Whether TSTP has still to be passed on.
        forward: bool,
    },
    /// Let go of the lock.
    Release,
    /// The end.
    Exit(ExitReason),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// There is no lock yet.
    Acquiring,
    /// The guard was told to start the command, and then said whether it did (`started`).
    Running { started: bool },
    /// The tree is being ended by the guard.
    Stopping(Ending),
    /// The guard is gone or disobeys: the tree is being killed by ourselves, round after round.
    /// `named`: what is left of it was reported.
    Killing {
        end: ExitReason,
        tenure: Tenure,
        rounds: KillRounds,
        named: bool,
    },
    /// The command is over, the minimum hold is not.
    Lingering { end: ExitReason },
    /// The lock is being let go.
    Releasing { end: ExitReason },
    /// All is said.
    Over,
}

/// What is known of the lock while the tree is being ended.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Tenure {
    /// It is held.
    Held,
    /// It could not be proved in time, and is kept as far as that goes: it is not released before
    /// the tree is gone.
    Lost,
    /// Another host can have it, so there is nothing to keep.
    Gone,
}

/// How far the guard is with ending the tree.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Ending {
    tenure: Tenure,
    /// Of the command, once it has ended.
    status: Option<Status>,
    /// KILL.
    dead_by: Moment,
    /// The guard has heard the order.
    obeyed: bool,
    /// When to do it ourselves.
    overdue: Moment,
}

/// One run.
#[derive(Debug)]
pub struct Supervisor {
    minimum_hold: Duration,
    kill_after: Duration,
    phase: Phase,
    /// The lock is held until then at least.
    hold_until: Moment,
    /// INT or QUIT came; if it ends the command, it ends us.
    interrupt: Option<Signal>,
    /// The command was stopped because the lock was revoked.
    revoked: bool,
}

impl Supervisor {
    /// A run that holds its lock at least `minimum_hold`, and gives a command that it stops
    /// `kill_after` from signal to KILL.
    pub fn new(minimum_hold: Duration, kill_after: Duration) -> Supervisor {
        Supervisor {
            minimum_hold,
            kill_after,
            phase: Phase::Acquiring,
            hold_until: Moment::default(),
            interrupt: None,
            revoked: false,
        }
    }

    /// Takes in an event; says what to do about it.
    #[expect(
        clippy::too_many_lines,
        reason = "one table, a row for each phase and event"
    )]
    pub fn step(&mut self, event: Event, now: Moment) -> Option<Action> {
        use Action::*;
        use Event::*;
        use Phase::*;
        if let Signalled {
            signal: signal @ (Signal::INT | Signal::QUIT),
            ..
        } = event
        {
            self.interrupt = Some(signal);
        }
        if event == Revoked {
            self.hold_until = Moment::default(); // whoever revokes a lock wants it now
        }
        let (phase, action) = match (self.phase, event) {
            (Acquiring, Acquired) => {
                self.hold_until = now + self.minimum_hold;
                (Running { started: false }, Some(Start))
            }
            (Acquiring, NoLock(end)) => (Releasing { end }, Some(Release)),
            (Acquiring, Signalled { signal, .. })
                if signal.ends() || matches!(signal, Signal::USR1 | Signal::USR2) =>
            {
                (
                    Releasing {
                        end: ExitReason::Signalled(signal),
                    },
                    Some(Release),
                )
            }
            (
                Acquiring,
                Signalled {
                    signal: Signal::TSTP,
                    ..
                },
            ) => (Acquiring, Some(Suspend { forward: false })),

            (Running { .. }, Started) => (Running { started: true }, None),
            (Running { .. }, CannotStart(end)) => (Releasing { end }, Some(Release)),
            (Running { .. }, Ended(status)) => self.linger(self.end(status), now),
            (Running { .. }, Lost { dead_by, gone }) => stop_lost(None, dead_by, gone, now),
            (Running { .. }, Gone) => stop_lost(None, now, true, now),
            (
                Running { started: true },
                Signalled {
                    signal: Signal::INT | Signal::QUIT,
                    typed: true,
                    ..
                },
            ) => (self.phase, None),
            (
                Running { started },
                Signalled {
                    signal: signal @ (Signal::INT | Signal::QUIT),
                    typed: true,
                    ..
                },
            ) => (Running { started }, Some(Forward(signal))),
            (Running { .. }, Signalled { signal, reach, .. }) if signal.ends() => {
                self.stop(signal, reach, now)
            }
            (Running { .. }, Revoked) => {
                self.revoked = true;
                self.stop(Signal::TERM, Reach::Here, now)
            }

            (Stopping(stop), Ended(status)) => (
                Stopping(Ending {
                    status: Some(status),
                    ..stop
                }),
                None,
            ),
            (Stopping(stop), Obeyed) => (Stopping(stop.obeyed()), None),
            (Stopping(stop), Lost { dead_by, gone }) => stop.lost(dead_by, gone, now),
            (Stopping(stop), Gone) => stop.lost(now, true, now),
            (Stopping(stop), TreeGone) if stop.tenure != Tenure::Held => (
                Releasing {
                    end: ExitReason::Lost,
                },
                Some(Release),
            ),
            (Stopping(stop), TreeGone) => self.linger(self.end_of(stop), now),
            (Stopping(stop), Stuck) if stop.tenure == Tenure::Gone => (
                Releasing {
                    end: ExitReason::Lost,
                },
                Some(Release),
            ),
            (Stopping(stop), Stuck) => (Stopping(stop.stuck(now)), None),
            // It has left before it could hear the order; one that has heard it leaves only when
            // the tree is gone.
            (
                Stopping(Ending {
                    tenure: Tenure::Held,
                    status: Some(status),
                    obeyed: false,
                    ..
                }),
                GuardGone,
            ) => self.linger(self.end(status), now),
            (
                Stopping(Ending {
                    tenure: Tenure::Held,
                    status: None,
                    ..
                }),
                CannotStart(end),
            ) => (Releasing { end }, Some(Release)),
            (Stopping(stop), Tick) if now >= stop.overdue => {
                kill_all(self.end_of(stop), stop.tenure, now)
            }
            (
                Stopping(_),
                Signalled {
                    signal,
                    typed: false,
                    reach: Reach::Here,
                },
            ) if signal.ends() => (self.phase, Some(Forward(signal))),

            (Running { .. }, GuardGone) => kill_all(ExitReason::InternalError, Tenure::Held, now),
            (Stopping(stop), GuardGone) => kill_all(self.end_of(stop), stop.tenure, now),
            (Killing { end, .. }, TreeGone) => (Releasing { end }, Some(Release)),
            (Killing { named: true, .. }, Gone | Lost { gone: true, .. }) => (
                Releasing {
                    end: ExitReason::Lost,
                },
                Some(Release),
            ),
            (Killing { rounds, .. }, Gone | Lost { gone: true, .. }) => (
                Killing {
                    end: ExitReason::Lost,
                    tenure: Tenure::Gone,
                    rounds,
                    named: false,
                },
                None,
            ),
            (
                Killing {
                    tenure,
                    rounds,
                    named,
                    ..
                },
                Lost { gone: false, .. },
            ) => (
                Killing {
                    end: ExitReason::Lost,
                    tenure: tenure.max(Tenure::Lost),
                    rounds,
                    named,
                },
                None,
            ),
            (
                Killing {
                    end,
                    tenure,
                    rounds,
                    named,
                },
                Tick,
            ) => match rounds.due(now) {
                Some((Due::Report, _)) if tenure == Tenure::Gone => {
                    (Releasing { end }, Some(Release))
                }
                Some((Due::Report, rounds)) => (
                    Killing {
                        end,
                        tenure,
                        rounds,
                        named: true,
                    },
                    Some(KillAndReport),
                ),
                Some((Due::Kill, rounds)) => (
                    Killing {
                        end,
                        tenure,
                        rounds,
                        named,
                    },
                    Some(KillAll),
                ),
                None => (self.phase, None),
            },

            (Lingering { end }, Lost { .. } | Gone | Revoked) => (Releasing { end }, Some(Release)),
            (Lingering { end }, Signalled { signal, .. }) if signal.ends() => {
                (Releasing { end }, Some(Release))
            }
            (Lingering { end }, Tick) if now >= self.hold_until => {
                (Releasing { end }, Some(Release))
            }
            (
                Lingering { .. },
                Signalled {
                    signal: Signal::TSTP,
                    ..
                },
            ) => (self.phase, Some(Suspend { forward: false })),

            (Releasing { end }, Released) => (Over, Some(Exit(end))),
            (Releasing { end }, Signalled { signal, .. }) if signal.ends() => {
                (Over, Some(Exit(end)))
            }

            (
                Running { .. } | Stopping(_),
                Signalled {
                    signal: Signal::TSTP,
                    typed,
                    ..
                },
            ) => (self.phase, Some(Suspend { forward: !typed })),
            (
                Running { .. } | Stopping(_),
                Signalled {
                    signal,
                    reach: Reach::Here,
                    ..
                },
            ) if !signal.ends() => (self.phase, Some(Forward(signal))),
            (phase, _) => (phase, None), // late news about what is already decided
        };
        self.phase = phase;
        action
    }

    /// When time alone brings about something next.
    pub fn wake(&self) -> Moment {
        match self.phase {
            Phase::Stopping(stop) => stop.overdue,
            Phase::Killing { rounds, .. } => rounds.wake(),
            Phase::Lingering { .. } => self.hold_until,
            _ => Moment::NEVER,
        }
    }

    /// The command's end as ours: of an INT or QUIT that ended it we die too, so that a shell's
    /// loop stops. One that we have stopped has not ended by itself, whatever its code.
    fn end(&self, status: Status) -> ExitReason {
        match status {
            _ if self.revoked => ExitReason::Revoked,
            Status::Killed(signal) if self.interrupt == Some(signal) => {
                ExitReason::Signalled(signal)
            }
            status => ExitReason::Command(status),
        }
    }

    /// How a run ends whose tree was stopped. Without a word about the command, it was the guard
    /// that failed.
    fn end_of(&self, stop: Ending) -> ExitReason {
        match stop {
            Ending {
                tenure: Tenure::Lost | Tenure::Gone,
                ..
            } => ExitReason::Lost,
            Ending { status, .. } => {
                status.map_or(ExitReason::InternalError, |status| self.end(status))
            }
        }
    }

    /// An operator's stop, which leaves the command its time to end.
    fn stop(&self, signal: Signal, reach: Reach, now: Moment) -> (Phase, Option<Action>) {
        let dead_by = now + self.kill_after;
        let stop = Ending {
            tenure: Tenure::Held,
            status: None,
            dead_by,
            obeyed: false,
            overdue: now + OBEY,
        };
        (
            Phase::Stopping(stop),
            Some(Action::Stop {
                signal,
                reach,
                dead_by,
            }),
        )
    }

    fn linger(&self, end: ExitReason, now: Moment) -> (Phase, Option<Action>) {
        if now >= self.hold_until {
            (Phase::Releasing { end }, Some(Action::Release))
        } else {
            (Phase::Lingering { end }, None)
        }
    }
}

impl Ending {
    /// The guard has heard the order. An operator's stop may take as long as it was told to; a lost
    /// lock leaves no such time.
    fn obeyed(self) -> Ending {
        let overdue = if self.tenure == Tenure::Held {
            self.dead_by + SILENCE
        } else {
            self.overdue
        };
        Ending {
            obeyed: true,
            overdue,
            ..self
        }
    }

    /// The guard cannot kill all of it, and says so again every minute, unless it is stopped.
    fn stuck(self, now: Moment) -> Ending {
        let overdue = if self.tenure == Tenure::Held {
            now + REPORT_INTERVAL + OBEY
        } else {
            self.overdue
        };
        Ending { overdue, ..self }
    }

    /// The lock is lost while the tree is being ended. What was ordered stands, unless there is
    /// less time now.
    fn lost(self, dead_by: Moment, gone: bool, now: Moment) -> (Phase, Option<Action>) {
        if self.tenure == Tenure::Held || dead_by < self.dead_by && now < self.dead_by {
            return stop_lost(
                self.status,
                dead_by,
                gone || self.tenure == Tenure::Gone,
                now,
            );
        }
        let tenure = if gone { Tenure::Gone } else { self.tenure };
        (Phase::Stopping(Ending { tenure, ..self }), None)
    }
}

/// The lock is lost: KILL if it is so already, else TERM and the rest of the lease.
fn stop_lost(
    status: Option<Status>,
    dead_by: Moment,
    gone: bool,
    now: Moment,
) -> (Phase, Option<Action>) {
    let signal = if dead_by <= now {
        Signal::KILL
    } else {
        Signal::TERM
    };
    let (tenure, overdue) = (
        if gone { Tenure::Gone } else { Tenure::Lost },
        dead_by.max(now) + OVERDUE,
    );
    (
        Phase::Stopping(Ending {
            tenure,
            status,
            dead_by,
            obeyed: false,
            overdue,
        }),
        Some(Action::Stop {
            signal,
            reach: Reach::Here,
            dead_by,
        }),
    )
}

/// The guard does not do it: so do we.
fn kill_all(end: ExitReason, tenure: Tenure, now: Moment) -> (Phase, Option<Action>) {
    (
        Phase::Killing {
            end,
            tenure,
            rounds: KillRounds::begin(now),
            named: false,
        },
        Some(Action::KillAll),
    )
}

#[cfg(test)]
mod tests {
    use super::Action::*;
    use super::Event::*;
    use super::*;

    const HOLD: Duration = Duration::from_secs(5);
    const KILL_AFTER: Duration = Duration::from_secs(4);

    fn at(seconds: u64) -> Moment {
        Moment(Duration::from_secs(seconds))
    }

    fn typed(signal: Signal) -> Event {
        Signalled {
            signal,
            typed: true,
            reach: Reach::Group,
        }
    }

    /// Lost by the end of the lease, and kept.
    fn lost(second: u64) -> Event {
        Lost {
            dead_by: at(second),
            gone: false,
        }
    }

    /// Lost, and another's from then on.
    fn taken(second: u64) -> Event {
        Lost {
            dead_by: at(second),
            gone: true,
        }
    }

    fn sent(signal: Signal) -> Event {
        Signalled {
            signal,
            typed: false,
            reach: Reach::Here,
        }
    }

    /// Plays a script: at that second, this event; it must come to that action.
    fn play(script: &[(u64, Event, Option<Action>)]) {
        let mut run = Supervisor::new(HOLD, KILL_AFTER);
        for (line, &(second, event, action)) in script.iter().enumerate() {
            assert_eq!(
                run.step(event, at(second)),
                action,
                "line {line}: {event:?} at {second} s in {:?}",
                run.phase
            );
        }
    }

    const KILLED: Status = Status::Killed(Signal::TERM);
    const FINE: Status = Status::Exited(0);

    #[test]
    fn a_run_that_goes_well_ends_by_its_commands_code() {
        let end = ExitReason::Command(Status::Exited(3));
        play(&[
            (0, Acquired, Some(Start)),
            (0, Started, None),
            (9, Ended(Status::Exited(3)), Some(Release)),
            (9, Released, Some(Exit(end))),
        ]);
    }

    #[test]
    fn the_lock_is_held_for_the_minimum_time() {
        let end = ExitReason::Command(FINE);
        play(&[
            (0, Acquired, Some(Start)),
            (0, Started, None),
            (1, Ended(FINE), None),
            (4, Tick, None),
            (5, Tick, Some(Release)),
            (5, Released, Some(Exit(end))),
        ]);
    }

    #[test]
    fn a_signal_ends_the_minimum_hold_and_the_code_stands() {
        for signal in [Signal::TERM, Signal::INT, Signal::HUP, Signal::QUIT] {
            let end = ExitReason::Command(FINE);
            play(&[
                (0, Acquired, Some(Start)),
                (1, Ended(FINE), None),
                (2, sent(signal), Some(Release)),
                (2, Released, Some(Exit(end))),
            ]);
        }
    }

    #[test]
    fn a_lock_lost_during_the_minimum_hold_changes_nothing() {
        let end = ExitReason::Command(FINE);
        play(&[
            (0, Acquired, Some(Start)),
            (1, Ended(FINE), None),
            (2, lost(2), Some(Release)),
            (2, Released, Some(Exit(end))),
        ]);
    }

    #[test]
    fn without_a_lock_there_is_no_command() {
        for end in [
            ExitReason::Busy,
            ExitReason::Unreachable,
            ExitReason::Refused,
        ] {
            play(&[
                (0, NoLock(end), Some(Release)),
                (0, Acquired, None),
                (0, Released, Some(Exit(end))),
            ]);
        }
    }

    #[test]
    fn a_signal_ends_the_wait_at_once_and_the_command_is_never_started_after_it() {
        for signal in [
            Signal::TERM,
            Signal::INT,
            Signal::HUP,
            Signal::QUIT,
            Signal::USR1,
            Signal::USR2,
        ] {
            let end = ExitReason::Signalled(signal);
            play(&[
                (0, sent(signal), Some(Release)),
                (0, Acquired, None),
                (0, Released, Some(Exit(end))),
            ]);
        }
    }

    #[test]
    fn term_stops_the_tree_and_then_holds_and_releases() {
        let stop = Stop {
            signal: Signal::TERM,
            reach: Reach::Here,
            dead_by: at(2) + KILL_AFTER,
        };
        let end = ExitReason::Command(KILLED);
        play(&[
            (0, Acquired, Some(Start)),
            (0, Started, None),
            (2, sent(Signal::TERM), Some(stop)),
            (2, Obeyed, None),
            (3, Ended(KILLED), None),
            (4, Tick, None),
            (4, sent(Signal::TERM), Some(Forward(Signal::TERM))),
            (6, TreeGone, Some(Release)),
            (6, Released, Some(Exit(end))),
        ]);
    }

    #[test]
    fn a_revoked_lock_stops_the_command_as_term_does_and_is_not_held_any_longer() {
        for status in [KILLED, FINE] {
            play(&[
                (0, Acquired, Some(Start)),
                (0, Started, None),
                (
                    2,
                    Revoked,
                    Some(Stop {
                        signal: Signal::TERM,
                        reach: Reach::Here,
                        dead_by: at(2) + KILL_AFTER,
                    }),
                ),
                (2, Obeyed, None),
                (3, Ended(status), None),
                (3, Revoked, None),
                (4, TreeGone, Some(Release)),
                (4, Released, Some(Exit(ExitReason::Revoked))),
            ]);
        }
    }

    #[test]
    fn a_revoked_lock_whose_lease_ends_first_is_lost() {
        play(&[
            (0, Acquired, Some(Start)),
            (0, Started, None),
            (
                2,
                Revoked,
                Some(Stop {
                    signal: Signal::TERM,
                    reach: Reach::Here,
                    dead_by: at(2) + KILL_AFTER,
                }),
            ),
            (2, Obeyed, None),
            (
                3,
                lost(4),
                Some(Stop {
                    signal: Signal::TERM,
                    reach: Reach::Here,
                    dead_by: at(4),
                }),
            ),
            (4, TreeGone, Some(Release)),
            (4, Released, Some(Exit(ExitReason::Lost))),
        ]);
    }

    #[test]
    fn a_revoke_ends_the_minimum_hold_and_a_command_that_has_ended_keeps_its_code() {
        let end = ExitReason::Command(FINE);
        play(&[
            (0, Acquired, Some(Start)),
            (1, Ended(FINE), None),
            (2, Revoked, Some(Release)),
            (2, Revoked, None),
            (2, Released, Some(Exit(end))),
        ]);
        let stop = Stop {
            signal: Signal::TERM,
            reach: Reach::Here,
            dead_by: at(1) + KILL_AFTER,
        };
        let end = ExitReason::Command(KILLED);
        play(&[
            (0, Acquired, Some(Start)),
            (1, sent(Signal::TERM), Some(stop)),
            (1, Obeyed, None),
            (2, Revoked, None),
            (2, Ended(KILLED), None),
            (2, TreeGone, Some(Release)), // an operator's stop would have held it until 5 s
            (2, Released, Some(Exit(end))),
        ]);
    }

    #[test]
    fn a_lost_lock_stops_the_command_by_the_end_of_the_lease() {
        let stop = Stop {
            signal: Signal::TERM,
            reach: Reach::Here,
            dead_by: at(9),
        };
        play(&[
            (0, Acquired, Some(Start)),
            (0, Started, None),
            (7, lost(9), Some(stop)),
            (8, sent(Signal::TERM), Some(Forward(Signal::TERM))),
            (8, Ended(KILLED), None),
            (8, TreeGone, Some(Release)),
            (8, Released, Some(Exit(ExitReason::Lost))),
        ]);
    }

    #[test]
    fn a_lock_that_is_gone_already_kills_at_once() {
        play(&[
            (0, Acquired, Some(Start)),
            (
                7,
                lost(7),
                Some(Stop {
                    signal: Signal::KILL,
                    reach: Reach::Here,
                    dead_by: at(7),
                }),
            ),
        ]);
    }

    #[test]
    fn a_lock_lost_while_stopping_shortens_the_stop() {
        play(&[
            (0, Acquired, Some(Start)),
            (
                2,
                sent(Signal::TERM),
                Some(Stop {
                    signal: Signal::TERM,
                    reach: Reach::Here,
                    dead_by: at(6),
                }),
            ),
            (
                3,
                lost(4),
                Some(Stop {
                    signal: Signal::TERM,
                    reach: Reach::Here,
                    dead_by: at(4),
                }),
            ),
            (4, TreeGone, Some(Release)),
            (4, Released, Some(Exit(ExitReason::Lost))),
        ]);
    }

    #[test]
    fn a_key_typed_at_the_terminal_has_reached_the_command_already() {
        let end = ExitReason::Signalled(Signal::INT);
        play(&[
            (0, Acquired, Some(Start)),
            (0, Started, None),
            (6, typed(Signal::INT), None),
            (6, Ended(Status::Killed(Signal::INT)), Some(Release)),
            (6, Released, Some(Exit(end))),
        ]);
        play(&[
            (0, Acquired, Some(Start)),
            (0, typed(Signal::INT), Some(Forward(Signal::INT))),
        ]); // unless it was not there yet
        play(&[
            (0, Acquired, Some(Start)),
            (0, Started, None),
            (1, typed(Signal::TSTP), Some(Suspend { forward: false })),
        ]);
        play(&[
            (0, Acquired, Some(Start)),
            (0, Started, None),
            (1, sent(Signal::TSTP), Some(Suspend { forward: true })),
        ]);
    }

    #[test]
    fn a_command_that_makes_little_of_an_interrupt_ends_us_by_its_own_code() {
        let end = ExitReason::Command(Status::Exited(9));
        play(&[
            (0, Acquired, Some(Start)),
            (0, Started, None),
            (6, typed(Signal::INT), None),
            (7, Ended(Status::Exited(9)), Some(Release)),
            (7, Released, Some(Exit(end))),
        ]);
    }

    #[test]
    fn other_signals_are_passed_on() {
        for signal in [Signal::USR1, Signal::USR2, Signal::WINCH, Signal::CONT] {
            play(&[
                (0, Acquired, Some(Start)),
                (0, Started, None),
                (1, sent(signal), Some(Forward(signal))),
            ]);
        }
    }

    #[test]
    fn a_guard_that_dies_costs_the_command_its_life() {
        play(&[
            (0, Acquired, Some(Start)),
            (0, Started, None),
            (1, GuardGone, Some(KillAll)),
            (1, TreeGone, Some(Release)),
            (1, Released, Some(Exit(ExitReason::InternalError))),
        ]);
    }

    #[test]
    fn a_guard_that_does_not_obey_is_killed_with_its_tree() {
        play(&[
            (0, Acquired, Some(Start)),
            (
                1,
                sent(Signal::TERM),
                Some(Stop {
                    signal: Signal::TERM,
                    reach: Reach::Here,
                    dead_by: at(5),
                }),
            ),
            (2, Tick, Some(KillAll)),
            (2, TreeGone, Some(Release)),
            (2, Released, Some(Exit(ExitReason::InternalError))),
        ]);
        play(&[
            (0, Acquired, Some(Start)),
            (
                1,
                lost(2),
                Some(Stop {
                    signal: Signal::TERM,
                    reach: Reach::Here,
                    dead_by: at(2),
                }),
            ),
            (1, Obeyed, None),
            (2, Tick, None),
            (3, Tick, Some(KillAll)),
            (3, TreeGone, Some(Release)),
            (3, Released, Some(Exit(ExitReason::Lost))),
        ]);
    }

    #[test]
    fn what_cannot_be_killed_keeps_the_lock_of_a_stop() {
        play(&[
            (0, Acquired, Some(Start)),
            (
                1,
                sent(Signal::TERM),
                Some(Stop {
                    signal: Signal::TERM,
                    reach: Reach::Here,
                    dead_by: at(5),
                }),
            ),
            (1, Obeyed, None),
            (6, Stuck, None),
            (66, Stuck, None),
            (70, Ended(KILLED), None),
            (70, TreeGone, Some(Release)),
            (70, Released, Some(Exit(ExitReason::Command(KILLED)))),
        ]);
    }

    #[test]
    fn what_cannot_be_killed_does_not_keep_a_lock_that_another_host_can_have() {
        play(&[
            (0, Acquired, Some(Start)),
            (
                1,
                taken(1),
                Some(Stop {
                    signal: Signal::KILL,
                    reach: Reach::Here,
                    dead_by: at(1),
                }),
            ),
            (2, Stuck, Some(Release)),
            (2, Released, Some(Exit(ExitReason::Lost))),
        ]);
        play(&[
            (0, Acquired, Some(Start)),
            (
                1,
                taken(1),
                Some(Stop {
                    signal: Signal::KILL,
                    reach: Reach::Here,
                    dead_by: at(1),
                }),
            ),
            (2, Tick, Some(KillAll)),
            (3, Tick, Some(Release)),
            (3, Released, Some(Exit(ExitReason::Lost))),
        ]);
    }

    #[test]
    fn a_lock_lost_by_the_end_of_the_lease_is_kept_until_nothing_of_the_tree_is_left() {
        let kept: &[(u64, Event, Option<Action>)] = &[
            (0, Acquired, Some(Start)),
            (
                1,
                lost(2),
                Some(Stop {
                    signal: Signal::TERM,
                    reach: Reach::Here,
                    dead_by: at(2),
                }),
            ),
            (1, Obeyed, None),
            (3, Tick, Some(KillAll)),
            (4, Tick, Some(KillAndReport)),
            (4, Tick, None),
            (64, Tick, Some(KillAndReport)),
        ];
        play(
            &[
                kept,
                &[
                    (70, TreeGone, Some(Release)),
                    (70, Released, Some(Exit(ExitReason::Lost))),
                ],
            ]
            .concat(),
        );
        play(
            &[
                kept,
                &[
                    (70, Gone, Some(Release)),
                    (70, Released, Some(Exit(ExitReason::Lost))),
                ],
            ]
            .concat(),
        );
        play(&[kept, &[(70, taken(70), Some(Release))]].concat());
        play(
            &[
                &kept[..3],
                &[(3, Stuck, None), (3, TreeGone, Some(Release))],
            ]
            .concat(),
        );
    }

    #[test]
    fn a_lock_that_is_gone_while_the_tree_is_being_killed_is_kept_no_longer_than_that_takes() {
        play(&[
            (0, Acquired, Some(Start)),
            (
                1,
                lost(1),
                Some(Stop {
                    signal: Signal::KILL,
                    reach: Reach::Here,
                    dead_by: at(1),
                }),
            ),
            (2, Tick, Some(KillAll)),
            (2, Gone, None),
            (3, Tick, Some(Release)),
        ]);
        play(&[
            (0, Acquired, Some(Start)),
            (
                1,
                lost(1),
                Some(Stop {
                    signal: Signal::KILL,
                    reach: Reach::Here,
                    dead_by: at(1),
                }),
            ),
            (1, Gone, None),
            (1, TreeGone, Some(Release)),
        ]);
    }

    #[test]
    fn a_lock_that_is_gone_before_its_lease_is_over_kills_at_once() {
        play(&[
            (0, Acquired, Some(Start)),
            (
                1,
                lost(5),
                Some(Stop {
                    signal: Signal::TERM,
                    reach: Reach::Here,
                    dead_by: at(5),
                }),
            ),
            (
                2,
                Gone,
                Some(Stop {
                    signal: Signal::KILL,
                    reach: Reach::Here,
                    dead_by: at(2),
                }),
            ),
            (3, Tick, Some(KillAll)),
            (4, Tick, Some(Release)),
        ]);
    }

    #[test]
    fn the_same_loss_told_by_guard_and_lock_is_one() {
        play(&[
            (0, Acquired, Some(Start)),
            (
                1,
                lost(5),
                Some(Stop {
                    signal: Signal::TERM,
                    reach: Reach::Here,
                    dead_by: at(5),
                }),
            ),
            (1, taken(5), None),
            (6, Tick, Some(KillAll)),
            (7, Tick, Some(Release)),
        ]);
    }

    #[test]
    fn a_guard_that_is_silent_after_it_has_obeyed_is_killed_with_its_tree() {
        play(&[
            (0, Acquired, Some(Start)),
            (
                1,
                sent(Signal::TERM),
                Some(Stop {
                    signal: Signal::TERM,
                    reach: Reach::Here,
                    dead_by: at(5),
                }),
            ),
            (1, Obeyed, None),
            (6, Tick, None),
            (7, Tick, Some(KillAll)),
            (7, TreeGone, Some(Release)),
            (7, Released, Some(Exit(ExitReason::InternalError))),
        ]);
        play(&[
            (0, Acquired, Some(Start)),
            (
                1,
                sent(Signal::TERM),
                Some(Stop {
                    signal: Signal::TERM,
                    reach: Reach::Here,
                    dead_by: at(5),
                }),
            ),
            (1, Obeyed, None),
            (6, Ended(KILLED), None),
            (6, Stuck, None),
            (66, Tick, None), // it names what is stuck once a minute
            (67, Tick, Some(KillAll)),
            (67, TreeGone, Some(Release)),
            (67, Released, Some(Exit(ExitReason::Command(KILLED)))),
        ]);
    }

    #[test]
    fn without_a_kill_a_stop_may_take_for_ever() {
        let mut run = Supervisor::new(HOLD, Duration::MAX);
        for (event, action) in [
            (Acquired, Some(Start)),
            (
                sent(Signal::TERM),
                Some(Stop {
                    signal: Signal::TERM,
                    reach: Reach::Here,
                    dead_by: Moment::NEVER,
                }),
            ),
            (Obeyed, None),
        ] {
            assert_eq!(run.step(event, at(1)), action);
        }
        assert_eq!(run.wake(), Moment::NEVER);
    }

    #[test]
    fn a_guard_killed_after_it_has_obeyed_leaves_the_rest_of_the_tree_to_us() {
        play(&[
            (0, Acquired, Some(Start)),
            (
                6,
                sent(Signal::TERM),
                Some(Stop {
                    signal: Signal::TERM,
                    reach: Reach::Here,
                    dead_by: at(10),
                }),
            ),
            (6, Obeyed, None),
            (6, Ended(KILLED), None),
            (7, GuardGone, Some(KillAll)),
            (7, TreeGone, Some(Release)),
            (7, Released, Some(Exit(ExitReason::Command(KILLED)))),
        ]);
    }

    #[test]
    fn what_we_cannot_kill_ourselves_is_named_and_outlived_only_when_the_lock_is_gone() {
        play(&[
            (0, Acquired, Some(Start)),
            (1, GuardGone, Some(KillAll)),
            (2, Tick, Some(KillAndReport)),
            (2, Tick, None),
            (3, Tick, Some(KillAll)),
            (62, Tick, Some(KillAndReport)),
        ]);
        play(&[
            (0, Acquired, Some(Start)),
            (1, GuardGone, Some(KillAll)),
            (1, taken(1), None),
            (2, Tick, Some(Release)),
            (2, Released, Some(Exit(ExitReason::Lost))),
        ]);
    }

    #[test]
    fn a_command_that_ends_as_it_is_stopped_has_ended_by_itself() {
        play(&[
            (0, Acquired, Some(Start)),
            (
                6,
                sent(Signal::TERM),
                Some(Stop {
                    signal: Signal::TERM,
                    reach: Reach::Here,
                    dead_by: at(10),
                }),
            ),
            (6, Ended(FINE), None),
            (6, GuardGone, Some(Release)), // it had left before it could hear the order
            (6, Released, Some(Exit(ExitReason::Command(FINE)))),
        ]);
    }

    /// Whatever happens in whatever order: one start, and only with the lock; no release while
    /// anything of the tree may live; one exit, the last.
    #[test]
    fn no_order_of_events_releases_the_lock_over_a_living_command() {
        let events = [
            Acquired,
            NoLock(ExitReason::Busy),
            lost(0),
            lost(3),
            taken(3),
            Gone,
            Revoked,
            Released,
            Started,
            CannotStart(ExitReason::NotRunnable),
            Ended(FINE),
            Obeyed,
            TreeGone,
            Stuck,
            GuardGone,
            sent(Signal::TERM),
            typed(Signal::INT),
            Tick,
        ];
        let mut orders = 0u32;
        let mut open = vec![(
            Supervisor::new(Duration::ZERO, Duration::ZERO),
            Model::default(),
            0,
        )];
        while let Some((run, model, depth)) = open.pop() {
            for event in events {
                let mut run = Supervisor { ..run };
                let now = at(depth); // a second between events: every deadline is met in some order
                let model = model.after(event, run.step(event, now));
                orders += 1;
                if depth < 5 && model.exits == 0 {
                    open.push((run, model, depth + 1));
                }
            }
        }
        assert!(orders > 100_000, "{orders}");
    }

    /// What the world knows of a run.
    #[derive(Clone, Copy, Default)]
    #[allow(clippy::struct_excessive_bools)] // independent facts
    struct Model {
        acquired: bool,
        starts: u32,
        /// The command may live.
        alive: bool,
        /// Its tree was told to end, and must be gone before a release.
        stopping: bool,
        /// The guard has heard that.
        obeyed: bool,
        /// Another host can have the lock: nothing is left to wait for when something cannot be
        /// killed.
        gone: bool,
        exits: u32,
    }

    impl Model {
        fn after(mut self, event: Event, action: Option<Action>) -> Model {
            match event {
                Acquired => self.acquired = true,
                Lost { gone: true, .. } | Gone => self.gone = true,
                Ended(_) => self.alive = false,
                CannotStart(_) | TreeGone => (self.alive, self.stopping) = (false, false),
                Obeyed => self.obeyed = true,
                GuardGone if !self.alive && !self.obeyed => self.stopping = false, /* it has left before it could hear */
                _ => {}
            }
            match action {
                Some(Start) => {
                    assert!(self.acquired && self.starts == 0, "{event:?}");
                    (self.starts, self.alive) = (1, true);
                }
                Some(Stop { .. } | KillAll | KillAndReport) => {
                    assert!(self.starts == 1, "{event:?}");
                    (self.stopping, self.obeyed) = (true, false);
                }
                Some(Release) => {
                    assert!(
                        !self.alive && !self.stopping
                            || matches!(event, Tick | Stuck | Gone | Lost { .. }) && self.gone,
                        "{event:?}"
                    );
                }
                Some(Exit(_)) => {
                    assert!(!self.alive && !self.stopping || self.gone, "{event:?}");
                    self.exits += 1;
                }
                Some(Forward(_) | Suspend { .. }) | None => {}
            }
            self
        }
    }
}
