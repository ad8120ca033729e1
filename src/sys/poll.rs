//! poll(2): the only place where a program of this crate sleeps, and where EINTR is handled.

use super::check;
use std::ffi::c_int;
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::Duration;

/// A descriptor to watch, and whether it is ready.
#[repr(transparent)]
#[derive(Debug)]
pub struct Watched<'a> {
    entry: libc::pollfd,
    open: PhantomData<BorrowedFd<'a>>,
}

impl<'a> Watched<'a> {
    /// Wakes up when data can be read and, if `write`, when data can be written.
    pub fn new(fd: BorrowedFd<'a>, write: bool) -> Watched<'a> {
        let events = if write {
            libc::POLLIN | libc::POLLOUT
        } else {
            libc::POLLIN
        };
        Watched {
            entry: libc::pollfd {
                fd: fd.as_raw_fd(),
                events,
                revents: 0,
            },
            open: PhantomData,
        }
    }

    /// Whether the descriptor is readable or writable, or has a hang-up or an error.
    pub fn ready(&self) -> bool {
        self.entry.revents != 0
    }
}

/// Sleeps until a descriptor is ready, for `limit` at most. May return early with none ready, e.g.
/// after a signal: the caller continues its loop.
pub fn wait(watched: &mut [Watched], limit: Option<Duration>) -> io::Result<()> {
    let count = watched.len() as libc::nfds_t;
    // SAFETY: Watched is a pollfd by layout, and poll(2) reads and writes `count` of them.
    match check(unsafe {
        libc::poll(
            watched.as_mut_ptr().cast(),
            count,
            limit.map_or(-1, milliseconds),
        )
    }) {
        Err(error) if error.kind() == io::ErrorKind::Interrupted => {
            for watched in watched {
                watched.entry.revents = 0;
            }
            Ok(())
        }
        result => result.map(drop),
    }
}

/// Whether a write would not block.
pub fn has_room(fd: impl AsFd) -> bool {
    let fd = fd.as_fd().as_raw_fd();
    let mut entry = libc::pollfd {
        fd,
        events: libc::POLLOUT,
        revents: 0,
    };
    // SAFETY: poll(2) reads and writes one pollfd; with a limit of 0 it does not sleep.
    check(unsafe { libc::poll(&raw mut entry, 1, 0) }).is_ok() && entry.revents & libc::POLLOUT != 0
}

/// Rounded up, so that poll does not wake just before a deadline and spin until it.
pub(super) fn milliseconds(limit: Duration) -> c_int {
    c_int::try_from(limit.as_nanos().div_ceil(1_000_000)).unwrap_or(c_int::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::{socket, testing::check_in_child};
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn only_a_descriptor_with_data_is_ready() {
        let (one, other) = socket::pair().unwrap();
        socket::send(&one, b"news").unwrap();
        let mut watched = [
            Watched::new(one.as_fd(), false),
            Watched::new(other.as_fd(), false),
            Watched::new(one.as_fd(), true),
        ];
        wait(&mut watched, None).unwrap();
        assert_eq!(watched.map(|watched| watched.ready()), [false, true, true]);
    }

    #[test]
    fn hang_up_makes_a_descriptor_ready() {
        let (one, other) = socket::pair().unwrap();
        drop(other);
        let mut watched = [Watched::new(one.as_fd(), false)];
        wait(&mut watched, None).unwrap();
        assert!(watched[0].ready());
        assert_eq!(socket::receive(&one, &mut [0]).unwrap(), 0);
    }

    #[test]
    fn limit_is_rounded_up_and_capped() {
        for (nanoseconds, expected) in [
            (0, 0),
            (1, 1),
            (1_000_000, 1),
            (1_000_001, 2),
            (u64::MAX, c_int::MAX),
        ] {
            assert_eq!(milliseconds(Duration::from_nanos(nanoseconds)), expected);
        }
        assert_eq!(milliseconds(Duration::MAX), c_int::MAX);
    }

    #[test]
    fn interrupted_sleep_ends_with_nothing_ready() {
        extern "C" fn nothing(_: c_int) {}
        check_in_child(|| {
            let (one, _other) = socket::pair().unwrap();
            let every_10_ms = libc::timeval {
                tv_sec: 0,
                tv_usec: 10_000,
            };
            let setting = libc::itimerval {
                it_interval: every_10_ms,
                it_value: every_10_ms,
            };
            // SAFETY: the handler does nothing.
            unsafe { libc::signal(libc::SIGALRM, nothing as *const () as libc::sighandler_t) };
            // SAFETY: setitimer(2) reads one itimerval.
            unsafe { libc::setitimer(libc::ITIMER_REAL, &raw const setting, std::ptr::null_mut()) };
            let mut watched = [Watched::new(one.as_fd(), false)];
            wait(&mut watched, None).unwrap();
            assert!(!watched[0].ready());
        });
    }
}
