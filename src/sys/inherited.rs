//! The state that a command must be started with, as this process was: signal mask, dispositions,
//! closed stdio, sockets.

use super::disposition::{self, Disposition};
use super::mask::Mask;
use super::{check, entry};
use crate::signal::Signal;
use std::io;

/// State that this process found on entry and changed for itself.
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
    /// Restores the mask, SIGCHLD, SIGPIPE, SIGXFSZ and the closed stdio descriptors to their state
    /// on entry. Async-signal-safe. Only for a child just before exec, because std types may still
    /// use those descriptors.
    pub(super) fn restore_for_exec(&self) -> io::Result<()> {
        disposition::set(Signal::CHLD, self.child)?;
        disposition::set(Signal::PIPE, self.pipe)?;
        disposition::set(Signal::XFSZ, self.file_size)?;
        for fd in entry::closed_stdio() {
            // SAFETY: no code between here and exec uses stdio, and only stdio uses 0 to 2.
            check(unsafe { libc::close(fd) })?;
        }
        self.mask.restore()?;
        Ok(())
    }
}
