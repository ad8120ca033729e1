//! `lockex`: its help, its options and its plan. Options and defaults are those of the Python
//! original, with a few more. Options may stand between the words of the command; without an id,
//! all clients with the same words share a lock.

use super::line::Form;
use super::options::{self, Common, Taken, next_argument};
use super::{Environment, Fault, Program, check_name, python_hash, value};
use crate::plan::hosts::Ensemble;
use crate::plan::names;
use crate::plan::{Acl, Cluster, Command, Heartbeat, Lock, Log, Plan, Style, Warning};
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

Runs a command while it holds a lock that every host of a cluster can see.
Who waits is served in turn. The words are joined with spaces and given to
sh -c; those who give the same words, or the same ID, share a lock.

      --blocking          wait if the lock is taken, as it does anyway
      --no-blocking       if it is taken, exit 0 at once
  -c, --concurrent N      N may hold the lock at once (1); all must say the same
  -i, --lockid ID         name of the lock (a number made of the command)
  -p, --lockpath PATH     node that the lock is below (lockex)
  -r, --lockretry N       queue again after N lost sessions (1; -1: no limit)
  -t, --locktimeout SECS  wait so long for the lock (inf)
  -R, --retry N           try all servers N times (1; -1: no limit)
  -T, --timeout SECS      session timeout; bounds connecting too (30)
  -z, --zkhosts LIST      ZooKeeper servers, HOST:PORT,...[/CHROOT]
                          ($ZKHOSTS, else localhost:2181)
  -w, --wait SECS         the same as --locktimeout
  -x, --exitcode N        exit code if the lock is not to be had
                          (0 with --no-blocking, else 1)
  -k, --kill-after SECS   time from TERM to KILL when lockex is stopped (5)
      --no-shell          run the words as they are, without a shell
      --pdeathsig SIG     signal to the command if lockex dies (TERM; 0: none)
      --sysexits          tell failures apart by the codes of sysexits.h
  -v, --verbose           tell the story of the run on stderr
  -V, --version           print the version
  -h, --help              print this
      --program=NAME      as the first word: be the program NAME

SECS may have units: 90, 90s, 1h30m.

Exit code: the command's own, 128+N if signal N killed it, -x if the lock is
busy, 126 if the command cannot be run, 127 if there is none, 2 for a wrong
option, else 1; see --sysexits.
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
            Long("no-shell") => self.shell = false,
            argument => return self.common.take(argument, parser),
        }
        Ok(Taken::Argument)
    }

    fn common(&self) -> &Common {
        &self.common
    }

    fn plan(mut self, environment: &Environment) -> Result<Plan, Fault> {
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
}

impl Options {
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
            hosts,
            chroot,
            timeout: self.timeout,
            auth: None,
            acl: Acl::Open,
            heartbeat: Heartbeat::Write,
        })
    }

    /// The path of the lock's node.
    fn path(&self, line: &OsStr) -> Result<String, Fault> {
        let id = self
            .lockid
            .as_deref()
            .map_or_else(|| python_hash::abs_hash(line).to_string(), normpath);
        check_name("lock id", &id, names::check_node)?;
        let path = normpath(&format!("{}/{id}", self.lockpath));
        check_name("lock path", &path, names::check_node)?;
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
