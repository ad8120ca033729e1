//! The connection to a memcached, and its place in the epoll. Which address of it is talked to is
//! nobody else's business: one that does not answer is told only when none does.

use crate::link::Link;
use crate::lock;
use crate::moment::Moment;
use crate::plan::Host;
use crate::pool::Input;
use crate::prepare::{self, Names};
use crate::sys::epoll::{Epoll, Interest};
use crate::sys::reason;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

/// How long its name is looked up at the start, if it is not known yet: systemd gives up a unit
/// that fails five times within 10 s, and name servers may be reached later than that at boot.
const LOOK_UP: Duration = Duration::from_secs(10);

/// See above.
#[derive(Debug)]
pub(super) struct Memcached {
    link: Link,
    /// At least one.
    addresses: Vec<SocketAddr>,
    /// The one that is tried, or answered last.
    address: usize,
    /// So many are left to try before it is said that none answers.
    untried: usize,
    /// What the epoll wakes up for; `None`: it does not know the connection yet.
    watched: Option<Interest>,
}

impl Memcached {
    /// Not connected yet.
    pub(super) fn find(host: &Host, now: Moment) -> Result<Memcached, String> {
        let mut names = Names::new(std::slice::from_ref(host));
        let found = prepare::resolve_patiently(&mut names, None, now + LOOK_UP);
        let (found, _) =
            found.map_err(|error| format!("cannot look up {host}: {}", reason(&error)))?;
        if found.endpoints.is_empty() {
            return Err(format!(
                "cannot reach memcached: {}",
                found.unresolved.join("; ")
            ));
        }
        let addresses = found
            .endpoints
            .into_iter()
            .map(|endpoint| endpoint.address)
            .collect();
        Ok(Memcached {
            addresses,
            link: Link::default(),
            address: 0,
            untried: 0,
            watched: None,
        })
    }

    /// Begins to connect, in place of any other connection.
    pub(super) fn connect(&mut self) -> Result<(), String> {
        self.untried = self.addresses.len();
        self.try_address()
    }

    fn try_address(&mut self) -> Result<(), String> {
        self.untried -= 1;
        self.watched = None;
        match self.link.connect(self.addresses[self.address]) {
            Err(_) if self.untried > 0 => self.try_next(),
            connecting => connecting,
        }
    }

    fn try_next(&mut self) -> Result<(), String> {
        self.address = (self.address + 1) % self.addresses.len();
        self.try_address()
    }

    pub(super) fn send(&mut self, bytes: &[u8]) {
        self.link.send(bytes);
    }

    pub(super) fn close(&mut self) {
        self.link.close();
        self.watched = None;
    }

    /// It has news: hands them on.
    pub(super) fn ready(&mut self, mut tell: impl FnMut(Input)) {
        let mut ended = None;
        let untried = &mut self.untried;
        self.link.ready(|input| match input {
            lock::Input::Connected => {
                *untried = 0;
                tell(Input::Connected);
            }
            lock::Input::Received(bytes) => tell(Input::Received(bytes)),
            lock::Input::Disconnected(why) => ended = Some(why),
            _ => {} // a link knows no others
        });
        let Some(mut why) = ended else { return };
        if self.untried > 0 {
            match self.try_next() {
                Ok(()) => return,
                Err(last) => why = Some(last),
            }
        }
        self.address = (self.address + 1) % self.addresses.len();
        tell(Input::Disconnected(why));
    }

    /// Has the epoll wake up for what is to come.
    pub(super) fn watch(&mut self, epoll: &Epoll, key: u64) -> io::Result<()> {
        let Some((fd, write)) = self.link.wanted() else {
            return Ok(());
        };
        let interest = if write {
            Interest::Both
        } else {
            Interest::Read
        };
        match self.watched.replace(interest) {
            None => epoll.add(fd, key, interest),
            Some(before) if before != interest => epoll.change(fd, key, interest),
            Some(_) => Ok(()),
        }
    }
}
