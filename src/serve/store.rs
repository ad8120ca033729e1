//! The connection to the store of the holders, memcached or ZooKeeper, and its registration in the
//! epoll. A command may carry it. The names of an ensemble are looked up again while no server of it
//! is reached.

use crate::endpoint::{Endpoint, Found};
use crate::link::Link;
use crate::lock::lookups::Lookups;
use crate::moment::Moment;
use crate::pool::Target;
use crate::prepare::{HostAddresses, Lookup};
use crate::sys::clock::now;
use crate::sys::epoll::{Epoll, Interest};
use crate::sys::poll::{self, Watched};
use crate::sys::process::{self, Reap};
use crate::transport::{Address, Event, Output};
use std::fmt;
use std::io;
use std::time::Duration;

/// The connection, and the servers to which it may go.
#[derive(Debug)]
pub(super) struct Store {
    link: Link,
    servers: Servers,
    /// What the epoll wakes up for; `None`: the connection is not registered yet.
    watched: Option<Interest>,
    /// The stderr of the command that carries the connection is registered.
    watches_stderr: bool,
    /// The names of the servers among which the backend chooses.
    names: Option<Names>,
}

/// Names that are looked up again.
struct Names {
    lookup: Lookup,
    schedule: Lookups,
    /// Since when no server has been reached; `None`: one has sent something.
    unreached: Option<Moment>,
}

/// Where the connection goes.
#[derive(Debug)]
enum Servers {
    /// To the address that the backend gives.
    Chosen,
    /// To the first of these that answers.
    Listed(Addresses),
}

/// The addresses of one server. An error is reported only when none of them answers.
#[derive(Debug)]
struct Addresses {
    /// At least one.
    all: Vec<Address>,
    /// The index of the one that is tried, or that answered last.
    current: usize,
    /// How many are left to try before an error is reported.
    untried: usize,
}

impl Store {
    /// Of a backend that chooses among the servers with these names, which were looked up once. Not
    /// connected yet.
    pub(super) fn chosen(names: HostAddresses, now: Moment) -> Store {
        Store {
            names: Some(Names {
                lookup: Lookup::new(names),
                schedule: Lookups::new(now),
                unreached: Some(now),
            }),
            ..Store::new(Servers::Chosen)
        }
    }

    /// Of a server with these addresses, at least one. Not connected yet.
    pub(super) fn listed(addresses: Vec<Endpoint>) -> Store {
        let addresses = addresses.into_iter();
        Store::new(Servers::Listed(Addresses {
            all: addresses.map(|endpoint| endpoint.address).collect(),
            current: 0,
            untried: 0,
        }))
    }

    fn new(servers: Servers) -> Store {
        Store {
            link: Link::default(),
            servers,
            watched: None,
            watches_stderr: false,
            names: None,
        }
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

    /// Begins to connect. This replaces any other connection.
    fn connect(&mut self, to: Option<&Address>) -> Result<(), String> {
        match (&mut self.servers, to) {
            (Servers::Listed(addresses), None) => {
                addresses.untried = addresses.all.len();
                self.try_listed()
            }
            (_, Some(address)) => {
                if let Some(names) = &mut self.names {
                    names.unreached.get_or_insert_with(now);
                }
                self.forget_registration();
                self.link.connect(address)
            }
            (Servers::Chosen, None) => unreachable!("this backend chooses its server"),
        }
    }

    /// Begins to connect to the current address, or to one after it. The error is that of the last
    /// one.
    fn try_listed(&mut self) -> Result<(), String> {
        self.forget_registration();
        let Servers::Listed(addresses) = &mut self.servers else {
            return Ok(());
        };
        loop {
            addresses.untried -= 1;
            let begun = self.link.connect(addresses.current());
            if begun.is_ok() || addresses.untried == 0 {
                return begun;
            }
            addresses.step();
        }
    }

    fn end(&mut self, how: impl FnOnce(&mut Link)) {
        how(&mut self.link);
        self.forget_registration();
    }

    /// The kernel removes closed descriptors from the epoll.
    fn forget_registration(&mut self) {
        (self.watched, self.watches_stderr) = (None, false);
    }

    /// The descriptor is ready: reports what happened, unless another address can be tried.
    pub(super) fn ready(&mut self, mut report: impl FnMut(Event)) {
        let mut ended = None;
        let servers = &mut self.servers;
        self.link.ready(|event| match event {
            Event::Connected => {
                servers.reached();
                report(Event::Connected);
            }
            Event::Received(_) => {
                if let Some(names) = &mut self.names {
                    names.reached();
                }
                report(event);
            }
            Event::Disconnected(why) => ended = Some(why),
        });
        let Some(mut why) = ended else { return };
        if self.servers.step() {
            match self.try_listed() {
                Ok(()) => return,
                Err(last) => why = Some(last),
            }
        }
        report(Event::Disconnected(why));
    }

    /// Reaps the children that have ended. Reports the end of the connection, if one of them carried
    /// it.
    pub(super) fn reap(&mut self, mut report: impl FnMut(Event)) {
        while let Reap::Ended(child, _) = process::reap() {
            if let Some(names) = &mut self.names {
                names.lookup.reaped(child);
            }
            self.link.reaped(child, &mut report);
        }
    }

    /// Begins to look up the names of the servers if that is due, in child processes, so that nothing
    /// waits for it. Returns the addresses when that has ended.
    pub(super) fn look_up(&mut self, now: Moment) -> Option<Found> {
        self.names.as_mut()?.look_up(now)
    }

    /// When `look_up` is due. The end of a child wakes the loop, too.
    pub(super) fn look_up_due(&self) -> Moment {
        self.names.as_ref().map_or(Moment::NEVER, Names::due)
    }

    /// Lets a command pass on what was sent last. Without a command the kernel does.
    pub(super) fn part(&mut self, by: Moment) {
        self.link.part(by);
    }

    /// Registers the connection, so that the epoll wakes up for its next event.
    pub(super) fn watch(&mut self, epoll: &Epoll, key: u64) -> io::Result<()> {
        if let Some(stderr) = self.link.helper_stderr().filter(|_| !self.watches_stderr) {
            epoll.add(stderr, key, Interest::Read)?;
            self.watches_stderr = true;
        }
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

impl Names {
    /// A server has sent something.
    fn reached(&mut self) {
        self.unreached = None;
        self.schedule.reached();
    }

    fn look_up(&mut self, now: Moment) -> Option<Found> {
        if self.schedule.due(self.unreached, None) <= now {
            self.schedule.begin();
            if self.lookup.begin(now).is_err() {
                self.schedule.done(now); // no process can be started: later, perhaps
            }
        }
        let found = self.answers(now)?;
        self.schedule.done(now);
        Some(found)
    }

    /// Reads what the children have answered, without waiting for more. `Some` at the end.
    fn answers(&mut self, now: Moment) -> Option<Found> {
        while self.lookup.is_under_way() {
            let mut watched: Vec<_> = self.lookup.watched().collect();
            let _ = poll::wait(&mut watched, Some(Duration::ZERO));
            let ready: Vec<bool> = watched.iter().map(Watched::ready).collect();
            let is_silent = !ready.contains(&true);
            if let Some(found) = self.lookup.result(ready.into_iter(), now) {
                return Some(found);
            }
            if is_silent {
                break;
            }
        }
        None
    }

    fn due(&self) -> Moment {
        let next = self.schedule.due(self.unreached, None);
        next.min(self.lookup.until())
    }
}

impl fmt::Debug for Names {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.debug_struct("Names")
            .field("unreached", &self.unreached)
            .finish_non_exhaustive()
    }
}

impl Servers {
    /// A server answers.
    fn reached(&mut self) {
        if let Servers::Listed(addresses) = self {
            addresses.untried = 0;
        }
    }

    /// The connection has ended: the next one goes to the next address. Returns whether that is
    /// still to be tried before the end is reported.
    fn step(&mut self) -> bool {
        match self {
            Servers::Chosen => false,
            Servers::Listed(addresses) => {
                addresses.step();
                addresses.untried > 0
            }
        }
    }
}

impl Addresses {
    fn current(&self) -> &Address {
        &self.all[self.current]
    }

    fn step(&mut self) {
        self.current = (self.current + 1) % self.all.len();
    }
}
