//! epoll(7): waiting on a large number of descriptors. Like [`poll`](super::poll), the only place
//! where its program sleeps, and where EINTR is handled.

use super::{check, opened};
use std::ffi::c_int;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

/// Maximum number of events that one wait returns; the next wait returns the rest.
const AT_ONCE: usize = 1024;

/// A set of watched descriptors. The kernel removes one that is closed.
#[derive(Debug)]
pub struct Epoll {
    fd: OwnedFd,
    events: Vec<libc::epoll_event>,
}

/// The conditions to wake up for. Errors, and the end of both directions, always wake.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum Interest {
    /// Data to read, or end of stream.
    Read,
    /// The peer has closed its sending direction, even if data is still unread.
    HangUp,
    /// Room to write.
    Write,
    /// `Read` and `Write`.
    Both,
    /// Errors and the end of both directions only.
    Nothing,
    /// The same, edge-triggered: reported only when it changes.
    Change,
}

/// One event of a descriptor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub struct Event {
    /// The key that the descriptor was added with.
    pub key: u64,
    /// An error occurred, or both directions have ended.
    pub ended: bool,
}

impl Epoll {
    /// Creates an empty set.
    pub fn new() -> io::Result<Epoll> {
        // SAFETY: epoll_create1(2) touches no memory.
        let fd = opened(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        Ok(Epoll {
            fd,
            events: Vec::with_capacity(AT_ONCE),
        })
    }

    /// Adds a descriptor under `key`.
    pub fn add(&self, fd: impl AsFd, key: u64, interest: Interest) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, &fd, key, interest)
    }

    /// Changes the interest of a descriptor.
    pub fn change(&self, fd: impl AsFd, key: u64, interest: Interest) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_MOD, &fd, key, interest)
    }

    fn control(
        &self,
        operation: c_int,
        fd: &impl AsFd,
        key: u64,
        interest: Interest,
    ) -> io::Result<()> {
        let events = match interest {
            Interest::Read => libc::EPOLLIN | libc::EPOLLRDHUP,
            Interest::HangUp => libc::EPOLLRDHUP,
            Interest::Write => libc::EPOLLOUT,
            Interest::Both => libc::EPOLLIN | libc::EPOLLRDHUP | libc::EPOLLOUT,
            Interest::Nothing => 0,
            Interest::Change => libc::EPOLLET,
        };
        let mut event = libc::epoll_event {
            events: events.cast_unsigned(),
            u64: key,
        };
        // SAFETY: epoll_ctl(2) reads one event.
        check(unsafe {
            libc::epoll_ctl(
                self.fd.as_raw_fd(),
                operation,
                fd.as_fd().as_raw_fd(),
                &raw mut event,
            )
        })?;
        Ok(())
    }

    /// Sleeps until there are events, for `limit` at most, and returns them. The list may be empty,
    /// e.g. after a signal: the caller continues its loop.
    pub fn wait(&mut self, limit: Option<Duration>) -> io::Result<Vec<Event>> {
        self.events.clear();
        let limit = limit.map_or(-1, super::poll::milliseconds);
        let room = c_int::try_from(self.events.capacity()).unwrap_or(c_int::MAX);
        // SAFETY: epoll_wait(2) writes at most as many events as fit.
        match check(unsafe {
            libc::epoll_wait(self.fd.as_raw_fd(), self.events.as_mut_ptr(), room, limit)
        }) {
            // SAFETY: epoll_wait has written `count` events.
            Ok(count) => unsafe { self.events.set_len(usize::try_from(count).unwrap_or(0)) },
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        let ended = (libc::EPOLLERR | libc::EPOLLHUP).cast_unsigned();
        Ok(self
            .events
            .iter()
            .map(|event| Event {
                key: event.u64,
                ended: event.events & ended != 0,
            })
            .collect())
    }
}

#[cfg(test)]
mod tests {
    use super::super::socket;
    use super::*;

    const SOON: Option<Duration> = Some(Duration::from_secs(20));
    const NOW: Option<Duration> = Some(Duration::ZERO);

    fn events(epoll: &mut Epoll, limit: Option<Duration>) -> Vec<Event> {
        epoll.wait(limit).unwrap()
    }

    #[test]
    fn only_events_of_interest_are_reported_until_handled() {
        let mut epoll = Epoll::new().unwrap();
        let (one, other) = socket::pair().unwrap();
        let something = [Event {
            key: 7,
            ended: false,
        }];
        epoll.add(&one, 7, Interest::Read).unwrap();
        assert_eq!(events(&mut epoll, NOW), []);
        socket::send(&other, b"a").unwrap();
        for (interest, expected) in [
            (Interest::Read, &something[..]),
            (Interest::HangUp, &[]),
            (Interest::Nothing, &[]),
            (Interest::Write, &something),
            (Interest::Read, &something),
        ] {
            epoll.change(&one, 7, interest).unwrap();
            assert_eq!(events(&mut epoll, NOW), expected, "{interest:?}");
        }
        drop(one);
        assert_eq!(events(&mut epoll, NOW), []);
    }

    #[test]
    fn end_of_both_directions_is_reported_with_any_interest() {
        for interest in [
            Interest::Nothing,
            Interest::HangUp,
            Interest::Read,
            Interest::Write,
            Interest::Change,
        ] {
            let mut epoll = Epoll::new().unwrap();
            let (one, other) = socket::pair().unwrap();
            epoll.add(&one, 1, interest).unwrap();
            drop(other);
            assert_eq!(
                events(&mut epoll, SOON),
                [Event {
                    key: 1,
                    ended: true
                }],
                "{interest:?}"
            );
            let again = usize::from(interest != Interest::Change);
            assert_eq!(events(&mut epoll, NOW).len(), again, "{interest:?}");
        }
    }
}
