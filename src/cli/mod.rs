//! From words to a plan: what all programs share. Each has its own file with its HELP, its options
//! and what they come to; here is what can be asked for, what can be wrong with it, and the one
//! place that gives an exit code to that.

pub mod distributex;
pub mod distributexd;
mod line;
pub mod lockex;
mod options;
mod python_hash;
pub mod value;
pub mod zk_flock;

use crate::config;
use crate::plan::{OuterLock, Plan, Server, hosts, names};
use crate::reason::reason;
use crate::shell::words;
use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// A name that this executable answers to.
pub struct Program {
    /// As in `argv[0]`, without folders.
    pub name: &'static str,
    /// What `--help` prints; its first paragraph is the usage.
    pub help: &'static str,
    /// What the words after the name ask for.
    pub request: fn(Vec<OsString>, &Environment) -> Result<Request, Error>,
}

impl Program {
    /// The first paragraph of the help.
    pub fn usage(&self) -> &'static str {
        self.help.split("\n\n").next().unwrap_or(self.help)
    }
}

/// What a plan depends on besides words and config.
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
    /// The locks under which we were started, nearest first.
    pub outer_locks: Vec<OuterLock>,
    /// Where relative paths begin; a daemon leaves it.
    pub current_dir: PathBuf,
}

/// What argv asks for.
#[derive(Debug)]
#[allow(clippy::large_enum_variant)] // one is made in the life of a process
pub enum Request {
    /// Do this.
    Run(Plan),
    /// Serve locks.
    Serve(Server),
    /// Say that this could be served.
    Check(Server),
    /// Print the program's help.
    Help,
    /// Print name and version.
    Version,
}

/// Why there is no plan. Shown, it is a sentence without the program's name.
#[derive(Debug)]
pub struct Error {
    fault: Box<Fault>,
    /// The line that was probably meant.
    advice: Option<String>,
    /// Whether `--sysexits` was among the words.
    sysexits: bool,
}

/// What is wrong with words or config.
#[derive(Debug)]
pub(crate) enum Fault {
    /// An option that does not exist, lacks its value, or has one where none belongs.
    Option(lexopt::Error),
    /// A long option that does not exist, and the one that it is most like.
    Unknown {
        typed: String,
        meant: Option<&'static str>,
    },
    /// A long option that is cut too short.
    Ambiguous {
        typed: String,
        candidates: Vec<&'static str>,
    },
    /// A value that the option cannot have.
    Value {
        option: &'static str,
        expected: &'static str,
        found: String,
    },
    /// A number that begins like an octal one but is none.
    Octal {
        option: &'static str,
        found: String,
        decimal: i64,
    },
    /// Not a connection string.
    Hosts {
        option: &'static str,
        flaw: hosts::InvalidHosts,
    },
    /// Two options that contradict each other.
    Conflict {
        option: &'static str,
        with: &'static str,
    },
    /// A name that a lock cannot have.
    Name {
        what: &'static str,
        name: String,
        flaw: names::InvalidName,
    },
    /// The command cannot be cut into words.
    Command(words::Unfinished),
    /// An option that there must be.
    Missing {
        option: &'static str,
        what: &'static str,
    },
    /// Neither a lock's name nor a command.
    NoWords,
    /// No command.
    NoCommand,
    /// The command has no words in it.
    EmptyCommand,
    /// So many words where a name and a command should be.
    TooManyWords(usize),
    /// So many words where a command should be.
    Unquoted(usize),
    /// The config cannot be read.
    Unreadable { path: PathBuf, source: io::Error },
    /// No config is named, and the default one cannot be read.
    NoDefaultConfig { path: PathBuf, source: io::Error },
    /// The config is longer than any config is.
    TooLong(PathBuf),
    /// The config is wrong.
    Config(config::Error),
    /// The server's config is wrong.
    ServerConfig(config::server::Error),
    /// The server's config has keys that are none.
    UnknownKeys {
        path: PathBuf,
        first: String,
        others: usize,
    },
    /// There is no config at any of these paths.
    NoConfig(&'static [&'static str]),
    /// A word where there should be none.
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
            | Fault::Config(_)
            | Fault::ServerConfig(_)
            | Fault::UnknownKeys { .. }
            | Fault::NoConfig(_) => (1, 78),
            _ => (2, 64),
        };
        if self.sysexits { sysexit } else { plain }
    }

    /// Whether the usage should follow the sentence.
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
                    "{option}: {found:?} is not an octal number, which a leading zero means: write {decimal}"
                )
            }
            Fault::Ambiguous { typed, candidates } => {
                write!(f, "--{typed} could be --{}", candidates.join(" or --"))
            }
            Fault::Value {
                option,
                expected,
                found,
            } => write!(f, "{option}: expected {expected}, found {found:?}"),
            Fault::Hosts { option, flaw } => write!(f, "{option}: {flaw}"),
            Fault::Conflict { option, with } => write!(f, "{option} cannot be used with {with}"),
            Fault::Name { what, name, flaw } => write!(f, "{what} {name:?}: {flaw}"),
            Fault::Command(unfinished) => write!(f, "cannot split the command: {unfinished}"),
            Fault::Missing { option, what } => write!(f, "{option} is missing: {what}"),
            Fault::NoWords => write!(f, "lock name and command are missing"),
            Fault::NoCommand => write!(f, "the command is missing"),
            Fault::EmptyCommand => write!(f, "the command is empty"),
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
                    "cannot read {path}: {why}; give --hosts and --app-id, or another config with -c (a sample is {SAMPLE})"
                )
            }
            Fault::TooLong(path) => {
                write!(f, "{}: larger than 1 MiB, so not a config", path.display())
            }
            Fault::Config(error) => error.fmt(f),
            Fault::ServerConfig(error) => error.fmt(f),
            Fault::UnknownKeys {
                path,
                first,
                others: 0,
            } => write!(f, "{}: {first}", path.display()),
            Fault::UnknownKeys {
                path,
                first,
                others,
            } => write!(f, "{}: {first}; and {others} more", path.display()),
            Fault::NoConfig(paths) => write!(
                f,
                "no config file found (tried {}): give one with -c FILE",
                paths.join(", ")
            ),
            Fault::Unexpected(word) => write!(f, "expected options, found {word:?}"),
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

/// Checks the name of `what` by one of the rules of [`names`].
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

/// Where the packages put a config to begin with.
const SAMPLE: &str = "/usr/share/doc/zk-flock/examples/distributed-flock.json";

/// The most bytes that a config has. The documented one has 500.
const MAX_CONFIG: u64 = 1 << 20;

/// The bytes of a config, or of a pipe that has one.
fn read(path: &Path) -> Result<Vec<u8>, Fault> {
    let unreadable = |source| Fault::Unreadable {
        path: path.to_owned(),
        source,
    };
    let mut text = Vec::new();
    let length = File::open(path)
        .and_then(|file| file.take(MAX_CONFIG + 1).read_to_end(&mut text))
        .map_err(unreadable)?;
    if length as u64 > MAX_CONFIG {
        Err(Fault::TooLong(path.to_owned()))
    } else {
        Ok(text)
    }
}
