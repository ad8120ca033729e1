//! Decides a run: joins lock, command, signals and deadlines into one exit. Pure: `(phase, event, now) → action`, every row a sentence of the
//! specification. The order of events within one millisecond is the whole difficulty, so there is no state outside the phase but what is fixed.

use crate::kill_rounds::{Due, KillRounds};
use crate::moment::Moment;
use crate::plan::{End, Status};
use crate::signal::Signal;
use std::time::Duration;

/// How long the guard may take to say that it has heard an order to stop.
const OBEY: Duration = Duration::from_secs(1);

/// How much longer than its deadline the guard may take to kill the tree, before it is killed itself: half the margin that the deadline leaves.
const OVERDUE: Duration = Duration::from_millis(100);

/// What happens to a run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// The lock is ours.
    Acquired,
    /// There will be no lock, for this reason.
    NoLock(End),
    /// The lock is lost; its command must be dead by then.
    Lost {
        /// Now, if it is lost already.
        dead_by: Moment,
    },
    /// Nothing of ours is left with the lock service.
    Released,
    /// The command runs.
    Started,
    /// It does not: why.
    CannotStart(End),
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
    /// A signal came; `typed` at the terminal, it has reached the command as well.
    Signalled {
        /// Which.
        signal: Signal,
        /// By the terminal's driver.
        typed: bool,
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
        /// KILL.
        dead_by: Moment,
    },
    /// Kill guard and tree ourselves, in one pass.
    KillAll,
    /// The same, and name what is left although it was killed.
    KillAndReport,
    /// Stop this process until it is continued; `forward`: and the command, which has not heard of it.
    Suspend {
        /// Whether TSTP has still to be passed on.
        forward: bool,
    },
    /// Let go of the lock.
    Release,
    /// The end.
    Exit(End),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// There is no lock yet.
    Acquiring,
    /// The guard was told to start the command, and then said whether it did (`started`).
    Running { started: bool },
    /// The tree is being ended. `lost`: because the lock is. `overdue`: when to do it ourselves.
    Stopping { lost: bool, status: Option<Status>, overdue: Moment },
    /// The guard is gone or disobeys: the tree is being killed by ourselves. round after round.
    Killing { end: End, rounds: KillRounds },
    /// The command is over, the minimum hold is not.
    Lingering { end: End },
    /// The lock is being let go.
    Releasing { end: End },
    /// All is said.
    Over,
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
}

impl Supervisor {
    /// A run that holds its lock at least `minimum_hold`, and gives a command that it stops `kill_after` from signal to KILL.
    pub fn new(minimum_hold: Duration, kill_after: Duration) -> Supervisor {
        Supervisor { minimum_hold, kill_after, phase: Phase::Acquiring, hold_until: Moment::default(), interrupt: None }
    }

    /// Takes in an event; says what to do about it.
    pub fn step(&mut self, event: Event, now: Moment) -> Option<Action> {
        use Action::*;
        use Event::*;
        use Phase::*;
        if let Signalled { signal: signal @ (Signal::INT | Signal::QUIT), .. } = event {
            self.interrupt = Some(signal);
        }
        let (phase, action) = match (self.phase, event) {
            (Acquiring, Acquired) => {
                self.hold_until = now + self.minimum_hold;
                (Running { started: false }, Some(Start))
            }
            (Acquiring, NoLock(end)) => (Releasing { end }, Some(Release)),
            (Acquiring, Signalled { signal, .. }) if ends(signal) || matches!(signal, Signal::USR1 | Signal::USR2) => {
                (Releasing { end: End::Signalled(signal) }, Some(Release))
            }
            (Acquiring, Signalled { signal: Signal::TSTP, .. }) => (Acquiring, Some(Suspend { forward: false })),

            (Running { .. }, Started) => (Running { started: true }, None),
            (Running { .. }, CannotStart(end)) => (Releasing { end }, Some(Release)),
            (Running { .. }, Ended(status)) => self.linger(self.end(status), now),
            (Running { .. }, Lost { dead_by }) => stop_lost(None, dead_by, now),
            (Running { started: true }, Signalled { signal: Signal::INT | Signal::QUIT, typed: true }) => (self.phase, None),
            (Running { started }, Signalled { signal: signal @ (Signal::INT | Signal::QUIT), typed: true }) => {
                (Running { started }, Some(Forward(signal)))
            }
            (Running { .. }, Signalled { signal, .. }) if ends(signal) => {
                let dead_by = now + self.kill_after;
                (Stopping { lost: false, status: None, overdue: now + OBEY }, Some(Stop { signal, dead_by }))
            }

            (Stopping { lost, overdue, .. }, Ended(status)) => (Stopping { lost, status: Some(status), overdue }, None),
            (Stopping { lost: false, status, .. }, Obeyed) => (Stopping { lost: false, status, overdue: Moment::NEVER }, None),
            (Stopping { lost: false, status, .. }, Lost { dead_by }) => stop_lost(status, dead_by, now),
            (Stopping { lost: true, .. }, TreeGone | Stuck) => (Releasing { end: End::Lost }, Some(Release)),
            (Stopping { lost: false, status: Some(status), .. }, TreeGone) => self.linger(self.end(status), now),
            // It has left before it could hear the order; one that has heard it leaves only when the tree is gone.
            (Stopping { lost: false, status: Some(status), overdue }, GuardGone) if overdue != Moment::NEVER => {
                self.linger(self.end(status), now)
            }
            (Stopping { lost: false, status: Some(status), .. }, GuardGone) => {
                (Killing { end: self.end(status), rounds: KillRounds::begin(now) }, Some(KillAll))
            }
            (Stopping { lost: false, status: None, .. }, TreeGone) => self.linger(End::Internal, now),
            (Stopping { lost: false, status, .. }, CannotStart(end)) if status.is_none() => (Releasing { end }, Some(Release)),
            (Stopping { lost, overdue, .. }, Tick) if now >= overdue => kill_all(lost, now),
            (Stopping { .. }, Signalled { signal, typed: false }) if ends(signal) => (self.phase, Some(Forward(signal))),

            (Running { .. }, GuardGone) => kill_all(false, now),
            (Stopping { lost, .. }, GuardGone) => kill_all(lost, now),
            (Killing { rounds, .. }, Lost { .. }) => (Killing { end: End::Lost, rounds }, None),
            (Killing { end, .. }, TreeGone) => (Releasing { end }, Some(Release)),
            (Killing { end, rounds }, Tick) => match rounds.due(now) {
                Some((Due::Report, _)) if end == End::Lost => (Releasing { end }, Some(Release)),
                Some((Due::Report, rounds)) => (Killing { end, rounds }, Some(KillAndReport)),
                Some((Due::Kill, rounds)) => (Killing { end, rounds }, Some(KillAll)),
                None => (self.phase, None),
            },

            (Lingering { end }, Lost { .. }) => (Releasing { end }, Some(Release)),
            (Lingering { end }, Signalled { signal, .. }) if ends(signal) => (Releasing { end }, Some(Release)),
            (Lingering { end }, Tick) if now >= self.hold_until => (Releasing { end }, Some(Release)),
            (Lingering { .. }, Signalled { signal: Signal::TSTP, .. }) => (self.phase, Some(Suspend { forward: false })),

            (Releasing { end }, Released) => (Over, Some(Exit(end))),
            (Releasing { end }, Signalled { signal, .. }) if ends(signal) => (Over, Some(Exit(end))),

            (Running { .. } | Stopping { .. }, Signalled { signal: Signal::TSTP, typed }) => {
                (self.phase, Some(Suspend { forward: !typed }))
            }
            (Running { .. } | Stopping { .. }, Signalled { signal, .. }) if !ends(signal) => (self.phase, Some(Forward(signal))),
            (phase, _) => (phase, None), // late news about what is already decided
        };
        self.phase = phase;
        action
    }

    /// When time alone brings about something next.
    pub fn wake(&self) -> Moment {
        match self.phase {
            Phase::Stopping { overdue, .. } => overdue,
            Phase::Killing { rounds, .. } => rounds.wake(),
            Phase::Lingering { .. } => self.hold_until,
            _ => Moment::NEVER,
        }
    }

    /// The command's end as ours: of an INT or QUIT that ended it we die too, so that a shell's loop stops.
    fn end(&self, status: Status) -> End {
        match status {
            Status::Killed(signal) if self.interrupt == Some(signal) => End::Signalled(signal),
            status => End::Command(status),
        }
    }

    fn linger(&self, end: End, now: Moment) -> (Phase, Option<Action>) {
        if now >= self.hold_until { (Phase::Releasing { end }, Some(Action::Release)) } else { (Phase::Lingering { end }, None) }
    }
}

/// The lock is lost: KILL if it is so already, else TERM and the rest of the lease.
fn stop_lost(status: Option<Status>, dead_by: Moment, now: Moment) -> (Phase, Option<Action>) {
    let signal = if dead_by <= now { Signal::KILL } else { Signal::TERM };
    (Phase::Stopping { lost: true, status, overdue: dead_by.max(now) + OVERDUE }, Some(Action::Stop { signal, dead_by }))
}

/// The guard does not do it: so do we.
fn kill_all(lost: bool, now: Moment) -> (Phase, Option<Action>) {
    let end = if lost { End::Lost } else { End::Internal };
    (Phase::Killing { end, rounds: KillRounds::begin(now) }, Some(Action::KillAll))
}

/// Whether this signal asks a program to end.
fn ends(signal: Signal) -> bool {
    matches!(signal, Signal::TERM | Signal::HUP | Signal::INT | Signal::QUIT)
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
        Signalled { signal, typed: true }
    }

    fn sent(signal: Signal) -> Event {
        Signalled { signal, typed: false }
    }

    /// Plays a script: at that second, this event; it must come to that action.
    fn play(script: &[(u64, Event, Option<Action>)]) {
        let mut run = Supervisor::new(HOLD, KILL_AFTER);
        for (line, &(second, event, action)) in script.iter().enumerate() {
            assert_eq!(run.step(event, at(second)), action, "line {line}: {event:?} at {second} s in {:?}", run.phase);
        }
    }

    const KILLED: Status = Status::Killed(Signal::TERM);
    const FINE: Status = Status::Exited(0);

    #[test]
    fn a_run_that_goes_well_ends_by_its_commands_code() {
        let end = End::Command(Status::Exited(3));
        play(&[
            (0, Acquired, Some(Start)),
            (0, Started, None),
            (9, Ended(Status::Exited(3)), Some(Release)),
            (9, Released, Some(Exit(end))),
        ]);
    }

    #[test]
    fn the_lock_is_held_for_the_minimum_time() {
        let end = End::Command(FINE);
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
            let end = End::Command(FINE);
            play(&[(0, Acquired, Some(Start)), (1, Ended(FINE), None), (2, sent(signal), Some(Release)), (2, Released, Some(Exit(end)))]);
        }
    }

    #[test]
    fn a_lock_lost_during_the_minimum_hold_changes_nothing() {
        let end = End::Command(FINE);
        play(&[
            (0, Acquired, Some(Start)),
            (1, Ended(FINE), None),
            (2, Lost { dead_by: at(2) }, Some(Release)),
            (2, Released, Some(Exit(end))),
        ]);
    }

    #[test]
    fn without_a_lock_there_is_no_command() {
        for end in [End::Busy, End::Unreachable, End::Refused] {
            play(&[(0, NoLock(end), Some(Release)), (0, Acquired, None), (0, Released, Some(Exit(end)))]);
        }
    }

    #[test]
    fn a_signal_ends_the_wait_at_once_and_the_command_is_never_started_after_it() {
        for signal in [Signal::TERM, Signal::INT, Signal::HUP, Signal::QUIT, Signal::USR1, Signal::USR2] {
            let end = End::Signalled(signal);
            play(&[(0, sent(signal), Some(Release)), (0, Acquired, None), (0, Released, Some(Exit(end)))]);
        }
    }

    #[test]
    fn term_stops_the_tree_and_then_holds_and_releases() {
        let stop = Stop { signal: Signal::TERM, dead_by: at(2) + KILL_AFTER };
        let end = End::Command(KILLED);
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
    fn a_lost_lock_stops_the_command_by_the_end_of_the_lease() {
        let stop = Stop { signal: Signal::TERM, dead_by: at(9) };
        play(&[
            (0, Acquired, Some(Start)),
            (0, Started, None),
            (7, Lost { dead_by: at(9) }, Some(stop)),
            (8, sent(Signal::TERM), Some(Forward(Signal::TERM))),
            (8, Ended(KILLED), None),
            (8, TreeGone, Some(Release)),
            (8, Released, Some(Exit(End::Lost))),
        ]);
    }

    #[test]
    fn a_lock_that_is_gone_already_kills_at_once() {
        play(&[(0, Acquired, Some(Start)), (7, Lost { dead_by: at(7) }, Some(Stop { signal: Signal::KILL, dead_by: at(7) }))]);
    }

    #[test]
    fn a_lock_lost_while_stopping_shortens_the_stop() {
        play(&[
            (0, Acquired, Some(Start)),
            (2, sent(Signal::TERM), Some(Stop { signal: Signal::TERM, dead_by: at(6) })),
            (3, Lost { dead_by: at(4) }, Some(Stop { signal: Signal::TERM, dead_by: at(4) })),
            (4, TreeGone, Some(Release)),
            (4, Released, Some(Exit(End::Lost))),
        ]);
    }

    #[test]
    fn a_key_typed_at_the_terminal_has_reached_the_command_already() {
        let end = End::Signalled(Signal::INT);
        play(&[
            (0, Acquired, Some(Start)),
            (0, Started, None),
            (6, typed(Signal::INT), None),
            (6, Ended(Status::Killed(Signal::INT)), Some(Release)),
            (6, Released, Some(Exit(end))),
        ]);
        play(&[(0, Acquired, Some(Start)), (0, typed(Signal::INT), Some(Forward(Signal::INT)))]); // unless it was not there yet
        play(&[(0, Acquired, Some(Start)), (0, Started, None), (1, typed(Signal::TSTP), Some(Suspend { forward: false }))]);
        play(&[(0, Acquired, Some(Start)), (0, Started, None), (1, sent(Signal::TSTP), Some(Suspend { forward: true }))]);
    }

    #[test]
    fn a_command_that_makes_little_of_an_interrupt_ends_us_by_its_own_code() {
        let end = End::Command(Status::Exited(9));
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
            play(&[(0, Acquired, Some(Start)), (0, Started, None), (1, sent(signal), Some(Forward(signal)))]);
        }
    }

    #[test]
    fn a_guard_that_dies_costs_the_command_its_life() {
        play(&[
            (0, Acquired, Some(Start)),
            (0, Started, None),
            (1, GuardGone, Some(KillAll)),
            (1, TreeGone, Some(Release)),
            (1, Released, Some(Exit(End::Internal))),
        ]);
    }

    #[test]
    fn a_guard_that_does_not_obey_is_killed_with_its_tree() {
        play(&[
            (0, Acquired, Some(Start)),
            (1, sent(Signal::TERM), Some(Stop { signal: Signal::TERM, dead_by: at(5) })),
            (2, Tick, Some(KillAll)),
            (2, TreeGone, Some(Release)),
            (2, Released, Some(Exit(End::Internal))),
        ]);
        play(&[
            (0, Acquired, Some(Start)),
            (1, Lost { dead_by: at(2) }, Some(Stop { signal: Signal::TERM, dead_by: at(2) })),
            (1, Obeyed, None),
            (2, Tick, None),
            (3, Tick, Some(KillAll)),
            (3, TreeGone, Some(Release)),
            (3, Released, Some(Exit(End::Lost))),
        ]);
    }

    #[test]
    fn what_cannot_be_killed_keeps_a_stop_waiting_and_a_loss_not() {
        play(&[
            (0, Acquired, Some(Start)),
            (1, sent(Signal::TERM), Some(Stop { signal: Signal::TERM, dead_by: at(5) })),
            (1, Obeyed, None),
            (6, Stuck, None),
        ]);
        play(&[
            (0, Acquired, Some(Start)),
            (1, Lost { dead_by: at(1) }, Some(Stop { signal: Signal::KILL, dead_by: at(1) })),
            (2, Stuck, Some(Release)),
            (2, Released, Some(Exit(End::Lost))),
        ]);
    }

    #[test]
    fn a_guard_killed_after_it_has_obeyed_leaves_the_rest_of_the_tree_to_us() {
        play(&[
            (0, Acquired, Some(Start)),
            (6, sent(Signal::TERM), Some(Stop { signal: Signal::TERM, dead_by: at(10) })),
            (6, Obeyed, None),
            (6, Ended(KILLED), None),
            (7, GuardGone, Some(KillAll)),
            (7, TreeGone, Some(Release)),
            (7, Released, Some(Exit(End::Command(KILLED)))),
        ]);
    }

    #[test]
    fn what_we_cannot_kill_ourselves_is_named_and_outlived_only_after_a_loss() {
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
            (1, Lost { dead_by: at(1) }, None),
            (2, Tick, Some(Release)),
            (2, Released, Some(Exit(End::Lost))),
        ]);
    }

    #[test]
    fn a_command_that_ends_as_it_is_stopped_has_ended_by_itself() {
        play(&[
            (0, Acquired, Some(Start)),
            (6, sent(Signal::TERM), Some(Stop { signal: Signal::TERM, dead_by: at(10) })),
            (6, Ended(FINE), None),
            (6, GuardGone, Some(Release)), // it had left before it could hear the order
            (6, Released, Some(Exit(End::Command(FINE)))),
        ]);
    }

    /// Whatever happens in whatever order: one start, and only with the lock; no release while anything of the tree may live; one exit, the last.
    #[test]
    fn no_order_of_events_releases_the_lock_over_a_living_command() {
        let events = [
            Acquired,
            NoLock(End::Busy),
            Lost { dead_by: at(0) },
            Lost { dead_by: at(3) },
            Released,
            Started,
            CannotStart(End::NotRunnable),
            Ended(FINE),
            Obeyed,
            TreeGone,
            GuardGone,
            sent(Signal::TERM),
            typed(Signal::INT),
            Tick,
        ];
        let mut orders = 0u32;
        let mut open = vec![(Supervisor::new(Duration::ZERO, Duration::ZERO), Model::default(), 0)];
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
        /// The lock is lost: nothing is left to wait for when something cannot be killed.
        lost: bool,
        exits: u32,
    }

    impl Model {
        fn after(mut self, event: Event, action: Option<Action>) -> Model {
            match event {
                Acquired => self.acquired = true,
                Lost { .. } => self.lost = true,
                Ended(_) => self.alive = false,
                CannotStart(_) | TreeGone => (self.alive, self.stopping) = (false, false),
                Obeyed => self.obeyed = true,
                GuardGone if !self.alive && !self.obeyed => self.stopping = false, // it has left before it could hear
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
                Some(Release) => assert!(!self.alive && !self.stopping || event == Tick && self.lost, "{event:?}"),
                Some(Exit(_)) => {
                    assert!(!self.alive && !self.stopping || self.lost, "{event:?}");
                    self.exits += 1;
                }
                Some(Forward(_) | Suspend { .. }) | None => {}
            }
            self
        }
    }
}
