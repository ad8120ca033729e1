//! The socket of a connection: TCP, or a unix socket, which may be that of a helper command.

use crate::sys::{socket, tcp};
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// Keep-alive: idle time before the first probe, time between probes, and how many may go
/// unanswered. The server has the same values.
const PROBE_AFTER: Duration = Duration::from_secs(15);
const PROBE_EVERY: Duration = Duration::from_secs(5);
const PROBES: u8 = 3;

/// How long sent bytes may go unacknowledged: as long as all probes take.
const UNACKNOWLEDGED: Duration = Duration::from_secs(30);

/// A non-blocking socket.
#[derive(Debug)]
pub(super) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    /// Begins to connect. Once poll finds the socket writable, `connected` returns the result.
    pub(super) fn connect_tcp(address: SocketAddr) -> io::Result<Stream> {
        socket::connect(address).map(Stream::Tcp)
    }

    /// The same with a unix socket.
    pub(super) fn connect_unix(path: &Path) -> io::Result<Stream> {
        socket::connect_unix(path).map(Stream::Unix)
    }

    /// The result of a connect that was begun.
    pub(super) fn connected(&self) -> io::Result<()> {
        match self {
            Stream::Tcp(stream) => socket::connected(stream),
            Stream::Unix(_) => Ok(()), // it was connected when `connect` returned
        }
    }

    /// Notices a peer that is switched off or cut off, also while the connection is idle, and resets
    /// a connection that this process leaves open. A peer on this host is noticed anyway.
    pub(super) fn watch_the_peer(&self) {
        if let Stream::Tcp(stream) = self {
            // Without these options, only a peer that closes its connection is noticed.
            let _ = tcp::keep_alive(stream, PROBE_AFTER, PROBE_EVERY, PROBES)
                .and_then(|()| tcp::set_unacknowledged_limit(stream, UNACKNOWLEDGED))
                .and_then(|()| tcp::reset_on_close(stream, true));
        }
    }

    /// Whether the kernel drops bytes that have not arrived when the connection is closed. It always
    /// delivers those of a unix socket.
    pub(super) fn reset_on_close(&self, reset: bool) {
        if let Stream::Tcp(stream) = self {
            let _ = tcp::reset_on_close(stream, reset);
        }
    }

    pub(super) fn shutdown_write(&self) {
        let _ = match self {
            Stream::Tcp(stream) => stream.shutdown(Shutdown::Write),
            Stream::Unix(stream) => stream.shutdown(Shutdown::Write),
        };
    }

    pub(super) fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => stream.read(bytes),
            Stream::Unix(stream) => stream.read(bytes),
        }
    }

    /// Writes as much as there is room for. A closed peer is an error, and no signal.
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => stream.write(bytes),
            Stream::Unix(stream) => socket::write(stream, bytes),
        }
    }

    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Stream::Tcp(stream) => stream.as_fd(),
            Stream::Unix(stream) => stream.as_fd(),
        }
    }
}
