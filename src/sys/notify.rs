//! One message to a service manager, as sd_notify(3) sends it.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Sends a message to the socket at an absolute path, or at `@` and an abstract name. It never
/// waits: `WouldBlock` if the receiver has no room. The socket is opened for each message, so that
/// neither a command nor a restarted service manager has to do with an old one.
pub fn send(socket: &OsStr, message: &str) -> io::Result<()> {
    let address = match socket.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(socket)?,
    };
    let sender = UnixDatagram::unbound()?;
    sender.set_nonblocking(true)?;
    sender.send_to_addr(message.as_bytes(), &address)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::io::ErrorKind;

    fn received(socket: &UnixDatagram) -> String {
        let mut buffer = [0; 100];
        let length = socket.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    }

    #[test]
    fn message_reaches_a_socket_with_a_path_and_one_with_an_abstract_name() {
        let name = format!("zk-flock-notify-{}", std::process::id());
        let path = std::env::temp_dir().join(&name);
        let at_path = UnixDatagram::bind(&path).unwrap();
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let abstract_one = UnixDatagram::bind_addr(&address).unwrap();
        send(path.as_os_str(), "READY=1\n").unwrap();
        send(format!("@{name}").as_ref(), "STOPPING=1\n").unwrap();
        assert_eq!(received(&at_path), "READY=1\n");
        assert_eq!(received(&abstract_one), "STOPPING=1\n");
        fs::remove_file(path).unwrap();
    }

    #[test]
    fn full_dead_or_missing_socket_is_an_error_at_once() {
        let name = format!("zk-flock-notify-{}-full", std::process::id());
        let path = std::env::temp_dir().join(&name);
        let receiver = UnixDatagram::bind(&path).unwrap();
        let full = std::iter::repeat_with(|| send(path.as_os_str(), "STATUS=x\n"))
            .find_map(Result::err)
            .unwrap();
        assert_eq!(full.kind(), ErrorKind::WouldBlock);
        drop(receiver);
        let dead = send(path.as_os_str(), "READY=1\n").unwrap_err();
        assert_eq!(dead.kind(), ErrorKind::ConnectionRefused);
        fs::remove_file(&path).unwrap();
        let missing = send(path.as_os_str(), "READY=1\n").unwrap_err();
        assert_eq!(missing.kind(), ErrorKind::NotFound);
    }
}
