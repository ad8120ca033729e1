//! System calls, one small safe function each, and the only unsafe code of the program. Knows
//! nothing of locks; owes its vocabulary to `signal` and `plan::Status`. Kernels from 3.10 on will
//! do: what is newer is asked for by number and has a fallback.
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
pub mod host;
pub mod inherited;
mod listen_pid;
mod mask;
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

/// What a system call returned, or why it failed: −1 stands for errno. Allocates nothing.
pub fn check<T: PartialEq + From<i8>>(result: T) -> io::Result<T> {
    if result == T::from(-1) {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// Takes hold of the descriptor that a system call has just made for us. Not for any other number.
fn opened(result: c_int) -> io::Result<OwnedFd> {
    let fd = check(result)?;
    // SAFETY: the callers pass the result of a call that opens a descriptor; it has no other owner.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Whether the kernel is out of something, by a limit or altogether: descriptors, processes,
/// memory.
pub fn is_shortage(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EMFILE | libc::ENFILE | libc::EAGAIN | libc::ENOMEM)
    )
}

/// Whether the kernel does not have a call: too old (ENOSYS), or a sandbox that has never heard of
/// it (EPERM from an old seccomp profile).
fn is_missing(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EPERM))
}

/// The kernel's words without Rust's number: `connection refused`.
pub fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or(&text);
    // Only the first letter: there may be a path in it.
    let (first, rest) = text.split_at_checked(1).unwrap_or((text, ""));
    first.to_lowercase() + rest
}
