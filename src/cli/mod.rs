//! From words to a plan: what all programs share. Each has its own file with its HELP, its options and what they come to; here is what can
//! be asked for, what can be wrong with it, and the one place that gives an exit code to that.

pub mod hosts;
pub mod names;
pub mod value;
pub mod words;
pub mod zk_flock;

use crate::config;
use crate::plan::Plan;
use lexopt::{Arg, Parser};
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io;
use std::path::PathBuf;

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
    /// Whom we act for.
    pub euid: u32,
    /// `$XDG_RUNTIME_DIR`.
    pub xdg_runtime_dir: Option<PathBuf>,
    /// Where relative paths begin; a daemon leaves it.
    pub current_dir: PathBuf,
}

/// What argv asks for.
#[derive(Debug)]
#[allow(clippy::large_enum_variant)] // one is made in the life of a process
pub enum Request {
    /// Do this.
    Run(Plan),
    /// Print this.
    Help(&'static str),
    /// Print name and version.
    Version,
}

/// Why there is no plan. Shown, it is a sentence without the program's name.
#[derive(Debug)]
pub struct Error {
    fault: Fault,
    /// Whether `--sysexits` was among the words.
    sysexits: bool,
}

/// What is wrong with words or config.
#[derive(Debug)]
pub(crate) enum Fault {
    /// An option that does not exist, lacks its value, or has one where none belongs.
    Option(lexopt::Error),
    /// A long option that is cut too short.
    Ambiguous { typed: String, candidates: Vec<&'static str> },
    /// A value that the option cannot have.
    Value { option: &'static str, expected: &'static str, found: String },
    /// `--hosts` is no connection string.
    Hosts(hosts::Flaw),
    /// Two options that contradict each other.
    Conflict { option: &'static str, with: &'static str },
    /// A name that a lock cannot have.
    Name { what: &'static str, name: String, flaw: names::Flaw },
    /// The command cannot be cut into words.
    Command(words::Unfinished),
    /// Too few words, or too many.
    Words(usize),
    /// The command has no words in it.
    NoCommand,
    /// The config cannot be read.
    Unreadable { path: PathBuf, source: io::Error },
    /// The config is longer than any config is.
    TooLong(PathBuf),
    /// The config is wrong.
    Config(config::Error),
}

impl Error {
    /// Mirrors EXIT STATUS in the man pages.
    pub fn exit_code(&self) -> u8 {
        let (plain, sysexit) = match self.fault {
            Fault::Words(_) | Fault::NoCommand => (1, 64),
            Fault::Unreadable { .. } | Fault::TooLong(_) | Fault::Config(_) => (1, 78),
            _ => (2, 64),
        };
        if self.sysexits { sysexit } else { plain }
    }

    /// Whether the usage should follow the sentence.
    pub fn wants_usage(&self) -> bool {
        matches!(self.fault, Fault::Words(_) | Fault::NoCommand)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        self.fault.fmt(f)
    }
}

impl std::error::Error for Error {}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Fault::Option(error) => error.fmt(f),
            Fault::Ambiguous { typed, candidates } => write!(f, "--{typed} could be --{}", candidates.join(" or --")),
            Fault::Value { option, expected, found } => write!(f, "{option}: expected {expected}, found {found:?}"),
            Fault::Hosts(flaw) => write!(f, "--hosts: {flaw}"),
            Fault::Conflict { option, with } => write!(f, "{option} makes no sense with {with}"),
            Fault::Name { what, name, flaw } => write!(f, "{what} {name:?}: {flaw}"),
            Fault::Command(unfinished) => write!(f, "cannot split the command: {unfinished}"),
            Fault::Words(0) => write!(f, "lock name and command are missing"),
            Fault::Words(1) => write!(f, "the command is missing"),
            Fault::Words(found) => write!(f, "expected a lock name and a command in one word, found {found} words (give more after --)"),
            Fault::NoCommand => write!(f, "the command is empty"),
            Fault::Unreadable { path, source } => write!(f, "cannot read {}: {source}", path.display()),
            Fault::TooLong(path) => write!(f, "{}: longer than 1 MiB, so not a config", path.display()),
            Fault::Config(error) => error.fmt(f),
        }
    }
}

impl From<lexopt::Error> for Fault {
    fn from(error: lexopt::Error) -> Fault {
        Fault::Option(error)
    }
}

impl From<config::Error> for Fault {
    fn from(error: config::Error) -> Fault {
        Fault::Config(error)
    }
}

/// The next option or word; a long option comes by its full name, one of `original` or `added`.
fn next_argument(parser: &mut Parser, original: &[&'static str], added: &[&'static str]) -> Result<Option<Arg<'static>>, Fault> {
    // What was clear before there were others stays what it was: scripts have it.
    let known = |typed: &str| if original.iter().any(|name| name.starts_with(typed)) { original } else { added };
    Ok(match parser.next()? {
        Some(Arg::Long(typed)) => Some(Arg::Long(complete(typed, known(typed))?)),
        Some(Arg::Short(letter)) => Some(Arg::Short(letter)),
        Some(Arg::Value(word)) => Some(Arg::Value(word)),
        None => None,
    })
}

/// The one of `known` that is `typed`, or else the only one that begins so.
fn complete(typed: &str, known: &[&'static str]) -> Result<&'static str, Fault> {
    let candidates: Vec<_> = known.iter().copied().filter(|name| name.starts_with(typed)).collect();
    match candidates[..] {
        [] => Err(Fault::Option(lexopt::Error::UnexpectedOption(format!("--{typed}")))),
        [only] => Ok(only),
        _ => candidates.iter().copied().find(|name| *name == typed).ok_or_else(|| Fault::Ambiguous { typed: typed.to_owned(), candidates }),
    }
}

/// If `--` comes next, the words after it.
fn words_after_dashes(parser: &mut Parser) -> Option<Vec<OsString>> {
    let mut raw = parser.try_raw_args()?;
    raw.next_if(|word| word == OsStr::new("--"))?;
    Some(raw.collect())
}
