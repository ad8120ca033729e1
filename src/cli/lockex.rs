//! `lockex`: its help, its options and its plan. Options and defaults are those of the Python
//! original, with a few more. Options may stand between the words of the command; without an id,
//! all clients with the same words share a lock.

use super::line::Form;
use super::options::{self, CONCURRENT_RUNS, Common, Mode, Taken, next_argument};
use super::{Environment, Fault, Program, Request, check_name, python_hash, value};
use crate::plan::hosts::Ensemble;
use crate::plan::inspection::Locks;
use crate::plan::names;
use crate::plan::{Acl, Cluster, Command, Connection, Heartbeat, Lock, Log, Plan, Style, Warning};
use lexopt::prelude::*;
use std::ffi::{OsStr, OsString};
use std::mem;
use std::time::Duration;

/// The program.
pub const PROGRAM: Program = Program {
    name: "lockex",
    help: HELP,
    request: options::request::<Options>,
};

/// What `--help` prints.
const HELP: &str = "\
Usage: lockex [options] [--] COMMAND [ARG...]
       lockex [options] --status [COMMAND...] | --break [COMMAND...] | --check

Run a command while holding a lock that all hosts of a cluster share. sh -c runs
COMMAND and its ARGs, joined with spaces. The same line or ID is the same lock.

Lock, servers, wait and command:
      --blocking          wait while the lock is busy (the default)
      --no-blocking       exit at once if the lock is busy
  -c, --concurrent N      allow N holders, the same N in all runs [default: 1]
  -i, --lockid ID         use ID as the lock's name [default: hash of the line]
  -p, --lockpath PATH     use PATH as parent node of the lock [default: lockex]
  -r, --lockretry N       requeue after N lost sessions [default: 1; -1: inf]
      --shared            hold the lock together with other --shared runs
  -t, --locktimeout SECS  wait up to SECS (or inf) for the lock [default: inf]
  -R, --retry N           try all servers N times [default: 1; -1: inf]
  -T, --timeout SECS      set session/connect timeout [default: 30]
  -z, --zkhosts LIST      use HOST:PORT,... [default: $ZKHOSTS, localhost:2181]
      --every PERIOD      run once per PERIOD (10m), on the first host to ask
      --retry-failed      with --every: a run that failed does not count
  -w, --wait SECS         the same as --locktimeout
  -x, --exitcode N        exit with N if busy [default: 1; --no-blocking: 0]
  -k, --kill-after SECS   kill the command SECS after a stop signal [default: 5]
      --no-shell          run the words as given, without a shell
      --pdeathsig SIG     signal the command if lockex dies [default: TERM]
Connection:
      --proxy COMMAND     connect by COMMAND, e.g. ssh -W %h:%p bastion
      --tls-ca FILE       connect by TLS; trust the CA certificates in FILE
      --tls-cert FILE     show the server the certificate in FILE
      --tls-key FILE      its key [default: in the file of --tls-cert]
      --tls-name NAME     the server's certificate has NAME [default: the host]
Instead of a command:
      --status            show the holders and the waiters of locks
      --json              print --status or --check as JSON
      --check             check the servers, without a lock
      --break             ask the holder to stop; wait up to -w [default: 30]
      --token N           with --break: only the holder with this token
      --force             delete a silent holder's node; its command may run on
Output and help:
      --notify[=HOW]      report state to systemd; HOW: wait, pass or wait,pass
      --metrics FILE      add figures of the run to FILE, for node_exporter
      --sysexits          use distinct exit codes from sysexits.h for failures
  -v, --verbose           log each step to stderr
  -V, --version           print the version
  -h, --help              print this help
      --program=NAME      act as program NAME; must be the first word

SECS may have units: 1h30m. Exit code: the command's; others: see lockex(1).
";

/// The servers without `-z` and `$ZKHOSTS`.
const HOSTS: &str = "localhost:2181";

/// The options, with the defaults of those that were not given.
#[derive(Debug)]
struct Options {
    blocking: bool,
    concurrent: u32,
    lockid: Option<String>,
    lockpath: String,
    lockretry: Option<u32>,
    retry: Option<u32>,
    timeout: Duration,
    zkhosts: Option<Ensemble>,
    shell: bool,
    common: Common,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            blocking: true,
            concurrent: 1,
            lockid: None,
            lockpath: "lockex".into(),
            lockretry: Some(1),
            retry: Some(1),
            timeout: Duration::from_secs(30),
            zkhosts: None,
            shell: true,
            common: Common::default(),
        }
    }
}

impl options::Options for Options {
    const FORM: Form = Form {
        program: PROGRAM.name,
        before: 0,
        one_word: false,
    };

    fn take(&mut self, parser: &mut lexopt::Parser) -> Result<Taken, Fault> {
        let Some(argument) = next_argument(parser, HELP, &[])? else {
            return Ok(Taken::All);
        };
        match argument {
            Long("blocking") => self.blocking = true,
            Long("no-blocking") => self.blocking = false,
            Short('c') | Long("concurrent") => {
                self.concurrent = value::CONCURRENCY.take("--concurrent", parser)?;
            }
            Short('i') | Long("lockid") => {
                self.lockid = Some(value::text("--lockid", parser.value()?)?);
            }
            Short('p') | Long("lockpath") => {
                self.lockpath = value::text("--lockpath", parser.value()?)?;
            }
            Short('r') | Long("lockretry") => {
                self.lockretry = value::TRIES.take("--lockretry", parser)?;
            }
            Long("shared") => self.common.shared = true,
            Short('t') | Long("locktimeout") => {
                self.common.wait = Some(value::WAIT.take("--locktimeout", parser)?);
            }
            Short('R') | Long("retry") => self.retry = value::TRIES.take("--retry", parser)?,
            Short('T') | Long("timeout") => {
                self.timeout = value::TIMEOUT.take("--timeout", parser)?;
            }
            Short('z') | Long("zkhosts") => {
                self.zkhosts = Some(value::ensemble("--zkhosts", parser.value()?)?);
            }
            Long("every") => self.common.every = Some(value::PERIOD.take("--every", parser)?),
            Long("retry-failed") => self.common.retry_failed = true,
            Long("no-shell") => self.shell = false,
            Long("force") => self.common.force = true,
            argument => return self.common.take(argument, parser),
        }
        Ok(Taken::Argument)
    }

    fn common(&self) -> &Common {
        &self.common
    }

    fn plan(mut self, environment: &Environment) -> Result<Plan, Fault> {
        if self.common.every.is_some() && self.concurrent > 1 {
            return Err(Fault::Useless {
                option: "--every",
                with: "--concurrent above 1",
                why: CONCURRENT_RUNS,
            });
        }
        if self.common.shared && self.concurrent > 1 {
            return Err(Fault::Useless {
                option: "--shared",
                with: "--concurrent above 1",
                why: "a semaphore has no exclusive holders",
            });
        }
        let line = self.line()?;
        let path = self.path(&line)?;
        let cluster = self.cluster(environment)?;
        let (wait, busy) = if self.blocking {
            (self.common.wait.unwrap_or(Duration::MAX), 1)
        } else {
            (Duration::ZERO, 0)
        };
        let lock = Lock::Queue {
            path,
            cluster,
            permits: self.concurrent,
            sharing: self.common.sharing(),
            rounds: self.retry.map(|rounds| rounds.max(1)),
            restarts: self.lockretry,
        };
        let command = self.command(line);
        let plan = self
            .common
            .plan(PROGRAM.name, lock, command, busy, environment);
        Ok(Plan {
            wait,
            log: Log {
                style: Style::Glog,
                ..plan.log
            },
            ..plan
        })
    }

    fn request(mut self, environment: &Environment) -> Result<Request, Fault> {
        match self.common.mode {
            Mode::Run => self.plan(environment).map(Request::Run),
            Mode::Status => {
                let (locks, name) = self.locks(environment)?;
                let count = usize::from(name.is_some());
                let inspection = self.common.inspection(PROGRAM.name, locks, count);
                Ok(Request::Status(inspection))
            }
            Mode::Break => {
                let (locks, name) = self.locks(environment)?;
                let name = name.ok_or(Fault::NoId)?;
                let common = self.common;
                let eviction = common.eviction(PROGRAM.name, locks, name, environment);
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
    /// The locks to look at, one if an id or a command is given, otherwise all; and the name of the
    /// one.
    fn locks(&mut self, environment: &Environment) -> Result<(Locks, Option<String>), Fault> {
        let name = if self.lockid.is_some() {
            Some(self.id(OsStr::new(""))?)
        } else if self.common.words.is_empty() {
            None
        } else {
            Some(self.id(&self.line()?)?)
        };
        let mut root = normpath(&self.lockpath);
        if !root.is_empty() {
            check_name("lock path", &root, names::check_queue)?;
            root.insert(0, '/');
        }
        let locks = Locks::Nodes {
            cluster: self.cluster(environment)?,
            root,
            names: name.clone().map(|name| vec![name]),
            app: false,
            takes_auth: false,
        };
        Ok((locks, name))
    }

    /// The words as one line without blanks around it: the shell runs it, and the default lock id
    /// is its hash.
    fn line(&self) -> Result<OsString, Fault> {
        let words = &self.common.words;
        if words.is_empty() {
            Err(Fault::NoCommand)
        } else {
            Ok(python_hash::strip(&words.join(OsStr::new(" "))).to_owned())
        }
    }

    /// The shell has its full path, as in the original, so that a PATH without a shell does not
    /// matter.
    fn command(&mut self, line: OsString) -> Command {
        let shown = line.to_string_lossy().into_owned();
        Command {
            shown,
            words: if self.shell {
                vec!["/bin/sh".into(), "-c".into(), line]
            } else {
                mem::take(&mut self.common.words)
            },
        }
    }

    fn cluster(&mut self, environment: &Environment) -> Result<Cluster, Fault> {
        let (source, ensemble) = match (self.zkhosts.take(), &environment.zkhosts) {
            (Some(typed), _) => ("--zkhosts", typed),
            (None, found) => (
                "ZKHOSTS",
                value::ensemble("ZKHOSTS", found.clone().unwrap_or_else(|| HOSTS.into()))?,
            ),
        };
        self.common.warnings.extend(
            ensemble
                .chroot_warning()
                .map(|warning| Warning::Shown(format!("{source}: {warning}"))),
        );
        let Ensemble { hosts, chroot } = ensemble;
        Ok(Cluster {
            connection: self
                .common
                .connection(&hosts, Connection::Direct, environment)?,
            hosts,
            chroot,
            timeout: self.timeout,
            auth: None,
            acl: Acl::Open,
            heartbeat: Heartbeat::Write,
        })
    }

    /// The name of the lock's node below the lock path.
    fn id(&self, line: &OsStr) -> Result<String, Fault> {
        let id = self
            .lockid
            .as_deref()
            .map_or_else(|| python_hash::abs_hash(line).to_string(), normpath);
        check_name("lock id", &id, names::check_queue)?;
        Ok(id)
    }

    /// The path of the lock's node.
    fn path(&self, line: &OsStr) -> Result<String, Fault> {
        let id = self.id(line)?;
        let path = normpath(&format!("{}/{id}", self.lockpath));
        check_name("lock path", &path, names::check_queue)?;
        Ok(format!("/{path}"))
    }
}

/// The path without superfluous slashes, as kazoo's `normpath` makes it.
fn normpath(path: &str) -> String {
    path.split('/')
        .filter(|element| !element.is_empty())
        .collect::<Vec<_>>()
        .join("/")
}

#[cfg(test)]
mod tests;
