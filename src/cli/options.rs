//! The parser of command lines, and the options that every program that runs a command has: the
//! same letters with the same meaning. A program's own options are in its own file.

use super::line::{Form, Line};
use super::{Environment, Error, Fault, Request, value};
use crate::edit_distance;
use crate::plan::connection::{Proxy, Tls, Tool};
use crate::plan::inspection::{self, Inspection};
use crate::plan::{
    ClientCheck, Command, Connection, Every, Eviction, ExitCodes, Host, Level, LoadLimit, Lock,
    Log, Notify, Plan, Sharing, Style, Warning, names,
};
use crate::signal::Signal;
use lexopt::prelude::*;
use lexopt::{Arg, Parser};
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::time::Duration;

/// The options of one program, with the defaults of those that were not given.
pub(super) trait Options: Default {
    /// Where the command stands on the command line.
    const FORM: Form;
    /// Takes the next argument; parsing can go on after a fault.
    fn take(&mut self, parser: &mut Parser) -> Result<Taken, Fault>;
    /// The options that every program has.
    fn common(&self) -> &Common;
    /// The plan of a run that the options make.
    fn plan(self, environment: &Environment) -> Result<Plan, Fault>;
    /// What the options ask for: a run, or what the mode says.
    fn request(self, environment: &Environment) -> Result<Request, Fault>;
}

/// The kind of an argument.
pub(super) enum Taken {
    /// An option, with its value if it has one.
    Argument,
    /// A word.
    Word,
    /// The option that asks for the help.
    Help,
    /// The option that asks for the version.
    Version,
    /// The command line is at its end.
    All,
}

/// How long `--break` waits for the release without `-w`: a holder answers within 6 s and gives its
/// command 5 s between TERM and KILL by default, and a command that is told to end needs time.
const BREAK_WAIT: Duration = Duration::from_secs(30);

/// Why `--every` cannot be used with an option that allows several holders.
pub(super) const CONCURRENT_RUNS: &str = "holders at the same time do not see each other's runs";

/// What a program does with a lock.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) enum Mode {
    /// It runs a command under it.
    #[default]
    Run,
    /// It shows holders and waiters.
    Status,
    /// It takes it away from its holder.
    Break,
    /// It checks config and servers.
    Check,
}

impl Mode {
    /// The option that asks for it.
    fn option(self) -> &'static str {
        match self {
            Mode::Run => "COMMAND",
            Mode::Status => "--status",
            Mode::Break => "--break",
            Mode::Check => "--check",
        }
    }
}

/// Parses the arguments after the program's name.
pub(super) fn request<O: Options>(
    args: Vec<OsString>,
    environment: &Environment,
) -> Result<Request, Error> {
    let mut options = O::default();
    let mut line = Line::new(args);
    let read = read(&mut line, |parser| options.take(parser));
    let sysexits = options.common().sysexits;
    let request = read.and_then(|special| match special {
        Some(special) => Ok(special),
        None => options
            .common()
            .check_mode()
            .and_then(|()| options.request(environment)),
    });
    match request {
        Ok(Request::Run(mut plan)) => {
            plan.log
                .warnings
                .extend(line.advice_on_options(O::FORM).map(Warning::Hint));
            Ok(Request::Run(plan))
        }
        Ok(special) => Ok(special),
        Err(fault) => {
            let advice = match &fault {
                Fault::TooManyWords(_) | Fault::Unquoted(_) => line.corrected(O::FORM),
                Fault::Unknown { meant: Some(_), .. } => None,
                _ => line.advice_on_fault(O::FORM),
            };
            Err(Error {
                fault: fault.into(),
                advice,
                sysexits,
            })
        }
    }
}

/// Takes all arguments. An option that asks for help or version counts wherever it stands, and ends
/// parsing.
pub(super) fn read(
    line: &mut Line,
    mut take: impl FnMut(&mut Parser) -> Result<Taken, Fault>,
) -> Result<Option<Request>, Fault> {
    let mut parser = Parser::from_args(line.args().to_vec());
    let mut first_fault = None;
    let mut at = 0;
    loop {
        if let Some(rest) = parser.try_raw_args() {
            at = line.args().len() - rest.as_slice().len();
        }
        match take(&mut parser) {
            Ok(Taken::Argument) => line.add_option(at),
            Ok(Taken::Word) => line.add_word(at),
            Ok(Taken::Help) => return Ok(Some(Request::Help)),
            Ok(Taken::Version) => return Ok(Some(Request::Version)),
            Ok(Taken::All) => return first_fault.map_or(Ok(None), Err),
            Err(fault) => {
                line.add_fault(at);
                first_fault.get_or_insert(fault);
            }
        }
    }
}

/// The options of every program that runs a command, and the words of the command line.
#[derive(Debug)]
#[allow(clippy::struct_excessive_bools)] // one for each option without a value
pub(super) struct Common {
    /// `-w`: how long to wait for the lock, if given.
    pub wait: Option<Duration>,
    /// `-k`: time from TERM to KILL.
    pub kill_after: Duration,
    /// `--pdeathsig`: the signal to the command when this program dies.
    pub pdeathsig: Option<Signal>,
    /// `-v`.
    pub verbose: bool,
    /// What to do with the lock.
    pub mode: Mode,
    /// `--json`.
    pub json: bool,
    /// `--every`.
    pub every: Option<Duration>,
    /// `--retry-failed`.
    pub retry_failed: bool,
    /// `--shared`.
    pub shared: bool,
    /// `--token`: of the holder from which to take a lock away.
    pub token: Option<i64>,
    /// `--force`.
    pub force: bool,
    /// `--metrics`.
    pub metrics: Option<PathBuf>,
    /// `--notify`.
    pub notify: Option<Notify>,
    /// The words before the end of the line, or before a `--` that the program takes itself.
    pub words: Vec<OsString>,
    /// Problems of the options that do not stop the run.
    pub warnings: Vec<Warning>,
    /// `--proxy`.
    pub proxy: Option<Proxy>,
    /// The `--tls` options.
    pub tls: Tls,
    exitcode: Option<u8>,
    sysexits: bool,
}

impl Default for Common {
    fn default() -> Common {
        Common {
            wait: None,
            kill_after: Duration::from_secs(5),
            pdeathsig: Some(Signal::TERM),
            verbose: false,
            mode: Mode::Run,
            json: false,
            every: None,
            retry_failed: false,
            shared: false,
            token: None,
            force: false,
            notify: None,
            metrics: None,
            words: Vec::new(),
            warnings: Vec::new(),
            proxy: None,
            tls: Tls::default(),
            exitcode: None,
            sysexits: false,
        }
    }
}

impl Common {
    /// Takes an argument that is not one of the program's own.
    pub(super) fn take(&mut self, argument: Arg, parser: &mut Parser) -> Result<Taken, Fault> {
        match argument {
            Short('w') | Long("wait") => self.wait = Some(value::WAIT.take("--wait", parser)?),
            Short('x') | Long("exitcode") => {
                self.exitcode =
                    Some(value::EXIT_CODE.take_int("--exitcode", parser, &mut self.warnings)?);
            }
            Short('k') | Long("kill-after") => {
                self.kill_after = value::SECONDS.take("--kill-after", parser)?;
            }
            Long("pdeathsig") => {
                self.pdeathsig =
                    value::SIGNAL.take_int("--pdeathsig", parser, &mut self.warnings)?;
            }
            Long("proxy") => self.proxy = Some(value::proxy("--proxy", &parser.value()?)?),
            Long("tls-ca") => self.tls.ca = Some(parser.value()?.into()),
            Long("tls-cert") => self.tls.cert = Some(parser.value()?.into()),
            Long("tls-key") => self.tls.key = Some(parser.value()?.into()),
            Long("tls-name") => {
                self.tls.name = Some(value::certificate_name("--tls-name", parser.value()?)?);
            }
            Long("status") => self.set_mode(Mode::Status)?,
            Long("json") => self.json = true,
            Long("check") => self.set_mode(Mode::Check)?,
            Long("break") => self.set_mode(Mode::Break)?,
            Long("token") => self.token = Some(value::TOKEN.take("--token", parser)?),
            Long("notify") => self.notify = Some(value::notify(parser.optional_value())?),
            Long("metrics") => self.metrics = Some(value::file("--metrics", &parser.value()?)?),
            Long("sysexits") => self.sysexits = true,
            Short('v') | Long("verbose") => self.verbose = true,
            Short('V') | Long("version") => return Ok(Taken::Version),
            Short('h') | Long("help") => return Ok(Taken::Help),
            Value(word) => {
                self.words.push(word);
                return Ok(Taken::Word);
            }
            option => return Err(option.unexpected().into()),
        }
        Ok(Taken::Argument)
    }

    /// How connections to these servers are made: as the options say, or the config.
    pub(super) fn connection(
        &mut self,
        hosts: &[Host],
        config: Connection,
        environment: &Environment,
    ) -> Result<Connection, Fault> {
        let conflict = |option, with| Err(Fault::Conflict { option, with });
        let (option, connection) = match (self.proxy.take(), self.tls_option(), config) {
            (Some(_), Some(option), _) => return conflict("--proxy", option),
            (Some(_), None, Connection::Tls(_)) => return conflict("--proxy", "\"tls\""),
            (Some(proxy), None, _) => ("--proxy", Connection::Proxy(proxy)),
            (None, Some(option), Connection::Proxy(_)) => return conflict(option, "\"proxy\""),
            (None, option, Connection::Tls(config)) => {
                (option.unwrap_or("\"tls\""), self.tls(config, environment)?)
            }
            (None, Some(option), Connection::Direct) => {
                (option, self.tls(Tls::default(), environment)?)
            }
            (None, None, config) => ("\"proxy\"", config),
        };
        let is_socket = |host: &Host| matches!(host, Host::Unix(_));
        if connection != Connection::Direct && hosts.iter().any(is_socket) {
            return Err(Fault::Conflict {
                option,
                with: "unix:/PATH",
            });
        }
        Ok(connection)
    }

    /// The first option of TLS that was given.
    pub(super) fn tls_option(&self) -> Option<&'static str> {
        let Tls {
            ca,
            cert,
            key,
            name,
            ..
        } = &self.tls;
        let given = [
            ("--tls-ca", ca.is_some()),
            ("--tls-cert", cert.is_some()),
            ("--tls-key", key.is_some()),
            ("--tls-name", name.is_some()),
        ];
        given
            .into_iter()
            .find_map(|(option, given)| given.then_some(option))
    }

    /// TLS as the options say, or the config. A daemon leaves the folder where relative paths begin.
    fn tls(&mut self, config: Tls, environment: &Environment) -> Result<Connection, Fault> {
        let options = std::mem::take(&mut self.tls);
        let absolute = |file: PathBuf| environment.current_dir.join(file);
        // The key of the config is that of its certificate.
        let key = if options.cert.is_some() {
            None
        } else {
            config.key
        };
        let tls = Tls {
            ca: options.ca.or(config.ca).map(absolute),
            cert: options.cert.or(config.cert).map(absolute),
            key: options.key.or(key).map(absolute),
            name: options.name.or(config.name),
            tool: Tool::default(),
        };
        if tls.key.is_some() && tls.cert.is_none() {
            return Err(Fault::Needs {
                option: "--tls-key",
                needed: "--tls-cert",
            });
        }
        Ok(Connection::Tls(tls))
    }

    pub(super) fn set_mode(&mut self, mode: Mode) -> Result<(), Fault> {
        let earlier = std::mem::replace(&mut self.mode, mode);
        if earlier == Mode::Run || earlier == mode {
            Ok(())
        } else {
            Err(Fault::Conflict {
                option: mode.option(),
                with: earlier.option(),
            })
        }
    }

    /// Words that are names, and not a command.
    pub(super) fn names(&self) -> Result<Vec<String>, Fault> {
        let texts = self.words.iter().cloned().map(OsString::into_string);
        texts
            .map(|text| {
                text.map_err(|text| Fault::Name {
                    what: "lock name",
                    name: text.to_string_lossy().into_owned(),
                    flaw: names::InvalidName::NotText,
                })
            })
            .collect()
    }

    /// The plan of a look at locks. `count`: how many names the operator has given.
    pub(super) fn inspection(
        self,
        program: &'static str,
        locks: inspection::Locks,
        count: usize,
    ) -> Inspection {
        Inspection {
            program,
            locks,
            single: count == 1,
            json: self.json,
            detailed: self.verbose || count > 0,
            exit_codes: self.exit_codes(0),
            warnings: self.warnings,
        }
    }

    /// The plan of a check. `config` was read.
    pub(super) fn client_check(
        self,
        program: &'static str,
        config: Option<PathBuf>,
        locks: inspection::Locks,
    ) -> Result<ClientCheck, Fault> {
        if let Some(word) = self.words.first() {
            return Err(Fault::Unexpected(word.to_string_lossy().into_owned()));
        }
        let place = config.as_ref().map(|path| format!("{}:", path.display()));
        let flaw = |warning: &Warning| match warning {
            Warning::Logged(text) | Warning::Shown(text) => Some(without(place.as_deref(), text)),
            Warning::Hint(_) => None,
        };
        Ok(ClientCheck {
            program,
            config,
            flaws: self.warnings.iter().filter_map(flaw).collect(),
            locks,
            json: self.json,
            exit_codes: self.exit_codes(0),
        })
    }

    /// The plan of `--break`, for the locks of this name.
    pub(super) fn eviction(
        self,
        program: &'static str,
        locks: inspection::Locks,
        name: String,
        environment: &Environment,
    ) -> Eviction {
        Eviction {
            program,
            locks,
            name,
            user: environment.user.clone(),
            token: self.token,
            force: self.force,
            wait: self.wait.unwrap_or(BREAK_WAIT),
            exit_codes: self.exit_codes(0),
            warnings: self.warnings,
        }
    }

    /// Refuses options that the mode has no use for.
    pub(super) fn check_mode(&self) -> Result<(), Fault> {
        let breaks = self.mode == Mode::Break;
        let prints_json = matches!(self.mode, Mode::Status | Mode::Check);
        let useless = [
            (
                "--retry-failed",
                "--every",
                self.retry_failed && self.every.is_none(),
            ),
            ("--token", "--break", self.token.is_some() && !breaks),
            ("--force", "--break", self.force && !breaks),
            ("--json", "--status or --check", self.json && !prints_json),
        ];
        let of_runs = [
            ("--every", self.every.is_some()),
            ("--shared", self.shared),
            ("--notify", self.notify.is_some()),
            ("--metrics", self.metrics.is_some()),
        ];
        if let Some((option, _)) = of_runs
            .into_iter()
            .find(|(_, given)| *given && self.mode != Mode::Run)
        {
            return Err(Fault::Conflict {
                option,
                with: self.mode.option(),
            });
        }
        if self.every.is_some() && self.shared {
            return Err(Fault::Useless {
                option: "--every",
                with: "--shared",
                why: CONCURRENT_RUNS,
            });
        }
        match useless.into_iter().find(|(.., useless)| *useless) {
            Some((option, needed, _)) => Err(Fault::Needs { option, needed }),
            None => Ok(()),
        }
    }

    /// Whether others may hold the lock at the same time.
    pub(super) fn sharing(&self) -> Sharing {
        if self.shared {
            Sharing::Shared
        } else {
            Sharing::Exclusive
        }
    }

    fn exit_codes(&self, busy: u8) -> ExitCodes {
        ExitCodes {
            busy: self.exitcode,
            busy_default: busy,
            sysexits: self.sysexits,
        }
    }

    /// The plan that these options make, with defaults for what a program decides itself. `busy` is
    /// the exit code when the lock is busy.
    pub(super) fn plan(
        mut self,
        program: &'static str,
        lock: Lock,
        command: Command,
        busy: u8,
        environment: &Environment,
    ) -> Plan {
        let notify = self.take_notify(environment);
        Plan {
            program,
            lock,
            announce: false,
            wait: self.wait.unwrap_or(Duration::MAX),
            outer_locks: environment.outer_locks.clone(),
            command,
            every: self.every.map(|period| Every {
                period,
                retry_failed: self.retry_failed,
            }),
            minimum_hold: Duration::ZERO,
            kill_after: self.kill_after,
            death_signal: self.pdeathsig,
            exit_codes: self.exit_codes(busy),
            load_limit: LoadLimit::default(),
            log: Log {
                style: Style::Plain,
                path: None,
                level: Level::Info,
                session_level: Level::Info,
                warnings: self.warnings,
            },
            daemonize: false,
            verbose: self.verbose,
            notify,
            metrics: self.metrics.map(|file| environment.current_dir.join(file)),
        }
    }

    /// The plan of `--notify`, with the variables of the service manager.
    fn take_notify(&mut self, environment: &Environment) -> Option<Notify> {
        let mut notify = self.notify.take()?;
        match environment.manager() {
            Ok(manager) => notify.manager = manager,
            Err(socket) => self.warnings.push(Warning::Shown(format!(
                "--notify has no effect: NOTIFY_SOCKET is \"{}\", and not an absolute path or @NAME",
                socket.display()
            ))),
        }
        Some(notify)
    }
}

/// The text of a warning about a config, without its path, which stands before it already.
fn without(place: Option<&str>, text: &str) -> String {
    let line = place.and_then(|place| text.strip_prefix(place));
    line.map_or_else(|| text.to_owned(), |line| format!("line {line}"))
}

/// The next option or word. A long option is returned by its full name, which is one of those in
/// `help`. Prefixes that were unambiguous in the `original` program keep their meaning.
pub(super) fn next_argument(
    parser: &mut Parser,
    help: &'static str,
    original: &[&str],
) -> Result<Option<Arg<'static>>, Fault> {
    Ok(match parser.next()? {
        Some(Long(typed)) => {
            let is_original = original.iter().any(|name| name.starts_with(typed));
            let names = long_options(help).filter(|name| original.contains(name) == is_original);
            let unknown = || Fault::Unknown {
                typed: typed.to_owned(),
                meant: edit_distance::closest(typed, &long_options(help).collect::<Vec<_>>()),
            };
            Some(Long(complete(typed, names)?.ok_or_else(unknown)?))
        }
        Some(Short(letter)) => Some(Short(letter)),
        Some(Value(word)) => Some(Value(word)),
        None => None,
    })
}

/// The names of the long options in a help text, except `--program`, which `main` takes.
fn long_options(help: &'static str) -> impl Iterator<Item = &'static str> {
    help.lines()
        .filter(|line| line.trim_start().starts_with('-'))
        .filter_map(|line| {
            line.split([' ', '=', '['])
                .find_map(|word| word.strip_prefix("--"))
        })
        .filter(|name| *name != "program")
}

/// The name in `names` that equals `typed`, or the only one that starts with it.
fn complete(
    typed: &str,
    names: impl Iterator<Item = &'static str>,
) -> Result<Option<&'static str>, Fault> {
    let candidates: Vec<_> = names.filter(|name| name.starts_with(typed)).collect();
    match candidates[..] {
        [] => Ok(None),
        [only] => Ok(Some(only)),
        _ => match candidates.iter().copied().find(|name| *name == typed) {
            Some(exact) => Ok(Some(exact)),
            None => Err(Fault::Ambiguous {
                typed: typed.to_owned(),
                candidates,
            }),
        },
    }
}

/// The words after `--`, if that is the next argument.
pub(super) fn words_after_dashes(parser: &mut Parser) -> Option<Vec<OsString>> {
    let mut raw = parser.try_raw_args()?;
    raw.next_if(|word| word == OsStr::new("--"))?;
    Some(raw.collect())
}

#[cfg(test)]
pub(super) mod testing {
    //! Helpers for the tests of every program's options.

    use super::*;

    /// The most lines of a help text: a terminal window of ordinary height.
    const MAX_LINES: usize = 48;

    pub(in crate::cli) fn environment() -> Environment {
        Environment {
            current_dir: "/here".into(),
            ..Environment::default()
        }
    }

    /// A command line, with `|` between the arguments.
    pub(in crate::cli) fn line(words: &str) -> Vec<OsString> {
        if words.is_empty() {
            Vec::new()
        } else {
            words.split('|').map(OsString::from).collect()
        }
    }

    /// The options of a command line.
    pub(in crate::cli) fn typed<O: Options>(words: &[OsString]) -> Result<O, Fault> {
        let mut parser = Parser::from_args(words);
        let mut options = O::default();
        while !matches!(options.take(&mut parser)?, Taken::All) {}
        Ok(options)
    }

    /// Checks that a help text fits on one screen, and that the parser takes each long option in it.
    pub(in crate::cli) fn assert_documented<O: Options>(help: &'static str) {
        for name in super::long_options(help) {
            let fault = typed::<O>(&[format!("--{name}=x").into()])
                .err()
                .map(|fault| fault.to_string())
                .unwrap_or_default();
            assert!(!fault.starts_with("invalid option"), "{fault}");
        }
        assert!(
            help.lines().count() <= MAX_LINES
                && help.lines().all(|line| line.chars().count() <= 80),
            "one screen"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::long_options;

    #[test]
    fn long_options_are_read_from_the_option_column_of_the_help() {
        let help = "\
Usage: a [--options] B
  -c, --confpath FILE     a file, see --local
  -n N                    no long name
      --local[=DIR]       a folder
      --program=NAME      not an option of the parser
";
        assert_eq!(
            long_options(help).collect::<Vec<_>>(),
            ["confpath", "local"]
        );
    }
}
