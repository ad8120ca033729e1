//! The witness: a process in zk-flock's process group that reports which signals the group has
//! received. It is needed only if the command is in that group too, because its session has a
//! terminal; see `delivery`.

use super::guard_channel::{self, Incoming, Report};
use crate::signal::Signal;
use crate::sys::poll::{self, Watched};
use crate::sys::process::{self, Fork, Pid};
use crate::sys::signals::Signals;
use crate::sys::{file, socket};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Its process name in `ps`. Not the name of zk-flock or of the command, because scripts search for
/// those.
const NAME: &str = "lock-witness";

/// A running witness. Dropping it kills the process.
#[derive(Debug)]
pub(super) struct Witness {
    pid: Pid,
    channel: OwnedFd,
    /// It was reaped, and another process may have its id.
    ended: bool,
}

impl Witness {
    /// Forks the witness. It dies with this process.
    pub(super) fn start(signals: &Signals) -> io::Result<Witness> {
        let parent = process::own_pid();
        let (channel, witness_end) = socket::pair()?;
        match process::fork()? {
            Fork::Parent(pid) => Ok(Witness {
                pid,
                channel,
                ended: false,
            }),
            Fork::Child => {
                drop(channel);
                let _ = process::die_with_parent(Some(Signal::KILL), parent)
                    .and_then(|()| watch(&witness_end, signals));
                process::exit_now(0)
            }
        }
    }

    /// The channel to poll for reports.
    pub(super) fn channel(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }

    /// Receives the next report.
    pub(super) fn receive(&self) -> Incoming<Report> {
        guard_channel::receive_report(&self.channel)
    }

    /// A child of this process was reaped.
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

/// Runs the witness until zk-flock has exited.
fn watch(channel: &OwnedFd, signals: &Signals) -> io::Result<()> {
    file::close_all_except(&[channel.as_fd()]);
    let signals = signals.witness()?;
    process::rename(NAME, process::own_pid());
    loop {
        poll::wait(
            &mut [
                Watched::new(signals.fd(), false),
                Watched::new(channel.as_fd(), false),
            ],
            None,
        )?;
        while let Some(received) = signals.next() {
            guard_channel::send_report(channel, Report::Witnessed(received.sent()));
        }
        if let Incoming::Closed = guard_channel::receive_command(channel) {
            return Ok(());
        }
    }
}
