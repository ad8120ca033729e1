//! The plan of a run: every decision that is made before the first byte is sent. Plain data, made
//! by `cli` from options, config file and environment; the layers below read none of those. Also
//! here: the reasons why a run ends, and the only place that turns one into an exit code.

pub mod access;
mod client_check;
pub mod connection;
pub mod duration;
pub mod eviction;
pub mod hosts;
pub mod inspection;
pub mod names;
pub mod notify;
pub mod outer;
mod server;

pub use client_check::ClientCheck;
pub use connection::Connection;
pub use eviction::Eviction;
pub use inspection::Inspection;
pub use notify::Notify;
pub use outer::OuterLock;
pub use server::{Backend, Pool, PoolEnsemble, Server, counted};

use crate::signal::{Signal, Status};
use access::AccessToken;
use std::ffi::OsString;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The node that has the queues of waiters, next to the locks of an application. No lock can have
/// this name.
pub const QUEUES: &str = ".queue";

/// The node that has the requests of operators to release a lock, next to the locks. No lock can
/// have this name.
pub const BREAKS: &str = ".break";

/// Reserved next to the locks for records of their last runs.
pub const RUNS: &str = ".runs";

/// The name that `--check` tries to create, next to the locks.
pub const CHECK: &str = ".check";

/// One run of one program.
#[derive(Debug)]
pub struct Plan {
    /// Starts every line on stderr: `zk-flock`.
    pub program: &'static str,
    /// The lock, and the service that grants it.
    pub lock: Lock,
    /// Print the name of each node or file on stdout before it is tried (`-n`).
    pub announce: bool,
    /// How long to wait for the lock, counted from the start of the program. Zero: try once.
    /// `Duration::MAX`: without limit.
    pub wait: Duration,
    /// The locks under which this run was started, nearest first.
    pub outer_locks: Vec<OuterLock>,
    /// The command to run while the lock is held.
    pub command: Command,
    /// Run only once per period; `None`: whenever the lock is free.
    pub every: Option<Every>,
    /// The lock is held for at least this long after it was acquired.
    pub minimum_hold: Duration,
    /// Time between TERM and KILL when the run is stopped. `Duration::MAX`: no KILL.
    pub kill_after: Duration,
    /// Sent to the process tree of the command when this program dies. `None`: the command runs on.
    pub death_signal: Option<Signal>,
    /// The exit code for each reason to exit.
    pub exit_codes: ExitCodes,
    /// The log file and the lines that go there.
    pub log: Log,
    /// The load average at which the command is not run.
    pub load_limit: LoadLimit,
    /// Detach from the terminal and the calling process before connecting.
    pub daemonize: bool,
    /// Print the log of the run on stderr.
    pub verbose: bool,
    /// Report to the service manager.
    pub notify: Option<Notify>,
    /// The file that gets the figures of the run.
    pub metrics: Option<PathBuf>,
}

impl Plan {
    /// The lock for people and monitoring, the same for all runs of the plan: with `-n` the name
    /// without a number.
    pub fn lock_label(&self) -> String {
        let base = |names: &[String]| {
            let first = names.first().map_or("", String::as_str);
            let counted = self.announce.then(|| first.strip_suffix("_0")).flatten();
            counted.unwrap_or(first).to_owned()
        };
        match &self.lock {
            Lock::Node {
                cluster,
                app_id,
                names,
            } => format!("{}/{app_id}/{}", cluster.chroot, base(names)),
            Lock::Queue { cluster, path, .. } => format!("{}{path}", cluster.chroot),
            Lock::Local { app_id, names, .. } => format!("{app_id}/{}", base(names)),
            Lock::Pool(target) => target.pool.clone(),
            Lock::Host(path) => path.display().to_string(),
        }
    }

    /// The name by which the lock service knows this host, if it is not the host's own.
    pub fn own_name(&self) -> Option<&str> {
        match &self.lock {
            Lock::Pool(target) => target.host.as_deref(),
            _ => None,
        }
    }
}

/// Whether others may hold the lock at the same time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sharing {
    /// No other: a writer.
    Exclusive,
    /// Other readers: `--shared`.
    Shared,
}

/// A kind of lock, and where it is.
#[derive(Debug)]
pub enum Lock {
    /// One ephemeral ZooKeeper node: with `-n` the first free one of several names, otherwise the
    /// only one.
    Node {
        /// The ensemble.
        cluster: Cluster,
        /// Namespace: the node that has all locks of an application, without slashes around it.
        app_id: String,
        /// Names of nodes below `app_id`, tried in order; never empty.
        names: Vec<String>,
    },
    /// The lock queue of kazoo, or its semaphore.
    Queue {
        /// The ensemble.
        cluster: Cluster,
        /// The lock's node, an absolute path without a slash at its end: `/lockex/ID`.
        path: String,
        /// How many clients may hold the lock at once. 1 is a queue, more is a semaphore; never 0.
        permits: u32,
        /// Whether other readers may hold the lock beside this run. `Shared` only with one permit.
        sharing: Sharing,
        /// How many times to try all servers before the first session; `None`: until the wait ends.
        rounds: Option<u32>,
        /// How many times to start again after a lost session; `None`: without limit.
        restarts: Option<u32>,
    },
    /// flock(2) on a file of this host: the first of these that is free.
    Local {
        /// Directory of all applications; `None`: the default directory of this user on this host.
        folder: Option<PathBuf>,
        /// Directory of the lock files, below `folder`. Both are created if they are missing.
        app_id: String,
        /// Names of files below `app_id`, tried in order; never empty.
        names: Vec<String>,
        /// Whether other readers may hold the lock beside this run.
        sharing: Sharing,
    },
    /// A slot in a pool of a lock server that speaks HTTP.
    Pool(PoolTarget),
    /// Only this file of this host.
    Host(PathBuf),
}

/// A pool of a lock server, and how to get a slot in it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PoolTarget {
    /// The lock server.
    pub server: LockServer,
    /// The pool's name on that server.
    pub pool: String,
    /// This host's name for the server; `None`: its full name by the resolver.
    pub host: Option<String>,
    /// Wait for an unreachable server as long as for the lock.
    pub wait_for_server: bool,
    /// The lock file that lets only one run of this host ask the server; `None`: any number may
    /// ask.
    pub host_lock: Option<PathBuf>,
}

/// A lock server, or several that share their pools, and how to connect to them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LockServer {
    /// Where they are: at least one.
    pub hosts: Vec<Host>,
    /// How connections to it are made.
    pub connection: Connection,
    /// What stands before the paths of its API: empty, or a path without a slash at its end.
    pub prefix: String,
    /// What proves the rights of this client, if the server wants that.
    pub access_token: Option<AccessToken>,
}

/// The port of https, which a URL leaves out.
const HTTPS_PORT: u16 = 443;

impl LockServer {
    /// A server to which connections are made directly.
    pub fn new(host: Host) -> LockServer {
        LockServer {
            hosts: vec![host],
            connection: Connection::Direct,
            prefix: String::new(),
            access_token: None,
        }
    }

    /// A warning, if the access token is sent to another host as plain text.
    pub fn token_warning(&self) -> Option<String> {
        let is_loopback =
            |address: IpAddr| address.to_canonical().is_loopback() || address.is_loopback();
        let is_own = |host: &Host| match host {
            Host::Tcp { name, .. } => name == "localhost" || name.parse().is_ok_and(is_loopback),
            Host::Unix(_) => true,
        };
        let is_plain = self.connection == Connection::Direct && !self.hosts.iter().all(is_own);
        (is_plain && self.access_token.is_some()).then(|| {
            format!(
                "the access token is sent to {self} without encryption, and hosts on the way can \
                 read it: use -H https://HOST"
            )
        })
    }

    /// A path of its API.
    pub fn path(&self, path: &str) -> String {
        format!("{}{path}", self.prefix)
    }

    fn is_secure(&self) -> bool {
        matches!(self.connection, Connection::Tls(_))
    }

    /// The address of a path of its API, at the first host.
    pub fn url(&self, path: &str) -> String {
        let scheme = if self.is_secure() { "https" } else { "http" };
        format!("{scheme}://{}{}", self.header(), self.path(path))
    }

    /// The unix socket, if it has one.
    pub fn socket(&self) -> Option<&Path> {
        match self.hosts.first() {
            Some(Host::Unix(path)) => Some(path),
            _ => None,
        }
    }

    /// The text of the header `Host`: the first host. A request over a unix socket names none.
    pub fn header(&self) -> String {
        match self.hosts.first() {
            Some(Host::Tcp {
                name,
                port: HTTPS_PORT,
            }) if self.is_secure() => {
                if name.contains(':') {
                    format!("[{name}]")
                } else {
                    name.clone()
                }
            }
            Some(host @ Host::Tcp { .. }) => host.to_string(),
            Some(Host::Unix(_)) | None => "localhost".into(),
        }
    }
}

#[cfg(test)]
impl LockServer {
    /// A server for tests that never connect.
    pub(crate) fn of_tests() -> LockServer {
        LockServer::new(Host::Tcp {
            name: "dx".into(),
            port: 9889,
        })
    }
}

impl std::fmt::Display for LockServer {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        if self.is_secure() {
            write!(f, "https://{}{}", self.header(), self.prefix)
        } else {
            let hosts: Vec<_> = self.hosts.iter().map(Host::to_string).collect();
            f.write_str(&hosts.join(","))
        }
    }
}

/// A ZooKeeper ensemble and how to talk to it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cluster {
    /// At least one server.
    pub hosts: Vec<Host>,
    /// How connections to them are made.
    pub connection: Connection,
    /// Prefix of every path: empty, or `/a/b` without a slash at its end.
    pub chroot: String,
    /// The session timeout to ask for. It limits the time to connect, too.
    pub timeout: Duration,
    /// Credentials for the session, if any.
    pub auth: Option<Auth>,
    /// The ACL of nodes that a run creates.
    pub acl: Acl,
    /// The request that proves that the lock is still held.
    pub heartbeat: Heartbeat,
}

/// Where a server is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Host {
    /// At a TCP port.
    Tcp {
        /// Host name, or IPv4 or IPv6 address without brackets.
        name: String,
        /// The port.
        port: u16,
    },
    /// At the unix socket with this absolute path.
    Unix(PathBuf),
}

impl std::fmt::Display for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        match self {
            Host::Tcp { name, port } if name.contains(':') => write!(f, "[{name}]:{port}"),
            Host::Tcp { name, port } => write!(f, "{name}:{port}"),
            Host::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Credentials for ZooKeeper's `addauth`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Auth {
    /// For example `digest`.
    pub scheme: String,
    /// For example `user:password`.
    pub data: String,
}

/// ACL of the nodes that a run creates.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Acl {
    /// Every client may do everything (world:anyone), as in the original.
    Open,
    /// Only clients with the same credentials have access.
    Creator,
}

/// The request by which a holder proves that its session lives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Heartbeat {
    /// A quorum write that changes no data.
    Write,
    /// A ping. A follower that is cut off from the quorum answers it, too.
    Ping,
}

/// Once per period.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Every {
    /// The period.
    pub period: Duration,
    /// A run that did not end with exit code 0 does not count.
    pub retry_failed: bool,
}

/// A program and its arguments.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Command {
    /// The argument vector, never empty.
    pub words: Vec<OsString>,
    /// As the operator typed it, for the log.
    pub shown: String,
}

/// Conditions on the load average, checked before the lock is requested.
#[derive(Clone, Copy, PartialEq, Default, Debug)]
pub struct LoadLimit {
    /// Do not run at this one-minute load average or above.
    pub max_load: Option<f64>,
    /// Sleep first, for as many seconds as the one-minute load average.
    pub sleep: bool,
}

/// The format of log lines on stderr.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Style {
    /// `zk-flock: message`
    Plain,
    /// `I1121 09:24:00.123456 PID lockex:0] message`
    Glog,
}

/// The log file, and which lines it gets.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Log {
    /// The format of lines on stderr.
    pub style: Style,
    /// `None`: no log file (the original's /dev/null).
    pub path: Option<PathBuf>,
    /// Lowest level of a line about the run.
    pub level: Level,
    /// Lowest level of a line about connection and session.
    pub session_level: Level,
    /// Problems of options or config that do not stop the run. They are logged first.
    pub warnings: Vec<Warning>,
}

/// A sentence about a problem, and where it is printed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Warning {
    /// In the log file only, at WARNING, as in the original.
    Logged(String),
    /// On stderr too: the run does something else than options or config seem to ask for.
    Shown(String),
    /// Only on stderr, and only if it is a terminal: a hint for the person who typed the command
    /// line.
    Hint(String),
}

impl From<&str> for Warning {
    fn from(sentence: &str) -> Warning {
        Warning::Logged(sentence.to_owned())
    }
}

/// The severity of a log line.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[allow(missing_docs)]
pub enum Level {
    Debug,
    Info,
    Warning,
    Error,
    Critical,
}

/// Why a run or a server ends; the exit code tells these reasons apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ExitReason {
    /// The command ran, and ended with this status.
    Command(Status),
    /// Another client held the lock until the wait ended.
    Busy,
    /// Another run has run the command in this period.
    AlreadyRun,
    /// Nothing holds the lock that was asked about.
    Free,
    /// The lock was not taken away from its holder.
    StillHeld,
    /// No server was reachable in time.
    Unreachable,
    /// The lock service refused access, by ACL or credentials.
    Refused,
    /// A node or file of the lock has content of another kind of lock.
    IncompatibleLock,
    /// The load average was too high to start.
    LoadTooHigh,
    /// The command exists but cannot be executed.
    NotRunnable,
    /// The command does not exist.
    NotFound,
    /// The lock was lost, and the command was killed for that reason.
    Lost,
    /// An operator revoked the lock, and the command was stopped for that reason.
    Revoked,
    /// A system call failed that normally succeeds.
    SystemError,
    /// A part of the program failed: the guard was killed, or a server broke the protocol.
    InternalError,
    /// The config file is missing or invalid.
    ConfigError,
    /// A signal ended the run before the command started, or INT or QUIT ended both.
    Signalled(Signal),
}

/// How the process ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exit {
    /// It exits with this code.
    Code(u8),
    /// It kills itself with this signal, so that the calling process sees the signal.
    DieOf(Signal),
}

impl Exit {
    /// The exit code that a shell shows.
    pub fn code(self) -> u8 {
        match self {
            Exit::Code(code) => code,
            Exit::DieOf(signal) => Status::Killed(signal).code(),
        }
    }
}

/// The operator's settings for exit codes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ExitCodes {
    /// The code for "busy", if the operator gave one.
    pub busy: Option<u8>,
    /// The code for "busy" otherwise, without `sysexits`: 0 for zk-flock, 1 for the others.
    pub busy_default: u8,
    /// Use the codes of sysexits.h for the other reasons.
    pub sysexits: bool,
}

impl ExitCodes {
    /// The exit for a reason. Mirrors EXIT STATUS in the man pages.
    pub fn exit(self, end: ExitReason) -> Exit {
        let (plain, sysexit) = match end {
            ExitReason::Command(status) => return Exit::Code(status.code()),
            ExitReason::Signalled(signal) => return Exit::DieOf(signal),
            ExitReason::NotRunnable => (126, 126),
            ExitReason::NotFound => (127, 127),
            ExitReason::Busy => (
                self.busy.unwrap_or(self.busy_default),
                self.busy.unwrap_or(75),
            ),
            ExitReason::AlreadyRun => (self.busy.unwrap_or(0), self.busy.unwrap_or(75)),
            ExitReason::Free => (3, 3),
            ExitReason::StillHeld => (1, 75),
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
    fn each_exit_reason_has_its_exit_code() {
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
            (ExitReason::AlreadyRun, [0, 75]),
            (ExitReason::Free, [3, 3]),
            (ExitReason::StillHeld, [1, 75]),
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
        assert_eq!(own.exit(ExitReason::AlreadyRun), Exit::Code(17));
        let waits = ExitCodes {
            busy_default: 1,
            ..plain
        };
        let silent = Exit::Code(0);
        assert_eq!(waits.exit(ExitReason::AlreadyRun), silent, "lockex");
        assert_eq!(
            own.exit(ExitReason::Signalled(Signal::INT)),
            Exit::DieOf(Signal::INT)
        );
    }

    #[test]
    fn exit_code_of_the_command_is_passed_on() {
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

    #[test]
    fn lock_label_is_the_same_for_all_names_of_a_lock() {
        let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        let local = |names| Lock::Local {
            sharing: Sharing::Exclusive,
            folder: None,
            app_id: "app".into(),
            names,
        };
        let label = |lock, announce| {
            let command = Command {
                words: vec!["true".into()],
                shown: String::new(),
            };
            let plan = Plan {
                program: "zk-flock",
                lock,
                announce,
                wait: Duration::ZERO,
                every: None,
                outer_locks: vec![],
                command,
                minimum_hold: Duration::ZERO,
                kill_after: Duration::ZERO,
                death_signal: None,
                exit_codes: ExitCodes {
                    busy: None,
                    busy_default: 0,
                    sysexits: false,
                },
                log: Log {
                    style: Style::Plain,
                    path: None,
                    level: Level::Info,
                    session_level: Level::Info,
                    warnings: vec![],
                },
                load_limit: LoadLimit::default(),
                daemonize: false,
                verbose: false,
                notify: None,
                metrics: None,
            };
            plan.lock_label()
        };
        assert_eq!(label(local(names(&["a_0", "a_1"])), true), "app/a");
        assert_eq!(label(local(names(&["a_0"])), false), "app/a_0");
        assert_eq!(
            label(Lock::Host("/tmp/dx-a.lock".into()), false),
            "/tmp/dx-a.lock"
        );
    }

    #[test]
    fn token_is_plain_only_over_tcp_to_another_host() {
        let tcp = |name: &str| Host::Tcp {
            name: name.into(),
            port: 9889,
        };
        let proxy = connection::Proxy::parse("nc %h %p".as_ref()).unwrap();
        for (host, connection, warns) in [
            (tcp("dx"), Connection::Direct, true),
            (tcp("10.0.0.1"), Connection::Direct, true),
            (tcp("2001:db8::1"), Connection::Direct, true),
            (tcp("localhost"), Connection::Direct, false),
            (tcp("127.3.2.1"), Connection::Direct, false),
            (tcp("::1"), Connection::Direct, false),
            (tcp("::ffff:127.0.0.1"), Connection::Direct, false),
            (Host::Unix("/s".into()), Connection::Direct, false),
            (tcp("dx"), Connection::Proxy(proxy), false),
            (
                tcp("dx"),
                Connection::Tls(connection::Tls::default()),
                false,
            ),
        ] {
            let mut server = LockServer {
                connection,
                ..LockServer::new(host)
            };
            assert_eq!(server.token_warning(), None, "there is no token");
            server.access_token = Some(AccessToken::sent(b"secret"));
            let warning = server.token_warning();
            assert_eq!(warning.is_some(), warns, "{server}");
            assert!(!warning.is_some_and(|text| text.contains("secret")));
        }
    }
}
