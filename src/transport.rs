//! The vocabulary between a sans-I/O state machine and its connection. `lock` and `pool` machines
//! take in [`Event`] and give out [`Output`]; `link` carries an output out and reports events. What
//! kind of connection it is, is known to `link` alone.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

/// Where a connection goes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Address {
    /// A TCP port.
    Tcp(SocketAddr),
    /// The unix socket at this path.
    Unix(Arc<Path>),
    /// Stdin and stdout of this command, which connects them to the server: its words.
    Command(Arc<[OsString]>),
}

impl Address {
    /// Whether a command makes the connection, so that it takes longer.
    pub fn is_command(&self) -> bool {
        matches!(self, Address::Command(_))
    }

    /// Whether only processes of this host can be at the other end. A unix socket may belong to a
    /// tunnel.
    pub fn is_loopback(&self) -> bool {
        match self {
            Address::Tcp(address) => address.ip().is_loopback(),
            Address::Unix(_) | Address::Command(_) => false,
        }
    }
}

/// What happens to a connection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event<'a> {
    /// The connection that was asked for is established.
    Connected,
    /// It could not be established, or has ended: the network's reason; `None` if the peer closed
    /// it.
    Disconnected(Option<String>),
    /// The peer sent these bytes.
    Received(&'a [u8]),
}

/// What a machine wants done with its connection. `To` is where it connects to; `()` for a machine
/// that has one peer and does not know its address.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Output<To = Address> {
    /// Connect to this address. This replaces any other connection.
    Connect(To),
    /// Send all of these bytes.
    Send(Vec<u8>),
    /// Send nothing more, and go on receiving.
    ShutdownWrite,
    /// Close the connection after the bytes that were sent.
    Close,
    /// Break the connection off, so that bytes that have not arrived yet never do.
    Reset,
}
