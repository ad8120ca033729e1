//! Decides a run: joins lock, command, signals and deadlines into one exit. Pure: `(phase, event, now) → action`, every row a sentence of the
//! specification. The order of events within one millisecond is the whole difficulty, so there is no state outside the phase but what is fixed.

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
    /// Kill guard and tree ourselves.
    KillAll,
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
    /// The guard is gone or disobeys: the tree is being killed by ourselves.
    Killing { end: End },
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
            (Stopping { lost: false, status: Some(status), .. }, TreeGone | GuardGone) => self.linger(self.end(status), now),
            (Stopping { lost: false, status: None, .. }, TreeGone) => self.linger(End::Internal, now),
            (Stopping { lost: false, status, .. }, CannotStart(end)) if status.is_none() => (Releasing { end }, Some(Release)),
            (Stopping { lost, overdue, .. }, Tick) if now >= overdue => {
                (Killing { end: if lost { End::Lost } else { End::Internal } }, Some(KillAll))
            }
            (Stopping { .. }, Signalled { signal, typed: false }) if ends(signal) => (self.phase, Some(Forward(signal))),

            (Running { .. }, GuardGone) => (Killing { end: End::Internal }, Some(KillAll)),
            (Stopping { lost, .. }, GuardGone) => (Killing { end: if lost { End::Lost } else { End::Internal } }, Some(KillAll)),
            (Killing { .. }, Lost { .. }) => (Killing { end: End::Lost }, None),
            (Killing { end }, TreeGone) => (Releasing { end }, Some(Release)),
            (Killing { end: End::Lost }, Stuck) => (Releasing { end: End::Lost }, Some(Release)),

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

/// Whether this signal asks a program to end.
fn ends(signal: Signal) -> bool {
    matches!(signal, Signal::TERM | Signal::HUP | Signal::INT | Signal::QUIT)
}
