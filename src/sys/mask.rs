//! Sets of signals and the signal mask.

use super::check;
use crate::signal::Signal;
use std::ffi::c_int;
use std::io;
use std::mem::MaybeUninit;

/// A set of signals.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mask(libc::sigset_t);

impl Mask {
    /// The set of just these; what is no signal is left out.
    pub(super) fn of(signals: impl IntoIterator<Item = Signal>) -> Mask {
        let mut set = MaybeUninit::zeroed();
        // SAFETY: sigemptyset(3) changes the one set.
        unsafe { libc::sigemptyset(set.as_mut_ptr()) };
        // SAFETY: sigemptyset has made it a set; what a C library leaves out, being more than the
        // kernel has signals for, was zero before.
        let mut set = unsafe { set.assume_init() };
        for signal in signals {
            // SAFETY: sigaddset(3) changes the one set, and refuses a number that is no signal's.
            unsafe { libc::sigaddset(&raw mut set, signal.0) };
        }
        Mask(set)
    }

    /// For calls that take a set.
    pub(super) fn as_raw(&self) -> &libc::sigset_t {
        &self.0
    }

    /// Blocks these signals too; returns what was blocked before.
    pub(super) fn block(&self) -> io::Result<Mask> {
        self.change(libc::SIG_BLOCK)
    }

    /// Lets these signals through; returns what was blocked before.
    pub(super) fn unblock(&self) -> io::Result<Mask> {
        self.change(libc::SIG_UNBLOCK)
    }

    /// Blocks these signals and no others. Async-signal-safe.
    pub(super) fn restore(&self) -> io::Result<Mask> {
        self.change(libc::SIG_SETMASK)
    }

    fn change(&self, how: c_int) -> io::Result<Mask> {
        let mut before = Mask::of([]);
        // SAFETY: sigprocmask(2) reads one set and writes another, and both are there. On Linux it
        // changes the calling thread's mask.
        check(unsafe { libc::sigprocmask(how, &raw const self.0, &raw mut before.0) })?;
        Ok(before)
    }
}
