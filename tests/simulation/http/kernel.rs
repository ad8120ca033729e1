//! The kernel, as a simulated server sees it.

use super::super::{ConnId, Link, Simulated, with};
use super::process::own_server;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::time::Duration;
use zk_flock::internals::endpoint::Address;
use zk_flock::internals::moment::Moment;
use zk_flock::internals::run::System as _;
use zk_flock::internals::serve::{Accepted, State, Stream, System, Target};
use zk_flock::internals::signal::Signal;
use zk_flock::internals::sys::Interest;
use zk_flock::internals::transport::{Event, Output};

/// The system of a simulated server.
pub struct Kernel;

/// The server whose listening socket, signals or state file this is.
pub struct Listener(pub usize);
pub struct Signals(pub usize);
pub struct StateFile(pub usize);

/// The connection of a server to memcached, or to the ensemble, which has chosen its address.
pub struct ToMemcached {
    /// That of memcached.
    pub address: Address,
    pub link: Link,
}

/// The socket of a client's connection.
#[derive(Debug)]
pub struct Socket(ConnId);

impl Drop for Socket {
    fn drop(&mut self) {
        with(|world| world.close_end(self.0));
    }
}

impl Read for Socket {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        with(|world| world.read_from_client(self.0, into))
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        with(|world| world.send_to_client(self.0, bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Stream for Socket {
    fn shutdown_write(&self) -> io::Result<()> {
        with(|world| world.close_write(self.0))
    }

    fn take_error(&self) -> io::Result<Option<io::Error>> {
        Ok(with(|world| world.take_stream_error(self.0)))
    }

    fn unacknowledged(&self) -> io::Result<u64> {
        Ok(with(|world| world.unacknowledged(self.0)))
    }

    fn set_unacknowledged_limit(&self, limit: Duration) -> io::Result<()> {
        with(|world| world.limit_unacknowledged(self.0, limit));
        Ok(())
    }

    fn probe_after(&self, idle: Duration) -> io::Result<()> {
        with(|world| world.probe_after(self.0, idle));
        Ok(())
    }

    fn peer_address(&self) -> io::Result<SocketAddr> {
        Ok((
            [10, 1, 0, 1],
            u16::try_from(self.0 % 60_000).expect("a port"),
        )
            .into())
    }
}

impl System for Kernel {
    type Epoll = ();
    type Stream = Socket;
    type Listener = Listener;
    type Signals = Signals;
    type StateFile = StateFile;
    type Store = ToMemcached;

    fn now() -> Moment {
        let server = own_server();
        with(|world| world.server_clock(server))
    }

    fn next_signal(signals: &Signals) -> Option<Signal> {
        with(|world| world.http().servers[signals.0].signals.pop_front())
    }

    fn watch((): &(), socket: &Socket, key: u64, interest: Interest) -> io::Result<()> {
        with(|world| world.watch(socket.0, key, interest));
        Ok(())
    }

    fn watch_for((): &(), socket: &Socket, key: u64, interest: Interest) -> io::Result<()> {
        with(|world| world.watch(socket.0, key, interest));
        Ok(())
    }

    fn accept(listener: &mut Listener, _: usize) -> Vec<Accepted<Socket>> {
        let accepted = with(|world| world.take_backlog(listener.0));
        let sockets = accepted.into_iter().map(Socket);
        sockets.map(Accepted::Connection).collect()
    }

    fn pause(_: &mut Listener, (): &()) -> io::Result<bool> {
        Ok(false)
    }

    fn resumes_at(_: &Listener) -> Moment {
        Moment::NEVER
    }

    fn resume(_: &mut Listener, (): &()) -> io::Result<()> {
        Ok(())
    }

    fn save(file: &StateFile, state: &State) -> Result<(), String> {
        with(|world| world.save(file.0, state))
    }

    fn execute(memcached: &mut ToMemcached, output: Output<Target>) -> Option<Event<'static>> {
        let output = match output {
            Output::Connect(to) => Output::Connect(to.unwrap_or_else(|| memcached.address.clone())),
            Output::Send(bytes) => Output::Send(bytes),
            Output::ShutdownWrite => Output::ShutdownWrite,
            Output::Close => Output::Close,
            Output::Reset => Output::Reset,
        };
        Simulated::execute(&mut memcached.link, output)
    }

    fn read(memcached: &mut ToMemcached, report: impl FnMut(Event)) {
        Simulated::read(&mut memcached.link, report);
    }
}
