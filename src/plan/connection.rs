//! How connections to servers are made: TCP or a unix socket, or a command for each of them.

use super::Host;
use crate::shell::words;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// How connections to servers are made.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Connection {
    /// By this program.
    #[default]
    Direct,
    /// By a command for each connection, whose stdin and stdout are connected to the server.
    Proxy(Proxy),
}

impl Connection {
    /// The words of the command that connects to a server; `None`: no command does.
    pub fn command(&self, host: &Host) -> Option<Vec<OsString>> {
        match self {
            Connection::Direct => None,
            Connection::Proxy(proxy) => proxy.command(host),
        }
    }
}

/// A command that makes a connection: words with `%h`, `%p` and `%%`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Proxy(Vec<OsString>);

/// Why a text is not such a command.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum InvalidProxy {
    /// It cannot be split into words.
    Words(words::Unfinished),
    /// It has no words.
    Empty,
    /// A percent sign stands before something else than `h`, `p` or `%`.
    Percent(String),
    /// It contains a zero byte.
    Zero,
}

impl fmt::Display for InvalidProxy {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            InvalidProxy::Words(unfinished) => write!(f, "cannot split the command: {unfinished}"),
            InvalidProxy::Empty => f.write_str("the command is empty"),
            InvalidProxy::Percent(found) => write!(
                f,
                "{found:?} is not known: expected %h (the host), %p (the port) or %% (a percent sign)"
            ),
            InvalidProxy::Zero => f.write_str("the command must not contain a zero byte"),
        }
    }
}

impl Proxy {
    /// Splits the text as a shell does.
    pub fn parse(text: &OsStr) -> Result<Proxy, InvalidProxy> {
        let words = words::split(text).map_err(InvalidProxy::Words)?;
        if words.is_empty() {
            return Err(InvalidProxy::Empty);
        }
        if text.as_bytes().contains(&0) {
            return Err(InvalidProxy::Zero);
        }
        for word in &words {
            replaced(word, "", "").map_err(InvalidProxy::Percent)?;
        }
        Ok(Proxy(words))
    }

    /// The words of the command for a server; `None` for a unix socket, which needs no command.
    pub fn command(&self, host: &Host) -> Option<Vec<OsString>> {
        let Host::Tcp { name, port } = host else {
            return None;
        };
        let port = port.to_string();
        let words = self.0.iter().map(|word| replaced(word, name, &port));
        words.collect::<Result<_, _>>().ok()
    }
}

/// The word with host and port in place of `%h` and `%p`. The error is what stands there instead.
fn replaced(word: &OsStr, host: &str, port: &str) -> Result<OsString, String> {
    let mut out = Vec::new();
    let mut bytes = word.as_bytes();
    while let Some((&byte, rest)) = bytes.split_first() {
        bytes = rest;
        match (byte, rest.first()) {
            (b'%', Some(b'h')) => out.extend_from_slice(host.as_bytes()),
            (b'%', Some(b'p')) => out.extend_from_slice(port.as_bytes()),
            (b'%', Some(b'%')) => out.push(b'%'),
            (b'%', other) => {
                let found: Vec<u8> = [b'%'].into_iter().chain(other.copied()).collect();
                return Err(String::from_utf8_lossy(&found).into_owned());
            }
            _ => {
                out.push(byte);
                continue;
            }
        }
        bytes = &rest[1..];
    }
    Ok(OsString::from_vec(out))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(name: &str) -> Host {
        Host::Tcp {
            name: name.into(),
            port: 2181,
        }
    }

    #[test]
    fn host_and_port_are_replaced_in_each_word() {
        for (text, name, words) in [
            ("ssh -W %h:%p bastion", "zk1", "ssh|-W|zk1:2181|bastion"),
            ("'a b' %%h 100%%", "zk1", "a b|%h|100%"),
            ("nc %h %p", "::1", "nc|::1|2181"),
            ("x %p%h", "a%hb", "x|2181a%hb"),
        ] {
            let proxy = Proxy::parse(text.as_ref()).unwrap();
            let found = proxy.command(&host(name)).unwrap().join("|".as_ref());
            assert_eq!(found, words, "{text}");
        }
    }

    #[test]
    fn unix_socket_has_no_command() {
        let proxy = Proxy::parse("nc %h %p".as_ref()).unwrap();
        assert_eq!(proxy.command(&Host::Unix("/run/zk".into())), None);
    }

    #[test]
    fn invalid_commands_are_refused_with_the_reason() {
        for (text, sentence) in [
            ("", "the command is empty"),
            ("  ", "the command is empty"),
            ("nc 'a", "cannot split the command: no closing '"),
            (
                "nc %n",
                "\"%n\" is not known: expected %h (the host), %p (the port) or %% (a percent sign)",
            ),
            (
                "nc %",
                "\"%\" is not known: expected %h (the host), %p (the port) or %% (a percent sign)",
            ),
            ("nc a\0", "the command must not contain a zero byte"),
        ] {
            let found = Proxy::parse(text.as_ref()).map_err(|flaw| flaw.to_string());
            assert_eq!(found, Err(sentence.to_owned()));
        }
    }
}
