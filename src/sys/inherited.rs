//! What a command is to be started with, just as we were: signal mask, dispositions, closed stdio; and the signal that it gets when the
//! process that started it dies.

use super::disposition::{self, Disposition};
use super::mask::Mask;
use super::{check, entry, process};
use crate::signal::Signal;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// What this process found on entry and changed for itself.
#[derive(Clone, Copy, Debug)]
pub struct Inherited {
    pub(super) mask: Mask,
    pub(super) child: Disposition,
    pub(super) pipe: Disposition,
}

impl Inherited {
    /// Makes `command`, when it is spawned, begin with what we found, and get `death_signal` when we die. A command whose parent is dead
    /// already is not begun: ESRCH.
    pub fn hand_to(self, command: &mut Command, death_signal: Option<Signal>) {
        let parent = process::own_pid();
        let before_exec = move || {
            process::die_with_parent(death_signal, parent)?;
            self.restore_for_exec()
        };
        // SAFETY: the closure runs between fork and exec, and makes async-signal-safe system calls only, with no allocation.
        unsafe { command.pre_exec(before_exec) };
    }

    /// Sets mask, SIGCHLD and SIGPIPE and the closed stdio descriptors back to what they were on entry. Async-signal-safe; for a forked
    /// child just before exec, since a std type that believes in one of those descriptors may be left.
    pub fn restore_for_exec(&self) -> io::Result<()> {
        disposition::set(Signal::CHLD, self.child)?;
        disposition::set(Signal::PIPE, self.pipe)?;
        for fd in entry::closed_stdio() {
            // SAFETY: nothing that runs between here and exec uses stdio, the only thing that knows of 0 to 2.
            check(unsafe { libc::close(fd) })?;
        }
        self.mask.restore()?;
        Ok(())
    }
}
