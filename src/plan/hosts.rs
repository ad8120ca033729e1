//! A ZooKeeper connection string: `h1:2181,h2:2181/chroot`, IPv6 addresses in brackets; or unix
//! sockets: `unix:/run/zk1.sock,unix:/run/zk2.sock`.

use super::{Host, names};
use std::fmt;
use std::path::PathBuf;

/// How the address of a unix socket begins.
const UNIX: &str = "unix:";

/// The longest path of a unix socket, in bytes: `sun_path` of unix(7) has one more, for a zero.
pub const LONGEST_SOCKET_PATH: usize = 107;

/// ZooKeeper's port, if the text has none.
const DEFAULT_PORT: u16 = 2181;

/// The servers of an ensemble, and the node under which all paths are (the chroot).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ensemble {
    /// At least one server.
    pub hosts: Vec<Host>,
    /// Empty, or `/a/b` without a slash at its end.
    pub chroot: String,
}

/// Why a text is not a connection string. Items are quoted as the operator typed them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum InvalidHosts {
    /// There is no host.
    NoHost,
    /// An item has no host before its port.
    NoName(String),
    /// An item starts like a URL, with this scheme.
    #[allow(missing_docs)]
    Scheme { item: String, scheme: String },
    /// Hosts are separated by another character than a comma.
    Separator(String),
    /// A host has characters that no name or address has.
    Host(String),
    /// An item has several colons outside of brackets.
    Brackets(String),
    /// An item has a colon, but no port after it.
    NoPort(String),
    /// The port is not a number from 1 to 65535.
    #[allow(missing_docs)]
    Port { item: String, port: String },
    /// A unix socket cannot have this path.
    #[allow(missing_docs)]
    Socket { item: String, flaw: InvalidSocket },
    /// An item has a chroot, and the list has a unix socket, which takes none.
    SocketAndChroot(String),
    /// The text after the first slash is not a path.
    #[allow(missing_docs)]
    Chroot {
        path: String,
        flaw: names::InvalidName,
    },
}

/// Why a text is not the path of a unix socket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum InvalidSocket {
    /// It has two slashes, as a URL has.
    Url,
    /// It does not begin with a slash.
    Relative,
    /// It has this many bytes.
    TooLong(usize),
    /// It has a control character.
    Control,
}

impl fmt::Display for InvalidSocket {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            InvalidSocket::Url => f.write_str("expected unix:/PATH, with one slash"),
            InvalidSocket::Relative => {
                f.write_str("expected unix:/PATH, the absolute path of a socket")
            }
            InvalidSocket::TooLong(bytes) => write!(
                f,
                "the path of a unix socket has at most {LONGEST_SOCKET_PATH} bytes, found {bytes}"
            ),
            InvalidSocket::Control => {
                f.write_str("the path of a unix socket must not contain control characters")
            }
        }
    }
}

impl fmt::Display for InvalidHosts {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            InvalidHosts::NoHost => {
                write!(f, "the list of servers is empty: expected HOST:PORT,...")
            }
            InvalidHosts::NoName(item) => {
                write!(f, "{item:?} is not HOST:PORT: the host is missing")
            }
            InvalidHosts::Scheme { item, scheme } => {
                write!(f, "{item:?} is not HOST:PORT: remove {scheme:?}")
            }
            InvalidHosts::Separator(item) => {
                write!(f, "{item:?} is not HOST:PORT: separate servers with commas")
            }
            InvalidHosts::Host(item) => write!(f, "{item:?} is not HOST:PORT"),
            InvalidHosts::Brackets(item) => write!(
                f,
                "{item:?}: an IPv6 address goes in brackets, like [::1]:2181"
            ),
            InvalidHosts::NoPort(item) => write!(
                f,
                "{item:?} is not HOST:PORT: remove the last \":\", or add the port"
            ),
            InvalidHosts::Port { item, port } => write!(
                f,
                "{item:?} is not HOST:PORT: the port {port:?} is not a number from 1 to 65535"
            ),
            InvalidHosts::Socket { item, flaw } => write!(f, "{item:?}: {flaw}"),
            InvalidHosts::SocketAndChroot(item) => write!(
                f,
                "{item:?}: a list with a unix socket takes no chroot: remove the first \"/\" and what follows it"
            ),
            InvalidHosts::Chroot { path, flaw } => write!(f, "chroot {path:?}: {flaw}"),
        }
    }
}

impl Ensemble {
    /// Warns of a chroot that contains servers. A chroot belongs after the last host: after an
    /// earlier host it takes in all later hosts, in the originals as well. The node must stay what
    /// it was there, and hosts that list the servers in another order use another lock.
    pub fn chroot_warning(&self) -> Option<String> {
        let (path, _) = self.chroot.split_once(',')?;
        Some(format!(
            "the chroot is {:?}, because it begins at the first \"/\" and ends with the text: later servers are not used. Write the chroot \
             once, at the end: HOST:PORT,HOST:PORT{path}",
            self.chroot
        ))
    }
}

/// Parses hosts separated by commas. Blanks around hosts and superfluous commas are ignored, as in
/// the originals.
pub fn parse(text: &str) -> Result<Ensemble, InvalidHosts> {
    let items = || {
        text.split(',')
            .map(str::trim)
            .filter(|item| !item.is_empty())
    };
    if items().any(|item| item.starts_with(UNIX)) {
        let hosts = items().map(parse_with_sockets);
        return Ok(Ensemble {
            hosts: hosts.collect::<Result<_, _>>()?,
            chroot: String::new(),
        });
    }
    if let Some(item) = text
        .split(',')
        .map(str::trim)
        .find(|item| item.contains("://"))
    {
        let end = item.find("://").map_or(0, |at| at + "://".len());
        return Err(InvalidHosts::Scheme {
            item: item.to_owned(),
            scheme: item[..end].to_owned(),
        });
    }
    let (hosts, chroot) = text.split_at(text.find('/').unwrap_or(text.len()));
    let items = hosts
        .split(',')
        .map(str::trim)
        .filter(|item| !item.is_empty());
    let hosts = items.map(parse_host).collect::<Result<Vec<_>, _>>()?;
    if hosts.is_empty() {
        Err(InvalidHosts::NoHost)
    } else {
        Ok(Ensemble {
            hosts,
            chroot: parse_chroot(chroot.trim_end())?,
        })
    }
}

/// Parses an item of a list that has unix sockets: a slash belongs to the path of a socket.
fn parse_with_sockets(item: &str) -> Result<Host, InvalidHosts> {
    match parse_socket(item) {
        Some(Ok(path)) => Ok(Host::Unix(path)),
        Some(Err(flaw)) => Err(InvalidHosts::Socket {
            item: item.to_owned(),
            flaw,
        }),
        None if item.contains('/') => Err(InvalidHosts::SocketAndChroot(item.to_owned())),
        None => parse_host(item),
    }
}

/// Parses `unix:/PATH`. `None`: the text does not begin with `unix:`.
pub fn parse_socket(text: &str) -> Option<Result<PathBuf, InvalidSocket>> {
    let path = text.strip_prefix(UNIX)?;
    Some(if path.starts_with("//") {
        Err(InvalidSocket::Url)
    } else if !path.starts_with('/') {
        Err(InvalidSocket::Relative)
    } else if path.len() > LONGEST_SOCKET_PATH {
        Err(InvalidSocket::TooLong(path.len()))
    } else if path.contains(char::is_control) {
        Err(InvalidSocket::Control)
    } else {
        Ok(path.into())
    })
}

/// Parses the text after the hosts, including its slash; `/` alone is no chroot.
fn parse_chroot(text: &str) -> Result<String, InvalidHosts> {
    match text.strip_prefix('/') {
        None | Some("") => Ok(String::new()),
        Some(path) => names::check_node(path)
            .map(|()| text.to_owned())
            .map_err(|flaw| InvalidHosts::Chroot {
                path: text.to_owned(),
                flaw,
            }),
    }
}

fn parse_host(text: &str) -> Result<Host, InvalidHosts> {
    let item = || text.to_owned();
    if text.contains(|c: char| c.is_whitespace() || c == ';') {
        return Err(InvalidHosts::Separator(item()));
    }
    let (name, port) = match text.strip_prefix('[') {
        Some(bracketed) => match bracketed
            .split_once(']')
            .ok_or_else(|| InvalidHosts::Host(item()))?
        {
            (address, "") => (address, None),
            (address, port) => (
                address,
                Some(
                    port.strip_prefix(':')
                        .ok_or_else(|| InvalidHosts::Host(item()))?,
                ),
            ),
        },
        None => match text.split_once(':') {
            Some((_, port)) if port.contains(':') => return Err(InvalidHosts::Brackets(item())),
            Some((name, port)) => (name, Some(port)),
            None => (text, None),
        },
    };
    match (name, port) {
        ("", _) => Err(InvalidHosts::NoName(item())),
        _ if name.contains(|c: char| c.is_control() || "[]\"".contains(c)) => {
            Err(InvalidHosts::Host(item()))
        }
        (_, Some("")) => Err(InvalidHosts::NoPort(item())),
        (_, Some(port)) => {
            let port = parse_port(port).ok_or_else(|| InvalidHosts::Port {
                item: item(),
                port: port.to_owned(),
            })?;
            Ok(Host::Tcp {
                name: name.to_owned(),
                port,
            })
        }
        (_, None) => Ok(Host::Tcp {
            name: name.to_owned(),
            port: DEFAULT_PORT,
        }),
    }
}

fn parse_port(digits: &str) -> Option<u16> {
    if digits.starts_with('+') {
        None
    } else {
        digits.parse().ok().filter(|&port| port > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn hosts_may_have_ports_brackets_and_a_chroot() {
        for (text, hosts, chroot) in [
            ("h1", "h1:2181", ""),
            ("h1:2182", "h1:2182", ""),
            ("h1:1,h2:65535", "h1:1 h2:65535", ""),
            (" h1:1 , h2 ", "h1:1 h2:2181", ""),
            ("10.0.0.1:2181/a/b", "10.0.0.1:2181", "/a/b"),
            ("h1,h2/", "h1:2181 h2:2181", ""),
            ("[::1]:2182", "[::1]:2182", ""),
            ("[fe80::1%eth0],h2", "[fe80::1%eth0]:2181 h2:2181", ""),
            ("h1:2181/замок ", "h1:2181", "/замок"),
        ] {
            let ensemble = parse(text).unwrap_or_else(|flaw| panic!("{text}: {flaw}"));
            assert_eq!(
                ensemble
                    .hosts
                    .iter()
                    .map(Host::to_string)
                    .collect::<Vec<_>>()
                    .join(" "),
                hosts,
                "{text}"
            );
            assert_eq!(ensemble.chroot, chroot, "{text}");
        }
    }

    #[test]
    fn invalid_hosts_are_refused_with_the_reason() {
        let port = |item: &str, port: &str| {
            format!("{item:?} is not HOST:PORT: the port {port:?} is not a number from 1 to 65535")
        };
        let empty = "the list of servers is empty: expected HOST:PORT,...";
        for (text, sentence) in [
            ("", empty),
            (" , ", empty),
            ("/chroot", empty),
            (":2181", "\":2181\" is not HOST:PORT: the host is missing"),
            (
                "[]:2181",
                "\"[]:2181\" is not HOST:PORT: the host is missing",
            ),
            (
                "h1:",
                "\"h1:\" is not HOST:PORT: remove the last \":\", or add the port",
            ),
            (
                "h1:/a",
                "\"h1:\" is not HOST:PORT: remove the last \":\", or add the port",
            ),
            ("h1:0", &port("h1:0", "0")),
            ("h1:+1", &port("h1:+1", "+1")),
            ("h1:65536", &port("h1:65536", "65536")),
            ("h1:x,h2:1", &port("h1:x", "x")),
            (
                "http://h:2181",
                "\"http://h:2181\" is not HOST:PORT: remove \"http://\"",
            ),
            (
                "zk://h:2181/x",
                "\"zk://h:2181/x\" is not HOST:PORT: remove \"zk://\"",
            ),
            (
                "h1:1, tcp://h2:2 ,h3",
                "\"tcp://h2:2\" is not HOST:PORT: remove \"tcp://\"",
            ),
            (
                "h1:2181;h2:2181",
                "\"h1:2181;h2:2181\" is not HOST:PORT: separate servers with commas",
            ),
            (
                "h 1:1",
                "\"h 1:1\" is not HOST:PORT: separate servers with commas",
            ),
            (
                "h1 h2/a",
                "\"h1 h2\" is not HOST:PORT: separate servers with commas",
            ),
            ("[::1", "\"[::1\" is not HOST:PORT"),
            ("[::1]2181", "\"[::1]2181\" is not HOST:PORT"),
            (
                "::1:2181",
                "\"::1:2181\": an IPv6 address goes in brackets, like [::1]:2181",
            ),
            (
                "h1/a,h2/b/",
                "chroot \"/a,h2/b/\": must not begin or end with \"/\"",
            ),
            ("h1//a", "chroot \"//a\": must not begin or end with \"/\""),
            ("h1/a//b", "chroot \"/a//b\": must not contain \"//\""),
            (
                "h1/..",
                "chroot \"/..\": \".\" and \"..\" are not allowed as path components",
            ),
        ] {
            assert_eq!(
                parse(text).map_err(|flaw| flaw.to_string()),
                Err(sentence.to_owned()),
                "{text:?}"
            );
        }
    }

    #[test]
    fn unix_sockets_stand_among_the_hosts() {
        for (text, hosts) in [
            ("unix:/run/zk.sock", "unix:/run/zk.sock"),
            (" unix:/a b , h2:1,", "unix:/a b h2:1"),
            ("h1,unix:/zk", "h1:2181 unix:/zk"),
        ] {
            let ensemble = parse(text).unwrap_or_else(|flaw| panic!("{text}: {flaw}"));
            let found: Vec<_> = ensemble.hosts.iter().map(Host::to_string).collect();
            assert_eq!(found.join(" "), hosts);
            assert_eq!(ensemble.chroot, "");
        }
        assert!(parse(&format!("unix:/{}", "a".repeat(106))).is_ok());
    }

    #[test]
    fn invalid_sockets_are_refused_with_the_reason() {
        let long = format!("unix:/{}", "a".repeat(107));
        for (text, sentence) in [
            (
                "unix:run/zk",
                "\"unix:run/zk\": expected unix:/PATH, the absolute path of a socket",
            ),
            (
                "unix:",
                "\"unix:\": expected unix:/PATH, the absolute path of a socket",
            ),
            (
                "unix:///run/zk",
                "\"unix:///run/zk\": expected unix:/PATH, with one slash",
            ),
            (
                "unix:/a\0b",
                "\"unix:/a\\0b\": the path of a unix socket must not contain control characters",
            ),
            (
                "unix:/run/zk,h2:2181/chroot",
                "\"h2:2181/chroot\": a list with a unix socket takes no chroot: remove the first \"/\" and what follows it",
            ),
            (
                &long,
                &format!("{long:?}: the path of a unix socket has at most 107 bytes, found 108"),
            ),
        ] {
            assert_eq!(
                parse(text).map_err(|flaw| flaw.to_string()),
                Err(sentence.to_owned())
            );
        }
    }

    #[test]
    fn superfluous_commas_are_ignored() {
        for text in ["h1,", ",h1", "h1:2181,,", ", h1 ,"] {
            let ensemble = parse(text).unwrap_or_else(|flaw| panic!("{text}: {flaw}"));
            assert_eq!(
                ensemble.hosts,
                [Host::Tcp {
                    name: "h1".into(),
                    port: 2181
                }],
                "{text}"
            );
        }
        assert_eq!(parse("h1,,h2/a").unwrap().hosts.len(), 2);
    }

    #[test]
    fn servers_after_a_chroot_are_warned_of() {
        for text in ["h1", "h1,h2/a", "h1/a/b"] {
            assert_eq!(parse(text).unwrap().chroot_warning(), None, "{text}");
        }
        let ensemble = parse("h1:2181/locks,h2:2181/locks").unwrap();
        assert_eq!(
            (ensemble.hosts.len(), ensemble.chroot.as_str()),
            (1, "/locks,h2:2181/locks"),
            "as kazoo and the C client have it"
        );
        let chroot_warning = ensemble.chroot_warning().unwrap();
        assert!(
            chroot_warning.starts_with("the chroot is \"/locks,h2:2181/locks\", ")
                && chroot_warning.ends_with("HOST:PORT,HOST:PORT/locks"),
            "{chroot_warning}"
        );
    }

    proptest! {
        #[test]
        fn nothing_panics(text in any::<String>()) {
            let _ = parse(&text);
        }
    }
}
