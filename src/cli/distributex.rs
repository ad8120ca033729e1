//! `distributex`: its help, its options and its plan. Options and defaults are those of the Python
//! original, with a few more; but the lock file of the host works as the original's manual says,
//! not as its code did.

use super::access_tokens;
use super::line::Form;
use super::options::{self, Common, Mode, Taken, next_argument};
use super::{Environment, Fault, Program, Request, value};
use crate::plan::access::AccessToken;
use crate::plan::connection::Tls;
use crate::plan::hosts::{self, InvalidHosts};
use crate::plan::inspection::Locks;
use crate::plan::{Command, Connection, Host, Lock, LockServer, Plan, PoolTarget};
use lexopt::prelude::*;
use std::ffi::OsString;
use std::net::Ipv6Addr;
use std::path::PathBuf;

/// The program.
pub const PROGRAM: Program = Program {
    name: "distributex",
    help: HELP,
    request: options::request::<Options>,
};

/// What `--help` prints.
const HELP: &str = "\
Usage: distributex [options] -H HOST -r POOL COMMAND
       distributex [options] -l -r POOL COMMAND
       distributex [options] -H HOST --status|--check [-r POOL]
       distributex [options] -H HOST --break -r POOL

Run a command while holding a slot in a pool of a lock server.
COMMAND is one word, and sh -c runs it. Only one run per host asks the server
for a pool; other runs on that host exit at once.

Lock:
  -H HOST[,HOST...]       use lock server HOST, unix:/PATH or https://HOST/PATH
  -r POOL                 acquire a slot in POOL
  -p PORT                 use PORT of the server [default: 9889]
  -l                      without -H: hold the lock of this host and use no
                          server; with -H: no effect
      --no-local-lock     allow several runs on this host
      --as HOST           use HOST as this host's name [default: its full name]
      --access-token-file FILE  send the access token in FILE
  -w, --wait SECS         wait up to SECS (or inf) for the lock [default: inf]
                          for an unreachable server, wait up to SECS, but at
                          least 10 [default: 10]
  -x, --exitcode N        exit with N if the lock is busy [default: 1]
Command:
  -k, --kill-after SECS   kill the command SECS after a stop signal [default: 5]
      --pdeathsig SIG     signal the command if distributex dies [default: TERM]
Connection:
      --proxy COMMAND     connect by COMMAND, e.g. ssh -W %h:%p bastion
      --tls-ca FILE       connect by TLS; trust the CA certificates in FILE
      --tls-cert FILE     show the server the certificate in FILE
      --tls-key FILE      its key [default: in the file of --tls-cert]
      --tls-name NAME     the server's certificate has NAME [default: the host]
Instead of a command:
      --status            show the holders and the waiters of locks
      --json              print --status or --check as JSON
      --check             check the server, without a lock
      --break             revoke the slot; wait up to -w [default: 30]
      --token N           with --break: only the holder with this token
Output and help:
      --notify[=HOW]      report state to systemd; HOW: wait, pass or wait,pass
      --metrics FILE      add figures of the run to FILE, for node_exporter
      --sysexits          use distinct exit codes from sysexits.h for failures
  -v, --verbose           log each step to stderr
  -V, --version           print the version
  -h, --help              print this help
      --program=NAME      act as program NAME; must be the first word

SECS may have units: 90, 90s, 1h30m. Exit code: the command's own; 128+N if
signal N killed it; N of -x if the lock is busy; others: see distributex(1).
";

/// The option whose abbreviation `--a` keeps its meaning.
const OWN_NAME: &str = "as";

/// The port without `-p`.
const DEFAULT_PORT: u16 = 9889;

/// The port of `https://` without one.
const HTTPS_PORT: u16 = 443;

/// The server of `-H`.
#[derive(Debug)]
enum Site {
    /// Names or addresses: at least one.
    Hosts(Vec<String>),
    /// A unix socket.
    Socket(PathBuf),
    /// `https://NAME[:PORT][PREFIX]`.
    Url {
        name: String,
        port: Option<u16>,
        /// Empty, or a path without a slash at its end.
        prefix: String,
    },
}

/// The options, with the defaults of those that were not given.
#[derive(Debug, Default)]
struct Options {
    server: Option<Site>,
    pool: Option<String>,
    port: Option<u16>,
    local: bool,
    no_local_lock: bool,
    own_name: Option<String>,
    access_token_file: Option<PathBuf>,
    common: Common,
}

impl options::Options for Options {
    const FORM: Form = Form {
        program: PROGRAM.name,
        before: 0,
        one_word: true,
    };

    fn take(&mut self, parser: &mut lexopt::Parser) -> Result<Taken, Fault> {
        let Some(argument) = next_argument(parser, HELP, &[OWN_NAME])? else {
            return Ok(Taken::All);
        };
        match argument {
            Short('H') => self.server = Some(server(parser.value()?)?),
            Short('r') => self.pool = Some(value::text("-r", parser.value()?)?),
            Short('p') => self.port = Some(value::SERVER_PORT.take("-p", parser)?),
            Short('l') => self.local = true,
            Long("no-local-lock") => self.no_local_lock = true,
            Long("as") => self.own_name = Some(own_name(parser.value()?)?),
            Long("access-token-file") => {
                self.access_token_file =
                    Some(value::file("--access-token-file", &parser.value()?)?);
            }
            argument => return self.common.take(argument, parser),
        }
        Ok(Taken::Argument)
    }

    fn common(&self) -> &Common {
        &self.common
    }

    fn plan(mut self, environment: &Environment) -> Result<Plan, Fault> {
        let words = std::mem::take(&mut self.common.words);
        if words.len() > 1 {
            return Err(Fault::Unquoted(words.len()));
        }
        let lock = self.lock(environment)?;
        let command = command(words)?;
        Ok(self
            .common
            .plan(PROGRAM.name, lock, command, 1, environment))
    }

    fn request(mut self, environment: &Environment) -> Result<Request, Fault> {
        match self.common.mode {
            Mode::Run => self.plan(environment).map(Request::Run),
            Mode::Status => {
                let (locks, pool) = self.locks(environment)?;
                let count = usize::from(pool.is_some());
                let inspection = self.common.inspection(PROGRAM.name, locks, count);
                Ok(Request::Status(inspection))
            }
            Mode::Break => {
                let (locks, pool) = self.locks(environment)?;
                let pool = pool.ok_or(Fault::Missing {
                    option: "-r POOL",
                    hint: "",
                })?;
                let common = self.common;
                let eviction = common.eviction(PROGRAM.name, locks, pool, environment);
                Ok(Request::Break(eviction))
            }
            Mode::Check => {
                let (locks, _) = self.locks(environment)?;
                let check = self.common.client_check(PROGRAM.name, None, locks)?;
                Ok(Request::CheckClient(check))
            }
        }
    }
}

impl Options {
    /// The pools to look at, one or all, and the name of the one.
    fn locks(&mut self, environment: &Environment) -> Result<(Locks, Option<String>), Fault> {
        if let Some(word) = self.common.words.first() {
            return Err(Fault::Unexpected(word.to_string_lossy().into_owned()));
        }
        let server = self.server(environment)?.ok_or(Fault::Missing {
            option: "-H HOST",
            hint: "",
        })?;
        let pool = self.pool.take();
        let locks = Locks::Pools {
            server,
            pool: pool.clone(),
        };
        Ok((locks, pool))
    }

    /// The server, from `-H` and `-p`.
    fn server(&mut self, environment: &Environment) -> Result<Option<LockServer>, Fault> {
        let Some(site) = self.server.take() else {
            return Ok(None);
        };
        let is_url = matches!(site, Site::Url { .. });
        let (hosts, prefix) = match (site, self.port) {
            (Site::Hosts(names), port) => {
                let port = port.unwrap_or(DEFAULT_PORT);
                let hosts = names.into_iter().map(|name| Host::Tcp { name, port });
                (hosts.collect(), String::new())
            }
            (Site::Url { name, port, prefix }, given) => {
                if port.is_some() && given.is_some() {
                    return Err(Fault::Conflict {
                        option: "-p",
                        with: "a port in -H",
                    });
                }
                let port = port.or(given).unwrap_or(HTTPS_PORT);
                (vec![Host::Tcp { name, port }], prefix)
            }
            (Site::Socket(path), None) => (vec![Host::Unix(path)], String::new()),
            (Site::Socket(_), Some(_)) => {
                return Err(Fault::Conflict {
                    option: "-p",
                    with: "-H unix:/PATH",
                });
            }
        };
        if is_url && self.common.proxy.is_some() {
            return Err(Fault::Conflict {
                option: "--proxy",
                with: "-H https://HOST",
            });
        }
        let connection = match self.common.tls_option() {
            Some(option) if !is_url => {
                return Err(Fault::Needs {
                    option,
                    needed: "-H https://HOST",
                });
            }
            _ if is_url => Connection::Tls(Tls::default()),
            _ => Connection::Direct,
        };
        let connection = self.common.connection(&hosts, connection, environment)?;
        Ok(Some(LockServer {
            hosts,
            connection,
            prefix,
            access_token: self.access_token(environment)?,
        }))
    }

    /// The first access token in the file of the option, or of the environment.
    fn access_token(&mut self, environment: &Environment) -> Result<Option<AccessToken>, Fault> {
        let from_environment = environment.access_token_file.as_ref();
        let file = self.access_token_file.take().or_else(|| {
            from_environment
                .filter(|path| !path.is_empty())
                .map(PathBuf::from)
        });
        let tokens = file
            .map(|path| access_tokens::read(&path, environment.effective_user))
            .transpose()?;
        Ok(tokens.and_then(|tokens| tokens.into_iter().next()))
    }

    fn lock(&mut self, environment: &Environment) -> Result<Lock, Fault> {
        let pool = self.pool.take().ok_or(Fault::Missing {
            option: "-r POOL",
            hint: "",
        })?;
        if pool.is_empty() {
            return Err(value::invalid("-r", "the name of a pool", pool.as_ref()));
        }
        if self.local && self.no_local_lock {
            return Err(Fault::Conflict {
                option: "--no-local-lock",
                with: "-l",
            });
        }
        let host_lock = if self.no_local_lock {
            None
        } else {
            Some(host_lock(&pool)?)
        };
        match (self.server(environment)?, host_lock) {
            (Some(server), host_lock) => Ok(Lock::Pool(PoolTarget {
                server,
                pool,
                host: self.own_name.take(),
                wait_for_server: self.common.wait.is_some(),
                host_lock,
            })),
            (None, Some(file)) if self.local => Ok(Lock::Host(file)),
            (None, _) => Err(Fault::Missing {
                option: "-H HOST",
                hint: " (or use -l for a lock on this host only)",
            }),
        }
    }
}

/// The lock file of the original, one for each pool on a host.
fn host_lock(pool: &str) -> Result<PathBuf, Fault> {
    if pool.contains(['/', '\0']) {
        return Err(value::invalid(
            "-r",
            "a pool name without \"/\" (or use --no-local-lock)",
            pool.as_ref(),
        ));
    }
    Ok(format!("/tmp/dx-{pool}.lock").into())
}

/// The shell has its full path, as in the original, so that a PATH without a shell does not matter.
fn command(words: Vec<OsString>) -> Result<Command, Fault> {
    let line = words.into_iter().next().ok_or(Fault::NoCommand)?;
    if line.is_empty() {
        return Err(Fault::EmptyCommand);
    }
    Ok(Command {
        shown: line.to_string_lossy().into_owned(),
        words: vec!["/bin/sh".into(), "-c".into(), line],
    })
}

/// Parses names or addresses with commas between them, each of which may be in brackets as in a URL;
/// or a unix socket, or a URL.
fn server(found: OsString) -> Result<Site, Fault> {
    let text = value::text("-H", found)?;
    if let Some(path) = hosts::parse_socket(&text) {
        return path.map(Site::Socket).map_err(|flaw| Fault::Hosts {
            option: "-H",
            flaw: InvalidHosts::Socket { item: text, flaw },
        });
    }
    if let Some(rest) = text.strip_prefix("https://") {
        return url(rest)
            .ok_or_else(|| value::invalid("-H", "https://HOST[:PORT][/PREFIX]", text.as_ref()));
    }
    let names: Option<Vec<_>> = text.split(',').map(name).collect();
    names.map(Site::Hosts).ok_or_else(|| {
        value::invalid(
            "-H",
            "a name or address, without a port (that is -p)",
            text.as_ref(),
        )
    })
}

/// Parses one of the names or addresses of `-H`.
fn name(text: &str) -> Option<String> {
    let name = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(text);
    let address = name.split('%').next().unwrap_or(name);
    let fits = !name.is_empty()
        && !name.contains(|c: char| c.is_whitespace() || c.is_control() || "/[]\"".contains(c));
    (fits && (!name.contains(':') || address.parse::<Ipv6Addr>().is_ok())).then(|| name.to_owned())
}

/// Parses what follows `https://`.
fn url(text: &str) -> Option<Site> {
    let (authority, prefix) = text.split_at(text.find('/').unwrap_or(text.len()));
    let prefix = prefix.trim_end_matches('/');
    let fits = |c: char| c.is_ascii_alphanumeric() || "/-._~".contains(c);
    let mut ensemble = hosts::parse(authority).ok()?;
    let host = (ensemble.hosts.len() == 1).then(|| ensemble.hosts.remove(0))?;
    let Host::Tcp { name, port } = host else {
        return None;
    };
    let has_port = authority
        .trim_end_matches(|c: char| c.is_ascii_digit())
        .ends_with(':')
        && !authority.ends_with(':');
    (prefix.chars().all(fits) && authority.trim() == authority && !authority.contains(',')).then(
        || Site::Url {
            name,
            port: has_port.then_some(port),
            prefix: prefix.to_owned(),
        },
    )
}

/// Parses the name of this host for the server. The server keeps several names in one text,
/// separated by commas.
fn own_name(found: OsString) -> Result<String, Fault> {
    let text = value::text("--as", found)?;
    if text.is_empty() || text.contains(|c: char| c.is_control() || c == ',') {
        return Err(value::invalid("--as", "the name of a host", text.as_ref()));
    }
    Ok(text)
}

#[cfg(test)]
mod tests;
