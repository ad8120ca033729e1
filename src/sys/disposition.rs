//! Signal dispositions of this process that exec preserves: ignored or not.

use crate::signal::Signal;
use std::io;
use std::mem::MaybeUninit;
use std::ptr;

/// A disposition that survives exec.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Disposition {
    /// The default action. A handler counts as this, because exec resets it.
    Default,
    /// The signal is ignored.
    Ignored,
}

/// Reads the current disposition of a signal.
pub(super) fn of(signal: Signal) -> Disposition {
    let mut found = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: sigaction(2) without a new action only fills the old one; if it rejects the number,
    // the zeros stay.
    unsafe { libc::sigaction(signal.0, ptr::null(), found.as_mut_ptr()) };
    // SAFETY: all zeros are a valid sigaction: SIG_DFL, an empty mask, no flags.
    let found = unsafe { found.assume_init() };
    if found.sa_sigaction == libc::SIG_IGN {
        Disposition::Ignored
    } else {
        Disposition::Default
    }
}

/// Sets the disposition of a signal. Async-signal-safe.
pub(super) fn set(signal: Signal, disposition: Disposition) -> io::Result<()> {
    let handler = match disposition {
        Disposition::Default => libc::SIG_DFL,
        Disposition::Ignored => libc::SIG_IGN,
    };
    // SAFETY: signal(2) with SIG_DFL or SIG_IGN installs no code.
    let before = unsafe { libc::signal(signal.0, handler) };
    if before == libc::SIG_ERR {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
