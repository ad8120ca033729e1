//! The vocabulary between a sans-I/O state machine and its connection. `lock` and `pool` machines
//! take in [`Event`] and give out [`Output`]; `link` carries an output out and reports events. What
//! kind of connection it is (TCP today) is known to `link` alone.

use std::net::SocketAddr;

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
pub enum Output<To = SocketAddr> {
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
