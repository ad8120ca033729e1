//! Sockets that std does not make: a pair that preserves message boundaries, and non-blocking
//! connects.

use super::{check, opened};
use std::ffi::{c_char, c_int};
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::Path;

/// A connected pair of sockets between processes. Message boundaries are preserved.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut ends = [-1; 2];
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: socketpair(2) writes two descriptors.
    check(unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, ends.as_mut_ptr()) })?;
    let [one, other] = ends.map(opened);
    Ok((one?, other?))
}

/// Sends one message. EAGAIN if the buffer is full; EPIPE, without a signal, if the other end is
/// closed.
pub fn send(socket: impl AsFd, message: &[u8]) -> io::Result<()> {
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: send(2) reads as many bytes as the slice has.
    check(unsafe {
        libc::send(
            fd,
            message.as_ptr().cast(),
            message.len(),
            libc::MSG_NOSIGNAL,
        )
    })?;
    Ok(())
}

/// Writes to a stream as many bytes as there is room for. EAGAIN: there is none. EPIPE, without a
/// signal, if the other end is closed.
pub fn write(socket: impl AsFd, bytes: &[u8]) -> io::Result<usize> {
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: send(2) reads as many bytes as the slice has.
    let sent =
        check(unsafe { libc::send(fd, bytes.as_ptr().cast(), bytes.len(), libc::MSG_NOSIGNAL) })?;
    Ok(sent.cast_unsigned())
}

/// Receives one message, truncated to the buffer. Zero: the other end is closed. EAGAIN: no message
/// is waiting.
pub fn receive(socket: impl AsFd, message: &mut [u8]) -> io::Result<usize> {
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: recv(2) writes at most as many bytes as the slice has.
    let length = check(unsafe { libc::recv(fd, message.as_mut_ptr().cast(), message.len(), 0) })?;
    Ok(length.cast_unsigned())
}

/// Starts to connect. The stream is non-blocking; once poll finds it writable, `connected` returns
/// the result.
pub fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let (family, address, length) = raw(address);
    // SAFETY: socket(2) touches no memory.
    let socket = opened(unsafe {
        libc::socket(
            family,
            libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK,
            0,
        )
    })?;
    // SAFETY: connect(2) reads `length` bytes of the address.
    match check(unsafe { libc::connect(socket.as_raw_fd(), (&raw const address).cast(), length) }) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => return Err(error),
        _ => {}
    }
    let stream = TcpStream::from(socket);
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Connects to the unix socket at this path. The result is known at once: EAGAIN if as many clients
/// as the server allows wait to be accepted. `InvalidInput`: the path is too long, see
/// `plan::hosts`.
#[allow(
    clippy::cast_possible_truncation,
    reason = "families and sizes of addresses are small"
)]
pub fn connect_unix(path: &Path) -> io::Result<UnixStream> {
    let bytes = path.as_os_str().as_bytes();
    let mut address = libc::sockaddr_un {
        sun_family: libc::AF_UNIX as libc::sa_family_t,
        sun_path: [0; UNIX_PATH],
    };
    if bytes.len() >= UNIX_PATH || bytes.contains(&0) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in address.sun_path.iter_mut().zip(bytes) {
        *to = from.cast_signed() as c_char;
    }
    // SAFETY: socket(2) touches no memory.
    let socket = opened(unsafe {
        libc::socket(
            libc::AF_UNIX,
            libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK,
            0,
        )
    })?;
    let length = size_of_val(&address) as libc::socklen_t;
    // SAFETY: connect(2) reads `length` bytes of the address. The path ends with a zero.
    check(unsafe { libc::connect(socket.as_raw_fd(), (&raw const address).cast(), length) })?;
    Ok(UnixStream::from(socket))
}

/// Bytes of `sun_path`: unix(7).
const UNIX_PATH: usize = 108;

/// The result of a connect that was started, once the stream is writable.
pub fn connected(stream: &TcpStream) -> io::Result<()> {
    stream.take_error()?.map_or(Ok(()), Err)
}

/// An address of either family, in the kernel's layout.
#[repr(C)]
pub(super) union Address {
    v4: libc::sockaddr_in,
    v6: libc::sockaddr_in6,
}

/// Family, address, and the number of its bytes that are used.
#[allow(
    clippy::cast_possible_truncation,
    reason = "families and sizes of addresses are small"
)]
pub(super) fn raw(address: SocketAddr) -> (c_int, Address, libc::socklen_t) {
    match address {
        SocketAddr::V4(address) => {
            let v4 = libc::sockaddr_in {
                sin_family: libc::AF_INET as libc::sa_family_t,
                sin_port: address.port().to_be(),
                sin_addr: libc::in_addr {
                    s_addr: u32::from(*address.ip()).to_be(),
                },
                sin_zero: [0; 8],
            };
            (
                libc::AF_INET,
                Address { v4 },
                size_of_val(&v4) as libc::socklen_t,
            )
        }
        SocketAddr::V6(address) => {
            let v6 = libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as libc::sa_family_t,
                sin6_port: address.port().to_be(),
                sin6_flowinfo: address.flowinfo(),
                sin6_addr: libc::in6_addr {
                    s6_addr: address.ip().octets(),
                },
                sin6_scope_id: address.scope_id(),
            };
            (
                libc::AF_INET6,
                Address { v6 },
                size_of_val(&v6) as libc::socklen_t,
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::poll::{Watched, wait};
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn message_boundaries_are_preserved() {
        let (one, other) = pair().unwrap();
        send(&one, b"first").unwrap();
        send(&one, b"second").unwrap();
        let mut message = [0; 16];
        assert_eq!(receive(&other, &mut message).unwrap(), 5);
        assert_eq!(receive(&other, &mut message).unwrap(), 6);
        assert_eq!(
            receive(&other, &mut message).unwrap_err().kind(),
            io::ErrorKind::WouldBlock
        );
    }

    #[test]
    fn send_to_a_closed_socket_is_an_error_without_a_signal() {
        super::super::testing::check_in_child(|| {
            let (one, other) = pair().unwrap();
            super::super::disposition::set(
                crate::signal::Signal::PIPE,
                super::super::disposition::Disposition::Default,
            )
            .unwrap();
            drop(other);
            assert_eq!(
                send(&one, b"hello").unwrap_err().kind(),
                io::ErrorKind::BrokenPipe
            );
        });
    }

    /// Connects, and waits for the result.
    fn outcome(address: SocketAddr) -> io::Result<TcpStream> {
        let stream = connect(address)?;
        wait(&mut [Watched::new(stream.as_fd(), true)], None)?;
        connected(&stream).map(|()| stream)
    }

    #[test]
    fn connection_reaches_its_address() {
        for host in ["127.0.0.1:0", "[::1]:0"] {
            // A host may lack IPv6.
            let Ok(listener) = TcpListener::bind(host) else {
                continue;
            };
            let stream = outcome(listener.local_addr().unwrap()).unwrap();
            assert_eq!(listener.accept().unwrap().1, stream.local_addr().unwrap());
            assert!(stream.nodelay().unwrap());
        }
    }

    #[test]
    fn refused_connection_is_an_error() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        // SAFETY: shutdown(2) touches no memory. The port stays bound, so that no other test can
        // listen there.
        check(unsafe { libc::shutdown(listener.as_raw_fd(), libc::SHUT_RDWR) }).unwrap();
        assert_eq!(
            outcome(address).unwrap_err().kind(),
            io::ErrorKind::ConnectionRefused
        );
    }
}
