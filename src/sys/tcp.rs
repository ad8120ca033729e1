//! Listening TCP sockets, and socket options for detecting dead peers.

use super::socket::raw;
use super::{check, opened};
use std::ffi::c_int;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::ptr;
use std::time::Duration;

/// Length of the accept queue; the kernel's own limit (net.core.somaxconn) is 4096.
const BACKLOG: c_int = 4096;

/// Opens a listening socket with a non-blocking accept. The unspecified IPv6 address also accepts
/// IPv4.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let (family, raw, length) = raw(address);
    // SAFETY: socket(2) touches no memory.
    let socket = opened(unsafe {
        libc::socket(
            family,
            libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK,
            0,
        )
    })?;
    set(socket.as_fd(), libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
    if address.is_ipv6() {
        set(socket.as_fd(), libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, 0)?;
    }
    // SAFETY: bind(2) reads `length` bytes of the address.
    check(unsafe { libc::bind(socket.as_raw_fd(), (&raw const raw).cast(), length) })?;
    // SAFETY: listen(2) touches no memory.
    check(unsafe { libc::listen(socket.as_raw_fd(), BACKLOG) })?;
    Ok(TcpListener::from(socket))
}

/// Accepts a pending connection; does not block. The connection inherits `keep_alive` and
/// `no_delay` from the listener.
pub fn accept(listener: &TcpListener) -> io::Result<TcpStream> {
    let flags = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: accept4(2) with null pointers writes no address.
    opened(unsafe {
        libc::accept4(
            listener.as_raw_fd(),
            ptr::null_mut(),
            ptr::null_mut(),
            flags,
        )
    })
    .map(TcpStream::from)
}

/// Makes the kernel send data without delay (TCP_NODELAY).
pub fn no_delay(socket: impl AsFd) -> io::Result<()> {
    set(socket.as_fd(), libc::IPPROTO_TCP, libc::TCP_NODELAY, 1)
}

/// Makes the kernel probe a peer that has been silent for `idle`, every `interval`, and end the
/// connection when `probes` probes were not answered.
pub fn keep_alive(
    socket: impl AsFd,
    idle: Duration,
    interval: Duration,
    probes: u8,
) -> io::Result<()> {
    let fd = socket.as_fd();
    set(fd, libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1)?;
    probe_after(fd, idle)?;
    set(
        fd,
        libc::IPPROTO_TCP,
        libc::TCP_KEEPINTVL,
        seconds(interval),
    )?;
    set(fd, libc::IPPROTO_TCP, libc::TCP_KEEPCNT, probes.into())
}

/// Changes how long the peer is silent before the first probe.
pub fn probe_after(socket: impl AsFd, idle: Duration) -> io::Result<()> {
    set(
        socket.as_fd(),
        libc::IPPROTO_TCP,
        libc::TCP_KEEPIDLE,
        seconds(idle),
    )
}

/// Makes the kernel end the connection when sent data is not acknowledged within `limit`.
pub fn set_unacknowledged_limit(stream: &TcpStream, limit: Duration) -> io::Result<()> {
    set(
        stream.as_fd(),
        libc::IPPROTO_TCP,
        libc::TCP_USER_TIMEOUT,
        c_int::try_from(limit.as_millis()).unwrap_or(c_int::MAX),
    )
}

/// Whether closing the connection, also by the end of the process, resets it: data that the peer
/// has not received by then is discarded.
pub fn reset_on_close(stream: &TcpStream, reset: bool) -> io::Result<()> {
    let linger = libc::linger {
        l_onoff: reset.into(),
        l_linger: 0,
    };
    let (fd, length) = (
        stream.as_raw_fd(),
        libc::socklen_t::try_from(size_of_val(&linger)).unwrap_or(0),
    );
    // SAFETY: setsockopt(2) reads `length` bytes, a linger.
    check(unsafe {
        libc::setsockopt(
            fd,
            libc::SOL_SOCKET,
            libc::SO_LINGER,
            (&raw const linger).cast(),
            length,
        )
    })?;
    Ok(())
}

/// The number of sent bytes that the peer has not acknowledged; the end of stream counts as one.
/// Also valid for a broken connection.
pub fn unacknowledged(stream: &TcpStream) -> io::Result<u64> {
    let mut bytes: c_int = 0;
    // SAFETY: ioctl(2) with SIOCOUTQ (an alias of TIOCOUTQ) writes one int.
    check(unsafe { libc::ioctl(stream.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) })?;
    Ok(u64::try_from(bytes).unwrap_or(0))
}

fn set(fd: BorrowedFd, level: c_int, name: c_int, value: c_int) -> io::Result<()> {
    const LENGTH: libc::socklen_t = c_int::BITS / 8;
    // SAFETY: setsockopt(2) reads as many bytes as an int has.
    check(unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            LENGTH,
        )
    })?;
    Ok(())
}

fn seconds(duration: Duration) -> c_int {
    c_int::try_from(duration.as_secs()).unwrap_or(c_int::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{ErrorKind, Read, Write};
    use std::net::Shutdown;

    /// A connection: the accepted end, and the other end.
    fn connection() -> (TcpStream, TcpStream) {
        let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let remote = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (listener.accept().unwrap().0, remote)
    }

    #[test]
    fn address_has_one_listener() {
        let listener = listen("[::1]:0".parse().unwrap()).unwrap();
        assert_eq!(
            listen(listener.local_addr().unwrap()).unwrap_err().kind(),
            ErrorKind::AddrInUse
        );
    }

    #[test]
    fn unspecified_ipv6_address_accepts_ipv4() {
        let listener = listen("[::]:0".parse().unwrap()).unwrap();
        TcpStream::connect(("127.0.0.1", listener.local_addr().unwrap().port())).unwrap();
    }

    #[test]
    fn accepted_connection_inherits_options_and_does_not_block() {
        let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        keep_alive(
            &listener,
            Duration::from_secs(15),
            Duration::from_secs(5),
            3,
        )
        .unwrap();
        no_delay(&listener).unwrap();
        let _theirs = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let mut local = accept(&listener).unwrap();
        let options = [
            (libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1),
            (libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, 15),
            (libc::IPPROTO_TCP, libc::TCP_KEEPINTVL, 5),
            (libc::IPPROTO_TCP, libc::TCP_KEEPCNT, 3),
            (libc::IPPROTO_TCP, libc::TCP_NODELAY, 1),
        ];
        for (level, name, expected) in options {
            let (mut value, mut length): (c_int, _) = (0, 4);
            // SAFETY: getsockopt(2) writes an int, and its length.
            check(unsafe {
                libc::getsockopt(
                    local.as_raw_fd(),
                    level,
                    name,
                    (&raw mut value).cast(),
                    &raw mut length,
                )
            })
            .unwrap();
            assert_eq!(value, expected, "{name}");
        }
        assert_eq!(
            local.read(&mut [0]).unwrap_err().kind(),
            ErrorKind::WouldBlock
        );
        assert_eq!(accept(&listener).unwrap_err().kind(), ErrorKind::WouldBlock);
        set_unacknowledged_limit(&local, Duration::from_secs(10)).unwrap();
        probe_after(&local, Duration::from_secs(5)).unwrap();
    }

    #[test]
    fn abrupt_close_resets_the_connection() {
        for (is_abrupt, end) in [(true, Err(ErrorKind::ConnectionReset)), (false, Ok(0))] {
            let (mut local, remote) = connection();
            reset_on_close(&remote, true).unwrap();
            reset_on_close(&remote, is_abrupt).unwrap();
            drop(remote);
            assert_eq!(local.read(&mut [0]).map_err(|error| error.kind()), end);
        }
    }

    #[test]
    fn received_data_counts_as_acknowledged() {
        let (mut local, mut remote) = connection();
        local.write_all(b"YES").unwrap();
        remote.read_exact(&mut [0; 3]).unwrap();
        assert_eq!(unacknowledged(&local).unwrap(), 0);
    }

    #[test]
    fn data_sent_to_a_closed_peer_counts_as_unacknowledged() {
        let (mut local, remote) = connection();
        drop(remote);
        assert_eq!(local.read(&mut [0]).unwrap(), 0);
        local.write_all(b"YES").unwrap();
        assert_eq!(
            local.take_error().unwrap().map(|error| error.kind()),
            Some(ErrorKind::BrokenPipe)
        );
        assert_eq!(unacknowledged(&local).unwrap(), 3);
    }

    #[test]
    fn end_of_stream_counts_as_one_byte() {
        let (mut local, remote) = connection();
        local.write_all(b"YES").unwrap();
        local.shutdown(Shutdown::Write).unwrap();
        drop(remote);
        while unacknowledged(&local).unwrap() > 1 {}
    }
}
