//! One non-blocking TCP connection, with its outgoing bytes. It decides nothing: what happens to it
//! is told as the lock's inputs.

use crate::lock::Input;
use crate::sys::poll::Watched;
use crate::sys::{reason, socket, tcp};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

/// What one read takes at most; replies are far smaller.
const READ: usize = 16 << 10;

/// Silence after which a peer is asked whether it is there, time between questions, and how many of
/// them may go unanswered: the server does the same.
const PROBE_AFTER: Duration = Duration::from_secs(15);
const PROBE_EVERY: Duration = Duration::from_secs(5);
const PROBES: u8 = 3;

/// How long what was sent may go unacknowledged: as long as all of that takes.
const UNACKNOWLEDGED: Duration = Duration::from_secs(30);

/// How far a connection is.
#[derive(Debug, Default)]
enum State {
    #[default]
    Closed,
    Connecting(TcpStream),
    Open(TcpStream),
}

/// A connection, or the want of one: none yet.
#[derive(Debug, Default)]
pub struct Link {
    state: State,
    /// Not yet taken by the kernel. Bounded by what a session has unanswered.
    outgoing: Vec<u8>,
    /// Have the kernel find out if the peer is there while nothing is said, and break off
    /// connections that are not closed.
    watching: bool,
}

impl Link {
    /// For who may have to wait for long without a word: a peer that is switched off, or cut off,
    /// is noticed all the same; and if we end while it has something of ours to do, or had not
    /// heard of it yet, it leaves that undone.
    #[must_use]
    pub fn watching_the_peer(self) -> Link {
        Link {
            watching: true,
            ..self
        }
    }

    /// Begins to connect to this address, in place of any other connection.
    pub fn connect(&mut self, address: SocketAddr) -> Result<(), String> {
        self.close();
        let stream = socket::connect(address).map_err(|error| reason(&error))?;
        if self.watching {
            // Where that cannot be had, a peer that says good-bye must do.
            let _ = tcp::keep_alive(&stream, PROBE_AFTER, PROBE_EVERY, PROBES)
                .and_then(|()| tcp::set_unacknowledged_limit(&stream, UNACKNOWLEDGED))
                .and_then(|()| tcp::reset_on_close(&stream, true));
        }
        self.state = State::Connecting(stream);
        Ok(())
    }

    /// Sends bytes, as far as the kernel takes them now; the rest follows when there is room.
    pub fn send(&mut self, bytes: &[u8]) {
        self.outgoing.extend_from_slice(bytes);
        // What goes wrong here is seen again, and told, by the next read.
        let _ = self.flush();
    }

    /// Tells the peer that nothing more will be sent. What it sends still comes.
    pub fn finish(&mut self) {
        if let State::Open(stream) = &self.state {
            let _ = stream.shutdown(Shutdown::Write);
        }
    }

    /// Closes the connection after what was sent, as far as there is room for it.
    pub fn close(&mut self) {
        if let State::Open(stream) | State::Connecting(stream) = &self.state {
            let _ = tcp::reset_on_close(stream, false);
            let _ = stream.shutdown(Shutdown::Write);
        }
        self.drop_connection();
    }

    /// Breaks the connection off.
    pub fn abandon(&mut self) {
        if let State::Open(stream) | State::Connecting(stream) = &self.state {
            let _ = tcp::reset_on_close(stream, true);
        }
        self.drop_connection();
    }

    fn drop_connection(&mut self) {
        self.state = State::Closed;
        self.outgoing.clear();
    }

    /// To be watched in poll, if there is a connection.
    pub fn watched(&self) -> Option<Watched<'_>> {
        self.wanted().map(|(fd, write)| Watched::new(fd, write))
    }

    /// What to wake up for, if there is a connection: something to read, and perhaps room to write.
    pub fn wanted(&self) -> Option<(BorrowedFd<'_>, bool)> {
        match &self.state {
            State::Closed => None,
            State::Connecting(stream) => Some((stream.as_fd(), true)),
            State::Open(stream) => Some((stream.as_fd(), !self.outgoing.is_empty())),
        }
    }

    /// The connection has news: hands them on, one input after another, as far as they go without
    /// waiting.
    pub fn ready(&mut self, mut tell: impl FnMut(Input)) {
        if let State::Connecting(stream) = &self.state
            && let Err(error) = socket::connected(stream)
        {
            self.state = State::Closed;
            return tell(Input::Disconnected(Some(reason(&error))));
        }
        match std::mem::replace(&mut self.state, State::Closed) {
            State::Closed => {}
            State::Connecting(stream) => {
                self.state = State::Open(stream);
                tell(Input::Connected);
            }
            State::Open(mut stream) => {
                let read = read(&mut stream, &mut tell);
                self.state = State::Open(stream);
                if let Err(why) =
                    read.and_then(|()| self.flush().map_err(|error| Some(reason(&error))))
                {
                    self.close();
                    tell(Input::Disconnected(why));
                }
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        let State::Open(stream) = &mut self.state else {
            return Ok(());
        };
        while !self.outgoing.is_empty() {
            match stream.write(&self.outgoing) {
                Ok(written) => drop(self.outgoing.drain(..written)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Reads once. The error is the end of the connection, and why if the network says so.
fn read(stream: &mut TcpStream, tell: &mut impl FnMut(Input)) -> Result<(), Option<String>> {
    let mut bytes = [0; READ];
    match stream.read(&mut bytes) {
        Ok(0) => return Err(None),
        Ok(length) => tell(Input::Received(&bytes[..length])),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
        Err(error) => return Err(Some(reason(&error))),
    }
    Ok(())
}
