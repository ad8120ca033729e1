//! A ZooKeeper connection string: `h1:2181,h2:2181/chroot`, IPv6 addresses in brackets.

use super::names;
use crate::plan::Host;
use std::fmt;

/// Where ZooKeeper listens unless told otherwise.
const DEFAULT_PORT: u16 = 2181;

/// The servers of an ensemble, and the node that stands for `/` there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ensemble {
    /// At least one.
    pub hosts: Vec<Host>,
    /// Empty, or `/a/b` without a slash at its end.
    pub chroot: String,
}

/// Why a text is no connection string.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Flaw {
    /// No host, or none between two commas.
    NoHost,
    /// What stands for a host has characters that no name or address has.
    Host(String),
    /// More than one colon outside of brackets.
    Brackets(String),
    /// Not a number from 1 to 65535.
    Port(String),
    /// What follows the first slash is no path.
    Chroot(names::Flaw),
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Flaw::NoHost => write!(f, "a host is missing"),
            Flaw::Host(host) => write!(f, "{host:?} is not a host"),
            Flaw::Brackets(host) => write!(f, "{host:?}: an IPv6 address goes in brackets, like [::1]:2181"),
            Flaw::Port(port) => write!(f, "{port:?} is not a port, 1 to 65535"),
            Flaw::Chroot(flaw) => write!(f, "chroot: {flaw}"),
        }
    }
}

/// Reads hosts separated by commas; blanks around them do not count.
pub fn parse(text: &str) -> Result<Ensemble, Flaw> {
    let (hosts, chroot) = text.split_at(text.find('/').unwrap_or(text.len()));
    Ok(Ensemble {
        hosts: hosts.split(',').map(|host| parse_host(host.trim())).collect::<Result<_, _>>()?,
        chroot: parse_chroot(chroot.trim_end())?,
    })
}

/// Reads what follows the hosts, slash included; `/` alone is no chroot.
fn parse_chroot(text: &str) -> Result<String, Flaw> {
    match text.strip_prefix('/') {
        None | Some("") => Ok(String::new()),
        Some(path) => names::check_node(path).map(|()| text.to_owned()).map_err(Flaw::Chroot),
    }
}

fn parse_host(text: &str) -> Result<Host, Flaw> {
    let unfit = || Flaw::Host(text.to_owned());
    let (name, port) = match text.strip_prefix('[') {
        Some(bracketed) => match bracketed.split_once(']').ok_or_else(unfit)? {
            (address, "") => (address, None),
            (address, port) => (address, Some(port.strip_prefix(':').ok_or_else(unfit)?)),
        },
        None => match text.split_once(':') {
            Some((_, port)) if port.contains(':') => return Err(Flaw::Brackets(text.to_owned())),
            Some((name, port)) => (name, Some(port)),
            None => (text, None),
        },
    };
    match name {
        "" => Err(Flaw::NoHost),
        _ if name.contains(|c: char| c.is_whitespace() || c.is_control() || "[]\"".contains(c)) => Err(unfit()),
        _ => Ok(Host { name: name.to_owned(), port: port.map_or(Ok(DEFAULT_PORT), parse_port)? }),
    }
}

fn parse_port(digits: &str) -> Result<u16, Flaw> {
    let number = if digits.starts_with('+') { None } else { digits.parse().ok() };
    number.filter(|&port| port > 0).ok_or_else(|| Flaw::Port(digits.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn hosts_are_read_with_ports_brackets_and_chroot() {
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
            assert_eq!(ensemble.hosts.iter().map(Host::to_string).collect::<Vec<_>>().join(" "), hosts, "{text}");
            assert_eq!(ensemble.chroot, chroot, "{text}");
        }
    }

    #[test]
    fn what_is_wrong_with_hosts_is_named() {
        for (text, sentence) in [
            ("", "a host is missing"),
            (" ", "a host is missing"),
            ("h1,", "a host is missing"),
            ("h1,,h2", "a host is missing"),
            ("/chroot", "a host is missing"),
            (":2181", "a host is missing"),
            ("[]:2181", "a host is missing"),
            ("h1:", "\"\" is not a port, 1 to 65535"),
            ("h1:0", "\"0\" is not a port, 1 to 65535"),
            ("h1:+1", "\"+1\" is not a port, 1 to 65535"),
            ("h1:65536", "\"65536\" is not a port, 1 to 65535"),
            ("h1:x,h2:1", "\"x\" is not a port, 1 to 65535"),
            ("h 1:1", "\"h 1:1\" is not a host"),
            ("h1 h2", "\"h1 h2\" is not a host"),
            ("[::1", "\"[::1\" is not a host"),
            ("[::1]2181", "\"[::1]2181\" is not a host"),
            ("::1:2181", "\"::1:2181\": an IPv6 address goes in brackets, like [::1]:2181"),
            ("h1/a,h2/b/", "chroot: nothing before, after or between slashes"),
            ("h1//a", "chroot: nothing before, after or between slashes"),
            ("h1/..", "chroot: \".\" and \"..\" are no names"),
        ] {
            assert_eq!(parse(text).map_err(|flaw| flaw.to_string()), Err(sentence.to_owned()), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn nothing_panics(text in any::<String>()) {
            let _ = parse(&text);
        }
    }
}
