//! poll(2): the one place where a program of this crate sleeps, and the one where EINTR is handled.

use super::check;
use std::ffi::c_int;
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

/// A descriptor to wake up for, and whether it did.
#[repr(transparent)]
#[derive(Debug)]
pub struct Watched<'a> {
    entry: libc::pollfd,
    open: PhantomData<BorrowedFd<'a>>,
}

impl<'a> Watched<'a> {
    /// Wakes up when there is something to read and, if `write`, when there is room to write.
    pub fn new(fd: BorrowedFd<'a>, write: bool) -> Watched<'a> {
        let events = if write { libc::POLLIN | libc::POLLOUT } else { libc::POLLIN };
        Watched { entry: libc::pollfd { fd: fd.as_raw_fd(), events, revents: 0 }, open: PhantomData }
    }

    /// Whether the descriptor has any news, a hang-up or an error too: go and read.
    pub fn ready(&self) -> bool {
        self.entry.revents != 0
    }
}

/// Sleeps until one of the descriptors is ready, for `limit` at most. May return early with none ready, as after a signal: the caller goes
/// round its loop again.
pub fn wait(watched: &mut [Watched], limit: Option<Duration>) -> io::Result<()> {
    let count = watched.len() as libc::nfds_t;
    // SAFETY: Watched is a pollfd by layout, and poll(2) reads and writes `count` of them.
    match check(unsafe { libc::poll(watched.as_mut_ptr().cast(), count, limit.map_or(-1, milliseconds)) }) {
        Err(error) if error.kind() == io::ErrorKind::Interrupted => {
            for watched in watched {
                watched.entry.revents = 0;
            }
            Ok(())
        }
        result => result.map(drop),
    }
}

/// Rounded up, so that poll does not wake just before a deadline and spin until it.
fn milliseconds(limit: Duration) -> c_int {
    c_int::try_from(limit.as_nanos().div_ceil(1_000_000)).unwrap_or(c_int::MAX)
}
