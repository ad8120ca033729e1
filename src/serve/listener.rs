//! The listening socket. It accepts connections up to a limit. When the limit is reached or no
//! descriptor is left, accepting pauses; new clients then wait in the kernel's queue.

use crate::moment::Moment;
use crate::plan::Server;
use crate::reason::reason;
use crate::sys::epoll::{Epoll, Interest};
use crate::sys::tcp;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

/// Descriptors that are not connections: stdio, epoll, signals, timer, listener, the state file
/// with its lock, directory and temporary file, a config that is being reloaded, a backend.
const RESERVED_FDS: usize = 32;

/// Connections above the limit that are accepted only to be refused with a reply.
const REJECT_SLOTS: usize = 64;

/// How long accepting pauses.
const PAUSE: Duration = Duration::from_secs(1);

/// The most connections that are accepted before the open ones are served again. The kernel's
/// queue has room for four times as many.
const MAX_ACCEPTS: usize = 1024;

/// TCP keep-alive: after `KEEPALIVE_IDLE` of silence the kernel probes the peer every
/// `KEEPALIVE_INTERVAL`, and after `KEEPALIVE_PROBES` without a reply it ends the connection.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(15);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_PROBES: u8 = 3;

/// A listening socket with a connection limit.
#[derive(Debug)]
pub(super) struct Listener {
    socket: TcpListener,
    max_connections: usize,
    paused_until: Option<Moment>,
    /// Whether a pause was reported since the last connection within the limit.
    paused_reported: bool,
}

/// The result of one accept.
#[derive(Debug)]
pub enum Accepted<S> {
    /// A connection within the limit.
    Connection(S),
    /// A connection above the limit: it is to be refused, or another one must be closed for it.
    OverLimit(S),
    /// No connection can be accepted for a while, and the reason.
    OutOfResources(String),
}

impl Listener {
    /// Listens on the planned address. `descriptors` is how many descriptors the process may have.
    pub(super) fn open(server: &Server, descriptors: u64) -> Result<Listener, String> {
        let max_connections = usize::try_from(descriptors)
            .unwrap_or(usize::MAX)
            .saturating_sub(RESERVED_FDS + REJECT_SLOTS)
            .max(1);
        let socket = listen(server).map_err(|error| cannot_listen(server, &error))?;
        Ok(Listener {
            socket,
            max_connections,
            paused_until: None,
            paused_reported: false,
        })
    }

    /// The address on which it listens.
    pub(super) fn address(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// How many connections may be open.
    pub(super) fn max_connections(&self) -> usize {
        self.max_connections
    }

    pub(super) fn watch(&self, epoll: &Epoll, key: u64) -> io::Result<()> {
        epoll.add(&self.socket, key, Interest::Read)
    }

    /// Accepts the connections that wait in the kernel's queue, while `open` connections are open.
    pub(super) fn accept_pending(&mut self, mut open: usize) -> Vec<Accepted<TcpStream>> {
        let mut accepted = Vec::new();
        for _ in 0..MAX_ACCEPTS {
            if open >= self.max_connections + REJECT_SLOTS {
                // Those above the limit may get the room of others before the next turn.
                if accepted.is_empty() {
                    let why = format!("{open} connections are open");
                    accepted.push(Accepted::OutOfResources(why));
                }
                break;
            }
            match tcp::accept(&self.socket) {
                Ok(stream) if open < self.max_connections => {
                    self.paused_reported = false;
                    accepted.push(Accepted::Connection(stream));
                }
                Ok(stream) => accepted.push(Accepted::OverLimit(stream)),
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock => break,
                    // This client has closed its connection; others may be waiting.
                    ErrorKind::ConnectionAborted | ErrorKind::Interrupted => continue,
                    _ => {
                        accepted.push(Accepted::OutOfResources(reason(&error)));
                        break;
                    }
                },
            }
            open += 1;
        }
        accepted
    }

    /// Accepts no connection for a while. Returns whether this pause is to be reported: only the
    /// first is, until a connection within the limit is accepted.
    pub(super) fn pause(&mut self, epoll: &Epoll, key: u64, now: Moment) -> io::Result<bool> {
        self.paused_until = Some(now + PAUSE);
        epoll.change(&self.socket, key, Interest::Nothing)?;
        Ok(!std::mem::replace(&mut self.paused_reported, true))
    }

    /// When the pause ends.
    pub(super) fn resumes_at(&self) -> Moment {
        self.paused_until.unwrap_or(Moment::NEVER)
    }

    /// Accepts connections again, if the pause has ended.
    pub(super) fn resume(&mut self, epoll: &Epoll, key: u64, now: Moment) -> io::Result<()> {
        match self.paused_until.take_if(|until| *until <= now) {
            Some(_) => epoll.change(&self.socket, key, Interest::Read),
            None => Ok(()),
        }
    }
}

/// Whether the address can be listened on, now or once the server that uses it has ended.
pub(super) fn check_address(server: &Server) -> Result<(), String> {
    match listen(server) {
        Err(error) if error.kind() != ErrorKind::AddrInUse => Err(cannot_listen(server, &error)),
        _ => Ok(()),
    }
}

fn cannot_listen(server: &Server, error: &io::Error) -> String {
    let address = server
        .listen
        .map_or(String::new(), |address| format!("{address} "));
    let port = server.port;
    format!("cannot listen on {address}port {port}: {}", reason(error))
}

fn listen(server: &Server) -> io::Result<TcpListener> {
    let listen = |address: IpAddr| tcp::listen(SocketAddr::new(address, server.port));
    let socket = match server.listen {
        Some(address) => listen(address),
        // The host may have no IPv6.
        None => listen(Ipv6Addr::UNSPECIFIED.into()).or_else(|error| match error.kind() {
            ErrorKind::AddrInUse => Err(error),
            _ => listen(Ipv4Addr::UNSPECIFIED.into()),
        }),
    }?;
    tcp::no_delay(&socket)?;
    tcp::keep_alive(
        &socket,
        KEEPALIVE_IDLE,
        KEEPALIVE_INTERVAL,
        KEEPALIVE_PROBES,
    )?;
    Ok(socket)
}
