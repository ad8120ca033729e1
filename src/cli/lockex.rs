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
mod tests {
    use super::super::Request;
    use super::super::options::testing::{assert_documented, environment, line};
    use super::*;
    use crate::plan::{ExitCodes, Host, Level, LoadLimit};
    use crate::signal::Signal;
    use std::os::unix::ffi::OsStringExt;

    fn plan_in(words: Vec<OsString>, environment: &Environment) -> Result<Plan, String> {
        match (PROGRAM.request)(words, environment) {
            Ok(Request::Run(plan)) => Ok(plan),
            Ok(other) => panic!("{other:?}"),
            Err(error) => Err(error.to_string()),
        }
    }

    fn plan(words: &str) -> Result<Plan, String> {
        plan_in(line(words), &environment())
    }

    /// The lock's node, permits, rounds and restarts.
    fn queue(plan: &Plan) -> (&str, u32, Option<u32>, Option<u32>) {
        let Lock::Queue {
            path,
            permits,
            rounds,
            restarts,
            ..
        } = &plan.lock
        else {
            panic!("{:?}", plan.lock)
        };
        (path, *permits, *rounds, *restarts)
    }

    fn cluster(plan: &Plan) -> &Cluster {
        let Lock::Queue { cluster, .. } = &plan.lock else {
            panic!("{:?}", plan.lock)
        };
        cluster
    }

    #[test]
    fn defaults_are_those_of_the_original() {
        let plan = plan("/usr/local/bin/redis-server|/etc/redis.conf").unwrap();
        assert_eq!(
            queue(&plan),
            ("/lockex/5118636598003648905", 1, Some(1), Some(1))
        );
        let local = Host {
            name: "localhost".into(),
            port: 2181,
        };
        let timeout = Duration::from_secs(30);
        let expected = Cluster {
            hosts: vec![local],
            chroot: String::new(),
            timeout,
            auth: None,
            acl: Acl::Open,
            heartbeat: Heartbeat::Write,
        };
        assert_eq!(cluster(&plan), &expected);
        let shown = "/usr/local/bin/redis-server /etc/redis.conf";
        assert_eq!(
            plan.command,
            Command {
                words: vec!["/bin/sh".into(), "-c".into(), shown.into()],
                shown: shown.into()
            }
        );
        assert_eq!(
            (plan.wait, plan.minimum_hold, plan.kill_after),
            (Duration::MAX, Duration::ZERO, Duration::from_secs(5))
        );
        assert_eq!(plan.death_signal, Some(Signal::TERM));
        assert_eq!(
            plan.exit_codes,
            ExitCodes {
                busy: None,
                busy_default: 1,
                sysexits: false
            }
        );
        assert_eq!(
            plan.load_limit,
            LoadLimit {
                max_load: None,
                sleep: false
            }
        );
        let log = Log {
            style: Style::Glog,
            path: None,
            level: Level::Info,
            session_level: Level::Info,
            warnings: Vec::new(),
        };
        assert_eq!(plan.log, log);
        assert!(!plan.daemonize && !plan.verbose);
        assert_eq!(plan.program, "lockex");
    }

    #[test]
    #[expect(clippy::too_many_lines, reason = "one table of inputs")]
    fn each_option_has_its_effect_in_every_position_and_form() {
        type Effect = fn(&Plan) -> bool;
        let rows: &[(&[&str], Effect)] = &[
            (&["--blocking", "--no-blocking|--blocking"], |plan| {
                plan.wait == Duration::MAX && plan.exit_codes.busy_default == 1
            }),
            (
                &[
                    "--no-blocking",
                    "--no-b",
                    "--blocking|--no-blocking",
                    "-t5|--no-blocking",
                ],
                |plan| plan.wait.is_zero() && plan.exit_codes.busy_default == 0,
            ),
            (
                &["-c3", "-c|3", "--concurrent=3", "--concurrent|3", "-c2|-c3"],
                |plan| queue(plan).1 == 3,
            ),
            (&["-c0", "-c|-3", "--concurrent=-1"], |plan| {
                queue(plan).1 == 1
            }),
            (
                &["-iID", "-i|ID", "--lockid=ID", "--lockid|ID", "-ix|-iID"],
                |plan| queue(plan).0 == "/lockex/ID",
            ),
            (&["-pP", "-p|P", "--lockpath=P", "--lockpath|P"], |plan| {
                queue(plan).0 == "/P/2314047222236391260"
            }),
            (&["-r3", "-r|3", "--lockretry=3", "--lockretry|3"], |plan| {
                queue(plan).3 == Some(3)
            }),
            (&["-r0"], |plan| queue(plan).3 == Some(0)),
            (&["-r-1", "-r|-1", "--lockretry=-2"], |plan| {
                queue(plan).3.is_none()
            }),
            (&["-R3", "-R|3", "--retry=3", "--retry|3"], |plan| {
                queue(plan).2 == Some(3)
            }),
            (&["-R0", "-R1"], |plan| queue(plan).2 == Some(1)),
            (&["-R-1", "-R|-1", "--retry|-1"], |plan| {
                queue(plan).2.is_none()
            }),
            (
                &[
                    "-t1.5",
                    "-t|1.5",
                    "--locktimeout=1.5",
                    "-w1.5",
                    "-w|1.5",
                    "--wait=1.5",
                    "-t9|-w1.5",
                    "-w9|-t1.5",
                ],
                |plan| {
                    plan.wait == Duration::from_millis(1500) && plan.exit_codes.busy_default == 1
                },
            ),
            (&["-t0", "-t|-1", "--wait=-1"], |plan| {
                plan.wait.is_zero() && plan.exit_codes.busy_default == 1
            }),
            (&["-tinf", "-w|inf"], |plan| plan.wait == Duration::MAX),
            (&["-T5", "-T|5", "--timeout=5", "--timeout|5"], |plan| {
                cluster(plan).timeout == Duration::from_secs(5)
            }),
            (
                &["-zh:1/c", "-z|h:1/c", "--zkhosts=h:1/c", "--zkhosts|h:1/c"],
                |plan| {
                    cluster(plan).hosts
                        == [Host {
                            name: "h".into(),
                            port: 1,
                        }]
                        && cluster(plan).chroot == "/c"
                },
            ),
            (&["-x17", "-x|17", "--exitcode=17"], |plan| {
                plan.exit_codes.busy == Some(17)
            }),
            (&["-k1", "--kill-after=1"], |plan| {
                plan.kill_after == Duration::from_secs(1)
            }),
            (&["--pdeathsig=9", "--pdeathsig|KILL"], |plan| {
                plan.death_signal == Some(Signal::KILL)
            }),
            (&["--pdeathsig=0"], |plan| plan.death_signal.is_none()),
            (&["--no-shell"], |plan| plan.command.words == ["true"]),
            (&["--sysexits"], |plan| plan.exit_codes.sysexits),
            (&["-v", "--verbose"], |plan| plan.verbose),
        ];
        for (ways, effect) in rows {
            for way in *ways {
                for line in [
                    format!("{way}|true"),
                    format!("true|{way}"),
                    format!("{way}|--|true"),
                ] {
                    let plan = plan(&line).unwrap_or_else(|sentence| panic!("{line}: {sentence}"));
                    assert!(effect(&plan), "{line}");
                    assert_eq!(plan.command.shown, "true", "{line}");
                }
            }
        }
    }

    #[test]
    fn every_long_option_is_in_the_help_and_is_taken() {
        assert_documented::<Options>(HELP);
    }

    #[test]
    fn invalid_options_are_refused_with_the_reason() {
        for (words, sentence) in [
            ("--bogus", "invalid option '--bogus'"),
            ("ls|-l", "invalid option '-l'"),
            ("-i", "missing argument for option '-i'"),
            (
                "--blocking=1",
                "unexpected argument for option '--blocking': \"1\"",
            ),
            (
                "--lock=x",
                "--lock could be --lockid or --lockpath or --lockretry or --locktimeout",
            ),
            (
                "-c2.5",
                "--concurrent: expected a whole number up to 4294967295, found \"2.5\"",
            ),
            (
                "-r|",
                "--lockretry: expected a whole number up to 4294967295, or -1 for no limit, found \"\"",
            ),
            (
                "-R1_0",
                "--retry: expected a whole number up to 4294967295, or -1 for no limit, found \"1_0\"",
            ),
            (
                "-tnan",
                "--locktimeout: expected seconds up to 1e9, a time like 1h30m, or inf, found \"nan\"",
            ),
            (
                "-w1e300",
                "--wait: expected seconds up to 1e9, a time like 1h30m, or inf, found \"1e300\"",
            ),
            (
                "-T0",
                "--timeout: expected seconds from 0.001 to 2147483, or a time like 30s, found \"0\"",
            ),
            (
                "-z|",
                "--zkhosts: the list of servers is empty: expected HOST:PORT,...",
            ),
            (
                "-zh:x",
                "--zkhosts: \"h:x\" is not HOST:PORT: the port \"x\" is not a number from 1 to 65535",
            ),
            (
                "-x-1",
                "--exitcode: expected an exit code, 0 to 255, found \"-1\"",
            ),
            ("-i|", "lock id \"\": it is empty"),
            ("-i|//", "lock id \"\": it is empty"),
            (
                "-i|a/../b",
                "lock id \"a/../b\": \".\" and \"..\" are not allowed as path components",
            ),
            (
                "-i|a\n",
                "lock id \"a\\n\": character U+000A is not allowed",
            ),
            (
                "-p|a/./b",
                "lock path \"a/./b/2314047222236391260\": \".\" and \"..\" are not allowed as path components",
            ),
            (
                "-p|🔒",
                "lock path \"🔒/2314047222236391260\": character U+1F512 is not allowed",
            ),
        ] {
            let error =
                (PROGRAM.request)(line(&format!("true|{words}")), &environment()).unwrap_err();
            let shown = error.to_string();
            let without_advice = shown.split("; to pass options").next().unwrap();
            assert_eq!(
                (without_advice, error.exit_code(), error.wants_usage()),
                (sentence, 2, false),
                "{words}"
            );
            let error =
                (PROGRAM.request)(line(&format!("--sysexits|true|{words}")), &environment())
                    .unwrap_err();
            assert_eq!(error.exit_code(), 64, "{words}");
        }
    }

    #[test]
    fn missing_command_exits_1_with_the_usage() {
        for words in ["", "--", "-t1", "-t1|--"] {
            let error = (PROGRAM.request)(line(words), &environment()).unwrap_err();
            assert_eq!(
                (
                    error.to_string().as_str(),
                    error.exit_code(),
                    error.wants_usage()
                ),
                ("the command is missing", 1, true),
                "{words}"
            );
        }
        assert_eq!(
            (PROGRAM.request)(line("--sysexits"), &environment())
                .unwrap_err()
                .exit_code(),
            64
        );
    }

    #[test]
    fn words_become_one_line_for_the_shell_and_the_id() {
        for (words, shown, id) in [
            ("true", "true", "2314047222236391260"),
            ("sleep|30", "sleep 30", "694498826982121690"),
            ("-t|1|--|sleep|30", "sleep 30", "694498826982121690"),
            ("sleep|-t|1|30", "sleep 30", "694498826982121690"),
            ("sleep 30", "sleep 30", "694498826982121690"),
            (" \u{3000}|sleep 30| \t", "sleep 30", "694498826982121690"),
            ("--|ls|-l", "ls -l", "8690638983126320497"),
            ("a|--|b|--|c", "a b -- c", "5719762410113068428"),
            ("-|true", "- true", "2439508136329029777"),
            ("замок", "замок", "1683034666803293414"),
            ("🔒", "🔒", "16419121147411"),
            ("--|", "", "0"),
        ] {
            let words = if words == "--|" {
                vec![OsString::new()]
            } else {
                line(words)
            };
            let plan = plan_in(words, &environment()).unwrap();
            assert_eq!(
                plan.command,
                Command {
                    words: vec!["/bin/sh".into(), "-c".into(), shown.into()],
                    shown: shown.into()
                }
            );
            assert_eq!(queue(&plan).0, format!("/lockex/{id}"), "{shown}");
        }
    }

    #[test]
    fn no_shell_runs_the_words_as_argv_under_the_same_id() {
        for (words, argv) in [
            ("--no-shell|sleep|30", "sleep|30"),
            ("--no-shell|--|sleep|30 ", "sleep|30 "),
        ] {
            let plan = plan(words).unwrap();
            assert_eq!(
                (plan.command.words.clone(), plan.command.shown.as_str()),
                (line(argv), "sleep 30"),
                "{words}"
            );
            assert_eq!(queue(&plan).0, "/lockex/694498826982121690", "{words}");
        }
    }

    #[test]
    fn command_may_be_any_bytes_but_names_must_be_utf8() {
        let bytes = || OsString::from_vec(b"\xff".to_vec());
        let plan = plan_in(vec![bytes()], &environment()).unwrap();
        assert_eq!(plan.command.words, ["/bin/sh".into(), "-c".into(), bytes()]);
        assert_eq!(queue(&plan).0, "/lockex/32640097918");
        for (option, sentence) in [
            ("-i", "--lockid: expected UTF-8, found \"\u{fffd}\""),
            ("-p", "--lockpath: expected UTF-8, found \"\u{fffd}\""),
            ("-z", "--zkhosts: expected UTF-8, found \"\u{fffd}\""),
        ] {
            assert_eq!(
                plan_in(vec![option.into(), bytes(), "true".into()], &environment()).map(drop),
                Err(sentence.to_owned())
            );
        }
    }

    #[test]
    fn superfluous_slashes_are_ignored() {
        for (words, path) in [
            ("-i|a/b", "/lockex/a/b"),
            ("-i|/a/", "/lockex/a"),
            ("-i|a b", "/lockex/a b"),
            ("-p|a/b|-i|c", "/a/b/c"),
            ("-p|/a//b/|-i|c", "/a/b/c"),
            ("-p||-i|c", "/c"),
            ("-p|/|-i|c", "/c"),
        ] {
            assert_eq!(
                queue(&plan(&format!("{words}|true")).unwrap()).0,
                path,
                "{words}"
            );
        }
    }

    #[test]
    fn option_overrides_the_servers_of_the_environment() {
        let found = |zkhosts: &str| Environment {
            zkhosts: Some(zkhosts.into()),
            ..environment()
        };
        for (words, environment, hosts) in [
            ("true", found("e1:1,e2/c"), "e1:1 e2:2181/c"),
            ("-zh1,h2:2|true", found("e"), "h1:2181 h2:2"),
            ("-zh|true", found(""), "h:2181"),
        ] {
            let plan = plan_in(line(words), &environment).unwrap();
            let Cluster {
                hosts: shown,
                chroot,
                ..
            } = cluster(&plan);
            assert_eq!(
                shown
                    .iter()
                    .map(Host::to_string)
                    .collect::<Vec<_>>()
                    .join(" ")
                    + chroot,
                hosts,
                "{words}"
            );
        }
        assert_eq!(
            plan_in(line("true"), &found("")).map(drop),
            Err("ZKHOSTS: the list of servers is empty: expected HOST:PORT,...".into())
        );
    }

    #[test]
    fn help_and_version_work_despite_other_faults() {
        for words in ["--help", "-h", "true|-h", "--bogus|--help", "-c|x|-vh"] {
            assert!(
                matches!(
                    (PROGRAM.request)(line(words), &environment()),
                    Ok(Request::Help)
                ),
                "{words}"
            );
        }
        for words in ["--version", "-V", "--lock|-V"] {
            assert!(
                matches!(
                    (PROGRAM.request)(line(words), &environment()),
                    Ok(Request::Version)
                ),
                "{words}"
            );
        }
        assert_eq!(
            plan("--|ls|-h").unwrap().command.shown,
            "ls -h",
            "after -- it is the command's"
        );
    }
}
