//! Dead man's switch. The guard is a process between zk-flock and the command. It owns the process
//! tree of the command, and only the guard escalates from TERM to KILL. So a zk-flock that was
//! killed, was stopped or hangs cannot keep a command alive after its lock. A pure state machine;
//! `run::guard` is the process that runs it.

use crate::deadlines::Deadlines;
use crate::delivery::Reach;
use crate::kill_rounds::{Due, KillRounds};
use crate::moment::Moment;
use crate::signal::{Signal, Status};
use std::time::Duration;

/// How long before the end of a lease that was not renewed the guard asks to run ahead of ordinary
/// processes: longer than 32 busy processes delay it (100 ms at most, measured on two cores), so
/// that it meets the deadlines themselves. A healthy lease is renewed long before, so a plain run
/// never does this.
const AHEAD_BY: Duration = Duration::from_millis(300);

/// An order to end the process tree of the command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StopOrder {
    /// The signal that the tree gets at once.
    pub signal: Signal,
    /// The processes that have received this signal already.
    pub reach: Reach,
    /// When the rest of the tree gets KILL.
    pub kill_deadline: Moment,
}

/// An event of the guard.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// zk-flock holds the lock until these deadlines.
    LeaseUntil(Deadlines),
    /// zk-flock orders to forward this signal to the command.
    Forward(Signal),
    /// zk-flock orders to end the tree.
    Stop(StopOrder),
    /// zk-flock has died.
    Orphaned,
    /// The command itself has ended.
    Ended(Status),
    /// The guard has no child left, so no process of the tree is left.
    NoChildren,
    /// Time has passed.
    Tick,
}

/// What the guard's process does about an event.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// Send this signal to the command only.
    ToCommand(Signal),
    /// Send this signal to the whole tree, to the command first, except to the processes that it
    /// has reached already.
    ToTree(Signal, Reach),
    /// Send KILL to the whole tree, in one pass.
    Kill,
    /// Ask the kernel to run the guard ahead of ordinary processes from now on.
    RunAhead,
    /// Report this to zk-flock.
    Report(GuardEvent),
    /// Exit: no process is left to guard, or zk-flock has died and the tree is to live on.
    Exit,
}

/// What the guard reports to zk-flock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GuardEvent {
    /// The command has ended.
    Ended(Status),
    /// The guard has received the order to stop.
    StopAcknowledged,
    /// The lease has expired, and the guard ends the tree without an order.
    LeaseExpired,
    /// No process of the tree is left.
    TreeGone,
    /// A process of the tree survives KILL.
    Stuck,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// The command runs.
    Running,
    /// The tree was sent this signal to end. The rest of it gets KILL at `kill`.
    Stopping { signal: Signal, kill: Moment },
    /// The tree is being killed, round after round.
    Killing(KillRounds),
}

/// The state machine of the guard.
#[derive(Debug)]
pub struct Guard {
    /// Sent to the tree when zk-flock dies. `None`: the tree lives on.
    death_signal: Option<Signal>,
    kill_after: Duration,
    lease: Deadlines,
    phase: Phase,
    /// The guard has asked to run ahead.
    ahead: bool,
}

impl Guard {
    /// Guards a command that was just started.
    pub fn new(death_signal: Option<Signal>, kill_after: Duration, lease: Deadlines) -> Guard {
        Guard {
            death_signal,
            kill_after,
            lease,
            phase: Phase::Running,
            ahead: false,
        }
    }

    /// Handles an event. Returns what to do about it, in order.
    pub fn step(&mut self, event: Event, now: Moment) -> Vec<Action> {
        use Action::{Exit, Report, ToCommand};
        use Event::*;
        use Phase::*;
        match (self.phase, event) {
            (_, LeaseUntil(lease)) => {
                self.lease = lease;
                vec![]
            }

            // What the command left in the background lives on.
            (Running, Ended(status)) => vec![Report(GuardEvent::Ended(status)), Exit],
            (_, Ended(status)) => vec![Report(GuardEvent::Ended(status))],
            (_, NoChildren) => vec![Report(GuardEvent::TreeGone), Exit],

            (Killing(_), Stop(_)) => vec![Report(GuardEvent::StopAcknowledged)],
            (Stopping { signal, kill }, Stop(order)) => {
                let kill = kill.min(order.kill_deadline);
                if order.signal == signal {
                    self.stop_sooner(signal, kill)
                } else {
                    self.obey(order, kill, now)
                }
            }
            (Running, Stop(order)) => self.obey(order, order.kill_deadline, now),
            (Running, Orphaned) => match self.death_signal {
                Some(signal) => self.stop(signal, Reach::Here, now + self.kill_after, now),
                None => vec![Exit],
            },

            (Running, Tick) if now >= self.lease.kill => self.expire(Signal::KILL, now),
            (Running, Tick) if now >= self.lease.term => self.expire(Signal::TERM, now),
            (Running, Tick) if now >= self.ahead_at() => self.run_ahead(),
            (Stopping { kill, .. }, Tick) if now >= kill.min(self.lease.kill) => self.kill(now),
            (Killing(rounds), Tick) => self.next_round(rounds, now),

            (Running | Stopping { .. }, Forward(Signal::KILL)) => {
                [self.run_ahead(), self.kill(now)].concat()
            }
            (Running | Stopping { .. }, Forward(signal)) => vec![ToCommand(signal)],

            (Killing(_), Forward(_)) | (Stopping { .. } | Killing(_), Orphaned) | (_, Tick) => {
                vec![]
            }
        }
    }

    /// When time alone causes the next action.
    pub fn wake(&self) -> Moment {
        match self.phase {
            Phase::Running => self.ahead_at().min(self.lease.term),
            Phase::Stopping { kill, .. } => kill.min(self.lease.kill),
            Phase::Killing(rounds) => rounds.wake(),
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

    /// Asks to run ahead, once.
    fn run_ahead(&mut self) -> Vec<Action> {
        let already = std::mem::replace(&mut self.ahead, true);
        if already {
            vec![]
        } else {
            vec![Action::RunAhead]
        }
    }

    /// Acknowledges an order to stop, and stops the tree.
    fn obey(&mut self, order: StopOrder, kill: Moment, now: Moment) -> Vec<Action> {
        let acknowledged = vec![Action::Report(GuardEvent::StopAcknowledged)];
        let stop = self.stop(order.signal, order.reach, kill, now);
        [acknowledged, stop].concat()
    }

    /// Acknowledges an order to stop by a signal that the tree has had already. It does not get the
    /// signal again: a command may end in good order on the first one and abort on the second.
    fn stop_sooner(&mut self, signal: Signal, kill: Moment) -> Vec<Action> {
        self.phase = Phase::Stopping { signal, kill };
        vec![Action::Report(GuardEvent::StopAcknowledged)]
    }

    /// Stops the tree because the lease has expired.
    fn expire(&mut self, signal: Signal, now: Moment) -> Vec<Action> {
        let expired = vec![Action::Report(GuardEvent::LeaseExpired)];
        let stop = self.stop(signal, Reach::Here, self.lease.kill, now);
        [expired, stop].concat()
    }

    fn stop(&mut self, signal: Signal, reach: Reach, kill: Moment, now: Moment) -> Vec<Action> {
        self.phase = Phase::Stopping { signal, kill };
        let ahead = self.run_ahead();
        let signal = if signal == Signal::KILL {
            self.kill(now)
        } else {
            vec![Action::ToTree(signal, reach)]
        };
        [ahead, signal].concat()
    }

    fn kill(&mut self, now: Moment) -> Vec<Action> {
        self.phase = Phase::Killing(KillRounds::begin(now));
        vec![Action::Kill]
    }

    fn next_round(&mut self, rounds: KillRounds, now: Moment) -> Vec<Action> {
        let Some((due, rounds)) = rounds.due(now) else {
            return vec![];
        };
        self.phase = Phase::Killing(rounds);
        match due {
            Due::Report => vec![Action::Report(GuardEvent::Stuck), Action::Kill],
            Due::Kill => vec![Action::Kill],
        }
    }
}

#[cfg(test)]
mod tests;
