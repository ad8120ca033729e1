//! Decides a run: combines lock, command, signals and deadlines into one exit. A pure state machine:
//! `(phase, event, now) -> action`; each row of the table in `step` is one sentence of the
//! specification. Events may arrive in any order within one millisecond, so all state is in the
//! phase, except for three facts that do not change a row: when the minimum hold ends, which
//! interrupt was received, and whether the lock was revoked.

use crate::delivery::Reach;
use crate::guard::StopOrder;
use crate::kill_rounds::{Due, KillRounds, REPORT_INTERVAL, UNKILLABLE_AFTER};
use crate::moment::Moment;
use crate::plan::ExitReason;
use crate::signal::{Signal, Status};
use std::time::Duration;

/// How long the guard may take to acknowledge an order to stop.
const STOP_ACK_TIMEOUT: Duration = Duration::from_secs(1);

/// Time that the guard has after the kill deadline of a lost lock before it is killed with the tree:
/// half the margin between that deadline and the end of the lease.
const KILL_OVERDUE: Duration = Duration::from_millis(100);

/// How long the guard may be silent after the kill deadline of an operator's stop. A working guard
/// reports within `UNKILLABLE_AFTER` of its KILL that the tree is gone or that a process survives.
/// One more second covers a busy machine: no lease presses, and a working guard that is killed would
/// be reported as a failure of the guard.
const SILENCE_TIMEOUT: Duration = UNKILLABLE_AFTER.saturating_add(STOP_ACK_TIMEOUT);

/// A timer that is handled so late shows that this process could not run; 32 busy loops a core delay
/// it by less than a tenth of that.
const LATE: Duration = Duration::from_secs(1);

/// An event of a run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// This process holds the lock.
    Acquired,
    /// The lock will not be acquired, for this reason.
    NoLock(ExitReason),
    /// The lock is lost.
    Lost(Loss),
    /// The lock was lost before and kept as far as possible; another host can acquire it from now
    /// on.
    Gone,
    /// An operator asks this run to stop its command and to release the lock, which it holds until
    /// then.
    Revoked,
    /// The lock service has nothing left of this run.
    Released,
    /// The guard has started the command.
    Started,
    /// The guard could not start the command.
    CannotStart(ExitReason),
    /// The command itself has ended.
    Ended(Status),
    /// The guard has received the order to stop.
    StopAcknowledged,
    /// No process of the command's tree is left.
    TreeGone,
    /// A process of the tree survives KILL.
    Stuck,
    /// The guard has exited. This process has to kill what is left of the tree.
    GuardGone,
    /// This process received a signal.
    Signalled(Signal, Origin),
    /// Time has passed.
    Tick,
}

/// How a lock was lost.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Loss {
    /// When the command must be dead; now or earlier if the lock is lost already.
    pub kill_deadline: Moment,
    /// Another host can acquire the lock from that moment on. If false, the lock is kept as far as
    /// possible.
    pub gone: bool,
}

/// Where a signal came from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Origin {
    /// From the terminal, which sends it to the whole process group.
    Typed,
    /// From another process. It has reached these processes of the command as well.
    Sent(Reach),
}

impl Origin {
    fn reach(self) -> Reach {
        match self {
            Origin::Typed => Reach::Group,
            Origin::Sent(reach) => reach,
        }
    }
}

/// What `run` does about an event.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// Start the guard, which starts the command.
    Start,
    /// Forward this signal to the command.
    Forward(Signal),
    /// Order the guard to end the tree.
    Stop(StopOrder),
    /// Kill the guard and the tree from this process, in one pass.
    KillAll,
    /// The same, and report the survivors.
    KillAndReport,
    /// Stop this process until it is continued.
    Suspend {
        /// Forward TSTP to the command first: the command has not received it.
        forward: bool,
    },
    /// Release the lock.
    Release,
    /// End the run.
    Exit(ExitReason),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// The lock is not held yet.
    Acquiring,
    /// The guard was told to start the command.
    Starting,
    /// The guard has reported that the command runs.
    Running,
    /// The guard is ending the tree.
    Stopping(TreeStop),
    /// The guard has exited or does not react: this process kills the tree, round after round.
    Killing(TreeKill),
    /// The command has ended, the minimum hold has not.
    MinimumHold(ExitReason),
    /// The lock is being released.
    Releasing(ExitReason),
    /// The run has ended.
    Done,
}

/// What is known of the lock while the tree is being ended.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Tenure {
    /// This process holds it.
    Held,
    /// It was not renewed in time. It is kept as far as possible, and is not released before the
    /// tree is gone.
    Lost,
    /// Another host can acquire it, so nothing is left to keep.
    Gone,
}

/// How far the guard has come with ending the tree.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct TreeStop {
    tenure: Tenure,
    /// How the command ended, if it has.
    status: Option<Status>,
    /// When the guard sends KILL.
    kill_deadline: Moment,
    /// The guard has received the order.
    acknowledged: bool,
    /// When the guard has been silent for too long.
    overdue: Moment,
    /// It was overdue once since it was last heard of, and got more time.
    doubted: bool,
}

/// The kill of guard and tree by this process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct TreeKill {
    end: ExitReason,
    tenure: Tenure,
    rounds: KillRounds,
    /// The survivors were reported.
    reported: bool,
}

/// The next phase, and the action.
type Step = (Phase, Option<Action>);

/// The state machine of one run.
#[derive(Debug)]
pub struct Supervisor {
    minimum_hold: Duration,
    kill_after: Duration,
    phase: Phase,
    /// The end of the minimum hold.
    hold_until: Moment,
    /// The INT or QUIT that was received last. If it ends the command, it ends this process too.
    interrupt: Option<Signal>,
    /// The command was stopped because the lock was revoked.
    revoked: bool,
}

impl Supervisor {
    /// A run that holds its lock for at least `minimum_hold`, and gives a command that it stops
    /// `kill_after` between the signal and KILL.
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

    /// Handles an event. Returns what to do about it.
    pub fn step(&mut self, event: Event, now: Moment) -> Option<Action> {
        use Event::*;
        use Origin::{Sent, Typed};
        use Phase::*;
        self.note(event, now);
        let (phase, action) = match (self.phase, event) {
            (Acquiring, Acquired) => (Starting, Some(Action::Start)),
            (Acquiring, NoLock(end)) => release(end),
            (Acquiring, Signalled(signal, _)) if ends_the_wait(signal) => {
                release(ExitReason::Signalled(signal))
            }

            (Starting | Running, Started) => (Running, None),
            (Starting | Running, CannotStart(end)) => release(end),
            (Starting | Running, Ended(status)) => self.hold(self.end(status), now),
            (Starting | Running, Lost(loss)) => stop_lost(None, loss, now),
            (Starting | Running, Gone) => stop_lost(None, Loss::gone(now), now),
            (Starting | Running, Revoked) => self.stop(Signal::TERM, Reach::Here, now),
            (Starting | Running, GuardGone) => kill(ExitReason::InternalError, Tenure::Held, now),
            // The terminal has sent it to the command as well, unless that was not there yet.
            (Running, Signalled(Signal::INT | Signal::QUIT, Typed)) => (Running, None),
            (Starting, Signalled(signal @ (Signal::INT | Signal::QUIT), Typed)) => {
                (Starting, Some(Action::Forward(signal)))
            }
            (Starting | Running, Signalled(signal, origin)) if signal.ends() => {
                self.stop(signal, origin.reach(), now)
            }

            (Stopping(stop), Ended(status)) => (Stopping(stop.ended(status)), None),
            (Stopping(stop), StopAcknowledged) => (Stopping(stop.acknowledged()), None),
            (Stopping(stop), Stuck) if stop.tenure == Tenure::Gone => release(ExitReason::Lost),
            (Stopping(stop), Stuck) => (Stopping(stop.stuck(now)), None),
            (Stopping(stop), Lost(loss)) => stop.lost(loss, now),
            (Stopping(stop), Gone) => stop.lost(Loss::gone(now), now),
            (Stopping(stop), CannotStart(end)) if stop.never_started() => release(end),
            (Stopping(stop), TreeGone) if stop.tenure == Tenure::Held => {
                self.hold(self.end_of(stop), now)
            }
            (Stopping(_), TreeGone) => release(ExitReason::Lost),
            (Stopping(stop), GuardGone) => match stop.ended_before_the_order() {
                Some(status) => {
                    self.revoked = false; // no order has stopped the command
                    self.hold(self.end(status), now)
                }
                None => kill(self.end_of(stop), stop.tenure, now),
            },
            (Stopping(stop), Tick) if stop.may_have_slept(now) => (Stopping(stop.again(now)), None),
            (Stopping(stop), Tick) if now >= stop.overdue => {
                kill(self.end_of(stop), stop.tenure, now)
            }

            (Killing(kill), TreeGone) => release(kill.end),
            (Killing(kill), Lost(loss)) => kill.lost(loss.tenure()),
            (Killing(kill), Gone) => kill.lost(Tenure::Gone),
            (Killing(kill), Tick) => kill.tick(now),

            (MinimumHold(end), Lost(_) | Gone | Revoked) => release(end),
            (MinimumHold(end), Signalled(signal, _)) if signal.ends() => release(end),
            (MinimumHold(end), Tick) if now >= self.hold_until => release(end),

            (Releasing(end), Released) => (Done, Some(Action::Exit(end))),
            (Releasing(end), Signalled(signal, _)) if signal.ends() => {
                (Done, Some(Action::Exit(end)))
            }

            (Acquiring | MinimumHold(_), Signalled(Signal::TSTP, _)) => {
                (self.phase, Some(Action::Suspend { forward: false }))
            }
            (Starting | Running | Stopping(_), Signalled(Signal::TSTP, origin)) => {
                let forward = origin != Typed;
                (self.phase, Some(Action::Suspend { forward }))
            }
            (Starting | Running | Stopping(_), Signalled(signal, Sent(Reach::Here))) => {
                (self.phase, Some(Action::Forward(signal)))
            }

            (phase, _) => (phase, None), // late news about what is already decided
        };
        self.phase = phase;
        action
    }

    /// How the run ends, once its command has ended or can start no more.
    pub fn end_of_command(&self) -> Option<ExitReason> {
        match self.phase {
            Phase::MinimumHold(end) | Phase::Releasing(end) => Some(end),
            _ => None,
        }
    }

    /// When time alone causes the next action.
    pub fn wake(&self) -> Moment {
        match self.phase {
            Phase::Stopping(stop) => stop.overdue,
            Phase::Killing(kill) => kill.rounds.wake(),
            Phase::MinimumHold(_) => self.hold_until,
            _ => Moment::NEVER,
        }
    }

    /// Remembers the facts outside the phase.
    fn note(&mut self, event: Event, now: Moment) {
        match (self.phase, event) {
            (Phase::Acquiring, Event::Acquired) => self.hold_until = now + self.minimum_hold,
            (_, Event::Signalled(signal @ (Signal::INT | Signal::QUIT), _)) => {
                self.interrupt = Some(signal);
            }
            (phase, Event::Revoked) => {
                self.hold_until = Moment::default(); // the operator wants the lock at once
                self.revoked |= matches!(phase, Phase::Starting | Phase::Running);
            }
            _ => {}
        }
    }

    /// The reason to exit after a command that ended like this. If INT or QUIT ended the command,
    /// this process dies of it too, so that a shell's loop stops. A command that was stopped
    /// because the lock was revoked has not ended by itself, whatever its status.
    fn end(&self, status: Status) -> ExitReason {
        match status {
            _ if self.revoked => ExitReason::Revoked,
            Status::Killed(signal) if self.interrupt == Some(signal) => {
                ExitReason::Signalled(signal)
            }
            status => ExitReason::Command(status),
        }
    }

    /// The reason to exit after a tree that was stopped. If the guard has not reported how the
    /// command ended, the guard has failed.
    fn end_of(&self, stop: TreeStop) -> ExitReason {
        match (stop.tenure, stop.status) {
            (Tenure::Lost | Tenure::Gone, _) => ExitReason::Lost,
            (Tenure::Held, Some(status)) => self.end(status),
            (Tenure::Held, None) => ExitReason::InternalError,
        }
    }

    /// An operator's stop, which leaves the command `kill_after` to end.
    fn stop(&self, signal: Signal, reach: Reach, now: Moment) -> Step {
        let kill_deadline = now + self.kill_after;
        let stop = TreeStop {
            tenure: Tenure::Held,
            status: None,
            kill_deadline,
            acknowledged: false,
            overdue: now + STOP_ACK_TIMEOUT,
            doubted: false,
        };
        let order = StopOrder {
            signal,
            reach,
            kill_deadline,
        };
        (Phase::Stopping(stop), Some(Action::Stop(order)))
    }

    /// The command has ended: releases the lock, or holds it until the minimum hold ends.
    fn hold(&self, end: ExitReason, now: Moment) -> Step {
        if now >= self.hold_until {
            release(end)
        } else {
            (Phase::MinimumHold(end), None)
        }
    }
}

impl Loss {
    /// A lock that another host can acquire from now on.
    fn gone(now: Moment) -> Loss {
        Loss {
            kill_deadline: now,
            gone: true,
        }
    }

    fn tenure(self) -> Tenure {
        if self.gone {
            Tenure::Gone
        } else {
            Tenure::Lost
        }
    }
}

impl TreeStop {
    fn ended(self, status: Status) -> TreeStop {
        TreeStop {
            status: Some(status),
            doubted: false,
            ..self
        }
    }

    /// The guard has received the order. For an operator's stop, it may take until the kill
    /// deadline; a lost lock leaves no such time.
    fn acknowledged(self) -> TreeStop {
        let overdue = if self.tenure == Tenure::Held {
            self.kill_deadline + SILENCE_TIMEOUT
        } else {
            self.overdue
        };
        TreeStop {
            acknowledged: true,
            overdue,
            doubted: false,
            ..self
        }
    }

    /// The guard cannot kill all of the tree. It reports this again every minute, unless it is
    /// stopped.
    fn stuck(self, now: Moment) -> TreeStop {
        let overdue = if self.tenure == Tenure::Held {
            now + REPORT_INTERVAL + STOP_ACK_TIMEOUT
        } else {
            self.overdue
        };
        TreeStop {
            overdue,
            doubted: false,
            ..self
        }
    }

    /// The guard is overdue, and may have woken up only now, because its host slept or both processes
    /// were stopped. A late timer of this process shows that, but a sleep that ended before the guard
    /// was overdue delays the guard alone. So the first silence proves nothing. While the lock is
    /// held, no lease presses; a lost lock leaves no time for doubt.
    fn may_have_slept(self, now: Moment) -> bool {
        let late = now >= self.overdue + LATE;
        self.tenure == Tenure::Held && now >= self.overdue && (!self.doubted || late)
    }

    /// The guard has as much time as after the kill deadline.
    fn again(self, now: Moment) -> TreeStop {
        TreeStop {
            overdue: now + SILENCE_TIMEOUT,
            doubted: true,
            ..self
        }
    }

    /// The lock is lost while the tree is being ended. The order that was given stays, unless there
    /// is less time now.
    fn lost(self, loss: Loss, now: Moment) -> Step {
        let less_time = loss.kill_deadline < self.kill_deadline && now < self.kill_deadline;
        if self.tenure == Tenure::Held || less_time {
            let gone = loss.gone || self.tenure == Tenure::Gone;
            return stop_lost(self.status, Loss { gone, ..loss }, now);
        }
        let tenure = self.tenure.max(loss.tenure());
        (Phase::Stopping(TreeStop { tenure, ..self }), None)
    }

    /// Whether the guard may still report that it could not start the command.
    fn never_started(self) -> bool {
        self.tenure == Tenure::Held && self.status.is_none()
    }

    /// The command's status, if the guard exited before it received the order. A guard that has
    /// received the order exits only when the tree is gone.
    fn ended_before_the_order(self) -> Option<Status> {
        let unheard = self.tenure == Tenure::Held && !self.acknowledged;
        self.status.filter(|_| unheard)
    }
}

impl TreeKill {
    /// The lock is lost while this process kills the tree. A lock that is gone is kept only until
    /// the survivors have been reported.
    fn lost(self, tenure: Tenure) -> Step {
        if tenure == Tenure::Gone && self.reported {
            return release(ExitReason::Lost);
        }
        let kill = TreeKill {
            end: ExitReason::Lost,
            tenure: self.tenure.max(tenure),
            ..self
        };
        (Phase::Killing(kill), None)
    }

    fn tick(self, now: Moment) -> Step {
        match self.rounds.due(now) {
            Some((Due::Report, _)) if self.tenure == Tenure::Gone => release(self.end),
            Some((Due::Report, rounds)) => {
                let kill = TreeKill {
                    rounds,
                    reported: true,
                    ..self
                };
                (Phase::Killing(kill), Some(Action::KillAndReport))
            }
            Some((Due::Kill, rounds)) => {
                let kill = TreeKill { rounds, ..self };
                (Phase::Killing(kill), Some(Action::KillAll))
            }
            None => (Phase::Killing(self), None),
        }
    }
}

/// Whether a signal ends the wait for the lock: with it, no command is started.
fn ends_the_wait(signal: Signal) -> bool {
    signal.ends() || matches!(signal, Signal::USR1 | Signal::USR2)
}

fn release(end: ExitReason) -> Step {
    (Phase::Releasing(end), Some(Action::Release))
}

/// The lock is lost: KILL if its deadline has passed, otherwise TERM and the rest of the lease.
fn stop_lost(status: Option<Status>, loss: Loss, now: Moment) -> Step {
    let kill_deadline = loss.kill_deadline;
    let signal = if kill_deadline <= now {
        Signal::KILL
    } else {
        Signal::TERM
    };
    let stop = TreeStop {
        tenure: loss.tenure(),
        status,
        kill_deadline,
        acknowledged: false,
        overdue: kill_deadline.max(now) + KILL_OVERDUE,
        doubted: false,
    };
    let order = StopOrder {
        signal,
        reach: Reach::Here,
        kill_deadline,
    };
    (Phase::Stopping(stop), Some(Action::Stop(order)))
}

/// The guard does not kill the tree, so this process does.
fn kill(end: ExitReason, tenure: Tenure, now: Moment) -> Step {
    let kill = TreeKill {
        end,
        tenure,
        rounds: KillRounds::begin(now),
        reported: false,
    };
    (Phase::Killing(kill), Some(Action::KillAll))
}

#[cfg(test)]
mod tests;
