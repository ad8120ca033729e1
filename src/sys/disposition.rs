//! What a signal does to this process, as far as exec hands it on: ignored or not.

use crate::signal::Signal;
use std::io;
use std::mem::MaybeUninit;
use std::ptr;

/// Dispositions that outlive exec.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Disposition {
    /// The signal's own effect. A handler counts as this, for exec makes it so.
    Default,
    /// None.
    Ignored,
}

/// The disposition of a signal now.
pub(super) fn of(signal: Signal) -> Disposition {
    let mut found = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: sigaction(2) without a new action only fills the old one; where it refuses the
    // number, the zeros stay.
    unsafe { libc::sigaction(signal.0, ptr::null(), found.as_mut_ptr()) };
    // SAFETY: all zeros are a sigaction too: SIG_DFL, an empty mask, no flags.
    let found = unsafe { found.assume_init() };
    if found.sa_sigaction == libc::SIG_IGN {
        Disposition::Ignored
    } else {
        Disposition::Default
    }
}

/// Gives a signal a disposition. Async-signal-safe.
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
