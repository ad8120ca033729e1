//! The connection to a memcached, and its registration in the epoll. The name may have several
//! addresses: an error is reported only when none of them answers.

use crate::link::Link;
use crate::moment::Moment;
use crate::plan::{Connection, Host};
use crate::pool::Target;
use crate::prepare::{self, HostAddresses};
use crate::reason::reason;
use crate::sys::epoll::{Epoll, Interest};
use crate::transport::{Address, Event, Output};
use std::io;
use std::time::Duration;

/// How long the look-up of its name may take at the start: systemd gives up a unit that fails five
/// times within 10 s, and name servers may be reached later than that at boot.
pub(super) const LOOK_UP: Duration = Duration::from_secs(10);

/// See above.
#[derive(Debug)]
pub(super) struct Memcached {
    link: Link,
    /// Those of the config's server: at least one. Empty if the backend chooses the address.
    addresses: Vec<Address>,
    /// The index of the one that is tried, or that answered last.
    address: usize,
    /// How many are left to try before an error is reported.
    untried: usize,
    /// What the epoll wakes up for; `None`: the connection is not registered yet.
    watched: Option<Interest>,
}

impl Memcached {
    /// Of a backend that chooses its server itself. Not connected yet.
    pub(super) fn chosen() -> Memcached {
        Memcached {
            link: Link::default(),
            addresses: Vec::new(),
            address: 0,
            untried: 0,
            watched: None,
        }
    }

    /// Not connected yet.
    pub(super) fn find(host: &Host, now: Moment) -> Result<Memcached, String> {
        let mut names = HostAddresses::new(std::slice::from_ref(host), &Connection::Direct);
        let found = prepare::resolve_with_retries(&mut names, None, now + LOOK_UP);
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

    /// Does what the backend wants done. The event is a connection that failed at once.
    pub(super) fn execute(&mut self, output: Output<Target>) -> Option<Event<'static>> {
        match output {
            Output::Connect(to) => {
                let failed = self.connect(to.as_ref()).err()?;
                return Some(Event::Disconnected(Some(failed)));
            }
            Output::Send(bytes) => self.link.send(&bytes),
            Output::ShutdownWrite => self.link.shutdown_write(),
            Output::Close => self.end(Link::close),
            Output::Reset => self.end(Link::reset),
        }
        None
    }

    /// Begins to connect to this address, or to one address after another. This replaces any other
    /// connection.
    fn connect(&mut self, to: Option<&Address>) -> Result<(), String> {
        if let Some(address) = to {
            (self.untried, self.watched) = (0, None);
            return self.link.connect(address);
        }
        self.untried = self.addresses.len();
        self.try_address()
    }

    fn try_address(&mut self) -> Result<(), String> {
        self.untried -= 1;
        self.watched = None;
        match self.link.connect(&self.addresses[self.address]) {
            Err(_) if self.untried > 0 => self.try_next(),
            connecting => connecting,
        }
    }

    fn try_next(&mut self) -> Result<(), String> {
        self.address = (self.address + 1) % self.addresses.len();
        self.try_address()
    }

    fn end(&mut self, how: impl FnOnce(&mut Link)) {
        how(&mut self.link);
        self.watched = None;
    }

    /// The descriptor is ready: reports what happened, unless another address can be tried.
    pub(super) fn ready(&mut self, mut report: impl FnMut(Event)) {
        let mut ended = None;
        let untried = &mut self.untried;
        self.link.ready(|event| match event {
            Event::Connected => {
                *untried = 0;
                report(Event::Connected);
            }
            Event::Received(_) => report(event),
            Event::Disconnected(why) => ended = Some(why),
        });
        let Some(mut why) = ended else { return };
        if self.untried > 0 {
            match self.try_next() {
                Ok(()) => return,
                Err(last) => why = Some(last),
            }
        }
        self.address = (self.address + 1) % self.addresses.len().max(1);
        report(Event::Disconnected(why));
    }

    /// Registers the connection, so that the epoll wakes up for its next event.
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
