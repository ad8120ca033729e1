//! Checks before the main loop: the load average, the command, and names of servers. Any signal
//! simply ends the program here: no lock is held yet.

mod lookup;
mod resolver;
pub mod tls;

pub use lookup::Lookup;
pub use resolver::{BackgroundLookup, HostAddresses, HostnameLookup, resolve_with_retries};

use crate::log::{Log, Topic};
use crate::plan::{Command, ExitReason, Level, LoadLimit};
use crate::shell;
use crate::sys::clock::now;
use crate::sys::poll::{self, Watched};
use crate::sys::timer::Timer;
use crate::sys::{clock, file};
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;
use std::{env, fs};

/// Where exec looks for commands if PATH is not set.
const DEFAULT_PATH: &str = "/usr/local/bin:/bin:/usr/bin";

/// Checks the load average, and sleeps first if the plan says so.
pub fn check_load(limit: &LoadLimit, log: &mut Log) -> Result<(), ExitReason> {
    if limit.max_load.is_none() && !limit.sleep {
        return Ok(());
    }
    let Some(load) = clock::load_average() else {
        log.write(
            Topic::Run,
            Level::Warning,
            &"the load average is not known: /proc/loadavg cannot be read",
        );
        return Ok(());
    };
    if let Some(limit) = limit.max_load.filter(|&limit| load >= limit) {
        log.write(
            Topic::Run,
            Level::Info,
            &format_args!("la is more then limit. Max la {limit:.6}, current la {load:.6}"),
        );
        log.hint(&format_args!(
            "command not run: the load average is {load:.2}, the limit is {limit} (--maxla)"
        ));
        return Err(ExitReason::LoadTooHigh);
    }
    if limit.sleep {
        let sleeping =
            format!("sleeping {load:.2} s, as many seconds as the load average (--sleep)");
        log.write(Topic::Run, Level::Info, &sleeping);
        log.hint(&sleeping);
        sleep(Duration::try_from_secs_f64(load).unwrap_or_default());
    }
    Ok(())
}

/// Sleeps for this time, unless a signal ends the program.
fn sleep(time: Duration) {
    let until = now() + time;
    let Ok(mut timer) = Timer::new() else { return };
    loop {
        let now = now();
        if now >= until {
            return;
        }
        timer.set(Some(until));
        let mut watched: Vec<Watched> = timer
            .fd()
            .map(|fd| Watched::new(fd, false))
            .into_iter()
            .collect();
        let _ = poll::wait(&mut watched, timer.poll_limit(now));
    }
}

/// Finds the command as exec will find it, so that no lock is taken for a command that does not
/// exist. `directory` is where the command will start.
pub fn find_command(command: &Command, directory: &Path) -> Result<(), (ExitReason, String)> {
    let program = Path::new(&command.words[0]);
    let named = program.as_os_str().as_bytes().contains(&b'/');
    let path = if named {
        OsString::new()
    } else {
        env::var_os("PATH").unwrap_or_else(|| DEFAULT_PATH.into())
    };
    let mut found = None;
    for place in env::split_paths(&path).map(|folder| directory.join(folder).join(program)) {
        match fs::metadata(&place) {
            Ok(metadata) if metadata.is_file() && file::executable(&place) => return Ok(()),
            Ok(metadata) if named || metadata.is_file() => {
                found.get_or_insert((place, metadata.is_dir()));
            }
            _ => {}
        }
    }
    let Some((place, is_folder)) = found else {
        let nowhere = if named {
            "no such file"
        } else {
            "not found on PATH"
        };
        let hint = if shell::is_shell_syntax(&command.words[0]) {
            with_shell(command)
        } else {
            String::new()
        };
        return Err((
            ExitReason::NotFound,
            format!("cannot run {}: {nowhere}{hint}", program.display()),
        ));
    };
    let why = if is_folder {
        "it is a directory"
    } else {
        "permission denied (is it executable?)"
    };
    Err((
        ExitReason::NotRunnable,
        format!("cannot run {}: {why}", place.display()),
    ))
}

/// The command line that runs the command with a shell.
fn with_shell(command: &Command) -> String {
    format!(
        " (the command runs without a shell; to use one: -- sh -c {})",
        shell::quote(command.shown.as_ref())
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shell_builtin_is_refused_with_the_line_that_runs_it() {
        for (line, sentence) in [
            (
                "no-such-command a",
                "cannot run no-such-command: not found on PATH",
            ),
            (
                "shopt -s it",
                "cannot run shopt: not found on PATH (the command runs without a shell; to use one: -- sh -c 'shopt -s it')",
            ),
        ] {
            let words = line.split(' ').map(Into::into).collect();
            let (end, found) = find_command(
                &Command {
                    words,
                    shown: line.to_owned(),
                },
                Path::new(""),
            )
            .unwrap_err();
            assert_eq!((end, found.as_str()), (ExitReason::NotFound, sentence));
        }
    }
}
