//! Picks a program by the name it was called by.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fmt::Display;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;
use zk_flock::cli::{self, Environment, Program, Request};
use zk_flock::moment::Moment;
use zk_flock::plan::Exit;
use zk_flock::sys::{clock, file, signals};
use zk_flock::{log, run};

/// Every name that this executable answers to; under any other it is the first one.
const PROGRAMS: &[Program] =
    &[Program { name: "zk-flock", help: cli::zk_flock::HELP, request: |words, environment| cli::zk_flock::request(words, environment) }];

/// Of a wrong `--program`, as of any wrong option.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    let started = Moment(clock::since_boot());
    let mut words = env::args_os();
    let called = words.next().unwrap_or_default();
    let mut words: Vec<_> = words.collect();
    match pick(&called, &mut words) {
        Some(program) => start(program, words, started),
        None => {
            let names: Vec<_> = PROGRAMS.iter().map(|program| program.name).collect();
            log::complain(PROGRAMS[0].name, &format_args!("--program: expected {}", names.join(" or ")));
            USAGE.into()
        }
    }
}

/// The program that a first word `--program=NAME` asks for, else the one that goes by the name that we were `called`.
fn pick(called: &OsStr, words: &mut Vec<OsString>) -> Option<&'static Program> {
    let named = |name: &OsStr| PROGRAMS.iter().find(|program| name == program.name);
    match words.first().and_then(|word| word.as_encoded_bytes().strip_prefix(b"--program=")) {
        Some(name) => {
            let program = PROGRAMS.iter().find(|program| name == program.name.as_bytes());
            words.remove(0);
            program
        }
        None => Path::new(called).file_name().and_then(named).or(PROGRAMS.first()),
    }
}

fn start(program: &Program, words: Vec<OsString>, started: Moment) -> ExitCode {
    match (program.request)(words, &environment()) {
        Ok(Request::Run(plan)) => match run::run(&plan, started) {
            Exit::Code(code) => code.into(),
            Exit::DieOf(signal) => signals::die_of(signal),
        },
        Ok(Request::Help(text)) => print(&text),
        Ok(Request::Version) => print(&format_args!("{} {}\n", program.name, env!("CARGO_PKG_VERSION"))),
        Err(error) => {
            log::complain(program.name, &error);
            if error.wants_usage() {
                let _ = writeln!(io::stderr(), "{}", program.usage());
            }
            error.exit_code().into()
        }
    }
}

fn environment() -> Environment {
    Environment {
        euid: file::effective_uid(),
        xdg_runtime_dir: env::var_os("XDG_RUNTIME_DIR").map(Into::into),
        current_dir: env::current_dir().unwrap_or_default(),
    }
}

fn print(text: &dyn Display) -> ExitCode {
    let mut stdout = io::stdout().lock();
    let printed = write!(stdout, "{text}").and_then(|()| stdout.flush());
    if printed.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
