//! How connections to servers are made: TCP or a unix socket, or a command for each of them.

use super::Host;
use crate::shell::words;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::net::IpAddr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// How connections to servers are made.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Connection {
    /// By this program.
    #[default]
    Direct,
    /// By a command for each connection, whose stdin and stdout are connected to the server.
    Proxy(Proxy),
    /// By openssl or socat, which speak TLS.
    Tls(Tls),
}

/// A connection by TLS: the chain of the server's certificate and its name are verified.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Tls {
    /// The certificates of the authorities that are trusted; `None`: those of the system.
    pub ca: Option<PathBuf>,
    /// The certificate of this client.
    pub cert: Option<PathBuf>,
    /// Its key; `None`: it is in the file of the certificate.
    pub key: Option<PathBuf>,
    /// The name in the server's certificate; `None`: the host.
    pub name: Option<String>,
    /// The program that speaks TLS.
    pub tool: Tool,
}

/// A program that speaks TLS.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Tool {
    /// `openssl s_client`.
    #[default]
    Openssl,
    /// `socat`.
    Socat,
}

impl Connection {
    /// The words of the command that connects to a server; `None`: no command does.
    pub fn command(&self, host: &Host) -> Option<Vec<OsString>> {
        match self {
            Connection::Direct => None,
            Connection::Proxy(proxy) => proxy.command(host),
            Connection::Tls(tls) => tls.command(host),
        }
    }

    /// Whether the server gets a certificate of this client, which is an identity to it.
    pub fn shows_certificate(&self) -> bool {
        matches!(self, Connection::Tls(tls) if tls.cert.is_some())
    }
}

impl Tls {
    /// The file of the client's key.
    pub fn key_file(&self) -> Option<&Path> {
        self.key.as_deref().or(self.cert.as_deref())
    }

    fn command(&self, host: &Host) -> Option<Vec<OsString>> {
        let Host::Tcp { name, .. } = host else {
            return None;
        };
        let verified = self.name.as_deref().unwrap_or(name);
        let target = host.to_string();
        Some(match self.tool {
            Tool::Openssl => self.openssl(verified, &target),
            Tool::Socat => self.socat(verified, &target),
        })
    }

    /// `-verify` makes openssl verify the chain, `-verify_hostname` and `-verify_ip` the name, and
    /// `-verify_return_error` makes a failure end the connection. `-quiet` passes bytes on as they
    /// are, without commands like Q, and hides what does not belong to the connection.
    fn openssl(&self, verified: &str, target: &str) -> Vec<OsString> {
        let quiet = ["openssl", "s_client", "-quiet"];
        let verify = ["-verify", VERIFY_DEPTH, "-verify_return_error"];
        let mut words: Vec<OsString> = quiet.into_iter().chain(verify).map(Into::into).collect();
        if verified.parse::<IpAddr>().is_ok() {
            words.extend(["-verify_ip", verified].map(Into::into));
        } else {
            words.extend(["-verify_hostname", verified, "-servername", verified].map(Into::into));
        }
        let files = [
            ("-CAfile", self.ca.as_deref()),
            ("-cert", self.cert.as_deref()),
            ("-key", self.cert.as_ref().and(self.key_file())),
        ];
        for (option, file) in files {
            words.extend(
                file.into_iter()
                    .flat_map(|file| [option.into(), file.into()]),
            );
        }
        words.extend(["-connect", target].map(Into::into));
        words
    }

    fn socat(&self, verified: &str, target: &str) -> Vec<OsString> {
        let mut address =
            OsString::from(format!("OPENSSL:{target},verify=1,commonname={verified}"));
        if verified.parse::<IpAddr>().is_err() {
            address.push(format!(",snihost={verified}"));
        }
        let files = [
            (",cafile=", self.ca.as_deref()),
            (",cert=", self.cert.as_deref()),
            (",key=", self.cert.as_ref().and(self.key_file())),
        ];
        for (option, file) in files {
            if let Some(file) = file {
                address.push(option);
                address.push(file);
            }
        }
        vec!["socat".into(), "-".into(), address]
    }
}

/// The longest chain of certificates that is verified: openssl's own examples use it.
const VERIFY_DEPTH: &str = "9";

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
    fn tls_always_verifies_chain_and_name() {
        let tls = Tls {
            ca: Some("/ca".into()),
            cert: Some("/me".into()),
            ..Tls::default()
        };
        let command = |tls: Tls, name: &str| {
            let words = Connection::Tls(tls).command(&host(name)).unwrap();
            words.join(" ".as_ref()).into_string().unwrap()
        };
        assert_eq!(
            command(tls.clone(), "zk1"),
            "openssl s_client -quiet -verify 9 -verify_return_error -verify_hostname zk1 -servername zk1 \
             -CAfile /ca -cert /me -key /me -connect zk1:2181"
        );
        assert_eq!(
            command(Tls::default(), "::1"),
            "openssl s_client -quiet -verify 9 -verify_return_error -verify_ip ::1 -connect [::1]:2181"
        );
        let named = Tls {
            name: Some("zk".into()),
            key: Some("/key".into()),
            tool: Tool::Socat,
            ..tls
        };
        assert_eq!(
            command(named, "10.0.0.1"),
            "socat - OPENSSL:10.0.0.1:2181,verify=1,commonname=zk,snihost=zk,cafile=/ca,cert=/me,key=/key"
        );
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
