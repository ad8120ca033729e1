//! The witness: a process in our process group that tells us which signals came to the group. Only
//! where the command is in that group too, since its session has a terminal; see `delivery`.

use super::guard_channel::{self, Incoming, Report};
use crate::signal::Signal;
use crate::sys::poll::{self, Watched};
use crate::sys::process::{self, Fork, Pid};
use crate::sys::signals::Signals;
use crate::sys::{file, socket};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// What it is called in `ps`: not our name, nor the command's, which scripts look for.
const NAME: &str = "lock-witness";

/// The witness, until it is dropped.
#[derive(Debug)]
pub(super) struct Witness {
    pid: Pid,
    line: OwnedFd,
    /// Whether it was reaped: its id may be another process's then.
    ended: bool,
}

impl Witness {
    /// Forks it. It dies with us.
    pub(super) fn start(signals: &Signals) -> io::Result<Witness> {
        let us = process::own_pid();
        let (ours, theirs) = socket::pair()?;
        match process::fork()? {
            Fork::Parent(pid) => Ok(Witness {
                pid,
                line: ours,
                ended: false,
            }),
            Fork::Child => {
                drop(ours);
                let _ = process::die_with_parent(Some(Signal::KILL), us)
                    .and_then(|()| watch(&theirs, signals));
                process::exit_now(0)
            }
        }
    }

    /// To be watched for reading.
    pub(super) fn line(&self) -> BorrowedFd<'_> {
        self.line.as_fd()
    }

    /// What it has seen next.
    pub(super) fn next(&self) -> Incoming<Report> {
        guard_channel::receive_report(&self.line)
    }

    /// A child of ours was reaped.
    pub(super) fn reaped(&mut self, child: Pid) {
        self.ended |= child == self.pid;
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        if !self.ended {
            let _ = process::kill(self.pid, Signal::KILL);
            let _ = process::wait(self.pid);
        }
    }
}

/// The witness at work: until we are gone.
fn watch(line: &OwnedFd, signals: &Signals) -> io::Result<()> {
    file::close_all_except(&[line.as_fd()]);
    let signals = signals.witness()?;
    process::rename(NAME, process::own_pid());
    loop {
        poll::wait(
            &mut [
                Watched::new(signals.fd(), false),
                Watched::new(line.as_fd(), false),
            ],
            None,
        )?;
        while let Some(received) = signals.next() {
            guard_channel::send_report(line, Report::Witnessed(received.sent()));
        }
        if let Incoming::Closed = guard_channel::receive_command(line) {
            return Ok(());
        }
    }
}
