//! The main function: it picks the program by the name under which the process was started, and
//! runs its request.

use crate::cli::{self, Environment, Program, Request};
use crate::moment::Moment;
use crate::plan::{Exit, OuterLock, Server, outer};
use crate::sys::{clock, file, poll, signals};
use crate::{log, run, serve};
use std::env;
use std::ffi::{OsStr, OsString};
use std::fmt::Display;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::ExitCode;

/// The programs in this executable; the first one answers to all other names.
static PROGRAMS: [Program; 4] = [
    cli::zk_flock::PROGRAM,
    cli::lockex::PROGRAM,
    cli::distributex::PROGRAM,
    cli::distributexd::PROGRAM,
];

/// The exit code of an invalid `--program`, the same as for any invalid option.
const USAGE: u8 = 2;

/// Runs the program whose name the process was started under.
pub fn main() -> ExitCode {
    let started = Moment(clock::since_boot());
    let mut words = env::args_os();
    let called = words.next().unwrap_or_default();
    let mut words: Vec<_> = words.collect();
    match pick(&called, &mut words) {
        Ok(program) => start(program, &words, started),
        Err(name) => {
            let known: Vec<_> = PROGRAMS.iter().map(|program| program.name).collect();
            log::print(
                known[0],
                &format_args!("--program: expected {}, found {name:?}", known.join(" or ")),
            );
            USAGE.into()
        }
    }
}

/// The program of a first argument `--program=NAME`, which is removed, or otherwise the one that
/// has the name that was `called`. `Err` has an unknown name.
fn pick(called: &OsStr, words: &mut Vec<OsString>) -> Result<&'static Program, String> {
    let named = |name: &OsStr| PROGRAMS.iter().find(|program| name == program.name);
    let Some(name) = words
        .first()
        .and_then(|word| word.as_bytes().strip_prefix(b"--program="))
        .map(OsStr::from_bytes)
    else {
        return Ok(Path::new(called)
            .file_name()
            .and_then(named)
            .unwrap_or(&PROGRAMS[0]));
    };
    let program = named(name).ok_or_else(|| name.to_string_lossy().into_owned())?;
    words.remove(0);
    Ok(program)
}

fn start(program: &Program, words: &[OsString], started: Moment) -> ExitCode {
    let ask = || (program.request)(words.to_vec(), &environment());
    match ask() {
        Ok(Request::Run(plan)) => leave(run::run(&plan, started)),
        Ok(Request::Break(eviction)) => leave(run::evict(&eviction, started)),
        Ok(Request::Status(inspection)) => leave(run::show_status(&inspection)),
        Ok(Request::Serve(server)) => leave(serve::serve(&server, &mut || match ask() {
            Ok(Request::Serve(server)) => Ok(server),
            Ok(_) => {
                Err("internal error: the arguments have another meaning than at the start".into())
            } // they do not change
            Err(error) => Err(error.to_string()),
        })),
        Ok(Request::Check(server)) => check(&server),
        Ok(Request::CheckClient(plan)) => leave(run::check_client(&plan)),
        Ok(Request::Help) => print(&program.help),
        Ok(Request::Version) => print(&format_args!(
            "{} {}{}\n",
            program.name,
            env!("CARGO_PKG_VERSION"),
            commit()
        )),
        Err(error) => {
            log::print(program.name, &error);
            if error.wants_usage() && poll::has_room(io::stderr()) {
                let _ = writeln!(io::stderr(), "{}", program.usage());
            }
            error.exit_code().into()
        }
    }
}

/// The commit that this executable was built from, set by packaging/build.
fn commit() -> String {
    option_env!("ZK_FLOCK_COMMIT")
        .map(|commit| format!(" ({commit})"))
        .unwrap_or_default()
}

fn leave(exit: Exit) -> ExitCode {
    match exit {
        Exit::Code(code) => code.into(),
        Exit::DieOf(signal) => signals::die_of(signal),
    }
}

/// Checks a server's config and whether its state can be saved, and prints the warnings.
fn check(server: &Server) -> ExitCode {
    for warning in &server.warnings {
        log::print(server.program, &format_args!("WARNING: {warning}"));
    }
    if let Err((end, why)) = serve::check(server) {
        log::print(server.program, &why);
        return leave(server.exit_codes.exit(end));
    }
    print(&format_args!(
        "{}: OK: {}, backend {}\n",
        server.config.display(),
        server.pool_count(),
        server.backend
    ))
}

fn environment() -> Environment {
    Environment {
        zkhosts: env::var_os("ZKHOSTS"),
        config: env::var_os("ZK_FLOCK_CONFIG"),
        hosts: env::var_os("ZK_FLOCK_HOSTS"),
        app_id: env::var_os("ZK_FLOCK_APP_ID"),
        timeout: env::var_os("ZK_FLOCK_TIMEOUT"),
        access_token_file: env::var_os("DISTRIBUTEX_ACCESS_TOKEN_FILE"),
        notify_socket: env::var_os("NOTIFY_SOCKET"),
        watchdog_usec: env::var_os("WATCHDOG_USEC"),
        watchdog_pid: env::var_os("WATCHDOG_PID"),
        user: user(),
        effective_user: Some(file::effective_uid),
        outer_locks: outer_locks(),
        current_dir: env::current_dir().unwrap_or_default(),
    }
}

/// The person at the terminal, also under sudo.
fn user() -> Option<String> {
    let names = ["SUDO_USER", "LOGNAME", "USER"];
    let set = names.iter().filter_map(|name| env::var(name).ok());
    set.into_iter().find(|name| !name.is_empty())
}

/// The locks that the outer runs hold, from the environment.
fn outer_locks() -> Vec<OuterLock> {
    let found = |name| env::var(name).ok();
    let [lock, token, session] = ["ZK_FLOCK_LOCK", "ZK_FLOCK_TOKEN", "ZK_FLOCK_SESSION"].map(found);
    let nearest = OuterLock::nearest(lock.as_deref(), token.as_deref(), session.as_deref());
    nearest
        .into_iter()
        .chain(
            found(outer::VARIABLE)
                .as_deref()
                .map(outer::parse)
                .unwrap_or_default(),
        )
        .collect()
}

fn print(text: &dyn Display) -> ExitCode {
    let mut stdout = io::stdout().lock();
    let printed = write!(stdout, "{text}").and_then(|()| stdout.flush());
    if printed.is_ok() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
