//! `distributex`: its help, its options and its plan. Options and defaults are those of the Python
//! original, with a few more; but the lock file of the host works as the original's manual says,
//! not as its code did.

use super::line::Form;
use super::options::{self, Common, Taken, next_argument};
use super::{Environment, Fault, Program, value};
use crate::plan::{Command, Host, Lock, Plan, PoolTarget};
use lexopt::prelude::*;
use std::ffi::OsString;
use std::net::Ipv6Addr;
use std::path::PathBuf;

/// The program.
pub const PROGRAM: Program = Program {
    name: "distributex",
    help: HELP,
    request: options::request::<Options>,
};

/// What `--help` prints.
const HELP: &str = "\
Usage: distributex [options] -H HOST -r POOL COMMAND
       distributex [options] -l -r POOL COMMAND

Runs a command while this host has a place in a pool of a lock server, which
gives out one place, or as many as it is told to. On a host one run at a time
asks; others end at once. COMMAND is one word, which is given to sh -c.

  -H HOST                 the lock server
  -r POOL                 the pool
  -p PORT                 port of the server (9889)
  -l                      one run at a time on this host, which is so anyway;
                          without -H that is all
      --no-local-lock     do not keep to one run at a time on this host
      --as HOST           name of this host to the server (its full name)
  -w, --wait SECS         wait so long for the lock (inf; 0: one try), also for
                          a server that is away, which else is given 10 s
  -x, --exitcode N        exit code if the lock is not to be had (1)
  -k, --kill-after SECS   time from TERM to KILL when distributex is stopped (5)
      --pdeathsig SIG     signal to the command if distributex dies (TERM; 0:
                          none)
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

/// The options, with the defaults of those that were not given.
#[derive(Debug)]
struct Options {
    server: Option<String>,
    pool: Option<String>,
    port: u16,
    local: bool,
    no_local_lock: bool,
    own_name: Option<String>,
    common: Common,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            server: None,
            pool: None,
            port: 9889,
            local: false,
            no_local_lock: false,
            own_name: None,
            common: Common::default(),
        }
    }
}

impl options::Options for Options {
    const FORM: Form = Form {
        program: PROGRAM.name,
        before: 0,
        one_word: true,
    };

    fn take(&mut self, parser: &mut lexopt::Parser) -> Result<Taken, Fault> {
        let Some(argument) = next_argument(parser, HELP, &[])? else {
            return Ok(Taken::All);
        };
        match argument {
            Short('H') => self.server = Some(server(parser.value()?)?),
            Short('r') => self.pool = Some(value::text("-r", parser.value()?)?),
            Short('p') => self.port = value::SERVER_PORT.take("-p", parser)?,
            Short('l') => self.local = true,
            Long("no-local-lock") => self.no_local_lock = true,
            Long("as") => self.own_name = Some(own_name(parser.value()?)?),
            argument => return self.common.take(argument, parser),
        }
        Ok(Taken::Argument)
    }

    fn common(&self) -> &Common {
        &self.common
    }

    fn plan(mut self, environment: &Environment) -> Result<Plan, Fault> {
        let words = std::mem::take(&mut self.common.words);
        if words.len() > 1 {
            return Err(Fault::Unquoted(words.len()));
        }
        let lock = self.lock()?;
        let command = command(words)?;
        Ok(self
            .common
            .plan(PROGRAM.name, lock, command, 1, environment))
    }
}

impl Options {
    fn lock(&mut self) -> Result<Lock, Fault> {
        let pool = self.pool.take().ok_or(Fault::Missing {
            option: "-r",
            what: "which pool?",
        })?;
        if pool.is_empty() {
            return Err(value::invalid("-r", "the name of a pool", pool.as_ref()));
        }
        if self.local && self.no_local_lock {
            return Err(Fault::Conflict {
                option: "--no-local-lock",
                with: "-l",
            });
        }
        let host_lock = if self.no_local_lock {
            None
        } else {
            Some(host_lock(&pool)?)
        };
        match (self.server.take(), host_lock) {
            (Some(name), host_lock) => {
                let server = Host {
                    name,
                    port: self.port,
                };
                Ok(Lock::Pool(PoolTarget {
                    server,
                    pool,
                    host: self.own_name.take(),
                    wait_for_server: self.common.wait.is_some(),
                    host_lock,
                }))
            }
            (None, Some(file)) if self.local => Ok(Lock::Host(file)),
            (None, _) => Err(Fault::Missing {
                option: "-H",
                what: "which server? (or is the lock of this host enough? then -l)",
            }),
        }
    }
}

/// The lock file of the original, one for each pool on a host.
fn host_lock(pool: &str) -> Result<PathBuf, Fault> {
    if pool.contains(['/', '\0']) {
        return Err(value::invalid(
            "-r",
            "a pool that /tmp/dx-POOL.lock can be named after (else --no-local-lock)",
            pool.as_ref(),
        ));
    }
    Ok(format!("/tmp/dx-{pool}.lock").into())
}

/// The shell has its full path, as in the original, so that a PATH without a shell does not matter.
fn command(words: Vec<OsString>) -> Result<Command, Fault> {
    let line = words.into_iter().next().ok_or(Fault::NoCommand)?;
    if line.is_empty() {
        return Err(Fault::EmptyCommand);
    }
    Ok(Command {
        shown: line.to_string_lossy().into_owned(),
        words: vec!["/bin/sh".into(), "-c".into(), line],
    })
}

/// Parses a name or an address, which may be in brackets as in a URL.
fn server(found: OsString) -> Result<String, Fault> {
    let text = value::text("-H", found)?;
    let name = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(&text);
    let address = name.split('%').next().unwrap_or(name);
    let fits = !name.is_empty()
        && !name.contains(|c: char| c.is_whitespace() || c.is_control() || "/[]\"".contains(c));
    if fits && (!name.contains(':') || address.parse::<Ipv6Addr>().is_ok()) {
        return Ok(name.to_owned());
    }
    Err(value::invalid(
        "-H",
        "a name or address, without a port (that is -p)",
        text.as_ref(),
    ))
}

/// Parses the name of this host for the server. The server keeps several names in one text,
/// separated by commas.
fn own_name(found: OsString) -> Result<String, Fault> {
    let text = value::text("--as", found)?;
    if text.is_empty() || text.contains(|c: char| c.is_control() || c == ',') {
        return Err(value::invalid("--as", "the name of a host", text.as_ref()));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::super::Request;
    use super::super::options::testing::{assert_documented, environment, line};
    use super::*;
    use crate::plan::{ExitCodes, Level, LoadLimit, Log, Style};
    use crate::signal::Signal;
    use std::os::unix::ffi::OsStringExt;
    use std::time::Duration;

    fn plan_of(words: Vec<OsString>) -> Result<Plan, String> {
        match (PROGRAM.request)(words, &environment()) {
            Ok(Request::Run(plan)) => Ok(plan),
            Ok(other) => panic!("{other:?}"),
            Err(error) => Err(error.to_string()),
        }
    }

    fn plan(words: &str) -> Result<Plan, String> {
        plan_of(line(words))
    }

    /// Server, pool, own name, whether to wait for the server, and the lock file of this host.
    fn pool(plan: &Plan) -> (String, &str, Option<&str>, bool, Option<&str>) {
        let Lock::Pool(PoolTarget {
            server,
            pool,
            host,
            wait_for_server,
            host_lock,
        }) = &plan.lock
        else {
            panic!("{:?}", plan.lock)
        };
        (
            server.to_string(),
            pool,
            host.as_deref(),
            *wait_for_server,
            host_lock.as_ref().map(|path| path.to_str().unwrap()),
        )
    }

    #[test]
    fn server_pool_and_command_are_enough() {
        let plan = plan("-H|dx|-r|pool1|/usr/bin/puppet agent --onetime").unwrap();
        assert_eq!(
            pool(&plan),
            (
                "dx:9889".into(),
                "pool1",
                None,
                false,
                Some("/tmp/dx-pool1.lock")
            )
        );
        let shown = "/usr/bin/puppet agent --onetime";
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
            style: Style::Plain,
            path: None,
            level: Level::Info,
            session_level: Level::Info,
            warnings: Vec::new(),
        };
        assert_eq!(plan.log, log);
        assert!(!plan.daemonize && !plan.verbose);
        assert_eq!(plan.program, "distributex");
    }

    #[test]
    fn each_option_has_its_effect_in_every_position_and_form() {
        type Effect = fn(&Plan) -> bool;
        let rows: &[(&[&str], Effect)] = &[
            (&["-Hother", "-H|other"], |plan| {
                pool(plan).0 == "other:9889"
            }),
            (&["-H10.0.0.1", "-p9889|-H10.0.0.1"], |plan| {
                pool(plan).0 == "10.0.0.1:9889"
            }),
            (&["-H::1", "-H[::1]"], |plan| pool(plan).0 == "[::1]:9889"),
            (&["-Hfe80::1%eth0"], |plan| {
                pool(plan).0 == "[fe80::1%eth0]:9889"
            }),
            (&["-rb", "-r|b"], |plan| {
                (pool(plan).1, pool(plan).4) == ("b", Some("/tmp/dx-b.lock"))
            }),
            (&["-r..", "-r|.."], |plan| {
                pool(plan).4 == Some("/tmp/dx-...lock")
            }),
            (&["-p80", "-p|80", "-p| 080"], |plan| {
                pool(plan).0 == "dx:80"
            }),
            (&["-l"], |plan| pool(plan).4 == Some("/tmp/dx-a.lock")),
            (
                &["--no-local-lock", "--no-l", "--no-local-lock|-ra/b|-ra"],
                |plan| pool(plan).4.is_none(),
            ),
            (&["--as=web1", "--as|web1", "--a|web1"], |plan| {
                pool(plan).2 == Some("web1")
            }),
            (&["-w1.5", "-w|1.5", "--wait=1.5"], |plan| {
                plan.wait == Duration::from_millis(1500) && pool(plan).3
            }),
            (&["-w0", "-w|-1"], |plan| {
                plan.wait.is_zero() && pool(plan).3
            }),
            (&["-winf"], |plan| {
                plan.wait == Duration::MAX && pool(plan).3
            }),
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
            (&["--sysexits"], |plan| plan.exit_codes.sysexits),
            (&["-v", "--verbose"], |plan| plan.verbose),
        ];
        for (ways, effect) in rows {
            for way in *ways {
                for line in [
                    format!("-Hdx|-ra|{way}|true"),
                    format!("true|-Hdx|-ra|{way}"),
                    format!("-Hdx|-ra|{way}|--|true"),
                ] {
                    let plan = plan(&line).unwrap_or_else(|sentence| panic!("{line}: {sentence}"));
                    assert!(effect(&plan), "{line}: {plan:?}");
                    assert_eq!(plan.command.shown, "true", "{line}");
                }
            }
        }
    }

    #[test]
    fn host_lock_is_enough_without_a_server() {
        for words in ["-l|-r|a|true", "-lra|true"] {
            let plan = plan(words).unwrap();
            assert!(
                matches!(&plan.lock, Lock::Host(file) if file.to_str() == Some("/tmp/dx-a.lock")),
                "{:?}",
                plan.lock
            );
        }
    }

    #[test]
    fn pool_name_with_slash_works_only_without_lock_file() {
        assert_eq!(
            pool(&plan("-Hdx|-ra/b|--no-local-lock|true").unwrap()).1,
            "a/b"
        );
    }

    #[test]
    fn every_long_option_is_in_the_help_and_is_taken() {
        assert_documented::<Options>(HELP);
    }

    #[test]
    fn invalid_options_are_refused_with_the_reason() {
        for (words, sentence) in [
            ("--bogus", "invalid option '--bogus'"),
            ("-H", "missing argument for option '-H'"),
            (
                "-H|",
                "-H: expected a name or address, without a port (that is -p), found \"\"",
            ),
            (
                "-Hdx:80",
                "-H: expected a name or address, without a port (that is -p), found \"dx:80\"",
            ),
            (
                "-Hhttp://dx/",
                "-H: expected a name or address, without a port (that is -p), found \"http://dx/\"",
            ),
            ("-p0", "-p: expected a port, 1 to 65535, found \"0\""),
            (
                "-p65536",
                "-p: expected a port, 1 to 65535, found \"65536\"",
            ),
            ("-phttp", "-p: expected a port, 1 to 65535, found \"http\""),
            ("-r|", "-r: expected the name of a pool, found \"\""),
            (
                "-r|a/b",
                "-r: expected a pool that /tmp/dx-POOL.lock can be named after (else --no-local-lock), found \"a/b\"",
            ),
            ("--as=", "--as: expected the name of a host, found \"\""),
            (
                "--as=a,b",
                "--as: expected the name of a host, found \"a,b\"",
            ),
            (
                "--as=a\n",
                "--as: expected the name of a host, found \"a\\n\"",
            ),
            (
                "-l|--no-local-lock",
                "--no-local-lock cannot be used with -l",
            ),
            (
                "-wnan",
                "--wait: expected seconds up to 1e9, a time like 1h30m, or inf, found \"nan\"",
            ),
            (
                "-x-1",
                "--exitcode: expected an exit code, 0 to 255, found \"-1\"",
            ),
            (
                "more",
                "expected one quoted COMMAND, found 2 words; use: distributex -Hdx -ra 'true more'",
            ),
        ] {
            let error = (PROGRAM.request)(line(&format!("-Hdx|-ra|true|{words}")), &environment())
                .unwrap_err();
            let shown = error.to_string();
            let without_advice = shown.split("; to pass options").next().unwrap();
            assert_eq!(
                (without_advice, error.exit_code(), error.wants_usage()),
                (sentence, 2, false),
                "{words}"
            );
            let error = (PROGRAM.request)(
                line(&format!("--sysexits|-Hdx|-ra|true|{words}")),
                &environment(),
            )
            .unwrap_err();
            assert_eq!(error.exit_code(), 64, "{words}");
        }
    }

    #[test]
    fn missing_options_and_commands_are_named() {
        const NO_SERVER: &str =
            "-H is missing: which server? (or is the lock of this host enough? then -l)";
        for (words, sentence, code, usage) in [
            ("-Hdx|true", "-r is missing: which pool?", 2, false),
            ("", "-r is missing: which pool?", 2, false),
            ("-ra|true", NO_SERVER, 2, false),
            ("-ra|--no-local-lock|true", NO_SERVER, 2, false),
            ("-Hdx|-ra", "the command is missing", 1, true),
            ("-Hdx|-ra|--", "the command is missing", 1, true),
            ("-Hdx|-ra||", "the command is empty", 1, true),
        ] {
            let words = if words.ends_with("||") {
                vec!["-Hdx".into(), "-ra".into(), "".into()]
            } else {
                line(words)
            };
            let error = (PROGRAM.request)(words.clone(), &environment()).unwrap_err();
            assert_eq!(
                (
                    error.to_string().as_str(),
                    error.exit_code(),
                    error.wants_usage()
                ),
                (sentence, code, usage),
                "{words:?}"
            );
        }
    }

    #[test]
    fn command_may_be_any_bytes_but_names_must_be_utf8() {
        let bytes = || OsString::from_vec(b"\xff".to_vec());
        let plan = plan_of(vec!["-Hdx".into(), "-ra".into(), bytes()]).unwrap();
        assert_eq!(plan.command.words, ["/bin/sh".into(), "-c".into(), bytes()]);
        for (option, sentence) in [
            ("-H", "-H: expected UTF-8, found \"\u{fffd}\""),
            ("-r", "-r: expected UTF-8, found \"\u{fffd}\""),
            ("--as", "--as: expected UTF-8, found \"\u{fffd}\""),
        ] {
            assert_eq!(
                plan_of(vec![option.into(), bytes(), "true".into()]).map(drop),
                Err(sentence.to_owned())
            );
        }
    }

    #[test]
    fn help_and_version_work_despite_other_faults() {
        for words in ["--help", "-h", "true|-h", "--bogus|--help", "-p|x|-vh"] {
            assert!(
                matches!(
                    (PROGRAM.request)(line(words), &environment()),
                    Ok(Request::Help)
                ),
                "{words}"
            );
        }
        for words in ["--version", "-V", "--bogus|-V"] {
            assert!(
                matches!(
                    (PROGRAM.request)(line(words), &environment()),
                    Ok(Request::Version)
                ),
                "{words}"
            );
        }
    }
}
