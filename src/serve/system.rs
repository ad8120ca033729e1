//! What the loop of the server needs from the kernel: the only seam between them, but for the time of
//! day, which is only shown (`Date`, `/metrics`, the log). [`Linux`] is the program's. The simulation in `tests/simulation` has another one, so that it runs the same server,
//! in the same order, on simulated hosts.

use super::LISTENER;
use super::listener::{Accepted, Listener};
use super::state_file::StateFile;
use super::store::Store;
use crate::endpoint::Found;
use crate::moment::Moment;
use crate::pool::Target;
use crate::pool::state::State;
use crate::signal::Signal;
use crate::sys::epoll::{Epoll, Interest};
use crate::sys::signals::Signals;
use crate::sys::{clock, tcp};
use crate::transport::{Event, Output};
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

/// The kernel, as a server sees it.
pub trait System: Sized {
    /// Waits for all sources of events.
    type Epoll;
    /// The connection of a client.
    type Stream: Stream;
    /// Accepts connections.
    type Listener;
    /// The signals of the process.
    type Signals;
    /// The file that keeps the holders.
    type StateFile;
    /// The connection to the store.
    type Store;

    /// Reads the clock.
    fn now() -> Moment;
    /// The next signal.
    fn next_signal(signals: &Self::Signals) -> Option<Signal>;

    /// Adds a connection to the epoll.
    fn watch(
        epoll: &Self::Epoll,
        stream: &Self::Stream,
        key: u64,
        interest: Interest,
    ) -> io::Result<()>;
    /// Changes what the epoll reports of a connection.
    fn watch_for(
        epoll: &Self::Epoll,
        stream: &Self::Stream,
        key: u64,
        interest: Interest,
    ) -> io::Result<()>;

    /// Accepts the connections that wait, while `open` connections are open.
    fn accept(listener: &mut Self::Listener, open: usize) -> Vec<Accepted<Self::Stream>>;
    /// Accepts no connection for a while. Returns whether that is to be reported.
    fn pause(listener: &mut Self::Listener, epoll: &Self::Epoll) -> io::Result<bool>;
    /// When the pause ends.
    fn resumes_at(listener: &Self::Listener) -> Moment;
    /// Accepts connections again, if the pause has ended.
    fn resume(listener: &mut Self::Listener, epoll: &Self::Epoll) -> io::Result<()>;

    /// Replaces the saved state. `Err`: why it may not be saved.
    fn save(file: &Self::StateFile, state: &State) -> Result<(), String>;

    /// Does this with the connection to the store. The event is a connection that failed at once.
    fn execute(store: &mut Self::Store, output: Output<Target>) -> Option<Event<'static>>;
    /// The connection to the store is ready: reports what happened to it.
    fn read(store: &mut Self::Store, report: impl FnMut(Event));
    /// Reaps the children of the server: the commands that carry the connection, and those that look
    /// up names. The default has none.
    fn reap(_store: &mut Self::Store, _report: impl FnMut(Event)) {}
    /// Looks up the names of the servers again if that is due. Returns their addresses at the end.
    fn look_up(_store: &mut Self::Store, _now: Moment) -> Option<Found> {
        None
    }
    /// When that is due.
    fn look_up_due(_store: &Self::Store) -> Moment {
        Moment::NEVER
    }
    /// Lets a command that carries the connection pass on what was sent last, until this moment.
    fn part(_store: &mut Self::Store, _by: Moment) {}
}

/// The socket of a client's connection.
pub trait Stream: Read + Write {
    /// Closes the direction of the server.
    fn shutdown_write(&self) -> io::Result<()>;
    /// Takes the error that the connection has met, if there is one.
    fn take_error(&self) -> io::Result<Option<io::Error>>;
    /// How many bytes the peer has not acknowledged; the close of a direction counts as one.
    fn unacknowledged(&self) -> io::Result<u64>;
    /// Ends the connection when sent data is not acknowledged within `limit`.
    fn set_unacknowledged_limit(&self, limit: Duration) -> io::Result<()>;
    /// Probes a peer that has been silent for `idle`.
    fn probe_after(&self, idle: Duration) -> io::Result<()>;
    /// The address of the client.
    fn peer_address(&self) -> io::Result<SocketAddr>;
}

impl Stream for TcpStream {
    fn shutdown_write(&self) -> io::Result<()> {
        self.shutdown(Shutdown::Write)
    }

    fn take_error(&self) -> io::Result<Option<io::Error>> {
        TcpStream::take_error(self)
    }

    fn unacknowledged(&self) -> io::Result<u64> {
        tcp::unacknowledged(self)
    }

    fn set_unacknowledged_limit(&self, limit: Duration) -> io::Result<()> {
        tcp::set_unacknowledged_limit(self, limit)
    }

    fn probe_after(&self, idle: Duration) -> io::Result<()> {
        tcp::probe_after(self, idle)
    }

    fn peer_address(&self) -> io::Result<SocketAddr> {
        self.peer_addr()
    }
}

/// The kernel.
#[derive(Debug)]
pub(super) struct Linux;

impl System for Linux {
    type Epoll = Epoll;
    type Stream = TcpStream;
    type Listener = Listener;
    type Signals = Signals;
    type StateFile = StateFile;
    type Store = Store;

    fn now() -> Moment {
        clock::now()
    }

    fn next_signal(signals: &Signals) -> Option<Signal> {
        signals.next().map(|received| received.signal)
    }

    fn watch(epoll: &Epoll, stream: &TcpStream, key: u64, interest: Interest) -> io::Result<()> {
        epoll.add(stream, key, interest)
    }

    fn watch_for(
        epoll: &Epoll,
        stream: &TcpStream,
        key: u64,
        interest: Interest,
    ) -> io::Result<()> {
        epoll.change(stream, key, interest)
    }

    fn accept(listener: &mut Listener, open: usize) -> Vec<Accepted<TcpStream>> {
        listener.accept_pending(open)
    }

    fn pause(listener: &mut Listener, epoll: &Epoll) -> io::Result<bool> {
        listener.pause(epoll, LISTENER, clock::now())
    }

    fn resumes_at(listener: &Listener) -> Moment {
        listener.resumes_at()
    }

    fn resume(listener: &mut Listener, epoll: &Epoll) -> io::Result<()> {
        listener.resume(epoll, LISTENER, clock::now())
    }

    fn save(file: &StateFile, state: &State) -> Result<(), String> {
        file.save(state)
    }

    fn execute(store: &mut Store, output: Output<Target>) -> Option<Event<'static>> {
        store.execute(output)
    }

    fn read(store: &mut Store, report: impl FnMut(Event)) {
        store.ready(report);
    }

    fn reap(store: &mut Store, report: impl FnMut(Event)) {
        store.reap(report);
    }

    fn look_up(store: &mut Store, now: Moment) -> Option<Found> {
        store.look_up(now)
    }

    fn look_up_due(store: &Store) -> Moment {
        store.look_up_due()
    }

    fn part(store: &mut Store, by: Moment) {
        store.part(by);
    }
}
