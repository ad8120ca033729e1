//! The plan of a run: all that is decided before the first byte goes out. Plain data, made by `cli`
//! from words, config and environment; nothing below reads any of those. Also here: how a run can
//! end, and the one place that turns an end into an exit code.

pub mod duration;
pub mod hosts;
pub mod names;
pub mod outer;
mod server;

pub use outer::OuterLock;
pub use server::{Backend, Pool, Server};

use crate::signal::{Signal, Status};
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

/// The node beside the locks of an application that has the queues of those who wait: no lock can
/// be called so.
pub const QUEUES: &str = ".queue";

/// One run of one program.
#[derive(Debug)]
pub struct Plan {
    /// Leads every line on stderr: `zk-flock`.
    pub program: &'static str,
    /// Which lock, and whom to ask for it.
    pub lock: Lock,
    /// Print the name of each node or file on stdout before it is tried (`-n`).
    pub announce: bool,
    /// How long to wait for the lock, counted from the program's start. Zero: one try.
    /// `Duration::MAX`: for ever.
    pub wait: Duration,
    /// The locks under which this run was started, nearest first.
    pub outer_locks: Vec<OuterLock>,
    /// What to run while the lock is held.
    pub command: Command,
    /// The lock is held at least so long since it was taken.
    pub minimum_hold: Duration,
    /// Time between TERM and KILL when somebody stops the run. `Duration::MAX`: no KILL.
    pub kill_after: Duration,
    /// Sent to the command's process tree when this program dies. `None`: the command is left
    /// alone then.
    pub death_signal: Option<Signal>,
    /// What the ends of a run are as exit codes.
    pub exit_codes: ExitCodes,
    /// Where the log goes.
    pub log: Log,
    /// What must hold before the service is asked for the lock.
    pub load_limit: LoadLimit,
    /// Detach from terminal and caller before connecting.
    pub daemonize: bool,
    /// Tell the story of the run on stderr.
    pub verbose: bool,
}

/// A kind of lock and where it lives.
#[derive(Debug)]
pub enum Lock {
    /// One ephemeral ZooKeeper node, of the first of these names that is free (`-n`), else of the
    /// only one.
    Node {
        /// The ensemble.
        cluster: Cluster,
        /// Namespace: the node that all locks of an application are under, without slashes around
        /// it.
        app_id: String,
        /// Names of nodes below it, never empty; tried in order.
        names: Vec<String>,
    },
    /// kazoo's lock queue, or its semaphore.
    Queue {
        /// The ensemble.
        cluster: Cluster,
        /// The lock's node, absolute and without a slash at its end: `/lockex/ID`.
        path: String,
        /// How many may hold it at once: 1 is a queue, more a semaphore. Never 0.
        permits: u32,
        /// Rounds over all servers before the first session; `None`: as many as there is time for.
        rounds: Option<u32>,
        /// How often acquiring is begun again after a session that was lost; `None`: always.
        restarts: Option<u32>,
    },
    /// flock(2) on one of these files of this host, the first that is free.
    Local {
        /// Folder of all applications; `None`: this user's default folder on this host.
        folder: Option<PathBuf>,
        /// Folder of the files in that one. Both are made if missing.
        app_id: String,
        /// Names of files in it, never empty; tried in order.
        names: Vec<String>,
    },
    /// A place in a pool of a lock server that speaks HTTP.
    Pool(PoolTarget),
    /// This file of this host, and nothing else.
    Host(PathBuf),
}

/// A place in a pool, and how to come by it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PoolTarget {
    /// The lock server.
    pub server: Host,
    /// The pool's name there.
    pub pool: String,
    /// What this host is called there; `None`: as name servers call it.
    pub host: Option<String>,
    /// A server that is away while we wait is waited for as long as the lock.
    pub wait_for_server: bool,
    /// The file that keeps all but one run of this host from asking, if they are to be kept.
    pub host_lock: Option<PathBuf>,
}

/// A ZooKeeper ensemble and how to talk to it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cluster {
    /// At least one.
    pub hosts: Vec<Host>,
    /// Prefix of every path: empty, or `/a/b` without a slash at its end.
    pub chroot: String,
    /// Session timeout to ask for; bounds connecting too.
    pub timeout: Duration,
    /// Who we are, if the ensemble should know.
    pub auth: Option<Auth>,
    /// Who may touch what we make.
    pub acl: Acl,
    /// What proves to a holder that it still holds.
    pub heartbeat: Heartbeat,
}

/// A server by name or address, and port.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Host {
    /// Name, IPv4 or IPv6 address without brackets.
    pub name: String,
    /// TCP port.
    pub port: u16,
}

impl std::fmt::Display for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        let Host { name, port } = self;
        if name.contains(':') {
            write!(f, "[{name}]:{port}")
        } else {
            write!(f, "{name}:{port}")
        }
    }
}

/// Credentials for ZooKeeper's `addauth`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Auth {
    /// `digest`, say.
    pub scheme: String,
    /// `user:password`, say.
    pub data: String,
}

/// ACL of the nodes that we make.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Acl {
    /// world:anyone may do everything, as the original has it.
    Open,
    /// Only who is authenticated as we are.
    Creator,
}

/// How a holder proves that its session lives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Heartbeat {
    /// A quorum write that changes nothing.
    Write,
    /// A ping, which a follower that is cut off answers by itself.
    Ping,
}

/// A program and its arguments.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Command {
    /// argv, never empty.
    pub words: Vec<OsString>,
    /// As the operator wrote it, for the log.
    pub shown: String,
}

/// What must hold before the lock is asked for.
#[derive(Clone, Copy, PartialEq, Default, Debug)]
pub struct LoadLimit {
    /// Do not run at all at this one-minute load average or above.
    pub max_load: Option<f64>,
    /// First sleep as many seconds as the one-minute load average.
    pub sleep: bool,
}

/// How the story of a run is told on stderr, when it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Style {
    /// `zk-flock: message`
    Plain,
    /// `I1121 09:24:00.123456 PID lockex:0] message`
    Glog,
}

/// The log file and what goes into it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Log {
    /// How lines look on stderr.
    pub style: Style,
    /// `None`: no log (the original's /dev/null).
    pub path: Option<PathBuf>,
    /// Least level of a line about the run.
    pub level: Level,
    /// Least level of a line about connection and session.
    pub session_level: Level,
    /// What is odd in words or config but stops nothing. These lines come first.
    pub warnings: Vec<Warning>,
}

/// One sentence about something odd, and where it is printed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Warning {
    /// At WARNING in the log only, as in the original.
    Logged(String),
    /// On stderr as well: the run does not do what its words or config seem to say.
    Shown(String),
    /// On stderr if that is a terminal: a hint for the person who typed the line. The log does not
    /// have it.
    Hint(String),
}

impl From<&str> for Warning {
    fn from(sentence: &str) -> Warning {
        Warning::Logged(sentence.to_owned())
    }
}

/// How much a log line matters.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[allow(missing_docs)]
pub enum Level {
    Debug,
    Info,
    Warning,
    Error,
    Critical,
}

/// How a run ended, seen from its exit code.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ExitReason {
    /// The command ran and ended so.
    Command(Status),
    /// Somebody else holds the lock, to the end of our patience.
    Busy,
    /// No server answered in time.
    Unreachable,
    /// The lock service says no, by ACL or auth.
    Refused,
    /// A node or file of the lock holds what it must not.
    IncompatibleLock,
    /// The load is too high to start.
    LoadTooHigh,
    /// The command was found but cannot be run.
    NotRunnable,
    /// There is no such command.
    NotFound,
    /// The lock was lost, and the command killed for it.
    Lost,
    /// An operator revoked the lock, and the command was stopped for it.
    Revoked,
    /// A system call failed that must not.
    SystemError,
    /// Something of our own broke: the guard was killed, a server spoke nonsense.
    InternalError,
    /// The config is missing or wrong.
    ConfigError,
    /// A signal ended the run before there was a command, or INT or QUIT ended both.
    Signalled(Signal),
}

/// What the process does last.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exit {
    /// Exits with this code.
    Code(u8),
    /// Dies of this signal, so that the caller sees it.
    DieOf(Signal),
}

/// The choices that the operator has about exit codes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ExitCodes {
    /// For "busy", if given.
    pub busy: Option<u8>,
    /// For "busy" otherwise, without `sysexits`: 0 for zk-flock, 1 for the others.
    pub busy_default: u8,
    /// Tell the other ends apart by the codes of sysexits.h.
    pub sysexits: bool,
}

impl ExitCodes {
    /// The exit that stands for an end. Mirrors EXIT STATUS in the man pages.
    pub fn exit(&self, end: ExitReason) -> Exit {
        let (plain, sysexit) = match end {
            ExitReason::Command(status) => return Exit::Code(status.code()),
            ExitReason::Signalled(signal) => return Exit::DieOf(signal),
            ExitReason::NotRunnable => (126, 126),
            ExitReason::NotFound => (127, 127),
            ExitReason::Busy => (
                self.busy.unwrap_or(self.busy_default),
                self.busy.unwrap_or(75),
            ),
            ExitReason::IncompatibleLock => (1, 65),
            ExitReason::Unreachable => (1, 69),
            ExitReason::InternalError => (1, 70),
            ExitReason::SystemError => (1, 71),
            ExitReason::LoadTooHigh => (1, 75),
            ExitReason::Refused => (1, 77),
            ExitReason::ConfigError => (1, 78),
            ExitReason::Lost | ExitReason::Revoked => (1, 79),
        };
        Exit::Code(if self.sysexits { sysexit } else { plain })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_end_has_its_exit_code() {
        let plain = ExitCodes {
            busy: None,
            busy_default: 0,
            sysexits: false,
        };
        let sysexits = ExitCodes {
            sysexits: true,
            ..plain
        };
        let own = ExitCodes {
            busy: Some(17),
            ..sysexits
        };
        for (end, [code, sysexit]) in [
            (ExitReason::Busy, [0, 75]),
            (ExitReason::IncompatibleLock, [1, 65]),
            (ExitReason::Unreachable, [1, 69]),
            (ExitReason::InternalError, [1, 70]),
            (ExitReason::SystemError, [1, 71]),
            (ExitReason::LoadTooHigh, [1, 75]),
            (ExitReason::Refused, [1, 77]),
            (ExitReason::ConfigError, [1, 78]),
            (ExitReason::Lost, [1, 79]),
            (ExitReason::Revoked, [1, 79]),
            (ExitReason::NotRunnable, [126, 126]),
            (ExitReason::NotFound, [127, 127]),
        ] {
            assert_eq!(plain.exit(end), Exit::Code(code), "{end:?}");
            assert_eq!(sysexits.exit(end), Exit::Code(sysexit), "{end:?}");
        }
        assert_eq!(
            own.exit(ExitReason::Busy),
            Exit::Code(17),
            "-x wins over 75"
        );
        assert_eq!(
            own.exit(ExitReason::Signalled(Signal::INT)),
            Exit::DieOf(Signal::INT)
        );
    }

    #[test]
    fn the_commands_own_end_is_ours() {
        let codes = ExitCodes {
            busy: Some(9),
            busy_default: 0,
            sysexits: true,
        };
        for code in 0..=255 {
            assert_eq!(
                codes.exit(ExitReason::Command(Status::Exited(code))),
                Exit::Code(code)
            );
        }
        for number in 1..=64 {
            assert_eq!(
                codes.exit(ExitReason::Command(Status::Killed(Signal(number)))),
                Exit::Code(128 + u8::try_from(number).unwrap())
            );
        }
    }
}
