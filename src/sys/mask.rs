//! Sets of signals, and the signal mask.

use super::check;
use crate::signal::Signal;
use std::ffi::c_int;
use std::io;
use std::mem::MaybeUninit;

/// A set of signals.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mask(libc::sigset_t);

impl Mask {
    /// A set of these signals; invalid numbers are skipped.
    pub(super) fn of(signals: impl IntoIterator<Item = Signal>) -> Mask {
        let mut set = MaybeUninit::zeroed();
        // SAFETY: sigemptyset(3) changes the one set.
        unsafe { libc::sigemptyset(set.as_mut_ptr()) };
        // SAFETY: sigemptyset has initialised it; the part that a C library leaves out, beyond the
        // kernel's signals, was zero before.
        let mut set = unsafe { set.assume_init() };
        for signal in signals {
            // SAFETY: sigaddset(3) changes the one set, and rejects an invalid number.
            unsafe { libc::sigaddset(&raw mut set, signal.0) };
        }
        Mask(set)
    }

    /// For calls that take a set.
    pub(super) fn as_raw(&self) -> &libc::sigset_t {
        &self.0
    }

    /// Blocks these signals too; returns the mask before.
    pub(super) fn block(&self) -> io::Result<Mask> {
        self.change(libc::SIG_BLOCK)
    }

    /// Unblocks these signals; returns the mask before.
    pub(super) fn unblock(&self) -> io::Result<Mask> {
        self.change(libc::SIG_UNBLOCK)
    }

    /// Sets the mask to these signals; returns the mask before. Async-signal-safe.
    pub(super) fn restore(&self) -> io::Result<Mask> {
        self.change(libc::SIG_SETMASK)
    }

    fn change(&self, how: c_int) -> io::Result<Mask> {
        let mut before = Mask::of([]);
        // SAFETY: sigprocmask(2) reads one set and writes another, both valid. On Linux it changes
        // the calling thread's mask.
        check(unsafe { libc::sigprocmask(how, &raw const self.0, &raw mut before.0) })?;
        Ok(before)
    }
}
