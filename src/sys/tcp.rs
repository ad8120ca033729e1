//! Sockets that listen, and what the kernel can be asked to do about a peer that is gone without a
//! word.

use super::socket::raw;
use super::{check, opened};
use std::ffi::c_int;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::ptr;
use std::time::Duration;

/// How many connections may wait to be accepted; the kernel's own limit (net.core.somaxconn) is
/// 4096.
const BACKLOG: c_int = 4096;

/// Listens, without blocking in accept. An IPv6 address that is none in particular is all of IPv4,
/// too.
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

/// The next connection that has come in; it does not block. Options of the listener are its own,
/// too: `keep_alive`, `no_delay`.
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

/// Makes the kernel send at once what there is to send.
pub fn no_delay(socket: impl AsFd) -> io::Result<()> {
    set(socket.as_fd(), libc::IPPROTO_TCP, libc::TCP_NODELAY, 1)
}

/// Makes the kernel ask after a peer that has been silent for `idle`, every `interval`, and end the
/// connection when `probes` were not answered.
pub fn keep_alive(
    socket: impl AsFd,
    idle: Duration,
    interval: Duration,
    probes: u8,
) -> io::Result<()> {
    let fd = socket.as_fd();
    set(fd, libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1)?;
    ask_after(fd, idle)?;
    set(
        fd,
        libc::IPPROTO_TCP,
        libc::TCP_KEEPINTVL,
        seconds(interval),
    )?;
    set(fd, libc::IPPROTO_TCP, libc::TCP_KEEPCNT, probes.into())
}

/// Changes for how long the peer is silent before it is asked after.
pub fn ask_after(socket: impl AsFd, idle: Duration) -> io::Result<()> {
    set(
        socket.as_fd(),
        libc::IPPROTO_TCP,
        libc::TCP_KEEPIDLE,
        seconds(idle),
    )
}

/// Makes the kernel end the connection when what was sent is not acknowledged for so long.
pub fn give_up_after(stream: &TcpStream, limit: Duration) -> io::Result<()> {
    set(
        stream.as_fd(),
        libc::IPPROTO_TCP,
        libc::TCP_USER_TIMEOUT,
        c_int::try_from(limit.as_millis()).unwrap_or(c_int::MAX),
    )
}

/// Whether closing the connection, be it by the end of the process, breaks it off: what the peer
/// has not taken by then does not come any more.
pub fn abrupt(stream: &TcpStream, abrupt: bool) -> io::Result<()> {
    let linger = libc::linger {
        l_onoff: abrupt.into(),
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

/// How much of what was sent the peer has not acknowledged, in bytes; the end of sending counts for
/// one. Also true of a connection that is broken.
pub fn unacknowledged(stream: &TcpStream) -> io::Result<u64> {
    let mut bytes: c_int = 0;
    // SAFETY: ioctl(2) with SIOCOUTQ (TIOCOUTQ by another name) writes one int.
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

    /// A connection: the accepted end, and the other.
    fn connection() -> (TcpStream, TcpStream) {
        let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let theirs = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (listener.accept().unwrap().0, theirs)
    }

    #[test]
    fn a_place_is_one_listeners() {
        let listener = listen("[::1]:0".parse().unwrap()).unwrap();
        assert_eq!(
            listen(listener.local_addr().unwrap()).unwrap_err().kind(),
            ErrorKind::AddrInUse
        );
    }

    #[test]
    fn any_address_of_ipv6_is_any_of_ipv4_too() {
        let listener = listen("[::]:0".parse().unwrap()).unwrap();
        TcpStream::connect(("127.0.0.1", listener.local_addr().unwrap().port())).unwrap();
    }

    #[test]
    fn what_is_accepted_has_the_options_of_the_listener_and_does_not_block() {
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
        let mut ours = accept(&listener).unwrap();
        let options = [
            (libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1),
            (libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, 15),
            (libc::IPPROTO_TCP, libc::TCP_KEEPINTVL, 5),
            (libc::IPPROTO_TCP, libc::TCP_KEEPCNT, 3),
            (libc::IPPROTO_TCP, libc::TCP_NODELAY, 1),
        ];
        for (level, name, expected) in options {
            let (mut value, mut length): (c_int, _) = (0, 4);
            // SAFETY: getsockopt(2) writes an int, and how long that is.
            check(unsafe {
                libc::getsockopt(
                    ours.as_raw_fd(),
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
            ours.read(&mut [0]).unwrap_err().kind(),
            ErrorKind::WouldBlock
        );
        assert_eq!(accept(&listener).unwrap_err().kind(), ErrorKind::WouldBlock);
        give_up_after(&ours, Duration::from_secs(10)).unwrap();
        ask_after(&ours, Duration::from_secs(5)).unwrap();
    }

    #[test]
    fn an_abrupt_end_is_none_that_was_said() {
        for (is_abrupt, end) in [(true, Err(ErrorKind::ConnectionReset)), (false, Ok(0))] {
            let (mut ours, theirs) = connection();
            abrupt(&theirs, true).unwrap();
            abrupt(&theirs, is_abrupt).unwrap();
            drop(theirs);
            assert_eq!(ours.read(&mut [0]).map_err(|error| error.kind()), end);
        }
    }

    #[test]
    fn what_was_received_was_acknowledged() {
        let (mut ours, mut theirs) = connection();
        ours.write_all(b"YES").unwrap();
        theirs.read_exact(&mut [0; 3]).unwrap();
        assert_eq!(unacknowledged(&ours).unwrap(), 0);
    }

    #[test]
    fn what_a_peer_that_is_gone_was_sent_counts_as_not_acknowledged() {
        let (mut ours, theirs) = connection();
        drop(theirs);
        assert_eq!(ours.read(&mut [0]).unwrap(), 0);
        ours.write_all(b"YES").unwrap();
        assert_eq!(
            ours.take_error().unwrap().map(|error| error.kind()),
            Some(ErrorKind::BrokenPipe)
        );
        assert_eq!(unacknowledged(&ours).unwrap(), 3);
    }

    #[test]
    fn the_end_of_sending_counts_for_one() {
        let (mut ours, theirs) = connection();
        ours.write_all(b"YES").unwrap();
        ours.shutdown(Shutdown::Write).unwrap();
        drop(theirs);
        while unacknowledged(&ours).unwrap() > 1 {}
    }
}
