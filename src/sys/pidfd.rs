//! Descriptors that refer to a process (Linux 5.3). The calls are made by number, because a C
//! library may lack them.

use super::process::Pid;
use super::{check, opened};
use crate::signal::Signal;
use std::ffi::c_int;
use std::os::fd::{AsRawFd, OwnedFd};
use std::{io, ptr};

/// Opens the process that has this id now. ENOSYS before Linux 5.3.
pub(super) fn open(pid: Pid) -> io::Result<OwnedFd> {
    // SAFETY: pidfd_open(2) takes an id and flags, and touches no memory.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid.0, 0) };
    opened(c_int::try_from(fd).expect("descriptors and −1 are ints"))
}

/// Sends the process a signal.
pub(super) fn signal(process: &OwnedFd, signal: Signal) -> io::Result<()> {
    // SAFETY: pidfd_send_signal(2) without a siginfo (null) touches no memory.
    check(unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            process.as_raw_fd(),
            signal.0,
            ptr::null::<libc::siginfo_t>(),
            0,
        )
    })?;
    Ok(())
}
