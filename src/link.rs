//! One non-blocking connection, with its outgoing bytes. It carries out the outputs of a state
//! machine and reports what happens as transport events; it decides nothing.

mod helper;
mod helper_words;
mod stream;

use crate::moment::Moment;
use crate::reason::reason;
use crate::signal::Signal;
use crate::sys::clock::now;
use crate::sys::poll::{self, Watched};
use crate::sys::process::Pid;
use crate::transport::{Address, Event, Output};
use helper::Helpers;
use std::io::{self, ErrorKind};
use std::os::fd::BorrowedFd;
use stream::Stream;

/// Bytes of one read; replies are far smaller.
const READ: usize = 16 << 10;

/// The state of a connection.
#[derive(Debug, Default)]
enum State {
    #[default]
    Closed,
    Connecting(Stream),
    Open(Stream),
    /// The stream of a helper command has ended, and its reason is awaited.
    Ending,
}

/// A connection, if there is one.
#[derive(Debug, Default)]
pub struct Link {
    state: State,
    helpers: Helpers,
    /// Bytes that the kernel has not taken yet, at most what a session has unanswered.
    outgoing: Vec<u8>,
    /// The kernel probes the peer while the connection is idle, and resets a connection that this
    /// process leaves open.
    watching: bool,
}

impl Link {
    /// For a connection that may be idle for long: it notices a peer that is switched off or cut
    /// off. If this process ends while a request is under way, the peer gets a reset, and does not
    /// carry the request out.
    #[must_use]
    pub fn watching_the_peer(self) -> Link {
        Link {
            watching: true,
            ..self
        }
    }

    /// Does what a machine wants done. The event is a connection that failed at once.
    pub fn execute(&mut self, output: Output) -> Option<Event<'static>> {
        match output {
            Output::Connect(address) => {
                let failed = self.connect(&address).err()?;
                return Some(Event::Disconnected(Some(failed)));
            }
            Output::Send(bytes) => self.send(&bytes),
            Output::ShutdownWrite => self.shutdown_write(),
            Output::Close => self.close(),
            Output::Reset => self.reset(),
        }
        None
    }

    /// Begins to connect to this address. This replaces any other connection.
    pub fn connect(&mut self, address: &Address) -> Result<(), String> {
        self.close();
        let stream = match address {
            Address::Tcp(address) => Stream::connect_tcp(*address),
            Address::Unix(path) => Stream::connect_unix(path),
            Address::Command(words) => self.helpers.start(words).map(Stream::Unix),
        };
        let stream = stream.map_err(|error| reason(&error))?;
        if self.watching {
            stream.watch_the_peer();
        }
        self.state = State::Connecting(stream);
        Ok(())
    }

    /// Sends bytes, as many as the kernel takes now; the rest follows when there is room.
    pub fn send(&mut self, bytes: &[u8]) {
        self.outgoing.extend_from_slice(bytes);
        // The next read reports an error that this write meets.
        let _ = self.flush();
    }

    /// Tells the peer that nothing more will be sent. What the peer sends is still received.
    pub fn shutdown_write(&mut self) {
        if let State::Open(stream) = &self.state {
            stream.shutdown_write();
        }
    }

    /// Closes the connection after the bytes that were sent, as far as there is room for them.
    pub fn close(&mut self) {
        if let State::Open(stream) | State::Connecting(stream) = &self.state {
            stream.reset_on_close(false);
            stream.shutdown_write();
        }
        self.helpers.hang_up(Signal::TERM);
        self.drop_connection();
    }

    /// Breaks the connection off: bytes that have not arrived yet never do.
    pub fn reset(&mut self) {
        if let State::Open(stream) | State::Connecting(stream) = &self.state {
            stream.reset_on_close(true);
        }
        self.helpers.hang_up(Signal::KILL);
        self.drop_connection();
    }

    fn drop_connection(&mut self) {
        self.state = State::Closed;
        self.outgoing.clear();
    }

    /// Whether there is a connection.
    pub fn is_connected(&self) -> bool {
        !matches!(self.state, State::Closed)
    }

    /// The descriptors for poll, if there is a connection: its own, and the stderr of its helper.
    pub fn watched(&self) -> impl Iterator<Item = Watched<'_>> {
        let own = self.wanted().map(|(fd, write)| Watched::new(fd, write));
        let stderr = self.helper_stderr().map(|fd| Watched::new(fd, false));
        own.into_iter().chain(stderr)
    }

    /// The stderr of the helper, if a helper carries the connection and has not closed it.
    pub fn helper_stderr(&self) -> Option<BorrowedFd<'_>> {
        self.helpers.stderr()
    }

    /// The descriptor, and whether to wake up for room to write too, if there is a connection.
    pub fn wanted(&self) -> Option<(BorrowedFd<'_>, bool)> {
        match &self.state {
            State::Closed | State::Ending => None,
            State::Connecting(stream) => Some((stream.as_fd(), true)),
            State::Open(stream) => Some((stream.as_fd(), !self.outgoing.is_empty())),
        }
    }

    /// A descriptor is ready: reports one event after another, without waiting for more.
    pub fn ready(&mut self, mut report: impl FnMut(Event)) {
        if let State::Connecting(stream) = &self.state
            && let Err(error) = stream.connected()
        {
            self.state = State::Closed;
            return report(Event::Disconnected(Some(reason(&error))));
        }
        self.helpers.read();
        match std::mem::replace(&mut self.state, State::Closed) {
            State::Closed => {}
            State::Ending => {
                self.state = State::Ending;
                self.report_reason(report);
            }
            State::Connecting(stream) => {
                self.state = State::Open(stream);
                report(Event::Connected);
            }
            State::Open(mut stream) => {
                let helpers = &mut self.helpers;
                let read = read(&mut stream, &mut |event| {
                    helpers.answered();
                    report(event);
                });
                self.state = State::Open(stream);
                match read.and_then(|()| self.flush().map_err(|error| Some(reason(&error)))) {
                    Ok(()) => {}
                    // The helper knows the reason.
                    Err(_) if self.helpers.is_used() => {
                        self.helpers.end();
                        self.state = State::Ending;
                        self.report_reason(report);
                    }
                    Err(why) => {
                        self.close();
                        report(Event::Disconnected(why));
                    }
                }
            }
        }
    }

    /// Reports why the connection of a helper has ended, once the helper can say nothing more.
    fn report_reason(&mut self, mut report: impl FnMut(Event)) {
        if let (State::Ending, Some(event)) = (&self.state, self.helpers.event()) {
            self.close();
            report(event);
        }
    }

    /// Whether a process is a helper command of this link.
    pub fn is_helper(&self, process: Pid) -> bool {
        self.helpers.contains(process)
    }

    /// Whether a helper command was not reaped.
    pub fn has_helpers(&self) -> bool {
        self.helpers.any()
    }

    /// A child was reaped. If it was the helper of the connection, that has ended.
    pub fn reaped(&mut self, child: Pid, report: impl FnMut(Event)) {
        self.helpers.reaped(child);
        self.report_reason(report);
    }

    /// Ends a connection that a helper carries: what was sent has until then to arrive, and the
    /// server to answer it by hanging up. Other connections are the kernel's, and end by themselves.
    pub fn part(&mut self, by: Moment) {
        if !self.helpers.is_used() {
            return;
        }
        while let State::Open(stream) = &mut self.state {
            let limit = by.since(now());
            let _ = poll::wait(&mut [Watched::new(stream.as_fd(), false)], Some(limit));
            if limit.is_zero() || read(stream, &mut |_| {}).is_err() {
                break;
            }
        }
        self.close();
    }

    /// Kills the helper commands. They are reaped later.
    pub fn kill_helpers(&mut self) {
        self.helpers.kill();
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

/// Reads once. The error is the end of the connection, with the network's reason if there is one.
fn read(stream: &mut Stream, report: &mut impl FnMut(Event)) -> Result<(), Option<String>> {
    let mut bytes = [0; READ];
    match stream.read(&mut bytes) {
        Ok(0) => return Err(None),
        Ok(length) => report(Event::Received(&bytes[..length])),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
        Err(error) => return Err(Some(reason(&error))),
    }
    Ok(())
}
