//! System calls, one small safe function each, and the only unsafe code of the program. This layer
//! knows nothing of locks; it uses the types of `moment` and `signal`. It supports
//! kernels from 3.10 on: newer calls are made by number and have a fallback.
#![allow(
    unsafe_code,
    reason = "the one room for it: every block is one call, argued from its man page"
)]

pub mod clock;
pub mod daemon;
pub mod descriptors;
mod disposition;
mod entry;
pub mod epoll;
pub mod file;
pub mod folder;
pub mod helper;
pub mod host;
pub mod inherited;
mod listen_pid;
mod mask;
pub mod notify;
mod pidfd;
pub mod poll;
pub mod process;
pub mod random;
pub mod scheduling;
pub mod signals;
pub mod socket;
pub mod spawn;
pub mod tcp;
#[cfg(test)]
mod testing;
pub mod timer;
mod title;
pub mod tree;

use std::ffi::c_int;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

/// Converts the result of a system call: −1 becomes the error in errno. Allocates nothing.
pub fn check<T: PartialEq + From<i8>>(result: T) -> io::Result<T> {
    if result == T::from(-1) {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// Takes ownership of a descriptor that a system call has just returned. Not for any other number.
fn opened(result: c_int) -> io::Result<OwnedFd> {
    let fd = check(result)?;
    // SAFETY: the callers pass the result of a call that opens a descriptor; it has no other owner.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Whether the kernel has run out of a resource or a limit is reached: descriptors, processes,
/// memory.
pub fn is_shortage(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EMFILE | libc::ENFILE | libc::EAGAIN | libc::ENOMEM)
    )
}

/// Whether the kernel lacks a call: it is too old (ENOSYS), or the seccomp profile of a sandbox is
/// too old to know it (EPERM).
fn is_missing(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EPERM))
}
