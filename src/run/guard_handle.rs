//! The guard as zk-flock sees it: starts it, sends it commands, receives its reports, and kills
//! what is left of the command's tree if it exits or does not react. Returns events for the
//! supervisor, and makes no decisions.
//!
//! When the guard dies: the kernel closes its end of the channel, `receive` returns
//! `Incoming::Closed`, the supervisor orders a kill, and `kill_all` sends KILL to the guard and to
//! all processes of the tree. The tree hangs below this process then (a subreaper), so it is gone
//! when no child is left, or only children that are older than the guard: `kill_completed`.

use super::guard::Job;
use super::guard_channel::{Incoming, Report};
use super::system::System;
use crate::guard::{Event as Command, GuardEvent};
use crate::moment::Moment;
use crate::plan::ExitReason;
use crate::signal::Signal;
use crate::supervisor::{Event, Loss};
use crate::sys;
use crate::sys::process::Pid;
use crate::sys::tree::Process;
use std::collections::HashSet;
use std::io;

/// The guard, before, during and after its life.
pub(super) struct GuardHandle<S: System> {
    phase: Phase<S::Channel>,
}

enum Phase<C> {
    /// No guard was started.
    Unstarted,
    /// The guard's reports are read from the channel.
    Watching { tree: Tree, channel: C },
    /// The channel is closed. The guard is reaped when it has exited.
    Reaping(Tree),
    /// This process kills guard and tree, and reaps what is left.
    Killing(Tree),
    /// Guard and tree were killed, and none of them is left.
    Gone(Tree),
}

/// The guard and the tree below it.
#[derive(Clone, Copy)]
struct Tree {
    guard: Pid,
    /// If the guard has been reaped, its tree hangs below this process.
    guard_reaped: bool,
    /// When the guard was started, in the kernel's ticks, if this process had children before.
    /// Children that are older do not belong to the tree.
    born: Option<u64>,
    command: CommandState,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum CommandState {
    /// The guard has not reported the start.
    NotStarted,
    Running(Pid),
    /// It has ended; another process may have its id.
    Ended,
}

impl<S: System> GuardHandle<S> {
    pub(super) fn new() -> GuardHandle<S> {
        GuardHandle {
            phase: Phase::Unstarted,
        }
    }

    /// Forks the guard, which starts the command. `has_children`: whether this process has other
    /// children. Returns the guard's id.
    pub(super) fn start(
        &mut self,
        job: &Job,
        signals: &S::Signals,
        has_children: bool,
    ) -> io::Result<Pid> {
        let (guard, channel) = S::start_guard(job, signals)?;
        let born = || S::started(guard);
        let tree = Tree {
            guard,
            guard_reaped: false,
            born: has_children.then(born).flatten(),
            command: CommandState::NotStarted,
        };
        self.phase = Phase::Watching { tree, channel };
        Ok(guard)
    }

    fn tree(&self) -> Option<&Tree> {
        match &self.phase {
            Phase::Unstarted => None,
            Phase::Watching { tree, .. }
            | Phase::Reaping(tree)
            | Phase::Killing(tree)
            | Phase::Gone(tree) => Some(tree),
        }
    }

    fn tree_mut(&mut self) -> Option<&mut Tree> {
        match &mut self.phase {
            Phase::Unstarted => None,
            Phase::Watching { tree, .. }
            | Phase::Reaping(tree)
            | Phase::Killing(tree)
            | Phase::Gone(tree) => Some(tree),
        }
    }

    /// The channel, while it is open.
    pub(super) fn channel(&self) -> Option<&S::Channel> {
        match &self.phase {
            Phase::Watching { channel, .. } => Some(channel),
            _ => None,
        }
    }

    /// Sends the guard a command, if the channel is open.
    pub(super) fn send(&self, command: Command) {
        if let Some(channel) = self.channel() {
            S::send_command(channel, command);
        }
    }

    /// Receives the next report. After `Closed`, the guard has exited or is about to.
    pub(super) fn receive(&mut self) -> Incoming<Report> {
        let Phase::Watching { tree, channel } = &mut self.phase else {
            return Incoming::Nothing;
        };
        let received = S::receive_report(channel);
        match received {
            Incoming::Message(Report::Started { command, .. }) => {
                tree.command = CommandState::Running(command);
                S::close_inherited();
            }
            Incoming::Message(Report::Guard(GuardEvent::Ended(_))) => {
                tree.command = CommandState::Ended;
            }
            Incoming::Closed => self.phase = Phase::Reaping(*tree),
            Incoming::Message(_) | Incoming::Nothing => {}
        }
        received
    }

    /// Whether the guard has not reported yet that the command runs.
    pub(super) fn is_starting(&self) -> bool {
        matches!(&self.phase, Phase::Watching { tree, .. } if tree.command == CommandState::NotStarted)
    }

    /// Whether the command runs below the guard.
    pub(super) fn command_runs(&self) -> bool {
        matches!(&self.phase, Phase::Watching { tree, .. } if matches!(tree.command, CommandState::Running(_)))
    }

    /// Whether this process is killing the guard and the tree.
    pub(super) fn is_killing(&self) -> bool {
        matches!(self.phase, Phase::Killing(_))
    }

    /// Whether the guard is about to exit: the command has ended, and the guard is not reaped.
    pub(super) fn is_exiting(&self) -> bool {
        self.tree()
            .is_some_and(|tree| !tree.guard_reaped && tree.command == CommandState::Ended)
    }

    /// The guard, while it lives or is not reaped.
    pub(super) fn living(&self) -> Option<Pid> {
        let tree = self.tree().filter(|tree| !tree.guard_reaped)?;
        (!self.is_killing()).then_some(tree.guard)
    }

    /// A child was reaped: the guard, or the command after the guard's death.
    pub(super) fn child_ended(&mut self, child: Pid) {
        if let Some(tree) = self.tree_mut() {
            tree.guard_reaped |= tree.guard == child;
            if tree.command == CommandState::Running(child) {
                tree.command = CommandState::Ended;
            }
        }
    }

    /// The tree's processes that are left: below the guard, or below this process when the guard is
    /// reaped. `is_helper`: children of this process that do not belong to the tree.
    pub(super) fn survivors(&self, is_helper: impl Fn(Pid) -> bool) -> Vec<Process> {
        match self.tree() {
            None => Vec::new(),
            Some(tree) if tree.guard_reaped => {
                let mut left = S::descendants_since(S::own_pid(), tree.born);
                let mut helpers = HashSet::new(); // parents come before their children
                left.retain(|process| {
                    let spared = is_helper(process.pid) || helpers.contains(&process.parent);
                    !(spared && helpers.insert(process.pid))
                });
                left
            }
            Some(tree) => S::descendants(tree.guard),
        }
    }

    /// Closes the channel, and sends KILL to the guard and to these survivors of its tree, in one
    /// pass. The caller reaps them, and then asks `kill_completed`.
    pub(super) fn kill_all(&mut self, survivors: &[Process]) -> Result<(), NoGuard> {
        let tree = *self.tree().ok_or(NoGuard)?;
        self.phase = Phase::Killing(tree);
        S::run_ahead();
        if !tree.guard_reaped {
            let _ = S::kill(tree.guard, Signal::KILL);
        }
        S::signal_all(survivors, Signal::KILL);
        if tree.born.is_none() {
            S::kill_own_children_without_proc();
        }
        Ok(())
    }

    /// After reaping: whether a kill is complete. If this process has children left, they are
    /// looked at only if it had children before the guard; otherwise it waits for the last child,
    /// because /proc may hide some.
    pub(super) fn kill_completed(
        &mut self,
        has_children: bool,
        is_helper: impl Fn(Pid) -> bool,
    ) -> Option<Event> {
        let Phase::Killing(tree) = self.phase else {
            return None;
        };
        let only_older =
            || tree.guard_reaped && tree.born.is_some() && self.survivors(is_helper).is_empty();
        if has_children && !only_older() {
            return None;
        }
        self.phase = Phase::Gone(tree);
        Some(Event::TreeGone)
    }
}

/// No guard was started, so no tree is there.
pub(super) struct NoGuard;

/// The supervisor's event for a report. `None`: the supervisor has nothing to decide.
/// `kill_deadline` is that of the lease.
pub(super) fn supervisor_event(report: Report, kill_deadline: Moment) -> Option<Event> {
    Some(match report {
        Report::Started { .. } => Event::Started,
        Report::CannotStart(errno) => Event::CannotStart(cannot_start(errno)),
        Report::Guard(GuardEvent::Ended(status)) => Event::Ended(status),
        Report::Guard(GuardEvent::StopAcknowledged) => Event::StopAcknowledged,
        Report::Guard(GuardEvent::LeaseExpired) => Event::Lost(Loss {
            kill_deadline,
            gone: false,
        }),
        Report::Guard(GuardEvent::TreeGone) => Event::TreeGone,
        Report::Guard(GuardEvent::Stuck) => Event::Stuck,
        Report::Witnessed(_) => return None,
    })
}

/// The reason to exit after a start that failed. A shortage of the system (memory, processes) is
/// not the command's fault.
fn cannot_start(errno: i32) -> ExitReason {
    match io::Error::from_raw_os_error(errno) {
        error if error.kind() == io::ErrorKind::NotFound => ExitReason::NotFound,
        error if sys::is_shortage(&error) => ExitReason::SystemError,
        _ => ExitReason::NotRunnable,
    }
}

#[cfg(test)]
mod tests {
    use super::super::guard_channel;
    use super::super::system::Linux;
    use super::*;
    use crate::signal::Status;
    use crate::sys::socket;
    use std::os::fd::OwnedFd;

    const GUARD: Pid = Pid(i32::MAX); // never a process: pids are below 2^22
    const ENDED: Report = Report::Guard(GuardEvent::Ended(Status::Exited(0)));

    /// A handle whose guard is played by the returned end of the channel.
    fn watching(born: Option<u64>) -> (GuardHandle<Linux>, OwnedFd) {
        let (channel, guard) = socket::pair().unwrap();
        let tree = Tree {
            guard: GUARD,
            guard_reaped: false,
            born,
            command: CommandState::NotStarted,
        };
        let phase = Phase::Watching { tree, channel };
        (GuardHandle { phase }, guard)
    }

    #[test]
    fn commands_are_sent_while_the_channel_is_open() {
        let (mut handle, guard) = watching(None);
        handle.send(Command::Forward(Signal::USR1));
        let received = guard_channel::receive_command(&guard);
        assert!(matches!(
            received,
            Incoming::Message(Command::Forward(Signal::USR1))
        ));
        drop(guard);
        assert!(matches!(handle.receive(), Incoming::Closed));
        assert!(handle.channel().is_none());
        handle.send(Command::Forward(Signal::USR1));
        assert!(matches!(handle.receive(), Incoming::Nothing));
    }

    #[test]
    fn last_reports_of_a_guard_that_was_reaped_first_are_received() {
        let (mut handle, guard) = watching(None);
        guard_channel::send_report(&guard, ENDED);
        drop(guard);
        handle.child_ended(GUARD);
        assert!(matches!(handle.receive(), Incoming::Message(ENDED)));
        assert!(matches!(handle.receive(), Incoming::Closed));
        assert!(!handle.is_exiting());
    }

    #[test]
    fn guard_is_exiting_between_the_end_of_the_command_and_its_own() {
        let (mut handle, guard) = watching(None);
        guard_channel::send_report(&guard, ENDED);
        assert!(!handle.is_exiting());
        assert!(matches!(handle.receive(), Incoming::Message(ENDED)));
        assert!(handle.is_exiting() && !handle.command_runs() && !handle.is_starting());
        handle.child_ended(GUARD);
        assert!(!handle.is_exiting());
    }

    #[test]
    fn kill_is_completed_when_no_child_is_left() {
        let (mut handle, _guard) = watching(None);
        assert_eq!(handle.kill_completed(false, |_| false), None, "not killing");
        handle.phase = Phase::Killing(*handle.tree().unwrap());
        handle.child_ended(GUARD);
        assert_eq!(handle.kill_completed(true, |_| false), None);
        assert_eq!(
            handle.kill_completed(false, |_| false),
            Some(Event::TreeGone)
        );
        assert_eq!(handle.kill_completed(false, |_| false), None, "only once");
    }

    #[test]
    fn older_children_do_not_delay_the_end_of_a_kill() {
        let (mut handle, _guard) = watching(Some(u64::MAX)); // every child is older
        handle.phase = Phase::Killing(*handle.tree().unwrap());
        assert_eq!(
            handle.kill_completed(true, |_| false),
            None,
            "the guard itself is left"
        );
        handle.child_ended(GUARD);
        assert_eq!(
            handle.kill_completed(true, |_| false),
            Some(Event::TreeGone)
        );
    }

    #[test]
    fn kill_without_a_guard_has_nothing_to_do() {
        let mut handle = GuardHandle::<Linux>::new();
        assert!(handle.kill_all(&[]).is_err());
        assert!(handle.survivors(|_| false).is_empty());
    }

    #[test]
    fn expired_lease_counts_as_a_lock_that_is_lost_and_kept() {
        let kill_deadline = Moment::default();
        let expired = Report::Guard(GuardEvent::LeaseExpired);
        assert_eq!(
            supervisor_event(expired, kill_deadline),
            Some(Event::Lost(Loss {
                kill_deadline,
                gone: false
            }))
        );
    }
}
