//! `zk-flock`: its help, its options, and its plan with the config file. Options, defaults and
//! config are those of the Python original, with a few more. As with Python's optparse, options may
//! stand in any order and may be abbreviated to any unambiguous prefix.

use super::line::Form;
use super::options::{self, Common, Mode, Taken, next_argument, words_after_dashes};
use super::{Environment, Fault, Program, Request, check_name, read, value};
use crate::config::{Config, Required};
use crate::plan::hosts::Ensemble;
use crate::plan::inspection::Locks;
use crate::plan::names;
use crate::plan::{ClientCheck, Cluster, Command, Eviction, LoadLimit, Lock, Log, Plan, Warning};
use crate::shell;
use crate::shell::words::{self, Word};
use lexopt::prelude::*;
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The program.
pub const PROGRAM: Program = Program {
    name: "zk-flock",
    help: HELP,
    request: options::request::<Options>,
};

/// What `--help` prints.
const HELP: &str = "\
Usage: zk-flock [options] LOCKNAME COMMAND
       zk-flock [options] LOCKNAME -- PROGRAM ARG...
       zk-flock [options] --status [LOCKNAME...] | --break LOCKNAME | --check

Run a command while holding a lock that all hosts of a cluster share. COMMAND is
split as by a shell and run without one; for pipes: LOCKNAME -- sh -c 'LINE'.

Config, lock and command:
  -c, --confpath FILE     read config [default: /etc/distributed-flock.json]
  -d, --daemonize         run in the background
  -m, --maxla LOAD        do not run at this load average or above
  -s, --sleep             first sleep as many seconds as the load average
  -w, --wait SECS         wait up to SECS (or inf) for the lock [default: 0]
  -x, --exitcode N        exit with N if the lock is busy [default: 0]
  -n N                    use the first free lock of LOCKNAME_0 ... LOCKNAME_N-1
      --every PERIOD      run once per PERIOD (10m), on the first host to ask
      --retry-failed      with --every: a run that failed does not count
      --shared            with --local: share the lock with --shared runs
  -l, --minlocktime SECS  hold the lock for at least SECS [default: 5]
  -p, --pdeathsig SIG     signal the command if zk-flock dies [default: TERM]
  -k, --kill-after SECS   kill the command SECS after a stop signal [default: 5]
Servers:
      --hosts LIST        use ZooKeeper servers HOST:PORT,...[/CHROOT]
      --app-id ID         use namespace ID; with --hosts, no config is needed
      --timeout SECS      set session/connect timeout [default: config, or 15]
      --proxy COMMAND     connect by COMMAND, e.g. ssh -W %h:%p bastion
      --tls-ca FILE       connect by TLS; trust the CA certificates in FILE
      --tls-cert FILE     show the server the certificate in FILE
      --tls-key FILE      its key [default: in the file of --tls-cert]
      --tls-name NAME     the server's certificate has NAME [default: the host]
      --local[=DIR]       use a lock file on this host, below DIR, not ZooKeeper
Instead of a command:
      --status            show the holders and the waiters of locks
      --json              print --status or --check as JSON
      --check             check config and servers, without a lock
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

SECS may have units: 1h30m. Exit code: the command's; others: see zk-flock(1).
";

/// The config file without `-c`.
const CONFIG: &str = "/etc/distributed-flock.json";

/// The session timeout if no config is needed and nothing sets it: that of the manual's example,
/// which survives 6.7 s without a server.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(15);

/// The namespace of local locks if nothing sets it.
const DEFAULT_APP_ID: &str = "default";

/// The long options of the original. Their prefixes take precedence over those of new options.
const ORIGINAL: &[&str] = &[
    "confpath",
    "daemonize",
    "maxla",
    "sleep",
    "wait",
    "exitcode",
    "minlocktime",
    "pdeathsig",
    "help",
];

/// The options, with the defaults of those that were not given.
#[derive(Debug)]
struct Options {
    confpath: Option<PathBuf>,
    /// The config that was read.
    config_read: Option<PathBuf>,
    daemonize: bool,
    maxla: Option<f64>,
    sleep: bool,
    sequence: u32,
    minlocktime: Duration,
    /// The servers, and the option or variable that they are from.
    hosts: Option<(&'static str, Ensemble)>,
    app_id: Option<String>,
    timeout: Option<Duration>,
    local: Option<Folder>,
    common: Common,
    after_dashes: Vec<OsString>,
}

/// The directory of local locks.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Folder {
    Default,
    Given(PathBuf),
}

impl Default for Options {
    fn default() -> Options {
        Options {
            confpath: None,
            config_read: None,
            daemonize: false,
            maxla: None,
            sleep: false,
            sequence: 0,
            minlocktime: Duration::from_secs(5),
            hosts: None,
            app_id: None,
            timeout: None,
            local: None,
            common: Common::default(),
            after_dashes: Vec::new(),
        }
    }
}

impl options::Options for Options {
    const FORM: Form = Form {
        program: PROGRAM.name,
        before: 1,
        one_word: false,
    };

    fn take(&mut self, parser: &mut lexopt::Parser) -> Result<Taken, Fault> {
        if let Some(words) = words_after_dashes(parser) {
            self.after_dashes = words;
            return Ok(Taken::All);
        }
        let Some(argument) = next_argument(parser, HELP, ORIGINAL)? else {
            return Ok(Taken::All);
        };
        match argument {
            Short('c') | Long("confpath") => self.confpath = Some(parser.value()?.into()),
            Short('d') | Long("daemonize") => self.daemonize = true,
            Short('m') | Long("maxla") => self.maxla = Some(value::LOAD.take("--maxla", parser)?),
            Short('s') | Long("sleep") => self.sleep = true,
            Short('n') => {
                self.sequence = value::NAMES.take_int("-n", parser, &mut self.common.warnings)?;
            }
            Long("every") => self.common.every = Some(value::PERIOD.take("--every", parser)?),
            Long("retry-failed") => self.common.retry_failed = true,
            Long("shared") => self.common.shared = true,
            Short('l') | Long("minlocktime") => {
                self.minlocktime = value::SECONDS.take("--minlocktime", parser)?;
            }
            Short('p') => return self.common.take(Long("pdeathsig"), parser),
            Long("hosts") => {
                self.hosts = Some(("--hosts", value::ensemble("--hosts", parser.value()?)?));
            }
            Long("app-id") => self.app_id = Some(value::text("--app-id", parser.value()?)?),
            Long("timeout") => self.timeout = Some(value::TIMEOUT.take("--timeout", parser)?),
            Long("local") => {
                self.local = Some(
                    parser
                        .optional_value()
                        .map_or(Ok(Folder::Default), folder)?,
                );
            }
            Long("force") => self.common.force = true,
            argument => return self.common.take(argument, parser),
        }
        Ok(Taken::Argument)
    }

    fn common(&self) -> &Common {
        &self.common
    }

    fn plan(mut self, environment: &Environment) -> Result<Plan, Fault> {
        let (name, command) = self.words()?;
        self.check_conflicts()?;
        self.take_environment(environment)?;
        let path = self.confpath.clone().unwrap_or_else(|| CONFIG.into());
        let config = self.config(&path)?;
        self.merge(config, &path, &name, command, environment)
    }

    fn request(mut self, environment: &Environment) -> Result<Request, Fault> {
        match self.common.mode {
            Mode::Run => self.plan(environment).map(Request::Run),
            Mode::Status => {
                let (locks, count) = self.locks(environment)?;
                let inspection = self.common.inspection(PROGRAM.name, locks, count);
                Ok(Request::Status(inspection))
            }
            Mode::Break => self.eviction(environment).map(Request::Break),
            Mode::Check => self.client_check(environment).map(Request::CheckClient),
        }
    }
}

impl Options {
    /// The lock's name and the command. The command is one word, which is split, or after `--` two
    /// or more words, which are used as they are.
    fn words(&mut self) -> Result<(String, Command), Fault> {
        let words: Vec<_> = self
            .common
            .words
            .iter()
            .chain(&self.after_dashes)
            .cloned()
            .collect();
        let [name, command @ ..] = &words[..] else {
            return Err(Fault::NoWords);
        };
        let command = match command {
            [] => return Err(Fault::NoCommand),
            [text] => self.split(name, text)?,
            [_, _, ..] if self.common.words.len() < 2 => Command {
                shown: command.join(OsStr::new(" ")).to_string_lossy().into_owned(),
                words: command.to_vec(),
            },
            _ => return Err(Fault::TooManyWords(words.len())),
        };
        if command.words.is_empty() {
            return Err(Fault::EmptyCommand);
        }
        let name = name.clone().into_string().map_err(|name| {
            let name = name.to_string_lossy().into_owned();
            Fault::Name {
                what: "lock name",
                name,
                flaw: names::InvalidName::NotText,
            }
        })?;
        Ok((name, command))
    }

    /// Splits a one-word command, and warns if it seems to be written for a shell.
    fn split(&mut self, name: &OsStr, text: &OsStr) -> Result<Command, Fault> {
        let words = words::read(text).map_err(Fault::Command)?;
        if let Some(found) = shell::meant_for_shell(&words) {
            let [line, name] = [text, name].map(shell::quote);
            self.common.warnings.push(Warning::Shown(format!(
                "the command runs without a shell and gets {:?} as an argument; to use a shell, end the line with: {name} -- sh -c {line}",
                found.to_string_lossy()
            )));
        }
        Ok(Command {
            words: words.into_iter().map(|Word { text, .. }| text).collect(),
            shown: text.to_string_lossy().into_owned(),
        })
    }

    /// The locks to look at, and how many names were given: all words are names, with `-n` each of
    /// several locks.
    fn locks(&mut self, environment: &Environment) -> Result<(Locks, usize), Fault> {
        self.common.words.append(&mut self.after_dashes);
        let names = self.common.names()?;
        self.check_conflicts()?;
        self.take_environment(environment)?;
        let path = self.confpath.clone().unwrap_or_else(|| CONFIG.into());
        let mut config = self.config(&path)?;
        let locks = if let Some(folder) = self.local.clone() {
            let (folder, app_id) =
                self.local_folder(&folder, config.app_id.as_deref(), environment)?;
            Locks::Files {
                folder,
                app_id,
                names: self.all_names(&names, names::check_file)?,
            }
        } else {
            let (cluster, app_id) = self.ensemble(&mut config, &path, environment)?;
            Locks::Nodes {
                cluster,
                root: format!("/{app_id}"),
                names: self.all_names(&names, names::check_lock)?,
                app: true,
                takes_auth: true,
            }
        };
        self.common.warnings.append(&mut config.warnings);
        Ok((locks, names.len()))
    }

    /// The plan of `--check`.
    fn client_check(mut self, environment: &Environment) -> Result<ClientCheck, Fault> {
        if self.local.is_some() {
            return Err(Fault::Conflict {
                option: "--check",
                with: "--local",
            });
        }
        let (locks, _) = self.locks(environment)?;
        self.common
            .client_check(PROGRAM.name, self.config_read, locks)
    }

    /// The plan of `--break`.
    fn eviction(mut self, environment: &Environment) -> Result<Eviction, Fault> {
        if self.local.is_some() && self.common.force {
            return Err(Fault::Conflict {
                option: "--force",
                with: "--local",
            });
        }
        let (locks, _) = self.locks(environment)?;
        let [name] = &self.common.names()?[..] else {
            return Err(Fault::OneName(self.common.words.len()));
        };
        let eviction = self
            .common
            .eviction(PROGRAM.name, locks, name.clone(), environment);
        Ok(eviction)
    }

    /// The names of locks to look at; `None`: all.
    fn all_names(
        &self,
        names: &[String],
        allowed: fn(&str) -> Result<(), names::InvalidName>,
    ) -> Result<Option<Vec<String>>, Fault> {
        let mut all = Vec::new();
        for name in names {
            all.append(&mut self.names(name, allowed)?);
        }
        Ok((!all.is_empty()).then_some(all))
    }

    /// Takes values from the environment for options that were not given. An empty variable counts
    /// as unset.
    fn take_environment(&mut self, environment: &Environment) -> Result<(), Fault> {
        let found =
            |variable: &Option<OsString>| variable.clone().filter(|value| !value.is_empty());
        if self.confpath.is_none() {
            self.confpath = found(&environment.config).map(Into::into);
        }
        if let (None, Some(id)) = (&self.app_id, found(&environment.app_id)) {
            self.app_id = Some(value::text("ZK_FLOCK_APP_ID", id)?);
        }
        if self.local.is_some() {
            return Ok(()); // without servers the others mean nothing
        }
        if let (None, Some(list)) = (&self.hosts, found(&environment.hosts)) {
            self.hosts = Some(("ZK_FLOCK_HOSTS", value::ensemble("ZK_FLOCK_HOSTS", list)?));
        }
        if let (None, Some(time)) = (self.timeout, found(&environment.timeout)) {
            self.timeout = Some(value::TIMEOUT.read("ZK_FLOCK_TIMEOUT", &time)?);
        }
        Ok(())
    }

    /// Refuses options that contradict each other.
    fn check_conflicts(&self) -> Result<(), Fault> {
        if self.common.shared && self.local.is_none() {
            return Err(Fault::Useless {
                option: "--shared",
                with: "a lock on ZooKeeper",
                why: "its only node is that of one holder (use --local, or lockex --shared)",
            });
        }
        if self.common.shared && self.sequence > 0 {
            return Err(Fault::Useless {
                option: "--shared",
                with: "-n",
                why: "a run without --shared would hold another of the locks beside the readers of one",
            });
        }
        if self.common.every.is_some() && self.sequence > 0 {
            return Err(Fault::Useless {
                option: "--every",
                with: "-n",
                why: "a run of one name does not see the last run of another",
            });
        }
        let service = [
            ("--hosts", self.hosts.is_some()),
            ("--timeout", self.timeout.is_some()),
            ("--proxy", self.common.proxy.is_some()),
        ];
        let tls = self.common.tls_option().map(|option| (option, true));
        let given = service
            .iter()
            .chain(&tls)
            .find(|(_, given)| *given && self.local.is_some());
        if self.daemonize && self.common.notify.is_some() {
            return Err(Fault::Conflict {
                option: "--notify",
                with: "--daemonize",
            });
        }
        given.map_or(Ok(()), |(option, _)| {
            Err(Fault::Conflict {
                option,
                with: "--local",
            })
        })
    }

    /// Whether options and environment are enough to find the lock, without a config.
    fn names_the_lock(&self) -> bool {
        self.hosts.is_some() && self.app_id.is_some()
    }

    /// The config at `path`; the default config if the file neither exists nor is needed.
    fn config(&mut self, path: &Path) -> Result<Config, Fault> {
        let optional = self.confpath.is_none() && (self.local.is_some() || self.names_the_lock());
        match read(path) {
            Ok(text) => {
                self.config_read = Some(path.to_owned());
                Ok(Config::parse(&text, path)?)
            }
            Err(Fault::Unreadable { source, .. })
                if optional && source.kind() == io::ErrorKind::NotFound =>
            {
                Ok(Config::default())
            }
            Err(Fault::Unreadable { path, source }) if self.confpath.is_none() => {
                Err(Fault::NoDefaultConfig { path, source })
            }
            Err(fault) => Err(fault),
        }
    }

    /// The plan from the options and the config, which was read from `path`.
    fn merge(
        mut self,
        mut config: Config,
        path: &Path,
        name: &str,
        command: Command,
        environment: &Environment,
    ) -> Result<Plan, Fault> {
        let lock = match self.local.clone() {
            Some(folder) => {
                self.local_lock(&folder, config.app_id.as_deref(), name, environment)?
            }
            None => self.node_lock(&mut config, path, name, environment)?,
        };
        config.warnings.append(&mut self.common.warnings);
        let warning = config.load_warning.map(if self.maxla.is_some() {
            Warning::Logged
        } else {
            Warning::Shown
        });
        config.warnings.extend(warning);
        let wait = self.common.wait.unwrap_or(Duration::ZERO);
        let plan = self
            .common
            .plan(PROGRAM.name, lock, command, 0, environment);
        config.warnings.extend(plan.log.warnings);
        Ok(Plan {
            announce: self.sequence > 0,
            wait,
            minimum_hold: self.minlocktime,
            load_limit: LoadLimit {
                max_load: self.maxla.or(config.maxla).filter(|&load| load > 0.0),
                sleep: self.sleep || config.sleep.unwrap_or(false),
            },
            log: Log {
                path: config
                    .log_path
                    .map(|path| environment.current_dir.join(path)),
                level: config.level,
                session_level: config.zklevel,
                warnings: config.warnings,
                ..plan.log
            },
            daemonize: self.daemonize,
            ..plan
        })
    }

    fn node_lock(
        &mut self,
        config: &mut Config,
        path: &Path,
        name: &str,
        environment: &Environment,
    ) -> Result<Lock, Fault> {
        let (cluster, app_id) = self.ensemble(config, path, environment)?;
        Ok(Lock::Node {
            cluster,
            app_id,
            names: self.names(name, names::check_lock)?,
        })
    }

    /// The ensemble, and the namespace of the locks.
    fn ensemble(
        &mut self,
        config: &mut Config,
        path: &Path,
        environment: &Environment,
    ) -> Result<(Cluster, String), Fault> {
        let timeout = self
            .timeout
            .or(config.timeout)
            .or_else(|| self.names_the_lock().then_some(DEFAULT_TIMEOUT));
        let in_config = config.host.take().map(|ensemble| ("\"host\"", ensemble));
        let missing = |key| config.missing(key, path);
        let (source, ensemble) = self
            .hosts
            .take()
            .or(in_config)
            .ok_or_else(|| missing(Required::Host))?;
        let app_id = self.app_id.take().or_else(|| config.app_id.clone());
        let warning = ensemble
            .chroot_warning()
            .map(|warning| Warning::Shown(format!("{source}: {warning}")));
        let cluster = Cluster {
            connection: self.common.connection(
                &ensemble.hosts,
                config.connection.clone(),
                environment,
            )?,
            hosts: ensemble.hosts,
            chroot: ensemble.chroot,
            timeout: timeout.ok_or_else(|| missing(Required::Timeout))?,
            auth: config.auth.clone(),
            acl: config.acl,
            heartbeat: config.heartbeat,
        };
        let app_id = app_id.ok_or_else(|| missing(Required::AppId))?;
        check_name("app id", &app_id, names::check_node)?;
        config.warnings.extend(warning);
        Ok((cluster, app_id))
    }

    fn local_lock(
        &self,
        folder: &Folder,
        configured: Option<&str>,
        name: &str,
        environment: &Environment,
    ) -> Result<Lock, Fault> {
        let (folder, app_id) = self.local_folder(folder, configured, environment)?;
        Ok(Lock::Local {
            folder,
            app_id,
            names: self.names(name, names::check_file)?,
            sharing: self.common.sharing(),
        })
    }

    /// The directory of `--local`, `None` for the default one, and the directory in it.
    fn local_folder(
        &self,
        folder: &Folder,
        configured: Option<&str>,
        environment: &Environment,
    ) -> Result<(Option<PathBuf>, String), Fault> {
        let app_id = self
            .app_id
            .as_deref()
            .or(configured)
            .unwrap_or(DEFAULT_APP_ID)
            .to_owned();
        check_name("app id", &app_id, names::check_file)?;
        let folder = match folder {
            Folder::Default => None,
            Folder::Given(folder) => Some(environment.current_dir.join(folder)),
        };
        Ok((folder, app_id))
    }

    /// The name, or with `-n` the names that are made from it.
    fn names(
        &self,
        name: &str,
        allowed: fn(&str) -> Result<(), names::InvalidName>,
    ) -> Result<Vec<String>, Fault> {
        check_name("lock name", name, allowed)?;
        Ok(match self.sequence {
            0 => vec![name.to_owned()],
            count => (0..count)
                .map(|number| format!("{name}_{number}"))
                .collect(),
        })
    }
}

fn folder(value: OsString) -> Result<Folder, Fault> {
    if value.is_empty() {
        Err(value::invalid("--local", "a folder", &value))
    } else {
        Ok(Folder::Given(value.into()))
    }
}

#[cfg(test)]
mod tests;
