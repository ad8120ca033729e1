//! Command lines: what the programs share. Each program has its own file with its help, its options
//! and its plan; here are the request that a command line makes, the faults that it can have, and
//! the exit codes of these faults.

mod access_tokens;
#[cfg(test)]
mod common_tests;
pub mod distributex;
pub mod distributexd;
mod line;
pub mod lockex;
mod options;
mod python_hash;
pub mod value;
pub mod zk_flock;

use crate::config;
use crate::plan::access::TokenFileFlaw;
use crate::plan::notify::Manager;
use crate::plan::{
    ClientCheck, Eviction, Inspection, OuterLock, Plan, Server, connection, hosts, names,
};
use crate::reason::reason;
use crate::shell::words;
use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// A program of this executable.
pub struct Program {
    /// The last component of `argv[0]`.
    pub name: &'static str,
    /// What `--help` prints; its first paragraph is the usage.
    pub help: &'static str,
    /// Parses the arguments after the program's name.
    pub request: fn(Vec<OsString>, &Environment) -> Result<Request, Error>,
}

impl Program {
    /// The first paragraph of the help.
    pub fn usage(&self) -> &'static str {
        self.help.split("\n\n").next().unwrap_or(self.help)
    }
}

/// What a plan depends on besides arguments and config.
#[derive(Clone, Default, Debug)]
pub struct Environment {
    /// `$ZKHOSTS`.
    pub zkhosts: Option<OsString>,
    /// `$ZK_FLOCK_CONFIG`.
    pub config: Option<OsString>,
    /// `$ZK_FLOCK_HOSTS`.
    pub hosts: Option<OsString>,
    /// `$ZK_FLOCK_APP_ID`.
    pub app_id: Option<OsString>,
    /// `$ZK_FLOCK_TIMEOUT`.
    pub timeout: Option<OsString>,
    /// `$DISTRIBUTEX_ACCESS_TOKEN_FILE`.
    pub access_token_file: Option<OsString>,
    /// `$NOTIFY_SOCKET`.
    pub notify_socket: Option<OsString>,
    /// `$WATCHDOG_USEC`.
    pub watchdog_usec: Option<OsString>,
    /// `$WATCHDOG_PID`.
    pub watchdog_pid: Option<OsString>,
    /// The user who started this program.
    pub user: Option<String>,
    /// Returns the user with whose rights it runs. It is called only for a file of secrets: other
    /// runs make no system call more.
    pub effective_user: Option<fn() -> u32>,
    /// The locks under which this program was started, nearest first.
    pub outer_locks: Vec<OuterLock>,
    /// The start of relative paths; a daemon leaves this directory.
    pub current_dir: PathBuf,
}

impl Environment {
    /// The service manager that has asked for messages. `Err`: its socket is of a kind that is not
    /// known.
    fn manager(&self) -> Result<Option<Manager>, OsString> {
        let variables = [&self.notify_socket, &self.watchdog_usec, &self.watchdog_pid];
        let [socket, usec, pid] = variables.map(Option::as_ref);
        Manager::of(socket, usec, pid)
    }
}

/// What the arguments ask for.
#[derive(Debug)]
#[allow(clippy::large_enum_variant)] // one is made in the life of a process
pub enum Request {
    /// Run a command under a lock.
    Run(Plan),
    /// Take a lock away from its holder.
    Break(Eviction),
    /// Show what is known of locks.
    Status(Inspection),
    /// Serve locks.
    Serve(Server),
    /// Check config and servers of a client.
    CheckClient(ClientCheck),
    /// Check the config of a server.
    Check(Server),
    /// Print the program's help.
    Help,
    /// Print the program's name and version.
    Version,
}

/// Why the arguments make no request. Printed as a sentence without the program's name.
#[derive(Debug)]
pub struct Error {
    fault: Box<Fault>,
    /// The command line that the operator probably meant.
    advice: Option<String>,
    /// Whether the arguments have `--sysexits`.
    sysexits: bool,
}

/// What is wrong with the arguments or the config.
#[derive(Debug)]
pub(crate) enum Fault {
    /// The option does not exist, lacks its value, or takes none.
    Option(lexopt::Error),
    /// The long option does not exist; `meant` is the most similar one.
    Unknown {
        typed: String,
        meant: Option<&'static str>,
    },
    /// The long option is abbreviated, and several have this prefix.
    Ambiguous {
        typed: String,
        candidates: Vec<&'static str>,
    },
    /// The option cannot have this value.
    Value {
        option: &'static str,
        expected: &'static str,
        found: String,
    },
    /// The number starts like an octal number, but is none.
    Octal {
        option: &'static str,
        found: String,
        decimal: i64,
    },
    /// The value is not a connection string.
    Hosts {
        option: &'static str,
        flaw: hosts::InvalidHosts,
    },
    /// The value is not a command for connections.
    Proxy {
        option: &'static str,
        flaw: connection::InvalidProxy,
    },
    /// The two options contradict each other.
    Conflict {
        option: &'static str,
        with: &'static str,
    },
    /// The two options contradict each other, for a reason that is not plain.
    Useless {
        option: &'static str,
        with: &'static str,
        why: &'static str,
    },
    /// The option has a meaning only beside another.
    Needs {
        option: &'static str,
        needed: &'static str,
    },
    /// The lock cannot have this name.
    Name {
        what: &'static str,
        name: String,
        flaw: names::InvalidName,
    },
    /// The command cannot be split into words.
    Command(words::Unfinished),
    /// A required option is missing.
    Missing {
        option: &'static str,
        hint: &'static str,
    },
    /// Lock name and command are missing.
    NoWords,
    /// The command is missing.
    NoCommand,
    /// The command has no words in it.
    EmptyCommand,
    /// `--break` of lockex names no lock.
    NoId,
    /// There are this many words instead of one name.
    OneName(usize),
    /// There are this many words instead of a name and a command.
    TooManyWords(usize),
    /// There are this many words instead of one command.
    Unquoted(usize),
    /// The config cannot be read.
    Unreadable { path: PathBuf, source: io::Error },
    /// The default config cannot be read, and no other is given.
    NoDefaultConfig { path: PathBuf, source: io::Error },
    /// The file is longer than any config.
    TooLong(PathBuf),
    /// The file has no access tokens, or other users can read it.
    AccessTokens { path: PathBuf, flaw: TokenFileFlaw },
    /// The config is invalid.
    Config(config::Error),
    /// The server's config is invalid.
    ServerConfig(config::server::Error),
    /// The server's config has unknown keys.
    UnknownKeys { first: String, others: usize },
    /// None of these config files exists.
    NoConfig(&'static [&'static str]),
    /// The program takes no words, but found this one.
    Unexpected(String),
}

impl Error {
    /// Mirrors EXIT STATUS in the man pages.
    pub fn exit_code(&self) -> u8 {
        let (plain, sysexit) = match *self.fault {
            _ if self.wants_usage() => (1, 64),
            Fault::Unreadable { .. }
            | Fault::NoDefaultConfig { .. }
            | Fault::TooLong(_)
            | Fault::AccessTokens { .. }
            | Fault::Config(_)
            | Fault::ServerConfig(_)
            | Fault::UnknownKeys { .. }
            | Fault::NoConfig(_) => (1, 78),
            _ => (2, 64),
        };
        if self.sysexits { sysexit } else { plain }
    }

    /// Whether to print the usage after the message.
    pub fn wants_usage(&self) -> bool {
        matches!(
            *self.fault,
            Fault::NoWords | Fault::NoCommand | Fault::EmptyCommand | Fault::TooManyWords(_)
        )
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        self.fault.fmt(f)?;
        match (&*self.fault, &self.advice) {
            (_, None) => Ok(()),
            (Fault::TooManyWords(_) | Fault::Unquoted(_), Some(line)) => write!(f, "; use: {line}"),
            (_, Some(line)) => write!(f, "; to pass options to the command, use: {line}"),
        }
    }
}

impl std::error::Error for Error {}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Fault::Option(error) => error.fmt(f),
            Fault::Unknown {
                typed,
                meant: Some(meant),
            } => write!(f, "invalid option '--{typed}' (did you mean --{meant}?)"),
            Fault::Unknown { typed, meant: None } => write!(f, "invalid option '--{typed}'"),
            Fault::Octal {
                option,
                found,
                decimal,
            } => {
                write!(
                    f,
                    "{option}: {found:?} begins with a zero, which means octal, but is not an octal number: write {decimal}"
                )
            }
            Fault::Ambiguous { typed, candidates } => {
                write!(
                    f,
                    "option '--{typed}' is ambiguous: it could be --{}",
                    candidates.join(" or --")
                )
            }
            Fault::Value {
                option,
                expected,
                found,
            } => write!(f, "{option}: expected {expected}, found {found:?}"),
            Fault::Hosts { option, flaw } => write!(f, "{option}: {flaw}"),
            Fault::Proxy { option, flaw } => write!(f, "{option}: {flaw}"),
            Fault::Conflict { option, with } => write!(f, "{option} cannot be used with {with}"),
            Fault::Useless { option, with, why } => {
                write!(f, "{option} cannot be used with {with}: {why}")
            }
            Fault::Needs { option, needed } => write!(f, "{option} can only be used with {needed}"),
            Fault::Name { what, name, flaw } => write!(f, "{what} {name:?}: {flaw}"),
            Fault::Command(unfinished) => write!(f, "cannot split the command: {unfinished}"),
            Fault::Missing { option, hint } => write!(f, "{option} is required{hint}"),
            Fault::NoWords => write!(f, "lock name and command are missing"),
            Fault::NoCommand => write!(f, "the command is missing"),
            Fault::EmptyCommand => write!(f, "the command is empty"),
            Fault::NoId => write!(
                f,
                "--break: expected --lockid ID, or the COMMAND of the lock"
            ),
            Fault::OneName(found) => {
                write!(f, "--break: expected one lock name, found {found} words")
            }
            Fault::TooManyWords(found) => {
                write!(
                    f,
                    "expected LOCKNAME and one quoted COMMAND, or LOCKNAME -- PROGRAM ARG..., found {found} words"
                )
            }
            Fault::Unquoted(found) => write!(f, "expected one quoted COMMAND, found {found} words"),
            Fault::Unreadable { path, source } => {
                write!(f, "cannot read {}: {}", path.display(), reason(source))
            }
            Fault::NoDefaultConfig { path, source } => {
                let (path, why) = (path.display(), reason(source));
                write!(
                    f,
                    "cannot read {path}: {why}; use --hosts and --app-id, or another config with -c FILE (a sample is {SAMPLE})"
                )
            }
            Fault::TooLong(path) => {
                write!(
                    f,
                    "cannot read {}: a config must not be larger than 1 MiB",
                    path.display()
                )
            }
            Fault::AccessTokens { path, flaw } => {
                let path = path.display();
                write!(f, "cannot use the access tokens in {path}: {flaw}")
            }
            Fault::Config(error) => error.fmt(f),
            Fault::ServerConfig(error) => error.fmt(f),
            Fault::UnknownKeys { first, others: 0 } => f.write_str(first),
            Fault::UnknownKeys { first, others } => write!(f, "{first}; and {others} more"),
            Fault::NoConfig(paths) => write!(
                f,
                "no config file found (tried {}): use -c FILE",
                paths.join(", ")
            ),
            Fault::Unexpected(word) => {
                write!(f, "unexpected argument {word:?}: expected only options")
            }
        }
    }
}

impl From<lexopt::Error> for Fault {
    fn from(error: lexopt::Error) -> Fault {
        Fault::Option(error)
    }
}

impl From<config::server::Error> for Fault {
    fn from(error: config::server::Error) -> Fault {
        Fault::ServerConfig(error)
    }
}

impl From<config::Error> for Fault {
    fn from(error: config::Error) -> Fault {
        Fault::Config(error)
    }
}

/// Checks the name of `what` by one of the rules in [`names`].
fn check_name(
    what: &'static str,
    name: &str,
    allowed: fn(&str) -> Result<(), names::InvalidName>,
) -> Result<(), Fault> {
    allowed(name).map_err(|flaw| Fault::Name {
        what,
        name: name.into(),
        flaw,
    })
}

/// The sample config that the packages install.
const SAMPLE: &str = "/usr/share/doc/zk-flock/examples/distributed-flock.json";

/// The most bytes of a config.
const MAX_CONFIG: u64 = 1 << 20;

/// A config that is shorter is read in one piece. The documented one has 500 bytes.
const TYPICAL_CONFIG: usize = 1024;

/// Reads a config from a file or a pipe.
fn read(path: &Path) -> Result<Vec<u8>, Fault> {
    let file = File::open(path).map_err(unreadable(path))?;
    read_all(file, path)
}

/// The fault of a file that cannot be read.
fn unreadable(path: &Path) -> impl Fn(io::Error) -> Fault {
    move |source| Fault::Unreadable {
        path: path.to_owned(),
        source,
    }
}

/// Reads the rest of a file, which was opened at this path.
fn read_all(file: File, path: &Path) -> Result<Vec<u8>, Fault> {
    let mut text = Vec::with_capacity(TYPICAL_CONFIG);
    let length = file
        .take(MAX_CONFIG + 1)
        .read_to_end(&mut text)
        .map_err(unreadable(path))?;
    if length as u64 > MAX_CONFIG {
        Err(Fault::TooLong(path.to_owned()))
    } else {
        Ok(text)
    }
}
