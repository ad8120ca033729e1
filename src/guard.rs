//! The dead man's switch. The guard is a process between us and the command: it owns the command's process tree and alone escalates from TERM to
//! KILL, so that a zk-flock that was killed, stopped or hangs cannot keep a command alive past its lock. Pure; `run::guard` is its body.

use crate::moment::Moment;
use crate::plan::Status;
use crate::signal::Signal;
use crate::zookeeper::lease::Deadlines;
use std::time::Duration;

/// How long after KILL a process is called stuck, and how often it is named from then on.
const STUCK: Duration = Duration::from_secs(1);
const STUCK_AGAIN: Duration = Duration::from_mins(1);

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
