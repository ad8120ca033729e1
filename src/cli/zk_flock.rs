//! `zk-flock`: its help, its options, and what these come to with the config file. Options, defaults and the file are those of the Python
//! original (behaviour of optparse included: any order, any clear prefix), and a few more.

use super::hosts::{self, Ensemble};
use super::{Environment, Error, Fault, Request, names, next_argument, value, words, words_after_dashes};
use crate::config::{self, Config, Required};
use crate::plan::{Cluster, Command, ExitCodes, Gate, Lock, Log, Plan};
use crate::signal::Signal;
use lexopt::prelude::*;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What `--help` prints.
pub const HELP: &str = "\
Usage: zk-flock [options] LOCKNAME COMMAND
       zk-flock [options] LOCKNAME -- PROGRAM ARG...

Runs a command while it holds a lock that every host of a cluster can see.
COMMAND is split into words like a shell does it, and run without a shell.

  -c, --confpath FILE     config (/etc/distributed-flock.json)
  -d, --daemonize         run in the background
  -m, --maxla LOAD        do not run at this load average or above
  -s, --sleep             first sleep as many seconds as the load average
  -w, --wait SECS         wait so long for the lock (0: one try); inf: for ever
  -x, --exitcode N        exit code if the lock is not to be had (0)
  -n N                    take the first free one of LOCKNAME_0 ... LOCKNAME_N-1
  -l, --minlocktime SECS  hold the lock at least so long (5)
  -p, --pdeathsig SIG     signal for the command if zk-flock dies (TERM); 0: none
  -k, --kill-after SECS   time from TERM to KILL when zk-flock is stopped (5)
      --hosts LIST        ZooKeeper servers, HOST:PORT,...[/CHROOT]
      --app-id ID         namespace of the lock; with --hosts, no config is needed
      --timeout SECS      session timeout; bounds connecting too
      --local[=DIR]       no ZooKeeper: a lock of this host, a file below DIR
      --sysexits          tell failures apart by the codes of sysexits.h
  -v, --verbose           tell the story of the run on stderr
  -V, --version           print the version
  -h, --help              print this
      --program=NAME      as the first word: be the program NAME

Exit code: the command's own, 128+N if signal N killed it, -x if the lock is
busy, 126 if the command cannot be run, 127 if there is none, 2 for a wrong
option, else 1; see --sysexits.
";

/// Where the config is unless `-c` says otherwise.
const CONFIG: &str = "/etc/distributed-flock.json";

/// The most bytes that a config has. The documented one has 500.
const LONGEST_CONFIG: u64 = 1 << 20;

/// Session timeout if no config is needed and none gives it: what the manual's example has, for it rides out 6.7 s without a server.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(15);

/// Namespace of local locks if nothing gives it.
const DEFAULT_APP_ID: &str = "default";

/// Every long option, to complete what is typed.
const LONG: &[&str] = &[
    "confpath",
    "daemonize",
    "maxla",
    "sleep",
    "wait",
    "exitcode",
    "minlocktime",
    "pdeathsig",
    "kill-after",
    "hosts",
    "app-id",
    "timeout",
    "local",
    "sysexits",
    "verbose",
    "version",
    "help",
];

/// What was typed, or what stands for what was not.
#[derive(Debug)]
#[allow(clippy::struct_excessive_bools)] // one for each option that has no value
struct Options {
    confpath: Option<PathBuf>,
    daemonize: bool,
    maxla: Option<f64>,
    sleep: bool,
    wait: Duration,
    exitcode: Option<u8>,
    sequence: u32,
    minlocktime: Duration,
    pdeathsig: Option<Signal>,
    kill_after: Duration,
    hosts: Option<Ensemble>,
    app_id: Option<String>,
    timeout: Option<Duration>,
    local: Option<Folder>,
    sysexits: bool,
    verbose: bool,
    words: Vec<OsString>,
    after_dashes: Vec<OsString>,
}

/// Where local locks are.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Folder {
    Default,
    Given(PathBuf),
}

impl Default for Options {
    fn default() -> Options {
        Options {
            confpath: None,
            daemonize: false,
            maxla: None,
            sleep: false,
            wait: Duration::ZERO,
            exitcode: None,
            sequence: 0,
            minlocktime: Duration::from_secs(5),
            pdeathsig: Some(Signal::TERM),
            kill_after: Duration::from_secs(5),
            hosts: None,
            app_id: None,
            timeout: None,
            local: None,
            sysexits: false,
            verbose: false,
            words: Vec::new(),
            after_dashes: Vec::new(),
        }
    }
}

/// What `args`, the words after the program's name, ask for. Wherever they ask for help or version, that is it.
pub fn request(args: impl IntoIterator<Item = OsString>, environment: &Environment) -> Result<Request, Error> {
    let mut parser = lexopt::Parser::from_args(args);
    let mut options = Options::default();
    let mut first_fault = None;
    loop {
        match options.take(&mut parser) {
            Ok(Taken::Argument) => {}
            Ok(Taken::Help) => return Ok(Request::Help(HELP)),
            Ok(Taken::Version) => return Ok(Request::Version),
            Ok(Taken::All) => break,
            Err(fault) => drop(first_fault.get_or_insert(fault)),
        }
    }
    let sysexits = options.sysexits;
    let plan = first_fault.map_or_else(|| options.plan(environment), Err);
    plan.map(Request::Run).map_err(|fault| Error { fault, sysexits })
}

/// What was found on the line.
enum Taken {
    Argument,
    Help,
    Version,
    All,
}

impl Options {
    /// Takes the next argument off the line; after a fault the line can be read on.
    fn take(&mut self, parser: &mut lexopt::Parser) -> Result<Taken, Fault> {
        if let Some(words) = words_after_dashes(parser) {
            self.after_dashes = words;
            return Ok(Taken::All);
        }
        let Some(argument) = next_argument(parser, LONG)? else { return Ok(Taken::All) };
        match argument {
            Short('c') | Long("confpath") => self.confpath = Some(parser.value()?.into()),
            Short('d') | Long("daemonize") => self.daemonize = true,
            Short('m') | Long("maxla") => self.maxla = Some(value::LOAD.take("--maxla", parser)?),
            Short('s') | Long("sleep") => self.sleep = true,
            Short('w') | Long("wait") => self.wait = value::WAIT.take("--wait", parser)?,
            Short('x') | Long("exitcode") => self.exitcode = Some(value::EXIT_CODE.take("--exitcode", parser)?),
            Short('n') => self.sequence = value::NAMES.take("-n", parser)?,
            Short('l') | Long("minlocktime") => self.minlocktime = value::SECONDS.take("--minlocktime", parser)?,
            Short('p') | Long("pdeathsig") => self.pdeathsig = value::SIGNAL.take("--pdeathsig", parser)?,
            Short('k') | Long("kill-after") => self.kill_after = value::SECONDS.take("--kill-after", parser)?,
            Long("hosts") => self.hosts = Some(hosts::parse(&text("--hosts", parser.value()?)?).map_err(Fault::Hosts)?),
            Long("app-id") => self.app_id = Some(text("--app-id", parser.value()?)?),
            Long("timeout") => self.timeout = Some(value::TIMEOUT.take("--timeout", parser)?),
            Long("local") => self.local = Some(parser.optional_value().map_or(Ok(Folder::Default), folder)?),
            Long("sysexits") => self.sysexits = true,
            Short('v') | Long("verbose") => self.verbose = true,
            Short('V') | Long("version") => return Ok(Taken::Version),
            Short('h') | Long("help") => return Ok(Taken::Help),
            Value(word) => self.words.push(word),
            option => return Err(option.unexpected().into()),
        }
        Ok(Taken::Argument)
    }

    fn plan(self, environment: &Environment) -> Result<Plan, Fault> {
        let (name, command) = self.words()?;
        self.agree()?;
        let path = self.confpath.clone().unwrap_or_else(|| CONFIG.into());
        let config = self.config(&path)?;
        self.join(config, &path, &name, command, environment)
    }

    /// The lock's name, and the command: one word to be split, or after `--` two and more to be taken as they are.
    fn words(&self) -> Result<(String, Command), Fault> {
        let words: Vec<_> = self.words.iter().chain(&self.after_dashes).collect();
        let [name, ref command @ ..] = words[..] else { return Err(Fault::Words(0)) };
        let command = match command {
            [text] => Command { words: words::split(text).map_err(Fault::Command)?, shown: text.to_string_lossy().into_owned() },
            [_, _, ..] if self.words.len() < 2 => {
                let words: Vec<_> = command.iter().copied().cloned().collect();
                Command { shown: words.join(OsStr::new(" ")).to_string_lossy().into_owned(), words }
            }
            _ => return Err(Fault::Words(words.len())),
        };
        if command.words.is_empty() {
            return Err(Fault::NoCommand);
        }
        let name = name.clone().into_string().map_err(|name| {
            let name = name.to_string_lossy().into_owned();
            Fault::Name { what: "lock name", name, flaw: names::Flaw::NotText }
        })?;
        Ok((name, command))
    }

    /// Refuses options that contradict each other.
    fn agree(&self) -> Result<(), Fault> {
        let service = [("--hosts", self.hosts.is_some()), ("--timeout", self.timeout.is_some())];
        let given = service.iter().find(|(_, given)| *given && self.local.is_some());
        given.map_or(Ok(()), |(option, _)| Err(Fault::Conflict { option, with: "--local" }))
    }

    /// Whether the options alone say which lock of which service is meant.
    fn name_the_service(&self) -> bool {
        self.hosts.is_some() && self.app_id.is_some()
    }

    /// The config at `path`; nothing, if it is neither there nor needed.
    fn config(&self, path: &Path) -> Result<Config, Fault> {
        let optional = self.confpath.is_none() && (self.local.is_some() || self.name_the_service());
        match read(path) {
            Ok(text) => Ok(Config::parse(&text, path)?),
            Err(Fault::Unreadable { source, .. }) if optional && source.kind() == io::ErrorKind::NotFound => Ok(Config::default()),
            Err(fault) => Err(fault),
        }
    }

    /// The plan that options and config, the contents of `path`, come to.
    fn join(self, config: Config, path: &Path, name: &str, command: Command, environment: &Environment) -> Result<Plan, Fault> {
        let lock = match &self.local {
            Some(folder) => self.local_lock(folder, &config, name, environment)?,
            None => self.node_lock(&config, path, name)?,
        };
        Ok(Plan {
            program: "zk-flock",
            lock,
            wait: self.wait,
            command,
            minimum_hold: self.minlocktime,
            kill_after: self.kill_after,
            death_signal: self.pdeathsig,
            exit_codes: ExitCodes { busy: self.exitcode, busy_default: 0, sysexits: self.sysexits },
            gate: Gate {
                max_load: self.maxla.or(config.maxla).filter(|&load| load > 0.0),
                sleep: self.sleep || config.sleep.unwrap_or(false),
            },
            log: Log {
                path: config.log_path.map(|path| environment.current_dir.join(path)),
                level: config.level,
                session_level: config.zklevel,
                warnings: config.warnings,
            },
            daemonize: self.daemonize,
            verbose: self.verbose,
        })
    }

    fn node_lock(&self, config: &Config, path: &Path, name: &str) -> Result<Lock, Fault> {
        let missing = |key| move || config::missing(key, path);
        let timeout = self.timeout.or(config.timeout).or_else(|| self.name_the_service().then_some(DEFAULT_TIMEOUT));
        let ensemble = self.hosts.clone().or_else(|| config.host.clone()).ok_or_else(missing(Required::Host))?;
        let cluster = Cluster {
            hosts: ensemble.hosts,
            chroot: ensemble.chroot,
            timeout: timeout.ok_or_else(missing(Required::Timeout))?,
            auth: config.auth.clone(),
            acl: config.acl,
            heartbeat: config.heartbeat,
        };
        let app_id = self.app_id.clone().or_else(|| config.app_id.clone()).ok_or_else(missing(Required::AppId))?;
        check("app id", &app_id, names::check_node)?;
        Ok(Lock::Node { cluster, app_id, names: self.names(name, names::check_node)?, announce: self.sequence > 0 })
    }

    fn local_lock(&self, folder: &Folder, config: &Config, name: &str, environment: &Environment) -> Result<Lock, Fault> {
        let app_id = self.app_id.as_deref().or(config.app_id.as_deref()).unwrap_or(DEFAULT_APP_ID);
        check("app id", app_id, names::check_file)?;
        let (folder, private) = match folder {
            Folder::Default => (default_folder(environment), true),
            Folder::Given(folder) => (environment.current_dir.join(folder), false),
        };
        let names = self.names(name, names::check_file)?;
        Ok(Lock::Local { directory: folder.join(app_id), private, names, announce: self.sequence > 0 })
    }

    /// The name, or with `-n` those that are made of it.
    fn names(&self, name: &str, allowed: fn(&str) -> Result<(), names::Flaw>) -> Result<Vec<String>, Fault> {
        check("lock name", name, allowed)?;
        Ok(match self.sequence {
            0 => vec![name.to_owned()],
            count => (0..count).map(|number| format!("{name}_{number}")).collect(),
        })
    }
}

fn check(what: &'static str, name: &str, allowed: fn(&str) -> Result<(), names::Flaw>) -> Result<(), Fault> {
    allowed(name).map_err(|flaw| Fault::Name { what, name: name.into(), flaw })
}

fn text(option: &'static str, value: OsString) -> Result<String, Fault> {
    value.into_string().map_err(|found| value::refuse(option, "UTF-8", &found))
}

fn folder(value: OsString) -> Result<Folder, Fault> {
    if value.is_empty() { Err(value::refuse("--local", "a folder", &value)) } else { Ok(Folder::Given(value.into())) }
}

/// Where local locks are unless `--local=DIR` says otherwise: a place that nobody but us can write to, gone at the next boot.
fn default_folder(environment: &Environment) -> PathBuf {
    match &environment.xdg_runtime_dir {
        _ if environment.euid == 0 => "/run/lock/zk-flock".into(),
        Some(folder) if folder.is_absolute() => folder.join("zk-flock"),
        _ => format!("/tmp/zk-flock-{}", environment.euid).into(),
    }
}

/// The bytes of a config, or of a pipe that has one.
fn read(path: &Path) -> Result<Vec<u8>, Fault> {
    let unreadable = |source| Fault::Unreadable { path: path.to_owned(), source };
    let mut text = Vec::new();
    let length = File::open(path).and_then(|file| file.take(LONGEST_CONFIG + 1).read_to_end(&mut text)).map_err(unreadable)?;
    if length as u64 > LONGEST_CONFIG { Err(Fault::TooLong(path.to_owned())) } else { Ok(text) }
}
