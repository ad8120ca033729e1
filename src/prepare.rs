//! Once, before the loop: may the run begin at all (load, command), and what do name servers say. Whatever waits here is ended by any signal in
//! the plain way: there is nothing to let go of yet.

mod names;

pub use names::{OwnName, Servers, resolve};

use crate::log::{Log, Topic};
use crate::moment::Moment;
use crate::plan::{Command, End, Gate, Level};
use crate::sys::poll::{self, Watched};
use crate::sys::timer::Timer;
use crate::sys::{clock, file};
use std::env;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

/// Where exec looks when there is no PATH.
const DEFAULT_PATH: &str = "/usr/local/bin:/bin:/usr/bin";

/// Whether the load allows the run; sleeps first if the plan says so.
pub fn pass(gate: &Gate, log: &mut Log) -> Result<(), End> {
    if gate.max_load.is_none() && !gate.sleep {
        return Ok(());
    }
    let Some(load) = clock::load_average() else {
        log.say(Topic::Run, Level::Warning, &"the load average is not known: /proc/loadavg cannot be read");
        return Ok(());
    };
    if let Some(limit) = gate.max_load.filter(|&limit| load >= limit) {
        log.say(Topic::Run, Level::Info, &format_args!("la is more then limit. Max la {limit:.6}, current la {load:.6}"));
        return Err(End::Loaded);
    }
    if gate.sleep {
        sleep(Duration::try_from_secs_f64(load).unwrap_or_default());
    }
    Ok(())
}

/// Does nothing for so long. A signal ends it, and us.
fn sleep(time: Duration) {
    let until = Moment(clock::since_boot()) + time;
    let Ok(mut timer) = Timer::new() else { return };
    loop {
        let now = clock::since_boot();
        if now >= until.0 {
            return;
        }
        timer.set(Some(until.0));
        let mut watched: Vec<Watched> = timer.fd().map(|fd| Watched::new(fd, false)).into_iter().collect();
        let _ = poll::wait(&mut watched, timer.poll_limit(now));
    }
}

/// Finds the command as exec will, before any lock is taken for nothing. `directory` is where it will start.
pub fn look_up(command: &Command, directory: &Path) -> Result<(), (End, String)> {
    let program = &command.words[0];
    let (places, nowhere) = if program.as_bytes().contains(&b'/') {
        (vec![directory.join(program)], "no such file")
    } else {
        let path = env::var_os("PATH").unwrap_or_else(|| DEFAULT_PATH.into());
        let folders = env::split_paths(&path).map(|folder| directory.join(folder));
        (folders.map(|folder| folder.join(program)).filter(|path| path.is_file()).collect(), "not found on PATH")
    };
    let Some(found) = places.iter().find(|path| path.exists()) else {
        return Err((End::NotFound, format!("cannot run {}: {nowhere}", program.display())));
    };
    if places.iter().any(|path| path.is_file() && file::executable(path)) {
        return Ok(());
    }
    let why = if found.is_dir() { "it is a directory" } else { "permission denied (is it executable?)" };
    Err((End::NotRunnable, format!("cannot run {}: {why}", found.display())))
}
