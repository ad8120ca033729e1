//! What a command is to be started with, just as we were: signal mask, dispositions, closed stdio,
//! sockets.

use super::disposition::{self, Disposition};
use super::mask::Mask;
use super::{check, entry};
use crate::signal::Signal;
use std::io;

/// What this process found on entry and changed for itself.
#[derive(Clone, Copy, Debug)]
pub struct Inherited {
    pub(super) mask: Mask,
    pub(super) child: Disposition,
    pub(super) pipe: Disposition,
    pub(super) file_size: Disposition,
    /// Whether a service manager passed sockets to this process: `LISTEN_PID` names it.
    pub(super) sockets: bool,
}

impl Inherited {
    /// Sets mask, SIGCHLD, SIGPIPE, SIGXFSZ and the closed stdio descriptors back to what they were
    /// on entry. Async-signal-safe; for a child just before exec, since a std type that
    /// believes in one of those descriptors may be left.
    pub(super) fn restore_for_exec(&self) -> io::Result<()> {
        disposition::set(Signal::CHLD, self.child)?;
        disposition::set(Signal::PIPE, self.pipe)?;
        disposition::set(Signal::XFSZ, self.file_size)?;
        for fd in entry::closed_stdio() {
            // SAFETY: nothing that runs between here and exec uses stdio, the only thing that knows
            // of 0 to 2.
            check(unsafe { libc::close(fd) })?;
        }
        self.mask.restore()?;
        Ok(())
    }
}
