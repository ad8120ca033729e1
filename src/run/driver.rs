//! The effects of a lock: drives its state machine, and carries out what it wants from its
//! connection, its files and the name lookup. Knows nothing of guard, supervisor or log.

use super::files::Files;
use super::system::System;
use crate::lock::{self, FileOrder, Input, Lock, Output};
use crate::moment::Moment;
use crate::plan::ExitReason;
use crate::prepare::Lookup;
use crate::supervisor::{self, Loss};
use crate::sys::process::Pid;
use crate::transport;
use std::io;
use std::os::fd::BorrowedFd;

/// A lock, and what it works on.
pub(super) struct Driver<S: System> {
    lock: Box<dyn Lock>,
    link: S::Link,
    files: Option<Files>,
    lookup: Lookup,
    /// What helpers of the connection have left behind, e.g. the master of an ssh: children of this
    /// process, a subreaper, that are not the command's.
    left_behind: Vec<Pid>,
    /// The run has ended: the lock may still send its last request, and nothing else.
    finished: bool,
}

/// Why `pump` returned.
pub(super) enum Progress {
    /// The lock reports this.
    Event(lock::Event),
    /// Names cannot be looked up. The lock goes on with the addresses that are known.
    CannotLookUp(io::Error),
    /// The lock wants nothing before this moment.
    Wait(Moment),
}

impl<S: System> Driver<S> {
    pub(super) fn new(
        lock: Box<dyn Lock>,
        link: S::Link,
        files: Option<Files>,
        lookup: Lookup,
    ) -> Driver<S> {
        Driver {
            lock,
            link,
            files,
            lookup,
            left_behind: Vec::new(),
            finished: false,
        }
    }

    /// Carries out what the lock wants, up to its next event. `may_fork`: whether helpers may be
    /// started; they must not be while all children are being killed.
    pub(super) fn pump(&mut self, may_fork: bool) -> Progress {
        loop {
            match self.lock.poll(S::now()) {
                Output::Wait(until) => return Progress::Wait(until.min(self.lookup.until())),
                Output::Transport(output @ transport::Output::Send(_)) => self.execute(output),
                _ if self.finished => {}
                Output::Transport(output) => self.execute(output),
                Output::File(order) => self.execute_on_file(&order),
                Output::LookUp => {
                    if let Err(error) = self.look_up(may_fork) {
                        return Progress::CannotLookUp(error);
                    }
                }
                Output::Event(event) => return Progress::Event(event),
            }
        }
    }

    fn execute_on_file(&mut self, order: &FileOrder) {
        let event = self.files.as_mut().and_then(|files| match order {
            FileOrder::Lock { file, wait } => files.lock(*file, *wait),
            FileOrder::ReadRecord { file } => Some(files.read_record(*file)),
            FileOrder::WriteRecord { file, record } => Some(files.write_record(*file, record)),
        });
        self.handle(event.map(Input::File));
    }

    fn execute(&mut self, output: transport::Output) {
        let failed = S::execute(&mut self.link, output).map(Input::Transport);
        self.handle(failed);
    }

    /// Starts helpers that look up the names. Without helpers, the lock gets the known addresses.
    fn look_up(&mut self, may_fork: bool) -> io::Result<()> {
        let begun = if may_fork {
            self.lookup.begin(S::now()).map(|()| true)
        } else {
            Ok(false)
        };
        if !matches!(begun, Ok(true)) {
            self.lock
                .handle(Input::LookUp(self.lookup.known()), S::now());
        }
        begun.map(|_| ())
    }

    fn handle(&mut self, input: Option<Input>) {
        if let Some(input) = input {
            self.lock.handle(input, S::now());
        }
    }

    /// The connection, to poll for.
    pub(super) fn link(&self) -> &S::Link {
        &self.link
    }

    /// The look-up, to poll for after the connection; `ready` takes the results in this order.
    pub(super) fn lookup(&self) -> &Lookup {
        &self.lookup
    }

    /// Tells the lock that time has passed.
    pub(super) fn tick(&mut self) {
        self.lock.handle(Input::Tick, S::now());
    }

    /// Reads from the connection and the lookup, as far as they were found ready.
    pub(super) fn ready(&mut self, mut ready: impl Iterator<Item = bool>) {
        let linked = S::is_connected(&self.link) && ready.next().unwrap_or(false);
        if linked {
            let lock = &mut self.lock;
            S::read(&mut self.link, |event| {
                lock.handle(Input::Transport(event), S::now());
            });
        }
        if self.lookup.is_under_way() {
            let found = self.lookup.result(ready, S::now());
            self.handle(found.map(Input::LookUp));
        }
    }

    /// The command has ended, and the run will exit with this code. A request to a server is sent by
    /// the next `pump`, with that of the release; files are released sooner, so they are written now.
    pub(super) fn command_ended(&mut self, code: u8) {
        self.lock.handle(Input::Ended(code), S::now());
        if self.files.is_some()
            && let Output::File(order) = self.lock.poll(S::now())
        {
            self.execute_on_file(&order);
        }
    }

    /// Releases the files; the request to a server is sent by the next `pump`.
    pub(super) fn release(&mut self) {
        if let Some(files) = &mut self.files {
            files.release_others(None);
        }
        self.lock.handle(Input::Release, S::now());
    }

    /// The run has ended.
    pub(super) fn finish(&mut self) {
        self.finished = true;
    }

    /// Whether the server may still have something of this run after the release.
    pub(super) fn is_unsettled(&self) -> bool {
        self.lock.unsettled()
    }

    /// The descriptor of the file lock that is held.
    pub(super) fn held_file(&self) -> Option<BorrowedFd<'_>> {
        self.files.as_ref().and_then(Files::held)
    }

    /// A child was reaped. If it was a helper that waited for a file, the file is locked now.
    pub(super) fn child_ended(&mut self, child: Pid) {
        let event = self.files.as_mut().and_then(|files| files.ended(child));
        self.handle(event.map(Input::File));
    }

    /// A child was reaped. If it was a helper, its id may belong to another process now.
    pub(super) fn helper_reaped(&mut self, child: Pid) {
        self.lookup.reaped(child);
        self.left_behind.retain(|&process| process != child);
        let lock = &mut self.lock;
        S::helper_reaped(&mut self.link, child, |event| {
            lock.handle(Input::Transport(event), S::now());
        });
    }

    /// Whether a process is a helper: of the lookup, of the connection, or left behind by one.
    pub(super) fn is_helper(&self, process: Pid) -> bool {
        self.lookup.is_helper(process)
            || S::is_helper(&self.link, process)
            || self.left_behind.contains(&process)
    }

    /// Whether a child is a helper of the connection, which may leave processes behind when it ends.
    pub(super) fn carries_the_connection(&self, child: Pid) -> bool {
        S::is_helper(&self.link, child)
    }

    /// A helper of the connection has left these children behind: they are not the command's.
    pub(super) fn leave(&mut self, left_behind: impl Iterator<Item = Pid>) {
        let new: Vec<_> = left_behind.filter(|&pid| !self.is_helper(pid)).collect();
        self.left_behind.extend(new);
    }

    /// Whether a helper has not been reaped.
    pub(super) fn has_helpers(&self) -> bool {
        self.lookup.has_helpers() || S::has_helpers(&self.link)
    }

    /// Ends the helpers, those of the connection after what they still have to send. They are not
    /// reaped yet.
    pub(super) fn end_helpers(&mut self, by: Moment) {
        self.lookup.cancel();
        S::part(&mut self.link, by);
    }

    /// Kills the helpers, which are not reaped yet.
    pub(super) fn kill_helpers(&mut self) {
        self.lookup.cancel();
        S::kill_helpers(&mut self.link);
    }

    /// Cancels a lookup, if one is under way. The lock gets the known addresses.
    pub(super) fn cancel_lookup(&mut self) {
        if self.lookup.is_under_way() {
            self.lookup.cancel();
            self.lock
                .handle(Input::LookUp(self.lookup.known()), S::now());
        }
    }
}

/// The supervisor's event for a lock's event. `None`: the supervisor has nothing to decide.
pub(super) fn supervisor_event(event: &lock::Event) -> Option<supervisor::Event> {
    use supervisor::Event;
    match event {
        lock::Event::Acquired(_) => Some(Event::Acquired),
        lock::Event::Lost {
            kill_deadline,
            gone,
            ..
        } => Some(Event::Lost(Loss {
            kill_deadline: *kill_deadline,
            gone: *gone,
        })),
        lock::Event::Gone(_) => Some(Event::Gone),
        lock::Event::Revoked { .. } => Some(Event::Revoked),
        lock::Event::Busy(_) => Some(Event::NoLock(ExitReason::Busy)),
        lock::Event::AlreadyRun(_) => Some(Event::NoLock(ExitReason::AlreadyRun)),
        lock::Event::Failed(failure) => Some(Event::NoLock(failure.exit_reason())),
        lock::Event::Released { .. } | lock::Event::ReleasedSilently => Some(Event::Released),
        lock::Event::Trying(_)
        | lock::Event::Waiting { .. }
        | lock::Event::LeaseUntil(_)
        | lock::Event::Suspended(_)
        | lock::Event::Resumed
        | lock::Event::Note(_)
        | lock::Event::Warn(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deadlines::Deadlines;
    use crate::lock::Failure;
    use std::time::Duration;
    use supervisor::Event;

    #[test]
    fn each_reason_for_no_lock_has_its_own_exit_reason() {
        let holder = lock::Holder {
            lock: "/app/lock".into(),
            host: None,
            since: None,
            session: None,
        };
        let refused = Failure::Refused {
            what: "make /app/lock".into(),
            why: "no auth".into(),
        };
        for (event, end) in [
            (lock::Event::Busy(holder), ExitReason::Busy),
            (
                lock::Event::Failed(Failure::Unreachable("h1:2181".into())),
                ExitReason::Unreachable,
            ),
            (lock::Event::Failed(refused), ExitReason::Refused),
            (
                lock::Event::Failed(Failure::Denied("INVALID".into())),
                ExitReason::Refused,
            ),
            (
                lock::Event::Failed(Failure::IncompatibleLock("a directory".into())),
                ExitReason::IncompatibleLock,
            ),
            (
                lock::Event::Failed(Failure::System("disk full".into())),
                ExitReason::SystemError,
            ),
        ] {
            assert_eq!(
                supervisor_event(&event),
                Some(Event::NoLock(end)),
                "{event:?}"
            );
        }
    }

    #[test]
    fn loss_keeps_its_kill_deadline() {
        let kill_deadline = Moment(Duration::from_secs(7));
        for gone in [false, true] {
            let lost = lock::Event::Lost {
                why: "the session has expired".into(),
                kill_deadline,
                gone,
            };
            assert_eq!(
                supervisor_event(&lost),
                Some(Event::Lost(Loss {
                    kill_deadline,
                    gone
                }))
            );
        }
    }

    #[test]
    fn events_for_log_and_guard_are_not_passed_to_the_supervisor() {
        for event in [
            lock::Event::Trying("a".into()),
            lock::Event::LeaseUntil(Deadlines::NEVER),
            lock::Event::Suspended("no answer".into()),
            lock::Event::Resumed,
            lock::Event::Note("connected".into()),
            lock::Event::Warn("acl".into()),
        ] {
            assert_eq!(supervisor_event(&event), None, "{event:?}");
        }
    }
}
