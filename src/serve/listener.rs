//! Where connections come in, and how many may. When there is no room or no descriptor for one
//! more, the door is closed for a while: those who knock wait in the kernel's queue.

use crate::moment::Moment;
use crate::plan::Server;
use crate::reason::reason;
use crate::sys::epoll::{Epoll, Interest};
use crate::sys::tcp;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

/// Descriptors that are no connections: stdio, epoll, signals, timer, listener, the state with its
/// lock, folder and draft, a config that is read again, a backend.
const OTHERS: usize = 32;

/// Connections that are made only to be told that there are too many.
const TURNED_AWAY: usize = 64;

/// How long the door stays closed.
const CLOSED: Duration = Duration::from_secs(1);

/// The most that come in between two looks at those who are in: the kernel has room for four times
/// as many.
const AT_ONCE: usize = 1024;

/// A peer that is silent for `KEEP_ALIVE` is asked whether it is there every `PROBE`, and after
/// `PROBES` without an answer it is gone.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
const PROBE: Duration = Duration::from_secs(5);
const PROBES: u8 = 3;

/// See above.
#[derive(Debug)]
pub(super) struct Door {
    listener: TcpListener,
    most: usize,
    closed_until: Option<Moment>,
    /// Whether nobody has come in since it was closed.
    short: bool,
}

/// Who has knocked.
pub(super) enum Caller {
    /// Somebody who may come in.
    Guest(TcpStream),
    /// Somebody for whom there is no room.
    Surplus(TcpStream),
    /// Nobody can come in for a while: why.
    Shortage(String),
}

impl Door {
    /// Listens where the plan says, with so many descriptors for everything.
    pub(super) fn open(server: &Server, descriptors: u64) -> Result<Door, String> {
        let most = usize::try_from(descriptors)
            .unwrap_or(usize::MAX)
            .saturating_sub(OTHERS + TURNED_AWAY)
            .max(1);
        let listen = |address: IpAddr| tcp::listen(SocketAddr::new(address, server.port));
        let listening = match server.listen {
            Some(address) => listen(address),
            // A host may be without IPv6.
            None => listen(Ipv6Addr::UNSPECIFIED.into()).or_else(|error| match error.kind() {
                ErrorKind::AddrInUse => Err(error),
                _ => listen(Ipv4Addr::UNSPECIFIED.into()),
            }),
        };
        let ready = listening.and_then(|listener| {
            tcp::no_delay(&listener)?;
            tcp::keep_alive(&listener, KEEP_ALIVE, PROBE, PROBES)?;
            Ok(listener)
        });
        let listener = ready.map_err(|error| {
            let place = server
                .listen
                .map_or(String::new(), |address| format!("{address} "));
            format!(
                "cannot listen on {place}port {}: {}",
                server.port,
                reason(&error)
            )
        })?;
        Ok(Door {
            listener,
            most,
            closed_until: None,
            short: false,
        })
    }

    /// Where it listens.
    pub(super) fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// How many connections may be open.
    pub(super) fn most(&self) -> usize {
        self.most
    }

    pub(super) fn watch(&self, epoll: &Epoll, key: u64) -> io::Result<()> {
        epoll.add(&self.listener, key, Interest::Read)
    }

    /// Those who come in now, when so many are in.
    pub(super) fn callers(&mut self, mut inside: usize) -> Vec<Caller> {
        let mut callers = Vec::new();
        for _ in 0..AT_ONCE {
            if inside >= self.most + TURNED_AWAY {
                callers.push(Caller::Shortage(format!("{inside} connections are open")));
                break;
            }
            match tcp::accept(&self.listener) {
                Ok(stream) if inside < self.most => callers.push(Caller::Guest(stream)),
                Ok(stream) => callers.push(Caller::Surplus(stream)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                // Whoever it was has gone again; there may be others.
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::ConnectionAborted | ErrorKind::Interrupted
                    ) =>
                {
                    continue;
                }
                Err(error) => {
                    callers.push(Caller::Shortage(reason(&error)));
                    break;
                }
            }
            inside += 1;
        }
        self.short &= !callers
            .iter()
            .any(|caller| matches!(caller, Caller::Guest(_)));
        callers
    }

    /// Lets nobody in for a while; whether that is news.
    pub(super) fn close(&mut self, epoll: &Epoll, key: u64, now: Moment) -> io::Result<bool> {
        self.closed_until = Some(now + CLOSED);
        epoll.change(&self.listener, key, Interest::Nothing)?;
        Ok(!std::mem::replace(&mut self.short, true))
    }

    /// When it opens again.
    pub(super) fn wake(&self) -> Moment {
        self.closed_until.unwrap_or(Moment::NEVER)
    }

    /// Opens it again, if it is time.
    pub(super) fn reopen(&mut self, epoll: &Epoll, key: u64, now: Moment) -> io::Result<()> {
        match self.closed_until.take_if(|until| *until <= now) {
            Some(_) => epoll.change(&self.listener, key, Interest::Read),
            None => Ok(()),
        }
    }
}
