//! The dead man's switch. The guard is a process between us and the command: it owns the command's process tree and alone escalates from TERM to
//! KILL, so that a zk-flock that was killed, stopped or hangs cannot keep a command alive past its lock. Pure; `run::guard` is its body.

use crate::deadlines::Deadlines;
use crate::moment::Moment;
use crate::plan::Status;
use crate::signal::Signal;
use std::time::Duration;

/// How long after KILL a process is called stuck.
pub const STUCK: Duration = Duration::from_secs(1);
/// How often it is named from then on.
pub const STUCK_AGAIN: Duration = Duration::from_mins(1);

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
    /// Send this to the whole tree, the command first.
    ToTree(Signal),
    /// KILL all children, and again whenever one has ended, until none is left.
    Kill,
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
    /// It is being killed; what is left then is named.
    Killing { stuck: Moment },
}

/// The machine.
#[derive(Debug)]
pub struct Guard {
    /// Sent to the tree when whoever keeps the lock dies; `None`: it is left alone then.
    death_signal: Option<Signal>,
    kill_after: Duration,
    lease: Deadlines,
    phase: Phase,
}

impl Guard {
    /// Watches over a command that was just started.
    pub fn new(death_signal: Option<Signal>, kill_after: Duration, lease: Deadlines) -> Guard {
        Guard { death_signal, kill_after, lease, phase: Phase::Running }
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
            (Running, Event::Ended(status)) => vec![Tell(News::Ended(status)), Leave], // what it leaves in the background lives on
            (_, Event::Ended(status)) => vec![Tell(News::Ended(status))],
            (_, Event::Empty) => vec![Tell(News::TreeGone), Leave],
            (Killing { .. }, Event::Stop { .. }) => vec![Tell(News::Obeyed)],
            (phase, Event::Stop { signal, dead_by }) => {
                let kill = if let Stopping { kill } = phase { kill.min(dead_by) } else { dead_by };
                self.stop(vec![Tell(News::Obeyed)], signal, kill, now)
            }
            (Running, Event::Orphaned) => match self.death_signal {
                Some(signal) => self.stop(vec![], signal, now + self.kill_after, now),
                None => vec![Leave],
            },
            (Running, Event::Tick) if now >= self.lease.term => self.stop(vec![Tell(News::LeaseOver)], Signal::TERM, self.lease.kill, now),
            (Stopping { kill }, Event::Tick) if now >= kill.min(self.lease.kill) => self.kill(now),
            (Killing { stuck }, Event::Tick) if now >= stuck => {
                self.phase = Killing { stuck: now + STUCK_AGAIN };
                vec![Tell(News::Stuck), Kill]
            }
            (Running | Stopping { .. }, Event::Forward(signal)) if signal == Signal::KILL => self.kill(now),
            (Running | Stopping { .. }, Event::Forward(signal)) => vec![ToCommand(signal)],
            (Killing { .. }, Event::Forward(_)) | (Stopping { .. } | Killing { .. }, Event::Orphaned) | (_, Event::Tick) => vec![],
        }
    }

    /// When time alone brings about something next.
    pub fn wake(&self) -> Moment {
        match self.phase {
            Phase::Running => self.lease.term,
            Phase::Stopping { kill } => kill.min(self.lease.kill),
            Phase::Killing { stuck } => stuck,
        }
    }

    fn stop(&mut self, mut first: Vec<Action>, signal: Signal, kill: Moment, now: Moment) -> Vec<Action> {
        self.phase = Phase::Stopping { kill };
        first.extend(if signal == Signal::KILL { self.kill(now) } else { vec![Action::ToTree(signal)] });
        first
    }

    fn kill(&mut self, now: Moment) -> Vec<Action> {
        self.phase = Phase::Killing { stuck: now + STUCK };
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
        Deadlines { term: at(term), kill: at(kill) }
    }

    /// Plays a script on a guard whose death signal is TERM, which kills 4 s after it, and whose lease at first ends at 10 s and 12 s.
    fn play(script: &[(u64, Event, &[Action])]) {
        play_with(Some(TERM), script);
    }

    fn play_with(death_signal: Option<Signal>, script: &[(u64, Event, &[Action])]) {
        let mut guard = Guard::new(death_signal, Duration::from_secs(4), lease(10, 12));
        for (line, &(second, event, actions)) in script.iter().enumerate() {
            assert_eq!(guard.step(event, at(second)), actions, "line {line}: {event:?} at {second} s");
        }
    }

    #[test]
    fn a_command_that_ends_by_itself_ends_the_guard_and_leaves_its_background_alone() {
        play(&[(1, Event::Ended(FINE), &[Tell(News::Ended(FINE)), Leave])]);
    }

    #[test]
    fn an_order_to_stop_is_heard_and_ends_in_kill() {
        let stop = Event::Stop { signal: TERM, dead_by: at(5) };
        play(&[
            (1, stop, &[Tell(News::Obeyed), ToTree(TERM)]),
            (4, Event::Tick, &[]),
            (5, Event::Tick, &[Kill]),
            (5, Event::Empty, &[Tell(News::TreeGone), Leave]),
        ]);
    }

    #[test]
    fn a_stop_is_over_when_the_whole_tree_is_gone() {
        let stop = Event::Stop { signal: TERM, dead_by: at(5) };
        play(&[
            (1, stop, &[Tell(News::Obeyed), ToTree(TERM)]),
            (2, Event::Ended(FINE), &[Tell(News::Ended(FINE))]),
            (3, Event::Empty, &[Tell(News::TreeGone), Leave]),
        ]);
    }

    #[test]
    fn an_order_to_kill_kills() {
        play(&[(1, Event::Stop { signal: Signal::KILL, dead_by: at(1) }, &[Tell(News::Obeyed), Kill])]);
    }

    #[test]
    fn a_second_stop_never_gives_more_time() {
        let stop = |dead_by| Event::Stop { signal: TERM, dead_by: at(dead_by) };
        play(&[
            (1, stop(5), &[Tell(News::Obeyed), ToTree(TERM)]),
            (2, stop(9), &[Tell(News::Obeyed), ToTree(TERM)]),
            (5, Event::Tick, &[Kill]),
        ]);
    }

    #[test]
    fn a_lease_that_is_not_proved_again_ends_the_tree_in_time() {
        play(&[
            (9, Event::Tick, &[]),
            (10, Event::Tick, &[Tell(News::LeaseOver), ToTree(TERM)]),
            (11, Event::Tick, &[]),
            (12, Event::Tick, &[Kill]),
        ]);
        play(&[(9, Event::Believe(lease(15, 17)), &[]), (14, Event::Tick, &[]), (15, Event::Tick, &[Tell(News::LeaseOver), ToTree(TERM)])]);
    }

    #[test]
    fn no_grace_lasts_longer_than_the_lease() {
        let stop = Event::Stop { signal: TERM, dead_by: at(99) };
        play(&[(9, stop, &[Tell(News::Obeyed), ToTree(TERM)]), (12, Event::Tick, &[Kill])]);
        play(&[(11, Event::Orphaned, &[ToTree(TERM)]), (12, Event::Tick, &[Kill])]);
    }

    #[test]
    fn when_zk_flock_dies_the_tree_gets_the_death_signal_and_then_kill() {
        play(&[(1, Event::Orphaned, &[ToTree(TERM)]), (5, Event::Tick, &[Kill])]);
        play_with(Some(Signal::USR1), &[(1, Event::Orphaned, &[ToTree(Signal::USR1)]), (5, Event::Tick, &[Kill])]);
        play_with(Some(Signal::KILL), &[(1, Event::Orphaned, &[Kill])]);
    }

    #[test]
    fn without_a_death_signal_the_tree_is_left_alone() {
        play_with(None, &[(1, Event::Orphaned, &[Leave])]);
    }

    #[test]
    fn what_does_not_die_is_named_again_and_again() {
        let stop = Event::Stop { signal: Signal::KILL, dead_by: at(0) };
        let named: &[Action] = &[Tell(News::Stuck), Kill];
        play(&[(1, stop, &[Tell(News::Obeyed), Kill]), (2, Event::Tick, named), (3, Event::Tick, &[]), (62, Event::Tick, named)]);
    }

    #[test]
    fn a_signal_is_passed_to_the_command_alone() {
        play(&[
            (1, Event::Forward(Signal::USR1), &[ToCommand(Signal::USR1)]),
            (1, Event::Forward(Signal::TSTP), &[ToCommand(Signal::TSTP)]),
        ]);
    }

    /// Whatever comes in whatever order: once the lease has run out, the tree has been killed or is gone.
    #[test]
    fn no_order_of_events_outlives_the_lease() {
        let events = [
            Event::Forward(TERM),
            Event::Stop { signal: TERM, dead_by: at(99) },
            Event::Stop { signal: Signal::KILL, dead_by: at(0) },
            Event::Orphaned,
            Event::Ended(FINE),
            Event::Tick,
        ];
        for order in 0..events.len().pow(5) {
            let mut guard = Guard::new(Some(TERM), Duration::MAX, lease(10, 12));
            let chosen = (0..5).map(|place| events[order / events.len().pow(place) % events.len()]);
            let mut done: Vec<Action> =
                chosen.enumerate().flat_map(|(second, event)| guard.step(event, at(second as u64 * 2 + 1))).collect();
            done.extend([10, 12].into_iter().flat_map(|second| guard.step(Event::Tick, at(second))));
            assert!(done.contains(&Kill) || done.contains(&Leave), "order {order}: {done:?}");
        }
    }
}
